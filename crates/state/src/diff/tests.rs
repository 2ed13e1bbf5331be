//! What differs is what routers find to differ, by their tables.

use super::*;
use mayfly_core::keys::KeySpace;
use mayfly_core::records::{Environment, Instance, Record};
use mayfly_core::routing::{Row, Table};
use proptest::prelude::*;
use serde_json::{Value, json};

fn name(text: &str) -> EnvironmentName {
    text.parse().unwrap()
}

/// An index of environments (name, base, services with version and routes) and live backends.
fn index(environments: &[Value], backends: &[(&str, &str)]) -> Index {
    let mut index = Index::new(KeySpace::default());
    let mut revision = 1;
    for (at, (service, version)) in backends.iter().enumerate() {
        let backend = format!("{service}@{version}").parse().unwrap();
        let address = format!("10.0.0.{}:80", at + 1);
        let instance: Instance = serde_json::from_value(json!({"address": address})).unwrap();
        index.put(
            Record::Instance(backend, address.parse().unwrap(), instance),
            revision,
        );
        revision += 1;
    }
    for fields in environments {
        let mut record = json!({"prefix": fields["name"], "header": fields["name"]});
        record
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        let environment: Environment = serde_json::from_value(record).unwrap();
        index.put(Record::Environment(environment), revision);
        revision += 1;
    }
    index.resolve();
    index
}

#[test]
fn what_differs_is_shown_with_its_origin() {
    let all = [
        json!({"name": "prod", "services": [
            {"name": "web", "version": "1", "routes": ["/"]},
            {"name": "api", "version": "1", "routes": ["/api"]},
            {"name": "jobs", "version": "1"}]}),
        json!({"name": "qa", "extends": "prod", "services": [
            {"name": "api", "version": "2", "routes": ["/api", "/v2"]},
            {"name": "jobs", "version": "1"}]}),
        json!({"name": "same", "extends": "qa"}),
        json!({"name": "range", "extends": "prod", "services": [{"name": "api", "version": "^9"}]}),
    ];
    let index = index(&all, &[("web", "1"), ("api", "1"), ("api", "2"), ("jobs", "1")]);
    let found = difference(&index, &name("qa"), &name("prod"));
    assert_eq!(
        found.text(),
        "SERVICE  WHAT     qa        prod\n\
         api      version  2 (own)   1 (own)\n\
         api      routes   /api /v2  /api\n\
         \n1 of 3 services differs between qa and prod\n"
    );
    // Own or inherited, the same is the same.
    let found = difference(&index, &name("same"), &name("qa"));
    assert_eq!(
        found.text(),
        "same and qa route alike: none of 3 services differs\n"
    );
    let found = difference(&index, &name("range"), &name("same"));
    assert_eq!(found.differing, 1, "{found:?}");
    let text = found.text();
    assert!(text.contains("^9, which no version fits (own)"), "{text}");
    assert!(text.contains("2 (inherited from qa)"), "{text}");
    assert!(
        found.notes.iter().any(|note| note.starts_with("range: ")),
        "{found:?}"
    );
}

/// The rows of a table by their key, as a router holds them.
fn rows(
    index: &Index,
) -> (
    BTreeMap<String, String>,
    BTreeMap<String, String>,
    BTreeMap<String, String>,
) {
    let mut tables = [BTreeMap::new(), BTreeMap::new(), BTreeMap::new()];
    for (table, map) in [Table::Versions, Table::Parents, Table::Routes]
        .into_iter()
        .zip(&mut tables)
    {
        for row in index.routing().rows(table) {
            let (key, value) = match row {
                Row::Version(name, choice) => (format!("{name}/{}", choice.service()), choice.to_string()),
                Row::Parent(name, parent) => (name.to_string(), parent.to_string()),
                Row::Route(name, path, service) => (format!("{name}{path}"), service.to_string()),
                _ => continue,
            };
            map.insert(key, value);
        }
    }
    tables.into()
}

