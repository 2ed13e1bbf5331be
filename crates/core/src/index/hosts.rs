//! The host names that servers stand under: which backend needs which, and the addresses that each has at present. Who
//! follows the names is told which are needed; what a name leads to is forgotten when nobody needs it any more.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::address::Address;
use crate::names::Hostname;
use crate::upstream::Upstream;
use crate::version::BackendId;

/// Needed host names and their addresses.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    users: BTreeMap<Hostname, BTreeSet<BackendId>>,
    needs: BTreeMap<BackendId, BTreeSet<Hostname>>,
    addresses: BTreeMap<Hostname, BTreeSet<IpAddr>>,
    /// Names that lost their last user. One that finds another before the next round keeps its addresses.
    orphans: BTreeSet<Hostname>,
}

impl Hosts {
    /// Says which names a backend needs, in place of those that it needed before.
    pub(super) fn need(&mut self, backend: &BackendId, names: BTreeSet<Hostname>) {
        let old = if names.is_empty() {
            self.needs.remove(backend).unwrap_or_default()
        } else {
            self.needs
                .insert(backend.clone(), names.clone())
                .unwrap_or_default()
        };
        for name in old.difference(&names) {
            super::remove_from(&mut self.users, name, backend);
            if !self.users.contains_key(name) {
                self.orphans.insert(name.clone());
            }
        }
        for name in names {
            self.users.entry(name).or_default().insert(backend.clone());
        }
    }

    /// Forgets what nobody has come to need again.
    pub(super) fn forget_orphans(&mut self) {
        for name in std::mem::take(&mut self.orphans) {
            if !self.users.contains_key(&name) {
                self.addresses.remove(&name);
            }
        }
    }

    /// All names that are needed.
    pub(super) fn names(&self) -> impl Iterator<Item = &Hostname> + Clone {
        self.users.keys()
    }

    /// Needed names without an address, each with the backends that need it.
    pub(super) fn without_address(&self) -> impl Iterator<Item = (&Hostname, &BTreeSet<BackendId>)> {
        self.users
            .iter()
            .filter(|(name, _)| !self.addresses.contains_key(*name))
    }

    /// The backends that need a name.
    pub(super) fn users(&self, name: &Hostname) -> Vec<BackendId> {
        self.users.get(name).into_iter().flatten().cloned().collect()
    }

    /// Takes what a name leads to, if it is needed. Says whether that is something new.
    pub(super) fn set(&mut self, name: &Hostname, addresses: BTreeSet<IpAddr>) -> bool {
        if !self.users.contains_key(name)
            || self.addresses.get(name).unwrap_or(&BTreeSet::new()) == &addresses
        {
            return false;
        }
        if addresses.is_empty() {
            self.addresses.remove(name);
        } else {
            self.addresses.insert(name.clone(), addresses);
        }
        true
    }

    /// Where a server can be reached at present; nowhere when its name has no address yet.
    pub(super) fn addresses(&self, upstream: &Upstream) -> Vec<Address> {
        match upstream.name() {
            None => upstream.address().into_iter().collect(),
            Some(name) => {
                let found = self.addresses.get(name).into_iter().flatten();
                // A name can lead to what nobody can be at, such as 0.0.0.0.
                found
                    .filter_map(|ip| Address::new(*ip, upstream.port()).ok())
                    .collect()
            }
        }
    }
}
