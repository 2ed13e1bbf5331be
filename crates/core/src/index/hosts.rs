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
    /// Names without an address are taken to have one: nobody here resolves any.
    taken_as_there: bool,
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
            .filter(|_| !self.taken_as_there)
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

    /// From now on every name is taken to have an address, one that nobody has.
    pub(super) fn take_as_there(&mut self) {
        self.taken_as_there = true;
    }

    /// Where a server can be reached at present; nowhere when its name has no address yet.
    pub(super) fn addresses(&self, upstream: &Upstream) -> Vec<Address> {
        match upstream.name() {
            None => upstream.address().into_iter().collect(),
            Some(_) if self.taken_as_there => {
                let stand_in = Address::new(stand_in(&upstream.host_and_port()), upstream.port());
                stand_in.into_iter().collect()
            }
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

/// An address of those that are set aside for documentation (RFC 5737), another one for another text as far as they reach.
fn stand_in(text: &str) -> IpAddr {
    let sum = text
        .bytes()
        .fold(0u8, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte));
    IpAddr::from([192, 0, 2, sum.clamp(1, 254)])
}