/// What a router finds: in the environment itself, then in up to three that it extends.
fn looked_up(
    table: &BTreeMap<String, String>,
    parents: &BTreeMap<String, String>,
    environment: &str,
    rest: &str,
) -> Option<String> {
    let mut name = environment.to_owned();
    for _ in 0..4 {
        if let Some(found) = table.get(&format!("{name}{rest}")) {
            return Some(found.clone());
        }
        name = parents.get(&name)?.clone();
    }
    None
}

const SERVICES: [&str; 4] = ["a", "b", "c", "d"];
const PATHS: [&str; 4] = ["/", "/x", "/x/y", "/z"];
const NAMES: [&str; 7] = ["e0", "e1", "e2", "e3", "e4", "e5", "e6"];

fn environments() -> impl Strategy<Value = Vec<Value>> {
    let versions = prop_oneof![
        Just("1.0.0"),
        Just("2.0.0"),
        Just("latest"),
        Just("^1"),
        Just("^3"),
        Just("http://out.example"),
    ];
    let routes = prop::collection::btree_set(0..PATHS.len(), 0..3);
    let services = prop::collection::btree_map(0..SERVICES.len(), (versions, routes), 0..4);
    // One in three extends what is not there, or is in a circle.
    let one = (prop::option::weighted(0.8, 0..NAMES.len() + 1), services);
    prop::collection::vec(one, NAMES.len()).prop_map(|all| {
        let environment = |(at, (base, services)): (usize, (Option<usize>, BTreeMap<usize, _>))| {
            let services: Vec<Value> = services
                .into_iter()
                .map(|(service, (version, routes)): (usize, (&str, BTreeSet<usize>))| {
                    let routes: Vec<&str> = routes.into_iter().map(|at| PATHS[at]).collect();
                    json!({"name": SERVICES[service], "version": version, "routes": routes})
                })
                .collect();
            let base = base.map(|base| NAMES.get(base).copied().unwrap_or("missing"));
            json!({"name": NAMES[at], "extends": base, "services": services})
        };
        all.into_iter().enumerate().map(environment).collect()
    })
}

proptest! {
    #[test]
    fn it_agrees_with_the_routing_tables(
        all in environments(),
        live in prop::collection::btree_set((0..SERVICES.len(), prop::sample::select(vec!["1.0.0", "2.0.0", "1.1.0"])), 0..8),
        (a, b) in (0..NAMES.len(), 0..NAMES.len()),
    ) {
        let live: Vec<(&str, &str)> = live.into_iter().map(|(at, version)| (SERVICES[at], version)).collect();
        let index = index(&all, &live);
        let (versions, parents, routes) = rows(&index);
        let found = difference(&index, &name(NAMES[a]), &name(NAMES[b]));
        let version = |name: &str, service: &str| looked_up(&versions, &parents, name, &format!("/{service}"));
        let paths_to = |name: &str, service: &str| -> Vec<&str> {
            let leads = |path: &&str| looked_up(&routes, &parents, name, path).as_deref() == Some(service);
            PATHS.into_iter().filter(leads).collect()
        };
        for service in SERVICES {
            let told = found.services.iter().find(|told| told.service.as_str() == service);
            let versions = (version(NAMES[a], service), version(NAMES[b], service));
            let paths = (paths_to(NAMES[a], service), paths_to(NAMES[b], service));
            let expected = (versions.0 != versions.1, paths.0 != paths.1);
            let claimed = told.map_or((false, false), |told| (told.version_differs, told.routes_differ));
            prop_assert_eq!(claimed, expected, "{} {:?} {:?} {:?}", service, versions, paths, found);
            for (side, version) in told.into_iter().flat_map(|told| [(&told.a, &versions.0), (&told.b, &versions.1)]) {
                let of_side = side.as_ref().and_then(|side| side.version.clone().or(side.nothing_fits.clone()));
                prop_assert_eq!(of_side.map(|version| format!("{service}@{version}")), version.clone());
            }
        }
        prop_assert_eq!(found.differing, found.services.len());
    }
}
