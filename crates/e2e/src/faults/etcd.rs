//! A lone etcd is killed, frozen, compacted or emptied.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Length;
use super::loaded::{LoadedMayfly, Outcome};
use crate::eventually;
use crate::process::Signal;

/// Leases live for so long here, so that they run out while etcd is away.
const TTL: &str = "3s";
/// After an outage, the end of every such lease: etcd gives all of them their whole time again when it starts. In full
/// length, also the end of the time in which the watch doubts it.
const LEASES_END: (u64, u64) = (4, 25);
/// What was changed during an outage is in effect.
const AFTER_OUTAGE: Duration = Duration::from_secs(2);
/// A silent etcd is noticed.
const NOTICED: Duration = Duration::from_secs(5);
/// What etcd has lost is told of: for 20 s after an outage it may still come back.
const TOLD: Duration = Duration::from_secs(25);

/// Changes a file, starts an instance of a version never seen with an environment for it, and leaves an instance without its
/// registrar.
async fn change_everything(loaded: &mut LoadedMayfly) -> Result<()> {
    loaded.change("1.0.0", "2.0.0");
    loaded.mayfly.save(
        "new.yaml",
        "{name: new, services: [{name: web, version: 3.0.0, route: /}]}",
    );
    let three = loaded.mayfly.killable("web", "3.0.0", &["--ttl", TTL]).await?;
    loaded.instances.push(three);
    // The only instance of api: it lives, and nobody keeps its lease alive any more.
    loaded.instances[3].registrar.kill9().await
}

/// etcd is gone for a minute, while files and instances change.
pub async fn killed(length: Length) -> Result<Outcome> {
    let mut loaded = LoadedMayfly::start(length, TTL).await?;
    loaded.mayfly.etcd.kill9().await?;
    change_everything(&mut loaded).await?;
    loaded.last(0, 55).await;
    loaded.mayfly.etcd.restart().await?;
    catches_up(&mut loaded).await;
    loaded.last(LEASES_END.0, LEASES_END.1).await;
    kept_without_lease(&loaded).await?;
    Ok(loaded.end().await)
}

/// etcd's process stands still, with every connection open.
pub async fn frozen(length: Length) -> Result<Outcome> {
    let mut loaded = LoadedMayfly::start(length, TTL).await?;
    loaded.mayfly.etcd.freeze()?;
    let since = Instant::now();
    loaded
        .sees("noticed", since, NOTICED, async |loaded| {
            let connected = loaded.metric("mayfly_etcd_connected").await?;
            ensure!(connected == 0.0, "connected is {connected}");
            Ok(())
        })
        .await;
    change_everything(&mut loaded).await?;
    loaded.last(0, 20).await;
    loaded.mayfly.etcd.thaw()?;
    catches_up(&mut loaded).await;
    loaded.last(LEASES_END.0, LEASES_END.1).await;
    kept_without_lease(&loaded).await?;
    Ok(loaded.end().await)
}

/// What was changed by [`change_everything`] is in effect.
async fn catches_up(loaded: &mut LoadedMayfly) {
    let since = Instant::now();
    loaded.converges("2.0.0", since, AFTER_OUTAGE).await;
    loaded
        .sees("changes in effect", since, AFTER_OUTAGE, async |loaded| {
            let found = loaded.mayfly.get("www-new.example.com", "/").await?.backend()?;
            ensure!(found == "web@3.0.0", "{found} answers");
            Ok(())
        })
        .await;
}

/// The lease of api has run out: if it is routed on, which the load says, then because it answers.
async fn kept_without_lease(loaded: &LoadedMayfly) -> Result<()> {
    let left = loaded.mayfly.etcd.list("/mayfly/backends/api/").await?;
    ensure!(left.is_empty(), "the lease of api lives: {left:?}");
    let held = loaded.metric("mayfly_haproxy_guard_held").await?;
    ensure!(
        held == 1.0 || loaded.length == Length::Short,
        "the guard holds {held}, not the one instance of api"
    );
    Ok(())
}

