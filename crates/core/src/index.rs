//! Resolves environments into routing, step by step: the index takes each record as etcd reports it
//! and keeps the [`Routing`] in sync. It resolves again only the environments that a change can
//! affect.
//!
//! The rules: an environment whose prefix or header belongs to one that was registered earlier is
//! set aside whole. `extends` counts when the base environment exists and at most three levels are
//! above; otherwise the environment has only the services that it names itself. A selector that
//! moves follows the versions that have a live instance. An external service has its server as long
//! as an environment names it. If it has a host name, the index reports that it needs the name
//! ([`Index::host_names`]) and learns its addresses ([`Index::resolved`]). The [`AddressRule`]
//! decides which addresses a service may have, and how many.

mod access;
mod addresses;
mod ends;
mod hosts;
mod missing;
mod servers;
mod services;
mod taken;
mod view;
mod waits;

use std::collections::{BTreeMap, BTreeSet};

pub use access::AccessView;
pub use missing::{Missing, MissingService, Shortage};
pub use view::{EnvironmentView, ServiceView};

use crate::claims::{Claim, Claims};
use crate::keys::{Key, KeySpace};
use crate::names::{EnvironmentName, RoutePath, ServiceName};
use crate::outside::AddressRule;
use crate::records::access::{PasswordHash, UserName};
use crate::records::{EXTENDS_LIMIT, Environment, Instance, Record, ServiceChoice, SetAside, SetAsides};
use crate::routing::{Choice, EnvironmentRows, Routing, Touched};
use crate::shared::Interner;
use crate::version::{BackendId, Selector, Version};

use addresses::NamedAddresses;
use ends::Ends;
use hosts::Hosts;
use services::NamedServices;
pub use taken::Revision;
use taken::TakenAddresses;
use waits::Wait;

/// Instances by their key, each with the revision at which it was registered.
type RegisteredInstances = BTreeMap<Key, (Instance, i64)>;

/// All records that routing depends on, and the routing that follows from them.
#[derive(Debug)]
pub struct Index {
    space: KeySpace,
    /// Which addresses outside are asked.
    rule: AddressRule,
    environments: BTreeMap<EnvironmentName, RegisteredEnvironment>,
    instances: BTreeMap<ServiceName, BTreeMap<Version, RegisteredInstances>>,
    /// The keys of instances that take no new requests, because they are about to be stopped.
    drains: BTreeSet<Key>,
    addresses: NamedAddresses,
    ends: Ends,
    taken: TakenAddresses,
    hosts: Hosts,
    /// Environments whose version of a service depends on what is live: they choose it by a
    /// selector that moves, or wait for it.
    followers: BTreeMap<ServiceName, BTreeSet<EnvironmentName>>,
    children: BTreeMap<EnvironmentName, BTreeSet<EnvironmentName>>,
    /// The owners of prefixes and headers; the rank is the revision of the registration.
    claims: Claims<EnvironmentName, i64>,
    /// Keys whose newest value could not be read.
    unreadable: SetAsides,
    /// What is wrong with environments that were read.
    faults: BTreeMap<EnvironmentName, Vec<String>>,
    /// Environments to be resolved again.
    dirty: BTreeSet<EnvironmentName>,
    /// What environments ask for, and what they have of it.
    asked: Interner<(ServiceName, Selector)>,
    choices: Interner<Choice>,
    routing: Routing,
    touched: Touched,
    missing: Missing,
    /// What has changed since [`Index::settle`].
    unsettled: Touched,
    /// The services of environments that have what they had before, until what they choose now is
    /// live.
    waits: BTreeMap<EnvironmentName, BTreeMap<ServiceName, Wait>>,
    /// Of the environments that were resolved since then: whose services changed to or from that
    /// state.
    unsettled_waits: BTreeMap<EnvironmentName, BTreeSet<ServiceName>>,
    /// Environments that were resolved since then, and whether their `extends` cannot be followed.
    unsettled_severed: BTreeMap<EnvironmentName, bool>,
}

/// An environment as registered.
#[derive(Debug)]
struct RegisteredEnvironment {
    /// Without its services.
    record: Environment,
    services: NamedServices,
    /// When it was registered first, as etcd's revision.
    revision: i64,
}

