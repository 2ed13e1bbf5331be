//! Which environments lack live instances. Each change updates this from the rows and backends that
//! it touched, so a router can report it for all environments at any time.
//!
//! A *shortage* is a service that an environment chooses itself and that has too few instances. An
//! environment is incomplete if it has a shortage, or inherits one that it does not override, or if
//! it or one of its base environments extends an environment that does not exist.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::Index;
use crate::names::{EnvironmentName, ServiceName};
use crate::records::InstanceState;
use crate::routing::{Choice, Routing, Touched};
use crate::version::{BackendId, Selector};

/// An environment and the service that it chooses and that has too few instances.
type ServicePlace = (EnvironmentName, ServiceName);

/// What is missing in all environments.
#[derive(Debug)]
pub struct Missing {
    /// How many instances a service has to have.
    least: usize,
    /// External services that do not answer the routers' checks.
    unanswered: BTreeSet<BackendId>,
    /// Backends that are chosen and have fewer.
    short: BTreeSet<BackendId>,
    shortages: BTreeSet<ServicePlace>,
    /// Places that have what they had before, until what is chosen now is live.
    waiting: BTreeSet<ServicePlace>,
    /// Environments whose own `extends` cannot be followed.
    severed: BTreeSet<EnvironmentName>,
    /// The shortages of each incomplete environment, inherited ones too; none where only an
    /// `extends`, its own or one above it, cannot be followed.
    incomplete: BTreeMap<EnvironmentName, BTreeSet<ServicePlace>>,
    /// How many environments inherit a shortage.
    heirs: BTreeMap<ServicePlace, usize>,
    parents: BTreeMap<EnvironmentName, EnvironmentName>,
    children: BTreeMap<EnvironmentName, BTreeSet<EnvironmentName>>,
}

impl Default for Missing {
    fn default() -> Self {
        Self {
            least: 1,
            unanswered: BTreeSet::new(),
            short: BTreeSet::new(),
            shortages: BTreeSet::new(),
            waiting: BTreeSet::new(),
            severed: BTreeSet::new(),
            incomplete: BTreeMap::new(),
            heirs: BTreeMap::new(),
            parents: BTreeMap::new(),
            children: BTreeMap::new(),
        }
    }
}

/// What is missing, for a record that must not become long.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Shortage {
    /// How many environments are incomplete, those that inherit a shortage, or whose `extends`
    /// cannot be followed, too.
    pub environments: usize,
    /// How many services have too few instances, each counted where it is chosen.
    pub services: usize,
    /// The first of these services.
    pub first: Vec<MissingService>,
}

/// A service that an environment chooses and that has too few instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MissingService {
    /// The environment that chooses it.
    pub environment: EnvironmentName,
    /// The service.
    pub service: ServiceName,
    /// The version that is chosen, or the selector that nothing fits.
    pub version: String,
    /// How many instances take requests.
    pub live: usize,
    /// What is missing, in words.
    pub reason: String,
    /// How many environments inherit it from there, and are incomplete for that reason too.
    pub inherited_by: usize,
}

