//! When HAProxy is looked at, and for what.

use std::time::Duration;

use mayfly_daemon::retry::Backoff;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until};

/// How often to look whether HAProxy was restarted: it is one small question, and what a new
/// process lacks is missing for clients.
const PROCESS: Duration = Duration::from_millis(500);
/// How often the checks are asked about what is kept.
const KEPT: Duration = Duration::from_millis(500);
/// How often they are asked about external services.
const OUTSIDE: Duration = Duration::from_secs(2);
/// Leaving servers are looked at no more often than this.
const LEAVING: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeriodicCheck {
    /// Whether it is still the same process.
    Process,
    /// Whether another program has changed it, or its files.
    Drift,
    /// Whether the instances that are kept, although etcd has lost them, answer.
    Kept,
    Outside,
    /// Whether leaving servers have no connections left.
    Leaving,
}

/// The times of all checks.
pub struct Checks {
    process: Interval,
    drift: Interval,
    kept: Interval,
    outside: Interval,
    leaving: Backoff,
    leaving_at: Instant,
    verified_at: Instant,
}

impl Checks {
    /// `verify` is what the operator sets.
    pub fn new(verify: Duration) -> Self {
        let every = |period| {
            let mut ticks = interval(period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks
        };
        Self {
            process: every(PROCESS),
            drift: every(verify),
            kept: every(KEPT),
            outside: every(OUTSIDE),
            leaving: Backoff::new(Duration::from_millis(100), Duration::from_secs(1)),
            leaving_at: Instant::now(),
            verified_at: Instant::now(),
        }
    }

    /// Waits for the next check. Safe in `select!`.
    pub async fn next(&mut self, has_leaving: bool) -> PeriodicCheck {
        tokio::select! {
            _ = self.process.tick() => PeriodicCheck::Process,
            _ = self.drift.tick() => PeriodicCheck::Drift,
            _ = self.kept.tick() => PeriodicCheck::Kept,
            _ = self.outside.tick() => PeriodicCheck::Outside,
            () = sleep_until(self.leaving_at), if has_leaving => {
                self.leaving_at = Instant::now() + self.leaving.next_delay().max(LEAVING);
                PeriodicCheck::Leaving
            }
        }
    }

    /// After a change servers may leave at once.
    pub fn hurry(&mut self) {
        self.leaving.reset();
        self.leaving_at = Instant::now();
    }

    /// All that HAProxy has was read and compared.
    pub fn verified(&mut self) {
        self.verified_at = Instant::now();
    }

    /// How long ago that was.
    pub fn since_verified(&self) -> Duration {
        self.verified_at.elapsed()
    }
}
