//! What etcd holds of one kind of records, from the watch and from our own writes, and which of it
//! is ours.
//!
//! Records are kept without their life, so that what they ask for can be compared without it, and
//! shared with the files. The history of a live record says the same as the record, and takes no
//! place of its own.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_core::claims::{Claim, Queues};
use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::names::{EnvironmentName, NodeName};
use mayfly_core::records::lifetime::Moment;
use mayfly_core::records::{Environment, SetAsides};
use mayfly_daemon::store::LeaseId;
use mayfly_daemon::watch::{Batch, Change};

use crate::changes::Changes;
use crate::environments::Environments;
use crate::resource::{Part, Resource, SharedRecord};

mod held;
mod past;

use held::WatchedValue;
pub use held::{Held, Owner};
pub use past::Past;

/// All records in etcd, and what is known of those that have been.
#[derive(Debug)]
pub struct Actual<K: Resource = Environments> {
    keyspace: KeySpace,
    node: NodeName,
    listed: bool,
    revision: i64,
    records: BTreeMap<K::Name, Held<K>>,
    /// The histories that say something else than the record, most of them because there is none.
    pasts: BTreeMap<K::Name, Past<K>>,
    /// When records end, the next first.
    ends: BTreeSet<(Moment, K::Name)>,
    /// The keys that we have created, by the revision of their creation.
    created: BTreeMap<K::Name, i64>,
    /// The records that we have put and the watch has not reported yet, by the revision of the put.
    unseen: BTreeMap<K::Name, i64>,
    /// What we had registered where another registrar has taken over since.
    ceded: BTreeMap<K::Name, SharedRecord<K>>,
    /// The records of others that were there when etcd lost its data.
    lost: BTreeSet<K::Name>,
    /// The records that were seen since etcd was empty at first: it may have lost its data while we
    /// were down.
    seen: Option<BTreeSet<K::Name>>,
    set_aside: SetAsides,
    /// The records of others that have a prefix or header.
    others: Queues<K::Name, ()>,
    /// The records that keep what they had before, until what they choose has answered.
    switching: BTreeSet<K::Name>,
}

impl<K: Resource> Actual<K> {
    /// An empty actual for the registrar of this node.
    pub fn new(keyspace: KeySpace, node: NodeName) -> Self {
        Self {
            keyspace,
            node,
            listed: false,
            revision: 0,
            records: BTreeMap::new(),
            pasts: BTreeMap::new(),
            ends: BTreeSet::new(),
            created: BTreeMap::new(),
            unseen: BTreeMap::new(),
            ceded: BTreeMap::new(),
            lost: BTreeSet::new(),
            seen: None,
            set_aside: SetAsides::default(),
            others: Queues::default(),
            switching: BTreeSet::new(),
        }
    }

