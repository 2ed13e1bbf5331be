//! Compares what should be in etcd with what is there: which records to put, which to delete, and
//! when. Pure; the clock is an argument.
//!
//! Leases end environments with every daemon down. But after a restart of etcd a lease has its
//! whole time again, and a lease that another writer chose may be wrong. So an environment past its
//! end is deleted here, too, whoever registered it.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mayfly_core::records::lifetime::Moment;
use mayfly_daemon::store::{Guard, LeaseId};

use crate::actual::{Actual, Held, Owner};
use crate::desired::{Desired, Scope, Terms};
use crate::environments::Environments;
use crate::resource::{Name, Resource, SharedRecord};

pub mod backlog;

/// How long after its end a record is deleted, so that its lease comes first.
const MARGIN: Duration = Duration::from_secs(5);
/// How often to look at the clock while a record is going to end: clocks jump.
const LOOK: Duration = Duration::from_secs(10);

/// What to write. All puts come before all deletes, so that what moves is never gone.
#[derive(Debug, Default)]
pub struct Plan<K: Resource = Environments> {
    /// The records to put, each if nobody has changed the key since it was read.
    pub puts: Vec<Put<K>>,
    /// The records that are as they should be, if their lease is.
    pub doubts: Vec<Doubt<K>>,
    /// The records to delete with their history, likewise.
    pub deletes: Vec<(Name<K>, Guard)>,
    /// The records to delete because their time is over; their history stays.
    pub ends: Vec<(Name<K>, Guard)>,
    /// When to plan again, because a grace ends then.
    pub again: Option<Instant>,
    /// Records that stand in etcd as they should.
    pub same: Vec<SharedRecord<K>>,
}

#[derive(Debug, Clone)]
pub struct Put<K: Resource = Environments> {
    /// The record without its life: as the files have it.
    pub record: SharedRecord<K>,
    /// What became of it until now.
    pub life: K::Life,
    /// What must hold for its key.
    pub guard: Guard,
    /// The lease that its key hangs on.
    pub before: Option<LeaseId>,
}

impl<K: Resource> Put<K> {
    /// The name of the record.
    pub fn name(&self) -> &K::Name {
        K::name(&self.record)
    }
}

/// A record whose lease has to be looked at.
#[derive(Debug, Clone)]
pub struct Doubt<K: Resource = Environments> {
    /// How it would be put again.
    pub put: Put<K>,
    pub lease: LeaseId,
    /// How long the lease should live at most.
    pub wanted: Duration,
    /// Whether each use gives it some of that time again, so that it may have less.
    pub idle: bool,
}

impl<K: Resource> Doubt<K> {
    /// Whether a lease is good that has this long to live. Leases and clocks are off by some
    /// seconds.
    pub fn is_settled_by(&self, left: Duration) -> bool {
        left <= self.wanted + MARGIN && (self.idle || self.wanted <= left + MARGIN)
    }
}

/// Since when records of etcd have been missing in the files.
#[derive(Debug)]
pub struct Absences<K: Resource = Environments> {
    grace: Duration,
    since: BTreeMap<K::Name, Instant>,
}

impl<K: Resource> Absences<K> {
    /// None yet. A record is deleted once it has been missing for `grace`.
    pub fn new(grace: Duration) -> Self {
        Self {
            grace,
            since: BTreeMap::new(),
        }
    }

    /// What is missing counts as missing only from now on.
    pub fn begin_anew(&mut self, now: Instant) {
        self.since.values_mut().for_each(|since| *since = now);
    }
}