/// The updater is cut off; what happened meanwhile is no longer in etcd's history when it comes back.
pub async fn compacted(length: Length) -> Result<Outcome> {
    let mut loaded = LoadedMayfly::start(length, "10s").await?;
    let mayfly = &mut loaded.mayfly;
    mayfly.save("passing.yaml", "{name: passing, extends: prod}");
    mayfly.answers("www-passing.example.com", "web@1.0.0").await;
    if let Some(updater) = &mut mayfly.updater {
        updater.signal(Signal::Stop)?;
    }
    loaded.change("1.0.0", "2.0.0");
    let mayfly = &mut loaded.mayfly;
    mayfly.remove("passing.yaml");
    eventually(Duration::from_secs(10), "etcd has both changes", async || {
        let all = mayfly.etcd.list("/mayfly/environments/").await?;
        let prod = all.get("/mayfly/environments/prod");
        ensure!(
            all.len() == 2 && prod.is_some_and(|prod| prod.contains("2.0.0")),
            "{all:?}"
        );
        Ok(())
    })
    .await;
    for n in 0..50 {
        mayfly
            .etcd
            .put("/mayfly/environments/flicker", &n.to_string())
            .await?;
    }
    mayfly.etcd.delete("/mayfly/environments/flicker").await?;
    mayfly.etcd.compact().await?;
    // The connection is lost too, or the watch would go on from what is buffered.
    mayfly.etcd.kill9().await?;
    mayfly.etcd.restart().await?;
    if let Some(updater) = &mut mayfly.updater {
        updater.signal(Signal::Cont)?;
    }
    let since = Instant::now();
    loaded.converges("2.0.0", since, AFTER_OUTAGE).await;
    loaded
        .sees("changes in effect", since, AFTER_OUTAGE, async |loaded| {
            let status = loaded.mayfly.get("www-passing.example.com", "/").await?.status;
            ensure!(
                matches!(status, 404 | 410),
                "the deleted environment answers {status}"
            );
            Ok(())
        })
        .await;
    Ok(loaded.end().await)
}

/// etcd comes back without its data.
pub async fn emptied(length: Length) -> Result<Outcome> {
    let mut loaded = LoadedMayfly::start(length, TTL).await?;
    // Nobody will register this one again.
    loaded.instances[3].registrar.kill9().await?;
    loaded.mayfly.etcd.restart_emptied().await?;
    let since = Instant::now();
    loaded
        .sees("all registered again", since, NOTICED, async |loaded| {
            let all = loaded.mayfly.etcd.list("/mayfly/").await?;
            let of = |kind: &str| all.keys().filter(|key| key.starts_with(kind)).count();
            let found = (
                of("/mayfly/environments/"),
                of("/mayfly/backends/"),
                of("/mayfly/routers/"),
            );
            ensure!(
                found == (2, 3, 1),
                "environments, instances and routers: {found:?}"
            );
            Ok(())
        })
        .await;
    loaded.change("1.0.0", "2.0.0");
    loaded.converges("2.0.0", Instant::now(), AFTER_OUTAGE).await;
    loaded.last(LEASES_END.0, 0).await;
    if length == Length::Full {
        told(&mut loaded, since).await;
    }
    Ok(loaded.end().await)
}

/// What nobody registers again is told of, when it is no longer likely that somebody will.
async fn told(loaded: &mut LoadedMayfly, since: Instant) {
    loaded.says(&["WARN", "vanished from etcd"]).await;
    loaded
        .sees("shown in log, status and metric", since, TOLD, async |loaded| {
            let held = loaded.metric("mayfly_haproxy_guard_held").await?;
            let status = loaded.mayfly.status("haproxy-updater").await?;
            let guard = status["detail"]["guard"].as_str().unwrap_or_default();
            ensure!(
                held == 1.0 && guard.contains("1 of"),
                "{held} held, status {status}"
            );
            Ok(())
        })
        .await;
}
