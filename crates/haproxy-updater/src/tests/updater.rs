//! The whole daemon in this process, with a real etcd and a real HAProxy: what it says of itself, and what it does
//! when one of them goes away.

use std::time::Duration;

use crate::args::Arguments;
use clap::Parser as _;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::port;
use serde_json::{Value, json};

use super::support::{LIMIT, Router};

/// etcd, the daemon, and a router whose own applier does nothing: it only starts HAProxy and asks it.
struct System {
    etcd: Etcd,
    router: Router,
    admin: std::net::SocketAddr,
    shutdown: Shutdown,
    daemon: tokio::task::JoinHandle<anyhow::Result<std::process::ExitCode>>,
}

impl System {
    async fn start(flags: &[&str]) -> Self {
        let (etcd, router, admin) = (Etcd::start().await.unwrap(), Router::new(&[]), port::free());
        let shutdown = Shutdown::new();
        let daemon = start(&etcd, &router, admin, &shutdown, flags);
        let mut system = Self {
            etcd,
            router,
            admin,
            shutdown,
            daemon,
        };
        let config = system.router.path("haproxy.cfg");
        eventually(LIMIT, "haproxy.cfg is written", async || {
            std::path::Path::new(&config).exists()
        })
        .await;
        assert_eq!(system.ready().await, 503, "HAProxy does not run yet");
        system.router.start().await;
        eventually(LIMIT, "the daemon is ready", async || system.ready().await == 200).await;
        system
    }

    async fn ready(&self) -> u16 {
        let answer = Request::get("admin", "/readyz").send(self.admin).await;
        answer.map_or(0, |answer| answer.status)
    }

    async fn status(&self) -> Value {
        self.etcd
            .get_json("/mayfly/status/haproxy-updater/n1")
            .await
            .unwrap_or_default()
    }

    async fn environment(&self, name: &str, services: Value) {
        let record =
            json!({"name": name, "prefix": format!("www-{name}"), "header": name, "services": services});
        self.etcd
            .put(&format!("/mayfly/environments/{name}"), &record.to_string())
            .await
            .unwrap();
    }

    async fn instance(&self, backend: &str, instance: &Service) {
        let key = format!(
            "/mayfly/backends/{}/{}",
            backend.replace('@', "/"),
            instance.address()
        );
        self.etcd
            .put(
                &key,
                &json!({"address": instance.address().to_string()}).to_string(),
            )
            .await
            .unwrap();
    }

    async fn answers(&self, environment: &str, backend: &str) {
        let host = format!("www-{environment}.example.com");
        eventually(LIMIT, &format!("{host} answers from {backend}"), async || {
            let answer = Request::get(&host, "/").send(self.router.edge).await;
            answer.is_ok_and(|answer| answer.backend().is_ok_and(|found| found == backend))
        })
        .await;
    }
}

fn start(
    etcd: &Etcd,
    router: &Router,
    admin: std::net::SocketAddr,
    shutdown: &Shutdown,
    flags: &[&str],
) -> tokio::task::JoinHandle<anyhow::Result<std::process::ExitCode>> {
    let mut line: Vec<String> = vec!["haproxy-updater".to_owned()];
    let pairs = [
        ("--etcd", etcd.endpoint()),
        ("--node", "n1".to_owned()),
        ("--admin", admin.to_string()),
        ("--dir", router.dir.path().to_str().unwrap().to_owned()),
        ("--edge-bind", router.edge.to_string()),
        ("--internal-bind", router.internal.to_string()),
        ("--haproxy", super::support::program()),
        ("--advertise", "192.0.2.7".to_owned()),
    ];
    line.extend(
        pairs
            .into_iter()
            .flat_map(|(flag, value)| [flag.to_owned(), value]),
    );
    line.extend(flags.iter().map(|&flag| flag.to_owned()));
    let arguments = Arguments::try_parse_from(line).unwrap();
    tokio::spawn(crate::run(arguments, shutdown.clone()))
}

