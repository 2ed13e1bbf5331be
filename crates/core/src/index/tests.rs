//! Tests of the index: what a set of records resolves to, and that every way to a set of records resolves the same.

use proptest::prelude::*;

use super::*;
use crate::names::Hostname;
use crate::routing::Table;
use crate::upstream::UpstreamHost;
use crate::version::BackendId;
use std::net::IpAddr;

mod missing;
mod outside;
mod taken;
mod waits;

use missing::check_missing;

/// One change as etcd tells it. The create revision of a put is its place in the history unless given.
#[derive(Debug, Clone)]
enum Change {
    Put(String, String),
    Delete(String),
    /// A host name leads elsewhere: in the world, whether or not anybody needs it.
    Resolve(Hostname, BTreeSet<IpAddr>),
    /// The router has another rule: so many addresses, `--allow-address`, and where it listens.
    Rule(usize, &'static str, &'static str),
}

/// `2`, `*.internal,10.0.0.0/8` and `10.0.0.3:80`
fn rule(most: usize, allowed: &str, own: &str) -> AddressRule {
    fn words(text: &str) -> impl Iterator<Item = &str> {
        text.split(',').filter(|word| !word.is_empty())
    }
    let own = words(own).map(|place| {
        let (network, port) = place.rsplit_once(':').unwrap();
        (network.parse().unwrap(), port.parse().unwrap())
    });
    let allowed = words(allowed).map(|entry| entry.parse().unwrap());
    AddressRule::new(allowed.collect(), own.collect(), most)
}

fn put(key: &str, value: &str) -> Change {
    Change::Put(format!("/mayfly/{key}"), value.to_owned())
}

fn delete(key: &str) -> Change {
    Change::Delete(format!("/mayfly/{key}"))
}

/// `billing 10.0.0.1 10.0.0.2`
fn resolve(text: &str) -> Change {
    let mut words = text.split(' ');
    let name = words.next().unwrap().parse().unwrap();
    Change::Resolve(name, words.map(|ip| ip.parse().unwrap()).collect())
}

/// What host names lead to, and who tells it to an index: every needed name, as soon as it is needed.
type World = BTreeMap<Hostname, BTreeSet<IpAddr>>;

fn tell(index: &mut Index, world: &World) -> Touched {
    let mut touched = index.resolve();
    let names: Vec<Hostname> = index.host_names().cloned().collect();
    for name in names {
        if let Some(addresses) = world.get(&name) {
            index.resolved(&name, addresses.clone());
        }
    }
    touched.extend(index.resolve());
    touched
}

/// `dev extends=qa prefix=www frontend=0.0.1:/:/shop backend=latest had-backend=1,-`
fn environment(text: &str) -> Change {
    let mut words = text.split(' ');
    let name = words.next().unwrap();
    let (mut extends, mut prefix, mut header) = (None, format!("www-{name}"), name.to_owned());
    let mut services = Vec::new();
    let mut previous = serde_json::Map::new();
    for word in words {
        let (field, value) = word.split_once('=').unwrap();
        match field {
            "extends" => extends = Some(value),
            "prefix" => prefix = value.to_owned(),
            "header" => header = value.to_owned(),
            had if had.starts_with("had-") => {
                let all = value.split(',').map(|one| match one {
                    "-" => serde_json::Value::Null,
                    text => text.into(),
                });
                previous.insert(had["had-".len()..].to_owned(), all.collect());
            }
            service => {
                // A version that is a URL has a colon before slashes, too.
                let mut colons = value.match_indices(":/");
                let routes_at = colons
                    .find(|(at, _)| !value[at + 2..].starts_with('/'))
                    .map(|(at, _)| at);
                let version = &value[..routes_at.unwrap_or(value.len())];
                let routes: Vec<&str> = routes_at.map_or(vec![], |at| value[at + 1..].split(':').collect());
                services.push(serde_json::json!({"name": service, "version": version, "routes": routes}));
            }
        }
    }
    let record = serde_json::json!({"name": name, "extends": extends, "prefix": prefix, "header": header, "services": services,
        "life": {"registered_at": "2030-01-31T18:00:00Z", "previous": previous}});
    put(&format!("environments/{name}"), &record.to_string())
}

