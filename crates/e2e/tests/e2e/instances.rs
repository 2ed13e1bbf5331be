//! The container registrar: what it registers, when it takes an instance out, and how it survives.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mayfly_e2e::instance::Service;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::binary;
use mayfly_e2e::process::{Process, Signal};
use mayfly_e2e::{eventually, port};
use serde_json::Value;

const BACKENDS: &str = "/mayfly/backends/";

/// etcd alone: most of what a registrar does shows there.
async fn etcd() -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly
}

/// Waits until exactly `count` instances are registered, and returns them as key and value.
async fn registered(mayfly: &Mayfly, count: usize) -> Vec<(String, Value)> {
    eventually(
        SOON,
        &format!("{count} instances are registered"),
        async || -> Result<_> {
            let all = mayfly.etcd.list(BACKENDS).await?;
            ensure!(all.len() == count, "registered are {all:#?}");
            Ok(all
                .into_iter()
                .map(|(key, value)| (key, serde_json::from_str(&value).unwrap()))
                .collect())
        },
    )
    .await
}

#[tokio::test]
async fn the_arguments_of_the_first_mayfly() {
    let mayfly = etcd().await;
    let service = Service::start("backend", "0.0.1").await.unwrap();
    let address = service.address();
    let mut registrar = mayfly.register("backend.service", "0.0.1", address, &[]).unwrap();
    let (key, value) = registered(&mayfly, 1).await.remove(0);
    assert!(key.starts_with("/mayfly/backends/backend/0.0.1/"), "{key}");
    assert_eq!(value["address"], address.to_string());
    assert!(
        mayfly.etcd.lease_of(&key).await.unwrap().is_some(),
        "the key hangs on no lease"
    );
    let list = mayfly
        .run("container-registrar", &["list"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    for part in ["backend", "0.0.1", &address.to_string()] {
        assert!(list.contains(part), "{part} in\n{list}");
    }
    for (arguments, shown) in [
        (&["list", "backend"][..], true),
        (&["list", "backend.service", "0.0.1"], true),
        (&["list", "backend", "0.0.2"], false),
        (&["list", "frontend"], false),
    ] {
        let list = mayfly
            .run("container-registrar", arguments)
            .await
            .unwrap()
            .ok()
            .unwrap();
        assert_eq!(
            list.contains(&address.to_string()),
            shown,
            "{arguments:?}:\n{list}"
        );
    }
    assert_eq!(registrar.terminate(SOON).await.unwrap().code(), Some(0));
    registered(&mayfly, 0).await;
}

#[tokio::test]
async fn deregister_takes_an_instance_out() {
    let mayfly = etcd().await;
    let service = Service::start("backend", "0.0.1").await.unwrap();
    let (ip, port) = (
        service.address().ip().to_string(),
        service.address().port().to_string(),
    );
    let mut registrar = mayfly
        .register("backend", "0.0.1", service.address(), &["--ttl", "300s"])
        .unwrap();
    registered(&mayfly, 1).await;
    // Its registrar crashed, and the lease is long: somebody tidies up.
    registrar.kill9().await.unwrap();
    registered(&mayfly, 1).await;
    let arguments = ["deregister", "backend.service", "0.0.1", &ip, &port];
    mayfly
        .run("container-registrar", &arguments)
        .await
        .unwrap()
        .ok()
        .unwrap();
    registered(&mayfly, 0).await;
}

#[tokio::test]
async fn wrong_arguments_are_usage_errors() {
    let mayfly = etcd().await;
    for arguments in [
        &["register"][..],
        &["register", "Bad_Service", "1", "127.0.0.1", "80"],
        &["register", "backend", "a b", "127.0.0.1", "80"],
        &["register", "backend", "1", "127.0.0.1", "0"],
        &["register", "backend", "1", "127.0.0.1", "65536"],
        &["register", "backend", "1", "127.0.0.1", "80", "--ttl", "soon"],
        &["register", "backend", "1", "127.0.0.1", "80\nserver"],
    ] {
        let finished = mayfly.run("container-registrar", arguments).await.unwrap();
        assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
    }
    assert!(mayfly.etcd.list(BACKENDS).await.unwrap().is_empty());
}

#[tokio::test]
async fn several_endpoints_and_the_old_name_of_the_flag() {
    let mayfly = etcd().await;
    let service = Service::start("backend", "0.0.1").await.unwrap();
    let (ip, port) = (
        service.address().ip().to_string(),
        service.address().port().to_string(),
    );
    // Nobody listens at the first endpoint.
    let endpoints = format!("http://{},{}", port::free(), mayfly.etcd.address());
    let mut command = Command::new(binary("container-registrar").unwrap());
    command.args(["register", "backend", "0.0.1", &ip, &port, "--peer", &endpoints]);
    let _registrar = mayfly.spawn("registrar", &command).unwrap();
    registered(&mayfly, 1).await;
}

#[tokio::test]
async fn only_what_answers_is_registered_by_tcp() {
    let mayfly = etcd().await;
    let address = port::free();
    let arguments = [
        "--check",
        "tcp",
        "--check-interval",
        "50ms",
        "--fall",
        "2",
        "--rise",
        "2",
    ];
    let mut registrar = mayfly.register("backend", "0.0.1", address, &arguments).unwrap();
    let nobody = async || mayfly.etcd.list(BACKENDS).await.unwrap().is_empty();
    mayfly_e2e::poll::throughout(
        Duration::from_millis(500),
        "what does not answer is not registered",
        nobody,
    )
    .await;
    let service = Service::start_at(address, "backend", "0.0.1", None)
        .await
        .unwrap();
    registered(&mayfly, 1).await;
    drop(service);
    registered(&mayfly, 0).await;
    let _service = Service::start_at(address, "backend", "0.0.1", None)
        .await
        .unwrap();
    registered(&mayfly, 1).await;
    assert!(registrar.is_running());
}

#[tokio::test]
async fn an_http_check_takes_it_out_after_failures_in_a_row_and_back_after_successes() {
    let mayfly = etcd().await;
    let health = Health::start().await;
    let arguments = [
        "--check",
        "/health",
        "--check-interval",
        "60ms",
        "--fall",
        "4",
        "--rise",
        "3",
    ];
    let _registrar = mayfly
        .register("backend", "0.0.1", health.address, &arguments)
        .unwrap();
    registered(&mayfly, 1).await;
    // Flapping: never four failures in a row.
    for _ in 0..3 {
        health.answer_with(503);
        health.after_checks(2).await;
        health.answer_with(200);
        health.after_checks(1).await;
        assert_eq!(
            mayfly.etcd.list(BACKENDS).await.unwrap().len(),
            1,
            "one failed check must not toggle it"
        );
    }
    health.answer_with(503);
    let from = Instant::now();
    registered(&mayfly, 0).await;
    assert!(
        from.elapsed() > Duration::from_millis(120),
        "out after {:?}",
        from.elapsed()
    );
    health.answer_with(200);
    registered(&mayfly, 1).await;
}

#[tokio::test]
async fn a_hanging_check_counts_as_failed() {
    let mayfly = etcd().await;
    // Accepts by backlog, and never answers.
    let listener = tokio::net::TcpListener::bind(port::free()).await.unwrap();
    let arguments = [
        "--check",
        "/health",
        "--check-interval",
        "50ms",
        "--check-timeout",
        "200ms",
    ];
    let mut registrar = mayfly
        .register("backend", "0.0.1", listener.local_addr().unwrap(), &arguments)
        .unwrap();
    let nobody = async || mayfly.etcd.list(BACKENDS).await.unwrap().is_empty();
    mayfly_e2e::poll::throughout(Duration::from_secs(1), "what hangs is not registered", nobody).await;
    assert!(registrar.is_running());
}

#[tokio::test]
async fn sigterm_drains_and_then_removes() {
    let mayfly = etcd().await;
    let service = Service::start("backend", "0.0.1").await.unwrap();
    let mut registrar = mayfly
        .register("backend", "0.0.1", service.address(), &["--drain", "1s"])
        .unwrap();
    registered(&mayfly, 1).await;
    let start = Instant::now();
    registrar.signal(Signal::Term).unwrap();
    eventually(SOON, "it is marked as draining", async || {
        mayfly
            .etcd
            .list(BACKENDS)
            .await
            .unwrap()
            .values()
            .any(|value| value.contains("draining"))
    })
    .await;
    assert!(registrar.is_running());
    let status = registrar.wait(SOON).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(
        start.elapsed() >= Duration::from_secs(1),
        "gone after {:?}",
        start.elapsed()
    );
    assert!(mayfly.etcd.list(BACKENDS).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_second_signal_ends_the_drain_at_once() {
    let mayfly = etcd().await;
    let service = Service::start("backend", "0.0.1").await.unwrap();
    let mut registrar = mayfly
        .register("backend", "0.0.1", service.address(), &["--drain", "60s"])
        .unwrap();
    registered(&mayfly, 1).await;
    registrar.signal(Signal::Term).unwrap();
    eventually(SOON, "it is marked as draining", async || {
        mayfly
            .etcd
            .list(BACKENDS)
            .await
            .unwrap()
            .values()
            .any(|value| value.contains("draining"))
    })
    .await;
    registrar.signal(Signal::Term).unwrap();
    registrar.wait(SOON).await.unwrap();
}

#[tokio::test]
async fn a_crashed_registrar_loses_its_key_with_the_lease() {
    let mayfly = etcd().await;
    let service = Service::start("backend", "0.0.1").await.unwrap();
    let mut registrar = mayfly
        .register("backend", "0.0.1", service.address(), &["--ttl", "2s"])
        .unwrap();
    registered(&mayfly, 1).await;
    // Longer than the TTL: it is kept alive.
    let alive = async || mayfly.etcd.list(BACKENDS).await.unwrap().len() == 1;
    mayfly_e2e::poll::throughout(Duration::from_secs(4), "the lease is kept alive", alive).await;
    registrar.kill9().await.unwrap();
    registered(&mayfly, 0).await;
}

#[tokio::test]
async fn a_lost_lease_and_a_deleted_key_are_registered_again() {
    let mayfly = etcd().await;
    let service = Service::start("backend", "0.0.1").await.unwrap();
    let mut registrar = mayfly
        .register("backend", "0.0.1", service.address(), &["--ttl", "2s"])
        .unwrap();
    let (key, _) = registered(&mayfly, 1).await.remove(0);
    let lease = mayfly.etcd.lease_of(&key).await.unwrap().unwrap();
    mayfly.etcd.revoke(&lease).await.unwrap();
    registered(&mayfly, 1).await;
    assert_ne!(mayfly.etcd.lease_of(&key).await.unwrap().unwrap(), lease);
    mayfly.etcd.delete(&key).await.unwrap();
    registered(&mayfly, 1).await;
    // Frozen for longer than the TTL.
    registrar.signal(Signal::Stop).unwrap();
    registered(&mayfly, 0).await;
    registrar.signal(Signal::Cont).unwrap();
    registered(&mayfly, 1).await;
}

#[tokio::test]
async fn a_lost_etcd_is_survived() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    let service = Service::start("backend", "0.0.1").await.unwrap();
    // etcd does not even run yet.
    let mut registrar = mayfly
        .register("backend", "0.0.1", service.address(), &["--ttl", "2s"])
        .unwrap();
    mayfly.etcd.restart().await.unwrap();
    registered(&mayfly, 1).await;
    mayfly.etcd.restart_emptied().await.unwrap();
    registered(&mayfly, 1).await;
    mayfly.etcd.freeze().unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    mayfly.etcd.thaw().unwrap();
    // Perhaps the lease ran out meanwhile; then there is another one soon, and that stays.
    eventually(
        Duration::from_secs(20),
        "it is registered for three seconds on end",
        async || {
            for _ in 0..60 {
                if mayfly.etcd.list(BACKENDS).await.unwrap_or_default().len() != 1 {
                    return false;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            true
        },
    )
    .await;
    assert!(registrar.is_running());
}

#[tokio::test]
async fn sigterm_during_an_outage_of_etcd_still_ends_it() {
    let mut mayfly = etcd().await;
    let service = Service::start("backend", "0.0.1").await.unwrap();
    let mut registrar = mayfly
        .register("backend", "0.0.1", service.address(), &["--drain", "1s"])
        .unwrap();
    registered(&mayfly, 1).await;
    mayfly.etcd.kill9().await.unwrap();
    registrar.terminate(Duration::from_secs(30)).await.unwrap();
}

#[tokio::test]
async fn weight_protocol_and_metadata_are_written() {
    let mayfly = etcd().await;
    let service = Service::start("backend", "0.0.1").await.unwrap();
    let arguments = [
        "--weight",
        "7",
        "--protocol",
        "h2c",
        "--meta",
        "zone=a",
        "--meta",
        "build=42",
    ];
    let _registrar = mayfly
        .register("backend", "0.0.1", service.address(), &arguments)
        .unwrap();
    let (_, value) = registered(&mayfly, 1).await.remove(0);
    assert_eq!(
        (&value["weight"], &value["protocol"]),
        (&Value::from(7), &Value::from("h2c"))
    );
    assert_eq!(
        (&value["metadata"]["zone"], &value["metadata"]["build"]),
        (&Value::from("a"), &Value::from("42"))
    );
}

/// A health endpoint that answers with the code it is told to.
struct Health {
    address: std::net::SocketAddr,
    code: std::sync::Arc<std::sync::atomic::AtomicU16>,
    checks: std::sync::Arc<std::sync::atomic::AtomicU64>,
    _server: tokio::task::JoinSet<()>,
}

impl Health {
    async fn start() -> Self {
        use std::sync::atomic::Ordering::SeqCst;
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind(port::free()).await.unwrap();
        let health = Self {
            address: listener.local_addr().unwrap(),
            code: std::sync::Arc::new(200.into()),
            checks: std::sync::Arc::default(),
            _server: tokio::task::JoinSet::new(),
        };
        let (code, checks) = (health.code.clone(), health.checks.clone());
        let mut server = tokio::task::JoinSet::new();
        server.spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 2048];
                let length = stream.read(&mut request).await.unwrap_or(0);
                let request = String::from_utf8_lossy(&request[..length]).into_owned();
                // A request for another path must not look healthy.
                let code = if request.starts_with("GET /health ") {
                    code.load(SeqCst)
                } else {
                    500
                };
                let answer = format!("HTTP/1.1 {code} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes()).await;
                checks.fetch_add(1, SeqCst);
            }
        });
        Self {
            _server: server,
            ..health
        }
    }

    fn answer_with(&self, code: u16) {
        self.code.store(code, std::sync::atomic::Ordering::SeqCst);
    }

    /// Waits until `count` more checks have been answered.
    async fn after_checks(&self, count: u64) {
        let checks = || self.checks.load(std::sync::atomic::Ordering::SeqCst);
        let until = checks() + count;
        eventually(SOON, "more checks", async || checks() >= until).await;
    }
}

#[tokio::test]
async fn two_registrars_of_one_version_do_not_disturb_each_other() {
    let mayfly = etcd().await;
    let (a, b) = (
        Service::start("backend", "1").await.unwrap(),
        Service::start("backend", "1").await.unwrap(),
    );
    let mut first: Process = mayfly
        .register("backend", "1", a.address(), &["--drain", "0s"])
        .unwrap();
    let _second = mayfly.register("backend", "1", b.address(), &[]).unwrap();
    registered(&mayfly, 2).await;
    first.terminate(SOON).await.unwrap();
    let (_, left) = registered(&mayfly, 1).await.remove(0);
    assert_eq!(left["address"], b.address().to_string());
}
