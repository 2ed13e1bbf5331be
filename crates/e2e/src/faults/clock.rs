//! The clocks of the machines that Mayfly runs on jump. etcd and HAProxy go by clocks that do not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Length;
use super::loaded::{LoadedMayfly, Outcome};
use crate::clock::Clock;
use crate::mayfly::Mayfly;
use crate::port;
use crate::process::Process;

/// If it went by the clock, it would run out with each jump.
const TTL: &str = "3s";
/// Each daemon has seen a jump.
const SEEN: Duration = Duration::from_secs(5);
/// A change after a jump.
const IN_EFFECT: Duration = Duration::from_secs(2);
/// What is over by the clock is ended.
const ENDED: Duration = Duration::from_secs(15);

/// An hour forward and back, then past the end of an environment.
pub async fn jumps(length: Length) -> Result<Outcome> {
    let admin = port::free();
    let mut mayfly = Mayfly::bare(&["--admin", &admin.to_string()])?;
    let clock = Clock::new(mayfly.directory())?;
    mayfly.clock = Some(clock.clone());
    mayfly.start_all().await?;
    mayfly.start_dns().await?;
    mayfly.save("temp.yaml", "{name: temp, extends: prod, expires: 90m}");
    let mut loaded = LoadedMayfly::on(mayfly, admin, length, TTL).await?;
    loaded.mayfly.answers("www-temp.example.com", "web@1.0.0").await;
    let leases = leases(&loaded).await?;
    for (seconds, way, from, to) in [
        (3_600, "forward", "1.0.0", "2.0.0"),
        (-3_600, "back", "2.0.0", "1.0.0"),
    ] {
        clock.set(seconds)?;
        loaded
            .sees(
                "the jump noticed by the registrars",
                Instant::now(),
                SEEN,
                async |loaded| {
                    let registrar = loaded.mayfly.registrar.as_ref().context("a registrar")?;
                    let instances = loaded.instances.iter().map(|instance| &instance.registrar);
                    for process in instances.chain([registrar]) {
                        ensure!(tells(process, way), "{} says nothing", process.name());
                    }
                    Ok(())
                },
            )
            .await;
        // Longer than leases live.
        loaded.last(3, 15).await;
        loaded.change(from, to);
        loaded.converges(to, Instant::now(), IN_EFFECT).await;
        let now = self::leases(&loaded).await?;
        for (key, lease) in &leases {
            ensure!(now.get(key) == Some(lease), "the lease of {key} was lost");
        }
        let answer = loaded.mayfly.get("www-temp.example.com", "/").await?.backend()?;
        ensure!(answer == format!("web@{to}"), "{answer} answers for temp");
        let dnsmasq = loaded.mayfly.dnsmasq.as_ref().context("dnsmasq")?;
        let found = dnsmasq.lookup("web.service").await?;
        ensure!(
            found == [loaded.mayfly.internal.ip()],
            "web.service is at {found:?}"
        );
    }
    // Takes its time, and has a test of its own.
    if length == Length::Full {
        clock.set(2 * 3_600)?;
        loaded
            .sees("ended by the clock", Instant::now(), ENDED, async |loaded| {
                let status = loaded.mayfly.get("www-temp.example.com", "/").await?.status;
                ensure!(matches!(status, 404 | 410), "temp answers {status}");
                Ok(())
            })
            .await;
    }
    Ok(loaded.end().await)
}

/// The leases of all instances, routers and status records.
async fn leases(loaded: &LoadedMayfly) -> Result<BTreeMap<String, Option<String>>> {
    let mut leases = BTreeMap::new();
    for kind in ["backends", "routers", "status"] {
        for key in loaded
            .mayfly
            .etcd
            .list(&format!("/mayfly/{kind}/"))
            .await?
            .into_keys()
        {
            let lease = loaded.mayfly.etcd.lease_of(&key).await?;
            leases.insert(key, lease);
        }
    }
    Ok(leases)
}

/// Whether a log tells of a jump.
fn tells(process: &Process, way: &str) -> bool {
    let words = ["WARN", "the clock of this machine went", way];
    let output = process.output();
    output
        .lines()
        .any(|line| words.iter().all(|word| line.contains(word)))
}
