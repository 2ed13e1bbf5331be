//! Tests of a new version that has to answer before it is used.

use super::*;

/// What dev has of `orders`, and why not what it chooses.
fn orders(changes: &[TestChange]) -> (Option<String>, Vec<String>) {
    let index = index_after(changes);
    let value = index
        .routing()
        .choice(&"dev".parse().unwrap(), &"orders".parse().unwrap())
        .map(ToString::to_string);
    let view = index.view(&"dev".parse().unwrap()).unwrap();
    assert_eq!(view.complete, view.reasons().is_empty());
    assert_eq!(view.complete, index.shortage(9).environments == 0);
    (value, view.reasons())
}

#[track_caller]
fn check_orders(changes: &[TestChange], value: Option<&str>, reason: Option<&str>) {
    let (found, reasons) = orders(changes);
    assert_eq!(found.as_deref(), value);
    assert_eq!(reasons, Vec::from_iter(reason));
}

#[test]
fn the_old_version_stays_until_the_new_one_is_live() {
    let mut changes = vec![
        instance("orders 1 10.0.0.1:80"),
        environment("dev orders=3 had-orders=1"),
    ];
    let starting = "still on orders@1: orders@3 is starting, it has no live instance yet";
    check_orders(&changes, Some("orders@1"), Some(starting));
    let awaited: Vec<String> = index_after(&changes).awaited().map(|it| it.to_string()).collect();
    assert_eq!(awaited, ["orders@3"]);
    changes.push(instance("orders 3 10.0.0.3:80 draining"));
    check_orders(&changes, Some("orders@1"), Some(starting));
    changes.push(instance("orders 3 10.0.0.3:80"));
    check_orders(&changes, Some("orders@3"), None);
    // The record is put without the note, and the new version has an outage.
    changes.extend([
        environment("dev orders=3"),
        delete("backends/orders/3/10.0.0.3:80"),
    ]);
    check_orders(
        &changes,
        Some("orders@3"),
        Some("no instance of orders@3 is live"),
    );
}

#[test]
fn of_a_chain_of_changes_the_newest_that_answers_stays() {
    let changes = [
        instance("orders 1 10.0.0.1:80"),
        environment("dev orders=3 had-orders=2,1"),
    ];
    let starting = "still on orders@1: orders@3 is starting, it has no live instance yet";
    check_orders(&changes, Some("orders@1"), Some(starting));
    let changes = [environment("dev orders=3 had-orders=2,1")];
    check_orders(
        &changes,
        Some("orders@3"),
        Some("no instance of orders@3 is live"),
    );
}

#[test]
fn selectors_that_move_and_services_outside_stay_alike() {
    let live = instance("orders 1.4 10.0.0.1:80");
    let starting = Some("still on orders@1.4: orders@3 is starting, it has no live instance yet");
    check_orders(
        &[live.clone(), environment("dev orders=3 had-orders=^1")],
        Some("orders@1.4"),
        starting,
    );
    let nothing = Some("still on orders@1.4: no live version fits ^2");
    check_orders(
        &[live, environment("dev orders=^2 had-orders=1.4")],
        Some("orders@1.4"),
        nothing,
    );
    let outside =
        Some("still on orders@http://10.0.0.9:80: orders@3 is starting, it has no live instance yet");
    check_orders(
        &[environment("dev orders=3 had-orders=http://10.0.0.9:80")],
        Some("orders@http://10.0.0.9:80"),
        outside,
    );
}

#[test]
fn what_was_inherited_is_inherited_until_then() {
    let mut changes = vec![
        instance("orders 1 10.0.0.1:80"),
        environment("qa orders=1"),
        environment("dev extends=qa orders=3 had-orders=-"),
    ];
    let starting = "still on the orders that it inherits: orders@3 is starting, it has no live instance yet";
    check_orders(&changes, None, Some(starting));
    changes.push(instance("orders 3 10.0.0.3:80"));
    check_orders(&changes, Some("orders@3"), None);
}

#[test]
fn heirs_wait_with_the_one_that_chooses() {
    let changes = [
        instance("orders 1 10.0.0.1:80"),
        environment("qa orders=3 had-orders=1"),
        environment("dev extends=qa"),
    ];
    let index = index_after(&changes);
    let view = index.view(&"dev".parse().unwrap()).unwrap();
    assert_eq!(
        view.reasons(),
        ["still on orders@1: orders@3 is starting, it has no live instance yet (inherited from qa)"]
    );
    assert_eq!(index.shortage(9).environments, 2);
}

#[test]
fn who_wants_it_at_once_has_it_at_once() {
    let TestChange::Put(key, value) = environment("dev orders=3 had-orders=1") else {
        unreachable!()
    };
    let at_once = TestChange::Put(key, value.replacen('{', r#"{"switch": "at-once", "#, 1));
    let changes = [instance("orders 1 10.0.0.1:80"), at_once];
    check_orders(
        &changes,
        Some("orders@3"),
        Some("no instance of orders@3 is live"),
    );
}
