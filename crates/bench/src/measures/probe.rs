//! Routes that are added one after the other while other environments change all the time: from the
//! rename of a new environment's file to the first right answer at the edge. Until then every answer
//! has to be a 404, and from then on every answer has to be right. The public benchmark of Gateway
//! API implementations (howardjohn/gateway-api-bench) adds as many routes, and it adds some while as
//! many others change.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use crate::fleet::{self, Scale, VERSIONS};
use crate::pace::Pace;
use crate::probe::Probe;
use crate::results::{Goal, Results, millis};
use crate::scaled::ScaledMayfly;

/// Limit for one change.
const LIMIT: Duration = Duration::from_secs(60);
/// Limit for all routes: where each takes long, fewer are added.
const ALL: Duration = Duration::from_secs(240);
/// From one change of the other environments to the next: fifty a second. While 3,000 routes are
/// added, each of 5,000 environments changes about once.
const CHURN: Duration = Duration::from_millis(20);
/// The longest pause between two routes.
const PAUSE: Duration = Duration::from_millis(50);

/// How much is to happen.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Environments that change meanwhile.
    pub environments: usize,
    /// Routes that are added.
    pub routes: usize,
}

/// What was seen of the routes that are added.
#[derive(Debug, Default)]
struct Added {
    times: Vec<Duration>,
    /// Requests without an answer of 200, or of 404 to a route that is not there yet.
    failed: usize,
    /// Answers of 200 from another instance than the right one.
    wrong: usize,
}

/// Adds so many routes while all environments of the Mayfly change.
///
/// # Errors
/// When a route or a change takes no effect within a minute.
pub fn run(scaled: &ScaledMayfly, routes: usize, results: &mut Results) -> Result<()> {
    let done = AtomicBool::new(false);
    let start = Instant::now();
    let (added, churned) = std::thread::scope(|scope| {
        let churned = scope.spawn(|| churn(scaled, &done));
        let added = add(scaled, routes);
        done.store(true, Ordering::Relaxed);
        (added, churned.join())
    });
    let added = added?;
    let churned = churned.map_err(|_| anyhow!("the thread of the churn panicked"))??;
    let rate = churned as f64 / start.elapsed().as_secs_f64();
    let scale = scaled.scale;
    let goals = (Goal::None, Goal::AtMost(30.0));
    results.add_times("probe", "mayfly", scale, &added.times, goals);
    let slowest = added.times.iter().max().context("a route")?;
    let count = (added.times.len() as f64, "routes");
    results.add(
        "probe routes",
        "mayfly",
        scale,
        count,
        Goal::AtLeast(routes as f64),
    );
    results.add("probe max", "mayfly", scale, (millis(*slowest), "ms"), Goal::None);
    for (name, count, unit) in [
        ("probe failed", added.failed, "requests"),
        ("probe wrong", added.wrong, "answers"),
    ] {
        results.add(name, "mayfly", scale, (count as f64, unit), Goal::AtMost(0.0));
    }
    results.add("probe churn", "mayfly", scale, (rate, "changes/s"), Goal::None);
    Ok(())
}

/// Adds the routes, as far as there is time. After each it asks again for it and for an earlier one,
/// and in the end for all.
fn add(scaled: &ScaledMayfly, routes: usize) -> Result<Added> {
    let (mut pace, mut added) = (Pace::default(), Added::default());
    let begun = Instant::now();
    for number in 0..routes {
        if begun.elapsed() > ALL {
            break;
        }
        let (name, version) = (name(number), VERSIONS[number % VERSIONS.len()]);
        let text = format!("name: {name}\nservices: [{{name: web, version: {version}, route: /}}]\n");
        let (beside, place) = scaled.prepare_text(&name, &text)?;
        let mut probe = edge(scaled, number);
        let before = probe.ask().context("ask before the change")?;
        ensure!(
            before.status == 404,
            "{name} answers {before:?} before it is added"
        );
        std::thread::sleep(pace.next_pause_within(PAUSE));
        let backend = backend(number);
        let start = Instant::now();
        std::fs::rename(beside, place).context("rename a file")?;
        let mut early = 0;
        let (right, refused) = probe
            .until(LIMIT, |answer| {
                let is_right = answer.is_from(&backend);
                early += usize::from(answer.status == 404);
                added.wrong += usize::from(answer.status == 200 && !is_right);
                is_right
            })
            .with_context(|| format!("route {number}: {name} to {backend}"))?;
        added.times.push(right - start);
        added.failed += refused - early;
        ask_again(scaled, number, &mut added);
        let earlier = pace.next_number() % (number as u64 + 1);
        ask_again(scaled, earlier as usize, &mut added);
    }
    for number in 0..added.times.len() {
        ask_again(scaled, number, &mut added);
    }
    Ok(added)
}

/// Asks on a connection of its own for a route that has answered right.
fn ask_again(scaled: &ScaledMayfly, number: usize, added: &mut Added) {
    match edge(scaled, number).ask() {
        Ok(answer) if answer.is_from(&backend(number)) => {}
        Ok(answer) if answer.status == 200 => added.wrong += 1,
        _ => added.failed += 1,
    }
}

/// Changes one environment after the other at a steady pace until the routes are there, and says how
/// many changes there were. The last one has to take effect.
fn churn(scaled: &ScaledMayfly, done: &AtomicBool) -> Result<usize> {
    let Scale {
        environments,
        services,
    } = scaled.scale;
    let (start, mut count, mut last) = (Instant::now(), 0, (0, String::new()));
    while !done.load(Ordering::Relaxed) {
        let (number, round) = (count % environments, count / environments);
        let web = VERSIONS[(fleet::version(number, 0) + round + 1) % VERSIONS.len()];
        let (beside, place) = scaled.prepare(number, services, web)?;
        std::fs::rename(beside, place).context("rename a file")?;
        last = (number, format!("web@{web}"));
        count += 1;
        let due = CHURN * u32::try_from(count).context("a count of changes")?;
        std::thread::sleep(due.saturating_sub(start.elapsed()));
    }
    let (number, backend) = last;
    scaled
        .edge(number)
        .until(LIMIT, |answer| answer.is_from(&backend))
        .with_context(|| format!("the last change: environment {number} to {backend}"))?;
    Ok(count)
}

fn name(number: usize) -> String {
    format!("probe-{number:05}")
}

fn backend(number: usize) -> String {
    format!("web@{}", VERSIONS[number % VERSIONS.len()])
}

/// A probe of a route from outside.
fn edge(scaled: &ScaledMayfly, number: usize) -> Probe {
    let host = format!("www-{}.example.com", name(number));
    Probe::new(scaled.mayfly.edge, &host, &[])
}
