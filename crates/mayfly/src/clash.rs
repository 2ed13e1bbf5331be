//! What an environment can't be registered beside: another with its prefix or header. Routers would set the later one
//! aside; it is refused here instead, with the name of who has it.

use std::collections::BTreeMap;

use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;

use crate::registry::{Registry, origin};

/// What is wrong with registering these environments together, with all others that are registered: a line for each.
pub fn clashes<'a>(registry: &'a Registry, wanted: &[&'a Environment]) -> Vec<String> {
    let mut all: BTreeMap<&EnvironmentName, &Environment> = registry
        .environments()
        .map(|environment| (&environment.name, environment))
        .collect();
    all.extend(wanted.iter().map(|environment| (&environment.name, *environment)));
    let (mut prefixes, mut headers) = (BTreeMap::new(), BTreeMap::new());
    for environment in all.values() {
        prefixes
            .entry(&environment.prefix)
            .or_insert_with(Vec::new)
            .push(*environment);
        headers
            .entry(&environment.header)
            .or_insert_with(Vec::new)
            .push(*environment);
    }
    let mut lines = Vec::new();
    for environment in wanted {
        let (prefix, header) = (&environment.prefix, &environment.header);
        let claims = [
            ("prefix", prefix.as_str(), &prefixes[prefix]),
            ("header", header.as_str(), &headers[header]),
        ];
        for (field, text, owners) in claims {
            for other in owners.iter().filter(|other| other.name != environment.name) {
                lines.push(format!(
                    "{}: {field} {text:?} belongs to {}, which was registered {}: choose another",
                    environment.name,
                    other.name,
                    origin(other)
                ));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Live;
    use mayfly_daemon::store::Entry;

    fn environment(name: &str, prefix: &str, header: &str) -> Environment {
        serde_json::from_value(serde_json::json!({"name": name, "prefix": prefix, "header": header})).unwrap()
    }

    #[test]
    fn prefixes_and_headers_belong_to_one() {
        let mut registry = Registry::default();
        for (name, prefix) in [("prod", "www"), ("dev", "www-dev")] {
            let record = environment(name, prefix, name);
            let entry = Entry {
                key: String::new(),
                value: Vec::new(),
                create_revision: 1,
                mod_revision: 1,
                lease: None,
            };
            let live = Live {
                entry,
                record: Ok(record.clone()),
            };
            registry.live.insert(record.name.clone(), live);
        }
        let check = |wanted: &[Environment]| clashes(&registry, &wanted.iter().collect::<Vec<_>>());
        assert_eq!(check(&[environment("temp", "www-temp", "temp")]), [""; 0]);
        assert_eq!(check(&[environment("prod", "www", "p")]), [""; 0]);
        assert_eq!(
            check(&[environment("temp", "www", "dev")]),
            [
                "temp: prefix \"www\" belongs to prod, which was registered by hand: choose another",
                "temp: header \"dev\" belongs to dev, which was registered by hand: choose another",
            ]
        );
        // What one gives up, another may take in the same step.
        assert_eq!(
            check(&[
                environment("prod", "old", "prod"),
                environment("temp", "www", "temp")
            ]),
            [""; 0]
        );
    }
}
