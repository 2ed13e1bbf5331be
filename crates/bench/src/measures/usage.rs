//! Memory and CPU time of each process.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::measures::change::{Files, changes};
use crate::results::{Goal, Results, millis};
use crate::scaled::ScaledMayfly;
use crate::usage;

/// Memory of everything, of a container registrar too.
///
/// # Errors
/// When a process has ended.
pub async fn memory(scaled: &ScaledMayfly, results: &mut Results) -> Result<()> {
    for (name, process) in scaled.processes().await? {
        let goal = match name {
            // What HAProxy takes for half a million rows is HAProxy's.
            "haproxy" if scaled.scale.environments > 1_000 => Goal::None,
            "haproxy" => Goal::AtMost(40.0),
            _ => Goal::AtMost(20.0),
        };
        results.add(
            "memory",
            name,
            scaled.scale,
            (usage::memory(process)?, "MB"),
            goal,
        );
    }
    Ok(())
}

/// Memory of a process of which nothing was promised.
///
/// # Errors
/// When it has ended.
pub fn memory_of(name: &str, process: u32, scale: impl ToString, results: &mut Results) -> Result<()> {
    results.add("memory", name, scale, (usage::memory(process)?, "MB"), Goal::None);
    Ok(())
}

/// Until no daemon takes more than this of a core, what came before is not over: contents are archived after they took effect.
const QUIET: f64 = 0.02;
/// For that, at most.
const SETTLE: Duration = Duration::from_secs(60);

/// Waits until the daemons have nothing left to do of what came before.
///
/// # Errors
/// When a process has ended.
pub async fn settle(scaled: &ScaledMayfly) -> Result<()> {
    let start = Instant::now();
    let mut before = cpu_of(scaled).await?;
    loop {
        let look = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = cpu_of(scaled).await?;
        let spent = (now - before).as_secs_f64() / look.elapsed().as_secs_f64();
        if spent < QUIET || start.elapsed() > SETTLE {
            return Ok(());
        }
        before = now;
    }
}

/// CPU time of all daemons together.
async fn cpu_of(scaled: &ScaledMayfly) -> Result<Duration> {
    let processes = scaled.processes().await?;
    let daemons = processes.into_iter().filter(|(name, _)| *name != "haproxy");
    daemons.map(|(_, process)| usage::cpu(process)).sum()
}

/// CPU time of everything while nothing happens, in percent of one core.
///
/// # Errors
/// When a process has ended.
pub async fn idle(scaled: &ScaledMayfly, time: Duration, results: &mut Results) -> Result<()> {
    settle(scaled).await?;
    let processes = scaled.processes().await?;
    let mut before = Vec::new();
    for (_, process) in &processes {
        before.push(usage::cpu(*process)?);
    }
    let start = Instant::now();
    tokio::time::sleep(time).await;
    for ((name, process), before) in processes.into_iter().zip(before) {
        let share = (usage::cpu(process)? - before).as_secs_f64() / start.elapsed().as_secs_f64();
        let goal = if name == "haproxy" {
            Goal::None
        } else {
            Goal::AtMost(0.1)
        };
        results.add("idle CPU", name, scaled.scale, (share * 100.0, "%"), goal);
    }
    Ok(())
}

/// CPU time of everything for each change.
///
/// # Errors
/// When a change takes no effect.
pub async fn per_change(scaled: &ScaledMayfly, count: usize, results: &mut Results) -> Result<()> {
    let processes = scaled.processes().await?;
    let mut before = Vec::new();
    for (_, process) in &processes {
        before.push(usage::cpu(*process)?);
    }
    changes(&mut Files::new(scaled), scaled.scale.environments, count)?;
    for ((name, process), before) in processes.into_iter().zip(before) {
        let each = millis(usage::cpu(process)? - before) / count as f64;
        results.add("CPU per change", name, scaled.scale, (each, "ms"), Goal::None);
    }
    Ok(())
}
