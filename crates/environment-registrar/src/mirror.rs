//! What etcd holds below `environments/` and `history/`, as the watch and our own writes tell it, and which of it is ours.
//!
//! Records are kept without their life, so that what an environment asks for can be compared without it, and shared with
//! the library. The history of an environment that lives says the same as its record, and takes no place of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::lifetime::{Life, Moment};
use mayfly_core::names::{DnsPrefix, EnvironmentName, HeaderValue, NodeName};
use mayfly_core::records::{self, Environment, SetAside};
use mayfly_daemon::store::Entry;
use mayfly_daemon::watch::{Batch, Change};

mod held;
mod past;

pub(crate) use held::source_of;
pub use held::{Held, Owner};
use held::{end_of, split};
pub(crate) use past::with_life;
pub use past::{End, Past};

/// All records in etcd, and what is known of those that have been.
#[derive(Debug)]
pub struct Mirror {
    keyspace: KeySpace,
    node: NodeName,
    listed: bool,
    revision: i64,
    environments: BTreeMap<EnvironmentName, Held>,
    /// The histories that say something else than the record, most of them because there is none.
    pasts: BTreeMap<EnvironmentName, Past>,
    /// Who has what it had before, until what it chooses has answered.
    switching: BTreeSet<EnvironmentName>,
    /// When records end, the next first.
    ends: BTreeSet<(Moment, EnvironmentName)>,
    /// The keys that we have created, by the revision of their creation.
    created: BTreeMap<EnvironmentName, i64>,
    /// What we had registered where another registrar has taken over since.
    ceded: BTreeMap<EnvironmentName, Arc<Environment>>,
    /// The records of others that were there when etcd lost its data.
    lost: BTreeSet<EnvironmentName>,
    /// The environments that were seen since etcd was empty at first: it may have lost its data while we were down.
    seen: Option<BTreeSet<EnvironmentName>>,
    unknown: BTreeMap<String, String>,
    /// The records that are no environments.
    broken: BTreeSet<EnvironmentName>,
    /// Who else has a prefix or header.
    prefixes: HashMap<DnsPrefix, BTreeSet<EnvironmentName>>,
    headers: HashMap<HeaderValue, BTreeSet<EnvironmentName>>,
}

/// What is new in etcd.
#[derive(Debug, Default)]
pub struct News {
    /// Whether everything may be.
    pub all: bool,
    /// The environments whose records are new or gone.
    pub names: BTreeSet<EnvironmentName>,
    /// The records of others that came or went.
    pub others: Vec<Arc<Environment>>,
}

impl Mirror {
    /// An empty mirror for the registrar of this node.
    pub fn new(keyspace: KeySpace, node: NodeName) -> Self {
        Self {
            keyspace,
            node,
            listed: false,
            revision: 0,
            environments: BTreeMap::new(),
            pasts: BTreeMap::new(),
            switching: BTreeSet::new(),
            ends: BTreeSet::new(),
            created: BTreeMap::new(),
            ceded: BTreeMap::new(),
            lost: BTreeSet::new(),
            seen: None,
            unknown: BTreeMap::new(),
            broken: BTreeSet::new(),
            prefixes: HashMap::new(),
            headers: HashMap::new(),
        }
    }

    /// Whether everything in etcd is known: before that, nothing may be written.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// The newest revision that the mirror shows.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// All records by name.
    pub fn environments(&self) -> &BTreeMap<EnvironmentName, Held> {
        &self.environments
    }

    /// The record of an environment, if it is ours.
    pub fn ours(&self, name: &EnvironmentName) -> Option<&Arc<Environment>> {
        let held = self.environments.get(name)?;
        held.record.as_ref().ok().filter(|_| held.owner == Owner::Us)
    }

    /// The environment as we had registered it, if it has ended.
    fn ours_that_ended(&self, name: &EnvironmentName) -> Option<&Arc<Environment>> {
        let past = self
            .pasts
            .get(name)
            .filter(|_| !self.environments.contains_key(name))?;
        let from_us =
            |record: &&Arc<Environment>| record.source.as_ref().is_some_and(|it| it.registrar == self.node);
        past.record.as_ref().ok().filter(from_us)
    }

    /// The history of an environment that has ended, if this asks for the same as that did.
    pub fn ended(&self, environment: &Environment) -> Option<&Past> {
        if self.environments.contains_key(&environment.name) {
            return None;
        }
        let past = self.pasts.get(&environment.name)?;
        past.is_of(environment).then_some(past)
    }