    /// Whether everything in etcd is known: before that, nothing may be written.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// The newest revision that the actual shows.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    pub fn records(&self) -> &BTreeMap<K::Name, Held<K>> {
        &self.records
    }

    /// A record, if it is ours.
    pub fn ours(&self, name: &K::Name) -> Option<&SharedRecord<K>> {
        let held = self.records.get(name)?;
        held.record.as_ref().ok().filter(|_| held.owner == Owner::Us)
    }

    /// A record as we had registered it, if it has ended.
    fn ours_that_ended(&self, name: &K::Name) -> Option<&SharedRecord<K>> {
        let past = self
            .pasts
            .get(name)
            .filter(|_| !self.records.contains_key(name))?;
        let from_us =
            |record: &&SharedRecord<K>| K::source(record).is_some_and(|it| it.registrar == self.node);
        past.record.as_ref().ok().filter(from_us)
    }

    /// The history of a record, if that does not live or does not say the same.
    pub fn past(&self, name: &K::Name) -> Option<&Past<K>> {
        self.pasts.get(name)
    }

    /// What became of a record that lives, ours or not, since it was first registered. Where it was
    /// written over, the history still knows.
    pub fn life(&self, name: &K::Name) -> Option<&K::Life> {
        let held = self.records.get(name)?;
        held.life.as_ref().or_else(|| self.pasts.get(name)?.life.as_ref())
    }

    /// The records that end by themselves, whosever they are, the next first.
    pub fn ends(&self) -> impl Iterator<Item = (Moment, &K::Name)> {
        self.ends.iter().map(|(end, name)| (*end, name))
    }

    /// What we had registered, if another registrar has taken the record over since.
    pub fn ceded(&self, name: &K::Name) -> Option<&SharedRecord<K>> {
        self.ceded.get(name)
    }

    /// Notes that the file of a record is a copy: what we had registered from it is past, and any
    /// change of it is new.
    pub fn copied(&mut self, name: &K::Name) {
        self.ceded.remove(name);
    }

    /// Whether a record of another writer was there, or may have been, when etcd lost its data, and
    /// did not come back.
    pub fn is_lost(&self, name: &K::Name) -> bool {
        self.lost.contains(name) || self.seen.as_ref().is_some_and(|seen| !seen.contains(name))
    }

    /// The owner of a record, if it is another writer.
    pub fn other(&self, name: &K::Name) -> Option<&str> {
        match &self.records.get(name)?.owner {
            Owner::Other(owner) => Some(owner),
            Owner::Us | Owner::Nobody => None,
        }
    }

    /// The key of a record as etcd has it.
    pub fn text_of(&self, name: &K::Name) -> String {
        self.keyspace.text(&K::key(name.clone(), Part::Record))
    }

    /// What cannot be read, with the reason.
    pub fn set_aside(&self) -> &SetAsides {
        &self.set_aside
    }

    /// Takes what the watch reports, and says what of it is new. What our own writes did is known
    /// already.
    pub fn update(&mut self, batch: Batch) -> Changes<K> {
        let mut news = Changes {
            all: batch.listed && !self.listed,
            ..Changes::default()
        };
        if news.all && batch.changes.is_empty() {
            self.seen = Some(BTreeSet::new());
        }
        self.listed |= batch.listed;
        let data_lost = batch.listed && batch.revision < self.revision;
        if data_lost {
            // Another etcd, or one that lost its data: its revisions begin again, and every write
            // of ours is gone.
            self.created.clear();
            let of_others = |held: &Held<K>| matches!(held.owner, Owner::Other(_));
            let others = self.records.iter().filter(|(_, held)| of_others(held));
            self.lost = others.map(|(name, _)| name.clone()).collect();
            for held in self.records.values_mut() {
                held.mod_revision = 0;
                held.history = held.history.map(|_| 0);
            }
            for past in self.pasts.values_mut() {
                past.mod_revision = 0;
            }
            news.all = true;
        }
        if batch.listed {
            let until = if data_lost { i64::MAX } else { batch.revision };
            self.miss_unseen(&batch.changes, until, &mut news);
        }
        // A listing shows what is; of single events some can be older than our own writes.
        let until = batch.listed.then_some(batch.revision);
        for change in batch.changes {
            match change {
                Change::Gone(key) => self.gone(key, batch.revision, &mut news),
                put => self.put(put, until, &mut news),
            }
        }
        self.set_aside = batch.set_aside;
        self.revision = if batch.listed {
            batch.revision
        } else {
            self.revision.max(batch.revision)
        };
        if news.all {
            news.ended = self.pasts.keys().cloned().collect();
        }
        // A writer that also deletes the history takes care of the rest.
        let has_ended = |name: &K::Name| !self.records.contains_key(name) && self.pasts.contains_key(name);
        news.ended.retain(has_ended);
        news
    }

    /// What we have put up to a revision, and neither an event nor this listing reports, is gone
    /// already: the watch does not report the end of what it never knew.
    fn miss_unseen(&mut self, listed: &[Change], until: i64, news: &mut Changes<K>) {
        let puts = listed.iter().filter(|change| !matches!(change, Change::Gone(_)));
        let put: BTreeSet<K::Name> = puts
            .filter_map(|change| match K::of_key(change.key())? {
                (name, Part::Record) => Some(name),
                (_, Part::History) => None,
            })
            .collect();
        let (missed, unseen) = std::mem::take(&mut self.unseen)
            .into_iter()
            .filter(|(name, _)| !put.contains(name))
            .partition(|(_, written)| *written <= until);
        self.unseen = unseen;
        for name in missed.into_keys() {
            self.gone(K::key(name.clone(), Part::Record), i64::MAX, news);
            if K::HAS_HISTORY {
                self.gone(K::key(name, Part::History), i64::MAX, news);
            }
        }
    }

    /// Takes a record and its history as they were just read; `None` where there is none.
    pub fn refresh(&mut self, name: &K::Name, record: Option<Change>, history: Option<Change>) {
        match record {
            Some(record) => self.put(record, Some(i64::MAX), &mut Changes::default()),
            None => self.ended_now(name),
        }
        match history {
            Some(history) => self.put(history, Some(i64::MAX), &mut Changes::default()),
            None => self.forget(name),
        }
    }

    /// Notes our own put of a record (without its life) and its history.
    pub fn wrote(&mut self, record: &SharedRecord<K>, life: K::Life, revision: i64) {
        let name = K::name(record);
        let create_revision = self
            .records
            .get(name)
            .map_or(revision, |held| held.create_revision);
        let held = Held {
            mod_revision: revision,
            create_revision,
            ends: K::ends(record, Some(&life)),
            record: Ok(record.clone()),
            life: Some(life),
            // See `hangs_on`.
            lease: None,
            lease_is_checked: true,
            history: K::HAS_HISTORY.then_some(revision),
            owner: Owner::Us,
        };
        self.created.insert(name.clone(), create_revision);
        self.replace(name, Some(held));
        self.unseen.insert(name.clone(), revision);
        self.pasts.remove(name);
        self.ceded.remove(name);
        self.revision = self.revision.max(revision);
    }

    /// Notes the lease of what we just wrote. The next write lets it go, and may come before the
    /// watch reports this one.
    pub fn hangs_on(&mut self, name: &K::Name, lease: Option<LeaseId>) {
        if let Some(held) = self.records.get_mut(name) {
            held.lease = lease;
        }
    }

    /// Notes our own delete of a record with its history.
    pub fn deleted(&mut self, name: &K::Name) {
        self.ended_now(name);
        self.forget(name);
    }

    /// Notes that a record is gone, and its history is not.
    pub fn ended_now(&mut self, name: &K::Name) {
        let before = self.replace(name, None);
        self.remember(name, before.as_ref());
        self.created.remove(name);
    }

    /// Notes that the lease of a record is as it should be.
    pub fn lease_is_good(&mut self, name: &K::Name) {
        if let Some(held) = self.records.get_mut(name) {
            held.lease_is_checked = true;
        }
    }

    /// Notes that a record in etcd says the same as the one in memory: the next comparison is one
    /// of pointers.
    pub fn same(&mut self, record: &SharedRecord<K>) {
        if let Some(held) = self.records.get_mut(K::name(record)) {
            held.record = Ok(record.clone());
        }
    }

    /// Puts a record in the place of another, and gives that one.
    fn replace(&mut self, name: &K::Name, held: Option<Held<K>>) -> Option<Held<K>> {
        let before = self.records.remove(name);
        if held.is_none() {
            self.unseen.remove(name);
        }
        if let Some(before) = &before {
            self.switching.remove(name);
            if let Some(end) = before.ends {
                self.ends.remove(&(end, name.clone()));
            }
            for claim in before.of_others().into_iter().flat_map(|it| K::claims(it)) {
                self.others.leave(&claim, &(false, (), name.clone()));
            }
        }
        if let Some(held) = held {
            if held.life.as_ref().is_some_and(K::is_switching) {
                self.switching.insert(name.clone());
            }
            self.ends.extend(held.ends.map(|end| (end, name.clone())));
            for claim in held.of_others().into_iter().flat_map(|it| K::claims(it)) {
                self.others.enter(claim, (false, (), name.clone()));
            }
            self.records.insert(name.clone(), held);
        }
        before
    }

    /// Keeps the history of a record that is no more what it was.
    fn remember(&mut self, name: &K::Name, before: Option<&Held<K>>) {
        let Some((before, mod_revision)) = before.and_then(|held| Some((held, held.history?))) else {
            return;
        };
        let past = Past {
            mod_revision,
            record: before.record.clone(),
            life: before.life.clone(),
        };
        self.pasts.insert(name.clone(), past);
    }

    /// Notes that the history of an environment is gone.
    fn forget(&mut self, name: &K::Name) {
        self.pasts.remove(name);
        if let Some(held) = self.records.get_mut(name) {
            held.history = None;
        }
    }

    /// Takes a value, unless we know one that was put after this revision; by default, after its
    /// own.
    fn put(&mut self, change: Change, until: Option<i64>, news: &mut Changes<K>) {
        let Some((name, part)) = K::of_key(change.key()) else {
            return;
        };
        let value = match change {
            Change::Put(stored) => {
                let Some((record, life)) = K::of_record(stored.record) else {
                    return;
                };
                WatchedValue {
                    source: K::source(&record).cloned(),
                    record: Ok(record),
                    life,
                    revision: stored.revision,
                    lease: stored.lease,
                }
            }
            Change::Unreadable(unreadable) => WatchedValue {
                source: unreadable.source,
                record: Err(unreadable.reason),
                life: None,
                revision: unreadable.revision,
                lease: unreadable.lease,
            },
            Change::Gone(_) => return,
        };
        let until = until.unwrap_or(value.revision.changed - 1);
        match part {
            Part::Record => self.put_record(name, value, until, news),
            Part::History => self.put_history(name, value, until, news),
        }
    }

    fn put_record(&mut self, name: K::Name, value: WatchedValue<K>, until: i64, news: &mut Changes<K>) {
        let (record, revision) = (value.record, value.revision);
        if self
            .unseen
            .get(&name)
            .is_some_and(|written| *written <= revision.changed)
        {
            self.unseen.remove(&name);
        }
        if let Some(held) = self.records.get_mut(&name) {
            if held.mod_revision == revision.changed && held.lease_is_checked {
                held.lease = value.lease;
            }
            if held.mod_revision > until {
                return;
            }
        }
        if value.source.as_ref().is_some_and(|it| it.registrar == self.node) {
            self.created.insert(name.clone(), revision.created);
        } else if value.source.is_some() && record.is_ok() {
            // Another registrar has taken it over, as `--write-back` does: to write over that would
            // never end.
            self.created.remove(&name);
            let ours = self.ours(&name).or_else(|| self.ours_that_ended(&name));
            if let Some(ours) = ours.cloned() {
                self.ceded.insert(name.clone(), ours);
            }
        }
        self.lost.remove(&name);
        if let Some(seen) = &mut self.seen {
            seen.insert(name.clone());
        }
        let is_ours = self.created.get(&name) == Some(&revision.created);
        let held = Held {
            mod_revision: revision.changed,
            create_revision: revision.created,
            ends: record
                .as_ref()
                .ok()
                .and_then(|it| K::ends(it, value.life.as_ref())),
            owner: Owner::of(is_ours, value.source, record.is_ok()),
            record,
            life: value.life,
            lease: value.lease,
            lease_is_checked: false,
            history: None,
        };
        news.others.extend(held.of_others().cloned());
        let before = self.replace(&name, Some(held));
        self.remember(&name, before.as_ref());
        self.compare(&name);
        news.others
            .extend(before.as_ref().and_then(Held::of_others).cloned());
        news.names.insert(name);
    }

    fn put_history(&mut self, name: K::Name, value: WatchedValue<K>, until: i64, news: &mut Changes<K>) {
        let mod_revision = value.revision.changed;
        if self.history_revision(&name).is_some_and(|known| known > until) {
            return;
        }
        let held = self.records.get_mut(&name);
        if let Some(held) = held.filter(|held| held.mod_revision == mod_revision && held.record.is_ok()) {
            // Both were put in one step.
            held.history = Some(mod_revision);
            self.pasts.remove(&name);
            news.names.insert(name);
            return;
        }
        let past = Past {
            mod_revision,
            record: value.record,
            life: value.life,
        };
        self.forget(&name);
        self.pasts.insert(name.clone(), past);
        self.compare(&name);
        news.names.insert(name);
    }

    /// A history that says the same as the record need not be kept beside it.
    fn compare(&mut self, name: &K::Name) {
        let (Some(held), Some(past)) = (self.records.get_mut(name), self.pasts.get(name)) else {
            return;
        };
        if held.life == past.life && held.record.is_ok() && held.record == past.record {
            held.history = Some(past.mod_revision);
            self.pasts.remove(name);
        }
    }

    /// The revision at which the history of an environment was put, if there is one.
    fn history_revision(&self, name: &K::Name) -> Option<i64> {
        let held = self.records.get(name).and_then(|held| held.history);
        held.or_else(|| Some(self.pasts.get(name)?.mod_revision))
    }

    fn gone(&mut self, key: Key, revision: i64, news: &mut Changes<K>) {
        let Some((name, part)) = K::of_key(key) else {
            return;
        };
        match part {
            Part::Record => {
                let held = self.records.get(&name);
                if held.is_none_or(|held| held.mod_revision > revision) {
                    return;
                }
                let before = self.replace(&name, None);
                self.remember(&name, before.as_ref());
                self.created.remove(&name);
                let others = before.as_ref().and_then(Held::of_others);
                news.others.extend(others.cloned());
                news.ended.push(name.clone());
            }
            Part::History => {
                if self.history_revision(&name).is_none_or(|known| known > revision) {
                    return;
                }
                self.forget(&name);
            }
        }
        news.names.insert(name);
    }
}

impl Actual {
    pub fn environments(&self) -> &BTreeMap<EnvironmentName, Held> {
        &self.records
    }

    /// The history of an environment that has ended, if this asks for the same as that did.
    pub fn ended(&self, environment: &Environment) -> Option<&Past> {
        if self.records.contains_key(&environment.name) {
            return None;
        }
        let past = self.pasts.get(&environment.name)?;
        past.is_of(environment).then_some(past)
    }

    /// Whether a record of ours was brought back by `mayfly keep`, and nobody has seen its file
    /// since.
    pub fn is_revived(&self, name: &EnvironmentName) -> bool {
        self.ours(name).is_some() && self.life(name).is_some_and(|life| life.revived)
    }

    /// The environments that may have what they had before, whosever they are.
    pub fn switching(&self) -> impl Iterator<Item = &EnvironmentName> {
        self.switching.iter()
    }

    /// The environments of others that claim this.
    pub fn others_with(&self, claim: &Claim) -> impl Iterator<Item = &EnvironmentName> {
        self.others.of(claim).iter().map(|(_, (), name)| name)
    }
}

#[cfg(test)]
pub(crate) mod tests;
