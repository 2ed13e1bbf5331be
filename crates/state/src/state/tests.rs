//! What is reported of records that were made by hand.

use super::*;
use mayfly_core::launching::Launching;
use mayfly_core::records::SetAsides;
use mayfly_daemon::store::Entry;
use mayfly_daemon::watch::{Batch, Change};

fn entry(key: &str, value: &str, revision: i64) -> Change {
    let entry = Entry {
        key: format!("/mayfly/{key}"),
        value: value.as_bytes().to_vec(),
        create_revision: 1,
        mod_revision: revision,
        lease: None,
    };
    Change::of(parse(key), &entry)
}

fn parse(key: &str) -> Key {
    KeySpace::default().parse(&format!("/mayfly/{key}")).unwrap()
}

fn state(changes: Vec<Change>) -> State {
    let mut state = State::new(&KeySpace::default(), 1);
    state.take(Batch {
        revision: 100,
        listed: true,
        changes,
        set_aside: SetAsides::default(),
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
    let reported = |state: &State| -> Vec<_> {
        let daemons = state.daemons().into_iter();
        daemons.map(|daemon| (daemon.leading, daemon.guard)).collect()
    };
    assert_eq!(
        reported(&state),
        [
            (Some(false), None),
            (Some(true), Some("2".to_owned())),
            (Some(false), None)
        ]
    );
    assert_eq!(state.launchers().leader.unwrap().node.as_str(), "second");
    state.gone(&parse("leaders/container-launcher"));
    assert!(state.launchers().leader.is_none());
    assert!(!State::new(&KeySpace::default(), 1).launchers().are_there);
}

/// etcd has lost its data, and everything is registered again at lower revisions.
#[test]
fn no_daemon_is_behind_a_revision_that_etcd_has_lost() {
    let environment = |revision| {
        let record = r#"{"name": "a", "prefix": "a", "header": "a"}"#;
        entry("environments/a", record, revision)
    };
    let status = |applied| {
        let record = format!(r#"{{"applied_revision": {applied}, "ready": true}}"#);
        entry("status/dns-updater/d1", &record, applied)
    };
    let mut state = state(vec![environment(90), status(91)]);
    assert_eq!(state.daemons()[0].lag, 0);
    state.take(Batch {
        revision: 7,
        listed: true,
        changes: vec![environment(5), status(6)],
        set_aside: SetAsides::default(),
    });
    assert_eq!(state.daemons()[0].lag, 0);
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
    let reported: Vec<_> = state
        .daemons()
        .into_iter()
        .map(|daemon| (daemon.node.to_string(), daemon.lag))
        .collect();
    assert_eq!(
        reported,
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
fn what_has_ended_is_reported_with_when_and_why() {
    let past = |name: &str, more: &str| {
        let life = r#""life": {"registered_at": "2020-01-01T00:00:00Z"}"#;
        let record =
            format!(r#"{{"name": "{name}", "prefix": "www-{name}", "header": "{name}", {life}{more}}}"#);
        entry(&format!("history/{name}"), &record, 9)
    };
    let state = state(vec![
        past("old", r#", "expires": "8h""#),
        past("idle", r#", "idle": "2h""#),
        past("gone", ""),
        entry(
            "environments/old2",
            r#"{"name": "old2", "prefix": "www-old2", "header": "old2"}"#,
            9,
        ),
    ]);
    for (name, part) in [
        (
            "old",
            "environment old has ended: it expired at 2020-01-01T08:00:00Z; `mayfly keep old 8h` brings it back",
        ),
        ("idle", "environment idle has ended: it was not used for 2h"),
        (
            "gone",
            "environment gone has ended: it was deleted with `mayfly delete` or through etcd",
        ),
    ] {
        let reported = state.unknown(&name.parse().unwrap());
        assert!(reported.starts_with(part), "{reported}");
    }
    let it = state.ended_with(|it| it.prefix.as_str() == "www-old").unwrap();
    assert_eq!(it.name.as_str(), "old");
    assert!(state.ended_with(|it| it.prefix.as_str() == "www-old2").is_none());
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
fn what_a_router_reports_counts_as_long_as_its_status_is_there_and_readable() {
    let names: Vec<String> = (1..=25).map(|number| format!("e{number}")).collect();
    let environment = |name: &String| {
        let services = r#"[{"name": "a", "version": "http://10.0.0.1:80"}]"#;
        let services = services.replace("\"a\"", &format!("\"{name}\""));
        let record = format!(
            r#"{{"name": "{name}", "prefix": "{name}", "header": "{name}", "services": {services}}}"#
        );
        entry(&format!("environments/{name}"), &record, 5)
    };
    let dead = names.iter().map(|name| format!("{name}@http://10.0.0.1:80"));
    let dead = serde_json::json!(dead.collect::<Vec<_>>());
    // As an earlier router writes it, with no other field, and with one that is not known here.
    let status = serde_json::json!({"applied_revision": 9, "detail": {"not_answering": dead, "new": {}}});
    let status = entry("status/haproxy-updater/r", &status.to_string(), 7);
    let mut state = state(names.iter().map(environment).chain([status.clone()]).collect());
    assert_eq!(state.index.shortage(0).environments, 25);
    for change in [
        entry("status/haproxy-updater/r", "{", 8),
        Change::Gone(parse("status/haproxy-updater/r")),
    ] {
        let mut take = |change: Change| {
            state.take(Batch {
                revision: 101,
                listed: false,
                changes: vec![change],
                set_aside: SetAsides::default(),
            });
            state.index.shortage(0).environments
        };
        assert_eq!(take(change), 0);
        assert_eq!(take(status.clone()), 25);
    }
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

#[test]
fn what_a_router_notes_is_reported_and_is_no_error() {
    let status =
        r#"{"applied_revision": 9, "ready": true, "detail": {"notes": ["HAProxy 2.6.12 can crash", 7]}}"#;
    let daemons = state(vec![
        entry("status/haproxy-updater/new", status, 7),
        entry("status/haproxy-updater/old", r#"{"applied_revision": 9}"#, 7),
    ])
    .daemons();
    let reported: Vec<_> = daemons
        .iter()
        .map(|daemon| (&daemon.notes[..], &daemon.error))
        .collect();
    assert_eq!(
        reported,
        [
            (&["HAProxy 2.6.12 can crash".to_owned()][..], &None),
            (&[][..], &None)
        ]
    );
}

#[test]
fn what_a_check_keeps_out_is_reported_of_the_service_that_waits_for_it() {
    let record = |version: &str| {
        let failing = serde_json::json!([{"backend": format!("backend@{version}"), "address": "10.0.0.5:8080",
            "reason": "/ answers 400\u{1b}"}]);
        serde_json::json!({"applied_revision": 0, "detail": {"failing": failing}}).to_string()
    };
    let environment = r#"{"name": "a", "prefix": "a", "header": "a", "services": [{"name": "backend", "version": "2"},
        {"name": "frontend", "version": "2"}, {"name": "other", "version": "latest"}]}"#;
    let state = state(vec![
        entry("environments/a", environment, 2),
        entry("status/container-registrar/host-1", &record("2"), 3),
        entry("status/container-registrar/host-2", &record("3"), 4),
        entry("status/haproxy-updater/host-1", &record("2"), 5),
    ]);
    let failing = state.failing();
    assert_eq!(failing.len(), 2);
    let view = state.index.view(&"a".parse().unwrap()).unwrap();
    let reported: Vec<String> = view
        .services
        .iter()
        .flat_map(|service| kept_out(&failing, service))
        .collect();
    assert_eq!(
        reported,
        [
            "backend@2 at 10.0.0.5:8080 is not registered: / answers 400\\u{1b} (container-registrar of host-1)"
        ]
    );
}

#[test]
fn who_asks_for_a_version_by_itself() {
    let environment = |name: &str, services: &str| {
        format!(r#"{{"name": "{name}", "prefix": "{name}", "header": "{name}", "services": [{services}]}}"#)
    };
    let state = state(vec![
        entry(
            "environments/a",
            &environment("a", r#"{"name": "x", "version": "pr-12"}"#),
            2,
        ),
        entry(
            "environments/b",
            &environment(
                "b",
                r#"{"name": "y", "version": "latest"}, {"name": "z", "version": "^1"}"#,
            ),
            3,
        ),
        entry("backends/z/1.2/i", r#"{"address": "10.0.0.5:80"}"#, 4),
        entry("backends/y/latest/i", r#"{"address": "10.0.0.6:80"}"#, 5),
    ]);
    for (backend, expected) in [
        ("x@pr-12", true),
        ("x@pr-13", false),
        ("y@latest", false),
        ("z@1.2", false),
    ] {
        assert_eq!(state.asks_for(&backend.parse().unwrap()), expected, "{backend}");
    }
}

#[test]
fn a_loopback_address_is_reported_where_another_host_needs_it() {
    let router = |node: &str, ip: &str| {
        let value = format!(r#"{{"address": "{ip}"}}"#);
        entry(&format!("routers/{node}"), &value, 10)
    };
    let instance = |id: &str, metadata: &str| {
        let value = format!(r#"{{"address": "{id}", "metadata": {metadata}}}"#);
        entry(&format!("backends/a/1/{id}"), &value, 11)
    };
    let names = |node: &str| {
        entry(
            &format!("status/dns-updater/{node}"),
            r#"{"applied_revision": 1}"#,
            12,
        )
    };
    let check = |changes: Vec<Change>, expected: &[&[&str]]| {
        let reported = state(changes).unreachable();
        assert_eq!(reported.len(), expected.len(), "{reported:#?}");
        for (line, parts) in reported.iter().zip(expected) {
            assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        }
    };
    let (on_a, on_b) = (r#"{"node": "a"}"#, r#"{"node": "b"}"#);
    let contained = r#"{"node": "a", "container": "c1"}"#;
    // Everything on one host.
    check(
        vec![
            router("a", "127.0.0.1"),
            names("a"),
            instance("127.0.0.1:80", on_a),
            instance("10.0.0.5:80", on_a),
        ],
        &[],
    );
    // An entry without a node is that of nobody in particular: each router may mean its own host.
    check(
        vec![
            router("a", "10.0.0.1"),
            router("b", "10.0.0.2"),
            instance("127.0.0.1:80", "{}"),
        ],
        &[],
    );
    let two = vec![
        router("a", "10.0.0.1"),
        router("b", "10.0.0.2"),
        instance("127.0.0.1:80", on_a),
        instance("10.0.0.5:80", on_b),
    ];
    check(
        two,
        &[&[
            "a@1 of node a",
            "127.0.0.1:80, a loopback address",
            "the router of node b",
            "an address that all routers reach",
        ]],
    );
    check(
        vec![router("a", "127.0.0.1"), names("b")],
        &[&[
            "router of node a",
            "127.0.0.1, a loopback address",
            "dns-updater of node b",
            "--advertise",
        ]],
    );
    check(
        vec![router("a", "127.0.0.1"), instance("172.17.0.2:80", contained)],
        &[&[
            "router of node a",
            "a@1 at 172.17.0.2:80 does not reach this router",
        ]],
    );
    check(
        vec![router("a", "127.0.0.1"), instance("10.0.0.5:80", on_b)],
        &[&["a@1 at 10.0.0.5:80"]],
    );
    // What is gone is not told of.
    let mut state = state(vec![router("b", "10.0.0.2"), instance("127.0.0.1:80", on_a)]);
    assert_eq!(state.unreachable().len(), 1);
    state.gone(&parse("backends/a/1/127.0.0.1:80"));
    assert!(state.unreachable().is_empty());
}

#[test]
fn what_routers_have_counted_is_added_up() {
    let environment = r#"{"name": "dev", "prefix": "d", "header": "d"}"#;
    let counted = |requests: u64, minute: u64| {
        format!(
            r#"{{"backends": [{{"service": "a", "version": "1", "requests": {requests}, "errors": 1}}],
                "used": {{"dev": "2030-01-31T18:{minute:02}:00Z"}}}}"#
        )
    };
    let mut state = state(vec![
        entry("environments/dev", environment, 5),
        entry("traffic/one", &counted(10, 7), 6),
        entry("traffic/two", &counted(20, 5), 7),
        entry("traffic/three", "nonsense", 8),
    ]);
    let shown = |state: &State| {
        let report = crate::report::Report::of(state, None, &BTreeMap::new());
        let used = report.environments[0].last_used_at.map(|at| at.to_string());
        let requests: Vec<u64> = report.traffic.iter().map(|of| of.requests).collect();
        (requests, used)
    };
    let at = |minute: &str| Some(format!("2030-01-31T18:{minute}:00Z"));
    assert_eq!(shown(&state), (vec![30], at("07")));
    state.gone(&parse("traffic/one"));
    assert_eq!(shown(&state), (vec![20], at("05")));
    state.gone(&parse("traffic/two"));
    assert_eq!(shown(&state), (Vec::new(), None));
}

#[test]
fn a_service_that_is_missing_and_probably_misspelt_is_reported() {
    let environment = |name: &str, extends: &str, service: &str| {
        format!(
            r#"{{"name": "{name}", "prefix": "{name}", "header": "{name}"{extends}, "services": [{{"name": "{service}", "version": "2"}}]}}"#
        )
    };
    let reasons = |service: &str, further: Vec<Change>| {
        let mut changes = vec![
            entry("environments/prod", &environment("prod", "", "orders"), 2),
            entry(
                "environments/temp",
                &environment("temp", r#", "extends": "prod""#, service),
                3,
            ),
        ];
        changes.extend(further);
        let state = state(changes);
        state.misspelt(&state.index.view(&"temp".parse().unwrap()).unwrap())
    };
    let meant = "no definition starts service `order`, and the environment above does not name it: did you mean `orders`?";
    assert_eq!(reasons("order", vec![]), [meant]);
    assert_eq!(reasons("orders", vec![]), [""; 0]);
    assert_eq!(reasons("payment", vec![]), [""; 0]);
    let definition = |name: &str| {
        entry(
            &format!("services/{name}"),
            &format!(r#"{{"name": "{name}", "image": "a:{{{{ version }}}}", "port": 80}}"#),
            4,
        )
    };
    assert_eq!(reasons("order", vec![definition("order")]), [""; 0]);
    let mialer = reasons("mialer", vec![definition("mailer")]);
    assert_eq!(
        mialer,
        [
            "no definition starts service `mialer`, and the environment above does not name it: did you mean `mailer`?"
        ]
    );
    let instance = entry("backends/order/2/x", r#"{"address": "10.0.0.1:80"}"#, 5);
    assert_eq!(reasons("order", vec![instance]), [""; 0]);
}

#[test]
fn what_a_registrar_sets_aside_is_reported_of_the_service_that_is_missing() {
    let aside = r#"{"applied_revision": 0, "set_aside": [
        {"key": "container fika_orders-next_1", "reason": "unknown label \"mayfly.servce\""},
        {"key": "container fika_other_1", "reason": "no port"}]}"#;
    let environment =
        r#"{"name": "a", "prefix": "a", "header": "a", "services": [{"name": "orders", "version": "2"}]}"#;
    let state = state(vec![
        entry("environments/a", environment, 2),
        entry("status/container-registrar/host-1", aside, 3),
    ]);
    let view = state.index.view(&"a".parse().unwrap()).unwrap();
    assert_eq!(
        state.aside_of(&view.services[0]),
        ["container fika_orders-next_1 of host-1 is set aside: unknown label \"mayfly.servce\""]
    );
    let reasons = crate::wait::WaitState::of(&state, &view.name).reasons;
    assert!(
        reasons[1].starts_with("container fika_orders-next_1 of host-1"),
        "{reasons:?}"
    );
}
