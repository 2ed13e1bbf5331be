//! What happens in a soak. Each lane does one thing after the other, with random pauses; the lanes
//! do not wait for each other, except that HAProxy is not started from its files amid a change.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::{sleep, timeout};

use super::Phase;
use super::chance::Chance;
use super::stage::{AT_LAST, Stage, TTL};
use crate::faults::loaded::{WWW, prod};
use crate::http::Request;
use crate::instance::ServiceProcess;
use crate::process::{Process, Signal};
use crate::{eventually, mayfly};

/// A pause between two samples.
const SAMPLE: Duration = Duration::from_secs(1);
/// A question to etcd, which may be frozen.
const QUESTION: Duration = Duration::from_secs(2);
/// Environments that come and go, and addresses that refuse.
const NAMES: u64 = 12;

/// All lanes, until the half ends.
pub(super) async fn run(stage: &Stage, seed: u64, sequence: u64) -> Result<()> {
    let chance = |lane| Chance::new(seed, sequence + lane);
    tokio::try_join!(
        etcd(stage, chance(0)),
        router(stage, chance(1)),
        instances(stage, chance(2)),
        registrar(stage, chance(3)),
        names(stage, chance(4)),
        versions(stage, chance(5)),
        environments(stage, chance(6)),
        refusing(stage, chance(7)),
        page(stage, chance(8)),
        samples(stage),
    )
    .map(drop)
}

async fn pause(chance: &mut Chance, from: u64, to: u64) {
    sleep(chance.millis(from, to)).await;
}

async fn etcd(stage: &Stage, mut chance: Chance) -> Result<()> {
    while stage.goes_on() {
        pause(&mut chance, 3_000, 15_000).await;
        match chance.below(3) {
            0 => {
                stage.event("etcd killed");
                stage.mayfly.lock().await.etcd.kill9().await?;
                pause(&mut chance, 100, 15_000).await;
                stage.mayfly.lock().await.etcd.restart().await?;
            }
            1 => {
                stage.event("etcd frozen");
                stage.mayfly.lock().await.etcd.freeze()?;
                pause(&mut chance, 100, 6_000).await;
                stage.mayfly.lock().await.etcd.thaw()?;
            }
            _ => {
                stage.event("etcd compacted");
                stage.mayfly.lock().await.etcd.compact().await?;
            }
        }
    }
    Ok(())
}

async fn router(stage: &Stage, mut chance: Chance) -> Result<()> {
    while stage.goes_on() {
        pause(&mut chance, 2_000, 10_000).await;
        let kind = match stage.phase {
            Phase::Lethal => chance.below(5),
            Phase::Gentle => 0,
        };
        match kind {
            0 => {
                stage.event("haproxy-updater frozen");
                let updater = async |signal| {
                    let mut mayfly = stage.mayfly.lock().await;
                    mayfly.updater.as_mut().context("an updater")?.signal(signal)
                };
                updater(Signal::Stop).await?;
                pause(&mut chance, 100, 8_000).await;
                updater(Signal::Cont).await?;
            }
            1 => {
                stage.event("haproxy-updater killed");
                let updater = stage.mayfly.lock().await.updater.take();
                updater.context("an updater")?.kill9().await?;
                pause(&mut chance, 0, 3_000).await;
                stage.mayfly.lock().await.start_updater()?;
                ready(stage).await;
            }
            2 => {
                let _changing = stage.changing.write().await;
                on_disk(stage).await;
                stage.event("HAProxy reloaded");
                let old = {
                    let mut mayfly = stage.mayfly.lock().await;
                    let old = mayfly.haproxy.worker().await?;
                    mayfly.haproxy.reload().await?;
                    PathBuf::from(format!("/proc/{old}"))
                };
                in_order(stage, "HAProxy reloaded").await;
                // Until it has ended, it answers what has reached it, and knows no change from now on.
                eventually(AT_LAST, "the old process of HAProxy has ended", async || {
                    ensure!(!old.exists(), "{} is there", old.display());
                    Ok(())
                })
                .await;
            }
            3 => {
                let _changing = stage.changing.write().await;
                on_disk(stage).await;
                stage.event("HAProxy killed");
                stage.outage(true);
                stage.mayfly.lock().await.haproxy.restart().await?;
                // Its files have all that the load asks for, so it answers at once.
                stage.outage(false);
                in_order(stage, "HAProxy killed").await;
            }
            _ => {
                let _changing = stage.changing.write().await;
                stage.event("a table of HAProxy cleared");
                stage.outage(true);
                {
                    let mayfly = stage.mayfly.lock().await;
                    let clear = format!("clear map {}", mayfly.map_file("versions").display());
                    mayfly.haproxy.ask(&clear).await?;
                }
                in_order(stage, "a table of HAProxy cleared").await;
                stage.outage(false);
            }
        }
    }
    Ok(())
}

