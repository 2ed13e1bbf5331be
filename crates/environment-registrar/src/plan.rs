//! What is to be in etcd against what is there: which records to put and which to delete, and when. Pure; the clock is
//! an argument.
//!
//! Leases end environments, with every daemon down; but after a restart of etcd a lease has its whole time again, and one
//! that somebody else chose may be wrong. So what is past its end is deleted here too, whosever it is.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mayfly_core::lifetime::{Life, Moment};
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;
use mayfly_core::switching::{self, Previous};
use mayfly_daemon::store::{Guard, LeaseId};

use crate::merge::{Merged, Terms};
use crate::mirror::{Held, Mirror, Owner, with_life};

/// How long after its end an environment is deleted, so that its lease comes first.
const MARGIN: Duration = Duration::from_secs(5);
/// How often to look at the clock while an environment is going to end: clocks jump.
const LOOK: Duration = Duration::from_secs(10);

/// What to write. All puts come before all deletes, so that what moves is never gone.
#[derive(Debug, Default)]
pub struct Plan {
    /// The records to put, each if nobody has changed the key since it was read.
    pub puts: Vec<Put>,
    /// The records that are as they should be, if their lease is.
    pub doubts: Vec<Doubt>,
    /// The environments to delete with their history, likewise.
    pub deletes: Vec<(EnvironmentName, Guard)>,
    /// The environments to delete because their time is over; their history stays.
    pub ends: Vec<(EnvironmentName, Guard)>,
    /// When to plan again, because a grace ends then.
    pub again: Option<Instant>,
    /// Records that stand in etcd as they should.
    pub same: Vec<Arc<Environment>>,
}

/// A record to put.
#[derive(Debug, Clone)]
pub struct Put {
    /// The environment, without its life: as the library has it.
    pub environment: Arc<Environment>,
    /// What became of it until now.
    pub life: Life,
    /// What must hold for its key.
    pub guard: Guard,
    /// The lease that its key hangs on.
    pub before: Option<LeaseId>,
}

impl Put {
    /// The record as it will stand in etcd.
    pub fn record(&self) -> Environment {
        with_life(&self.environment, Some(&self.life))
    }
}

/// A record whose lease has to be looked at.
#[derive(Debug, Clone)]
pub struct Doubt {
    /// How it would be put again.
    pub put: Put,
    /// Its lease.
    pub lease: LeaseId,
    /// How long the lease should live at most.
    pub wanted: Duration,
    /// Whether each use gives it some of that time again, so that it may have less.
    pub idle: bool,
}

impl Doubt {
    /// Whether a lease is good that has this long to live. Leases and clocks are off by some seconds.
    pub fn is_settled_by(&self, left: Duration) -> bool {
        left <= self.wanted + MARGIN && (self.idle || self.wanted <= left + MARGIN)
    }
}

/// Since when environments of etcd have been missing in the files.
#[derive(Debug)]
pub struct Absences {
    grace: Duration,
    since: BTreeMap<EnvironmentName, Instant>,
}

