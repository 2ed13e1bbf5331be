//! One Mayfly that grows to 100,000 environments of 20 services: how long it takes to grow, what a
//! change takes there, the memory, and in the end the start of haproxy-updater. Nothing of this was
//! promised. It goes on when something breaks, says at once what did, and fails in the end.

use std::time::Duration;

use anyhow::{Context, Error, Result};
use mayfly_e2e::http::Request;

use crate::fleet::Scale;
use crate::measures::change::{Files, changes};
use crate::measures::{start, usage};
use crate::results::{Goal, Results};
use crate::scaled::ScaledMayfly;

const SERVICES: usize = 20;
/// environment-registrar takes 20,000 environments and 256 MB by default.
const LIMITS: [&str; 4] = ["--max-environments", "200000", "--max-bytes", "2g"];
/// Limit for growing by one step.
const GROWTH: Duration = Duration::from_secs(15 * 60);
/// Lines of each log that are shown when something breaks.
const TAIL: usize = 4;

/// How far to go.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Environments, step by step.
    pub steps: &'static [usize],
    /// Changes at each step.
    pub changes: usize,
}

/// Grows step by step and measures at each; after the last, or the first that is not reached, it
/// measures the starts.
///
/// # Errors
/// When a Mayfly with one environment does not start, and in the end with what broke first.
pub async fn run(extent: Extent, results: &mut Results) -> Result<()> {
    let mut scaled = ScaledMayfly::start_with(Scale::new(1, SERVICES), &LIMITS).await?;
    let mut broken = Vec::new();
    for environments in extent.steps {
        let wanted = Scale::new(*environments, SERVICES);
        let grown = scaled.grow_within(wanted, GROWTH).await;
        let scale = match grown {
            Ok(time) => {
                let seconds = (time.as_secs_f64(), "s");
                results.add("grown", "mayfly", wanted, seconds, Goal::None);
                wanted.to_string()
            }
            Err(_) => format!("{wanted}, not reached"),
        };
        let was_reached = grown.is_ok();
        let at = |what: &str| format!("{what} at {scale}");
        note(&scaled, &mut broken, &at("growth"), grown.map(drop));
        let counted = routed(&scaled, &scale, results).await;
        note(&scaled, &mut broken, &at("rows"), counted);
        let settled = usage::settle(&scaled).await;
        note(&scaled, &mut broken, &at("rest"), settled);
        let measured = memory(&scaled, &scale, results).await;
        note(&scaled, &mut broken, &at("memory"), measured);
        let changed = change(&scaled, &scale, extent.changes, results);
        note(&scaled, &mut broken, &at("changes"), changed);
        if !was_reached {
            break;
        }
    }
    let started = start::beside_a_running_haproxy(&mut scaled, results).await;
    note(&scaled, &mut broken, "start beside a running HAProxy", started);
    let started = start::from_nothing(&mut scaled, results).await;
    note(&scaled, &mut broken, "start from nothing", started);
    broken.into_iter().next().map_or(Ok(()), Err)
}

/// Says what broke, and what the daemons say of it.
fn note(scaled: &ScaledMayfly, broken: &mut Vec<Error>, what: &str, outcome: Result<()>) {
    let Err(error) = outcome.with_context(|| what.to_owned()) else {
        return;
    };
    eprintln!("    broke: {error:#}");
    let mayfly = &scaled.mayfly;
    let mut logs = vec![("haproxy", mayfly.haproxy.output())];
    for daemon in [&mayfly.registrar, &mayfly.updater, &mayfly.dns_updater] {
        logs.extend(daemon.iter().map(|daemon| (daemon.name(), daemon.output())));
    }
    let of_etcd = std::fs::read_to_string(mayfly.etcd.directory().join("etcd.log"));
    logs.push(("etcd", of_etcd.unwrap_or_default()));
    for (name, log) in logs {
        let lines: Vec<_> = log.lines().collect();
        for line in &lines[lines.len().saturating_sub(TAIL)..] {
            eprintln!("      {name}: {line}");
        }
    }
    broken.push(error);
}

/// How many environments HAProxy has.
async fn routed(scaled: &ScaledMayfly, scale: &str, results: &mut Results) -> Result<()> {
    let rows = scaled.mayfly.haproxy.map(&scaled.mayfly.map_file("edge")).await?;
    let count = (rows.len() as f64, "environments");
    results.add("routed", "haproxy", scale, count, Goal::None);
    Ok(())
}

/// Memory of everything, and the size of etcd's database.
async fn memory(scaled: &ScaledMayfly, scale: &str, results: &mut Results) -> Result<()> {
    for (name, process) in scaled.processes().await? {
        usage::memory_of(name, process, scale, results)?;
    }
    for (measure, metric) in [
        ("memory", "process_resident_memory_bytes"),
        ("database", "etcd_mvcc_db_total_size_in_bytes"),
    ] {
        let size = (of_etcd(scaled, metric).await? / 1e6, "MB");
        results.add(measure, "etcd", scale, size, Goal::None);
    }
    Ok(())
}

/// A metric of etcd.
async fn of_etcd(scaled: &ScaledMayfly, metric: &str) -> Result<f64> {
    let address = scaled.mayfly.etcd.address();
    let answer = Request::get("etcd", "/metrics").send(address).await?;
    let lines = answer.body.lines();
    let mut values = lines.filter_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    let value = values.next().with_context(|| format!("etcd has no {metric}"))?;
    value.parse().with_context(|| format!("{metric} is {value}"))
}

/// Changes of environments that are there for certain.
fn change(scaled: &ScaledMayfly, scale: &str, count: usize, results: &mut Results) -> Result<()> {
    let times = changes(&mut Files::new(scaled), scaled.scale.environments, count)?;
    results.add_times("change", "mayfly", scale, &times, (Goal::None, Goal::None));
    Ok(())
}
