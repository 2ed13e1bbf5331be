//! Addresses that were given to another instance. An instance is gone, whatever its entry says,
//! once another backend has registered its IP address and port. An engine gives a free address to
//! the next container, so an older entry that a dead registrar left behind, or that a router keeps,
//! points to another service.
//!
//! The rule needs only etcd's revisions, so every daemon decides alike, whenever it was started. An
//! entry that takes requests was confirmed when it was last put. A draining one counts from its
//! creation. Two entries of one revision come from one writer and prove nothing about each other.
//! Neither do two that both say `shared`. Host names are exempt: many services may be behind one.

use std::collections::{BTreeMap, BTreeSet};

use crate::address::Address;
use crate::keys::Key;
use crate::records::{Instance, InstanceState, SetAside};
use crate::version::BackendId;

use super::Index;

/// When a value came into etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision {
    /// The revision at which its key came to be.
    pub created: i64,
    /// The revision at which this value was put.
    pub changed: i64,
}

impl From<i64> for Revision {
    /// Of a key that was put once.
    fn from(revision: i64) -> Self {
        Self {
            created: revision,
            changed: revision,
        }
    }
}

/// The instances that claim each address.
#[derive(Debug, Default)]
pub(super) struct TakenAddresses {
    claims: BTreeMap<Address, BTreeMap<Key, AddressClaim>>,
    /// The keys of instances whose address is another backend's by now.
    superseded: BTreeSet<Key>,
}

/// An instance's word that it is at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
struct AddressClaim {
    backend: BackendId,
    /// etcd's revision of that word.
    since: i64,
    shared: bool,
}

impl AddressClaim {
    fn supersedes(&self, other: &Self) -> bool {
        self.since > other.since && self.backend != other.backend && !(self.shared && other.shared)
    }
}

impl TakenAddresses {
    /// Notes that an instance is at an address.
    pub(super) fn claim(&mut self, backend: &BackendId, key: &Key, instance: &Instance, revision: Revision) {
        let Some(address) = instance.address.address() else {
            return;
        };
        let claim = AddressClaim {
            backend: backend.clone(),
            since: match instance.state {
                InstanceState::Up => revision.changed,
                InstanceState::Draining => revision.created,
            },
            shared: instance.shared,
        };
        self.claims.entry(address).or_default().insert(key.clone(), claim);
        self.judge(&address);
    }

    /// Takes back what an instance said.
    pub(super) fn withdraw(&mut self, key: &Key, instance: &Instance) {
        self.superseded.remove(key);
        let Some(address) = instance.address.address() else {
            return;
        };
        if let Some(claims) = self.claims.get_mut(&address) {
            claims.remove(key);
            if claims.is_empty() {
                self.claims.remove(&address);
            }
        }
        self.judge(&address);
    }

    fn judge(&mut self, address: &Address) {
        let Some(claims) = self.claims.get(address) else {
            return;
        };
        for (key, claim) in claims {
            if claims.values().any(|other| other.supersedes(claim)) {
                self.superseded.insert(key.clone());
            } else {
                self.superseded.remove(key);
            }
        }
    }

    /// Makes every word older than any that comes with a revision of etcd, and keeps their order.
    fn age(&mut self) {
        let words = || self.claims.values().flat_map(BTreeMap::values);
        let newest = words().map(|claim| claim.since).max().unwrap_or_default();
        for claim in self.claims.values_mut().flat_map(BTreeMap::values_mut) {
            claim.since -= newest.max(0);
        }
    }

    /// Whether an instance's address is another backend's by now.
    pub(super) fn is_superseded(&self, key: &Key) -> bool {
        self.superseded.contains(key)
    }

    /// The backends that say to be where an instance is.
    pub(super) fn rivals(&self, instance: &Instance) -> impl Iterator<Item = &BackendId> {
        let address = instance.address.address();
        let claims = address.and_then(|address| self.claims.get(&address));
        claims.into_iter().flatten().map(|(_, claim)| &claim.backend)
    }

    /// The instance that has this address now: the last one that has registered it since.
    fn holder(&self, key: &Key, instance: &Instance) -> Option<(Address, &AddressClaim)> {
        let address = instance.address.address()?;
        let claims = self.claims.get(&address)?;
        let own = claims.get(key)?;
        let later = claims.values().filter(|other| other.supersedes(own));
        Some((address, later.max_by_key(|claim| claim.since)?))
    }
}

impl Index {
    /// Whether the instance of a key is gone for sure, since another backend has registered its
    /// address later.
    pub fn is_superseded(&self, key: &Key) -> bool {
        self.taken.is_superseded(key)
    }

    /// etcd has lost its data and counts its revisions from the beginning: what was learnt so far
    /// is older than whatever comes.
    pub fn age(&mut self) {
        self.taken.age();
    }

    /// Instances of a backend that are gone since their address is another's, in words.
    pub(super) fn superseded_of(&self, backend: &BackendId) -> Vec<String> {
        let instances = self.instances_of(backend).into_iter().flatten();
        let holders = instances.filter_map(|(key, (instance, _))| self.taken.holder(key, instance));
        holders
            .map(|(address, claim)| format!("{address} was registered for {} later", claim.backend))
            .collect()
    }

    /// The entries that are left out since their address is another's.
    pub(super) fn superseded(&self) -> Vec<SetAside> {
        let all = self.taken.superseded.iter().filter_map(|key| {
            let Key::Instance(backend, _) = key else {
                return None;
            };
            let (instance, _) = self.instances_of(backend)?.get(key)?;
            let (address, claim) = self.taken.holder(key, instance)?;
            Some(SetAside {
                key: self.space.text(key),
                reason: format!(
                    "{address} was registered for {} later, so it gets no requests for {backend}; if one \
                     process serves both, register both with --shared",
                    claim.backend
                ),
            })
        });
        all.collect()
    }
}
