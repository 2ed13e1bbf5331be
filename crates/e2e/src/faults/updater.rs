//! haproxy-updater is killed at any point of applying changes.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Length;
use super::loaded::{LoadedMayfly, Outcome};

/// Leases play no part here.
const TTL: &str = "10s";
/// An updater that was started anew is in step.
const ANEW: Duration = Duration::from_secs(1);
/// A backend that is gone keeps its slot until no request can point to its servers: three seconds
/// (`haproxy_updater::apply::leaving`), and the look for it.
const GIVEN_BACK: Duration = Duration::from_secs(5);
/// The changes of a round come in this time, and the kill is somewhere in it.
const STORM: Duration = Duration::from_millis(200);

/// Killed at random points while many changes arrive, and started again by its supervisor.
pub async fn killed(length: Length) -> Result<Outcome> {
    let mut loaded = LoadedMayfly::start(length, TTL).await?;
    let worker = loaded.mayfly.haproxy.worker().await?;
    let mut passing = Vec::new();
    for round in 0..length.pick(3, 20) {
        let (from, to) = if round % 2 == 0 {
            ("1.0.0", "2.0.0")
        } else {
            ("2.0.0", "1.0.0")
        };
        loaded.change(from, to);
        let mut updater = loaded.mayfly.updater.take().context("an updater")?;
        let kill = async {
            tokio::time::sleep(STORM * (RandomState::new().hash_one(round) % 1_000) as u32 / 1_000).await;
            updater.kill9().await
        };
        let (killed, came) = tokio::join!(kill, storm(&loaded, round, &passing));
        killed?;
        passing = came?;
        loaded.mayfly.start_updater()?;
        let since = Instant::now();
        loaded.converges(to, since, ANEW).await;
        let wanted = passing.len();
        let right = async |loaded: &LoadedMayfly| slots(loaded, wanted).await;
        loaded.sees("slots right", since, GIVEN_BACK, right).await;
    }
    ensure!(
        loaded.mayfly.haproxy.worker().await? == worker,
        "HAProxy was reloaded"
    );
    Ok(loaded.end().await)
}

/// Three instances of versions never seen come with an environment each, and those of the last round go: backends, slots,
/// servers and rows of all kinds change. Returns the keys of the instances.
async fn storm(loaded: &LoadedMayfly, round: usize, old: &[String]) -> Result<Vec<String>> {
    let etcd = &loaded.mayfly.etcd;
    let mut new = Vec::new();
    for number in 0..3 {
        let version = format!("9.{round}.{number}");
        let address = format!("127.0.0.1:{}", 10_000 + round * 3 + number);
        let key = format!("/mayfly/backends/web/{version}/{address}");
        // By hand, so that it takes no time: nobody has to answer there.
        etcd.put(&key, &format!(r#"{{"address": "{address}"}}"#)).await?;
        let environment =
            format!("{{name: passing-{number}, services: [{{name: web, version: {version}, route: /}}]}}");
        loaded
            .mayfly
            .save(&format!("passing-{number}.yaml"), &environment);
        new.push(key);
        if let Some(key) = old.get(number) {
            etcd.delete(key).await?;
        }
        tokio::time::sleep(STORM / 4).await;
    }
    Ok(new)
}

/// No slot is used twice, none is leaked, and each holds exactly the servers of its backend.
async fn slots(loaded: &LoadedMayfly, passing: usize) -> Result<()> {
    let rows = loaded
        .mayfly
        .haproxy
        .map(&loaded.mayfly.map_file("slots"))
        .await?;
    let servers = loaded.mayfly.haproxy.servers().await?;
    let slots: BTreeSet<&String> = rows.values().collect();
    ensure!(slots.len() == rows.len(), "a slot is used twice: {rows:?}");
    let mut per_slot: BTreeMap<&str, usize> = BTreeMap::new();
    for name in servers.keys() {
        let (slot, _) = name.split_once('/').context("a slot")?;
        *per_slot.entry(slot).or_default() += 1;
    }
    let leaked: Vec<_> = per_slot
        .keys()
        .filter(|slot| !rows.values().any(|used| used == **slot))
        .collect();
    ensure!(
        leaked.is_empty(),
        "servers in slots of nobody: {leaked:?} of {servers:?}"
    );
    let backends = loaded.mayfly.etcd.list("/mayfly/backends/").await?;
    ensure!(
        servers.len() == backends.len() && rows.len() == 3 + passing,
        "{} servers and {} slots for {} instances",
        servers.len(),
        rows.len(),
        backends.len()
    );
    Ok(())
}
