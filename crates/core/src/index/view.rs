//! What one environment resolves to, for people: every service, own or inherited, the version that
//! is chosen, its instances, and what is missing.

use std::collections::BTreeMap;

use serde::Serialize;

use super::missing::count;
use super::{AccessView, Index};
use crate::keys::Key;
use crate::names::{EnvironmentName, RoutePath, ServiceName};
use crate::records::Environment;
use crate::routing::Choice;
use crate::version::Selector;

/// What an environment resolves to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EnvironmentView {
    /// Its name.
    pub name: EnvironmentName,
    /// Whether it is routed at all; one that lost its prefix or header to another is not.
    pub routed: bool,
    /// Whether it is routed, what it extends is there, and every service has enough instances.
    pub complete: bool,
    /// The environments that it takes services and routes from, the nearest first.
    pub parents: Vec<EnvironmentName>,
    /// Which of these extends what is not there, and why what is above it is missing here, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken_parent: Option<String>,
    /// Who may use it from outside, where not everybody may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access: Option<AccessView>,
    /// Its services in the order of their names.
    pub services: Vec<ServiceView>,
    /// What of it is left out, and why.
    pub set_aside: Vec<String>,
}

impl EnvironmentView {
    /// Why it is not complete, in words: what is missing, from whom it is inherited, and what is
    /// set aside.
    pub fn reasons(&self) -> Vec<String> {
        let missing = self.services.iter().filter_map(|service| {
            let reason = service.missing.as_ref()?;
            Some(match &service.inherited_from {
                None => reason.clone(),
                Some(origin) => format!("{reason} (inherited from {origin})"),
            })
        });
        let mut reasons: Vec<String> = missing.collect();
        // That nothing fits is among the reasons already.
        let is_new = |aside: &&String| !reasons.iter().any(|reason| reason.starts_with(aside.as_str()));
        let aside: Vec<String> = self.set_aside.iter().filter(is_new).cloned().collect();
        reasons.extend(aside);
        reasons.extend(self.broken_parent.clone());
        reasons
    }
}

/// A service of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceView {
    /// The service.
    pub service: ServiceName,
    /// What the environment asks for: a version, `latest`, a range, or the URL of an external
    /// service.
    pub selector: String,
    /// The version that is chosen; none when nothing fits.
    pub version: Option<String>,
    /// The environment that chooses it, if that is another.
    pub inherited_from: Option<EnvironmentName>,
    /// The public paths that lead to it in this environment.
    pub routes: Vec<String>,
    /// Whether it runs outside Mayfly.
    pub outside: bool,
    /// How many instances take requests.
    pub live: usize,
    /// How many finish the requests that they have.
    pub draining: usize,
    /// What is missing; nothing when there are enough instances, or it runs outside.
    pub missing: Option<String>,
    /// The version that it changes to as soon as that is live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub awaited: Option<String>,
    /// Live versions that the selector does not look at, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passed_over: Vec<String>,
}

impl Index {
    /// An environment as it was registered, its last good record, but without its services:
    /// [`Index::view`] has those.
    pub fn environment(&self, name: &EnvironmentName) -> Option<&Environment> {
        self.environments.get(name).map(|registered| &registered.record)
    }

    /// All environments in the order of their names, likewise without services.
    pub fn environments(&self) -> impl Iterator<Item = &Environment> {
        self.environments.values().map(|registered| &registered.record)
    }

    /// By what an environment chooses the version of a service.
    pub(crate) fn selector(&self, environment: &EnvironmentName, service: &ServiceName) -> Option<&Selector> {
        self.environments.get(environment)?.services.selector(service)
    }

    /// What of an environment is left out, and why.
    pub fn set_aside_of(&self, name: &EnvironmentName) -> Vec<String> {
        let key = self.space.text(&Key::Environment(name.clone()));
        let unreadable = self.unreadable.reason(&key).map(str::to_owned).into_iter();
        let faults = self.faults.get(name).into_iter().flatten().cloned();
        let entries = unreadable.chain(faults);
        entries.chain(self.addresses.beyond_of(name)).collect()
    }

