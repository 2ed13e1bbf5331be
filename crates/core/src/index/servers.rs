//! The servers of the backends: from instances, from external services, and from the addresses of
//! host names.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::address::InstanceId;
use crate::keys::Key;
use crate::names::{EnvironmentName, Hostname};
use crate::outside::AddressRule;
use crate::records::{Instance, InstanceState, Protocol, SetAside, Weight};
use crate::routing::{NamedServers, ServerId, ServerState, Servers, Touched};
use crate::upstream::Upstream;
use crate::version::BackendId;

use super::{Index, RegisteredInstances, Revision, addresses};

impl Index {
    /// The index with another rule for addresses outside.
    #[must_use]
    pub fn with_rule(mut self, rule: AddressRule) -> Self {
        self.set_rule(rule);
        self
    }

    /// Which addresses outside are asked.
    pub fn rule(&self) -> &AddressRule {
        &self.rule
    }

    /// Judges by another rule from now on, what is known already too; in force with the next
    /// [`Index::resolve`].
    pub fn set_rule(&mut self, rule: AddressRule) {
        if self.rule == rule {
            return;
        }
        let needers: Vec<BackendId> = self.hosts.needers().cloned().collect();
        let live: Vec<Option<i64>> = needers
            .iter()
            .map(|backend| self.backend_since(backend))
            .collect();
        self.addresses.limit(rule.most());
        self.rule = rule;
        self.dirty.extend(self.addresses.environments().cloned());
        self.refresh_backends(&needers, live);
    }

    /// The host names that servers stand under, as of the last [`Index::resolve`].
    pub fn host_names(&self) -> impl Iterator<Item = &Hostname> + Clone {
        self.hosts.names()
    }

    /// The environment that names a host name first, none where an instance stands under it, which
    /// no file can register.
    pub fn first_to_name(&self, name: &Hostname) -> Option<&EnvironmentName> {
        let users = self.hosts.users(name);
        let firsts = users.iter().map(|backend| self.addresses.first_user(backend));
        // Nothing is less than something.
        firsts.min().flatten().map(|(_, environment)| environment)
    }

    /// Takes what a host name leads to now; a name that is not needed is passed over. Say nothing
    /// when it cannot be resolved for a while: the last addresses stay.
    pub fn resolved(&mut self, name: &Hostname, addresses: BTreeSet<IpAddr>) {
        let users = self.hosts.users(name);
        let live: Vec<Option<i64>> = users.iter().map(|backend| self.backend_since(backend)).collect();
        if !self.hosts.set(name, addresses) {
            return;
        }
        self.refresh_backends(&users, live);
    }

    fn refresh_backends(&mut self, backends: &[BackendId], were_live: Vec<Option<i64>>) {
        let mut touched = std::mem::take(&mut self.touched);
        for (backend, was_live) in backends.iter().zip(were_live) {
            self.refresh_backend(backend, was_live, &mut touched);
        }
        self.touched = touched;
    }

    /// The host names that resolve to something that is refused, with all that they resolve to.
    pub fn refused_host_names(&self) -> BTreeMap<&Hostname, &BTreeSet<IpAddr>> {
        self.hosts.refused_names()
    }

    /// The host names that servers stand under and that have no address yet.
    pub fn host_names_without_address(&self) -> impl Iterator<Item = &Hostname> {
        self.hosts.without_address().map(|(name, _)| name)
    }

    /// For who resolves no host names: each is taken to lead to one server, which has no address,
    /// but for those of which more is known, what they lead to, or that it is nothing. In force
    /// with the next [`Index::resolve`].
    pub fn believe_names(&mut self, known: BTreeMap<Hostname, BTreeSet<IpAddr>>) {
        let names = self.hosts.differing(&known).into_iter();
        let users: BTreeSet<BackendId> = names.flat_map(|name| self.hosts.users(&name)).collect();
        let users: Vec<BackendId> = users.into_iter().collect();
        let live: Vec<Option<i64>> = users.iter().map(|backend| self.backend_since(backend)).collect();
        self.hosts.believe(known);
        self.refresh_backends(&users, live);
    }

    /// The needed names of a backend that have no address yet.
    pub(super) fn nameless(&self, backend: &BackendId) -> Vec<&Hostname> {
        let all = self.hosts.without_address();
        let needed = all.filter(|(_, backends)| backends.contains(backend));
        needed.map(|(name, _)| name).collect()
    }

    /// Where a server of a backend is, as it was registered: by its host name, where it has one.
    pub(crate) fn place_of(&self, backend: &BackendId, server: &ServerId) -> String {
        let mut named = self.upstreams(backend).into_iter();
        let is_it = |upstream: &Upstream| {
            upstream.name().is_some() && self.server_ids(upstream, server.protocol).any(|id| id == *server)
        };
        match named.find(is_it) {
            Some(upstream) => upstream.to_string(),
            None => server.address.to_string(),
        }
    }

