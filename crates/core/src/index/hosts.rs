//! The host names of servers: which backend needs which, and the addresses that each has at
//! present. The index reports which names it needs, and forgets an answer once nothing needs the
//! name. It keeps all addresses of a name and judges them by the rule at each use. So a name that
//! changes, or that a file remembers, never leads where the rule does not allow.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::address::Address;
use crate::names::Hostname;
use crate::outside::AddressRule;
use crate::upstream::Upstream;
use crate::version::BackendId;

/// Needed host names and their addresses.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    users: BTreeMap<Hostname, BTreeSet<BackendId>>,
    needs: BTreeMap<BackendId, BTreeSet<Hostname>>,
    addresses: BTreeMap<Hostname, BTreeSet<IpAddr>>,
    /// Names that lost their last user. One that finds another before the next round keeps its
    /// addresses.
    orphans: BTreeSet<Hostname>,
    /// What of the names of a backend is refused, in words, with the name.
    refused: BTreeMap<BackendId, Vec<(Hostname, String)>>,
    /// Whether nobody resolves names here: one of which nothing is known is taken to lead to one
    /// server. One that is known to have no address has an empty set then.
    believes: bool,
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
        if self.believes {
            return;
        }
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
        let has_none = |name: &Hostname| match self.addresses.get(name) {
            Some(addresses) => addresses.is_empty(),
            None => !self.believes,
        };
        self.users.iter().filter(move |(name, _)| has_none(name))
    }

    /// Whether the host of a server is a name that is taken to lead to one server, without an
    /// address.
    pub(super) fn is_believed(&self, upstream: &Upstream) -> bool {
        let name = upstream.name().filter(|_| self.believes);
        name.is_some_and(|name| !self.addresses.contains_key(name))
    }

    /// From now on believes names, except for those of which more is known.
    pub(super) fn believe(&mut self, known: BTreeMap<Hostname, BTreeSet<IpAddr>>) {
        self.believes = true;
        self.addresses = known;
    }

    /// The needed names of which something else would be believed.
    pub(super) fn differing(&self, known: &BTreeMap<Hostname, BTreeSet<IpAddr>>) -> Vec<Hostname> {
        let differs = |name: &&Hostname| !self.believes || self.addresses.get(*name) != known.get(*name);
        self.users.keys().filter(differs).cloned().collect()
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

    /// Where a server can be reached at present; nowhere when its name has no address yet, or none
    /// that the rule allows.
    pub(super) fn addresses(&self, upstream: &Upstream, rule: &AddressRule) -> Vec<Address> {
        match upstream.name() {
            None => upstream.address().into_iter().collect(),
            Some(name) => {
                let judged = self.judged(name, upstream, rule);
                judged
                    .filter(|(_, refusal)| refusal.is_none())
                    .map(|(address, _)| address)
                    .collect()
            }
        }
    }

    /// Whether a server can be reached at present, or is taken to be there.
    pub(super) fn is_reachable(&self, upstream: &Upstream, rule: &AddressRule) -> bool {
        self.is_believed(upstream) || !self.addresses(upstream, rule).is_empty()
    }

    /// All that a name resolves to, and why it is refused.
    fn judged<'a>(
        &'a self,
        name: &Hostname,
        upstream: &'a Upstream,
        rule: &'a AddressRule,
    ) -> impl Iterator<Item = (Address, Option<String>)> + 'a {
        let found = self.addresses.get(name).into_iter().flatten();
        // A name can lead to what nobody can be at, such as 0.0.0.0.
        let found = found.filter_map(|ip| Address::new(*ip, upstream.port()).ok());
        found.map(|address| {
            let refusal = rule.refuses_address(&upstream.host, address);
            (address, refusal)
        })
    }

    /// Notes what the rule refuses of that to which the names of a backend resolve.
    pub(super) fn judge(&mut self, backend: &BackendId, upstreams: &[Upstream], rule: &AddressRule) {
        let mut all = Vec::new();
        for upstream in upstreams {
            let Some(name) = upstream.name() else { continue };
            let judged = self.judged(name, upstream, rule);
            let mut refused = judged.filter_map(|(address, reason)| Some((address.ip(), reason?)));
            if let Some((ip, what)) = refused.next() {
                let more = match refused.count() {
                    0 => String::new(),
                    more => format!(" ({more} more of its addresses are refused, too)"),
                };
                all.push((
                    name.clone(),
                    format!("{name} resolves to {ip}, which is {what}{more}"),
                ));
            }
        }
        match all.is_empty() {
            true => drop(self.refused.remove(backend)),
            false => drop(self.refused.insert(backend.clone(), all)),
        }
    }

    /// What is refused, by backend.
    pub(super) fn refused(&self) -> impl Iterator<Item = (&BackendId, &Vec<(Hostname, String)>)> {
        self.refused.iter()
    }

    /// What is refused of one backend.
    pub(super) fn refused_of(&self, backend: &BackendId) -> impl Iterator<Item = &str> {
        let all = self.refused.get(backend).into_iter().flatten();
        all.map(|(_, reason)| reason.as_str())
    }

    /// The names of which something is refused, with all that they resolve to.
    pub(super) fn refused_names(&self) -> BTreeMap<&Hostname, &BTreeSet<IpAddr>> {
        let names = self.refused.values().flatten();
        names
            .filter_map(|(name, _)| self.addresses.get_key_value(name))
            .collect()
    }

    /// The backends that need names.
    pub(super) fn needers(&self) -> impl Iterator<Item = &BackendId> {
        self.needs.keys()
    }
}
