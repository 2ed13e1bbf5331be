//! Tests of addresses that were given on.

use super::*;

/// `orders 1 10.0.0.1:80 shared`
fn shared(text: &str) -> TestChange {
    let TestChange::Put(key, value) = instance(text.trim_end_matches(" shared")) else {
        unreachable!()
    };
    TestChange::Put(key, value.replace('}', r#", "shared": true}"#))
}

fn dev() -> TestChange {
    environment("dev orders=1 billing=1")
}

#[track_caller]
fn servers(changes: &[TestChange], expected: &[&str]) {
    let index = index_after(changes);
    let all: Vec<String> = dump(&index)
        .into_iter()
        .filter(|line| line.contains(": 10.") || line.starts_with("aside"))
        .map(|line| {
            line.split("; if one")
                .next()
                .unwrap()
                .replace("/mayfly/backends/", "")
        })
        .collect();
    assert_eq!(all, expected);
}

const GONE: &str = "aside orders/1/10.0.0.1:80: 10.0.0.1:80 was registered for billing@1 later, so it gets no requests for orders@1";

#[test]
fn who_registers_an_address_last_has_it() {
    let mut changes = vec![
        dev(),
        instance("orders 1 10.0.0.1:80"),
        instance("billing 1 10.0.0.1:80"),
    ];
    servers(&changes, &["billing@1: 10.0.0.1:80 Up", GONE]);
    let view = index_after(&changes).view(&"dev".parse().unwrap()).unwrap();
    assert_eq!(
        view.reasons(),
        ["no instance of orders@1 is live: 10.0.0.1:80 was registered for billing@1 later"]
    );
    // Another of its instances answers for it.
    changes.push(instance("orders 1 10.0.0.2:80"));
    servers(
        &changes,
        &["billing@1: 10.0.0.1:80 Up", "orders@1: 10.0.0.2:80 Up", GONE],
    );
}

#[test]
fn who_says_it_again_has_it_back_though_its_key_is_older() {
    let changes = [
        dev(),
        instance("orders 1 10.0.0.1:80"),
        instance("billing 1 10.0.0.1:80"),
        instance("orders 1 10.0.0.1:80"),
    ];
    servers(
        &changes,
        &[
            "orders@1: 10.0.0.1:80 Up",
            "aside billing/1/10.0.0.1:80: 10.0.0.1:80 was registered for orders@1 later, so it gets no requests for billing@1",
        ],
    );
}

#[test]
fn a_farewell_takes_nothing_from_the_next_one() {
    let changes = [
        dev(),
        instance("orders 1 10.0.0.1:80"),
        instance("billing 1 10.0.0.1:80"),
        instance("orders 1 10.0.0.1:80 draining"),
    ];
    servers(&changes, &["billing@1: 10.0.0.1:80 Up", GONE]);
}

#[test]
fn another_version_and_the_selectors_that_follow_it() {
    let changes = [
        environment("dev orders=latest"),
        instance("orders 2 10.0.0.1:80"),
        instance("orders 1 10.0.0.1:80"),
    ];
    let index = index_after(&changes);
    let choice = index
        .routing()
        .choice(&"dev".parse().unwrap(), &"orders".parse().unwrap());
    assert_eq!(choice.unwrap().to_string(), "orders@1");
}

#[test]
fn what_is_shared_is_shared_only_by_those_who_say_so() {
    let (orders, billing) = (shared("orders 1 10.0.0.1:80"), shared("billing 1 10.0.0.1:80"));
    let both = ["billing@1: 10.0.0.1:80 Up", "orders@1: 10.0.0.1:80 Up"];
    servers(&[dev(), orders.clone(), billing.clone()], &both);
    servers(
        &[dev(), orders, instance("billing 1 10.0.0.1:80")],
        &["billing@1: 10.0.0.1:80 Up", GONE],
    );
    servers(
        &[dev(), instance("orders 1 10.0.0.1:80"), billing],
        &["billing@1: 10.0.0.1:80 Up", GONE],
    );
}

#[test]
fn two_of_one_revision_and_a_host_name_prove_nothing() {
    let mut index = Index::default();
    let put = |index: &mut Index, change: &TestChange, revision: i64| {
        let TestChange::Put(key, value) = change else {
            unreachable!()
        };
        put_text(index, key, value, revision);
    };
    for (change, revision) in [
        (instance("orders 1 10.0.0.1:80"), 5),
        (instance("billing 1 10.0.0.1:80"), 5),
        (instance("orders 1 gw:80"), 6),
        (instance("billing 1 gw:80"), 7),
    ] {
        put(&mut index, &change, revision);
    }
    index.resolve();
    assert_eq!(index.superseded(), []);
    // After a loss of all data every revision is a small one.
    index.age();
    put(&mut index, &instance("billing 1 10.0.0.1:80"), 2);
    let key = Key::Instance("orders@1".parse().unwrap(), "10.0.0.1:80".parse().unwrap());
    assert!(index.is_superseded(&key));
}

#[test]
fn the_older_one_is_back_when_the_newer_one_goes() {
    let changes = [
        dev(),
        instance("orders 1 10.0.0.1:80"),
        instance("billing 1 10.0.0.1:80"),
        delete("backends/billing/1/10.0.0.1:80"),
    ];
    servers(&changes, &["orders@1: 10.0.0.1:80 Up"]);
}
