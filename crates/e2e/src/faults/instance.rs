//! An instance, or the registrar beside it, is killed or frozen.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::Length;
use super::loaded::{LoadedMayfly, Outcome, WWW};
use crate::instance::ServiceProcess;
use crate::mayfly::Mayfly;
use crate::port;
use crate::process::Signal;

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

async fn takes(loaded: &mut LoadedMayfly, at: SocketAddr, what: &str, takes: bool, within: Duration) {
    loaded
        .sees(what, Instant::now(), within, async |loaded| {
            let found = loaded.mayfly.haproxy.sends_to(at).await?;
            ensure!(found == takes, "HAProxy sends requests to {at}: {found}");
            Ok(())
        })
        .await;
}

/// One of two is killed and comes back at its address, its registrar living on; then the other one is frozen.
pub async fn killed(length: Length) -> Result<Outcome> {
    let mut loaded = LoadedMayfly::start(length, TTL).await?;
    for _ in 0..length.pick(1, 3) {
        let at = loaded.instances[0].service.address();
        loaded.instances[0].service.kill9().await?;
        takes(&mut loaded, at, "killed one out of rotation", false, OUT).await;
        loaded.last(0, 3).await;
        let directory = loaded.mayfly.directory().to_owned();
        loaded.instances[0].service = ServiceProcess::start_at(at, "web", "1.0.0", &directory).await?;
        loaded
            .sees("back in rotation", Instant::now(), BACK, async |loaded| {
                let found = loaded.mayfly.get(WWW, "/").await?.echo()?.address;
                ensure!(found == at, "{found} answers");
                Ok(())
            })
            .await;
    }
    frozen(&mut loaded).await?;
    Ok(loaded.end().await)
}

/// A frozen process still takes connections, for the kernel does: HAProxy's check finds nothing, a registrar that checks by a
/// request does. What was asked of it meanwhile has no answer; nothing is promised of that.
async fn frozen(loaded: &mut LoadedMayfly) -> Result<()> {
    let at = loaded.instances[1].service.address();
    loaded.instances[1].registrar.kill9().await?;
    let check = ["--ttl", TTL, "--check", "/health", "--check-interval", "500ms"];
    loaded.instances[1].registrar = loaded.mayfly.register("web", "1.0.0", at, &check)?;
    loaded
        .sees(
            "registered with a check",
            Instant::now(),
            FROZEN,
            async |loaded| {
                let key = format!("/mayfly/backends/web/1.0.0/{at}");
                let all = loaded.mayfly.etcd.get(&key).await?;
                all.context("it is not registered").map(drop)
            },
        )
        .await;
    loaded.excuse = "that the frozen one had got";
    loaded.outage(true);
    loaded.instances[1].service.signal(Signal::Stop)?;
    takes(loaded, at, "frozen one out of rotation", false, FROZEN).await;
    // Until those who wait for it have given up, which the load does after 5 s.
    loaded.last(6, 6).await;
    loaded.outage(false);
    loaded.last(1, 5).await;
    loaded.instances[1].service.signal(Signal::Cont)?;
    takes(loaded, at, "thawed one back in rotation", true, FROZEN).await;
    Ok(())
}

/// The registrar of one of two dies, and that of the only one: both instances live.
pub async fn registrar_killed(length: Length) -> Result<Outcome> {
    let admin = port::free();
    let guard = length.pick(GUARD.0, GUARD.1);
    let mayfly = Mayfly::start_with(&["--admin", &admin.to_string(), "--distrust", guard]).await?;
    let mut loaded = LoadedMayfly::on(mayfly, admin, length, TTL).await?;
    // There is another one: it goes with its lease.
    let one_of_two = loaded.instances[0].service.address();
    loaded.instances[0].registrar.kill9().await?;
    takes(
        &mut loaded,
        one_of_two,
        "one of two out of rotation",
        false,
        LEASE_ENDS,
    )
    .await;
    // There is no other one: it is routed on.
    let only = loaded.instances[3].service.address();
    loaded.instances[3].registrar.kill9().await?;
    held(&mut loaded, "the only one kept", 1.0, LEASE_ENDS).await;
    loaded.last(2, 12).await;
    ensure!(
        loaded.mayfly.haproxy.sends_to(only).await?,
        "the only one was let go"
    );
    // Until there is another one; for as long as the guard doubts it, both get requests.
    let another = loaded.mayfly.killable("api", "1.0.0", &["--ttl", TTL]).await?;
    loaded.instances.push(another);
    held(&mut loaded, "gone for another one", 0.0, Duration::from_secs(12)).await;
    takes(&mut loaded, only, "gone for another one", false, OUT).await;
    loaded.last(1, 3).await;
    Ok(loaded.end().await)
}

async fn held(loaded: &mut LoadedMayfly, what: &str, count: f64, within: Duration) {
    loaded
        .sees(what, Instant::now(), within, async |loaded| {
            let held = loaded.metric("mayfly_haproxy_guard_held").await?;
            ensure!(held == count, "{held} are held");
            Ok(())
        })
        .await;
}