impl Missing {
    /// Takes in what a change has touched: in the routing, of the environments whose `extends`
    /// cannot be followed, and of the places that wait.
    fn refresh(
        &mut self,
        routing: &Routing,
        touched: &Touched,
        severed: BTreeMap<EnvironmentName, bool>,
        waiting: Vec<(ServicePlace, bool)>,
    ) {
        let mut stale = BTreeSet::new();
        for (environment, is_severed) in severed {
            let changed = match is_severed {
                true => self.severed.insert(environment.clone()),
                false => self.severed.remove(&environment),
            };
            if changed {
                self.add_with_descendants(environment, &mut stale);
            }
        }
        for (environment, before, now) in touched.environments(routing) {
            let (before, now) = (
                before.and_then(|it| it.parent.as_ref()),
                now.and_then(|it| it.parent.as_ref()),
            );
            if before != now {
                self.set_parent(environment, now, &mut stale);
            }
        }
        let mut turned = Vec::new();
        for backend in &touched.backends {
            let short = routing.is_named(backend) && self.is_short(routing, backend);
            // Looking for who chooses a backend that nobody names would be looking at every
            // environment.
            if self.note_short(backend, short) && routing.is_named(backend) {
                turned.push(backend);
            }
        }
        // Judging a place notes whether its backend is short, so it comes after those that turned
        // are known.
        for (place, waits) in waiting {
            match waits {
                true => self.waiting.insert(place.clone()),
                false => self.waiting.remove(&place),
            };
            self.judge(routing, &place);
            self.add_with_descendants(place.0, &mut stale);
        }
        for (environment, before, now) in touched.environments(routing) {
            let gone = before.into_iter().flat_map(|rows| rows.not_chosen_in(now));
            let new = now.into_iter().flat_map(|rows| rows.not_chosen_in(before));
            for service in gone.chain(new).map(Choice::service) {
                let changed = self.judge(routing, &(environment.clone(), service.clone()));
                if changed || self.hides(routing, environment, service) {
                    self.add_with_descendants(environment.clone(), &mut stale);
                }
            }
        }
        for backend in turned {
            for environment in routing.choosers(backend) {
                if self.judge(routing, &(environment.clone(), backend.service.clone())) {
                    self.add_with_descendants(environment.clone(), &mut stale);
                }
            }
        }
        for environment in stale {
            self.settle(routing, environment);
        }
    }

    /// Notes whether a place is a shortage; says whether that is new.
    fn judge(&mut self, routing: &Routing, place: &ServicePlace) -> bool {
        match self.evaluate(routing, place) {
            true => self.shortages.insert(place.clone()),
            false => self.shortages.remove(place),
        }
    }

    fn set_parent(
        &mut self,
        child: &EnvironmentName,
        parent: Option<&EnvironmentName>,
        stale: &mut BTreeSet<EnvironmentName>,
    ) {
        self.add_with_descendants(child.clone(), stale);
        let old = match parent {
            Some(parent) => self.parents.insert(child.clone(), parent.clone()),
            None => self.parents.remove(child),
        };
        if let Some(old) = old {
            super::remove_from(&mut self.children, &old, child);
        }
        if let Some(parent) = parent {
            let children = self.children.entry(parent.clone()).or_default();
            children.insert(child.clone());
        }
    }

    /// Notes whether a backend that is chosen is short of instances; says whether that is new.
    fn note_short(&mut self, backend: &BackendId, short: bool) -> bool {
        if short {
            self.short.insert(backend.clone())
        } else {
            self.short.remove(backend)
        }
    }

    /// Whether the environment chooses the service itself and it has too few instances.
    fn evaluate(&mut self, routing: &Routing, place: &ServicePlace) -> bool {
        let (environment, service) = place;
        let waits = self.waiting.contains(place);
        match routing.choice(environment, service) {
            None => waits,
            Some(Choice::Missing(..)) => true,
            Some(Choice::Backend(backend)) => {
                let short = self.is_short(routing, backend);
                self.note_short(backend, short);
                short || waits
            }
        }
    }

    fn is_short(&self, routing: &Routing, backend: &BackendId) -> bool {
        if self.unanswered.contains(backend) {
            return true;
        }
        // What runs outside is taken to be there, once it is known where, until a router says that
        // it is not.
        let least = match backend.version.is_outside() {
            true => self.least.min(1),
            false => self.least,
        };
        count(routing, backend).live < least
    }

    /// Whether a row of the environment that came or went can hide or show a shortage of one that
    /// it extends.
    fn hides(&self, routing: &Routing, environment: &EnvironmentName, service: &ServiceName) -> bool {
        let mut above = routing.chain(environment).skip(1);
        above.any(|ancestor| self.shortages.contains(&(ancestor.clone(), service.clone())))
    }

