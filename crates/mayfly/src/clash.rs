//! Conflicts of an environment with registered ones that have its prefix or header. Routers would
//! set the later one aside; `mayfly` refuses it instead, and names the owner.

use std::collections::BTreeMap;

use mayfly_core::claims::{Claim, Claims};
use mayfly_core::records::Environment;

use crate::registry::{LiveEnvironment, Registry, is_applied, origin};

/// What is wrong with registering these environments together, with all others that are registered:
/// a line for each.
pub fn clashes<'a>(registry: &'a Registry, wanted: &[&'a Environment]) -> Vec<String> {
    let mut all: BTreeMap<_, _> = registry.environments().map(|it| (&it.name, it)).collect();
    all.extend(wanted.iter().map(|it| (&it.name, *it)));
    let mut claims = Claims::default();
    for (name, environment) in &all {
        // The key of what is taken over is made again, as if it were new.
        let before = |live: &'a LiveEnvironment| {
            let there = live.record.as_ref().ok()?;
            let stays = is_applied(there) || there.asks_for_the_same(environment);
            stays.then_some((there, live.revision.created))
        };
        let before = registry.live.get(*name).and_then(before);
        let rank = before.map_or(i64::MAX, |(_, revision)| revision);
        let claimed = Claim::keys_of(environment).map(|claim| {
            let had = before.is_some_and(|(there, _)| claim.is_of(there));
            (claim, had)
        });
        claims.put(*name, rank, claimed);
    }
    claims.settle();
    let line = |environment: &&Environment| {
        let name = &environment.name;
        let lines = claims.rivals(&name).map(|(claim, other)| {
            let (field, text, origin) = (claim.field(), claim.as_str(), origin(all[*other]));
            format!(
                "{name}: {field} {text:?} belongs to {other}, which was registered {origin}: choose another {field}"
            )
        });
        lines.collect::<Vec<_>>()
    };
    wanted.iter().flat_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str, prefix: &str, header: &str) -> Environment {
        serde_json::from_value(serde_json::json!({"name": name, "prefix": prefix, "header": header})).unwrap()
    }

    fn add(registry: &mut Registry, revision: i64, record: Environment) {
        let live = LiveEnvironment {
            revision: revision.into(),
            lease: None,
            record: Ok(record.clone()),
        };
        registry.live.insert(record.name, live);
    }

    #[test]
    fn prefixes_and_headers_belong_to_one() {
        let mut registry = Registry::default();
        add(&mut registry, 1, environment("prod", "www", "prod"));
        add(&mut registry, 2, environment("dev", "www-dev", "dev"));
        let check = |wanted: &[Environment]| clashes(&registry, &wanted.iter().collect::<Vec<_>>());
        assert_eq!(check(&[environment("temp", "www-temp", "temp")]), [""; 0]);
        assert_eq!(check(&[environment("prod", "www", "p")]), [""; 0]);
        assert_eq!(
            check(&[environment("temp", "www", "dev")]),
            [
                "temp: prefix \"www\" belongs to prod, which was registered by hand: choose another prefix",
                "temp: header \"dev\" belongs to dev, which was registered by hand: choose another header",
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

    #[test]
    fn what_came_later_is_in_the_way_of_nothing_that_was_there_first() {
        let applied = |name: &str, prefix: &str, header: &str| Environment {
            source: Some(serde_json::from_str(r#"{"registrar": "mayfly_apply.pc", "file": "f"}"#).unwrap()),
            ..environment(name, prefix, header)
        };
        let mut registry = Registry::default();
        add(&mut registry, 3, applied("a", "p", "a"));
        add(&mut registry, 2, environment("early", "e", "early"));
        add(&mut registry, 4, environment("late", "p", "late"));
        let check = |wanted: &[Environment]| clashes(&registry, &wanted.iter().collect::<Vec<_>>());
        assert_eq!(check(&[applied("a", "p", "new")]), [""; 0]);
        // It has not had these before.
        for (wanted, what) in [
            (applied("a", "e", "a"), "prefix \"e\" belongs to early"),
            (applied("a", "p", "late"), "header \"late\" belongs to late"),
            (applied("b", "p", "b"), "prefix \"p\" belongs to a"),
        ] {
            let lines = check(&[wanted]);
            assert!(lines.len() == 1 && lines[0].contains(what), "{lines:?}");
        }
        // What is taken over comes as late as if it were new.
        assert_eq!(check(&[applied("early", "e", "h")]), [""; 0]);
        add(&mut registry, 5, environment("rival", "e", "rival"));
        let lines = clashes(&registry, &[&applied("early", "e", "h")]);
        assert!(
            lines[0].starts_with("early: prefix \"e\" belongs to rival"),
            "{lines:?}"
        );
    }
}