    /// The history of an environment, if that does not live or its record does not say the same.
    pub fn past(&self, name: &EnvironmentName) -> Option<&Past> {
        self.pasts.get(name)
    }

    /// What became of an environment that lives, ours or not, since it was first registered. Where somebody has written over
    /// its record, the history still knows.
    pub fn life(&self, name: &EnvironmentName) -> Option<&Life> {
        let held = self.environments.get(name)?;
        held.life.as_ref().or_else(|| self.pasts.get(name)?.life.as_ref())
    }

    /// Whether a record of ours was brought back by `mayfly keep`, and nobody has seen its file since.
    pub fn is_revived(&self, name: &EnvironmentName) -> bool {
        self.ours(name).is_some() && self.life(name).is_some_and(|life| life.revived)
    }

    /// The environments that may have what they had before, whosever they are.
    pub fn switching(&self) -> impl Iterator<Item = &EnvironmentName> {
        self.switching.iter()
    }

    /// The records that end by themselves, whosever they are, the next first.
    pub fn ends(&self) -> impl Iterator<Item = (Moment, &EnvironmentName)> {
        self.ends.iter().map(|(end, name)| (*end, name))
    }

    /// What we had registered, if another registrar has taken the environment over since.
    pub fn ceded(&self, name: &EnvironmentName) -> Option<&Arc<Environment>> {
        self.ceded.get(name)
    }

    /// Notes that the file of an environment is a copy: what we had registered from it is past, and any change of it is new.
    pub fn copied(&mut self, name: &EnvironmentName) {
        self.ceded.remove(name);
    }

    /// Whether a record of somebody else was there, or may have been, when etcd lost its data, and did not come back.
    pub fn is_lost(&self, name: &EnvironmentName) -> bool {
        self.lost.contains(name) || self.seen.as_ref().is_some_and(|seen| !seen.contains(name))
    }

    /// The environments of others that have a prefix.
    pub fn others_with_prefix(&self, prefix: &DnsPrefix) -> impl Iterator<Item = &EnvironmentName> {
        self.prefixes.get(prefix).into_iter().flatten()
    }

    /// The environments of others that have a header.
    pub fn others_with_header(&self, header: &HeaderValue) -> impl Iterator<Item = &EnvironmentName> {
        self.headers.get(header).into_iter().flatten()
    }

    /// Whose an environment is, if it is somebody else's.
    pub fn other(&self, name: &EnvironmentName) -> Option<&str> {
        match &self.environments.get(name)?.owner {
            Owner::Other(owner) => Some(owner),
            Owner::Us | Owner::Nobody => None,
        }
    }

    /// Entries that are no environments, with the reason.
    pub fn set_aside(&self) -> Vec<SetAside> {
        let unknown = self.unknown.iter().map(|(key, reason)| SetAside {
            key: key.clone(),
            reason: reason.clone(),
        });
        let broken = self.broken.iter().filter_map(|name| {
            let key = self.keyspace.text(&Key::Environment(name.clone()));
            Some(SetAside {
                key,
                reason: self.environments.get(name)?.record.as_ref().err()?.clone(),
            })
        });
        let pasts = self.pasts.iter().filter_map(|(name, past)| {
            Some(SetAside {
                key: self.keyspace.text(&Key::History(name.clone())),
                reason: past.record.as_ref().err()?.clone(),
            })
        });
        unknown.chain(broken).chain(pasts).collect()
    }

    /// Takes what the watch tells, and says what of it is new. What our own writes did is known already.
    pub fn take(&mut self, batch: Batch) -> News {
        let mut news = News {
            all: batch.listed && !self.listed,
            ..News::default()
        };
        if news.all && batch.changes.is_empty() {
            self.seen = Some(BTreeSet::new());
        }
        self.listed |= batch.listed;
        if batch.listed && batch.revision < self.revision {
            // Another etcd, or one that lost its data: its revisions begin anew, and every write of ours is gone.
            self.created.clear();
            let of_others = |held: &Held| matches!(held.owner, Owner::Other(_));
            let others = self.environments.iter().filter(|(_, held)| of_others(held));
            self.lost = others.map(|(name, _)| name.clone()).collect();
            for held in self.environments.values_mut() {
                held.mod_revision = 0;
                held.history = held.history.map(|_| 0);
            }
            for past in self.pasts.values_mut() {
                past.mod_revision = 0;
            }
            news.all = true;
        }
        for change in batch.changes {
            match change {
                // A listing shows what is; of single events some can be older than our own writes.
                Change::Put(entry) => {
                    let until = if batch.listed {
                        batch.revision
                    } else {
                        entry.mod_revision - 1
                    };
                    self.put(entry, until, &mut news);
                }
                Change::Delete { key } => self.delete(&key, batch.revision, &mut news),
            }
        }
        self.revision = if batch.listed {
            batch.revision
        } else {
            self.revision.max(batch.revision)
        };
        news
    }

