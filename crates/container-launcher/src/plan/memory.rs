//! What a plan depends on and no look at etcd or the engine shows: since when something has been so, and how often starting
//! a backend has failed.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mayfly_daemon::retry::Backoff;

use super::Moment;

/// How long a backend has to answer before its failures are forgotten: one that fails soon after its start fails again.
const SETTLED: Duration = Duration::from_secs(60);
/// How long a backend that is gone is remembered: an environment that changes back and forth gets no new tries by that.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What is remembered of one backend.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Since when it has lacked an instance.
    pub(super) lacking_since: Option<Instant>,
    /// Since when nobody has needed it.
    pub(super) unused_since: Option<Moment>,
    /// Whether we have started one: then nobody else is waited for.
    pub(super) has_started: bool,
    /// What the recipe of now came to.
    digest: String,
    failure: Option<Failure>,
    answering_since: Option<Instant>,
    units: BTreeMap<String, UnitMemory>,
}

/// What is remembered of one unit.
#[derive(Debug, Default)]
pub(super) struct UnitMemory {
    /// Since when it has been seen running.
    pub(super) running_since: Option<Instant>,
    /// Whether it has ever answered since.
    pub(super) has_answered: bool,
    /// Since when it has got no new requests.
    pub(super) draining_since: Option<Instant>,
}

#[derive(Debug)]
struct Failure {
    /// By which recipe it was started: by another one it may work.
    digest: String,
    reason: String,
    output: Vec<String>,
    backoff: Backoff,
    next_try: Moment,
}

impl Memory {
    pub(super) fn unit(&mut self, name: &str) -> &mut UnitMemory {
        self.units.entry(name.to_owned()).or_default()
    }

    /// Whether a unit has ever answered since it runs.
    pub(super) fn has_answered(&self, name: &str) -> bool {
        self.units.get(name).is_some_and(|unit| unit.has_answered)
    }

    /// Forgets the units that are not there any more.
    pub(super) fn keep_units(&mut self, is_there: impl Fn(&str) -> bool) {
        self.units.retain(|name, _| is_there(name));
    }

    /// Forgets failures by another recipe than that of now.
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
        now: Moment,
    ) {
        self.answering_since = None;
        let mut backoff = match self.failure.take() {
            Some(failure) => failure.backoff,
            None => Backoff::new(first, cap),
        };
        let next_try = now.after(backoff.next_delay());
        self.failure = Some(Failure {
            digest: self.digest.clone(),
            reason,
            output,
            backoff,
            next_try,
        });
    }

    /// Notes that it answers; forgets its failures once it has done so for long, and says when that will be.
    pub(super) fn settle(&mut self, now: Moment) -> Option<Instant> {
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

    /// When the next try is, if that is still to come.
    pub(super) fn next_try(&self, now: Instant) -> Option<Moment> {
        let next_try = self.failure.as_ref()?.next_try;
        (next_try.at > now).then_some(next_try)
    }

    /// Whether nothing of it matters any more.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        let gone = self.units.is_empty() && self.unused_since.is_some();
        let long_ago = |since: Moment| now.saturating_duration_since(since.at) >= REMEMBERED;
        let never_mattered = !self.has_started && self.failure.is_none();
        gone && (never_mattered || self.unused_since.is_some_and(long_ago))
            || never_mattered
                && self.lacking_since.is_none()
                && self.units.is_empty()
                && self.unused_since.is_none()
    }
}
