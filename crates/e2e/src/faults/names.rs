//! dnsmasq and dns-updater are killed while names are asked for.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::Length;
use super::loaded::{LoadedMayfly, Outcome};
use crate::dnsmasq::lookup_once;
use crate::load::Report;

/// Leases play no part here.
const TTL: &str = "10s";
/// Between two questions.
const EVERY: Duration = Duration::from_millis(5);
/// A service that came meanwhile has a name after the start of dns-updater.
const CAUGHT_UP: Duration = Duration::from_secs(2);
/// dnsmasq has all names again, right after it answers.
const READ: Duration = Duration::from_millis(100);

/// A name is asked for 200 times a second, and has to lead to the same address each time.
struct Questions {
    asking: JoinHandle<Report>,
    stop: Arc<AtomicBool>,
    /// Grows with each begin and each end of an outage of dnsmasq.
    outages: Arc<AtomicU32>,
}

impl Questions {
    fn begin(server: SocketAddr, expected: IpAddr) -> Self {
        let (stop, outages) = (Arc::<AtomicBool>::default(), Arc::<AtomicU32>::default());
        let asking = tokio::spawn(ask(server, expected, stop.clone(), outages.clone()));
        Self {
            asking,
            stop,
            outages,
        }
    }

    async fn end(self) -> Result<Report> {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.await.context("end the questions")
    }
}

async fn ask(server: SocketAddr, expected: IpAddr, stop: Arc<AtomicBool>, outages: Arc<AtomicU32>) -> Report {
    let (mut report, start) = (Report::default(), Instant::now());
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        let before = outages.load(Ordering::Relaxed);
        let answer = lookup_once(server, "web.service").await;
        report.requests += 1;
        let wrong = match answer {
            Ok(found) if found == [expected] => continue,
            Ok(found) => format!("web.service is at {found:?}"),
            Err(error) => format!("{error:#}"),
        };
        // Asked in an outage, or lost in one that is perhaps over by now.
        if before % 2 == 1 || before != outages.load(Ordering::Relaxed) {
            report.excused += 1;
        } else {
            report.failures.push((start.elapsed(), wrong));
        }
    }
    report
}

/// Both, several times.
pub async fn restarted(length: Length) -> Result<Outcome> {
    let mut loaded = LoadedMayfly::start(length, TTL).await?;
    loaded.mayfly.start_dns().await?;
    let internal = loaded.mayfly.internal.ip();
    loaded.mayfly.resolves("web.service", &[internal]).await;
    let server = loaded.mayfly.dnsmasq.as_ref().context("dnsmasq")?.address();
    loaded.excuse = "while dnsmasq was down";
    let questions = Questions::begin(server, internal);
    for round in 0..length.pick(1, 5) {
        let service = format!("extra-{round}");
        let updater = loaded.mayfly.dns_updater.as_mut().context("dns-updater")?;
        updater.kill9().await?;
        let extra = loaded.mayfly.killable(&service, "1.0.0", &[]).await?;
        loaded.instances.push(extra);
        loaded.last(1, 2).await;
        let command = loaded.mayfly.dns_watch()?;
        loaded.mayfly.dns_updater = Some(loaded.mayfly.spawn("dns-updater", &command)?);
        let since = Instant::now();
        let named = async |loaded: &LoadedMayfly| {
            let dnsmasq = loaded.mayfly.dnsmasq.as_ref().context("dnsmasq")?;
            let found = dnsmasq.lookup(&format!("{service}.service")).await?;
            ensure!(found == [internal], "{service}.service is at {found:?}");
            Ok(())
        };
        loaded.sees("new names", since, CAUGHT_UP, named).await;
        let dnsmasq = loaded.mayfly.dnsmasq.as_mut().context("dnsmasq")?;
        questions.outages.fetch_add(1, Ordering::Relaxed);
        dnsmasq.kill9().await?;
        dnsmasq.restart().await?;
        questions.outages.fetch_add(1, Ordering::Relaxed);
        let since = Instant::now();
        loaded
            .sees("names after dnsmasq's start", since, READ, named)
            .await;
        loaded.last(1, 2).await;
    }
    let asked = questions.end().await?;
    let mut outcome = loaded.end().await;
    outcome.report.add(asked);
    Ok(outcome)
}
