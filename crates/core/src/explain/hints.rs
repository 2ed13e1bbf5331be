//! Why a look-up found nothing: what is near, what is set aside, what there is instead.

use crate::index::Index;
use crate::names::{EnvironmentName, ServiceName};
use crate::nearest::nearest;
use crate::records::Environment;
use crate::routing::Table;

/// Names that a hint tells at most.
const MOST: usize = 8;

impl Index {
    /// Why no environment answers for a label.
    pub(super) fn why_no_prefix(&self, label: &str) -> Option<String> {
        let claims = |environment: &&Environment| environment.prefix.as_str() == label;
        if let Some(claimant) = self.environments().find(claims) {
            return self.why_not_routed(&claimant.name);
        }
        let named = label.parse().ok().and_then(|name| self.environment(&name));
        if let Some(environment) = named {
            return Some(format!(
                "environment {} has the prefix {}",
                environment.name, environment.prefix
            ));
        }
        self.meant(label, Table::Edge)
    }

    /// Why no environment has a header value.
    pub(super) fn why_no_header(&self, value: &str) -> Option<String> {
        let claims = |environment: &&Environment| environment.header.as_str() == value;
        if let Some(claimant) = self.environments().find(claims) {
            return self.why_not_routed(&claimant.name);
        }
        let named = value.parse().ok().and_then(|name| self.environment(&name));
        if let Some(environment) = named {
            return Some(format!(
                "environment {} has the header {}",
                environment.name, environment.header
            ));
        }
        self.meant(value, Table::Headers)
    }

    /// Why an environment is not routed.
    pub(super) fn why_not_routed(&self, name: &EnvironmentName) -> Option<String> {
        let reasons = self.set_aside_of(name);
        let Some(environment) = self.environment(name) else {
            let names: Vec<&str> = self.environments().map(|other| other.name.as_str()).collect();
            let meant = nearest(name.as_str(), &names);
            return Some(match (reasons.is_empty(), meant) {
                (false, _) => format!("{name} cannot be read: {}", reasons.join("; ")),
                (true, Some(meant)) => format!("no environment {name}; did you mean {meant}?"),
                (true, None) => format!("no environment {name}"),
            });
        };
        Some(format!(
            "environment {} is set aside: {}",
            environment.name,
            reasons.join("; ")
        ))
    }

    fn meant(&self, text: &str, table: Table) -> Option<String> {
        let rows: Vec<_> = self.routing().table(table).collect();
        let keys: Vec<&str> = rows.iter().map(|(key, _)| key.as_str()).collect();
        nearest(text, &keys).map(|key| format!("did you mean {key}?"))
    }

    /// The routes of an environment and of those that it extends.
    pub(super) fn routes_there_are(&self, chain: &[&str]) -> String {
        let mut routes: Vec<String> = Vec::new();
        for name in chain {
            let rows = self.routing().beginning(Table::Routes, &format!("{name}/"));
            let paths = rows.map(|(key, _)| key.as_str()[name.len()..].to_owned());
            routes.extend(paths.map(|path| match path.trim_end_matches('/') {
                "" => "/".to_owned(),
                path => path.to_owned(),
            }));
        }
        routes.sort();
        routes.dedup();
        match routes.is_empty() {
            true => "it has no route at all: a service gets one by `route: /` in the environment's file"
                .to_owned(),
            false => format!("its routes are {}", few(&routes)),
        }
    }

    /// The services of an environment and of those that it extends.
    pub(super) fn services_there_are(&self, chain: &[&str], wanted: &str) -> Option<String> {
        let mut services: Vec<String> = Vec::new();
        for name in chain {
            let rows = self.routing().beginning(Table::Versions, &format!("{name}/"));
            services.extend(rows.map(|(key, _)| key.as_str()[name.len() + 1..].to_owned()));
        }
        services.sort();
        services.dedup();
        let names: Vec<&str> = services.iter().map(String::as_str).collect();
        Some(match nearest(wanted, &names) {
            Some(meant) => format!("did you mean {meant}?"),
            None if services.is_empty() => "it has no services".to_owned(),
            None => format!("its services are {}", few(&services)),
        })
    }

    /// How a version came to be chosen, where the environment's record says something else than the version.
    pub(super) fn chosen_by(&self, environment: &str, service: &str, backend: &str) -> Option<String> {
        let selector = self.selector(&environment.parse().ok()?, &service.parse().ok()?)?;
        let selector = selector.to_string();
        let differs = backend
            .split_once('@')
            .is_some_and(|(_, version)| version != selector);
        differs.then(|| format!("chosen by {selector}"))
    }

    /// What a value of `versions` lacks, in words.
    pub(super) fn lack_of(&self, service: &ServiceName, value: &str) -> Option<String> {
        self.lack(service, value).map(|(_, reason)| reason)
    }
}

fn few(names: &[String]) -> String {
    let shown = names[..names.len().min(MOST)].join(", ");
    match names.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
