//! Resolving, step by step: the index takes each record as etcd tells of it and keeps the [`Routing`] in step. What a
//! change costs follows the change: only the environments that it can affect are resolved again.
//!
//! The rules: an environment whose prefix or header belongs to one that was registered earlier is set aside whole.
//! `extends` counts when the parent is there and at most three levels lie above; otherwise the environment has only
//! what it names itself. A selector that moves follows the versions that have a live instance. A service outside has
//! its server for as long as some environment names it; where a host name stands for an address, the index says that it
//! needs the name ([`Index::host_names`]) and is told what it leads to ([`Index::resolved`]). Which addresses it may have at
//! all, and how many, says the [`AddressRule`].

mod addresses;
mod hosts;
mod missing;
mod servers;
mod services;
mod taken;
mod view;
mod waits;

use std::collections::{BTreeMap, BTreeSet};

pub use missing::{Missing, MissingService, Shortage};
pub use view::{EnvironmentView, ServiceView};

use crate::keys::{Key, KeySpace};
use crate::names::{DnsPrefix, EnvironmentName, HeaderValue, ServiceName};
use crate::outside::AddressRule;
use crate::records::{self, Environment, Instance, ServiceChoice, SetAside};
use crate::routing::{Choices, Routing, Row, RowKey, Touched};
use crate::version::{BackendId, Selector, Version};

use addresses::Addresses;
use hosts::Hosts;
use services::Services;
pub use taken::Revision;
use taken::Taken;
use waits::Wait;

/// How many environments one may stand below by `extends`. The router's configuration writes as many steps out.
pub const EXTENDS_LIMIT: usize = 3;

/// A claim to a prefix or header; the lowest holds it. Ordered by the revision of registration, then by name.
type Claim = (i64, EnvironmentName);
/// Instances by the text of their key, each with the revision at which it was registered: the service's name may stand
/// there with its suffix or without.
type Instances = BTreeMap<String, (Instance, i64)>;

/// All records that routing depends on, and the routing that follows from them.
#[derive(Debug)]
pub struct Index {
    space: KeySpace,
    /// Which addresses outside are asked.
    rule: AddressRule,
    environments: BTreeMap<EnvironmentName, Registered>,
    instances: BTreeMap<ServiceName, BTreeMap<Version, Instances>>,
    /// The keys of instances that take no new requests, because somebody is about to stop them.
    drains: BTreeSet<String>,
    addresses: Addresses,
    taken: Taken,
    hosts: Hosts,
    /// Environments whose version of a service depends on what is live: they choose it by a selector that moves, or wait
    /// for it.
    followers: BTreeMap<ServiceName, BTreeSet<EnvironmentName>>,
    children: BTreeMap<EnvironmentName, BTreeSet<EnvironmentName>>,
    prefixes: BTreeMap<DnsPrefix, BTreeSet<Claim>>,
    headers: BTreeMap<HeaderValue, BTreeSet<Claim>>,
    /// Keys whose newest value could not be read, with the reason. An earlier good value stays in force.
    unreadable: BTreeMap<String, String>,
    /// What is wrong with environments that were read.
    faults: BTreeMap<EnvironmentName, Vec<String>>,
    /// Environments to be resolved again.
    dirty: BTreeSet<EnvironmentName>,
    routing: Routing,
    touched: Touched,
    missing: Missing,
    /// What has changed since [`Index::settle`].
    unsettled: Touched,
    /// The services of environments that have what they had before, until what they choose now is live.
    waits: BTreeMap<EnvironmentName, BTreeMap<ServiceName, Wait>>,
    /// Of the environments that were resolved since then: whose services changed to or from that state.
    unsettled_waits: BTreeMap<EnvironmentName, BTreeSet<ServiceName>>,
    /// Environments that were resolved since then, and whether their `extends` cannot be followed.
    unsettled_severed: BTreeMap<EnvironmentName, bool>,
}

/// An environment as registered, and what it brought into the routing.
#[derive(Debug)]
struct Registered {
    /// Without its services.
    record: Environment,
    services: Services,
    /// When it was registered first, as etcd's revision.
    revision: i64,
    /// It holds its prefix and header.
    accepted: bool,
    resolved: Resolved,
}

/// What resolving one environment gave.
#[derive(Debug, Default)]
struct Resolved {
    /// Its rows in other tables than `versions`.
    rows: Vec<RowKey>,
}

