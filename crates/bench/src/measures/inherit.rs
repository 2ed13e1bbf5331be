//! A base environment changes a version that a thousand environments inherit.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::fleet::VERSIONS;
use crate::pace::Pace;
use crate::probe::Probe;
use crate::results::{Goal, Results};
use crate::scaled::ScaledMayfly;

/// How many environments inherit.
const HEIRS: usize = 1_000;
const LIMIT: Duration = Duration::from_secs(60);

/// Measures so many changes of the base: until the last of the heirs that was registered answers right. After each, all heirs are
/// asked, and not one may answer otherwise.
///
/// # Errors
/// When a change takes no effect, or not for all heirs.
pub fn run(scaled: &ScaledMayfly, count: usize, results: &mut Results) -> Result<()> {
    let base =
        |version: &str| format!("name: base\nservices: [{{name: web, version: {version}, route: /}}]\n");
    scaled.add("base", &base(VERSIONS[0]))?;
    let heir = |number: usize| format!("heir-{number:04}");
    for number in 0..HEIRS {
        let name = heir(number);
        scaled.add(&name, &format!("name: {name}\nextends: base\n"))?;
    }
    let probe = |number: usize| {
        Probe::new(
            scaled.mayfly.edge,
            &format!("www-{}.example.com", heir(number)),
            &[],
        )
    };
    let all = |backend: &str| -> Result<()> {
        for number in 0..HEIRS {
            let right = probe(number).until(LIMIT, |answer| answer.is_from(backend));
            right.with_context(|| format!("{} by {backend}", heir(number)))?;
        }
        Ok(())
    };
    all(&format!("web@{}", VERSIONS[0]))?;

    let (mut pace, mut times) = (Pace::default(), Vec::new());
    let mut last = probe(HEIRS - 1);
    for change in 1..=count {
        let version = VERSIONS[change % VERSIONS.len()];
        let (beside, place) = scaled.prepare_text("base", &base(version))?;
        std::thread::sleep(pace.next_pause());
        let backend = format!("web@{version}");
        let start = Instant::now();
        std::fs::rename(beside, place).context("rename a file")?;
        let (right, _) = last.until(LIMIT, |answer| answer.is_from(&backend))?;
        times.push(right - start);
        all(&backend)?;
    }
    results.add_times(
        "inherited change",
        "mayfly",
        format!("{HEIRS} heirs"),
        &times,
        (Goal::None, Goal::AtMost(30.0)),
    );
    Ok(())
}