    /// The servers that the instance of a key stands for, and their backend; `None` when there is
    /// no such instance.
    pub fn servers_of_key(&self, key: &Key) -> Option<(BackendId, Vec<ServerId>)> {
        let Key::Instance(backend, _) = key else {
            return None;
        };
        let (instance, _) = self.instances_of(backend)?.get(key)?;
        let servers = self.server_ids(&instance.address, instance.protocol).collect();
        Some((backend.clone(), servers))
    }

    /// Takes the new value of an instance's key, or its end. That can change what is true of others
    /// at its address, the former and the new one.
    pub(super) fn change_instance(
        &mut self,
        backend: &BackendId,
        key: &Key,
        new: Option<(Instance, Revision)>,
    ) {
        let old = self
            .instances_of(backend)
            .and_then(|instances| instances.get(key))
            .map(|(instance, _)| instance);
        let places = [old, new.as_ref().map(|(instance, _)| instance)];
        let rivals = places
            .into_iter()
            .flatten()
            .flat_map(|instance| self.taken.rivals(instance));
        let affected: BTreeSet<BackendId> = rivals.chain([backend]).cloned().collect();
        let was_live: Vec<Option<i64>> = affected
            .iter()
            .map(|backend| self.backend_since(backend))
            .collect();
        if let Some(old) = old.cloned() {
            self.taken.withdraw(key, &old);
        }
        match new {
            Some((instance, revision)) => {
                self.taken.claim(backend, key, &instance, revision);
                let versions = self.instances.entry(backend.service.clone()).or_default();
                let instances = versions.entry(backend.version.clone()).or_default();
                instances.insert(key.clone(), (instance, revision.created));
            }
            None => self.remove_instance(backend, key),
        }
        for (backend, was_live) in affected.iter().zip(was_live) {
            self.refresh_instances(backend, was_live);
        }
    }

    fn remove_instance(&mut self, backend: &BackendId, key: &Key) {
        let Some(versions) = self.instances.get_mut(&backend.service) else {
            return;
        };
        let Some(instances) = versions.get_mut(&backend.version) else {
            return;
        };
        instances.remove(key);
        if instances.is_empty() {
            versions.remove(&backend.version);
        }
        if versions.is_empty() {
            self.instances.remove(&backend.service);
        }
    }

    pub(super) fn put_drain(&mut self, backend: BackendId, instance: InstanceId) {
        let was_live = self.backend_since(&backend);
        if self.drains.insert(Key::Instance(backend.clone(), instance)) {
            self.refresh_instances(&backend, was_live);
        }
    }

    pub(super) fn delete_drain(&mut self, backend: BackendId, instance: InstanceId) {
        let was_live = self.backend_since(&backend);
        if self.drains.remove(&Key::Instance(backend.clone(), instance)) {
            self.refresh_instances(&backend, was_live);
        }
    }

    /// Whether an instance takes new requests: as its record says, unless somebody drains it.
    fn state_of(&self, key: &Key, instance: &Instance) -> InstanceState {
        match self.drains.contains(key) {
            true => InstanceState::Draining,
            false => instance.state,
        }
    }

    fn refresh_instances(&mut self, backend: &BackendId, was_live: Option<i64>) {
        let mut touched = std::mem::take(&mut self.touched);
        self.refresh_backend(backend, was_live, &mut touched);
        self.touched = touched;
    }

    /// Puts a backend's servers in sync with its instances, or with where it is outside.
    pub(super) fn refresh_backend(
        &mut self,
        backend: &BackendId,
        was_live: Option<i64>,
        touched: &mut Touched,
    ) {
        let upstreams = self.upstreams(backend);
        let names = upstreams.iter().filter_map(|upstream| upstream.name().cloned());
        let names: BTreeSet<Hostname> = names.collect();
        self.hosts.need(backend, names);
        self.hosts.judge(backend, &upstreams, &self.rule);
        let servers = match backend.version.is_outside() {
            true => {
                let state = ServerState {
                    state: InstanceState::Up,
                    weight: Weight::default(),
                };
                let all = upstreams.iter().map(|upstream| (upstream, Protocol::Http, state));
                self.servers_at(all)
            }
            false => {
                let instances = self.instances_of(backend).into_iter().flatten();
                let there = instances.filter(|(key, _)| !self.taken.is_superseded(key));
                self.servers_at(there.map(|(key, (instance, _))| {
                    let state = ServerState {
                        state: self.state_of(key, instance),
                        weight: instance.weight,
                    };
                    (&instance.address, instance.protocol, state)
                }))
            }
        };
        self.routing.set_servers(backend, servers, touched);
        let host = one_host(backend, &upstreams);
        self.routing.set_host(backend, host, touched);
        if was_live != self.backend_since(backend) {
            let followers = self.followers.get(&backend.service);
            self.dirty.extend(followers.into_iter().flatten().cloned());
        }
    }

    /// Where a backend's servers are said to be. Who runs an instance, or registers a server for
    /// good, has said what it is; whoever may push a file has not.
    fn upstreams(&self, backend: &BackendId) -> Vec<Upstream> {
        match backend.version.upstream() {
            Some(upstream) if self.routing.is_named(backend) && self.addresses.in_force(backend) => {
                vec![upstream]
            }
            Some(_) => Vec::new(),
            None => {
                let instances = self.instances_of(backend).into_iter().flatten();
                let there = instances.filter(|(key, _)| !self.taken.is_superseded(key));
                there.map(|(_, (instance, _))| instance.address.clone()).collect()
            }
        }
    }