/// The same before it is in the routing.
#[derive(Debug, Default)]
struct Outcome {
    rows: Vec<Row>,
    choices: Choices,
    faults: Vec<String>,
    /// The addresses of services outside that count, where it names any.
    outside: Option<Vec<BackendId>>,
    /// Whether its `extends` cannot be followed.
    severed: bool,
    waits: BTreeMap<ServiceName, Wait>,
}

impl Default for Index {
    fn default() -> Self {
        Self::new(KeySpace::default())
    }
}

impl Index {
    /// An empty index for the keys below a prefix, with the rule of a router without a flag.
    pub fn new(space: KeySpace) -> Self {
        let rule = AddressRule::default();
        Self {
            space,
            addresses: Addresses::new(rule.most()),
            rule,
            environments: BTreeMap::new(),
            instances: BTreeMap::new(),
            drains: BTreeSet::new(),
            taken: Taken::default(),
            hosts: Hosts::default(),
            followers: BTreeMap::new(),
            children: BTreeMap::new(),
            prefixes: BTreeMap::new(),
            headers: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            faults: BTreeMap::new(),
            dirty: BTreeSet::new(),
            routing: Routing::default(),
            touched: Touched::default(),
            missing: Missing::default(),
            unsettled: Touched::default(),
            waits: BTreeMap::new(),
            unsettled_waits: BTreeMap::new(),
            unsettled_severed: BTreeMap::new(),
        }
    }

    /// Takes the value of a key. Of two environments with one prefix the one that was created first keeps it; of two
    /// instances at one address the one that was put last is there. A value that does not parse is set aside with the
    /// reason, and the last good value of its key stays in force. Keys that do not concern routing are passed over.
    pub fn put(&mut self, key: &str, value: &[u8], revision: impl Into<Revision>) {
        match self.try_put(key, value, revision.into()) {
            Ok(()) => self.unreadable.remove(key),
            Err(reason) => self.unreadable.insert(key.to_owned(), reason),
        };
    }

    fn try_put(&mut self, key: &str, value: &[u8], revision: Revision) -> Result<(), String> {
        match self.space.parse(key).map_err(|error| error.to_string())? {
            Key::Environment(name) => {
                let record = records::parse_environment(&name, value).map_err(|error| error.to_string())?;
                self.put_environment(record, revision.created);
            }
            Key::Instance(backend, _) => {
                let instance = records::parse(value).map_err(|error| error.to_string())?;
                self.change_instance(&backend, key, Some((instance, revision)));
            }
            Key::Drain(backend, instance) => self.put_drain(backend, instance),
            Key::History(_)
            | Key::Router(_)
            | Key::Dns(_)
            | Key::Definition(_)
            | Key::Leader(_)
            | Key::Confirmation(_)
            | Key::Status(..) => {}
        }
        Ok(())
    }

    /// Takes the end of a key, whether deleted or run out.
    pub fn delete(&mut self, key: &str) {
        self.unreadable.remove(key);
        match self.space.parse(key) {
            Ok(Key::Environment(name)) => self.delete_environment(&name),
            Ok(Key::Instance(backend, _)) => self.change_instance(&backend, key, None),
            Ok(Key::Drain(backend, instance)) => self.delete_drain(backend, instance),
            // What does not concern routing, and what is no key.
            Ok(_) | Err(_) => {}
        }
    }

    /// Resolves what the changes since the last call affect, and tells which places of the routing changed.
    pub fn resolve(&mut self) -> Touched {
        let affected = self.settle_claims();
        let mut outcomes = Vec::with_capacity(affected.len());
        for name in affected {
            if let Some(outcome) = self.outcome(&name) {
                outcomes.push((name, outcome));
            }
        }

        // A row can pass from one environment to another, so all old rows go before any new one comes.
        let mut touched = std::mem::take(&mut self.touched);
        let staying: BTreeSet<RowKey> = outcomes
            .iter()
            .flat_map(|(_, outcome)| outcome.rows.iter().map(|row| row.key.clone()))
            .collect();
        let mut left = Vec::new();
        for (name, outcome) in outcomes {
            self.faults.remove(&name);
            if !outcome.faults.is_empty() {
                self.faults.insert(name.clone(), outcome.faults);
            }
            self.unsettled_severed.insert(name.clone(), outcome.severed);
            self.set_waits(&name, outcome.waits);
            left.extend(self.routing.choose(&name, outcome.choices, &mut touched));
            let Some(registered) = self.environments.get_mut(&name) else {
                continue;
            };
            self.addresses.set(&name, registered.revision, outcome.outside);
            let keys = outcome.rows.iter().map(|row| row.key.clone()).collect();
            let old = std::mem::replace(&mut registered.resolved.rows, keys);
            for key in old.iter().filter(|key| !staying.contains(key)) {
                self.routing.remove_row(key, &mut touched);
            }
            for row in outcome.rows {
                self.routing.set_row(row, &mut touched);
            }
        }
        for backend in left {
            self.routing.unname_backend(&backend, &mut touched);
        }
        for backend in self.addresses.settle() {
            self.refresh_backend(&backend, None, &mut touched);
        }
        self.hosts.forget_orphans();
        self.unsettled.extend(touched.clone());
        touched
    }

