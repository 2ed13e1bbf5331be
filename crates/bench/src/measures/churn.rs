//! A million requests while everything changes: environments, instances, versions. Every answer is checked afterwards: that the
//! environment is the one that was asked for, and that the version was its version at some moment between question and answer.

mod witness;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mayfly_e2e::process::{Process, Signal};

use crate::fleet::{self, VERSIONS};
use crate::load::{Load, Report, Side};
use crate::origin::Instance;
use crate::pace::Pace;
use crate::probe::Probe;
use crate::results::{Goal, Results};
use crate::scaled::ScaledMayfly;

use witness::{History, Witness, now};

const LIMIT: Duration = Duration::from_secs(60);
const DRAIN: &str = "1s";
/// Connections of the load on each side, each with a pause of a millisecond between requests.
const CONNECTIONS: usize = 8;
/// One run of wrk; there are as many as it takes.
const PART: Duration = Duration::from_secs(10);
/// Every tenth environment changes.
const CHANGING: usize = 10;

/// A container registrar and its instance.
type Running = (Process, Instance);

/// How much is to happen.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    pub environments: usize,
    /// Instances that come or go.
    pub instances: usize,
    /// Versions never seen before.
    pub versions: usize,
    /// Requests at least.
    pub requests: u64,
}

/// Runs it.
///
/// # Errors
/// When a change takes no effect, or wrk fails.
pub async fn run(scaled: &ScaledMayfly, extent: Extent, results: &mut Results) -> Result<()> {
    scaled.add(
        "churn",
        "name: churn\nservices: [{name: churning, version: 1.0.0, route: /}]\n",
    )?;
    scaled.add(
        "newest",
        "name: newest\nservices: [{name: newer, version: latest, route: /}]\n",
    )?;
    let still = scaled.origin.open("churning", "1.0.0")?;
    let _registrar = scaled.mayfly.register("churning", "1.0.0", still.address, &[])?;
    let first = scaled.origin.open("newer", "0.1.0")?;
    let first = (
        scaled
            .mayfly
            .register("newer", "0.1.0", first.address, &["--drain", DRAIN])?,
        first,
    );
    for (name, backend) in [("churn", "churning@1.0.0"), ("newest", "newer@0.1.0")] {
        let mut probe = Probe::new(scaled.mayfly.edge, &format!("www-{name}.example.com"), &[]);
        probe.until(LIMIT, |answer| answer.is_from(backend))?;
    }
    let mut witness = Witness::default();
    witness.choose("churn", "churning", History::beginning("1.0.0"));
    for number in 0..scaled.scale.environments {
        for service in 0..scaled.scale.services {
            let version = if service == 0 {
                let answer = scaled.edge(number).ask()?;
                let backend = answer.body.split(' ').next().unwrap_or_default().to_owned();
                backend.trim_start_matches("web@").to_owned()
            } else {
                VERSIONS[fleet::version(number, service)].to_owned()
            };
            let (environment, service) = (fleet::environment(number), fleet::service(service));
            witness.choose(&environment, &service, History::beginning(&version));
        }
    }
    let reloads = scaled.mayfly.reloads().await?;
    let done = AtomicBool::new(false);
    let logs = Side::BOTH.map(|side| {
        scaled
            .mayfly
            .directory()
            .join(format!("answers-{}", side.as_str()))
    });
    let start = Instant::now();
    // Each kind of change on a thread of its own; a process ends with the thread that started it, so what has to outlive the
    // changes is started from this one.
    let (changed, came, newest, report) = std::thread::scope(|scope| {
        let handle = tokio::runtime::Handle::current();
        let (logs, done) = (&logs, &done);
        let load = scope.spawn(move || handle.block_on(load(scaled, logs, extent.requests, done)));
        let changed = scope.spawn(|| environments(scaled, extent.environments));
        let came = scope.spawn(|| instances(scaled, extent.instances));
        let newest = versions(scaled, extent.versions, first);
        let (changed, came) = (changed.join(), came.join());
        done.store(true, Ordering::Relaxed);
        (changed, came, newest, load.join())
    });
    let panicked = |_| anyhow::anyhow!("a thread of the churn panicked");
    came.map_err(panicked)??;
    for (environment, history) in changed.map_err(panicked)?? {
        witness.choose(&environment, "web", history);
    }
    let (history, _newest) = newest?;
    witness.choose("newest", "newer", history);
    let report = report.map_err(panicked)??;
    let elapsed = start.elapsed().as_secs_f64();
    let mut wrong = Vec::new();
    let mut checked = 0;
    for log in &logs {
        checked += witness.check(log, &mut wrong)?;
    }
    for line in wrong.iter().take(5) {
        eprintln!("    wrong: {line}");
    }
    ensure!(
        checked >= report.requests,
        "only {checked} of {} answers were checked",
        report.requests
    );
    let mut add = |name: &str, figure: f64, unit, goal| {
        results.add(
            format!("churn {name}"),
            "mayfly",
            scaled.scale,
            (figure, unit),
            goal,
        );
    };
    add(
        "requests",
        report.requests as f64,
        "requests",
        Goal::AtLeast(extent.requests as f64),
    );
    add(
        "rate",
        report.requests as f64 / elapsed,
        "requests/s",
        Goal::AtLeast(2_000.0),
    );
    add("failed", report.failed as f64, "requests", Goal::AtMost(0.0));
    add("wrong", wrong.len() as f64, "answers", Goal::AtMost(0.0));
    let reloads = (scaled.mayfly.reloads().await? - reloads) as f64;
    add("reloads", reloads, "reloads", Goal::AtMost(0.0));
    Ok(())
}

