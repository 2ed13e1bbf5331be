//! What is asked makes the request that it says, and the answer has what only etcd and the launcher
//! know.

use super::*;
use mayfly_core::explain::ShareLinks;
use mayfly_core::keys::KeySpace;
use mayfly_core::launching::Launching;
use mayfly_core::records::{Record, SetAsides};
use mayfly_daemon::watch::{Batch, Change, Stored};

fn explained(status: u16, wanted: &str, launchers: &Launchers) -> ExplainOutput {
    let step = Step {
        step: "instances",
        key: wanted.to_owned(),
        found: None,
        note: None,
    };
    let explanation = Explanation {
        side: Side::Internal,
        steps: vec![step],
        answer: Responder::Router {
            status,
            text: "nobody".to_owned(),
        },
    };
    ExplainOutput::of(explanation, launchers)
}

/// A router without any option.
fn settings() -> Settings {
    Settings {
        domain: "service".parse().unwrap(),
        default_environment: None,
        allow_header_at_edge: false,
        share_links: ShareLinks::Off,
        health_path: None,
        redirect_to_https: None,
    }
}

#[test]
fn where_nobody_answers_the_launcher_is_asked() {
    let backend = |phase| Backend {
        phase,
        wanted: 1,
        live: 0,
        images: [].into(),
        failure: None,
        failures: 2,
        next_try: None,
        output: vec!["no such file".to_owned()],
        not_pulled: None,
    };
    let failed = Phase::Failed {
        reason: "exited with 1".to_owned(),
    };
    let backends = [
        ("a@1".to_owned(), backend(failed)),
        ("b@1".to_owned(), backend(Phase::NoDefinition)),
    ];
    let mut launchers = Launchers::default();
    assert_eq!(explained(503, "a@1", &launchers).explanation.steps.len(), 1);
    launchers.are_there = true;
    let plain = |told: &ExplainOutput| text(told, Look::default());
    let nobody = plain(&explained(503, "a@1", &launchers));
    assert!(nobody.contains(launchers::NONE_LEADS), "{nobody}");
    launchers.leader = Some(launchers::Leader {
        node: "host-1".parse().unwrap(),
        is_current: true,
        launching: Launching {
            leading: true,
            backends: backends.into(),
            ..Launching::default()
        },
    });
    for (wanted, expected) in [
        ("a@1", "failed: exited with 1 (failed 2 times in a row)"),
        ("a@1", "\n  a@1 printed last:\n    no such file\n"),
        ("b@1", "no service definition describes how to start b at 1"),
        ("c@1", "launcher of host-1 reports nothing about it"),
        ("a@^1", "exact versions only, but a is requested as ^1"),
        ("a@latest", "exact versions only, but a is requested as latest"),
    ] {
        let told = plain(&explained(503, wanted, &launchers));
        assert!(told.contains(expected), "no {expected:?} in {told}");
    }
    let needed = |status| needs_attention(&explained(status, "a@1", &launchers), &[]);
    let failed = "launcher a@1: failed: exited with 1 (failed 2 times in a row)";
    assert_eq!(needed(503), [failed, "no router reports"]);
    assert_eq!(needed(404), ["no instances for `a@1`", "no router reports"]);
    assert_eq!(needed(200), ["no router reports"]);
    for (status, wanted) in [(404, "a@1"), (508, "a@1"), (503, "a@http://a.example")] {
        let told = explained(status, wanted, &launchers);
        assert_eq!((told.explanation.steps.len(), told.launching), (1, None));
    }
}

#[test]
fn an_environment_that_has_ended_is_told_rather_than_one_that_is_spelt_alike() {
    let record = |name: &str| {
        format!(
            r#"{{"name": "{name}", "prefix": "www-{name}", "header": "{name}", "expires": "8h", "life": {{"registered_at": "2020-01-01T00:00:00Z"}}}}"#
        )
    };
    let put = |kind: fn(Environment) -> Record, name: &str| {
        Change::Put(Stored {
            record: kind(serde_json::from_str(&record(name)).unwrap()),
            revision: 1.into(),
            lease: None,
        })
    };
    let mut state = State::new(&KeySpace::default(), 1);
    state.take(Batch {
        revision: 1,
        listed: true,
        changes: vec![
            put(Record::History, "temp-1"),
            put(Record::Environment, "temp-2"),
            put(Record::History, "temp-2"),
        ],
        set_aside: SetAsides::default(),
    });
    let settings = settings();
    let note = |side, host: &str, value: Option<&str>| {
        let request = Request {
            side,
            tls: true,
            host: host.to_owned(),
            path: "/".to_owned(),
            query: String::new(),
            cookie: String::new(),
            from: None,
            login: None,
            value: value.map(str::to_owned),
        };
        let mut explanation = state.index.explain(&settings, &request);
        tell_end(&mut explanation, &state, SystemTime::now());
        explanation.steps.pop().unwrap().note.unwrap_or_default()
    };
    let ended = "environment temp-1 has ended: it expired at 2020-01-01T08:00:00Z";
    let outside = note(Side::Edge, "www-temp-1.example.com", None);
    assert!(outside.starts_with(ended), "{outside}");
    let inside = note(Side::Internal, "backend.service", Some("temp-1"));
    assert!(inside.starts_with(ended), "{inside}");
    let other = note(Side::Edge, "www-temp-3.example.com", None);
    assert!(other.starts_with("did you mean"), "{other}");
}