/// `backend 0.0.1 10.0.0.1:80 [draining]`
fn instance(text: &str) -> Change {
    let words: Vec<&str> = text.split(' ').collect();
    let state = words.get(3).unwrap_or(&"up");
    let value = format!(r#"{{"address": "{}", "state": "{state}"}}"#, words[2]);
    put(
        &format!(
            "backends/{}/{}/{}",
            words[0],
            words[1],
            words[2].trim_start_matches("https://")
        ),
        &value,
    )
}

/// Applies changes as etcd would number them, resolving after each.
fn index_after(changes: &[Change]) -> Index {
    let mut index = Index::default();
    let mut created: BTreeMap<String, i64> = BTreeMap::new();
    let mut world = World::new();
    for (at, change) in changes.iter().enumerate() {
        match change {
            Change::Resolve(name, addresses) => {
                world.insert(name.clone(), addresses.clone());
            }
            Change::Put(key, value) => {
                let (created, changed) = (*created.entry(key.clone()).or_insert(at as i64), at as i64);
                index.put(key, value.as_bytes(), Revision { created, changed });
            }
            Change::Delete(key) => {
                created.remove(key);
                index.delete(key);
            }
            Change::Rule(most, allowed, own) => index.set_rule(rule(*most, allowed, own)),
        }
        tell(&mut index, &world);
        index.settle();
    }
    index
}

fn dump(index: &Index) -> Vec<String> {
    let rows = index
        .routing()
        .rows()
        .map(|(key, value)| format!("{} {} -> {value}", key.table(), key.as_str()));
    let servers = index.routing().backends().map(|(backend, servers)| {
        let servers: Vec<String> = servers
            .iter()
            .map(|(id, server)| match &id.tls {
                None => format!("{} {:?}", id.address, server.state),
                Some(UpstreamHost::Name(name)) => format!("{} {:?} as {name}", id.address, server.state),
                Some(UpstreamHost::Ip(ip)) => format!("{} {:?} as {ip}", id.address, server.state),
            })
            .collect();
        format!("{backend}: {}", servers.join(", "))
    });
    let aside = index
        .set_aside()
        .into_iter()
        .map(|entry| format!("aside {}: {}", entry.key, entry.reason));
    rows.chain(servers).chain(aside).collect()
}

fn check(changes: &[Change], expected: &str) {
    let expected: Vec<&str> = expected
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .collect();
    assert_eq!(dump(&index_after(changes)), expected);
}

#[test]
fn an_environment_and_its_instance() {
    check(
        &[
            instance("backend 0.0.1 10.0.0.1:80"),
            environment("prod prefix=www frontend=0.0.1:/:/shop backend=0.0.1"),
        ],
        "versions prod/backend -> backend@0.0.1
         versions prod/frontend -> frontend@0.0.1
         routes prod/ -> 001:frontend
         routes prod/shop/ -> 006:frontend
         headers prod -> prod
         edge www -> prod
         backend@0.0.1: 10.0.0.1:80 Up",
    );
}

#[test]
fn latest_follows_what_lives() {
    let dev = environment("dev backend=latest");
    let with = |changes: &[Change]| {
        let index = index_after(changes);
        let rows: Vec<String> = index
            .routing()
            .table(Table::Versions)
            .map(|(_, value)| value.to_owned())
            .collect();
        rows.join(" ")
    };
    let mut changes = vec![dev, instance("backend 0.0.1 10.0.0.1:80")];
    assert_eq!(with(&changes), "backend@0.0.1");
    changes.push(instance("backend 0.0.2 10.0.0.2:80"));
    assert_eq!(with(&changes), "backend@0.0.2");
    changes.push(instance("backend 0.0.2 10.0.0.2:80 draining"));
    assert_eq!(with(&changes), "backend@0.0.1");
    changes.push(delete("backends/backend/0.0.1/10.0.0.1:80"));
    assert_eq!(with(&changes), "backend@latest");
}

#[test]
fn nothing_fits_is_told() {
    check(
        &[environment("dev backend=^1.2")],
        "versions dev/backend -> backend@^1.2
         headers dev -> dev
         edge www-dev -> dev
         aside /mayfly/environments/dev: no live version of backend fits ^1.2",
    );
}

#[test]
fn the_first_claim_stands_and_the_next_takes_over() {
    let changes = [
        environment("a prefix=x"),
        environment("b prefix=x"),
        environment("c prefix=y header=b"),
    ];
    // `b` is set aside whole, so its header is free for `c`.
    check(
        &changes,
        "headers a -> a
         headers b -> c
         edge x -> a
         edge y -> b
         aside /mayfly/environments/b: prefix x belongs to environment a, which was registered first; choose another",
    );
    let without_a: Vec<Change> = changes
        .iter()
        .cloned()
        .chain([delete("environments/a")])
        .collect();
    check(
        &without_a,
        "headers b -> b
         edge x -> b
         aside /mayfly/environments/c: header b belongs to environment b, which was registered first; choose another",
    );
}

#[test]
fn an_environment_whose_newest_version_was_refused_is_told_and_complete() {
    let record = |refused: Option<&str>| {
        let life = serde_json::json!({"registered_at": "2030-01-31T18:00:00Z", "refused": refused});
        let services = serde_json::json!([{"name": "s", "version": "1", "routes": ["/"]}]);
        serde_json::json!({"name": "a", "prefix": "a", "header": "a", "services": services, "life": life})
            .to_string()
    };
    let mut index = index_after(&[instance("s 1 10.0.0.1:80"), put("environments/a", &record(None))]);
    let key = "/mayfly/environments/a";
    for refused in [Some("bad"), Some("worse"), None, Some("bad")] {
        index.put(key, record(refused).as_bytes(), 1);
        assert!(index.resolve().is_empty(), "what is routed is the same");
        let told: Vec<_> = index
            .set_aside()
            .into_iter()
            .map(|it| (it.key, it.reason))
            .collect();
        let expected = refused.map(|reason| (key.to_owned(), reason.to_owned()));
        assert_eq!(told, Vec::from_iter(expected));
        let view = index.view(&"a".parse().unwrap()).unwrap();
        assert!(view.routed && view.complete);
        assert_eq!(view.reasons(), Vec::from_iter(refused));
    }
    index.delete(key);
    index.resolve();
    assert_eq!(index.set_aside(), []);
}

#[test]
fn extends_three_levels_and_not_four() {
    let changes = [
        environment("e extends=d"),
        environment("a"),
        environment("b extends=a"),
        environment("c extends=b"),
        environment("d extends=c"),
    ];
    let index = index_after(&changes);
    let parents: Vec<String> = index
        .routing()
        .table(Table::Parents)
        .map(|(key, value)| format!("{}->{value}", key.as_str()))
        .collect();
    assert_eq!(parents, ["b->a", "c->b", "d->c"]);
    assert_eq!(
        index.set_aside()[0].reason,
        "extends passes 3 levels at a; only what the environment names itself is routed"
    );
}

#[test]
fn a_circle_and_a_missing_parent_are_their_own_problem() {
    check(
        &[environment("a extends=b"), environment("b extends=a"), environment("c extends=a"), environment("d extends=gone")],
        "parents c -> a
         headers a -> a
         headers b -> b
         headers c -> c
         headers d -> d
         edge www-a -> a
         edge www-b -> b
         edge www-c -> c
         edge www-d -> d
         aside /mayfly/environments/a: extends leads in a circle back to a; only what the environment names itself is routed
         aside /mayfly/environments/b: extends leads in a circle back to b; only what the environment names itself is routed
         aside /mayfly/environments/d: extends gone, which does not exist; only what the environment names itself is routed",
    );
}

#[test]
fn a_bad_value_leaves_the_last_good_one_in_force() {
    let changes = [
        environment("dev"),
        put("environments/dev", "{"),
        put("backends/a b/1/x", "{}"),
    ];
    check(
        &changes,
        "headers dev -> dev
         edge www-dev -> dev
         aside /mayfly/backends/a b/1/x: \"a b\" is not a service name: lower-case letters, digits and hyphens, a letter or digit at both ends, at most 63
         aside /mayfly/environments/dev: the value is not a record: EOF while parsing an object at line 1 column 1",
    );
    let mended: Vec<Change> = changes
        .iter()
        .cloned()
        .chain([environment("dev"), delete("backends/a b/1/x")])
        .collect();
    check(&mended, "headers dev -> dev\nedge www-dev -> dev");
}

#[test]
fn two_records_of_one_address_are_one_server() {
    check(
        &[
            put(
                "backends/a/1/x",
                r#"{"address": "10.0.0.1:80", "state": "draining"}"#,
            ),
            put("backends/a/1/y", r#"{"address": "10.0.0.1:80"}"#),
        ],
        "a@1: 10.0.0.1:80 Up",
    );
}

#[test]
fn who_stops_an_instance_drains_it_first_whatever_its_record_says() {
    let up = put("backends/a/1/10.0.0.1:80", r#"{"address": "10.0.0.1:80"}"#);
    let drain = put("drains/a/1/10.0.0.1:80", "");
    let draining = "a@1: 10.0.0.1:80 Draining";
    check(&[up.clone(), drain.clone()], draining);
    check(&[drain.clone(), up.clone()], draining);
    let end = delete("drains/a/1/10.0.0.1:80");
    check(&[up.clone(), drain.clone(), end], "a@1: 10.0.0.1:80 Up");
    let other = put("backends/a/1/10.0.0.2:80", r#"{"address": "10.0.0.2:80"}"#);
    check(&[up, drain, other], "a@1: 10.0.0.1:80 Draining, 10.0.0.2:80 Up");
}

#[test]
fn a_change_touches_only_its_own_places() {
    let mut index = index_after(&[
        environment("qa backend=1"),
        environment("a extends=qa"),
        environment("b extends=qa"),
    ]);
    let Change::Put(key, value) = environment("qa backend=2") else {
        unreachable!()
    };
    index.put(&key, value.as_bytes(), 0);
    let touched = index.resolve();
    let tables = touched.tables();
    assert_eq!(tables, [Table::Versions].into());
    let rows = touched.rows(Table::Versions, index.routing());
    let rows: Vec<_> = rows
        .map(|row| (row.key.as_str().to_owned(), row.before, row.now))
        .collect();
    assert_eq!(
        rows,
        [("qa/backend".to_owned(), Some("backend@1"), Some("backend@2"))]
    );
    assert_eq!(
        touched.backends.len(),
        1,
        "backend@1, which nobody names any more"
    );
    index.put(&key, value.as_bytes(), 0);
    assert!(index.resolve().is_empty(), "the same value again changes nothing");
}

fn any_change() -> impl Strategy<Value = Change> {
    let name = "[a-e]";
    let an_environment = (
        name,
        proptest::option::of("[a-e]"),
        "[x-z]|www-[a-e]",
        "[x-z]|[a-e]",
        proptest::collection::vec(
            (
                "[st]",
                "[12]|latest|\\^1|\\*|https?://h[12]:80|http://1(0|27)\\.0\\.0\\.[12]:80",
                proptest::bool::ANY,
            ),
            0..4,
        ),
        proptest::option::weighted(0.3, "had-[st]=([12]|latest|-|http://h1:80)"),
    )
        .prop_map(|(name, extends, prefix, header, services, had)| {
            let mut text = format!("{name} prefix={prefix} header={header}");
            if let Some(parent) = extends {
                text += &format!(" extends={parent}");
            }
            for (service, version, routed) in services {
                text += &format!(" {service}={version}{}", if routed { ":/" } else { "" });
            }
            if let Some(had) = had {
                text += &format!(" {had}");
            }
            environment(&text)
        });
    let an_instance = (
        "[st]",
        "[12]|1\\.1|latest",
        "10\\.0\\.0\\.[1-3]:80|(https://)?h[12]:80",
        proptest::bool::ANY,
    );
    let addresses = proptest::collection::btree_set(
        (1..4u8).prop_map(|last| IpAddr::from([10 + 117 * (last / 3), 0, 0, last])),
        0..3,
    );
    prop_oneof![
        4 => an_environment,
        2 => name.prop_map(|name| delete(&format!("environments/{name}"))),
        3 => an_instance.prop_map(|(service, version, host, draining)| {
            instance(&format!("{service} {version} {host}{}", if draining { " draining" } else { "" }))
        }),
        2 => an_instance.prop_map(|(service, version, host, _)| {
            delete(&format!("backends/{service}/{version}/{}", host.trim_start_matches("https://")))
        }),
        1 => ("[st]", "[12]", "10\\.0\\.0\\.[1-3]:80", proptest::bool::ANY).prop_map(|(service, version, host, ends)| {
            let key = format!("drains/{service}/{version}/{host}");
            if ends { delete(&key) } else { put(&key, "") }
        }),
        2 => ("h[12]", addresses).prop_map(|(name, addresses)| Change::Resolve(name.parse().unwrap(), addresses)),
        1 => name.prop_map(|name| put(&format!("environments/{name}"), "{}")),
        1 => (0..4usize, 0..5usize, proptest::bool::ANY).prop_map(|(most, allowed, listens)| {
            let allowed = ["", "h1", "10.0.0.0/8", "127.0.0.0/8,10.0.0.0/8", "*.internal,127.0.0.1"][allowed];
            Change::Rule(most, allowed, if listens { "10.0.0.1:80,127.0.0.3:80" } else { "" })
        }),
    ]
}

/// What etcd holds after a history: for each key its last good value and its revisions.
fn survivors(changes: &[Change]) -> Vec<(String, String, Revision)> {
    let mut held: BTreeMap<String, (String, Revision)> = BTreeMap::new();
    for (at, change) in changes.iter().enumerate() {
        match change {
            Change::Put(key, value) if value == "{}" => {
                // Only a value with an earlier good one keeps its revision; the test leaves new bad ones out.
                let _ = held.get(key);
            }
            Change::Put(key, value) => {
                let changed = at as i64;
                let created = held.get(key).map_or(changed, |(_, revision)| revision.created);
                held.insert(key.clone(), (value.clone(), Revision { created, changed }));
            }
            Change::Delete(key) => {
                held.remove(key);
            }
            Change::Resolve(..) | Change::Rule(..) => {}
        }
    }
    held.into_iter()
        .map(|(key, (value, revision))| (key, value, revision))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Step by step or all at once, in whatever order: the same records give the same routing and the same faults,
    /// and what was said to be touched is exactly what differs.
    #[test]
    fn the_way_does_not_matter(changes in proptest::collection::vec(any_change(), 1..40)) {
        let mut stepwise = Index::default();
        let mut last_rule = AddressRule::default();
        let mut created: BTreeMap<String, i64> = BTreeMap::new();
        let mut world = World::new();
        for (at, change) in changes.iter().enumerate() {
            let before = stepwise.routing().clone();
            match change {
                Change::Put(key, value) => {
                    let changed = at as i64;
                    let created = if value == "{}" { changed } else { *created.entry(key.clone()).or_insert(changed) };
                    stepwise.put(key, value.as_bytes(), Revision { created, changed });
                }
                Change::Delete(key) => {
                    created.remove(key);
                    stepwise.delete(key);
                }
                Change::Resolve(name, addresses) => {
                    world.insert(name.clone(), addresses.clone());
                }
                Change::Rule(most, allowed, own) => {
                    last_rule = rule(*most, allowed, own);
                    stepwise.set_rule(last_rule.clone());
                }
            }
            let touched = tell(&mut stepwise, &world);
            // What is missing may be found out after several changes together.
            if at % 3 > 0 {
                stepwise.settle();
            }
            let after = stepwise.routing();
            let all: BTreeSet<RowKey> = before.rows().chain(after.rows()).map(|(key, _)| key).collect();
            let differing = all.into_iter().filter(|key| before.row(key) != after.row(key));
            let differing: Vec<_> = differing.map(|key| (before.row(&key), after.row(&key), key)).collect();
            let told = Table::ALL.into_iter().flat_map(|table| touched.rows(table, after));
            let mut told: Vec<_> = told.map(|row| (row.before, row.now, row.key)).collect();
            told.sort_by(|one, other| one.2.cmp(&other.2));
            prop_assert_eq!(differing, told);
            for (backend, _) in before.backends().chain(after.backends()) {
                prop_assert!(before.servers(backend) == after.servers(backend) || touched.backends.contains(backend));
            }
        }
        let mut records = survivors(&changes);
        records.reverse();
        let mut at_once = Index::default().with_rule(last_rule);
        for (key, value, revision) in &records {
            at_once.put(key, value.as_bytes(), *revision);
        }
        tell(&mut at_once, &world);
        at_once.settle();
        stepwise.settle();
        prop_assert_eq!(stepwise.routing(), at_once.routing());
        prop_assert!(stepwise.host_names().eq(at_once.host_names()));
        // Only values that did not parse are remembered by one and not by the other.
        let waiting = |index: &Index| {
            let all = index.set_aside().into_iter();
            let texts = ["no address", "cannot be reached", "resolves to"];
            all.filter(|aside| texts.iter().any(|text| aside.reason.contains(text))).collect::<Vec<_>>()
        };
        prop_assert_eq!(waiting(&stepwise), waiting(&at_once));
        prop_assert_eq!(stepwise.superseded(), at_once.superseded());
        prop_assert_eq!(&stepwise.waits, &at_once.waits);
        let readable = |index: &Index| index.faults.clone();
        prop_assert_eq!(readable(&stepwise), readable(&at_once));
        prop_assert_eq!(stepwise.shortage(usize::MAX), at_once.shortage(usize::MAX));
        check_missing(&stepwise)?;
    }
}
