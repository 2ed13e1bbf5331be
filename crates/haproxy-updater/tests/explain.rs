//! What core explains is what a real HAProxy does: for generated environments and requests, the same backend or the same
//! refusal in the same words.

#![allow(clippy::unwrap_used)]

mod support;

use std::net::SocketAddr;

use mayfly_core::explain::{Answer, Request, Settings, Side};
use mayfly_e2e::http;
use mayfly_e2e::instance::Service;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use support::Router;

/// How many worlds of environments, and how many requests in each.
const WORLDS: usize = 25;
const REQUESTS: usize = 60;

/// `outside` is where a server outside answers.
fn an_environment(outside: SocketAddr) -> impl Strategy<Value = Value> {
    let version = prop_oneof![
        8 => "[12]|1\\.5|9|latest|\\^1|\\*",
        1 => Just(format!("http://{outside}")),
        1 => Just("http://own.service:80".to_owned()),
    ];
    let service = (
        "[st]",
        version,
        proptest::collection::vec("/|/[ab]|/[ab]/[ab]|/a/b/a", 0..3),
    )
        .prop_map(|(name, version, routes)| json!({"name": name, "version": version, "routes": routes}));
    (
        "[a-e]",
        proptest::option::of("[a-e]"),
        prop_oneof![4 => Just(None), 1 => "www-[a-e]".prop_map(Some)],
        prop_oneof![4 => Just(None), 1 => "[a-e]|h-[a-e]".prop_map(Some)],
        proptest::collection::vec(service, 0..6),
    )
        .prop_map(|(name, extends, prefix, header, services)| {
            let prefix = prefix.unwrap_or_else(|| format!("www-{name}"));
            let header = header.unwrap_or_else(|| name.clone());
            json!({"name": name, "extends": extends, "prefix": prefix, "header": header, "services": services})
        })
}

/// Segments that a server may take for `..`, and those that none does.
const A_CLIMBING_PATH: &str = "(/|\\\\|%2[fF]|%5c|%25(25)?2f)?/?(a|b)?(/|\\\\|%2f|%5C|%252F)(\\.|%2[eE]|%252e){1,3}(/|\\\\|;|;x|%2f|%5c|%3b|%00|%3F|%23|a|%)?(a|/b)?";

fn a_request() -> impl Strategy<Value = Request> {
    let outside = (
        prop_oneof![3 => "www-[a-e]\\.x", 1 => "(www-[a-f]|WWW-[A-E]|a|)(\\.example\\.com)?\\.?(:80)?"],
        prop_oneof![6 => "(/[ab]){0,4}(/|/ab|//a)?", 1 => A_CLIMBING_PATH],
        proptest::option::of("[a-e]|[a-e](,|, )[a-e]"),
    )
        .prop_map(|(host, path, value)| (Side::Edge, host, path, value));
    let inside = (
        "[st]\\.service|[stu]\\.service(:80)?|S\\.Service\\.|[stu]|S:80|service|s\\.t\\.service|s\\.example\\.com",
        "/",
        proptest::option::weighted(0.8, "[a-e]|[a-f]|h-[a-e]|[ab](,|, | ,)[ab]|[a-e],|,+[a-e],,"),
    )
        .prop_map(|(host, path, value)| (Side::Internal, host, path.to_owned(), value));
    prop_oneof![outside, inside].prop_map(|(side, host, path, value)| Request {
        side,
        // An empty host is no host to the client of these tests.
        host: if host.starts_with(['.', ':']) {
            "x".to_owned() + &host
        } else {
            host
        },
        path: if path.starts_with('/') {
            path
        } else {
            format!("/{path}")
        },
        value,
    })
}

/// What HAProxy does with a request, as `backend; origin` or the text of its refusal.
async fn ask(router: &Router, request: &Request) -> String {
    let mut sent = http::Request::get(&request.host, &request.path);
    if let Some(value) = &request.value {
        sent = sent.header("x-mayfly", value);
    }
    let to = match request.side {
        Side::Edge => router.edge,
        Side::Internal => router.internal,
    };
    let answer = sent.send(to).await.unwrap();
    match answer.headers.get("x-mayfly-answered-by") {
        Some(by) if answer.status == 200 => by.clone(),
        _ => answer.body.trim_end().to_owned(),
    }
}

async fn agree(flags: &[&str], settings: &Settings) {
    // The service outside is at loopback.
    let common = [
        "--slots",
        "32",
        "--answered-by",
        "everywhere",
        "--allow-address",
        "127.0.0.0/8",
    ];
    let mut router = Router::new(&[&common, flags].concat());
    let mut instances = Vec::new();
    for backend in ["s@1", "s@2", "t@1", "t@1.5"] {
        let (name, version) = backend.split_once('@').unwrap();
        let instance = Service::start(name, version).await.unwrap();
        router.instance(backend, instance.address());
        instances.push(instance);
    }
    let outside = Service::start("outside", "0").await.unwrap();
    let draining = instances[1].address();
    router.instance_with("t@3", draining, json!({"state": "draining"}));
    router.instance_with("s@9", draining, json!({"weight": 0}));
    // What no environment names any more keeps its slot until its connections have ended.
    let address = format!("http://{}", outside.address());
    let services = ["s", "t"].map(|name| json!({"name": name, "version": address}));
    router.put(
        "environments/keeper",
        &json!({"name": "keeper", "prefix": "keeper", "header": "keeper", "services": services}),
    );
    router.run().await;
    let mut runner = TestRunner::deterministic();
    let (mut answered, mut refused) = (0, 0);
    for _ in 0..WORLDS {
        for name in ["a", "b", "c", "d", "e"] {
            router.delete(&format!("environments/{name}"));
        }
        let world = proptest::collection::vec(an_environment(outside.address()), 3..9);
        let world = world.new_tree(&mut runner).unwrap().current();
        for environment in &world {
            let key = format!("environments/{}", environment["name"].as_str().unwrap());
            router.put(&key, environment);
        }
        router.apply().await;
        for _ in 0..REQUESTS {
            let request = a_request().new_tree(&mut runner).unwrap().current();
            let explanation = router.engine.index.explain(settings, &request);
            let expected = match &explanation.answer {
                Answer::Backend { backend, origin, .. } => format!("{backend}; {origin}"),
                Answer::Router { text, .. } => text.clone(),
            };
            *if explanation.answer.is_good() {
                &mut answered
            } else {
                &mut refused
            } += 1;
            let found = ask(&router, &request).await;
            assert_eq!(found, expected, "{request:?}\n{world:#?}\n{explanation:#?}");
        }
    }
    // Else the generator has become blind for one or the other.
    assert!(
        answered > 100 && refused > 100,
        "{answered} answered, {refused} refused"
    );
}

#[tokio::test]
async fn what_is_explained_is_what_haproxy_does() {
    let settings = Settings {
        domain: "service".parse().unwrap(),
        default_environment: None,
        allow_header_at_edge: false,
        health_path: None,
    };
    agree(&[], &settings).await;
}

#[tokio::test]
async fn with_other_settings_too() {
    let settings = Settings {
        domain: "service".parse().unwrap(),
        default_environment: Some("a".parse().unwrap()),
        allow_header_at_edge: true,
        health_path: None,
    };
    agree(
        &["--default-environment", "a", "--allow-header-at-edge"],
        &settings,
    )
    .await;
}