/// Plans the writes that bring etcd in sync.
pub fn plan<K: Resource>(
    desired: &impl Desired<K>,
    actual: &Actual<K>,
    scope: &Scope<K::Name>,
    absences: &mut Absences<K>,
    terms: Terms,
    now: Instant,
) -> Plan<K> {
    let (mut plan, accepted) = (Plan::default(), desired.accepted());
    let mut consider = |name| match (accepted.get(name), actual.ours(name)) {
        (Some(record), _) => plan.consider(record, desired, actual, terms.now),
        // Whatever the merge thinks of it: this is not for a missing file to end.
        (None, Some(ours)) if K::is_protected(ours) && !terms.force => {}
        (None, _) if actual.records().get(name).is_some_and(Held::is_ours) => {
            absences.since.entry(name.clone()).or_insert(now);
        }
        (None, _) => {}
    };
    match scope {
        Scope::Only(names) => names.iter().for_each(consider),
        Scope::Everything => {
            let new = accepted
                .keys()
                .filter(|name| !actual.records().contains_key(*name));
            actual.records().keys().chain(new).for_each(&mut consider);
        }
    }
    plan.end(actual, terms.now);
    absences.since.retain(|name, since| {
        let held = actual.records().get(name).filter(|held| held.is_ours());
        let Some(held) = held.filter(|_| !accepted.contains_key(name)) else {
            return false;
        };
        // While it stays, it would stand in the way of a record that has got what was its own.
        let in_the_way = |record: &SharedRecord<K>| desired.holders(record).next().is_some();
        let due = *since + absences.grace;
        if due <= now || held.record.as_ref().is_ok_and(in_the_way) {
            plan.deletes
                .push((name.clone(), Guard::ModRevision(held.mod_revision)));
        } else {
            plan.again = plan.again.into_iter().chain([due]).min();
        }
        true
    });
    plan
}

/// When to plan again because a record may have ended by then, once a plan has been carried out.
pub fn next_end<K: Resource>(actual: &Actual<K>, time: SystemTime, now: Instant) -> Option<Instant> {
    let (end, _) = actual.ends().next()?;
    Some(now + end.after(MARGIN).left(time).min(LOOK))
}

impl<K: Resource> Plan<K> {
    /// The records that are put, or perhaps, in no order.
    pub fn writes(&self) -> impl Iterator<Item = &SharedRecord<K>> {
        let doubts = self.doubts.iter().map(|doubt| &doubt.put);
        self.puts.iter().chain(doubts).map(|put| &put.record)
    }

    /// Plans for an accepted record.
    fn consider(
        &mut self,
        record: &SharedRecord<K>,
        desired: &impl Desired<K>,
        actual: &Actual<K>,
        time: SystemTime,
    ) {
        let name = K::name(record);
        let held = actual.records().get(name);
        // The merge knows what others have; unless it takes that over, this can only be news of
        // this moment.
        let of_others = held.is_some_and(|held| matches!(held.owner, Owner::Other(_)));
        if of_others && !desired.is_takeover(name) {
            return;
        }
        let life = desired.life(record, held, actual, time);
        let put = |held: Option<&Held<K>>| Put {
            record: record.clone(),
            life: life.clone(),
            guard: held.map_or(Guard::Absent, |held| Guard::ModRevision(held.mod_revision)),
            before: held.and_then(|held| held.lease),
        };
        let Some(held) = held else {
            return self.puts.push(put(None));
        };
        match &held.record {
            Ok(there) if Arc::ptr_eq(there, record) => {}
            Ok(there) if there == record => self.same.push(record.clone()),
            _ => return self.puts.push(put(Some(held))),
        }
        let lacks_history = K::HAS_HISTORY && held.history.is_none();
        if held.life.as_ref() != Some(&life) || lacks_history {
            return self.puts.push(put(Some(held)));
        }
        if held.lease_is_checked {
            return;
        }
        match (held.lease, held.time_to_live(time)) {
            (None, None) => {}
            (Some(lease), Some(wanted)) => self.doubts.push(Doubt {
                put: put(Some(held)),
                lease,
                wanted,
                idle: K::is_idle(record),
            }),
            _ => self.puts.push(put(Some(held))),
        }
    }

    /// Plans to delete what is past its end, whosever it is, unless it is put with another end just
    /// now.
    fn end(&mut self, actual: &Actual<K>, time: SystemTime) {
        let is_over = |(end, _): &(Moment, _)| end.after(MARGIN).left(time).is_zero();
        let over: Vec<&K::Name> = actual.ends().take_while(is_over).map(|(_, name)| name).collect();
        if over.is_empty() {
            return;
        }
        let puts: HashSet<&K::Name> = self.puts.iter().map(Put::name).collect();
        let over = over.into_iter().filter(|name| !puts.contains(name));
        let ends = over.filter_map(|name| {
            let held = actual.records().get(name)?;
            Some((name.clone(), Guard::ModRevision(held.mod_revision)))
        });
        self.ends = ends.collect();
    }
}

#[cfg(test)]
mod tests;
