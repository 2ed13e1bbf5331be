//! What etcd has vanishes within moments, and nobody is there to register it again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Length;
use super::loaded::{LoadedMayfly, Outcome, WWW};

/// Longer than the whole case: instances vanish by hand, not by their leases.
const TTL: &str = "2m";
/// A loss is told of.
const TOLD: Duration = Duration::from_secs(5);
/// An instance that was kept and dies is let go.
const LET_GO: Duration = Duration::from_secs(4);
/// An operator's word is followed. Servers are deleted once no request can point to them, 3 to 4 s later.
const CONFIRMED: Duration = Duration::from_secs(5);

/// All instances, then all environments; one of the instances dies, and then an operator says that it is meant.
pub async fn emptied(length: Length) -> Result<Outcome> {
    let mut loaded = LoadedMayfly::start(length, TTL).await?;
    for instance in &mut loaded.instances {
        instance.registrar.kill9().await?;
    }
    let registrar = loaded.mayfly.registrar.as_mut();
    registrar.context("a registrar")?.kill9().await?;
    loaded.mayfly.etcd.delete_all("/mayfly/backends/").await?;
    told(&mut loaded, "4 of 4 instances vanished", 4.0, TOLD).await;
    loaded.mayfly.etcd.delete_all("/mayfly/environments/").await?;
    told(&mut loaded, "4 of 4 instances and 2 of 2 environments", 6.0, TOLD).await;
    loaded
        .says(&["WARN", "2 of 2 environments vanished from etcd"])
        .await;
    let tool = loaded.mayfly.run("mayfly", &["status"]).await?;
    ensure!(tool.stdout.contains("4 of 4 instances"), "{}", tool.stdout);
    // Longer than the guard doubts anything by time alone.
    loaded.last(2, 15).await;
    loaded.instances[0].service.kill9().await?;
    told(
        &mut loaded,
        "3 of 3 instances and 2 of 2 environments",
        5.0,
        LET_GO,
    )
    .await;
    loaded.last(1, 5).await;

    loaded.excuse = "after the operator had confirmed the loss";
    loaded.outage(true);
    let told = loaded
        .mayfly
        .run("mayfly", &["confirm", "haproxy-updater"])
        .await?;
    let told = told.ok()?;
    ensure!(told.contains("the haproxy-updater of test: 3 of 3"), "{told}");
    loaded
        .sees(
            "let go when confirmed",
            Instant::now(),
            CONFIRMED,
            async |loaded| {
                let status = loaded.mayfly.get(WWW, "/").await?.status;
                ensure!(matches!(status, 404 | 410), "{status}");
                let servers = loaded.mayfly.haproxy.servers().await?;
                ensure!(servers.is_empty(), "{servers:?}");
                let status = loaded.mayfly.status("haproxy-updater").await?;
                ensure!(
                    status["detail"]["guard"].is_null() && status["error"].is_null(),
                    "{status}"
                );
                Ok(())
            },
        )
        .await;
    let again = loaded
        .mayfly
        .run("mayfly", &["confirm", "haproxy-updater"])
        .await?;
    ensure!(
        again.code != Some(0) && again.stderr.contains("no haproxy-updater withholds anything"),
        "{again:?}"
    );
    Ok(loaded.end().await)
}

/// The metric and the status record say what is kept.
async fn told(loaded: &mut LoadedMayfly, what: &str, count: f64, within: Duration) {
    loaded
        .sees(
            "shown in status and metric",
            Instant::now(),
            within,
            async |loaded| {
                let held = loaded.metric("mayfly_haproxy_guard_held").await?;
                let status = loaded.mayfly.status("haproxy-updater").await?;
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
