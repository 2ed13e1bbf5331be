//! What etcd says is gone, and is routed on all the same: a filter in front of the index. The end of a key that nobody
//! announced is withheld when it would leave a backend without an instance, or comes with the end of half of all; and
//! the list of environments does not become empty at a stroke. HAProxy's own checks say which instances really are gone;
//! so does another backend that registers the same address.
//! Pure: the clock and the states of the checks are arguments.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use mayfly_core::keys::{Daemon, Key, KeySpace};
use mayfly_core::records::{self, Instance, InstanceState};
use mayfly_core::version::BackendId;
use mayfly_daemon::store::Entry;
use mayfly_daemon::watch::{Batch, Change};
use tokio::time::Instant;

/// One lost instance, or one lost environment, is never a mass: to lose one is daily life.
const LEAST_LOSS: usize = 2;

/// What HAProxy's checks say of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// One of its servers is not found dead.
    Answers,
    /// All of its servers are found dead.
    Fails,
    /// HAProxy does not check it: no environment needs it, so it has no server.
    Unchecked,
}

/// Decides which ends of keys the index learns of.
#[derive(Debug)]
pub struct Guard {
    space: KeySpace,
    /// `None`: everything is believed.
    window: Option<Duration>,
    /// All instances that the index knows, those that are held included.
    backends: BTreeMap<BackendId, BTreeMap<String, InstanceState>>,
    /// How many instances these are.
    instances: usize,
    /// The keys of instances that somebody drains.
    drains: BTreeSet<String>,
    /// The environments, and whether each hangs on a lease: such a one ends some day, and is meant to.
    environments: BTreeMap<String, bool>,
    /// Keys whose end is withheld, and since when.
    held: BTreeMap<String, Instant>,
    /// When instances went unannounced that were let go.
    losses: VecDeque<Instant>,
    /// etcd's newest revision. It goes back only when etcd has lost its data.
    revision: i64,
}

impl Guard {
    /// A guard that takes the loss of half of all instances within `window` for a fault; without one it believes everything.
    pub fn new(space: KeySpace, window: Option<Duration>) -> Self {
        Self {
            space,
            window,
            backends: BTreeMap::new(),
            instances: 0,
            drains: BTreeSet::new(),
            environments: BTreeMap::new(),
            held: BTreeMap::new(),
            losses: VecDeque::new(),
            revision: 0,
        }
    }

    /// Takes what etcd tells, and gives what the index is to learn of it.
    pub fn filter(&mut self, batch: Batch, now: Instant) -> Vec<Change> {
        let Some(window) = self.window else {
            return batch.changes;
        };
        let data_lost = batch.revision < self.revision;
        self.revision = batch.revision;
        let mut passed = Vec::with_capacity(batch.changes.len());
        // Those that vanish now: what is to become of one depends on the others.
        let mut fresh = BTreeSet::new();
        for change in batch.changes {
            match &change {
                Change::Put(entry) => {
                    self.held.remove(&entry.key);
                    fresh.remove(&entry.key);
                    passed.extend(self.put(entry));
                    passed.push(change);
                }
                Change::Delete { key } if self.is_surprise(key) => {
                    if !self.held.contains_key(key) {
                        self.held.insert(key.clone(), now);
                        fresh.insert(key.clone());
                    }
                }
                Change::Delete { key } => {
                    self.forget(key);
                    passed.push(change);
                }
            }
        }
        fresh.retain(|key| self.held.contains_key(key));
        let (environments, instances): (Vec<String>, Vec<String>) = fresh
            .into_iter()
            .partition(|key| self.environments.contains_key(key));
        let held = self.held_environments();
        let endless = environments
            .iter()
            .filter(|key| self.environments.get(*key) == Some(&false));
        let emptied = self.environments.len() == held && (batch.listed || endless.count() >= LEAST_LOSS);
        if !data_lost && !emptied {
            passed.extend(environments.into_iter().map(|key| self.release(key)));
        }
        self.losses
            .retain(|at| now.saturating_duration_since(*at) < window);
        if !self.is_mass_loss() {
            let spared: Vec<String> = instances
                .into_iter()
                .filter(|key| self.has_sibling(key))
                .collect();
            for key in spared {
                self.losses.push_back(now);
                passed.push(self.release(key));
            }
        }
        passed
    }

    /// Lets go of those that HAProxy's checks found dead, and after the window of those that HAProxy does not check, or
    /// whose backend has another instance.
    pub fn judge(&mut self, health: impl Fn(&str) -> Health, now: Instant) -> Vec<Change> {
        let Some(window) = self.window else {
            return Vec::new();
        };
        self.losses
            .retain(|at| now.saturating_duration_since(*at) < window);
        let mass = self.is_mass_loss();
        let goes = |(key, since): (&String, &Instant)| {
            let old = now.saturating_duration_since(*since) >= window;
            let goes = match health(key) {
                Health::Fails => true,
                Health::Unchecked => old,
                Health::Answers => old && !mass && self.has_sibling(key),
            };
            goes.then(|| key.clone())
        };
        let instances = self
            .held
            .iter()
            .filter(|(key, _)| !self.environments.contains_key(*key));
        let gone: Vec<String> = instances.filter_map(goes).collect();
        gone.into_iter().map(|key| self.release(key)).collect()
    }