    pub(super) fn instances_of(&self, backend: &BackendId) -> Option<&RegisteredInstances> {
        self.instances.get(&backend.service)?.get(&backend.version)
    }

    fn backend_since(&self, backend: &BackendId) -> Option<i64> {
        self.live_since(self.instances_of(backend)?)
    }

    /// When the oldest of the instances that take requests was registered; `None` where none does.
    /// One whose host name has no address yet does not, nor one whose address is another's by now.
    pub(super) fn live_since(&self, instances: &RegisteredInstances) -> Option<i64> {
        let live = instances.iter().filter(|(key, (instance, _))| {
            self.state_of(key, instance) == InstanceState::Up
                && !self.taken.is_superseded(key)
                && self.hosts.is_reachable(&instance.address, &self.rule)
        });
        live.map(|(_, (_, registered))| *registered).min()
    }

    /// The servers that a place stands for: one for each address that its host name leads to.
    fn server_ids(&self, upstream: &Upstream, protocol: Protocol) -> impl Iterator<Item = ServerId> + use<> {
        let tls = upstream.tls.then(|| upstream.host.clone());
        let addresses = self.hosts.addresses(upstream, &self.rule).into_iter();
        addresses.map(move |address| ServerId {
            address,
            protocol,
            tls: tls.clone(),
        })
    }

    /// The servers at places, with their addresses, and with their names where nobody resolves
    /// these. Two records of one address are one server, which drains when both do.
    fn servers_at<'a>(
        &self,
        places: impl Iterator<Item = (&'a Upstream, Protocol, ServerState)>,
    ) -> (Servers, NamedServers) {
        let (mut servers, mut named) = (Servers::new(), NamedServers::new());
        let merge = |server: &mut ServerState, new: ServerState| {
            if server.state == InstanceState::Draining {
                *server = new;
            }
        };
        for (upstream, protocol, new) in places {
            if self.hosts.is_believed(upstream) {
                merge(named.entry((upstream.clone(), protocol)).or_insert(new), new);
            }
            for id in self.server_ids(upstream, protocol) {
                merge(servers.entry(id).or_insert(new), new);
            }
        }
        (servers, named)
    }

    /// The entries that lead to a server whose host name has no address yet.
    pub(super) fn waiting_for(&self, name: &Hostname, backend: &BackendId) -> Vec<SetAside> {
        self.entries_of(name, backend, |who| {
            format!("{who} has no address yet: the host name {name} has not been resolved")
        })
    }

    /// The entries that lead to a server whose host name resolves to what is refused.
    pub(super) fn refused_names(&self) -> impl Iterator<Item = SetAside> {
        self.hosts.refused().flat_map(|(backend, all)| {
            all.iter()
                .flat_map(|(name, reason)| self.entries_of(name, backend, |who| format!("{who}: {reason}")))
        })
    }

    /// An entry for each record that names a host name for a backend: its environments, or its
    /// instances.
    fn entries_of(
        &self,
        name: &Hostname,
        backend: &BackendId,
        reason: impl Fn(&str) -> String,
    ) -> Vec<SetAside> {
        let aside = |key: String, who: &str| SetAside {
            key,
            reason: reason(who),
        };
        let environments = self.addresses.users(backend).map(|environment| {
            let key = self.space.text(&Key::Environment(environment.clone()));
            aside(key, &format!("the external service {}", backend.service))
        });
        let instances = self.instances_of(backend).into_iter().flatten();
        let instances = instances
            .filter(|(_, (instance, _))| instance.address.name() == Some(name))
            .map(|(key, _)| aside(self.space.text(key), "the instance"));
        environments.chain(instances).collect()
    }

    /// Why an external service has no server, or some of the host names of a backend lead nowhere, as
    /// far as the rule is the reason.
    pub(super) fn why_refused(&self, backend: &BackendId) -> Vec<String> {
        if backend.version.is_outside() && !self.addresses.in_force(backend) {
            let reason = addresses::refusal(&self.rule, backend).unwrap_or_else(|| {
                format!(
                    "routers accept at most {} addresses of one environment and {} in total \
                     (--max-addresses), and environments registered earlier come first",
                    crate::outside::MOST_OF_ONE,
                    self.rule.most()
                )
            });
            return vec![reason];
        }
        self.hosts.refused_of(backend).map(str::to_owned).collect()
    }
}

/// The place whose Host the servers of a backend expect, where it is the same for all. An address
/// in clear text says nothing: that is how instances are registered, and they are asked by the name
/// of their service.
fn one_host<'a>(backend: &BackendId, upstreams: &'a [Upstream]) -> Option<&'a Upstream> {
    let (first, rest) = upstreams.split_first()?;
    let by_name = first.tls || first.name().is_some() || backend.version.upstream().is_some();
    let same = rest.iter().all(|other| other.authority() == first.authority());
    (by_name && same).then_some(first)
}
