//! Tests of the index: what a set of records resolves to, and that every way to a set of records resolves the same.

use super::*;
use crate::names::Hostname;
use crate::routing::{ChangedRows, Row, Table};
use crate::upstream::UpstreamHost;
use crate::version::BackendId;
use std::net::IpAddr;

mod histories;
mod missing;
mod outside;
mod taken;
mod waits;

/// One change as etcd reports it. The create revision of a put is its place in the history unless
/// given.
#[derive(Debug, Clone)]
enum TestChange {
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

/// Takes a value as the watch does: what cannot be read is set aside.
pub(crate) fn put_text(index: &mut Index, text: &str, value: &str, revision: impl Into<Revision>) {
    let key = index.space.parse(text).map_err(|error| error.to_string());
    match key.and_then(|key| Record::decode(&key, value.as_bytes()).map_err(|error| error.to_string())) {
        Ok(record) => {
            index.unreadable.remove(text);
            index.put(record, revision);
        }
        Err(reason) => index.unreadable.insert(text.to_owned(), reason),
    }
}

/// The same of an end.
pub(crate) fn gone_text(index: &mut Index, text: &str) {
    index.unreadable.remove(text);
    if let Ok(key) = index.space.parse(text) {
        index.gone(&key);
    }
}

fn put(key: &str, value: &str) -> TestChange {
    TestChange::Put(format!("/mayfly/{key}"), value.to_owned())
}

fn delete(key: &str) -> TestChange {
    TestChange::Delete(format!("/mayfly/{key}"))
}

/// `billing 10.0.0.1 10.0.0.2`
fn resolve(text: &str) -> TestChange {
    let mut words = text.split(' ');
    let name = words.next().unwrap().parse().unwrap();
    TestChange::Resolve(name, words.map(|ip| ip.parse().unwrap()).collect())
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
fn environment(text: &str) -> TestChange {
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
fn instance(text: &str) -> TestChange {
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
fn index_after(changes: &[TestChange]) -> Index {
    let mut index = Index::default();
    let mut created: BTreeMap<String, i64> = BTreeMap::new();
    let mut world = World::new();
    for (at, change) in changes.iter().enumerate() {
        match change {
            TestChange::Resolve(name, addresses) => {
                world.insert(name.clone(), addresses.clone());
            }
            TestChange::Put(key, value) => {
                let (created, changed) = (*created.entry(key.clone()).or_insert(at as i64), at as i64);
                put_text(&mut index, key, value, Revision { created, changed });
            }
            TestChange::Delete(key) => {
                created.remove(key);
                gone_text(&mut index, key);
            }
            TestChange::Rule(most, allowed, own) => index.set_rule(rule(*most, allowed, own)),
        }
        tell(&mut index, &world);
        index.settle();
    }
    index
}

/// `versions dev/backend -> backend@0.0.1`
fn text(row: &Row<'_>) -> String {
    match row {
        Row::Ended(name, ended) => format!("ended {} -> {name} {} {}", ended.prefix, ended.at, ended.why),
        Row::EndedName(name, ended) => format!("ended-names {name} -> {} {}", ended.at, ended.why),
        Row::Host(backend, upstream) => format!("hosts {backend} -> {}", upstream.authority()),
        Row::Version(name, choice) => format!("versions {name}/{} -> {choice}", choice.service()),
        Row::Parent(name, parent) => format!("parents {name} -> {parent}"),
        Row::User(name, user, hash) => format!("users {name}/{user} -> {hash}"),
        Row::Network(name, network) => format!("networks {name} -> {network}"),
        Row::Access(name, admission) => {
            format!("access {name} -> {} {}", admission.owner, admission.kind.as_str())
        }
        Row::Route(name, path, service) => format!("routes {name}{} -> {service}", path.with_slash()),
        Row::Header(header, name) => format!("headers {header} -> {name}"),
        Row::Protected(prefix, name) => format!("protected {prefix} -> {name}"),
        Row::Link(name, header) => format!("links {name} -> {header}"),
        Row::Edge(prefix, header) => format!("edge {prefix} -> {header}"),
    }
}

fn texts<'a>(rows: impl IntoIterator<Item = Row<'a>>) -> Vec<String> {
    rows.into_iter().map(|row| text(&row)).collect()
}

fn dump(index: &Index) -> Vec<String> {
    // Those of links say what those of headers say.
    let rows = Table::ALL
        .into_iter()
        .filter(|table| *table != Table::Links)
        .flat_map(|table| index.routing().rows(table).map(|row| text(&row)));
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

fn check(changes: &[TestChange], expected: &str) {
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
         routes prod/ -> frontend
         routes prod/shop/ -> frontend
         headers prod -> prod
         edge www -> prod
         backend@0.0.1: 10.0.0.1:80 Up",
    );
}

#[test]
fn latest_follows_what_lives() {
    let dev = environment("dev backend=latest");
    let with = |changes: &[TestChange]| {
        let index = index_after(changes);
        let environment = index.routing().environment(&"dev".parse().unwrap()).unwrap();
        environment.choices[0].to_string()
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
fn nothing_fits_is_reported() {
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
         aside /mayfly/environments/b: prefix x belongs to environment a, which was registered first; choose another prefix",
    );
    let without_a: Vec<TestChange> = changes
        .iter()
        .cloned()
        .chain([delete("environments/a")])
        .collect();
    check(
        &without_a,
        "headers b -> b
         edge x -> b
         aside /mayfly/environments/c: header b belongs to environment b, which was registered first; choose another header",
    );
}

#[test]
fn an_environment_whose_newest_version_was_refused_is_reported_and_complete() {
    let record = |refused: Option<&str>| {
        let life = serde_json::json!({"registered_at": "2030-01-31T18:00:00Z", "refused": refused});
        let services = serde_json::json!([{"name": "s", "version": "1", "routes": ["/"]}]);
        serde_json::json!({"name": "a", "prefix": "a", "header": "a", "services": services, "life": life})
            .to_string()
    };
    let mut index = index_after(&[instance("s 1 10.0.0.1:80"), put("environments/a", &record(None))]);
    let key = "/mayfly/environments/a";
    for refused in [Some("bad"), Some("worse"), None, Some("bad")] {
        put_text(&mut index, key, &record(refused), 1);
        assert!(index.resolve().is_empty(), "what is routed is the same");
        let reported: Vec<_> = index
            .set_aside()
            .into_iter()
            .map(|it| (it.key, it.reason))
            .collect();
        let expected = refused.map(|reason| (key.to_owned(), reason.to_owned()));
        assert_eq!(reported, Vec::from_iter(expected));
        let view = index.view(&"a".parse().unwrap()).unwrap();
        assert!(view.routed && view.complete);
        assert_eq!(view.reasons(), Vec::from_iter(refused));
    }
    gone_text(&mut index, key);
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
    let parents = texts(index.routing().rows(Table::Parents));
    assert_eq!(parents, ["parents b -> a", "parents c -> b", "parents d -> c"]);
    assert_eq!(
        index.set_aside()[0].reason,
        "the chain of `extends` exceeds 3 levels at a; the internal side routes only this \
         environment's own services, and the edge refuses its requests unless it has an `access` \
         of its own"
    );
}

#[test]
fn a_circle_and_a_missing_parent_are_their_own_problem() {
    check(
        &[environment("a extends=b"), environment("b extends=a"), environment("c extends=a"), environment("d extends=gone")],
        "access a -> b unknown
         access b -> a unknown
         access c -> b unknown
         access d -> gone unknown
         parents c -> a
         headers a -> a
         headers b -> b
         headers c -> c
         headers d -> d
         edge www-a -> a
         edge www-b -> b
         edge www-c -> c
         edge www-d -> d
         aside /mayfly/environments/a: the chain of `extends` comes back to a; the internal side routes only this environment's own services, and the edge refuses its requests unless it has an `access` of its own
         aside /mayfly/environments/b: the chain of `extends` comes back to b; the internal side routes only this environment's own services, and the edge refuses its requests unless it has an `access` of its own
         aside /mayfly/environments/d: extends gone, which does not exist; the internal side routes only this environment's own services, and the edge refuses its requests unless it has an `access` of its own",
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
    let mended: Vec<TestChange> = changes
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
    let TestChange::Put(key, value) = environment("qa backend=2") else {
        unreachable!()
    };
    put_text(&mut index, &key, &value, 0);
    let touched = index.resolve();
    assert_eq!(touched.tables(index.routing()), [Table::Versions].into());
    let changed = touched.rows(Table::Versions, index.routing());
    assert_eq!(texts(changed.before), ["versions qa/backend -> backend@1"]);
    assert_eq!(texts(changed.now), ["versions qa/backend -> backend@2"]);
    assert_eq!(
        touched.backends.len(),
        1,
        "backend@1, which nobody names any more"
    );
    put_text(&mut index, &key, &value, 0);
    assert!(index.resolve().is_empty(), "the same value again changes nothing");
}

#[test]
fn access_is_that_of_the_nearest_that_has_one() {
    let hash = crate::records::access::PasswordHash::of("x", [7; 16]);
    let put = |name: &str, extends: &str, access: &str| {
        let extends = match extends {
            "" => String::new(),
            base => format!(r#""extends": "{base}","#),
        };
        let access = match access {
            "" => String::new(),
            access => format!(r#""access": {access},"#),
        };
        let value =
            format!(r#"{{"name": "{name}", "prefix": "{name}", {extends} {access} "header": "{name}"}}"#);
        TestChange::Put(format!("/mayfly/environments/{name}"), value)
    };
    let users = format!(r#"{{"users": {{"guest": "{hash}"}}}}"#);
    let both = format!(r#"{{"users": {{"guest": "{hash}"}}, "from": ["10.0.0.0/7", "10.0.0.0/8"]}}"#);
    let access = |changes: &[TestChange]| {
        let index = index_after(changes);
        let tables = [Table::Users, Table::Networks, Table::Access];
        let rows = tables
            .into_iter()
            .flat_map(|table| texts(index.routing().rows(table)));
        rows.filter(|row| row.starts_with("access") || row.starts_with("networks"))
            .collect::<Vec<_>>()
    };
    let row = [
        put("a", "", &users),
        put("b", "a", ""),
        put("c", "b", r#"{"from": ["10.0.0.0/8"]}"#),
        put("d", "c", ""),
        put("open", "", ""),
    ];
    let after = |more: &[TestChange]| access(&[&row, more].concat());
    let network = "networks c -> 10.0.0.0/8";
    assert_eq!(
        after(&[]),
        [
            network,
            "access a -> a users",
            "access b -> a users",
            "access c -> c networks",
            "access d -> c networks"
        ]
    );
    // A change reaches those below.
    assert_eq!(
        after(&[put("a", "", &both)]),
        [
            "networks a -> 10.0.0.0/8",
            "networks a -> 11.0.0.0/8",
            network,
            "access a -> a both",
            "access b -> a both",
            "access c -> c networks",
            "access d -> c networks"
        ]
    );
    assert_eq!(after(&[put("a", "", ""), put("c", "b", "")]), [""; 0]);
    // Where what is extended is not there, nobody knows; and what names nobody lets nobody in.
    assert_eq!(
        after(&[
            TestChange::Delete("/mayfly/environments/a".to_owned()),
            put("c", "b", "")
        ]),
        [
            "access b -> a unknown",
            "access c -> a unknown",
            "access d -> a unknown"
        ]
    );
    assert_eq!(
        after(&[put("a", "", "{}")])[..2],
        [network, "access a -> a networks"]
    );
    assert_eq!(
        after(&[put("a", "b", ""), put("c", "b", "")])[..],
        [
            "access a -> b unknown",
            "access b -> a unknown",
            "access c -> a unknown",
            "access d -> c unknown"
        ]
    );
}
