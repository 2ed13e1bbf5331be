//! The backends that a launcher looks after.

use std::time::SystemTime;

use mayfly_core::launching::{Backend, Launching, Phase};
use mayfly_core::records::lifetime::Moment;
use mayfly_daemon::output::{Look, TextTable, Tone};

use super::{and_more, dash, span};

/// What a launcher looks after.
pub(super) fn table(launching: &Launching, now: SystemTime, look: Look) -> Option<String> {
    if launching.backends.is_empty() {
        return None;
    }
    let mut table = TextTable::new(["BACKEND", "LIVE", "FAILURES", "NEXT TRY", "IMAGE", "STATE"]);
    for (name, backend) in &launching.backends {
        let next_try = backend.next_try.as_ref().map(|text| match text.parse() {
            Ok::<Moment, _>(moment) => format!("in {}", span(moment.left(now))),
            Err(_) => text.clone(),
        });
        let tone = match &backend.phase {
            Phase::Running => Tone::Good,
            Phase::Failed { .. } | Phase::NoDefinition => Tone::Bad,
            Phase::Unused { .. } | Phase::Retiring => Tone::Plain,
            Phase::Waiting | Phase::Pulling { .. } | Phase::Starting | Phase::Checking | Phase::Foreign => {
                Tone::Pending
            }
        };
        let cells = [
            name.clone(),
            format!("{}/{}", backend.live, backend.wanted),
            match backend.failures {
                0 => dash(),
                failures => failures.to_string(),
            },
            next_try.unwrap_or_else(dash),
            images(backend),
            state(backend),
        ];
        table.toned_row(tone, cells);
    }
    Some(table.render_as(look) + &and_more(launching.more))
}

/// The phase, and why the last try failed if the phase does not say so.
fn state(backend: &Backend) -> String {
    let phase = backend.phase.to_string();
    match (&backend.phase, &backend.failure) {
        (Phase::Failed { reason }, Some(failure)) if reason == failure => phase,
        (_, Some(failure)) if backend.failures > 0 => {
            format!("{phase} (the last try failed: {failure})")
        }
        _ => phase,
    }
}

fn images(backend: &Backend) -> String {
    let images: Vec<&str> = backend.images.iter().map(String::as_str).collect();
    Some(images.join(" "))
        .filter(|images| !images.is_empty())
        .unwrap_or_else(dash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn why_the_last_try_failed_is_told_once() {
        let failed = |reason: &str| Phase::Failed {
            reason: reason.to_owned(),
        };
        for (phase, failures, expected) in [
            (
                Phase::Checking,
                1,
                "checking (the last try failed: exited with 3)",
            ),
            // It runs, and could not be started now.
            (Phase::Running, 0, "running"),
            (failed("exited with 3"), 2, "failed: exited with 3"),
            (
                failed("the limit is reached"),
                2,
                "failed: the limit is reached (the last try failed: exited with 3)",
            ),
        ] {
            let backend = Backend {
                phase,
                wanted: 1,
                live: 0,
                images: BTreeSet::new(),
                failures,
                failure: Some("exited with 3".to_owned()),
                next_try: None,
                output: Vec::new(),
                not_pulled: None,
            };
            assert_eq!(state(&backend), expected);
        }
    }
}