    /// What an environment brings into the routing.
    fn outcome(&mut self, name: &EnvironmentName) -> Option<Outcome> {
        let registered = self.environments.get(name)?;
        let mut outcome = if registered.accepted {
            let services = registered.services.expand(&self.routing.symbols);
            let mut outcome = self.rows_of(registered, &services);
            let choices = self.choices(&registered.record, &services, &mut outcome);
            outcome.choices = self.routing.choices_of(&choices);
            let kept = outcome
                .waits
                .iter()
                .filter_map(|(name, wait)| wait.kept_outside(name));
            let mut named: Vec<ServiceChoice> = kept.collect();
            named.extend(services);
            outcome.outside = addresses::counting(&self.rule, &named, &mut outcome.faults);
            outcome
        } else {
            self.set_aside_whole(registered)
        };
        let life = self.environments.get(name)?.record.life.as_ref();
        outcome.faults.extend(life.and_then(|life| life.refused.clone()));
        Some(outcome)
    }

    /// Decides who holds prefix and header among the environments that changes may affect, the earliest registered
    /// first: whether one holds its own decides about later claimants only. Returns all whose rows may be different.
    fn settle_claims(&mut self) -> BTreeSet<EnvironmentName> {
        let mut affected = std::mem::take(&mut self.dirty);
        let claim = |name: &EnvironmentName| Some((self.environments.get(name)?.revision, name.clone()));
        let mut waiting: BTreeSet<Claim> = affected.iter().filter_map(claim).collect();
        while let Some((_, name)) = waiting.pop_first() {
            let Some(registered) = self.environments.get(&name) else {
                continue;
            };
            let accepted = self.earlier_holder(registered).is_none();
            if accepted != registered.accepted {
                waiting.extend(self.later_claimants(registered));
                affected.extend(self.descendants(&name));
                if let Some(registered) = self.environments.get_mut(&name) {
                    registered.accepted = accepted;
                }
            }
            affected.insert(name);
        }
        affected
    }

    /// The routing as of the last [`Index::resolve`].
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// What is left out or incomplete, and why, in the order of the keys: values that do not parse, environments that
    /// lost their prefix or header to an earlier one, broken `extends`, selectors that nothing fits, addresses outside that
    /// are refused or too many, environments whose newest version their registrar refused, so that an older one stands here,
    /// and instances whose address is another's by now.
    pub fn set_aside(&self) -> Vec<SetAside> {
        let unreadable = self.unreadable.iter().map(|(key, reason)| SetAside {
            key: key.clone(),
            reason: reason.clone(),
        });
        let faults = self.faults.iter().flat_map(|(name, reasons)| {
            let key = self.space.text(&Key::Environment(name.clone()));
            reasons.iter().map(move |reason| SetAside {
                key: key.clone(),
                reason: reason.clone(),
            })
        });
        let beyond = self.addresses.beyond().map(|(name, reason)| SetAside {
            key: self.space.text(&Key::Environment(name.clone())),
            reason,
        });
        let mut all: Vec<SetAside> = unreadable.chain(faults).chain(beyond).collect();
        all.extend(self.refused_names());
        all.extend(self.superseded());
        for (name, backends) in self.hosts.without_address() {
            all.extend(
                backends
                    .iter()
                    .flat_map(|backend| self.waiting_for(name, backend)),
            );
        }
        all.sort();
        all
    }