    /// What an environment resolves to, as of the last [`Index::resolve`]; `None` when there is
    /// none of that name.
    pub fn view(&self, name: &EnvironmentName) -> Option<EnvironmentView> {
        let (name, registered) = self.environments.get_key_value(name)?;
        let chain: Vec<&EnvironmentName> = self.routing.chain(name).collect();
        let mut services: BTreeMap<ServiceName, ServiceView> = BTreeMap::new();
        for origin in &chain {
            let rows = self.routing.environment(origin);
            let choices = rows.into_iter().flat_map(|rows| &rows.choices);
            let chosen = choices.map(|choice| (choice.service(), Some(&**choice)));
            // What is inherited until its own choice is live has no choice of its own.
            let waiting = self.waits_of(origin).map(|service| (service, None));
            for (service, choice) in chosen.chain(waiting) {
                services
                    .entry(service.clone())
                    .or_insert_with(|| self.service_view(service, origin, *origin != name, choice));
            }
        }
        for (path, service) in self.routes_of(&chain) {
            if let Some(view) = services.get_mut(service) {
                view.routes.push(path.to_string());
            }
        }
        let broken_parent = self.broken_parent(name);
        let is_accepted = self.claims.is_accepted(name);
        Some(EnvironmentView {
            name: name.clone(),
            routed: is_accepted,
            complete: is_accepted
                && broken_parent.is_none()
                && (registered.record.extends.is_none() || chain.len() > 1)
                && services.values().all(|service| service.missing.is_none()),
            broken_parent,
            access: self.access(name),
            parents: chain.into_iter().skip(1).cloned().collect(),
            services: services.into_values().collect(),
            set_aside: self.set_aside_of(name),
        })
    }

    /// Which of the environments that one extends cannot be extended itself, and why.
    pub(crate) fn broken_parent(&self, name: &EnvironmentName) -> Option<String> {
        let last = self.routing.chain(name).skip(1).last()?;
        let registered = self.environments.get(last)?;
        let fault = self.valid_parent(&registered.record).err()?;
        Some(format!("{last}, from which it inherits: {fault}"))
    }

    fn service_view(
        &self,
        service: &ServiceName,
        origin: &EnvironmentName,
        inherited: bool,
        choice: Option<&Choice>,
    ) -> ServiceView {
        let selector = self.selector(origin, service);
        let backend = choice.and_then(Choice::backend);
        let count = backend
            .map(|backend| count(&self.routing, backend))
            .unwrap_or_default();
        let waiting = self.waiting(origin, service);
        let missing = waiting.or_else(|| Some(self.lack(choice?)?.1));
        // Where nothing fits `latest`, the version of that name is chosen.
        let fits = selector.is_none_or(|selector| !selector.moves()) || count.live + count.draining > 0;
        let outside = backend.is_some_and(|backend| backend.version.is_outside());
        let version = backend.filter(|_| fits).map(|backend| &backend.version);
        ServiceView {
            service: service.clone(),
            awaited: self.awaited_version(origin, service).map(ToString::to_string),
            passed_over: match (selector, version) {
                // What was chosen for want of anything better is no worse than they are.
                (Some(selector), Some(version)) if selector.passes_over(version).is_some() => Vec::new(),
                (Some(selector), _) => self.passed_over(service, selector),
                (None, _) => Vec::new(),
            },
            selector: selector.map_or_else(String::new, ToString::to_string),
            outside,
            version: version.map(ToString::to_string),
            inherited_from: inherited.then(|| origin.clone()),
            routes: Vec::new(),
            live: count.live,
            draining: count.draining,
            missing,
        }
    }

    /// Live versions that a selector does not look at, although people may expect it to, and why.
    fn passed_over(&self, service: &ServiceName, selector: &Selector) -> Vec<String> {
        let live = self.live_versions(service);
        live.filter_map(|(version, _)| Some(format!("{version}: {}", selector.passes_over(version)?)))
            .collect()
    }

    /// The live versions of which none fits a selector, in words; nothing where there is none.
    pub(super) fn of_no_use(&self, service: &ServiceName, selector: &Selector) -> String {
        const MOST: usize = 5;
        let mut all: Vec<String> = self
            .live_versions(service)
            .map(|(version, _)| match selector.passes_over(version) {
                Some(why) => format!("{version} ({why})"),
                None => version.to_string(),
            })
            .collect();
        if all.is_empty() {
            return String::new();
        }
        let more = all.len().saturating_sub(MOST);
        all.truncate(MOST);
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        format!(": live are {}{more}", all.join(", "))
    }

    /// Every public path of an environment, and the service that it leads to.
    fn routes_of(&self, chain: &[&EnvironmentName]) -> BTreeMap<&RoutePath, &ServiceName> {
        let mut routes = BTreeMap::new();
        for rows in chain.iter().filter_map(|origin| self.routing.environment(origin)) {
            for (path, service) in &rows.routes {
                routes.entry(path).or_insert(service);
            }
        }
        routes
    }
}
