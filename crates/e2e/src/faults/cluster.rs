//! Of an etcd with three members one is killed, cut off or restarted. Every daemon knows all three.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tempfile::TempDir;

use super::Length;
use super::loaded::{LoadedMayfly, Outcome};
use crate::etcd::cluster::Cluster;
use crate::mayfly::{Mayfly, SOON};
use crate::{eventually, port};

/// Shorter than a member is away in full length: leases are kept by the others.
const TTL: &str = "5s";
/// Changes made without a leader are in effect so soon after there is one.
const IN_EFFECT: Duration = Duration::from_secs(5);
/// An election; etcd begins it after a second without word from the leader.
const ELECTED: Duration = Duration::from_secs(20);

/// A cluster, and a Mayfly on it.
struct Case {
    loaded: LoadedMayfly,
    cluster: Cluster,
    version: &'static str,
    _directory: TempDir,
}

impl Case {
    async fn start(length: Length) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a directory")?;
        let cluster = Cluster::start(directory.path()).await?;
        let admin = port::free();
        let mayfly = Mayfly::start_on(cluster.client()?, &["--admin", &admin.to_string()]).await?;
        let loaded = LoadedMayfly::on(mayfly, admin, length, TTL).await?;
        Ok(Self {
            loaded,
            cluster,
            version: "1.0.0",
            _directory: directory,
        })
    }

    async fn leader(&self, without: Option<usize>) -> usize {
        let what = format!("members agree on a leader, without {without:?}");
        eventually(ELECTED, &what, async || self.cluster.leader(without).await).await
    }

    /// With this member away, a change is in effect soon after the others have a leader.
    async fn change_without(&mut self, member: usize) {
        let (from, to) = match self.version {
            "1.0.0" => ("1.0.0", "2.0.0"),
            _ => ("2.0.0", "1.0.0"),
        };
        self.loaded.change(from, to);
        self.leader(Some(member)).await;
        self.loaded.converges(to, Instant::now(), IN_EFFECT).await;
        self.version = to;
        self.loaded.last(0, 7).await;
    }

    /// The member that haproxy-updater is connected to, or environment-registrar.
    async fn used(&self, by_registrar: bool) -> usize {
        let mayfly = &self.loaded.mayfly;
        let process = match by_registrar {
            true => &mayfly.registrar,
            false => &mayfly.updater,
        };
        eventually(SOON, "it is connected", async || {
            let process = process.as_ref().context("a daemon")?;
            self.cluster.used_by(process.id())
        })
        .await
    }
}

/// The leader is killed, and started again.
pub async fn killed(length: Length) -> Result<Outcome> {
    let mut case = Case::start(length).await?;
    for _ in 0..length.pick(1, 3) {
        let leader = case.leader(None).await;
        case.cluster.members[leader].kill9().await?;
        case.change_without(leader).await;
        case.cluster.restart(leader).await?;
    }
    Ok(case.loaded.end().await)
}

/// The member that a daemon is connected to is cut off: from everybody, and then from the other members only.
pub async fn partitioned(length: Length) -> Result<Outcome> {
    let mut case = Case::start(length).await?;
    for round in 0..length.pick(2, 4) {
        case.leader(None).await;
        // First for whom changes come from there, then also for whom they go there.
        let member = case.used(round % 2 == 1).await;
        let silent = round < length.pick(1, 2);
        match silent {
            true => case.cluster.host(member).cut()?,
            false => case.cluster.part(member, true)?,
        }
        case.change_without(member).await;
        match silent {
            true => case.cluster.host(member).join()?,
            false => case.cluster.part(member, false)?,
        }
    }
    Ok(case.loaded.end().await)
}

/// One member after the other is stopped and started again, as an update of etcd does.
pub async fn rolling(length: Length) -> Result<Outcome> {
    let mut case = Case::start(length).await?;
    for member in 0..3 {
        case.cluster.members[member].terminate().await?;
        case.change_without(member).await;
        case.cluster.restart(member).await?;
        case.leader(None).await;
    }
    Ok(case.loaded.end().await)
}
