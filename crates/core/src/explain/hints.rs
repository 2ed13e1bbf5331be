//! Why a look-up found nothing: similar names, records that are set aside, and what exists instead.

use crate::index::Index;
use crate::names::EnvironmentName;
use crate::nearest::nearest;
use crate::records::Environment;
use crate::routing::{Choice, Row, Table};
use crate::shorten::first_of;

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
        let keys = self.routing().rows(table).filter_map(|row| match row {
            Row::Edge(prefix, _) => Some(prefix.as_str()),
            Row::Header(header, _) => Some(header.as_str()),
            _ => None,
        });
        nearest(text, &keys.collect::<Vec<_>>()).map(|key| format!("did you mean {key}?"))
    }

    /// The routes of an environment and of those that it extends.
    pub(super) fn routes_there_are(&self, chain: &[&EnvironmentName]) -> String {
        let rows = chain.iter().filter_map(|name| self.routing().environment(name));
        let mut routes: Vec<&str> = rows
            .flat_map(|rows| rows.routes.iter().map(|(path, _)| path.as_str()))
            .collect();
        routes.sort();
        routes.dedup();
        match routes.is_empty() {
            true => "it has no routes: to add one, write `route: /` for a service in the \
                environment's file"
                .to_owned(),
            false => format!("its routes are {}", first_of(&routes, MOST)),
        }
    }

    /// The services of an environment and of those that it extends.
    pub(super) fn services_there_are(&self, chain: &[&EnvironmentName], wanted: &str) -> Option<String> {
        let rows = chain.iter().filter_map(|name| self.routing().environment(name));
        let mut services: Vec<&str> = rows
            .flat_map(|rows| rows.choices.iter().map(|choice| choice.service().as_str()))
            .collect();
        services.sort();
        services.dedup();
        Some(match nearest(wanted, &services) {
            Some(meant) => format!("did you mean {meant}?"),
            None if services.is_empty() => "it has no services".to_owned(),
            None => format!("its services are {}", first_of(&services, MOST)),
        })
    }

    /// How a version came to be chosen, where the environment's record says something else than the
    /// version.
    pub(super) fn chosen_by(&self, environment: &EnvironmentName, choice: &Choice) -> Option<String> {
        let selector = self.selector(environment, choice.service())?.text();
        (choice.version() != selector).then(|| format!("chosen by {selector}"))
    }
}
