//! A whole Mayfly for minutes or hours: random faults that overlap, changes of all kinds, and a
//! load whose every answer is checked. `scripts/soak.sh` runs it.
//!
//! - [`chance`]: the numbers of a seed;
//! - [`stage`]: the Mayfly, the load, and what has to be right in the end;
//! - [`lanes`]: the faults and changes, one after the other in each lane, all lanes at a time;
//! - [`failure`]: why a request failed;
//! - [`level`]: whether memory and descriptors grow.
//!
//! In the first half, processes are killed. In the second half none of Mayfly's daemons, of HAProxy
//! and of dnsmasq is, so that what they use can be followed: they are frozen, or lose etcd.

pub mod chance;
pub mod failure;
mod lanes;
pub mod level;
mod stage;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::load::Report;
use failure::Failure;
use level::Trend;
use stage::Stage;

/// How long a soak lasts, and from which numbers it comes.
#[derive(Debug, Clone, Copy)]
pub struct Soak {
    pub lasts: Duration,
    pub seed: u64,
    /// Requests a second.
    pub rate: u32,
}

/// What a soak has seen.
#[derive(Debug)]
pub struct Endured {
    pub report: Report,
    /// The first requests that failed.
    pub failures: Vec<Failure>,
    /// How often each fault and change came.
    pub events: BTreeMap<&'static str, u64>,
    /// How long the slowest of each kind took to be right again.
    pub slowest: BTreeMap<&'static str, Duration>,
    /// Of the second half.
    pub trends: Vec<Trend>,
}

/// Which faults there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Every process may be killed.
    Lethal,
    /// What is measured lives on.
    Gentle,
}

impl Soak {
    /// Runs it.
    ///
    /// # Errors
    /// When something could not be staged, or a process ended by itself.
    ///
    /// # Panics
    /// When something never comes right again.
    pub async fn run(&self) -> Result<Endured> {
        let mut stage = Stage::start(self.rate, self.lasts).await?;
        let half = self.lasts / 2;
        for (phase, sequence) in [(Phase::Lethal, 0), (Phase::Gentle, 100)] {
            eprintln!("{:6.0} s  {phase:?}", stage.begun.elapsed().as_secs_f64());
            stage.phase = phase;
            stage.until = Instant::now() + half;
            lanes::run(&stage, self.seed, sequence).await?;
            stage.is_right().await?;
        }
        Ok(stage.end().await)
    }
}

impl Endured {
    /// What was not as it has to be.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if let Some((when, why)) = self.report.failures.first() {
            let (failed, all) = (self.report.failures.len(), self.report.requests);
            faults.push(format!(
                "{failed} of {all} requests failed, first after {when:?}: {why}"
            ));
        }
        let grown = self.trends.iter().filter(|trend| !trend.is_level());
        faults.extend(grown.map(|trend| format!("{} grows", trend.process)));
        faults
    }
}
