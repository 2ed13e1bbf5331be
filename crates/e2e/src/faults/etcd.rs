//! A lone etcd is killed, frozen, compacted or emptied.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Length;
use super::stage::{Outcome, Stage};
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
async fn change_everything(stage: &mut Stage) -> Result<()> {
    stage.change("1.0.0", "2.0.0");
    stage.world.save(
        "new.yaml",
        "{name: new, services: [{name: web, version: 3.0.0, route: /}]}",
    );
    let three = stage.world.killable("web", "3.0.0", &["--ttl", TTL]).await?;
    stage.instances.push(three);
    // The only instance of api: it lives, and nobody keeps its lease alive any more.
    stage.instances[3].registrar.kill9().await
}

/// etcd is gone for a minute, while files and instances change.
pub async fn killed(length: Length) -> Result<Outcome> {
    let mut stage = Stage::start(length, TTL).await?;
    stage.world.etcd.kill9().await?;
    change_everything(&mut stage).await?;
    stage.last(0, 55).await;
    stage.world.etcd.restart().await?;
    catches_up(&mut stage).await;
    stage.last(LEASES_END.0, LEASES_END.1).await;
    kept_without_lease(&stage).await?;
    Ok(stage.end().await)
}

/// etcd's process stands still, with every connection open.
pub async fn frozen(length: Length) -> Result<Outcome> {
    let mut stage = Stage::start(length, TTL).await?;
    stage.world.etcd.freeze()?;
    let since = Instant::now();
    stage
        .sees("noticed", since, NOTICED, async |stage| {
            let connected = stage.metric("mayfly_etcd_connected").await?;
            ensure!(connected == 0.0, "connected is {connected}");
            Ok(())
        })
        .await;
    change_everything(&mut stage).await?;
    stage.last(0, 20).await;
    stage.world.etcd.thaw()?;
    catches_up(&mut stage).await;
    stage.last(LEASES_END.0, LEASES_END.1).await;
    kept_without_lease(&stage).await?;
    Ok(stage.end().await)
}

/// What was changed by [`change_everything`] is in effect.
async fn catches_up(stage: &mut Stage) {
    let since = Instant::now();
    stage.converges("2.0.0", since, AFTER_OUTAGE).await;
    stage
        .sees("changes in effect", since, AFTER_OUTAGE, async |stage| {
            let found = stage.world.get("www-new.example.com", "/").await?.backend()?;
            ensure!(found == "web@3.0.0", "{found} answers");
            Ok(())
        })
        .await;
}

/// The lease of api has run out: if it is routed on, which the load says, then because it answers.
async fn kept_without_lease(stage: &Stage) -> Result<()> {
    let left = stage.world.etcd.list("/mayfly/backends/api/").await?;
    ensure!(left.is_empty(), "the lease of api lives: {left:?}");
    let held = stage.metric("mayfly_haproxy_guard_held").await?;
    ensure!(
        held == 1.0 || stage.length == Length::Short,
        "the guard holds {held}, not the one instance of api"
    );
    Ok(())
}

/// The updater is cut off; what happened meanwhile is no longer in etcd's history when it comes back.
pub async fn compacted(length: Length) -> Result<Outcome> {
    let mut stage = Stage::start(length, "10s").await?;
    let world = &mut stage.world;
    world.save("passing.yaml", "{name: passing, extends: prod}");
    world.answers("www-passing.example.com", "web@1.0.0").await;
    if let Some(updater) = &mut world.updater {
        updater.signal(Signal::Stop)?;
    }
    stage.change("1.0.0", "2.0.0");
    let world = &mut stage.world;
    world.remove("passing.yaml");
    eventually(Duration::from_secs(10), "etcd has both changes", async || {
        let all = world.etcd.list("/mayfly/environments/").await?;
        let prod = all.get("/mayfly/environments/prod");
        ensure!(
            all.len() == 2 && prod.is_some_and(|prod| prod.contains("2.0.0")),
            "{all:?}"
        );
        Ok(())
    })
    .await;
    for n in 0..50 {
        world
            .etcd
            .put("/mayfly/environments/flicker", &n.to_string())
            .await?;
    }
    world.etcd.delete("/mayfly/environments/flicker").await?;
    world.etcd.compact().await?;
    // The connection is lost too, or the watch would go on from what is buffered.
    world.etcd.kill9().await?;
    world.etcd.restart().await?;
    if let Some(updater) = &mut world.updater {
        updater.signal(Signal::Cont)?;
    }
    let since = Instant::now();
    stage.converges("2.0.0", since, AFTER_OUTAGE).await;
    stage
        .sees("changes in effect", since, AFTER_OUTAGE, async |stage| {
            let status = stage.world.get("www-passing.example.com", "/").await?.status;
            ensure!(status == 404, "the deleted environment answers {status}");
            Ok(())
        })
        .await;
    Ok(stage.end().await)
}

/// etcd comes back without its data.
pub async fn emptied(length: Length) -> Result<Outcome> {
    let mut stage = Stage::start(length, TTL).await?;
    // Nobody will register this one again.
    stage.instances[3].registrar.kill9().await?;
    stage.world.etcd.restart_emptied().await?;
    let since = Instant::now();
    stage
        .sees("everybody registered again", since, NOTICED, async |stage| {
            let all = stage.world.etcd.list("/mayfly/").await?;
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
    stage.change("1.0.0", "2.0.0");
    stage.converges("2.0.0", Instant::now(), AFTER_OUTAGE).await;
    stage.last(LEASES_END.0, 0).await;
    if length == Length::Full {
        told(&mut stage, since).await;
    }
    Ok(stage.end().await)
}

/// What nobody registers again is told of, when it is no longer likely that somebody will.
async fn told(stage: &mut Stage, since: Instant) {
    stage.says(&["WARN", "etcd has lost"]).await;
    stage
        .sees("told in log, status and metric", since, TOLD, async |stage| {
            let held = stage.metric("mayfly_haproxy_guard_held").await?;
            let status = stage.world.status("haproxy-updater").await?;
            let guard = status["detail"]["guard"].as_str().unwrap_or_default();
            ensure!(
                held == 1.0 && guard.contains("1 of"),
                "{held} held, status {status}"
            );
            Ok(())
        })
        .await;
}