impl Absences {
    /// None yet. An environment is deleted once it has been missing for `grace`.
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

/// Plans the writes that bring etcd in step: for all environments, or for these only if nothing else has changed.
pub fn plan(
    merged: &Merged,
    mirror: &Mirror,
    only: Option<&BTreeSet<EnvironmentName>>,
    absences: &mut Absences,
    terms: Terms,
    now: Instant,
) -> Plan {
    let mut plan = Plan::default();
    let mut consider = |name| {
        if merged.accepted.contains_key(name) {
            plan.consider(name, merged, mirror, terms);
        } else if mirror
            .ours(name)
            .is_some_and(|ours| ours.protected && !terms.force)
        {
            // Whatever the merge thinks of it: this is not for a missing file to end.
        } else if mirror.environments().get(name).is_some_and(is_ours) {
            absences.since.entry(name.clone()).or_insert(now);
        }
    };
    match only {
        Some(names) => names.iter().for_each(consider),
        None => {
            let present = merged
                .accepted
                .keys()
                .filter(|name| !mirror.environments().contains_key(*name));
            let all = mirror.environments().keys().chain(present);
            all.for_each(&mut consider);
        }
    }
    plan.end(mirror, terms.now);
    absences.since.retain(|name, since| {
        let held = mirror.environments().get(name).filter(|held| is_ours(held));
        let Some(held) = held.filter(|_| !merged.accepted.contains_key(name)) else {
            return false;
        };
        // While it stays, it would stand in the way of an environment that has got its prefix or header.
        let in_the_way = held
            .record
            .as_ref()
            .is_ok_and(|record| merged.has_keys_of(record));
        let due = *since + absences.grace;
        if in_the_way || due <= now {
            plan.deletes
                .push((name.clone(), Guard::ModRevision(held.mod_revision)));
        } else {
            plan.look_again(due);
        }
        true
    });
    plan
}

/// When to plan again because an environment may have ended by then, once a plan has been carried out.
pub fn next_end(mirror: &Mirror, time: SystemTime, now: Instant) -> Option<Instant> {
    let (end, _) = mirror.ends().next()?;
    Some(now + end.after(MARGIN).left(time).min(LOOK))
}

/// What routers go on with until what is chosen now has answered.
fn previous(environment: &Arc<Environment>, held: Option<&Held>, life: &Life, mirror: &Mirror) -> Previous {
    match held.map(|held| &held.record) {
        Some(Ok(record)) if Arc::ptr_eq(record, environment) || record.asks_for_the_same(environment) => {
            life.previous.clone()
        }
        Some(Ok(record)) => {
            let before = with_life(record, Some(life));
            let other = |name: &EnvironmentName| mirror.environments().get(name)?.record.as_deref().ok();
            switching::previous(&before, environment, other)
        }
        Some(Err(_)) | None => Previous::new(),
    }
}

fn is_ours(held: &Held) -> bool {
    held.owner == Owner::Us
}

impl Plan {
    /// The environments that are put, or perhaps, in no order.
    pub fn writes(&self) -> impl Iterator<Item = &Environment> {
        let doubts = self.doubts.iter().map(|doubt| &doubt.put);
        self.puts.iter().chain(doubts).map(|put| &*put.environment)
    }

    /// Plans for an accepted environment.
    fn consider(&mut self, name: &EnvironmentName, merged: &Merged, mirror: &Mirror, terms: Terms) {
        let Some(environment) = merged.accepted.get(name) else {
            return;
        };
        let held = mirror.environments().get(name);
        // The merge knows what others have; unless it takes that over, this can only be news of this moment.
        let of_others = held.is_some_and(|held| matches!(held.owner, Owner::Other(_)));
        if of_others && !merged.takeovers().contains(name) {
            return;
        }
        let life = mirror.life(name).cloned();
        let life = life.unwrap_or_else(|| Life::beginning(Moment::of(terms.now)));
        let life = Life {
            // Its file is back, or will be: for as long as it is missing, that means nothing.
            revived: life.revived && merged.is_unnamed(name),
            // The routers see no files.
            refused: merged.outdated(name).cloned(),
            previous: previous(environment, held, &life, mirror),
            ..life
        };
        let put = |held: Option<&Held>| Put {
            environment: environment.clone(),
            life: life.clone(),
            guard: held.map_or(Guard::Absent, |held| Guard::ModRevision(held.mod_revision)),
            before: held.and_then(|held| held.lease),
        };
        let Some(held) = held else {
            return self.puts.push(put(None));
        };
        match &held.record {
            Ok(record) if Arc::ptr_eq(record, environment) => {}
            Ok(record) if record == environment => self.same.push(environment.clone()),
            _ => return self.puts.push(put(Some(held))),
        }
        if held.life.as_ref() != Some(&life) || held.history.is_none() {
            return self.puts.push(put(Some(held)));
        }
        if held.lease_is_checked {
            return;
        }
        match (held.lease, held.time_to_live(terms.now)) {
            (None, None) => {}
            (Some(lease), Some(wanted)) => self.doubts.push(Doubt {
                put: put(Some(held)),
                lease,
                wanted,
                idle: environment.idle.is_some(),
            }),
            _ => self.puts.push(put(Some(held))),
        }
    }

    /// Plans to delete what is past its end, whosever it is, unless it is put with another end just now.
    fn end(&mut self, mirror: &Mirror, time: SystemTime) {
        let is_over = |(end, _): &(Moment, _)| end.after(MARGIN).left(time).is_zero();
        let puts: HashSet<&EnvironmentName> = match mirror.ends().next().filter(is_over) {
            Some(_) => self.puts.iter().map(|put| &put.environment.name).collect(),
            None => return,
        };
        let mut ends = Vec::new();
        for (_, name) in mirror.ends().take_while(is_over) {
            let held = mirror.environments().get(name);
            if let Some(held) = held.filter(|_| !puts.contains(name)) {
                ends.push((name.clone(), Guard::ModRevision(held.mod_revision)));
            }
        }
        self.ends = ends;
    }

    fn look_again(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }
}

#[cfg(test)]
mod tests;