/// Load on both sides, until everything has happened and there were enough requests.
async fn load(scaled: &ScaledMayfly, logs: &[PathBuf; 2], least: u64, done: &AtomicBool) -> Result<Report> {
    let often = ["churn/churning".to_owned(), "newest/newer".to_owned()];
    let part = |side, to, log| Load {
        to,
        side,
        tls: false,
        first: 0,
        environments: scaled.scale.environments,
        services: scaled.scale.services,
        headers: &[],
        connections: CONNECTIONS,
        time: PART,
        log: Some((log, &often)),
    };
    let edge = part(Side::Edge, scaled.mayfly.edge, &logs[0]);
    let internal = part(Side::Internal, scaled.mayfly.internal, &logs[1]);
    let directory = scaled.mayfly.directory();
    let mut total = Report::default();
    while !done.load(Ordering::Relaxed) || total.requests < least {
        let (edge, internal) = tokio::join!(edge.run(directory), internal.run(directory));
        for report in [edge?, internal?] {
            total.requests += report.requests;
            total.failed += report.failed;
        }
    }
    Ok(total)
}

/// Changes environments one after the other.
fn environments(scaled: &ScaledMayfly, count: usize) -> Result<Vec<(String, History)>> {
    let mut pace = Pace::default();
    let changing = scaled.scale.environments / CHANGING;
    let mut histories = Vec::new();
    for number in 0..changing {
        let number = number * CHANGING;
        let answer = scaled.edge(number).ask()?;
        let version = VERSIONS
            .iter()
            .position(|version| answer.is_from(&format!("web@{version}")));
        let version = version.with_context(|| format!("environment {number} answers {answer:?}"))?;
        histories.push((number, version, History::beginning(VERSIONS[version])));
    }
    for change in 0..count {
        let (number, version, history) = &mut histories[change % changing];
        *version = (*version + 1) % VERSIONS.len();
        let (beside, place) = scaled.prepare(*number, scaled.scale.services, VERSIONS[*version])?;
        let begun = now();
        std::fs::rename(beside, place).context("rename a file")?;
        let backend = format!("web@{}", VERSIONS[*version]);
        scaled
            .edge(*number)
            .until(LIMIT, |answer| answer.is_from(&backend))
            .with_context(|| format!("environment {number} to {backend}"))?;
        history.change(begun, now(), VERSIONS[*version]);
        std::thread::sleep(pace.next_pause() / 4);
    }
    let all = histories.into_iter();
    Ok(all
        .map(|(number, _, history)| (fleet::environment(number), history))
        .collect())
}

/// Lets instances of a service come and go; a process of the service ends as soon as its registrar has.
fn instances(scaled: &ScaledMayfly, count: usize) -> Result<()> {
    let mut pace = Pace::default();
    let mut going = Vec::new();
    let mut probe = Probe::new(scaled.mayfly.edge, "www-churn.example.com", &[]);
    for _ in 0..count / 2 {
        let instance = scaled.origin.open("churning", "1.0.0")?;
        let mut registrar =
            scaled
                .mayfly
                .register("churning", "1.0.0", instance.address, &["--drain", DRAIN])?;
        let address = format!(" {} ", instance.address);
        probe
            .until(LIMIT, |answer| answer.body.contains(&address))
            .context("an instance comes")?;
        registrar.signal(Signal::Term)?;
        going.push((registrar, instance));
        going.retain_mut(|(registrar, _)| registrar.is_running());
        std::thread::sleep(pace.next_pause() / 2);
    }
    finish(going)
}

/// Brings versions that nobody has seen; the one before goes each time.
fn versions(scaled: &ScaledMayfly, count: usize, first: Running) -> Result<(History, Running)> {
    let mut pace = Pace::default();
    let mut history = History::beginning("0.1.0");
    let (mut newest, mut going) = (first, Vec::new());
    let mut probe = Probe::new(scaled.mayfly.edge, "www-newest.example.com", &[]);
    for number in 1..=count {
        let version = format!("1.{number}.0");
        let instance = scaled.origin.open("newer", &version)?;
        let begun = now();
        let registrar = scaled
            .mayfly
            .register("newer", &version, instance.address, &["--drain", DRAIN])?;
        let backend = format!("newer@{version}");
        probe
            .until(LIMIT, |answer| answer.is_from(&backend))
            .with_context(|| format!("version {version}"))?;
        history.change(begun, now(), &version);
        let mut old = std::mem::replace(&mut newest, (registrar, instance));
        old.0.signal(Signal::Term)?;
        going.push(old);
        going.retain_mut(|(registrar, _)| registrar.is_running());
        std::thread::sleep(pace.next_pause());
    }
    finish(going)?;
    Ok((history, newest))
}

fn finish(mut going: Vec<Running>) -> Result<()> {
    let start = Instant::now();
    while !going.is_empty() {
        ensure!(start.elapsed() < LIMIT, "a container registrar does not end");
        going.retain_mut(|(registrar, _)| registrar.is_running());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
