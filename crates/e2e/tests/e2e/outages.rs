//! Outages are boring: what [`crate::faults`] has no load for.

use std::time::Duration;

use mayfly_e2e::eventually;
use mayfly_e2e::instance::Service;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::Process;

fn environment(version: &str) -> String {
    format!("name: prod\nprefix: www\nservices:\n  - {{name: web, version: {version}, route: /}}\n")
}

/// `www` on web 1.0.0, while 2.0.0 lives too.
async fn mayfly() -> (Mayfly, Vec<(Process, Service)>) {
    let mayfly = Mayfly::start().await.unwrap();
    let mut instances = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        let service = Service::start("web", version).await.unwrap();
        let registrar = mayfly
            .register("web", version, service.address(), &["--ttl", "3s"])
            .unwrap();
        instances.push((registrar, service));
    }
    mayfly.save("prod.yaml", &environment("1.0.0"));
    mayfly.answers("www.example.com", "web@1.0.0").await;
    mayfly.save(
        "dev.yaml",
        "{name: dev, services: [{name: web, version: 2.0.0, route: /}]}",
    );
    mayfly.answers("www-dev.example.com", "web@2.0.0").await;
    (mayfly, instances)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_updater_stops_in_good_order_and_haproxy_routes_on() {
    let (mut mayfly, _instances) = mayfly().await;
    registered(&mayfly).await;
    let status = mayfly.updater.as_mut().unwrap().terminate(SOON).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(
        mayfly
            .get("www.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@1.0.0"
    );
    // Its record ends with the lease, unless it is back before: a restart moves no name.
    assert!(
        mayfly
            .etcd
            .lease_of("/mayfly/routers/test")
            .await
            .unwrap()
            .is_some()
    );
}

/// Waits until the router is registered: once HAProxy answers, and has told its version.
async fn registered(mayfly: &Mayfly) {
    eventually(SOON, "the router is registered", async || {
        let record = mayfly.etcd.get_json("/mayfly/routers/test").await;
        record.is_ok_and(|record| {
            record["haproxy_version"]
                .as_str()
                .is_some_and(|version| !version.is_empty())
        })
    })
    .await;
}

/// Waits until a map's file has a row: files follow a run-time change shortly.
async fn on_disk(mayfly: &Mayfly, map: &str, row: [&str; 2]) {
    let file = mayfly.map_file(map);
    eventually(SOON, &format!("{} has {row:?}", file.display()), async || {
        let rows = std::fs::read_to_string(&file).unwrap();
        rows.lines().any(|found| found.split_whitespace().eq(row))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_restarted_while_the_updater_is_gone_still_routes() {
    let (mut mayfly, _instances) = mayfly().await;
    mayfly.save("prod.yaml", &environment("2.0.0"));
    mayfly.answers("www.example.com", "web@2.0.0").await;
    for (map, row) in [
        ("versions", ["prod/web", "web@2.0.0"]),
        ("versions", ["dev/web", "web@2.0.0"]),
        ("edge", ["www", "prod"]),
        ("edge", ["www-dev", "dev"]),
    ] {
        on_disk(&mayfly, map, row).await;
    }
    eventually(SOON, "the configuration lists both servers", async || {
        let config = std::fs::read_to_string(mayfly.haproxy_directory().join("haproxy.cfg")).unwrap();
        config
            .lines()
            .filter(|line| line.trim_start().starts_with("server "))
            .count()
            == 2
    })
    .await;
    mayfly.updater.as_mut().unwrap().kill9().await.unwrap();
    mayfly.haproxy.restart().await.unwrap();
    assert_eq!(
        mayfly
            .get("www.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@2.0.0"
    );
    assert_eq!(
        mayfly
            .get("www-dev.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@2.0.0"
    );
    // The updater comes back without a reload.
    let worker = mayfly.haproxy.worker().await.unwrap();
    mayfly.start_updater().unwrap();
    mayfly.save("prod.yaml", &environment("1.0.0"));
    mayfly.answers("www.example.com", "web@1.0.0").await;
    assert_eq!(
        mayfly.haproxy.worker().await.unwrap(),
        worker,
        "HAProxy was reloaded"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_environment_registrar_gone_environments_stay() {
    let (mut mayfly, _instances) = mayfly().await;
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    let routed = async || mayfly.get("www.example.com", "/").await.unwrap().status == 200;
    mayfly_e2e::poll::throughout(Duration::from_secs(2), "www is routed on", routed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_etcd_last_while_nothing_happens() {
    let (mayfly, instances) = mayfly().await;
    let changes = async || {
        let all = mayfly.etcd.list("/mayfly/").await.unwrap();
        all.into_iter()
            // Routers count on, and say so once a minute.
            .filter(|(key, _)| !key.starts_with("/mayfly/status/") && !key.starts_with("/mayfly/traffic/"))
            .collect::<Vec<_>>()
    };
    registered(&mayfly).await;
    let before = changes().await;
    // etcd throws out a client that pings too often, but only after some time.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(changes().await, before);
    let daemons = [
        mayfly.updater.as_ref(),
        mayfly.registrar.as_ref(),
        Some(&instances[0].0),
    ];
    for daemon in daemons.into_iter().flatten() {
        let output = daemon.output();
        let troubles: Vec<&str> = output
            .lines()
            .filter(|line| line.contains("etcd at 127."))
            .collect();
        assert!(troubles.is_empty(), "{}: {troubles:#?}", daemon.name());
    }
}
