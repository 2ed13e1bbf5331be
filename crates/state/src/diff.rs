//! What differs between two environments for who sends requests: the version of each service, and
//! the public paths that lead to it. It asks the routing tables, as routers do, and says beside it
//! which environment chose the version. Two environments without a difference route alike, wherever
//! their versions come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use anyhow::bail;
use mayfly_core::index::Index;
use mayfly_core::names::{EnvironmentName, RoutePath, ServiceName};
use mayfly_core::routing::Choice;
use mayfly_daemon::output::TextTable;
use serde::Serialize;

use crate::state::State;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    pub a: EnvironmentName,
    pub b: EnvironmentName,
    pub differing: usize,
    /// How many services there are in the two together.
    pub of: usize,
    pub services: Vec<ServiceDifference>,
    /// What is wrong with one of the two, so that it may not be routed as its file says.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceDifference {
    pub service: ServiceName,
    /// Whether it has another version.
    pub version_differs: bool,
    /// Whether other paths lead to it.
    pub routes_differ: bool,
    /// The service in the first environment; nothing where that has no such service.
    pub a: Option<ServiceSide>,
    /// The same in the second.
    pub b: Option<ServiceSide>,
}

/// A service in one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServiceSide {
    /// The version that requests get; nothing where no live version fits.
    pub version: Option<String>,
    /// The range that nothing fits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nothing_fits: Option<String>,
    /// The environment that chooses it, if that is another.
    pub inherited_from: Option<EnvironmentName>,
    /// The version that takes over as soon as it is live.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub awaited: Option<String>,
    /// The public paths that lead to it.
    pub routes: Vec<RoutePath>,
}

impl ServiceSide {
    fn of(choice: Option<&Choice>) -> Self {
        let backend = choice.and_then(Choice::backend);
        let missing = choice.filter(|choice| choice.backend().is_none());
        Self {
            version: backend.map(|backend| backend.version.to_string()),
            nothing_fits: missing.map(|choice| choice.version().to_owned()),
            inherited_from: None,
            awaited: None,
            routes: Vec::new(),
        }
    }

    /// What decides where a request goes, of the version.
    fn choice(&self) -> (&Option<String>, &Option<String>) {
        (&self.version, &self.nothing_fits)
    }

    fn in_words(&self) -> String {
        let version = match (&self.version, &self.nothing_fits) {
            (Some(version), _) => version.clone(),
            (None, Some(range)) => format!("{range}, which no version fits"),
            (None, None) => "no version".to_owned(),
        };
        let origin = match &self.inherited_from {
            Some(origin) => format!("inherited from {origin}"),
            None => "own".to_owned(),
        };
        let awaited = self.awaited.as_ref();
        let awaited = awaited.map(|version| format!("; {version} takes over once it is live"));
        format!("{version} ({origin}{})", awaited.unwrap_or_default())
    }
}

/// Compares two environments.
///
/// # Errors
/// When one of them is not registered.
pub fn diff(state: &State, a: &EnvironmentName, b: &EnvironmentName) -> anyhow::Result<Difference> {
    for name in [a, b] {
        if state.index.environment(name).is_none() {
            bail!("{}", state.unknown(name));
        }
    }
    Ok(difference(&state.index, a, b))
}

fn difference(index: &Index, a: &EnvironmentName, b: &EnvironmentName) -> Difference {
    let (mut ours, mut theirs) = (services(index, a), services(index, b));
    let all: BTreeSet<ServiceName> = ours.keys().chain(theirs.keys()).cloned().collect();
    let of = all.len();
    let compare = |service| compared(&mut ours, &mut theirs, service);
    let services: Vec<ServiceDifference> = all.into_iter().filter_map(compare).collect();
    let notes = [a, b].into_iter().flat_map(|name| {
        let reasons = index.set_aside_of(name);
        reasons.into_iter().map(move |reason| format!("{name}: {reason}"))
    });
    Difference {
        a: a.clone(),
        b: b.clone(),
        differing: services.len(),
        of,
        services,
        notes: notes.collect(),
    }
}

type Services = BTreeMap<ServiceName, ServiceSide>;

fn compared(ours: &mut Services, theirs: &mut Services, service: ServiceName) -> Option<ServiceDifference> {
    let (a, b) = (ours.remove(&service), theirs.remove(&service));
    let version_differs = a.as_ref().map(ServiceSide::choice) != b.as_ref().map(ServiceSide::choice);
    fn routes(side: &Option<ServiceSide>) -> &[RoutePath] {
        side.as_ref().map_or(&[], |side| &side.routes)
    }
    let routes_differ = routes(&a) != routes(&b);
    (version_differs || routes_differ).then_some(ServiceDifference {
        service,
        version_differs,
        routes_differ,
        a,
        b,
    })
}

/// What the requests of an environment get, by service.
fn services(index: &Index, name: &EnvironmentName) -> Services {
    let routing = index.routing();
    let mut services = Services::new();
    let mut routes: BTreeMap<&RoutePath, &ServiceName> = BTreeMap::new();
    for origin in routing.chain(name) {
        let Some(rows) = routing.environment(origin) else {
            continue;
        };
        for choice in &rows.choices {
            let of_origin = || ServiceSide {
                inherited_from: (origin != name).then(|| origin.clone()),
                ..ServiceSide::of(Some(choice))
            };
            services.entry(choice.service().clone()).or_insert_with(of_origin);
        }
        for (path, service) in &rows.routes {
            routes.entry(path).or_insert(service);
        }
    }
    for (path, service) in routes {
        let side = services.entry(service.clone());
        // A path can lead to a service of which nothing is live yet.
        let side = side.or_insert_with(|| ServiceSide::of(None));
        side.routes.push(path.clone());
    }
    for view in index.view(name).into_iter().flat_map(|view| view.services) {
        if let Some(side) = services.get_mut(&view.service) {
            side.awaited = view.awaited;
        }
    }
    services
}

impl Difference {
    /// The difference for people.
    pub fn text(&self) -> String {
        let mut table = TextTable::new(["SERVICE", "WHAT", self.a.as_str(), self.b.as_str()]);
        for service in &self.services {
            let sides = [&service.a, &service.b];
            if service.version_differs {
                let cells = sides.map(|side| side.as_ref().map_or("none".to_owned(), ServiceSide::in_words));
                table.row(
                    [service.service.to_string(), "version".to_owned()]
                        .into_iter()
                        .chain(cells),
                );
            }
            if service.routes_differ {
                let cells = sides.map(routes_in_words);
                table.row(
                    [service.service.to_string(), "routes".to_owned()]
                        .into_iter()
                        .chain(cells),
                );
            }
        }
        let mut text = match self.services.is_empty() {
            true => String::new(),
            false => table.render() + "\n",
        };
        let (Self { a, b, of, .. }, verb) = (self, if self.differing == 1 { "differs" } else { "differ" });
        let _ = match self.differing {
            0 => writeln!(text, "{a} and {b} route alike: none of {of} services differs"),
            count => writeln!(text, "{count} of {of} services {verb} between {a} and {b}"),
        };
        text
    }
}

fn routes_in_words(side: &Option<ServiceSide>) -> String {
    let routes = side.as_ref().map_or(&[][..], |side| &side.routes);
    match routes {
        [] => "none".to_owned(),
        routes => routes
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
    }
}

#[cfg(test)]
mod tests;
