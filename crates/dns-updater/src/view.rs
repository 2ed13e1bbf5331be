//! What etcd says about names, as a typed view that changes are applied to one by one. Pure. A record that breaks a rule
//! is set aside with its key and the reason; its last good value stays.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::names::{EnvironmentName, Hostname, NodeName, ServiceName};
use mayfly_core::records::{self, DnsRecord, Router, SetAside};
use mayfly_daemon::watch::Change;

/// More addresses for one name than any answer of DNS holds.
const MOST_ADDRESSES: usize = 64;

/// The view.
#[derive(Debug, Clone)]
pub struct View {
    keyspace: KeySpace,
    domain: Hostname,
    /// The services that each environment names, each a share of what `mentions` holds: thousands of environments name the same.
    environments: BTreeMap<EnvironmentName, Box<[Arc<ServiceName>]>>,
    /// The keys of instances; which service they are of is all that counts here.
    instances: BTreeSet<String>,
    /// The services of before, for the time that there is no environment.
    kept: Vec<Arc<ServiceName>>,
    /// For each service, how many environments and instances name it, and whether it is kept.
    mentions: BTreeMap<Arc<ServiceName>, usize>,
    routers: BTreeMap<NodeName, IpAddr>,
    /// The routers of before, for the time that none is live.
    last_routers: BTreeSet<IpAddr>,
    records: BTreeMap<Hostname, BTreeSet<IpAddr>>,
    set_aside: BTreeMap<String, String>,
}

impl View {
    /// An empty view of the services in `domain`. `last_routers` are the addresses that names led to before this
    /// process started; they hold until a router is known.
    pub fn new(keyspace: KeySpace, domain: Hostname, last_routers: BTreeSet<IpAddr>) -> Self {
        Self {
            keyspace,
            domain,
            environments: BTreeMap::new(),
            instances: BTreeSet::new(),
            kept: Vec::new(),
            mentions: BTreeMap::new(),
            routers: BTreeMap::new(),
            last_routers,
            records: BTreeMap::new(),
            set_aside: BTreeMap::new(),
        }
    }

    /// Applies changes that came together. If they take the last environment away, the names that there were stay until there is
    /// one again: a registry that empties is a fault more often than a wish, routers go on routing then, and a name that leads to
    /// a router harms nobody.
    pub fn apply_all(&mut self, changes: &[Change]) {
        let before: Vec<_> = match self.without_environment() {
            false => self.mentions.keys().cloned().collect(),
            true => Vec::new(),
        };
        for change in changes {
            self.apply(change);
        }
        if self.without_environment() {
            let kept = before.iter().map(|service| self.mention((**service).clone()));
            let kept: Vec<_> = kept.collect();
            self.kept.extend(kept);
        } else {
            for service in std::mem::take(&mut self.kept) {
                self.forget(&service);
            }
        }
    }

    /// Applies one change. Its cost follows the change, not the view.
    pub fn apply(&mut self, change: &Change) {
        let (text, value) = match change {
            Change::Put(entry) => (&entry.key, Some(entry.value.as_slice())),
            Change::Delete { key } => (key, None),
        };
        self.set_aside.remove(text);
        if let Err(reason) = self.take(text, value) {
            // Without its value there is nothing to set aside: it is gone.
            if value.is_some() {
                self.set_aside.insert(text.clone(), reason);
            }
        }
    }

    /// Whether there is no environment.
    pub fn without_environment(&self) -> bool {
        self.environments.is_empty()
    }

    fn take(&mut self, text: &str, value: Option<&[u8]>) -> Result<(), String> {
        let key = self.keyspace.parse(text).map_err(|error| error.to_string())?;
        match key {
            Key::Environment(name) => self.take_environment(name, value),
            Key::Instance(backend, _) => {
                self.take_instance(text, backend.service, value.is_some());
                Ok(())
            }
            Key::Router(node) => self.take_router(node, value),
            Key::Dns(host) => self.take_record(host, value),
            // What no name depends on.
            _ => Ok(()),
        }
    }

    fn take_environment(&mut self, name: EnvironmentName, value: Option<&[u8]>) -> Result<(), String> {
        // Each once, however often a record names it.
        let services: BTreeSet<ServiceName> = match value {
            Some(value) => {
                let record = records::parse_environment(&name, value).map_err(|error| error.to_string())?;
                record.services.into_iter().map(|choice| choice.name).collect()
            }
            None => BTreeSet::new(),
        };
        let services: Box<[_]> = services
            .into_iter()
            .map(|service| self.mention(service))
            .collect();
        let before = if value.is_some() {
            self.environments.insert(name, services)
        } else {
            self.environments.remove(&name)
        };
        for service in &before.unwrap_or_default() {
            self.forget(service);
        }
        Ok(())
    }

    fn take_instance(&mut self, key: &str, service: ServiceName, present: bool) {
        if present {
            if self.instances.insert(key.to_owned()) {
                self.mention(service);
            }
        } else if self.instances.remove(key) {
            self.forget(&service);
        }
    }

    fn take_router(&mut self, node: NodeName, value: Option<&[u8]>) -> Result<(), String> {
        match value {
            Some(value) => {
                let router: Router = records::parse(value).map_err(|error| error.to_string())?;
                if router.address.is_unspecified() || router.address.is_multicast() {
                    return Err(format!("{} is not the address of a router", router.address));
                }
                self.routers.insert(node, router.address);
            }
            None => {
                self.routers.remove(&node);
            }
        }
        if !self.routers.is_empty() {
            self.last_routers = self.routers.values().copied().collect();
        }
        Ok(())
    }

    fn take_record(&mut self, host: Hostname, value: Option<&[u8]>) -> Result<(), String> {
        match value {
            Some(value) => {
                let record: DnsRecord = records::parse(value).map_err(|error| error.to_string())?;
                if !(1..=MOST_ADDRESSES).contains(&record.addresses.len()) {
                    let count = record.addresses.len();
                    return Err(format!(
                        "a record has from 1 to {MOST_ADDRESSES} addresses, not {count}"
                    ));
                }
                self.records.insert(host, record.addresses.into_iter().collect());
            }
            None => {
                self.records.remove(&host);
            }
        }
        Ok(())
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

    /// The addresses that the names of services lead to: those of the live routers, or without any, the last known.
    pub fn routers(&self) -> &BTreeSet<IpAddr> {
        // Kept in step with every change of the live ones.
        &self.last_routers
    }

    /// Whether no router is live, so that names lead to the last known ones.
    pub fn without_router(&self) -> bool {
        self.routers.is_empty()
    }

    /// Every name with its addresses. A static record wins over a service of the same name; a service is left out while
    /// no router was ever known.
    pub fn names(&self) -> BTreeMap<Hostname, &BTreeSet<IpAddr>> {
        let routers = self.routers();
        let services = self.mentions.keys().filter(|_| !routers.is_empty());
        // A label and a domain that are too long together are told by `set_aside`.
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

    /// What is left out, in the order of the keys.
    pub fn set_aside(&self) -> Vec<SetAside> {
        let entries = self
            .set_aside
            .iter()
            .map(|(key, reason)| (key.clone(), reason.clone()));
        let too_long = self.mentions.keys().filter_map(|service| {
            let error = Hostname::of_service(service, &self.domain).err()?;
            Some((format!("service {service}"), error.to_string()))
        });
        let mut all: Vec<SetAside> = entries
            .chain(too_long)
            .map(|(key, reason)| SetAside { key, reason })
            .collect();
        all.sort();
        all
    }
}
