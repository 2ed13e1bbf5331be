//! Whose the requests are that HAProxy counts: pure decisions. HAProxy counts by slot since its
//! start; a slot is used again by another backend, and a reload begins at 0. So the difference
//! between two readings of one process belongs to the backend that has the slot now.

pub mod board;

use std::collections::{BTreeMap, BTreeSet};

use mayfly_core::records::traffic::{BackendTraffic, MOST_BACKENDS, SPAN, sort};
use mayfly_core::version::BackendId;

use crate::haproxy::answers::Process;
use crate::haproxy::counters::{Counters, ProcessCounters, SlotCounters};
use crate::haproxy::tokens::Slot;

/// The backend of each slot.
pub type Owners = BTreeMap<Slot, BackendId>;

/// The parts of the time that a record is about: whole minutes.
const MINUTES: usize = SPAN.as_secs() as usize / 60;
/// From so many requests on, what HAProxy's mean still holds of the former backend of a slot is
/// below 2 %: it is a sliding one of 512 requests.
const OWN_MEAN: u64 = 2_048;
/// The means of at most so many slots are asked of their servers in one reading.
const MOST_ASKED: usize = 50;
/// The current process, and those that were replaced last.
const MOST_PROCESSES: usize = 4;

/// Requests, in total or within a minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Requests {
    pub ended: u64,
    pub errors: u64,
    pub connection_errors: u64,
}

impl Requests {
    fn add(&mut self, more: Self) {
        self.ended = self.ended.saturating_add(more.ended);
        self.errors = self.errors.saturating_add(more.errors);
        self.connection_errors = self.connection_errors.saturating_add(more.connection_errors);
    }

    /// What came between two readings of one process.
    fn between(before: &Counters, now: &Counters) -> Self {
        Self {
            ended: now.requests.saturating_sub(before.requests),
            errors: now.errors.saturating_sub(before.errors),
            connection_errors: now.connection_errors.saturating_sub(before.connection_errors),
        }
    }
}

/// What is known of a backend since it has its slot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Total {
    pub requests: Requests,
    /// `None` until the first request.
    pub mean_ms: Option<u64>,
    /// The requests of each of the last minutes, by the number of the minute.
    recent: [Requests; MINUTES],
}

/// What one process counted of a slot when it was last read.
#[derive(Debug, Clone, Default)]
struct SlotReading {
    counters: Counters,
    owner: Option<BackendId>,
    /// The requests that it had counted before the owner got the slot.
    of_others: u64,
}

/// What was read, and what it adds up to.
#[derive(Debug)]
pub struct TrafficTotals {
    /// When this program started, in seconds since 1970.
    since: u64,
    /// The newest minute that something was counted in.
    minute: u64,
    processes: BTreeMap<Process, BTreeMap<Slot, SlotReading>>,
    totals: BTreeMap<BackendId, Total>,
}

impl TrafficTotals {
    /// Nothing has been read by a program that started at `since`.
    pub fn new(since: u64) -> Self {
        Self {
            since,
            minute: since / 60,
            processes: BTreeMap::new(),
            totals: BTreeMap::new(),
        }
    }

    /// The time goes on: what is older than [`SPAN`] counts no more. A clock that is set back by
    /// more than that was wrong before: the minutes begin again.
    pub fn advance(&mut self, now: u64) {
        let minute = now / 60;
        if minute + (MINUTES as u64) < self.minute {
            self.minute = minute;
            for total in self.totals.values_mut() {
                total.recent = Default::default();
            }
        }
        let passed = minute.saturating_sub(self.minute).min(MINUTES as u64);
        for gone in (minute + 1).saturating_sub(passed)..=minute {
            for total in self.totals.values_mut() {
                total.recent[place(gone)] = Requests::default();
            }
        }
        self.minute = self.minute.max(minute);
    }