    /// Takes a record and its history as they were just read; `None` where there is none.
    pub fn refresh(&mut self, name: &EnvironmentName, entry: Option<Entry>, history: Option<Entry>) {
        match entry {
            Some(entry) => self.put(entry, i64::MAX, &mut News::default()),
            None => self.ended_now(name),
        }
        match history {
            Some(history) => self.put(history, i64::MAX, &mut News::default()),
            None => self.forget(name),
        }
    }

    /// Notes our own put of an environment (without its life) and its history.
    pub fn published(&mut self, environment: &Arc<Environment>, life: Life, revision: i64) {
        let name = &environment.name;
        let create_revision = self
            .environments
            .get(name)
            .map_or(revision, |held| held.create_revision);
        let held = Held {
            mod_revision: revision,
            create_revision,
            ends: end_of(environment, Some(&life)),
            record: Ok(environment.clone()),
            life: Some(life),
            // The watch tells it in a moment.
            lease: None,
            lease_is_checked: true,
            history: Some(revision),
            owner: Owner::Us,
        };
        self.created.insert(name.clone(), create_revision);
        self.replace(name, Some(held));
        self.pasts.remove(name);
        self.ceded.remove(name);
        self.revision = self.revision.max(revision);
    }

    /// Notes our own delete of a record with its history.
    pub fn deleted(&mut self, name: &EnvironmentName) {
        self.ended_now(name);
        self.forget(name);
    }

    /// Notes that a record is gone, and its history is not.
    pub fn ended_now(&mut self, name: &EnvironmentName) {
        let before = self.replace(name, None);
        self.remember(name, before.as_ref());
        self.created.remove(name);
    }

    /// Notes that the lease of a record is as it should be.
    pub fn lease_is_good(&mut self, name: &EnvironmentName) {
        if let Some(held) = self.environments.get_mut(name) {
            held.lease_is_checked = true;
        }
    }

    /// Notes that a record in etcd says the same as the one in memory: the next comparison is one of pointers.
    pub fn same(&mut self, environment: &Arc<Environment>) {
        if let Some(held) = self.environments.get_mut(&environment.name) {
            held.record = Ok(environment.clone());
        }
    }

    /// Puts a record in the place of another, and gives that one.
    fn replace(&mut self, name: &EnvironmentName, held: Option<Held>) -> Option<Held> {
        let added = held.as_ref().and_then(Held::of_others).cloned();
        if held.as_ref().is_some_and(|held| held.record.is_err()) {
            self.broken.insert(name.clone());
        } else {
            self.broken.remove(name);
        }
        let life = held.as_ref().and_then(|held| held.life.as_ref());
        if life.is_some_and(|life| !life.previous.is_empty()) {
            self.switching.insert(name.clone());
        } else {
            self.switching.remove(name);
        }
        let before = match held {
            Some(held) => self.environments.insert(name.clone(), held),
            None => self.environments.remove(name),
        };
        if let Some(end) = before.as_ref().and_then(|before| before.ends) {
            self.ends.remove(&(end, name.clone()));
        }
        if let Some(end) = self.environments.get(name).and_then(|held| held.ends) {
            self.ends.insert((end, name.clone()));
        }
        if let Some(removed) = before.as_ref().and_then(Held::of_others) {
            take_out(&mut self.prefixes, &removed.prefix, name);
            take_out(&mut self.headers, &removed.header, name);
        }
        if let Some(added) = added {
            self.prefixes
                .entry(added.prefix.clone())
                .or_default()
                .insert(name.clone());
            self.headers
                .entry(added.header.clone())
                .or_default()
                .insert(name.clone());
        }
        before
    }

