//! The keys that are there, as far as rules about their end depend on them.

use std::collections::{BTreeMap, BTreeSet};

use super::{KeyState, MeantEnds};
use crate::address::InstanceId;
use crate::keys::{Key, Kind};
use crate::names::{EnvironmentName, NodeName};
use crate::version::BackendId;

/// Every key that is there.
#[derive(Debug, Default)]
pub(super) struct Census {
    environments: BTreeMap<EnvironmentName, EnvironmentState>,
    /// The notes of their ends.
    ends: MeantEnds,
    /// Whether each has announced that it leaves.
    instances: BTreeMap<BackendId, BTreeMap<InstanceId, bool>>,
    /// How many instances there are.
    count: usize,
    /// The instances that are drained by a key.
    drains: BTreeSet<(BackendId, InstanceId)>,
    routers: BTreeSet<NodeName>,
}

#[derive(Debug, Clone, Copy)]
struct EnvironmentState {
    leased: bool,
    /// The revision at which it was put last.
    changed: i64,
}

impl Census {
    pub(super) fn put(&mut self, key: &Key, state: KeyState) {
        match key {
            Key::Environment(name) => {
                let KeyState { leased, changed, .. } = state;
                self.environments
                    .insert(name.clone(), EnvironmentState { leased, changed });
            }
            Key::Ended(name) => match state.why {
                Some(why) => self.ends.put(name, why, state.changed),
                None => self.ends.gone(name),
            },
            Key::Instance(backend, id) => {
                let instances = self.instances.entry(backend.clone()).or_default();
                if instances.insert(id.clone(), state.draining).is_none() {
                    self.count += 1;
                }
            }
            Key::Drain(backend, id) => {
                self.drains.insert((backend.clone(), id.clone()));
            }
            Key::Router(node) => {
                self.routers.insert(node.clone());
            }
            _ => {}
        }
    }

    pub(super) fn remove(&mut self, key: &Key) {
        match key {
            Key::Environment(name) => drop(self.environments.remove(name)),
            Key::Ended(name) => self.ends.gone(name),
            Key::Instance(backend, id) => {
                let Some(instances) = self.instances.get_mut(backend) else {
                    return;
                };
                if instances.remove(id).is_some() {
                    self.count -= 1;
                }
                if instances.is_empty() {
                    self.instances.remove(backend);
                }
            }
            Key::Drain(backend, id) => drop(self.drains.remove(&(backend.clone(), id.clone()))),
            Key::Router(node) => drop(self.routers.remove(node)),
            _ => {}
        }
    }

    pub(super) fn count(&self, kind: Kind) -> usize {
        match kind {
            Kind::Environment => self.environments.len(),
            Kind::Instance => self.count,
            Kind::Router => self.routers.len(),
            _ => 0,
        }
    }

    /// Whether the key is there, and nobody has announced that it goes.
    pub(super) fn would_surprise(&self, key: &Key) -> bool {
        match key {
            Key::Environment(name) => {
                let known = self.environments.get(name);
                known.is_some_and(|known| !self.ends.has(name, known.changed))
            }
            Key::Instance(backend, id) => {
                let instances = self.instances.get(backend);
                let draining = instances.and_then(|instances| instances.get(id)).copied();
                draining == Some(false) && !self.drains.contains(&(backend.clone(), id.clone()))
            }
            Key::Router(node) => self.routers.contains(node),
            _ => false,
        }
    }

    /// Whether an environment has a lease.
    pub(super) fn is_leased(&self, key: &Key) -> bool {
        matches!(key, Key::Environment(name) if self.environments.get(name).is_some_and(|known| known.leased))
    }

    /// The instances of the same backend that are there to stay, this one included.
    pub(super) fn siblings(&self, key: &Key) -> impl Iterator<Item = Key> {
        let backend = match key {
            Key::Instance(backend, _) => self.instances.get_key_value(backend),
            _ => None,
        };
        let keys = backend.into_iter().flat_map(|(backend, instances)| {
            let key = |id: &InstanceId| Key::Instance(backend.clone(), id.clone());
            instances.keys().map(key)
        });
        keys.filter(|key| self.would_surprise(key))
    }
}
