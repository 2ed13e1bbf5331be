//! Requests a second and their latency, through each side of each system. The machine's speed changes from one second to the next, so
//! Mayfly and bare HAProxy take turns, and the median of the rounds counts.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};

use crate::load::{Load, Report, Side};
use crate::peers::haproxy::Haproxy;
use crate::results::{Goal, Results, millis};
use crate::scaled::ScaledMayfly;

/// What all others are measured by.
const BARE: &str = "bare haproxy";
pub const CONNECTIONS: usize = 32;

/// How a system is loaded.
pub struct Rounds {
    /// How often, taking turns.
    pub count: usize,
    pub time: Duration,
}

/// A system by name, with its edge and its internal side.
pub type System<'a> = (&'a str, SocketAddr, SocketAddr);

/// Mayfly against HAProxy alone, and against the least of rules.
///
/// # Errors
/// When a request fails.
pub async fn of_mayfly(scaled: &ScaledMayfly, rounds: &Rounds, results: &mut Results) -> Result<()> {
    let (bare, least) = (Haproxy::bare(scaled)?, Haproxy::least(scaled)?);
    let systems = [
        (BARE, bare.edge, bare.internal),
        ("least haproxy", least.edge, least.internal),
        ("mayfly", scaled.mayfly.edge, scaled.mayfly.internal),
    ];
    measure(scaled, &systems, rounds, results).await?;
    for side in Side::BOTH {
        let rate = format!("{} rate", side.as_str());
        for (name, goal) in [("least haproxy", Goal::None), ("mayfly", Goal::AtLeast(0.95))] {
            let find = |system| results.find(&rate, system, scaled.scale);
            if let Some((this, bare)) = find(name).zip(find(BARE)) {
                let measure = format!("{} share of bare", side.as_str());
                results.add(measure, name, scaled.scale, (this / bare, "of 1"), goal);
            }
        }
    }
    Ok(())
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