    /// Lets go of those whose address belongs to another backend by now: that anything answers there proves nothing.
    pub fn let_go(&mut self, is_superseded: impl Fn(&str) -> bool) -> Vec<Change> {
        let gone: Vec<String> = self
            .held_instances()
            .filter(|key| is_superseded(key))
            .map(str::to_owned)
            .collect();
        gone.into_iter().map(|key| self.release(key)).collect()
    }

    /// The instances whose end is withheld.
    pub fn held_instances(&self) -> impl Iterator<Item = &str> {
        let instances = self
            .held
            .keys()
            .filter(|key| !self.environments.contains_key(*key));
        instances.map(String::as_str)
    }

    /// How many environments' end is withheld.
    pub fn held_environments(&self) -> usize {
        let environments = self
            .held
            .keys()
            .filter(|key| self.environments.contains_key(*key));
        environments.count()
    }

    /// The keys whose end is withheld.
    pub fn keeps(&self) -> impl Iterator<Item = &str> {
        self.held.keys().map(String::as_str)
    }

    /// How many keys' end is withheld.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// What is withheld; `None` when nothing is.
    pub fn alarm(&self) -> Option<String> {
        let environments = self.held_environments();
        let instances = self.held.len() - environments;
        let first = self.held.keys().next()?;
        Some(format!(
            "etcd has lost {instances} of {} instances and {environments} of {} environments without a word ({first}{}): \
             they are kept, an instance while it answers HAProxy's check",
            self.instances,
            self.environments.len(),
            if self.held.len() > 1 { ", ..." } else { "" },
        ))
    }

    /// Notes what was put, and gives the ends that follow from it.
    fn put(&mut self, entry: &Entry) -> Vec<Change> {
        match self.space.parse(&entry.key) {
            Ok(Key::Environment(_)) => {
                self.environments.insert(entry.key.clone(), entry.lease.is_some());
            }
            Ok(Key::Instance(backend, _)) => {
                // One that cannot be read does not count; the index keeps its last good value, and so does this.
                if let Ok(record) = records::parse::<Instance>(&entry.value) {
                    let instances = self.backends.entry(backend).or_default();
                    if instances.insert(entry.key.clone(), record.state).is_none() {
                        self.instances += 1;
                    }
                }
            }
            Ok(Key::Drain(backend, instance)) => {
                let key = self.space.text(&Key::Instance(backend, instance));
                self.drains.insert(key.clone());
                if self.held.contains_key(&key) {
                    return vec![self.release(key)];
                }
            }
            Ok(Key::Confirmation(Daemon::HaproxyUpdater)) => {
                let all: Vec<String> = self.held.keys().cloned().collect();
                return all.into_iter().map(|key| self.release(key)).collect();
            }
            _ => {}
        }
        Vec::new()
    }

    /// Whether the end of a key was not announced: nobody drained the instance.
    fn is_surprise(&self, key: &str) -> bool {
        match self.backend_of(key) {
            Some(backend) => self.is_live(&backend, key),
            None => self.environments.contains_key(key),
        }
    }

    fn is_live(&self, backend: &BackendId, key: &str) -> bool {
        let state = self
            .backends
            .get(backend)
            .and_then(|instances| instances.get(key));
        state == Some(&InstanceState::Up) && !self.drains.contains(key)
    }

    /// Whether the backend of an instance has another one that is there.
    fn has_sibling(&self, key: &str) -> bool {
        let Some(backend) = self.backend_of(key) else {
            return false;
        };
        let keys = self.backends.get(&backend).into_iter().flatten();
        let mut others = keys.map(|(other, _)| other).filter(|other| *other != key);
        others.any(|other| self.is_live(&backend, other) && !self.held.contains_key(other))
    }

    /// Whether half of all instances, two at least, went unannounced within the window, or are withheld.
    fn is_mass_loss(&self) -> bool {
        let lost = self.held.len() - self.held_environments() + self.losses.len();
        lost >= LEAST_LOSS && lost * 2 >= self.instances + self.losses.len()
    }

    fn backend_of(&self, key: &str) -> Option<BackendId> {
        match self.space.parse(key) {
            Ok(Key::Instance(backend, _)) => Some(backend),
            _ => None,
        }
    }

    fn release(&mut self, key: String) -> Change {
        self.forget(&key);
        Change::Delete { key }
    }

    fn forget(&mut self, key: &str) {
        self.held.remove(key);
        match self.space.parse(key) {
            Ok(Key::Environment(_)) => drop(self.environments.remove(key)),
            Ok(Key::Instance(backend, _)) => {
                if let Some(instances) = self.backends.get_mut(&backend) {
                    if instances.remove(key).is_some() {
                        self.instances -= 1;
                    }
                    if instances.is_empty() {
                        self.backends.remove(&backend);
                    }
                }
            }
            Ok(Key::Drain(backend, instance)) => {
                let key = self.space.text(&Key::Instance(backend, instance));
                self.drains.remove(&key);
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
