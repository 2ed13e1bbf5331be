//! What a plan depends on and neither etcd nor the engine shows: since when something has been so,
//! and how often starting a backend has failed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mayfly_core::launching::GivenUp;
use mayfly_daemon::retry::Backoff;

use super::ClockReading;

/// How long a backend must answer before its failures are forgotten: one that fails soon after its
/// start fails again.
const SETTLED: Duration = Duration::from_secs(60);
/// How long a backend that is gone is remembered: an environment that changes back and forth must
/// not get new tries.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What is remembered of one backend.
#[derive(Debug, Default)]
pub(super) struct BackendMemory {
    /// Since when it has lacked an instance.
    pub(super) lacking_since: Option<Instant>,
    /// Since when no environment has needed it.
    pub(super) unused_since: Option<ClockReading>,
    /// Whether we have started one: then the launcher waits for no other instance.
    pub(super) has_started: bool,
    /// Why an operator's last request to relaunch it was given up, if it was, and when.
    pub(super) given_up: Option<(GivenUp, Instant)>,
    /// Why the image of the last one that was started could not be pulled, if it was to be.
    pub(super) not_pulled: Option<String>,
    /// The digest of the present recipe.
    digest: String,
    failure: Option<LaunchFailure>,
    answering_since: Option<Instant>,
    units: BTreeMap<String, UnitMemory>,
}

/// What is remembered of one unit.
#[derive(Debug, Default)]
pub(super) struct UnitMemory {
    /// Since when it has been seen running.
    pub(super) running_since: Option<Instant>,
    /// Whether its process has been seen running: Swarm also shows what waits for a node.
    pub(super) has_run: bool,
    /// Whether it has ever answered since.
    pub(super) has_answered: bool,
    /// Since when it has got no new requests.
    pub(super) draining_since: Option<Instant>,
    /// Whether this planner has started it: of others, nobody remembers whether they have answered.
    started_here: bool,
}

impl UnitMemory {
    /// Whether it may be in use even if it is not registered: HAProxy routes on to what vanished
    /// from etcd.
    pub(super) fn may_be_in_use(&self) -> bool {
        self.has_answered || (self.has_run && !self.started_here)
    }
}

#[derive(Debug)]
struct LaunchFailure {
    /// The recipe by which it was started: another one may work.
    digest: String,
    reason: String,
    output: Vec<String>,
    backoff: Backoff,
    next_try: ClockReading,
}

impl BackendMemory {
    pub(super) fn unit(&mut self, name: &str) -> &mut UnitMemory {
        self.units.entry(name.to_owned()).or_default()
    }

    /// Notes that a unit is started now.
    pub(super) fn starts(&mut self, name: &str) {
        self.has_started = true;
        let unit = UnitMemory {
            started_here: true,
            ..UnitMemory::default()
        };
        self.units.insert(name.to_owned(), unit);
    }

    /// Whether a unit may be in use even if it is not registered.
    pub(super) fn may_be_in_use(&self, name: &str) -> bool {
        self.units.get(name).is_none_or(UnitMemory::may_be_in_use)
    }

    /// Forgets the units that are gone.
    pub(super) fn keep_units(&mut self, is_there: impl Fn(&str) -> bool) {
        self.units.retain(|name, _| is_there(name));
    }

    /// Forgets failures of other recipes than the present one.
    pub(super) fn tried_by(&mut self, digest: &str) {
        if self
            .failure
            .as_ref()
            .is_some_and(|failure| failure.digest != digest)
        {
            self.failure = None;
        }
        digest.clone_into(&mut self.digest);
    }

    pub(super) fn failed(
        &mut self,
        reason: String,
        output: Vec<String>,
        (first, cap): (Duration, Duration),
        now: ClockReading,
    ) {
        self.answering_since = None;
        let mut backoff = match self.failure.take() {
            Some(failure) => failure.backoff,
            None => Backoff::new(first, cap),
        };
        let next_try = now.after(backoff.next_delay());
        self.failure = Some(LaunchFailure {
            digest: self.digest.clone(),
            reason,
            output,
            backoff,
            next_try,
        });
    }

    /// Notes that it answers; forgets its failures once it has done so for long, and returns when
    /// that will be.
    pub(super) fn settle(&mut self, now: ClockReading) -> Option<Instant> {
        self.failure.as_ref()?;
        let settled = *self.answering_since.get_or_insert(now.at) + SETTLED;
        if now.at < settled {
            return Some(settled);
        }
        self.failure = None;
        None
    }

    /// How many tries have failed in a row.
    pub(super) fn failures(&self) -> usize {
        let failures = self.failure.as_ref().map(|failure| failure.backoff.failures());
        failures
            .and_then(|count| count.try_into().ok())
            .unwrap_or_default()
    }

    pub(super) fn reason(&self) -> Option<String> {
        self.failure.as_ref().map(|failure| failure.reason.clone())
    }

    pub(super) fn output(&self) -> &[String] {
        self.failure
            .as_ref()
            .map_or(&[], |failure| failure.output.as_slice())
    }

    /// Why an operator's last request was given up: reported as long as there are units, and long
    /// enough for an operator to read it.
    pub(super) fn given_up(&mut self, now: Instant) -> Option<GivenUp> {
        let is_old = |(_, since): &(GivenUp, Instant)| now.saturating_duration_since(*since) >= REMEMBERED;
        if self.units.is_empty() && self.given_up.as_ref().is_some_and(is_old) {
            self.given_up = None;
        }
        self.given_up.as_ref().map(|(given_up, _)| given_up.clone())
    }

    /// When the next try is, if that is still to come.
    pub(super) fn next_try(&self, now: Instant) -> Option<ClockReading> {
        let next_try = self.failure.as_ref()?.next_try;
        (next_try.at > now).then_some(next_try)
    }

    /// Whether nothing of it matters any longer.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        if self.given_up.is_some() {
            return false;
        }
        let gone = self.units.is_empty() && self.unused_since.is_some();
        let long_ago = |since: ClockReading| now.saturating_duration_since(since.at) >= REMEMBERED;
        let never_mattered = !self.has_started && self.failure.is_none();
        gone && (never_mattered || self.unused_since.is_some_and(long_ago))
            || never_mattered
                && self.lacking_since.is_none()
                && self.units.is_empty()
                && self.unused_since.is_none()
    }
}
