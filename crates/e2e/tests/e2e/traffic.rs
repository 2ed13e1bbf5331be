//! Requests, errors and times of each backend, and the last use of environments: with a real
//! HAProxy, through a reload, until a version is gone.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::{eventually, port};
use serde_json::Value;

/// HAProxy is asked every 15 s.
const READ: Duration = Duration::from_secs(45);

/// The series of a backend at `/metrics`, by the name of the metric.
async fn series(admin: SocketAddr, service: &str, version: &str) -> BTreeMap<String, f64> {
    let metrics = Request::get("x", "/metrics").send(admin).await.unwrap().body;
    mayfly_e2e::metrics::check(&metrics).unwrap();
    let labels = format!("{{service=\"{service}\",version=\"{version}\"}} ");
    let found = metrics.lines().filter_map(|line| line.split_once(&labels));
    found
        .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
        .collect()
}

/// The record of the router, as far as it is about a backend.
async fn recorded(mayfly: &Mayfly, service: &str, version: &str) -> Option<Value> {
    let record = mayfly.etcd.get_json("/mayfly/traffic/test").await.ok()?;
    let mut backends = record["backends"].as_array()?.iter();
    backends
        .find(|of| of["service"] == service && of["version"] == version)
        .cloned()
}

/// Sends requests, of which each tenth gets a 500.
async fn send(mayfly: &Mayfly, host: &str, count: u32) {
    for number in 0..count {
        let path = if number % 10 == 7 { "/?status=500" } else { "/" };
        mayfly.get(host, path).await.unwrap();
    }
}

/// What HAProxy's process has counted of a version: its requests, and those with a status of 5xx.
/// What it took until it answered first is among them.
async fn counted(mayfly: &Mayfly, version: &str) -> (f64, f64) {
    let slots = mayfly.haproxy.map(&mayfly.map_file("slots")).await.unwrap();
    let slot = &slots[&format!("frontend@{version}")];
    let all = mayfly.haproxy.ask("show stat -1 2 -1").await.unwrap();
    let header = all.lines().next().unwrap().trim_start_matches("# ");
    let line = all.lines().find(|line| line.starts_with(&format!("{slot},")));
    let number = |name: &str| -> f64 {
        let place = header.split(',').position(|column| column == name).unwrap();
        line.unwrap().split(',').nth(place).unwrap().parse().unwrap()
    };
    (number("req_tot"), number("hrsp_5xx"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_and_errors_are_right_through_a_reload_and_end_with_their_version() {
    let admin = port::free();
    let mut mayfly = Mayfly::start_with(&["--admin", &admin.to_string()])
        .await
        .unwrap();
    let _one = mayfly.instance("frontend", "0.0.1").await.unwrap();
    let mut two = mayfly.instance("frontend", "0.0.2").await.unwrap();
    mayfly.save(
        "both.yaml",
        "- {name: one, services: [{name: frontend, version: 0.0.1, route: /}]}\n\
         - {name: two, services: [{name: frontend, version: 0.0.2, route: /}]}\n",
    );
    mayfly.answers("www-one.example.com", "frontend@0.0.1").await;
    mayfly.answers("www-two.example.com", "frontend@0.0.2").await;
    let requests = async |version: &str| {
        let series = series(admin, "frontend", version).await;
        let of = |name: &str| series.get(name).copied();
        (
            of("mayfly_requests_total"),
            of("mayfly_request_errors_total"),
            of("mayfly_request_connection_errors_total"),
        )
    };
    send(&mayfly, "www-one.example.com", 100).await;
    let first = counted(&mayfly, "0.0.1").await;
    assert!((101.0..140.0).contains(&first.0), "{first:?}");
    assert!((10.0..14.0).contains(&first.1), "{first:?}");
    eventually(READ, "100 requests and 10 errors are counted", async || {
        requests("0.0.1").await == (Some(first.0), Some(first.1), Some(0.0))
    })
    .await;
    let mean = series(admin, "frontend", "0.0.1").await["mayfly_request_mean_seconds"];
    assert!((0.0..1.0).contains(&mean), "{mean}");
    // It may have been written a moment before the last requests, and is so once a minute.
    eventually(READ * 2, "the record in etcd says so", async || {
        recorded(&mayfly, "frontend", "0.0.1").await.is_some_and(|of| {
            of["requests"].as_f64() == Some(first.0) && of["errors"].as_f64() == Some(first.1)
        })
    })
    .await;
    let lease = mayfly.etcd.lease_of("/mayfly/traffic/test").await.unwrap();
    assert!(lease.is_some(), "it goes with its router");

    // A new process counts from 0.
    mayfly.haproxy.reload().await.unwrap();
    mayfly.answers("www-one.example.com", "frontend@0.0.1").await;
    send(&mayfly, "www-one.example.com", 30).await;
    let second = counted(&mayfly, "0.0.1").await;
    eventually(READ, "the requests since the reload are added", async || {
        requests("0.0.1").await == (Some(first.0 + second.0), Some(first.1 + second.1), Some(0.0))
    })
    .await;

    // A version that is gone takes its series along.
    assert_ne!(requests("0.0.2").await.0, None);
    mayfly.save(
        "both.yaml",
        "- {name: one, services: [{name: frontend, version: 0.0.1, route: /}]}\n",
    );
    two.registrar.terminate(SOON).await.unwrap();
    eventually(READ, "its series are gone", async || {
        series(admin, "frontend", "0.0.2").await.is_empty()
    })
    .await;
    assert_eq!(requests("0.0.1").await.0, Some(first.0 + second.0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_use_of_environments_is_known_after_a_restart() {
    let mut mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "0.0.1").await.unwrap();
    mayfly.save(
        "all.yaml",
        "- {name: used, extends: base, services: []}\n- {name: unused, services: []}\n\
         - {name: base, services: [{name: frontend, version: 0.0.1, route: /}]}\n",
    );
    mayfly.answers("www-used.example.com", "frontend@0.0.1").await;
    let used = async |mayfly: &Mayfly| -> Vec<String> {
        let record = mayfly.etcd.get_json("/mayfly/traffic/test").await;
        let used = record.map(|record| record["used"].clone()).unwrap_or_default();
        used.as_object()
            .map(|used| used.keys().cloned().collect())
            .unwrap_or_default()
    };
    let limit = Duration::from_secs(100);
    eventually(
        limit,
        "the use of an environment and its parent is known",
        async || used(&mayfly).await == ["base", "used"],
    )
    .await;
    mayfly.updater.take().unwrap().kill9().await.unwrap();
    mayfly.start_updater().unwrap();
    eventually(limit, "it is known again, without a request", async || {
        used(&mayfly).await == ["base", "used"]
    })
    .await;
}