#[tokio::test]
async fn it_says_what_is_applied_and_what_is_set_aside() {
    let system = System::start(&["--slots", "16"]).await;
    let instance = Service::start("a", "1").await.unwrap();
    system.instance("a@1", &instance).await;
    system.etcd.put("/mayfly/environments/broken", "{").await.unwrap();
    system
        .environment("prod", json!([{"name": "a", "version": "1", "routes": ["/"]}]))
        .await;
    system.answers("prod", "a@1").await;

    let status = eventually(LIMIT, "the status tells of all", async || {
        let status = system.status().await;
        (status["detail"]["slots_used"] == 1 && status["set_aside"].is_array()).then_some(status)
    })
    .await;
    assert_eq!(status["ready"], true);
    assert!(
        status["applied_revision"].as_i64().unwrap() > 1 && status["applied_at"].is_string(),
        "{status}"
    );
    assert_eq!(status["set_aside"][0]["key"], "/mayfly/environments/broken");
    assert_eq!(status["detail"]["reloads"], 0);
    assert_eq!(status["detail"]["slots_total"], 16);
    let version = status["detail"]["haproxy_version"].as_str().unwrap();
    let router = system.etcd.get_json("/mayfly/routers/n1").await.unwrap();
    assert_eq!(
        router,
        json!({"address": "192.0.2.7", "haproxy_version": version})
    );

    let metrics = Request::get("admin", "/metrics")
        .send(system.admin)
        .await
        .unwrap()
        .body;
    mayfly_e2e::metrics::check(&metrics).unwrap();
    for line in [
        "mayfly_haproxy_reloads_total 0",
        "mayfly_haproxy_slots_free 15",
        "mayfly_set_aside 1",
        "mayfly_haproxy_up 1",
    ] {
        assert!(
            metrics.lines().any(|found| found == line),
            "no {line} in {metrics}"
        );
    }

    // Its end leaves HAProxy and the files as they are.
    system.shutdown.begin();
    system.daemon.await.unwrap().unwrap();
    let answer = system.router.outside("www-prod.x", "/").await;
    assert_eq!(answer.backend().unwrap(), "a@1");
    assert!(
        std::fs::read_to_string(system.router.path("maps/edge.map"))
            .unwrap()
            .contains("www-prod prod")
    );
}

#[tokio::test]
async fn haproxy_killed_is_in_sync_again_within_a_second_of_its_return() {
    let mut system = System::start(&["--slots", "16"]).await;
    let (one, two) = (
        Service::start("a", "1").await.unwrap(),
        Service::start("a", "2").await.unwrap(),
    );
    system.instance("a@1", &one).await;
    system
        .environment("prod", json!([{"name": "a", "version": "1", "routes": ["/"]}]))
        .await;
    system.answers("prod", "a@1").await;
    for round in 0..3 {
        // The last changes are not on disk yet when it dies, and more come while it is away.
        system.instance("a@2", &two).await;
        system
            .environment("prod", json!([{"name": "a", "version": "2", "routes": ["/"]}]))
            .await;
        system.answers("prod", "a@2").await;
        system.router.kill().await;
        eventually(LIMIT, "without HAProxy it is not ready", async || {
            system.ready().await == 503
        })
        .await;
        system
            .environment(
                &format!("new-{round}"),
                json!([{"name": "a", "version": "latest", "routes": ["/"]}]),
            )
            .await;
        system.router.start().await;
        let returned = std::time::Instant::now();
        system.answers(&format!("new-{round}"), "a@2").await;
        system.answers("prod", "a@2").await;
        assert!(
            returned.elapsed() < Duration::from_secs(1),
            "{:?}",
            returned.elapsed()
        );
        eventually(LIMIT, "it is ready again", async || system.ready().await == 200).await;
        system
            .environment("prod", json!([{"name": "a", "version": "1", "routes": ["/"]}]))
            .await;
        system.answers("prod", "a@1").await;
    }
    assert_eq!(system.status().await["detail"]["reloads"], 0);
}

#[tokio::test]
async fn without_etcd_everything_goes_on_and_a_new_updater_changes_nothing() {
    let mut system = System::start(&["--slots", "16"]).await;
    let instance = Service::start("a", "1").await.unwrap();
    system.instance("a@1", &instance).await;
    system
        .environment("prod", json!([{"name": "a", "version": "1", "routes": ["/"]}]))
        .await;
    system.answers("prod", "a@1").await;
    let edge = system.router.path("maps/edge.map");
    eventually(LIMIT, "the files are written", async || {
        std::fs::read_to_string(&edge).is_ok_and(|text| text.contains("prod"))
    })
    .await;

    system.etcd.kill9().await.unwrap();
    system.shutdown.begin();
    (&mut system.daemon).await.unwrap().unwrap();
    let shutdown = Shutdown::new();
    let _daemon = start(
        &system.etcd,
        &system.router,
        system.admin,
        &shutdown,
        &["--slots", "16"],
    );
    eventually(LIMIT, "the new updater runs", async || {
        system.ready().await == 503
    })
    .await;
    mayfly_e2e::poll::throughout(Duration::from_millis(600), "prod answers", async || {
        system.router.outside("www-prod.x", "/").await.status == 200
    })
    .await;
    assert!(
        std::fs::read_to_string(&edge).unwrap().contains("prod"),
        "no listing, no change"
    );

    system.etcd.restart().await.unwrap();
    eventually(LIMIT, "the new updater is ready", async || {
        system.ready().await == 200
    })
    .await;
    system.answers("prod", "a@1").await;
}
