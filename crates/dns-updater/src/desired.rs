//! What etcd says about names, as a typed view that changes are applied to one by one. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mayfly_core::address::InstanceId;
use mayfly_core::keys::Key;
use mayfly_core::names::{EnvironmentName, Hostname, NodeName, ServiceName};
use mayfly_core::records::{Environment, Record, SetAside, SetAsides};
use mayfly_core::version::BackendId;
use mayfly_daemon::watch::{Batch, Change};

#[derive(Debug, Clone)]
pub struct DnsView {
    domain: Hostname,
    /// The services that each environment names; the names are shared with `mentions`, since
    /// thousands of environments name the same services.
    environments: BTreeMap<EnvironmentName, Box<[Arc<ServiceName>]>>,
    /// Only their services count here.
    instances: BTreeSet<(BackendId, InstanceId)>,
    /// For each service, how many environments and instances name it.
    mentions: BTreeMap<Arc<ServiceName>, usize>,
    routers: BTreeMap<NodeName, IpAddr>,
    /// The last routers, for the time that none is live.
    last_routers: BTreeSet<IpAddr>,
    records: BTreeMap<Hostname, BTreeSet<IpAddr>>,
    pub(crate) unreadable: SetAsides,
}

impl DnsView {
    /// An empty view of the services in `domain`. Names resolved to `last_routers` before this
    /// process started; these addresses hold until a router is known.
    pub fn new(domain: Hostname, last_routers: BTreeSet<IpAddr>) -> Self {
        Self {
            domain,
            environments: BTreeMap::new(),
            instances: BTreeSet::new(),
            mentions: BTreeMap::new(),
            routers: BTreeMap::new(),
            last_routers,
            records: BTreeMap::new(),
            unreadable: SetAsides::default(),
        }
    }

    /// Applies changes that came together.
    pub fn take(&mut self, batch: Batch) {
        self.unreadable = batch.set_aside;
        for change in batch.changes {
            match change {
                Change::Put(stored) => self.put(stored.record),
                Change::Gone(key) => self.gone(&key),
                Change::Unreadable(_) => {}
            }
        }
    }

    /// Whether there is no environment.
    pub fn without_environment(&self) -> bool {
        self.environments.is_empty()
    }

    fn put(&mut self, record: Record) {
        match record {
            Record::Environment(environment) => self.put_environment(environment),
            Record::Instance(backend, id, _) => {
                let service = backend.service.clone();
                if self.instances.insert((backend, id)) {
                    self.mention(service);
                }
            }
            Record::Router(node, router) => {
                self.routers.insert(node, router.address);
                self.remember_routers();
            }
            Record::Dns(host, record) => {
                self.records.insert(host, record.addresses.into_iter().collect());
            }
            // No name depends on these.
            _ => {}
        }
    }

    fn gone(&mut self, key: &Key) {
        match key {
            Key::Environment(name) => {
                for service in &self.environments.remove(name).unwrap_or_default() {
                    self.forget(service);
                }
            }
            Key::Instance(backend, id) => {
                let was_there = self.instances.remove(&(backend.clone(), id.clone()));
                if was_there {
                    self.forget(&backend.service);
                }
            }
            Key::Router(node) => {
                self.routers.remove(node);
                self.remember_routers();
            }
            Key::Dns(host) => drop(self.records.remove(host)),
            _ => {}
        }
    }

    fn put_environment(&mut self, environment: Environment) {
        // Each once, however often a record names it.
        let services: BTreeSet<ServiceName> = environment
            .services
            .into_iter()
            .map(|choice| choice.name)
            .collect();
        let services: Box<[_]> = services
            .into_iter()
            .map(|service| self.mention(service))
            .collect();
        let before = self.environments.insert(environment.name, services);
        for service in &before.unwrap_or_default() {
            self.forget(service);
        }
    }

    fn remember_routers(&mut self) {
        if !self.routers.is_empty() {
            self.last_routers = self.routers.values().copied().collect();
        }
    }

    fn mention(&mut self, service: ServiceName) -> Arc<ServiceName> {
        let known = self
            .mentions
            .get_key_value(&service)
            .map(|(known, _)| known.clone());
        let service = known.unwrap_or_else(|| Arc::new(service));
        *self.mentions.entry(service.clone()).or_default() += 1;
        service
    }

    fn forget(&mut self, service: &ServiceName) {
        if let Some(count) = self.mentions.get_mut(service) {
            *count -= 1;
            if *count == 0 {
                self.mentions.remove(service);
            }
        }
    }

    /// The addresses that the names of services resolve to: those of the live routers or, without
    /// any, the last ones.
    pub fn routers(&self) -> &BTreeSet<IpAddr> {
        // Kept in sync with every change of the live ones.
        &self.last_routers
    }

    /// Whether no router is live, so that names resolve to the last ones.
    pub fn without_router(&self) -> bool {
        self.routers.is_empty()
    }

    /// Every name with its addresses. A static record wins over a service of the same name; a
    /// service is left out while no router was ever known.
    pub fn names(&self) -> BTreeMap<Hostname, &BTreeSet<IpAddr>> {
        let routers = self.routers();
        let services = self.mentions.keys().filter(|_| !routers.is_empty());
        // `set_aside` reports a label and a domain that are too long together.
        let mut names: BTreeMap<Hostname, &BTreeSet<IpAddr>> = services
            .filter_map(|service| Hostname::of_service(service, &self.domain).ok())
            .map(|host| (host, routers))
            .collect();
        names.extend(
            self.records
                .iter()
                .map(|(host, addresses)| (host.clone(), addresses)),
        );
        names
    }

    /// The services whose name a static record resolves to other addresses than the routers', with
    /// the reason.
    fn taken(&self) -> impl Iterator<Item = (String, String)> {
        self.records.iter().filter_map(|(host, addresses)| {
            let label = host
                .as_str()
                .strip_suffix(self.domain.as_str())?
                .strip_suffix('.')?;
            let service: ServiceName = label.parse().ok()?;
            let is_taken = self.mentions.contains_key(&service) && !addresses.is_subset(self.routers());
            let reason = format!(
                "the static record `{host}` has the name of this service, so requests to it do not \
                 reach a router; delete the record with `dns-updater delete {host}`, or rename the \
                 service"
            );
            is_taken.then(|| (format!("service {service}"), reason))
        })
    }

    /// What is left out, in the order of the keys.
    pub fn set_aside(&self) -> Vec<SetAside> {
        let too_long = self.mentions.keys().filter_map(|service| {
            let error = Hostname::of_service(service, &self.domain).err()?;
            Some((format!("service {service}"), error.to_string()))
        });
        let of_services = too_long.chain(self.taken());
        let of_services = of_services.map(|(key, reason)| SetAside { key, reason });
        let mut all: Vec<SetAside> = self.unreadable.iter().chain(of_services).collect();
        all.sort();
        all
    }
}
