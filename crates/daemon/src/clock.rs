//! Notices when the clock of the system is set, and logs what that means. Pauses, limits and leases
//! use the monotonic clock and do not mind; only moments that people write down, such as the end of
//! an environment, do. While a machine sleeps, the monotonic clock stands still: that looks like a
//! step forward. But for etcd the time has passed, so it has ended leases.

use std::fmt;
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

impl fmt::Display for Jump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (way, span) = match self {
            Self::Forward(span) => ("forward", span),
            Self::Back(span) => ("back", span),
        };
        write!(
            f,
            "the clock of this machine went {way} by {} s: expiry dates are now compared with the new time. ",
            span.as_secs()
        )?;
        f.write_str(match self {
            Self::Forward(_) => {
                "If the clock was set, no lease and no waiting time changes. If the machine slept, leases \
                 that ended meanwhile are registered again, and waiting times become longer by the sleep"
            }
            Self::Back(_) => "It was set: no lease and no waiting time changes",
        })
    }
}

/// Watches the clock, for ever.
pub(crate) async fn watch() {
    let mut before = (Instant::now(), SystemTime::now());
    loop {
        tokio::time::sleep(LOOK).await;
        let now = (Instant::now(), SystemTime::now());
        if let Some(jump) = jump(now.0 - before.0, before.1, now.1) {
            warn!("{jump}");
        }
        before = now;
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

    #[test]
    fn only_a_sleep_changes_leases_and_waiting_times() {
        let hour = Duration::from_secs(3600);
        assert_eq!(
            Jump::Forward(hour).to_string(),
            "the clock of this machine went forward by 3600 s: expiry dates are now compared with the \
             new time. If the clock was set, no lease and no waiting time changes. If the machine \
             slept, leases that ended meanwhile are registered again, and waiting times become longer \
             by the sleep"
        );
        assert_eq!(
            Jump::Back(hour).to_string(),
            "the clock of this machine went back by 3600 s: expiry dates are now compared with the new \
             time. It was set: no lease and no waiting time changes"
        );
    }
}