#[test]
fn what_is_only_kept_is_told_with_the_router_that_keeps_it() {
    let settings = settings();
    let put = |record: Record| {
        Change::Put(Stored {
            record,
            revision: 1.into(),
            lease: None,
        })
    };
    let environment = |name: &str| -> Environment {
        let services = serde_json::json!([{"name": "a", "version": "1", "routes": ["/"]}]);
        let record = serde_json::json!({"name": name, "prefix": name, "header": name, "services": services});
        serde_json::from_value(record).unwrap()
    };
    let keeps = ["/mayfly/environments/lost", "/mayfly/backends/a/1/10.0.0.1:80"];
    let detail = serde_json::json!({"guard": "kept", "guard_keeps": keeps, "guard_keeps_all": true});
    let status = serde_json::json!({"applied_revision": 1, "detail": detail});
    let router = (Daemon::HaproxyUpdater, "r1".parse().unwrap());
    let mut state = State::new(&KeySpace::default(), 1);
    state.take(Batch {
        revision: 1,
        listed: true,
        changes: vec![
            put(Record::Environment(environment("there"))),
            put(Record::History(environment("lost"))),
            put(Record::Status(
                router.0,
                router.1,
                serde_json::from_value(status).unwrap(),
            )),
        ],
        set_aside: SetAsides::default(),
    });
    let note = |host: &str| {
        let request = Request {
            side: Side::Edge,
            tls: true,
            host: host.to_owned(),
            path: "/".to_owned(),
            query: String::new(),
            cookie: String::new(),
            from: None,
            login: None,
            value: None,
        };
        let mut explanation = state.index.explain(&settings, &request);
        tell_end(&mut explanation, &state, SystemTime::now());
        tell_kept(&mut explanation, &state);
        explanation.steps.pop().unwrap().note.unwrap_or_default()
    };
    let lost =
        "environment lost vanished from etcd without being deleted: router r1 keeps it (`mayfly status`)";
    assert_eq!(note("lost.example.com"), lost);
    assert_eq!(state.unknown(&"lost".parse().unwrap()), lost);
    let instances = note("there.example.com");
    assert!(
        instances.ends_with(
            "router r1 keeps the vanished instances of this backend while they \
             answer"
        ),
        "{instances}"
    );
}

#[test]
fn what_belongs_to_a_request_from_outside_is_refused_for_a_call_inside() {
    let state = State::new(&KeySpace::default(), 1);
    let inside = ExplainRequest {
        target: "temp-1".to_owned(),
        service: Some("backend".parse().unwrap()),
        ..ExplainRequest::default()
    };
    let error = |asked: &ExplainRequest| explain(&state, asked, SystemTime::now()).unwrap_err().to_string();
    assert!(error(&inside).contains("there is no environment temp-1"));
    for asked in [
        ExplainRequest {
            header: Some("prod".to_owned()),
            ..inside.clone()
        },
        ExplainRequest {
            cookie: "mayfly=prod".to_owned(),
            ..inside.clone()
        },
        ExplainRequest {
            user: Some("guest".parse().unwrap()),
            ..inside.clone()
        },
        ExplainRequest {
            from: Some("10.0.0.1".parse().unwrap()),
            ..inside.clone()
        },
    ] {
        let error = error(&asked);
        assert!(
            error.contains("has the header of that environment"),
            "{asked:?}: {error}"
        );
    }
}

#[test]
fn urls_and_hosts() {
    for (tls, target, host, path, query) in [
        (
            false,
            "http://www-a.example.com:81/api/x?y=1?#z?a",
            "www-a.example.com:81",
            "/api/x",
            "y=1?",
        ),
        (true, "HTTPS://www-a", "www-a", "/", ""),
        (true, "www-a.example.com", "www-a.example.com", "/", ""),
        (true, "www-a/x/", "www-a", "/x/", ""),
        (true, "www-a?x", "www-a", "/", "x"),
    ] {
        let expected = (tls, host.to_owned(), path.to_owned(), query.to_owned());
        assert_eq!(parts(target).unwrap(), expected, "{target}");
    }
    for bad in ["", "/x", "ftp://a/", "http://", "a b"] {
        assert!(parts(bad).is_err(), "{bad}");
    }
    let refused = |target: &str| parts(target).unwrap_err().to_string();
    let user = refused("http://user:secret@www.example.com/");
    assert!(
        user.contains("user name before the `@`") && !user.contains("secret"),
        "{user}"
    );
    // Escaped once: JSON and the terminal do it again.
    let hidden = refused("a\u{202e}\" b");
    assert!(hidden.starts_with("`a\\u{202e}\" b` has no host"), "{hidden}");
}
