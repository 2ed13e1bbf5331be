//! Notes on services that are probably misspelt.

use std::collections::{BTreeMap, BTreeSet};

use super::Note;
use crate::definition_file::ParsedDefinitions;
use crate::environment_file::ParsedEnvironments;
use crate::names::EnvironmentName;
use crate::nearest::misspelt;
use crate::records::{EXTENDS_LIMIT, Environment};

/// Notes on services of environments that no definition has and no environment above names, where
/// the name of one that is known there is so similar that it may be meant. An unknown one alone is
/// no reason: somebody may start it by hand. Nor is it where a file above is missing, which may
/// name it.
pub(super) fn unknown_services(
    all: &[&(String, ParsedEnvironments)],
    beside: usize,
    definitions: &[&(String, ParsedDefinitions)],
) -> Vec<Note> {
    // Whoever checks only environments does not know what definitions start.
    let nor = match definitions.is_empty() {
        true => "",
        false => " and no definition starts",
    };
    let entries = || all.iter().flat_map(|(_, parsed)| &parsed.entries);
    let by_name: BTreeMap<&EnvironmentName, &Environment> = entries()
        .map(|found| (&found.environment.name, &found.environment))
        .collect();
    let defined = definitions.iter().flat_map(|(_, parsed)| &parsed.entries);
    let defined: BTreeSet<&str> = defined.map(|found| found.definition.name.as_str()).collect();
    let mut notes = Vec::new();
    for (file, parsed) in all.iter().skip(beside) {
        for environment in parsed.entries.iter().map(|found| &found.environment) {
            let Some(above) = above(environment, &by_name) else {
                continue;
            };
            let own: BTreeSet<&str> = named(environment).collect();
            let mut known = defined.clone();
            known.extend(above.into_iter().flat_map(named));
            let external = |service: &&str| {
                let mut services = environment.services.iter();
                services.any(|choice| choice.name.as_str() == *service && choice.version.upstream().is_some())
            };
            for service in own.iter().copied().filter(|service| !external(service)) {
                if let Some(meant) = misspelt(service, &known, &own) {
                    notes.push(Note {
                        file: file.clone(),
                        message: format!(
                            "{} has a service `{service}`, which no environment above it names{nor}: did \
                             you mean `{meant}`?",
                            environment.name
                        ),
                    });
                }
            }
        }
    }
    notes
}

fn named(environment: &Environment) -> impl Iterator<Item = &str> {
    environment.services.iter().map(|choice| choice.name.as_str())
}

/// The environments that one extends, the nearest first; `None` where one of them is missing.
fn above<'a>(
    environment: &'a Environment,
    by_name: &BTreeMap<&EnvironmentName, &'a Environment>,
) -> Option<Vec<&'a Environment>> {
    let mut above = Vec::new();
    let mut lowest = environment;
    while let Some(parent) = lowest.extends.as_ref().filter(|_| above.len() < EXTENDS_LIMIT) {
        lowest = by_name.get(parent)?;
        above.push(lowest);
    }
    Some(above)
}

#[cfg(test)]
mod tests {
    use crate::lint::check;
    use crate::outside::AddressRule;
    use crate::{definition_file, environment_file};

    /// The messages of the notes on these environments, beside a definition of `cart` and one of
    /// `mailer`.
    fn notes(environments: &str) -> Vec<String> {
        let definitions = "- {name: cart, image: 'a:{{ version }}', port: 80}\n- {name: mailer, image: 'b:{{ version }}', port: 80}";
        let definitions = definition_file::parse(definitions.as_bytes());
        assert!(definitions.faults.is_empty(), "{:?}", definitions.faults);
        let parsed = environment_file::parse(environments.as_bytes());
        assert!(parsed.faults.is_empty(), "{:?}", parsed.faults);
        let checked = check(
            &[("a.yaml".to_owned(), parsed)],
            &[("services/s.yaml".to_owned(), definitions)],
            &AddressRule::default(),
        );
        checked.notes.into_iter().map(|note| note.message).collect()
    }

    #[test]
    fn a_service_that_is_probably_misspelt_is_noted() {
        let prod = "- {name: prod, services: [{name: orders, version: 1}, {name: db1, version: 1}]}\n";
        let with = |services: &str| {
            notes(&format!(
                "{prod}- {{name: qa, extends: prod}}\n- {{name: temp, extends: qa, services: [{services}]}}"
            ))
        };
        assert_eq!(
            with("{name: order, version: 2}"),
            [
                "temp has a service `order`, which no environment above it names and no definition \
                 starts: did you mean `orders`?"
            ]
        );
        assert!(with("{name: mialer, version: 2}")[0].ends_with("did you mean `mailer`?"));
        for good in [
            "{name: orders, version: 2}, {name: cart, version: 3}",
            // Nobody means the one that is named as well.
            "{name: orders, version: 2}, {name: order, version: 3}",
            "{name: orders-worker, version: 3}, {name: db2, version: 3}, {name: payment, version: 1}",
            "{name: order, address: 'https://orders.example'}",
        ] {
            assert_eq!(with(good), [""; 0], "{good}");
        }
        // Without definitions, nothing is said of them.
        let text = format!("{prod}- {{name: temp, extends: prod, services: [{{name: order, version: 2}}]}}");
        let parsed = environment_file::parse(text.as_bytes());
        let checked = check(&[("a.yaml".to_owned(), parsed)], &[], &AddressRule::default());
        assert!(
            checked.notes[0]
                .message
                .contains("above it names: did you mean `orders`?")
        );
        // What is above may name it.
        let elsewhere = notes("{name: temp, extends: elsewhere, services: [{name: crat, version: 1}]}");
        assert_eq!(elsewhere, [""; 0]);
        let circle = "- {name: a, extends: b, services: [{name: crat, version: 1}]}\n- {name: b}";
        assert_eq!(notes(circle).len(), 1);
    }
}