    fn put_environment(&mut self, mut record: Environment, revision: i64) {
        let name = record.name.clone();
        let chosen = std::mem::take(&mut record.services);
        let old = self.environments.remove(&name);
        let (resolved, accepted, same_parent) = match old {
            Some(old) => {
                self.withdraw(&old);
                (old.resolved, old.accepted, old.record.extends == record.extends)
            }
            None => (Resolved::default(), false, false),
        };
        let depends =
            |choice: &&ServiceChoice| choice.version.moves() || !waits::had(&record, &choice.name).is_empty();
        for choice in chosen.iter().filter(depends) {
            self.followers
                .entry(choice.name.clone())
                .or_default()
                .insert(name.clone());
        }
        if let Some(parent) = &record.extends {
            self.children
                .entry(parent.clone())
                .or_default()
                .insert(name.clone());
        }
        self.prefixes
            .entry(record.prefix.clone())
            .or_default()
            .insert((revision, name.clone()));
        self.headers
            .entry(record.header.clone())
            .or_default()
            .insert((revision, name.clone()));
        let registered = Registered {
            record,
            services: Services::of(chosen, &mut self.routing.symbols),
            revision,
            accepted,
            resolved,
        };
        // A claim that came earlier than others' can take a prefix or header from them.
        self.dirty.extend(
            self.later_claimants(&registered)
                .into_iter()
                .map(|(_, name)| name),
        );
        if !same_parent {
            self.dirty.extend(self.descendants(&name));
        }
        self.dirty.insert(name.clone());
        self.environments.insert(name, registered);
    }

    fn delete_environment(&mut self, name: &EnvironmentName) {
        let Some(old) = self.environments.remove(name) else {
            return;
        };
        self.withdraw(&old);
        self.dirty.extend(self.descendants(name));
        self.dirty.remove(name);
        self.faults.remove(name);
        self.unsettled_severed.insert(name.clone(), false);
        self.set_waits(name, BTreeMap::new());
        let mut touched = std::mem::take(&mut self.touched);
        for key in &old.resolved.rows {
            self.routing.remove_row(key, &mut touched);
        }
        for backend in self.routing.choose(name, Choices::default(), &mut touched) {
            self.routing.unname_backend(&backend, &mut touched);
        }
        // What has no other user goes with the next round.
        self.addresses.set(name, old.revision, None);
        self.touched = touched;
    }

    /// Takes back what an environment's record claims and follows; who waited for its claims is resolved again.
    fn withdraw(&mut self, old: &Registered) {
        let Registered { record, revision, .. } = old;
        self.dirty
            .extend(self.later_claimants(old).into_iter().map(|(_, name)| name));
        let claim = (*revision, record.name.clone());
        remove_from(&mut self.prefixes, &record.prefix, &claim);
        remove_from(&mut self.headers, &record.header, &claim);
        for choice in old.services.expand(&self.routing.symbols) {
            remove_from(&mut self.followers, &choice.name, &record.name);
        }
        if let Some(parent) = &record.extends {
            remove_from(&mut self.children, parent, &record.name);
        }
    }

    /// The environment that was registered earlier, holds its own claims, and has the same prefix or header.
    fn earlier_holder(&self, registered: &Registered) -> Option<(&'static str, &EnvironmentName)> {
        let Registered { record, revision, .. } = registered;
        let own = (*revision, record.name.clone());
        let holder = |claims: Option<&BTreeSet<Claim>>| {
            let earlier = claims?.range(..&own).map(|(_, name)| name);
            let accepted =
                |name: &&EnvironmentName| self.environments.get(name).is_some_and(|other| other.accepted);
            let name = earlier.into_iter().find(accepted)?;
            self.environments.get_key_value(name).map(|(name, _)| name)
        };
        let prefix = holder(self.prefixes.get(&record.prefix)).map(|name| ("prefix", name));
        prefix.or_else(|| holder(self.headers.get(&record.header)).map(|name| ("header", name)))
    }

    fn later_claimants(&self, registered: &Registered) -> Vec<Claim> {
        let Registered { record, revision, .. } = registered;
        let own = (*revision, record.name.clone());
        let prefixes = self.prefixes.get(&record.prefix).into_iter().flatten();
        let headers = self.headers.get(&record.header).into_iter().flatten();
        prefixes
            .chain(headers)
            .filter(|claim| **claim > own)
            .cloned()
            .collect()
    }

    /// The environments below one by `extends`, as far down as its own place in the chain matters.
    fn descendants(&self, name: &EnvironmentName) -> BTreeSet<EnvironmentName> {
        let mut found = BTreeSet::new();
        let mut level = BTreeSet::from([name.clone()]);
        for _ in 0..=EXTENDS_LIMIT {
            let children = level.iter().filter_map(|name| self.children.get(name)).flatten();
            level = children.filter(|child| *child != name).cloned().collect();
            found.extend(level.iter().cloned());
        }
        found
    }