    fn add_with_descendants(&self, environment: EnvironmentName, stale: &mut BTreeSet<EnvironmentName>) {
        let mut level = vec![environment];
        for _ in 0..=crate::records::EXTENDS_LIMIT {
            let below = level.iter().filter_map(|name| self.children.get(name)).flatten();
            let next = below.cloned().collect();
            stale.extend(std::mem::replace(&mut level, next));
        }
    }

    /// Finds the shortages of one environment again.
    fn settle(&mut self, routing: &Routing, environment: EnvironmentName) {
        let new = self.shortages_of(routing, &environment);
        let is_severed = || {
            routing
                .chain(&environment)
                .any(|name| self.severed.contains(name))
        };
        let old = if new.is_empty() && !is_severed() {
            self.incomplete.remove(&environment)
        } else {
            self.incomplete.insert(environment.clone(), new.clone())
        };
        let old = old.unwrap_or_default();
        for place in old.difference(&new).filter(|place| place.0 != environment) {
            if let Some(heirs) = self.heirs.get_mut(place) {
                *heirs -= 1;
                if *heirs == 0 {
                    self.heirs.remove(place);
                }
            }
        }
        for place in new.difference(&old).filter(|place| place.0 != environment) {
            *self.heirs.entry(place.clone()).or_default() += 1;
        }
    }

    fn shortages_of(&self, routing: &Routing, environment: &EnvironmentName) -> BTreeSet<ServicePlace> {
        let mut found = BTreeSet::new();
        let mut nearer: Vec<&EnvironmentName> = Vec::new();
        for origin in routing.chain(environment) {
            for service in self.services_of(origin) {
                let is_own = |name: &&EnvironmentName| {
                    routing.choice(name, service).is_some()
                        || self.waiting.contains(&((*name).clone(), service.clone()))
                };
                if !nearer.iter().any(is_own) {
                    found.insert((origin.clone(), service.clone()));
                }
            }
            nearer.push(origin);
        }
        found
    }

    /// The services that an environment chooses and that have too few instances.
    fn services_of(&self, environment: &EnvironmentName) -> impl Iterator<Item = &ServiceName> {
        // No service's name sorts before this one.
        let first: Option<ServiceName> = "0".parse().ok();
        let places = first.map(|first| self.shortages.range((environment.clone(), first)..));
        let environment = environment.clone();
        places
            .into_iter()
            .flatten()
            .take_while(move |place| place.0 == environment)
            .map(|(_, service)| service)
    }
}

impl Index {
    /// The index, with so many instances demanded of each service where one was.
    #[must_use]
    pub fn with_least_instances(mut self, least: usize) -> Self {
        self.missing.least = least;
        self
    }

    /// Finds out what is missing after the changes since the last call. It stands beside
    /// [`Index::resolve`], since it can wait: a service that ten thousand environments inherit
    /// should not delay a router that has to do without it.
    pub fn settle(&mut self) {
        let touched = std::mem::take(&mut self.unsettled);
        let severed = std::mem::take(&mut self.unsettled_severed);
        let changed = std::mem::take(&mut self.unsettled_waits);
        let changed = changed.into_iter().flat_map(|(environment, services)| {
            let services = services.into_iter();
            services.map(move |service| (environment.clone(), service))
        });
        let waiting = changed.map(|place| {
            let waits = self.waits.get(&place.0);
            let waits = waits.is_some_and(|waits| waits.contains_key(&place.1));
            (place, waits)
        });
        let waiting = waiting.collect();
        self.missing.refresh(&self.routing, &touched, severed, waiting);
    }

    /// Says which external services do not answer at present; whoever has no checks of its own goes
    /// by what routers say.
    pub fn set_unanswered(&mut self, backends: &BTreeSet<BackendId>) {
        let before = std::mem::replace(&mut self.missing.unanswered, backends.clone());
        let changed = before.symmetric_difference(backends).cloned();
        self.unsettled.backends.extend(changed);
    }

