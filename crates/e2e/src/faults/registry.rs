//! What etcd has vanishes within moments, and nobody is there to register it again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Length;
use super::stage::{Outcome, Stage, WWW};

/// Longer than the whole case: instances vanish by hand, not by their leases.
const TTL: &str = "2m";
/// A loss is told of.
const TOLD: Duration = Duration::from_secs(5);
/// An instance that was kept and dies is let go.
const LET_GO: Duration = Duration::from_secs(4);
/// An operator's word is followed.
const CONFIRMED: Duration = Duration::from_secs(2);

/// All instances, then all environments; one of the instances dies, and then an operator says that it is meant.
pub async fn emptied(length: Length) -> Result<Outcome> {
    let mut stage = Stage::start(length, TTL).await?;
    for instance in &mut stage.instances {
        instance.registrar.kill9().await?;
    }
    let registrar = stage.world.registrar.as_mut();
    registrar.context("a registrar")?.kill9().await?;
    stage.world.etcd.delete_all("/mayfly/backends/").await?;
    told(&mut stage, "4 of 4 instances and 0 of 2 environments", 4.0, TOLD).await;
    stage.world.etcd.delete_all("/mayfly/environments/").await?;
    told(&mut stage, "4 of 4 instances and 2 of 2 environments", 6.0, TOLD).await;
    stage
        .says(&["WARN", "etcd has lost", "2 of 2 environments"])
        .await;
    let tool = stage.world.run("mayfly", &["status"]).await?;
    ensure!(tool.stdout.contains("4 of 4 instances"), "{}", tool.stdout);
    // Longer than the guard doubts anything by time alone.
    stage.last(2, 15).await;
    stage.instances[0].service.kill9().await?;
    told(
        &mut stage,
        "3 of 3 instances and 2 of 2 environments",
        5.0,
        LET_GO,
    )
    .await;
    stage.last(1, 5).await;

    stage.excuse = "after the operator had confirmed the loss";
    stage.outage(true);
    let told = stage.world.run("mayfly", &["confirm", "haproxy-updater"]).await?;
    let told = told.ok()?;
    ensure!(
        told.contains("the haproxy-updater of test: etcd has lost 3 of 3"),
        "{told}"
    );
    stage
        .sees(
            "let go when confirmed",
            Instant::now(),
            CONFIRMED,
            async |stage| {
                let status = stage.world.get(WWW, "/").await?.status;
                ensure!(status == 404, "{status}");
                let servers = stage.world.haproxy.servers().await?;
                ensure!(servers.is_empty(), "{servers:?}");
                let status = stage.world.status("haproxy-updater").await?;
                ensure!(
                    status["detail"]["guard"].is_null() && status["error"].is_null(),
                    "{status}"
                );
                Ok(())
            },
        )
        .await;
    let again = stage.world.run("mayfly", &["confirm", "haproxy-updater"]).await?;
    ensure!(
        again.code != Some(0) && again.stderr.contains("no haproxy-updater holds anything back"),
        "{again:?}"
    );
    Ok(stage.end().await)
}

/// The metric and the status record say what is kept.
async fn told(stage: &mut Stage, what: &str, count: f64, within: Duration) {
    stage
        .sees(
            "told in status and metric",
            Instant::now(),
            within,
            async |stage| {
                let held = stage.metric("mayfly_haproxy_guard_held").await?;
                let status = stage.world.status("haproxy-updater").await?;
                let guard = status["detail"]["guard"].as_str().unwrap_or_default();
                let error = status["error"].as_str().unwrap_or_default();
                ensure!(
                    held == count && guard.contains(what) && guard == error,
                    "{held} held, status {status}"
                );
                Ok(())
            },
        )
        .await;
}