    fn set_aside_whole(&self, registered: &Registered) -> Outcome {
        let fault = self.earlier_holder(registered).map(|(field, holder)| {
            let record = &registered.record;
            let text = if field == "prefix" {
                record.prefix.as_str()
            } else {
                record.header.as_str()
            };
            format!(
                "{field} {text} belongs to environment {holder}, which was registered first; choose another"
            )
        });
        Outcome {
            faults: fault.into_iter().collect(),
            ..Outcome::default()
        }
    }

    /// The rows of an environment in other tables than `versions`.
    fn rows_of(&self, registered: &Registered, services: &[ServiceChoice]) -> Outcome {
        let record = &registered.record;
        let mut outcome = Outcome::default();
        let rows = &mut outcome.rows;
        rows.push(Row::edge(&record.prefix, &record.header));
        rows.push(Row::header(&record.header, &record.name));
        match self.valid_parent(record) {
            Ok(parent) => rows.extend(parent.map(|parent| Row::parent(&record.name, parent))),
            Err(fault) => {
                outcome.faults.push(fault);
                outcome.severed = true;
            }
        }
        for choice in services {
            let routes = choice.routes.iter();
            rows.extend(routes.map(|path| Row::route(&record.name, path, &choice.name)));
        }
        // Where a record names a route twice, the first stands.
        let mut seen = BTreeSet::new();
        rows.retain(|row| seen.insert(row.key.clone()));
        outcome
    }

    /// What is chosen of each service, as the value of its row.
    fn choices<'a>(
        &self,
        record: &Environment,
        services: &'a [ServiceChoice],
        outcome: &mut Outcome,
    ) -> Vec<(&'a ServiceName, String)> {
        let chosen = services.iter().enumerate().filter_map(|(place, choice)| {
            let (name, selector) = (&choice.name, &choice.version);
            // Where a record names a service twice, the first is chosen.
            let is_first = || services[..place].iter().all(|earlier| earlier.name != *name);
            if let Some(wait) = self.wait(record, choice).filter(|_| is_first()) {
                let value = wait.kept.as_ref().map(|kept| format!("{name}@{kept}"));
                outcome.waits.insert(name.clone(), wait);
                return value.map(|value| (name, value));
            }
            let value = match selector.choose(self.live_versions(name)) {
                Some(version) => format!("{name}@{version}"),
                None => {
                    outcome.faults.push(nothing_fits(name, selector));
                    // An instance of the version that is called `latest` fits; who waits for it is among its choosers.
                    format!("{name}@{selector}")
                }
            };
            Some((name, value))
        });
        chosen.collect()
    }

    /// The versions of a service that take requests, each with the revision since which it does.
    fn live_versions(&self, service: &ServiceName) -> impl Iterator<Item = (&Version, i64)> {
        let versions = self.instances.get(service).into_iter().flatten();
        versions.filter_map(|(version, instances)| Some((version, self.live_since(instances)?)))
    }

    /// The parent that an environment takes services and routes from, if its `extends` can be followed.
    fn valid_parent<'a>(&self, record: &'a Environment) -> Result<Option<&'a EnvironmentName>, String> {
        let Some(parent) = &record.extends else {
            return Ok(None);
        };
        let only_own = "only what the environment names itself is routed";
        let in_force = |name: &EnvironmentName| self.environments.get(name).filter(|other| other.accepted);
        if in_force(parent).is_none() {
            let what = if self.environments.contains_key(parent) {
                "is set aside"
            } else {
                "does not exist"
            };
            return Err(format!("extends {parent}, which {what}; {only_own}"));
        }
        let mut above = Vec::new();
        let mut next = Some(parent);
        while let Some(name) = next {
            if *name == record.name {
                return Err(format!("extends leads in a circle back to {name}; {only_own}"));
            }
            if above.len() == EXTENDS_LIMIT {
                return Err(format!(
                    "extends passes {EXTENDS_LIMIT} levels at {name}; {only_own}"
                ));
            }
            // A circle further up is the problem of those in it: this environment takes from them what they name.
            if above.contains(&name) {
                break;
            }
            above.push(name);
            next = in_force(name)
                .and_then(|other| other.record.extends.as_ref())
                .filter(|name| in_force(name).is_some());
        }
        Ok(Some(parent))
    }
}

fn nothing_fits(service: &ServiceName, selector: &Selector) -> String {
    match selector {
        Selector::Range(range) => format!("no live version of {service} fits {range}"),
        Selector::Exact(_) | Selector::Latest => format!("no version of {service} has a live instance"),
    }
}

fn remove_from<K: Ord, V: Ord>(sets: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(set) = sets.get_mut(key) {
        set.remove(value);
        if set.is_empty() {
            sets.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
