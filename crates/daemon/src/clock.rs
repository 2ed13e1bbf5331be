//! Notices when the clock of the system is set, and logs what that means. Pauses, limits and leases
//! use the monotonic clock and do not mind; only moments that people write down, such as the end of
//! an environment, do.

use std::time::{Duration, Instant, SystemTime};

use tracing::warn;

/// How often to compare the clocks: nothing waits for it, and a look that finds nothing should cost
/// nothing.
const LOOK: Duration = Duration::from_secs(3);
/// Steps below this are what time synchronisation does every day.
const NOTABLE: Duration = Duration::from_secs(5);

/// A step of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Jump {
    Forward(Duration),
    Back(Duration),
}

/// Watches the clock, for ever.
pub(crate) async fn watch() {
    let mut before = (Instant::now(), SystemTime::now());
    loop {
        tokio::time::sleep(LOOK).await;
        let now = (Instant::now(), SystemTime::now());
        let (way, why, span) = match jump(now.0 - before.0, before.1, now.1) {
            None => {
                before = now;
                continue;
            }
            Some(Jump::Forward(span)) => ("forward", "it was set, or the machine slept", span),
            Some(Jump::Back(span)) => ("back", "it was set", span),
        };
        before = now;
        warn!(
            "the clock of this machine went {way} by {} s ({why}): this changes no lease and no \
             waiting time, but expiry dates are now compared with the new time",
            span.as_secs()
        );
    }
}

/// How far the clock has moved beside the time that has passed.
fn jump(passed: Duration, before: SystemTime, now: SystemTime) -> Option<Jump> {
    let expected = before.checked_add(passed)?;
    match now.duration_since(expected) {
        Ok(span) => (span >= NOTABLE).then_some(Jump::Forward(span)),
        Err(error) => (error.duration() >= NOTABLE).then_some(Jump::Back(error.duration())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_notable_step_beside_the_time_that_passed_is_a_jump() {
        let second = Duration::from_secs(1);
        let before = SystemTime::UNIX_EPOCH + second * 1_000_000;
        let hour = second * 3600;
        for (now, found) in [
            (before + second, None),
            (before + second * 5, None),
            (before - second * 3, None),
            (before + second + hour, Some(Jump::Forward(hour))),
            (before + second - hour, Some(Jump::Back(hour))),
        ] {
            assert_eq!(jump(second, before, now), found);
        }
    }
}