    /// What is missing, with the first `most` services, as of the last [`Index::settle`].
    pub fn shortage(&self, most: usize) -> Shortage {
        let missing = &self.missing;
        let first = missing.shortages.iter().take(most);
        Shortage {
            environments: missing.incomplete.len(),
            services: missing.shortages.len(),
            first: first.filter_map(|place| self.missing_service(place)).collect(),
        }
    }

    /// What is missing in one environment, own services first in the order of their names, then
    /// inherited ones; as of the last [`Index::settle`].
    #[cfg(test)]
    pub(super) fn missing_in(&self, environment: &EnvironmentName) -> Vec<MissingService> {
        let places = self.missing.incomplete.get(environment).into_iter().flatten();
        let mut all: Vec<MissingService> = places.filter_map(|place| self.missing_service(place)).collect();
        all.sort_by_key(|missing| missing.environment != *environment);
        all
    }

    fn missing_service(&self, place: &ServicePlace) -> Option<MissingService> {
        let (environment, service) = place;
        let choice = self.routing.choice(environment, service);
        let lack = choice.and_then(|choice| self.lack(choice));
        let (live, reason) = match self.waiting(environment, service) {
            Some(reason) => (0, reason),
            None => lack?,
        };
        Some(MissingService {
            environment: environment.clone(),
            service: service.clone(),
            version: choice.map_or("inherited", Choice::version).to_owned(),
            live,
            reason,
            inherited_by: self.missing.heirs.get(place).copied().unwrap_or_default(),
        })
    }

    /// How many instances a choice has, and what it lacks in words; `None` when it lacks nothing.
    pub(crate) fn lack(&self, choice: &Choice) -> Option<(usize, String)> {
        let service = choice.service();
        let backend = match choice {
            Choice::Backend(backend) => backend,
            Choice::Missing(_, range) => {
                let live = self.of_no_use(service, &Selector::Range(Box::new(range.clone())));
                return Some((0, format!("no live version of {service} fits {range}{live}")));
            }
        };
        if !self.missing.is_short(&self.routing, backend) {
            return None;
        }
        let InstanceCount { live, draining } = count(&self.routing, backend);
        let mut reason = match live {
            0 if backend.version.as_str() == "latest" && draining == 0 => {
                format!("no version of {service} has a live instance")
            }
            _ if self.missing.unanswered.contains(backend) => {
                format!(
                    "{service} does not answer: HAProxy's checks find {} dead",
                    backend.version
                )
            }
            0 if backend.version.is_outside() => format!("{service} cannot be reached"),
            0 => format!("no instance of {backend} is live"),
            live => format!(
                "{backend} has {live} of at least {} live instances",
                self.missing.least
            ),
        };
        if draining > 0 {
            reason += &format!(" ({draining} draining)");
        }
        let nameless = self.nameless(backend);
        if !nameless.is_empty() {
            let names: Vec<&str> = nameless.iter().map(|name| name.as_str()).collect();
            reason += &format!(": there is no known address of {}", names.join(", "));
        }
        for refusal in self.why_refused(backend) {
            reason += &format!(": {refusal}");
        }
        let superseded = self.superseded_of(backend);
        if !superseded.is_empty() {
            reason += &format!(": {}", superseded.join(", "));
        }
        Some((live, reason))
    }
}

/// Instances of a backend.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct InstanceCount {
    /// Those that take requests.
    pub live: usize,
    /// Those that finish what they have.
    pub draining: usize,
}

/// Counts the servers of a backend. One of weight 0 gets no request.
pub(super) fn count(routing: &Routing, backend: &BackendId) -> InstanceCount {
    let mut count = InstanceCount::default();
    let servers = routing.servers(backend).into_iter().flat_map(BTreeMap::values);
    let unresolved = routing.unresolved(backend).into_iter().flat_map(BTreeMap::values);
    for server in servers.chain(unresolved) {
        match server.state {
            InstanceState::Up if u16::from(server.weight) > 0 => count.live += 1,
            InstanceState::Up => {}
            InstanceState::Draining => count.draining += 1,
        }
    }
    count
}