/// The files have the version that prod has: a HAProxy that starts answers with what they have.
async fn on_disk(stage: &Stage) {
    let row = format!("prod/web web@{}", stage.version.get());
    let file = stage.mayfly.lock().await.map_file("versions");
    eventually(AT_LAST, &format!("{} has {row}", file.display()), async || {
        let text = std::fs::read_to_string(&file).context("read a map file")?;
        ensure!(text.lines().any(|line| line == row), "{text}");
        Ok(())
    })
    .await;
}

/// haproxy-updater says that it is ready.
async fn ready(stage: &Stage) {
    let since = Instant::now();
    eventually(AT_LAST, "haproxy-updater is ready", async || {
        let status = Request::get("admin", "/readyz").send(stage.admin).await?.status;
        ensure!(status == 200, "/readyz is {status}");
        Ok(())
    })
    .await;
    stage.took("haproxy-updater ready after a kill", since.elapsed());
}

/// HAProxy has all that it should have.
async fn in_order(stage: &Stage, what: &'static str) {
    let since = Instant::now();
    eventually(AT_LAST, what, async || {
        stage.routes_right().await?;
        // Every victim has its server: one that had none could leave the other one alone.
        rotation(stage).await
    })
    .await;
    stage.took(what, since.elapsed());
}

/// HAProxy sends requests to both victims.
async fn rotation(stage: &Stage) -> Result<()> {
    let victims = stage.victims.lock().await;
    let mayfly = stage.mayfly.lock().await;
    for victim in victims.iter() {
        let address = victim.service.address();
        ensure!(
            mayfly.haproxy.sends_to(address).await?,
            "{address} is out of rotation"
        );
    }
    Ok(())
}

async fn instances(stage: &Stage, mut chance: Chance) -> Result<()> {
    while stage.goes_on() {
        pause(&mut chance, 1_000, 8_000).await;
        let number = chance.below(2) as usize;
        let _change = stage.changing.read().await;
        let address = stage.victims.lock().await[number].service.address();
        match chance.below(3) {
            0 => {
                stage.event("an instance killed");
                stage.victims.lock().await[number].service.kill9().await?;
                pause(&mut chance, 0, 5_000).await;
                let directory: PathBuf = stage.mayfly.lock().await.directory().into();
                let started = ServiceProcess::start_at(address, "web", "1.0.0", &directory).await?;
                stage.victims.lock().await[number].service = started;
            }
            kind => {
                let what =
                    ["container-registrar killed", "an instance leaves in good order"][kind as usize - 1];
                stage.event(what);
                let new = || async {
                    let mayfly = stage.mayfly.lock().await;
                    mayfly.register("web", "1.0.0", address, &["--ttl", TTL, "--drain", "1s"])
                };
                // Not while the others look at it.
                let mut victims = stage.victims.lock().await;
                let registrar = &mut victims[number].registrar;
                if kind == 1 {
                    registrar.kill9().await?;
                } else {
                    end(registrar).await?;
                }
                drop(victims);
                pause(&mut chance, 0, 20_000).await;
                let registrar = new().await?;
                stage.victims.lock().await[number].registrar = registrar;
            }
        }
        let since = Instant::now();
        eventually(AT_LAST, "both instances are in rotation", async || {
            rotation(stage).await
        })
        .await;
        stage.took("an instance back in rotation", since.elapsed());
    }
    Ok(())
}

/// Ends a registrar in good order, or at last by force: etcd may be away for longer than it waits.
async fn end(registrar: &mut Process) -> Result<()> {
    let ended = registrar.terminate(Duration::from_secs(10)).await;
    if ended.is_err() && registrar.is_running() {
        registrar.kill9().await?;
    }
    Ok(())
}

async fn registrar(stage: &Stage, mut chance: Chance) -> Result<()> {
    while stage.goes_on() {
        pause(&mut chance, 3_000, 15_000).await;
        if stage.phase == Phase::Lethal && chance.below(2) == 0 {
            stage.event("environment-registrar killed");
            let registrar = stage.mayfly.lock().await.registrar.take();
            registrar.context("a registrar")?.kill9().await?;
            pause(&mut chance, 0, 4_000).await;
            stage.mayfly.lock().await.start_registrar(&[])?;
            continue;
        }
        stage.event("environment-registrar frozen");
        let registrar = async |signal| {
            let mut mayfly = stage.mayfly.lock().await;
            mayfly.registrar.as_mut().context("a registrar")?.signal(signal)
        };
        registrar(Signal::Stop).await?;
        pause(&mut chance, 100, 5_000).await;
        registrar(Signal::Cont).await?;
    }
    Ok(())
}

