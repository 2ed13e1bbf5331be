//! One instance asked again and again whether it is alive: a question each interval, sooner until the first good answer,
//! and what the answers come to.

use std::fmt;
use std::time::Duration;

use mayfly_core::address::Address;
use mayfly_core::check::Check;
use mayfly_core::records::Protocol;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use crate::args::Keeping;
use crate::check;
use crate::health::{Health, Turn};

/// How often at most an instance that has not answered yet is asked: most are about to.
const EAGER: Duration = Duration::from_millis(200);

/// What the answers come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It counts as alive, and has just answered.
    Alive,
    /// From now on it does not count as alive any more.
    Dead,
    /// Nothing new.
    Undecided,
}

/// Asks one instance.
#[derive(Debug)]
pub struct Pulse {
    check: Check,
    protocol: Protocol,
    interval: Duration,
    limit: Duration,
    ticks: Interval,
    health: Health,
    failures: u32,
}

impl Pulse {
    /// For an instance that has not been asked yet.
    pub fn new(check: Check, protocol: Protocol, keeping: &Keeping) -> Self {
        let mut ticks = interval(keeping.check_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            check,
            protocol,
            interval: keeping.check_interval,
            limit: keeping.check_timeout,
            ticks,
            health: Health::new(keeping.fall, keeping.rise),
            failures: 0,
        }
    }

    /// Waits until it is time for a question.
    pub async fn wait(&mut self) {
        self.ticks.tick().await;
    }

    /// Whether the last answer was none, or a bad one.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Asks once. `instance` is what the log calls it.
    pub async fn ask(&mut self, instance: &(dyn fmt::Display + Sync), address: Address) -> Life {
        let outcome = check::ask(&self.check, address, self.protocol, self.limit).await;
        let turn = self.health.observe(outcome.is_ok());
        match &outcome {
            Ok(()) => self.failures = 0,
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                match turn {
                    Some(Turn::Down) => warn!(
                        "{instance} at {address} failed {} checks in a row: taking it out: {error:#}",
                        self.failures
                    ),
                    _ if self.failures == 1 => info!("{instance} at {address} does not answer: {error:#}"),
                    _ => debug!("{instance} at {address} does not answer: {error:#}"),
                }
            }
        }
        if self.health.is_fresh() {
            self.ticks.reset_after(EAGER.min(self.interval));
        }
        if turn == Some(Turn::Down) {
            Life::Dead
        } else if self.health.is_up() && outcome.is_ok() {
            Life::Alive
        } else {
            Life::Undecided
        }
    }
}
