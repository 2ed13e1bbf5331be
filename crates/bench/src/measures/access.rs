//! From the rename of a file that opens or closes an environment to the first right answer.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::fleet::{self, VERSIONS};
use crate::pace::Pace;
use crate::results::{Goal, Results};
use crate::scaled::ScaledMayfly;

/// Limit for one change.
const LIMIT: Duration = Duration::from_secs(60);

/// Opens and closes environments for the client by turns.
///
/// # Errors
/// When a change does not take effect within a minute.
pub fn run(scaled: &ScaledMayfly, count: usize, results: &mut Results) -> Result<()> {
    let (mut pace, mut times) = (Pace::default(), Vec::with_capacity(count));
    let environments = scaled.scale.environments;
    for change in 0..count {
        // Each is closed and then opened again, by a change of its own.
        let (number, closes) = ((change / 2 * 7919) % environments, change % 2 == 0);
        let (network, expected) = if closes {
            ("10.0.0.0/8", 403)
        } else {
            ("127.0.0.0/8", 200)
        };
        let web = VERSIONS[fleet::version(number, 0)];
        let text = fleet::yaml(number, scaled.scale.services, web);
        let text = format!("{text}access:\n  from: [{network}]\n");
        let (beside, place) = scaled.prepare_text(&fleet::environment(number), &text)?;
        let mut probe = scaled.edge(number);
        probe.ask().context("ask before the change")?;
        std::thread::sleep(pace.next_pause());
        let start = Instant::now();
        std::fs::rename(beside, place).context("rename a file")?;
        let (right, _) = probe
            .until(LIMIT, |answer| answer.status == expected)
            .with_context(|| format!("change {change}: environment {number} to {expected}"))?;
        times.push(right - start);
    }
    let goals = (Goal::AtMost(10.0), Goal::AtMost(30.0));
    results.add_times("access change", "mayfly", scaled.scale, &times, goals);
    Ok(())
}
