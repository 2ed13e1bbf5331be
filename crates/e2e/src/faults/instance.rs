//! An instance, or the registrar beside it, is killed or frozen.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Length;
use super::stage::{Outcome, Stage, WWW};
use crate::instance::ServiceProcess;
use crate::port;
use crate::process::Signal;
use crate::world::World;

/// Instances whose registrar dies are kept in etcd for so long.
const TTL: &str = "3s";
/// A killed instance gets no request any more.
const OUT: Duration = Duration::from_secs(2);
/// One that is back at its address gets requests again.
const BACK: Duration = Duration::from_secs(2);
/// A frozen instance, whose registrar checks it each 0.5 s, gets no request any more: three answers that take too long.
const FROZEN: Duration = Duration::from_secs(5);
/// The end of a lease of 3 s, and etcd's second to notice.
const LEASE_ENDS: Duration = Duration::from_secs(5);
/// The router doubts the loss of an instance for so long.
const GUARD: (&str, &str) = ("2s", "10s");

async fn takes(stage: &mut Stage, at: SocketAddr, what: &str, takes: bool, within: Duration) {
    stage
        .sees(what, Instant::now(), within, async |stage| {
            let found = stage.world.haproxy.sends_to(at).await?;
            ensure!(found == takes, "HAProxy sends requests to {at}: {found}");
            Ok(())
        })
        .await;
}

/// One of two is killed and comes back at its address, its registrar living on; then the other one is frozen.
pub async fn killed(length: Length) -> Result<Outcome> {
    let mut stage = Stage::start(length, TTL).await?;
    for _ in 0..length.pick(1, 3) {
        let at = stage.instances[0].service.address();
        stage.instances[0].service.kill9().await?;
        takes(&mut stage, at, "killed one out of rotation", false, OUT).await;
        stage.last(0, 3).await;
        let directory = stage.world.directory().to_owned();
        stage.instances[0].service = ServiceProcess::start_at(at, "web", "1.0.0", &directory).await?;
        stage
            .sees("back in rotation", Instant::now(), BACK, async |stage| {
                let found = stage.world.get(WWW, "/").await?.echo()?.address;
                ensure!(found == at, "{found} answers");
                Ok(())
            })
            .await;
    }
    frozen(&mut stage).await?;
    Ok(stage.end().await)
}

/// A frozen process still takes connections, for the kernel does: HAProxy's check finds nothing, a registrar that checks by a
/// request does. What was asked of it meanwhile has no answer; nothing is promised of that.
async fn frozen(stage: &mut Stage) -> Result<()> {
    let at = stage.instances[1].service.address();
    stage.instances[1].registrar.kill9().await?;
    let check = ["--ttl", TTL, "--check", "/health", "--check-interval", "500ms"];
    stage.instances[1].registrar = stage.world.register("web", "1.0.0", at, &check)?;
    stage
        .sees("registered with a check", Instant::now(), FROZEN, async |stage| {
            let key = format!("/mayfly/backends/web/1.0.0/{at}");
            let all = stage.world.etcd.get(&key).await?;
            all.context("it is not registered").map(drop)
        })
        .await;
    stage.excuse = "that the frozen one had got";
    stage.outage(true);
    stage.instances[1].service.signal(Signal::Stop)?;
    takes(stage, at, "frozen one out of rotation", false, FROZEN).await;
    // Until those who wait for it have given up, which the load does after 5 s.
    stage.last(6, 6).await;
    stage.outage(false);
    stage.last(1, 5).await;
    stage.instances[1].service.signal(Signal::Cont)?;
    takes(stage, at, "thawed one back in rotation", true, FROZEN).await;
    Ok(())
}

/// The registrar of one of two dies, and that of the only one: both instances live.
pub async fn registrar_killed(length: Length) -> Result<Outcome> {
    let admin = port::free();
    let guard = length.pick(GUARD.0, GUARD.1);
    let world = World::start_with(&["--admin", &admin.to_string(), "--guard", guard]).await?;
    let mut stage = Stage::on(world, admin, length, TTL).await?;
    // There is another one: it goes with its lease.
    let one_of_two = stage.instances[0].service.address();
    stage.instances[0].registrar.kill9().await?;
    takes(
        &mut stage,
        one_of_two,
        "one of two out of rotation",
        false,
        LEASE_ENDS,
    )
    .await;
    // There is no other one: it is routed on.
    let only = stage.instances[3].service.address();
    stage.instances[3].registrar.kill9().await?;
    held(&mut stage, "the only one kept", 1.0, LEASE_ENDS).await;
    stage.last(2, 12).await;
    ensure!(
        stage.world.haproxy.sends_to(only).await?,
        "the only one was let go"
    );
    // Until there is another one; for as long as the guard doubts it, both get requests.
    let another = stage.world.killable("api", "1.0.0", &["--ttl", TTL]).await?;
    stage.instances.push(another);
    held(&mut stage, "gone for another one", 0.0, Duration::from_secs(12)).await;
    takes(&mut stage, only, "gone for another one", false, OUT).await;
    stage.last(1, 3).await;
    Ok(stage.end().await)
}

async fn held(stage: &mut Stage, what: &str, count: f64, within: Duration) {
    stage
        .sees(what, Instant::now(), within, async |stage| {
            let held = stage.metric("mayfly_haproxy_guard_held").await?;
            ensure!(held == count, "{held} are held");
            Ok(())
        })
        .await;
}
