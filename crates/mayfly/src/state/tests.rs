//! What is told of records that were made by hand.

use super::*;

fn entry(key: &str, value: &str, revision: i64) -> Change {
    Change::Put(Entry {
        key: format!("/mayfly/{key}"),
        value: value.as_bytes().to_vec(),
        create_revision: 1,
        mod_revision: revision,
        lease: None,
    })
}

fn state(changes: Vec<Change>) -> State {
    let mut state = State::new(&KeySpace::default(), 1);
    state.take(Batch {
        revision: 100,
        listed: true,
        changes,
    });
    state
}

#[test]
fn the_revision_of_an_environment_is_the_newest_of_what_it_is_made_of() {
    let child = r#"{"name": "temp", "prefix": "t", "header": "t", "extends": "qa"}"#;
    let mut changes = vec![
        entry("environments/temp", child, 5),
        entry(
            "environments/qa",
            r#"{"name": "qa", "prefix": "q", "header": "q", "services": [{"name": "a", "version": "1"}]}"#,
            7,
        ),
        entry("backends/a/2/x", r#"{"address": "10.0.0.1:80"}"#, 30),
        entry(
            "environments/other",
            r#"{"name": "other", "prefix": "o", "header": "o"}"#,
            31,
        ),
    ];
    let temp = "temp".parse().unwrap();
    assert_eq!(state(changes.clone()).revision_of(&temp), 7);
    changes.push(entry("backends/a/1/x", r#"{"address": "10.0.0.1:80"}"#, 20));
    assert_eq!(state(changes.clone()).revision_of(&temp), 20);
    changes.push(entry("drains/a/1/x", "", 22));
    assert_eq!(state(changes).revision_of(&temp), 22);
}

#[test]
fn of_several_launchers_the_elected_one_leads() {
    let record = |leading: bool, guard: &str| {
        let launching = Launching {
            leading,
            guard: Some(guard.to_owned()),
            ..Launching::default()
        };
        let mut status = Status::default();
        launching.put(&mut status);
        serde_json::to_string(&status).unwrap()
    };
    let (first, second) = (record(true, "1"), record(true, "2"));
    let mut changes = vec![
        entry("status/container-launcher/first", &first, 5),
        entry("status/container-launcher/second", &second, 6),
        entry("status/container-launcher/third", &record(false, "3"), 7),
    ];
    // The records of some that led outlive their lead.
    let launchers = state(changes.clone()).launchers();
    assert!(launchers.are_there && launchers.leader.is_none());
    changes.push(entry("leaders/container-launcher", "second", 8));
    let mut state = state(changes);
    let told = |state: &State| -> Vec<_> {
        let daemons = state.daemons().into_iter();
        daemons.map(|daemon| (daemon.leading, daemon.guard)).collect()
    };
    assert_eq!(
        told(&state),
        [
            (Some(false), None),
            (Some(true), Some("2".to_owned())),
            (Some(false), None)
        ]
    );
    assert_eq!(state.launchers().leader.unwrap().node.as_str(), "second");
    state.delete("/mayfly/leaders/container-launcher");
    assert!(state.launchers().leader.is_none());
    assert!(!State::new(&KeySpace::default(), 1).launchers().are_there);
}

#[test]
fn daemons_lag_behind_what_they_watch() {
    let state = state(vec![
        entry(
            "environments/a",
            r#"{"name": "a", "prefix": "a", "header": "a"}"#,
            9,
        ),
        entry("history/ended", "{}", 9),
        entry("routers/r1", r#"{"address": "10.0.0.1"}"#, 11),
        entry("routers/silent", r#"{"address": "10.0.0.2"}"#, 12),
        entry(
            "status/haproxy-updater/r1",
            r#"{"applied_revision": 9, "ready": true}"#,
            40,
        ),
        entry(
            "status/dns-updater/d1",
            r#"{"applied_revision": 9, "ready": true}"#,
            41,
        ),
    ]);
    let told: Vec<_> = state
        .daemons()
        .into_iter()
        .map(|daemon| (daemon.node.to_string(), daemon.lag))
        .collect();
    assert_eq!(
        told,
        [
            ("r1".to_owned(), 0),
            ("silent".to_owned(), 9),
            ("d1".to_owned(), 3)
        ]
    );
    let ended: Vec<_> = state.ended().map(ToString::to_string).collect();
    assert_eq!(ended, ["ended"]);
    assert!(
        state
            .unknown(&"ended".parse().unwrap())
            .contains("mayfly keep ended")
    );
}

#[test]
fn addresses_are_refused_as_the_routers_say() {
    let services = r#"[{"name": "own", "version": "http://10.0.0.2:80"}, {"name": "evil", "version": "http://evil.test:80"},
        {"name": "store", "version": "http://127.0.0.1:2379"}, {"name": "fine", "version": "http://fine.test:80"}]"#;
    let environment = format!(r#"{{"name": "a", "prefix": "a", "header": "a", "services": {services}}}"#);
    let router = |allowed: &str, own: &str| {
        let rule = format!(r#"{{"allowed": [{allowed}], "own": [["{own}", 80]], "most": 1000}}"#);
        format!(
            r#"{{"applied_revision": 9, "detail": {{"address_rule": {rule}, "host_names_refused": {{"evil.test": ["127.0.0.1"]}}}}}}"#
        )
    };
    let refused = |routers: &[(&str, String)]| -> Vec<String> {
        let mut changes = vec![entry("environments/a", &environment, 9)];
        for (node, status) in routers {
            changes.push(entry(&format!("status/haproxy-updater/{node}"), status, 10));
        }
        let view = state(changes).index.view(&"a".parse().unwrap()).unwrap();
        let missing = view
            .services
            .into_iter()
            .filter(|service| service.missing.is_some());
        missing.map(|service| service.service.to_string()).collect()
    };
    // By the rule of routers without a flag, where none is there; names are then taken to be reached.
    assert_eq!(refused(&[]), ["store"]);
    assert_eq!(refused(&[("r1", router("", "10.0.0.1"))]), ["evil", "store"]);
    let both = [("r1", router("", "10.0.0.1")), ("r2", router("", "10.0.0.2"))];
    assert_eq!(
        refused(&both),
        ["evil", "own", "store"],
        "one of them listens there"
    );
    let allowing = router(r#""127.0.0.1", "*.test""#, "10.0.0.1");
    assert_eq!(refused(&[("r1", allowing)]), ["own"], "only what is allowed");
    assert_eq!(
        refused(&[("old", r#"{"applied_revision": 9}"#.to_owned())]),
        [""; 0]
    );
}

#[test]
fn what_a_router_keeps_hinders_only_whom_it_concerns() {
    let record = |name: &str, version: &str| {
        format!(
            r#"{{"name": "{name}", "prefix": "{name}", "header": "{name}", "services": [{{"name": "a", "version": "{version}"}}]}}"#
        )
    };
    let keeps = |keys: &str, all: bool| {
        format!(
            r#"{{"applied_revision": 9, "detail": {{"guard": "kept", "guard_keeps": [{keys}], "guard_keeps_all": {all}}}}}"#
        )
    };
    let concerned = |status: &str| {
        let state = state(vec![
            entry("environments/one", &record("one", "1"), 5),
            entry("environments/two", &record("two", "2"), 6),
            entry("status/haproxy-updater/r", status, 7),
        ]);
        ["one", "two"].map(|name| {
            let view = state.index.view(&name.parse().unwrap()).unwrap();
            state.keeps_of(&"r".parse().unwrap(), &view)
        })
    };
    let instance = r#""/mayfly/backends/a/1/10.0.0.1:80""#;
    assert_eq!(concerned(&keeps(instance, true)), [true, false]);
    assert_eq!(concerned(&keeps(instance, false)), [true, true]);
    assert_eq!(
        concerned(&keeps(r#""/mayfly/environments/two""#, true)),
        [false, true]
    );
    assert_eq!(
        concerned(r#"{"applied_revision": 9, "detail": {"guard": "kept"}}"#),
        [true, true]
    );
}
