//! The host of an instance is cut off: nothing that it sends arrives, and nothing that is sent to it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Length;
use super::loaded::{LoadedMayfly, Outcome};
use crate::etcd::Etcd;
use crate::mayfly::Mayfly;
use crate::network::Network;
use crate::port;

/// Longer than it takes HAProxy's check to find out, so that it is not the lease.
const TTL: &str = "10s";
/// Out of rotation.
const OUT: Duration = Duration::from_secs(7);
/// Back in rotation after the cut.
const BACK: Duration = Duration::from_secs(3);

/// Requests that are lost at most in a round: one on each connection that was open to the host, of which HAProxy has as many
/// as the load has to it.
const MOST: u64 = 4;

/// One of three instances is on it.
pub async fn partitioned(length: Length) -> Result<Outcome> {
    let directory = tempfile::tempdir().context("make a directory")?;
    let network = Network::new(directory.path())?;
    let mut etcd = Etcd::reserve_at(network.own().into())?;
    etcd.restart().await?;
    let admin = port::free();
    let mayfly = Mayfly::start_on(etcd, &["--admin", &admin.to_string()]).await?;
    let mut loaded = LoadedMayfly::on(mayfly, admin, length, TTL).await?;
    let host = network.host()?;
    let far = loaded
        .mayfly
        .instance_on(&host, "web", "1.0.0", &["--ttl", TTL])
        .await?;
    let address = far.service.address().to_string();
    let up = async |loaded: &LoadedMayfly, wanted: bool| {
        let up = loaded.mayfly.haproxy.is_up(&address).await?;
        ensure!(up == wanted, "HAProxy's check says {up}");
        Ok(())
    };
    loaded
        .sees("in rotation", Instant::now(), BACK, async |loaded| {
            up(loaded, true).await
        })
        .await;
    loaded.excuse = "on connections to the host that was cut off";
    let rounds = length.pick(1, 2);
    for _ in 0..rounds {
        loaded.last(1, 3).await;
        host.cut()?;
        let since = Instant::now();
        loaded.outage(true);
        loaded
            .sees("out by HAProxy's check", since, OUT, async |loaded| {
                up(loaded, false).await
            })
            .await;
        // The requests that were on their way there time out in the load.
        loaded.last(6, 6).await;
        loaded.outage(false);
        loaded.last(0, 10).await;
        host.join()?;
        let since = Instant::now();
        loaded
            .sees("back in rotation", since, BACK, async |loaded| {
                up(loaded, true).await
            })
            .await;
    }
    let outcome = loaded.end().await;
    ensure!(
        outcome.report.excused <= MOST * rounds,
        "{} requests were lost in {rounds} rounds",
        outcome.report.excused
    );
    Ok(outcome)
}