async fn names(stage: &Stage, mut chance: Chance) -> Result<()> {
    while stage.goes_on() {
        pause(&mut chance, 5_000, 20_000).await;
        let mut mayfly = stage.mayfly.lock().await;
        match (stage.phase, chance.below(2)) {
            (Phase::Lethal, 0) => {
                stage.event("dnsmasq killed");
                let dnsmasq = mayfly.dnsmasq.as_mut().context("dnsmasq")?;
                dnsmasq.kill9().await?;
                dnsmasq.restart().await?;
            }
            (Phase::Lethal, _) => {
                stage.event("dns-updater killed");
                let killed = mayfly.dns_updater.take();
                killed.context("a dns-updater")?.kill9().await?;
                let command = mayfly.dns_watch()?;
                mayfly.dns_updater = Some(mayfly.spawn("dns-updater", &command)?);
            }
            (Phase::Gentle, _) => {
                stage.event("dns-updater frozen");
                let updater = mayfly.dns_updater.as_mut().context("a dns-updater")?;
                updater.signal(Signal::Stop)?;
                drop(mayfly);
                pause(&mut chance, 100, 5_000).await;
                let mut mayfly = stage.mayfly.lock().await;
                let updater = mayfly.dns_updater.as_mut().context("a dns-updater")?;
                updater.signal(Signal::Cont)?;
            }
        }
    }
    Ok(())
}

/// prod changes between two versions of web.
async fn versions(stage: &Stage, mut chance: Chance) -> Result<()> {
    while stage.goes_on() {
        pause(&mut chance, 500, 4_000).await;
        let _change = stage.changing.read().await;
        let from = stage.version.get();
        let to = if from == "1.0.0" { "2.0.0" } else { "1.0.0" };
        stage.event("a version changed");
        stage.www.set(&[&format!("web@{from}"), &format!("web@{to}")]);
        stage.mayfly.lock().await.save("prod.yaml", &prod(to));
        stage.version.set(to);
        let since = Instant::now();
        eventually(AT_LAST, &format!("www is answered by {to}"), async || {
            let found = stage.answers(WWW).await?;
            ensure!(found == format!("web@{to}"), "{found} answers");
            Ok(())
        })
        .await;
        stage.www.set(&[&format!("web@{to}")]);
        stage.took("a version changed", since.elapsed());
    }
    Ok(())
}

/// Environments are created and deleted.
async fn environments(stage: &Stage, mut chance: Chance) -> Result<()> {
    while stage.goes_on() {
        let name = format!("temp-{}", chance.below(NAMES));
        let (file, host) = (format!("{name}.yaml"), format!("www-{name}.example.com"));
        stage.event("an environment created and deleted");
        let service = chance.one(&[
            "{name: web, version: 2.0.0, route: /}",
            "{name: web, version: 1.0.0, route: /}",
        ]);
        let text = format!("{{name: {name}, extends: prod, services: [{service}]}}");
        stage.mayfly.lock().await.save(&file, &text);
        let since = Instant::now();
        eventually(AT_LAST, &format!("{host} answers"), async || {
            stage.answers(&host).await
        })
        .await;
        stage.took("an environment created", since.elapsed());
        pause(&mut chance, 0, 2_000).await;
        stage.mayfly.lock().await.remove(&file);
        let since = Instant::now();
        eventually(AT_LAST, &format!("{host} is gone"), async || {
            let status = Request::get(&host, "/").send(stage.edge).await?.status;
            ensure!(matches!(status, 404 | 410), "it answers {status}");
            Ok(())
        })
        .await;
        stage.took("an environment deleted", since.elapsed());
    }
    Ok(())
}

/// Addresses of web 1.0.0 at which nothing listens come and go.
async fn refusing(stage: &Stage, mut chance: Chance) -> Result<()> {
    while stage.goes_on() {
        pause(&mut chance, 50, 1_000).await;
        let address = format!("127.9.0.{}:1", 1 + chance.below(NAMES));
        let key = format!("/mayfly/backends/web/1.0.0/{address}");
        let record = format!(r#"{{"address": "{address}"}}"#);
        let put = async { stage.mayfly.lock().await.etcd.put(&key, &record).await };
        if !matches!(timeout(QUESTION, put).await, Ok(Ok(()))) {
            continue;
        }
        stage.event("an address that refuses");
        pause(&mut chance, 10, 300).await;
        // It has no lease, so it has to be deleted whatever happens to etcd.
        eventually(AT_LAST, &format!("{key} is deleted"), async || {
            let delete = async { stage.mayfly.lock().await.etcd.delete(&key).await };
            timeout(QUESTION, delete).await.context("no answer")?
        })
        .await;
    }
    Ok(())
}

/// A person looks at the page.
async fn page(stage: &Stage, mut chance: Chance) -> Result<()> {
    while stage.goes_on() {
        pause(&mut chance, 100, 1_000).await;
        for path in ["/", "/v1/state"] {
            let request = Request::get(&stage.web_address.to_string(), path);
            if let Ok(Ok(answer)) = timeout(mayfly::SOON, request.send(stage.web_address)).await {
                ensure!(
                    matches!(answer.status, 200 | 503),
                    "{path} answers {}",
                    answer.status
                );
            }
        }
    }
    Ok(())
}

async fn samples(stage: &Stage) -> Result<()> {
    while stage.goes_on() {
        sleep(SAMPLE).await;
        if stage.phase == Phase::Gentle {
            stage.sample().await;
        }
    }
    Ok(())
}