    /// Takes what the process has counted that serves now. Gives the slots whose mean holds
    /// requests of another backend: their servers have to be asked.
    pub fn take(&mut self, reading: ProcessCounters, owners: &Owners) -> Vec<Slot> {
        let ProcessCounters { process, slots } = reading;
        // What an older process counted before this program was there may be anybody's.
        let is_first = self.processes.is_empty() && process.started < self.since;
        let mixed = self.count(process, slots, owners, is_first);
        let has_slot: BTreeSet<&BackendId> = owners.values().collect();
        self.totals.retain(|backend, _| has_slot.contains(backend));
        for backend in owners.values() {
            if !self.totals.contains_key(backend) {
                self.totals.insert(backend.clone(), Total::default());
            }
        }
        while self.processes.len() > MOST_PROCESSES {
            let oldest = self.processes.keys().copied().find(|known| *known != process);
            oldest.and_then(|oldest| self.processes.remove(&oldest));
        }
        mixed
    }

    /// Takes what a process has counted that was replaced and still ends requests. One that was
    /// never read before is left out: what it counted before is unknown.
    pub fn take_old(&mut self, pid: u32, slots: SlotCounters, owners: &Owners) {
        let known = self.processes.keys().rev().find(|known| known.pid == pid);
        if let Some(process) = known.copied() {
            self.count(process, slots, owners, false);
        }
    }

    fn count(&mut self, process: Process, slots: SlotCounters, owners: &Owners, is_first: bool) -> Vec<Slot> {
        let processes = self.processes.entry(process).or_default();
        let mut mixed = Vec::new();
        for (slot, now) in slots {
            let known = processes.entry(slot).or_default();
            if is_first {
                known.counters = now;
                known.of_others = now.requests;
            }
            if now.requests < known.counters.requests {
                // An operator has cleared the counters.
                *known = SlotReading::default();
            }
            let owner = owners.get(&slot);
            if known.owner.as_ref() != owner {
                known.owner = owner.cloned();
                known.of_others = known.counters.requests;
            }
            let more = Requests::between(&known.counters, &now);
            known.counters = now;
            let Some(owner) = owner.filter(|_| more != Requests::default()) else {
                continue;
            };
            if !self.totals.contains_key(owner) {
                self.totals.insert(owner.clone(), Total::default());
            }
            let Some(total) = self.totals.get_mut(owner) else {
                continue;
            };
            total.requests.add(more);
            total.recent[place(self.minute)].add(more);
            if more.ended == 0 {
                continue;
            }
            if known.of_others == 0 || now.requests - known.of_others >= OWN_MEAN {
                total.mean_ms = Some(now.mean_ms);
            } else if mixed.len() < MOST_ASKED {
                mixed.push(slot);
            }
        }
        mixed
    }

    /// Takes the means that servers have of their own.
    pub fn set_means(&mut self, means: BTreeMap<Slot, u64>, owners: &Owners) {
        for (slot, mean) in means {
            let total = owners.get(&slot).and_then(|owner| self.totals.get_mut(owner));
            if let Some(total) = total {
                total.mean_ms = Some(mean);
            }
        }
    }

    /// All backends that have a slot.
    pub fn totals(&self) -> impl Iterator<Item = (&BackendId, &Total)> {
        self.totals.iter()
    }

    /// The busiest backends of the last [`SPAN`], and how many more had requests.
    pub fn busiest(&self) -> (Vec<BackendTraffic>, u64) {
        let recent = self.totals.iter().filter_map(|(backend, total)| {
            let mut sum = Requests::default();
            total.recent.iter().for_each(|minute| sum.add(*minute));
            (sum != Requests::default()).then(|| BackendTraffic {
                requests: sum.ended,
                errors: sum.errors,
                connection_errors: sum.connection_errors,
                mean_ms: total.mean_ms,
                ..BackendTraffic::none(backend)
            })
        });
        let mut backends: Vec<_> = recent.collect();
        sort(&mut backends);
        let more = backends.len().saturating_sub(MOST_BACKENDS);
        backends.truncate(MOST_BACKENDS);
        (backends, more as u64)
    }
}

/// Where the requests of a minute are kept.
fn place(minute: u64) -> usize {
    (minute % MINUTES as u64) as usize
}

#[cfg(test)]
mod tests;