    /// Keeps the history of a record that is no more what it was.
    fn remember(&mut self, name: &EnvironmentName, before: Option<&Held>) {
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
    fn forget(&mut self, name: &EnvironmentName) {
        self.pasts.remove(name);
        if let Some(held) = self.environments.get_mut(name) {
            held.history = None;
        }
    }

    /// Takes an entry, unless we know one that was put after this revision.
    fn put(&mut self, entry: Entry, until: i64, news: &mut News) {
        match self.keyspace.parse(&entry.key) {
            Ok(Key::Environment(name)) => self.put_record(name, entry, until, news),
            Ok(Key::History(name)) => self.put_history(name, &entry, until, news),
            Ok(_) => {}
            Err(error) => {
                if let Some("environments" | "history") = self.keyspace.kind(&entry.key) {
                    self.unknown.insert(entry.key, error.to_string());
                }
            }
        }
    }

    fn put_record(&mut self, name: EnvironmentName, entry: Entry, until: i64, news: &mut News) {
        if let Some(held) = self.environments.get_mut(&name) {
            if held.mod_revision == entry.mod_revision && held.lease_is_checked {
                held.lease = entry.lease;
            }
            if held.mod_revision > until {
                return;
            }
        }
        let parsed = records::parse_environment(&name, &entry.value);
        let source = match &parsed {
            Ok(environment) => environment.source.clone(),
            Err(_) => source_of(&entry.value),
        };
        if source
            .as_ref()
            .is_some_and(|source| source.registrar == self.node)
        {
            self.created.insert(name.clone(), entry.create_revision);
        } else if source.is_some() && parsed.is_ok() {
            // Another registrar has taken it over, as `--write-back` does: to write over that would never end.
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
        let is_ours = self.created.get(&name) == Some(&entry.create_revision);
        let owner = Owner::of(is_ours, source, parsed.is_ok());
        let (record, life) = split(parsed);
        let held = Held {
            mod_revision: entry.mod_revision,
            create_revision: entry.create_revision,
            ends: record.as_ref().ok().and_then(|it| end_of(it, life.as_ref())),
            record,
            life,
            lease: entry.lease,
            lease_is_checked: false,
            history: None,
            owner,
        };
        news.others.extend(held.of_others().cloned());
        let before = self.replace(&name, Some(held));
        self.remember(&name, before.as_ref());
        self.compare(&name);
        news.others
            .extend(before.as_ref().and_then(Held::of_others).cloned());
        news.names.insert(name);
    }

    fn put_history(&mut self, name: EnvironmentName, entry: &Entry, until: i64, news: &mut News) {
        if self.history_revision(&name).is_some_and(|known| known > until) {
            return;
        }
        let held = self.environments.get_mut(&name);
        if let Some(held) = held.filter(|held| held.mod_revision == entry.mod_revision && held.record.is_ok())
        {
            // Both were put in one step.
            held.history = Some(entry.mod_revision);
            self.pasts.remove(&name);
            news.names.insert(name);
            return;
        }
        let (record, life) = split(records::parse_environment(&name, &entry.value));
        let past = Past {
            mod_revision: entry.mod_revision,
            record,
            life,
        };
        self.forget(&name);
        self.pasts.insert(name.clone(), past);
        self.compare(&name);
        news.names.insert(name);
    }

    /// A history that says the same as the record need not be kept beside it.
    fn compare(&mut self, name: &EnvironmentName) {
        let (Some(held), Some(past)) = (self.environments.get_mut(name), self.pasts.get(name)) else {
            return;
        };
        if held.life == past.life && held.record.is_ok() && held.record == past.record {
            held.history = Some(past.mod_revision);
            self.pasts.remove(name);
        }
    }

    /// The revision at which the history of an environment was put, if there is one.
    fn history_revision(&self, name: &EnvironmentName) -> Option<i64> {
        let held = self.environments.get(name).and_then(|held| held.history);
        held.or_else(|| Some(self.pasts.get(name)?.mod_revision))
    }

    fn delete(&mut self, key: &str, revision: i64, news: &mut News) {
        match self.keyspace.parse(key) {
            Ok(Key::Environment(name)) => {
                let held = self.environments.get(&name);
                if held.is_some_and(|held| held.mod_revision <= revision) {
                    let before = self.replace(&name, None);
                    self.remember(&name, before.as_ref());
                    self.created.remove(&name);
                    news.others
                        .extend(before.as_ref().and_then(Held::of_others).cloned());
                    news.names.insert(name);
                }
            }
            Ok(Key::History(name)) => {
                if self
                    .history_revision(&name)
                    .is_some_and(|known| known <= revision)
                {
                    self.forget(&name);
                    news.names.insert(name);
                }
            }
            _ => {
                self.unknown.remove(key);
            }
        }
    }
}

fn take_out<Text: std::hash::Hash + Eq>(
    claims: &mut HashMap<Text, BTreeSet<EnvironmentName>>,
    text: &Text,
    name: &EnvironmentName,
) {
    if let Some(names) = claims.get_mut(text) {
        names.remove(name);
        if names.is_empty() {
            claims.remove(text);
        }
    }
}

#[cfg(test)]
mod tests;
