//! Checks one instance again and again, at an interval that is shorter until the first success, and
//! decides whether it counts as alive.

use std::fmt;
use std::time::Duration;

use mayfly_core::address::Address;
use mayfly_core::failing;
use mayfly_core::shorten::counted;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::args::Keeping;
use crate::check::{self, CheckRequest};
use crate::health::{HealthCounter, Turn};

/// The interval for an instance that has not answered yet: most are about to.
const EAGER: Duration = Duration::from_millis(200);
/// How long a check has to fail before the status record reports it: most instances that have just
/// been started answer by then, and cost etcd nothing.
const LASTING: Duration = Duration::from_secs(3);

/// What the answers come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Liveness {
    /// It counts as alive, and has just answered.
    Alive,
    /// From now on it no longer counts as alive.
    Dead,
    Undecided,
}

#[derive(Debug)]
pub struct Probe {
    question: CheckRequest,
    interval: Duration,
    limit: Duration,
    ticks: Interval,
    health: HealthCounter,
    failures: u32,
    /// Since when it has failed without a success in between, and why the last time.
    failing: Option<(Instant, String)>,
}

impl Probe {
    /// For an instance that has not been asked yet.
    pub fn new(question: CheckRequest, keeping: &Keeping) -> Self {
        let mut ticks = interval(keeping.check_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            question,
            interval: keeping.check_interval,
            limit: keeping.check_timeout,
            ticks,
            health: HealthCounter::new(keeping.fall, keeping.rise),
            failures: 0,
            failing: None,
        }
    }

    /// Waits until it is time for a question.
    pub async fn wait(&mut self) {
        self.ticks.tick().await;
    }

    /// Whether the last check failed.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Why it is not alive, once it has not been for a while; on one line, and short.
    pub fn complaint(&self) -> Option<&str> {
        let (since, reason) = self.failing.as_ref().filter(|_| !self.health.is_up())?;
        (since.elapsed() >= LASTING).then_some(reason)
    }

    /// Asks once. `instance` is what the log calls it.
    pub async fn ask(&mut self, instance: &(dyn fmt::Display + Sync), address: Address) -> Liveness {
        let outcome = check::ask(&self.question, address, self.limit).await;
        let turn = self.health.observe(outcome.is_ok());
        match &outcome {
            Ok(()) => (self.failures, self.failing) = (0, None),
            Err(error) => {
                let since = self.failing.take().map_or_else(Instant::now, |(since, _)| since);
                self.failing = Some((since, failing::reason(&format!("{error:#}"))));
                self.failures = self.failures.saturating_add(1);
                match turn {
                    Some(Turn::Down) => warn!(
                        "{instance} at {address} failed {} in a row and is deregistered: {error:#}",
                        counted(self.failures as usize, "check")
                    ),
                    _ if self.failures == 1 => info!("{instance} at {address} failed its check: {error:#}"),
                    _ => debug!("{instance} at {address} failed its check: {error:#}"),
                }
            }
        }
        if self.health.is_fresh() {
            self.ticks.reset_after(EAGER.min(self.interval));
        }
        if turn == Some(Turn::Down) {
            Liveness::Dead
        } else if self.health.is_up() && outcome.is_ok() {
            Liveness::Alive
        } else {
            Liveness::Undecided
        }
    }
}
