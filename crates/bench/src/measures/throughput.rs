//! Requests a second and their latency, through each side of each system. The machine's speed changes from one second to the next, so
//! Mayfly and the HAProxies it is compared with take turns, and the median of the rounds counts.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::fleet::Scale;
use crate::load::{Load, Report, Side};
use crate::peers::haproxy::Haproxy;
use crate::results::{Goal, Results, millis};
use crate::scaled::ScaledMayfly;

const BARE: &str = "bare haproxy";
const LEAST: &str = "least haproxy";
/// What Mayfly is measured by.
const RETRIES: &str = "least haproxy, retries";
pub const CONNECTIONS: usize = 32;

/// How a system is loaded.
pub struct Rounds {
    /// How often, taking turns.
    pub count: usize,
    pub time: Duration,
}

/// A system by name, with its edge and its internal side.
pub type System<'a> = (&'a str, SocketAddr, SocketAddr);

/// Mayfly against HAProxy alone, and against the least of rules, without and with Mayfly's retries.
///
/// # Errors
/// When a request fails.
pub async fn of_mayfly(scaled: &ScaledMayfly, rounds: &Rounds, results: &mut Results) -> Result<()> {
    let (bare, least) = (Haproxy::bare(scaled)?, Haproxy::least(scaled)?);
    let retries = Haproxy::least_with_retries(scaled)?;
    let systems = [
        (BARE, bare.edge, bare.internal),
        (LEAST, least.edge, least.internal),
        (RETRIES, retries.edge, retries.internal),
        ("mayfly", scaled.mayfly.edge, scaled.mayfly.internal),
    ];
    measure(scaled, &systems, rounds, results).await?;
    for name in [LEAST, RETRIES, "mayfly"] {
        shares(name, (BARE, "bare"), (scaled.scale, "of 1", Goal::None), results);
    }
    let goal = (scaled.scale, "of 1", Goal::AtLeast(0.95));
    shares("mayfly", (RETRIES, "least with retries"), goal, results);
    Ok(())
}

/// How much of the rate of another system one reaches on each side, where both were measured. The
/// measure calls the other one by its second name.
pub fn shares(
    system: &str,
    (other, named): (&str, &str),
    (scale, unit, goal): (Scale, &'static str, Goal),
    results: &mut Results,
) {
    for side in Side::BOTH {
        let rate = format!("{} rate", side.as_str());
        let find = |system| results.find(&rate, system, scale);
        if let Some((this, other)) = find(system).zip(find(other)) {
            let measure = format!("{} share of {named}", side.as_str());
            results.add(measure, system, scale, (this / other, unit), goal);
        }
    }
}

/// Any systems, in turns.
///
/// # Errors
/// When a request fails.
pub async fn measure(
    scaled: &ScaledMayfly,
    systems: &[System<'_>],
    rounds: &Rounds,
    results: &mut Results,
) -> Result<()> {
    for side in Side::BOTH {
        let mut reports: Vec<Vec<Report>> = systems.iter().map(|_| Vec::new()).collect();
        for _ in 0..rounds.count {
            for ((name, edge, internal), reports) in systems.iter().zip(&mut reports) {
                let load = Load {
                    to: if side == Side::Edge { *edge } else { *internal },
                    side,
                    tls: false,
                    first: 0,
                    environments: scaled.scale.environments,
                    services: scaled.scale.services,
                    headers: &[],
                    connections: CONNECTIONS,
                    time: rounds.time,
                    log: None,
                };
                let report = load.run(scaled.mayfly.directory()).await?;
                ensure!(report.failed == 0, "{} requests to {name} failed", report.failed);
                reports.push(report);
            }
        }
        for ((name, ..), mut reports) in systems.iter().zip(reports) {
            reports.sort_by(|one, other| one.rate.total_cmp(&other.rate));
            let median = reports[reports.len() / 2];
            let side = side.as_str();
            let rate = (median.rate, "requests/s");
            results.add(format!("{side} rate"), *name, scaled.scale, rate, Goal::None);
            let p99 = (millis(median.p99), "ms");
            results.add(format!("{side} p99"), *name, scaled.scale, p99, Goal::None);
        }
    }
    Ok(())
}
