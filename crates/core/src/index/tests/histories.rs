//! Every way to a set of records resolves the same.

use proptest::prelude::*;

use super::missing::check_missing;
use super::*;

fn any_change() -> impl Strategy<Value = TestChange> {
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
        1 => (name, name, 0..3usize).prop_map(|(name, prefix, at)| {
            let ended = format!(r#"{{"prefix": "www-{prefix}", "at": "2030-01-31T18:00:0{at}Z", "why": "idle"}}"#);
            put(&format!("ended/{name}"), &ended)
        }),
        1 => name.prop_map(|name| delete(&format!("ended/{name}"))),
        2 => ("h[12]", addresses).prop_map(|(name, addresses)| TestChange::Resolve(name.parse().unwrap(), addresses)),
        1 => name.prop_map(|name| put(&format!("environments/{name}"), "{}")),
        1 => (0..4usize, 0..5usize, proptest::bool::ANY).prop_map(|(most, allowed, listens)| {
            let allowed = ["", "h1", "10.0.0.0/8", "127.0.0.0/8,10.0.0.0/8", "*.internal,127.0.0.1"][allowed];
            TestChange::Rule(most, allowed, if listens { "10.0.0.1:80,127.0.0.3:80" } else { "" })
        }),
    ]
}

/// What etcd holds after a history: for each key its last good value and its revisions.
fn survivors(changes: &[TestChange]) -> Vec<(String, String, Revision)> {
    let mut held: BTreeMap<String, (String, Revision)> = BTreeMap::new();
    for (at, change) in changes.iter().enumerate() {
        match change {
            TestChange::Put(key, value) if value == "{}" => {
                // Only a value with an earlier good one keeps its revision; the test leaves new bad ones out.
                let _ = held.get(key);
            }
            TestChange::Put(key, value) => {
                let changed = at as i64;
                let created = held.get(key).map_or(changed, |(_, revision)| revision.created);
                held.insert(key.clone(), (value.clone(), Revision { created, changed }));
            }
            TestChange::Delete(key) => {
                held.remove(key);
            }
            TestChange::Resolve(..) | TestChange::Rule(..) => {}
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
                TestChange::Put(key, value) => {
                    let changed = at as i64;
                    let created = if value == "{}" { changed } else { *created.entry(key.clone()).or_insert(changed) };
                    put_text(&mut stepwise, key, value, Revision { created, changed });
                }
                TestChange::Delete(key) => {
                    created.remove(key);
                    gone_text(&mut stepwise, key);
                }
                TestChange::Resolve(name, addresses) => {
                    world.insert(name.clone(), addresses.clone());
                }
                TestChange::Rule(most, allowed, own) => {
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
            for table in Table::ALL {
                let (old, new): (BTreeSet<String>, BTreeSet<String>) =
                    (texts(before.rows(table)).into_iter().collect(), texts(after.rows(table)).into_iter().collect());
                let changed = touched.rows(table, after);
                prop_assert_eq!(changed == ChangedRows::default(), !touched.tables(after).contains(&table));
                let (gone, come): (BTreeSet<String>, BTreeSet<String>) =
                    (texts(changed.before).into_iter().collect(), texts(changed.now).into_iter().collect());
                prop_assert_eq!(old.difference(&new).collect::<Vec<_>>(), gone.difference(&come).collect::<Vec<_>>());
                prop_assert_eq!(new.difference(&old).collect::<Vec<_>>(), come.difference(&gone).collect::<Vec<_>>());
            }
            for (backend, _) in before.backends().chain(after.backends()) {
                prop_assert!(before.servers(backend) == after.servers(backend) || touched.backends.contains(backend));
            }
        }
        let mut records = survivors(&changes);
        records.reverse();
        let mut at_once = Index::default().with_rule(last_rule);
        for (key, value, revision) in &records {
            put_text(&mut at_once, key, value, *revision);
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