/// What resolving one environment gives.
#[derive(Debug, Default)]
struct ResolvedEnvironment {
    /// `None` where it is set aside whole.
    rows: Option<EnvironmentRows>,
    faults: Vec<String>,
    /// The addresses of external services that count, where it names any.
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
            addresses: NamedAddresses::new(rule.most()),
            rule,
            environments: BTreeMap::new(),
            instances: BTreeMap::new(),
            drains: BTreeSet::new(),
            ends: Ends::default(),
            taken: TakenAddresses::default(),
            hosts: Hosts::default(),
            followers: BTreeMap::new(),
            children: BTreeMap::new(),
            claims: Claims::default(),
            unreadable: SetAsides::default(),
            faults: BTreeMap::new(),
            dirty: BTreeSet::new(),
            asked: Interner::default(),
            choices: Interner::default(),
            routing: Routing::default(),
            touched: Touched::default(),
            missing: Missing::default(),
            unsettled: Touched::default(),
            waits: BTreeMap::new(),
            unsettled_waits: BTreeMap::new(),
            unsettled_severed: BTreeMap::new(),
        }
    }

    /// Takes a record. Of two environments with one prefix the one that was created first keeps it;
    /// of two instances at one address the one that was put last is there. Records that do not
    /// concern routing are passed over.
    pub fn put(&mut self, record: Record, revision: impl Into<Revision>) {
        let revision = revision.into();
        match record {
            Record::Environment(environment) => self.put_environment(environment, revision.created),
            Record::Instance(backend, id, instance) => {
                let key = Key::Instance(backend.clone(), id);
                self.change_instance(&backend, &key, Some((instance, revision)));
            }
            Record::Drain(backend, id) => self.put_drain(backend, id),
            Record::Ended(name, ended) => self.ends.set(&name, Some(ended)),
            Record::History(_)
            | Record::Router(..)
            | Record::Dns(..)
            | Record::Definition(_)
            | Record::Leader(..)
            | Record::Confirmation(_)
            | Record::Relaunch(_)
            | Record::Status(..)
            | Record::Traffic(..) => {}
        }
    }

    /// Takes the end of a key, whether deleted or run out.
    pub fn gone(&mut self, key: &Key) {
        match key {
            Key::Environment(name) => self.delete_environment(name),
            Key::Instance(backend, _) => self.change_instance(backend, key, None),
            Key::Drain(backend, id) => self.delete_drain(backend.clone(), id.clone()),
            Key::Ended(name) => self.ends.set(name, None),
            _ => {}
        }
    }

    /// Takes which keys cannot be read; the last good value of each stays in force.
    pub fn set_unreadable(&mut self, unreadable: SetAsides) {
        self.unreadable = unreadable;
    }

    /// Resolves what the changes since the last call affect, and tells which places of the routing
    /// changed.
    pub fn resolve(&mut self) -> Touched {
        let mut affected = std::mem::take(&mut self.dirty);
        for (name, differs) in self.claims.settle() {
            if differs {
                affected.extend(self.descendants(&name));
            }
            affected.insert(name);
        }
        let mut outcomes = Vec::with_capacity(affected.len());
        for name in affected {
            if let Some(outcome) = self.outcome(&name) {
                outcomes.push((name, outcome));
            }
        }

        let mut touched = std::mem::take(&mut self.touched);
        let mut left = Vec::new();
        for (name, outcome) in outcomes {
            self.faults.remove(&name);
            if !outcome.faults.is_empty() {
                self.faults.insert(name.clone(), outcome.faults);
            }
            self.unsettled_severed.insert(name.clone(), outcome.severed);
            self.set_waits(&name, outcome.waits);
            left.extend(self.routing.set_environment(&name, outcome.rows, &mut touched));
            if let Some(registered) = self.environments.get(&name) {
                self.addresses.set(&name, registered.revision, outcome.outside);
            }
        }
        for backend in left {
            self.routing.unname_backend(&backend, &mut touched);
        }
        for backend in self.addresses.settle() {
            self.refresh_backend(&backend, None, &mut touched);
        }
        self.settle_ends(&mut touched);
        self.hosts.forget_orphans();
        self.unsettled.extend(touched.clone());
        touched
    }

    /// What an environment brings into the routing.
    fn outcome(&mut self, name: &EnvironmentName) -> Option<ResolvedEnvironment> {
        let (mut outcome, chosen) = self.resolve_one(name)?;
        if let Some(rows) = &mut outcome.rows {
            rows.choices = chosen.into_iter().map(|choice| self.choices.of(choice)).collect();
        }
        Some(outcome)
    }

    /// The same with the choices apart, in the order of the services.
    fn resolve_one(&self, name: &EnvironmentName) -> Option<(ResolvedEnvironment, Vec<Choice>)> {
        let registered = self.environments.get(name)?;
        let record = &registered.record;
        let (mut outcome, mut chosen) = (ResolvedEnvironment::default(), Vec::new());
        if self.claims.is_accepted(name) {
            let services = registered.services.expand();
            let parent = self.valid_parent(record).unwrap_or_else(|fault| {
                outcome.faults.push(fault);
                outcome.severed = true;
                None
            });
            outcome.rows = Some(EnvironmentRows {
                prefix: record.prefix.clone(),
                header: record.header.clone(),
                protected: record.protected,
                parent: parent.cloned(),
                admission: self.admission(record),
                users: users_of(record),
                networks: access::by_digits(record.access.as_ref().map_or(&[][..], |access| &access.from)),
                routes: routes_of(&services),
                choices: Box::default(),
            });
            chosen = self.chosen(record, &services, &mut outcome);
            let kept = outcome
                .waits
                .iter()
                .filter_map(|(name, wait)| wait.kept_outside(name));
            let mut named: Vec<ServiceChoice> = kept.collect();
            named.extend(services);
            outcome.outside = addresses::counting(&self.rule, &named, &mut outcome.faults);
        } else {
            outcome.faults.extend(self.why_set_aside(name));
        }
        let refused = record.life.as_ref().and_then(|life| life.refused.clone());
        outcome.faults.extend(refused);
        Some((outcome, chosen))
    }

    /// The routing as of the last [`Index::resolve`].
    pub fn routing(&self) -> &Routing {
        &self.routing
    }

    /// What is left out or incomplete, and why, in the order of the keys: values that do not parse,
    /// environments that lost their prefix or header to an earlier one, broken `extends`, selectors
    /// that nothing fits, addresses outside that are refused or too many, environments whose newest
    /// version their registrar refused, so that an older one stands here, and instances whose
    /// address is another's by now.
    pub fn set_aside(&self) -> Vec<SetAside> {
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
        let mut all: Vec<SetAside> = self.unreadable.iter().chain(faults).chain(beyond).collect();
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
        self.ends.concerns(&name);
        let chosen = std::mem::take(&mut record.services);
        let old = self.environments.remove(&name);
        let same_for_children = match old {
            Some(old) => {
                self.withdraw(&old);
                old.record.extends == record.extends && old.record.access == record.access
            }
            None => false,
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
        let keys = Claim::keys_of(&record).map(|claim| (claim, false));
        self.claims.put(name.clone(), revision, keys);
        let registered = RegisteredEnvironment {
            record,
            services: NamedServices::of(chosen, &mut self.asked),
            revision,
        };
        if !same_for_children {
            self.dirty.extend(self.descendants(&name));
        }
        self.dirty.insert(name.clone());
        self.environments.insert(name, registered);
    }

    fn delete_environment(&mut self, name: &EnvironmentName) {
        let Some(old) = self.environments.remove(name) else {
            return;
        };
        self.ends.concerns(name);
        self.claims.remove(name);
        self.withdraw(&old);
        self.dirty.extend(self.descendants(name));
        self.dirty.remove(name);
        self.faults.remove(name);
        self.unsettled_severed.insert(name.clone(), false);
        self.set_waits(name, BTreeMap::new());
        let mut touched = std::mem::take(&mut self.touched);
        for backend in self.routing.set_environment(name, None, &mut touched) {
            self.routing.unname_backend(&backend, &mut touched);
        }
        // What has no other user goes with the next round.
        self.addresses.set(name, old.revision, None);
        self.touched = touched;
    }

    /// Takes back what an environment's record follows.
    fn withdraw(&mut self, old: &RegisteredEnvironment) {
        let record = &old.record;
        for service in old.services.names() {
            remove_from(&mut self.followers, service, &record.name);
        }
        if let Some(parent) = &record.extends {
            remove_from(&mut self.children, parent, &record.name);
        }
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

    fn why_set_aside(&self, name: &EnvironmentName) -> Option<String> {
        let (claim, holder) = self.claims.rivals(name).next()?;
        Some(format!(
            "{claim} belongs to environment {holder}, which was registered first; choose another \
             {}",
            claim.field()
        ))
    }

    /// What is chosen of each service, in the order of the services.
    fn chosen(
        &self,
        record: &Environment,
        services: &[ServiceChoice],
        outcome: &mut ResolvedEnvironment,
    ) -> Vec<Choice> {
        let chosen = services.iter().enumerate().filter_map(|(place, choice)| {
            let (service, selector) = (&choice.name, &choice.version);
            let backend = |version: &Version| {
                Choice::Backend(BackendId {
                    service: service.clone(),
                    version: version.clone(),
                })
            };
            // Where a record names a service twice, the first is chosen.
            let is_first = || services[..place].iter().all(|earlier| earlier.name != *service);
            if let Some(wait) = self.wait(record, choice).filter(|_| is_first()) {
                let kept = wait.kept.as_ref().map(backend);
                outcome.waits.insert(service.clone(), wait);
                return kept;
            }
            if let Some(version) = selector.choose(self.live_versions(service)) {
                return Some(backend(version));
            }
            outcome.faults.push(nothing_fits(service, selector));
            Some(match selector {
                Selector::Range(range) => Choice::Missing(service.clone(), (**range).clone()),
                // An instance of the version that is called `latest` fits; who waits for it is
                // among its choosers.
                Selector::Exact(_) | Selector::Latest => backend(&Version::latest()),
            })
        });
        let mut chosen: Vec<Choice> = chosen.collect();
        chosen.sort_by(|one, other| one.service().cmp(other.service()));
        chosen.dedup_by(|one, other| one.service() == other.service());
        chosen
    }

    /// The versions of a service that take requests, each with the revision since which it does.
    fn live_versions(&self, service: &ServiceName) -> impl Iterator<Item = (&Version, i64)> {
        let versions = self.instances.get(service).into_iter().flatten();
        versions.filter_map(|(version, instances)| Some((version, self.live_since(instances)?)))
    }

    /// The parent that an environment takes services and routes from, if its `extends` can be
    /// followed.
    fn valid_parent<'a>(&self, record: &'a Environment) -> Result<Option<&'a EnvironmentName>, String> {
        let Some(parent) = &record.extends else {
            return Ok(None);
        };
        let only_own = "the internal side routes only this environment's own services, and the \
                        edge refuses its requests unless it has an `access` of its own";
        let in_force = |name: &EnvironmentName| {
            self.environments
                .get(name)
                .filter(|_| self.claims.is_accepted(name))
        };
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
                return Err(format!("the chain of `extends` comes back to {name}; {only_own}"));
            }
            if above.len() == EXTENDS_LIMIT {
                return Err(format!(
                    "the chain of `extends` exceeds {EXTENDS_LIMIT} levels at {name}; {only_own}"
                ));
            }
            // A circle further up is the problem of those in it: this environment takes from them
            // what they name.
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

/// The users of an environment itself.
fn users_of(record: &Environment) -> Box<[(UserName, PasswordHash)]> {
    let users = record.access.iter().flat_map(|access| &access.users);
    users.map(|(user, hash)| (user.clone(), hash.clone())).collect()
}

/// The routes of services, in the order of the paths. Where one stands there twice, the first
/// counts.
fn routes_of(services: &[ServiceChoice]) -> Box<[(RoutePath, ServiceName)]> {
    let each = |choice: &ServiceChoice| {
        let service = choice.name.clone();
        let routes = choice.routes.clone().into_iter();
        routes.map(move |path| (path, service.clone()))
    };
    let mut routes: Vec<_> = services.iter().flat_map(each).collect();
    routes.sort_by(|(one, _), (other, _)| one.cmp(other));
    routes.dedup_by(|(one, _), (other, _)| one == other);
    routes.into()
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
pub(crate) mod tests;
