//! Servers that go: drained, killed, or still in use when their record ends; and what requests notice of it.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use haproxy_updater::guard::Health;
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::load::Load;
use mayfly_e2e::port;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use support::{LIMIT, Router};

#[tokio::test]
async fn a_websocket_outlives_the_record_of_its_instance_and_holds_up_nothing() {
    let mut router = Router::new(&["--slots", "4"]);
    let (old, new) = (
        Service::start("a", "1").await.unwrap(),
        Service::start("a", "1").await.unwrap(),
    );
    router.instance("a@1", old.address());
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    let mut socket = open_websocket(router.edge).await;
    assert_eq!(echo(&mut socket, b"one").await, b"one");

    // Draining: the open connection stays, new requests go to the other instance.
    router.instance_with("a@1", old.address(), json!({"state": "draining"}));
    router.instance("a@1", new.address());
    router.apply().await;
    let seen = old.requests();
    for _ in 0..10 {
        assert_eq!(
            router.outside("www-prod.x", "/").await.echo().unwrap().address,
            new.address()
        );
    }
    assert_eq!(old.requests(), seen);
    assert_eq!(echo(&mut socket, b"two").await, b"two");

    // The record is gone: likewise, and other changes go on.
    router.no_instance("a@1", old.address());
    router.apply().await;
    for round in 0..5 {
        router.engine.see_off(Instant::now()).await.unwrap();
        router.environment(
            "dev",
            None,
            if round % 2 == 0 {
                &["a@1/"]
            } else {
                &["a@1/", "a@1/api"]
            },
        );
        router.apply().await;
    }
    assert!(router.engine.has_leaving());
    assert_eq!(
        (echo(&mut socket, b"three").await, router.servers().await),
        (b"three".to_vec(), 2)
    );

    // Its end is the server's end.
    drop(socket);
    router.see_off(1).await;
    assert!(!router.engine.has_leaving());
    assert_eq!(router.outside("www-prod.x", "/").await.backend().unwrap(), "a@1");
}

#[tokio::test]
async fn an_instance_that_comes_back_while_it_leaves_stays() {
    let mut router = Router::new(&["--slots", "4"]);
    let instance = Service::start("a", "1").await.unwrap();
    router.instance("a@1", instance.address());
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    let mut socket = open_websocket(router.edge).await;
    router.no_instance("a@1", instance.address());
    router.apply().await;
    router.engine.see_off(Instant::now()).await.unwrap();
    assert_eq!(router.outside("www-prod.x", "/").await.status, 503);
    router.instance_with("a@1", instance.address(), json!({"weight": 7}));
    router.apply().await;
    assert!(!router.engine.has_leaving());
    assert_eq!(router.outside("www-prod.x", "/").await.backend().unwrap(), "a@1");
    assert_eq!(echo(&mut socket, b"still").await, b"still");
    router.engine.verify().await.unwrap();
    assert_eq!(router.engine.metrics().drift_repairs.get(), 0);
}

#[tokio::test]
async fn a_dead_server_is_taken_away_with_its_connections() {
    let listener = TcpListener::bind(port::free()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut router = Router::new(&["--slots", "4"]);
    router.instance("a@1", address);
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    let mut client = TcpStream::connect(router.edge).await.unwrap();
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: www-prod.x\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    // The request has reached the instance, which never answers. (Checks connect too, and send nothing.)
    let mut held = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0; 1];
        let got = tokio::time::timeout(Duration::from_millis(200), stream.read(&mut first)).await;
        held.push(stream);
        if matches!(got, Ok(Ok(1))) {
            break;
        }
    }
    drop(listener);
    router.no_instance("a@1", address);
    router.apply().await;
    router.engine.see_off(Instant::now()).await.unwrap();
    assert_eq!(
        router.servers().await,
        1,
        "alive as far as is known: it may still answer"
    );
    router.see_off(0).await;
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, client.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 50"), "{answer}");
}

#[tokio::test]
async fn a_disabled_server_is_deleted_only_when_no_request_can_point_to_it() {
    let mut router = Router::new(&["--slots", "4", "--connect-timeout", "1s"]);
    let instance = Service::start("a", "1").await.unwrap();
    router.instance("a@1", instance.address());
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    router.no_instance("a@1", instance.address());
    router.apply().await;
    let (begun, second) = (Instant::now(), Duration::from_secs(1));
    for (after, left) in [(0, 1), (2, 1), (3, 0)] {
        let gone = router.engine.see_off(begun + after * second).await.unwrap();
        assert_eq!(
            (router.servers().await, gone),
            (left, left == 0),
            "after {after} s"
        );
    }

    // One that came back meanwhile is not deleted by a time from before, and waits again in full.
    router.instance("a@1", instance.address());
    router.apply().await;
    router.no_instance("a@1", instance.address());
    router.apply().await;
    router.engine.see_off(begun).await.unwrap();
    router.instance("a@1", instance.address());
    router.apply().await;
    assert_eq!(router.outside("www-prod.x", "/").await.backend().unwrap(), "a@1");
    router.no_instance("a@1", instance.address());
    router.apply().await;
    for (after, left) in [(10, 1), (12, 1), (13, 0)] {
        router.engine.see_off(begun + after * second).await.unwrap();
        assert_eq!(router.servers().await, left, "after {after} s");
    }

    // Another change of the slot and a full look keep the time.
    let (old, new) = (&instance, Service::start("a", "1").await.unwrap());
    router.instance("a@1", old.address());
    router.apply().await;
    router.no_instance("a@1", old.address());
    router.apply().await;
    router.engine.see_off(begun).await.unwrap();
    router.instance("a@1", new.address());
    router.apply().await;
    router.engine.verify().await.unwrap();
    assert_eq!(router.engine.metrics().drift_repairs.get(), 0);
    router.engine.see_off(begun + 3 * second).await.unwrap();
    assert_eq!(router.servers().await, 1, "the new one alone");
}

#[tokio::test]
async fn a_new_instance_at_the_address_of_a_dead_one_that_leaves_is_asked_at_once() {
    let mut router = Router::new(&["--slots", "4"]);
    let dead = Service::start("a", "1").await.unwrap();
    router.instance("a@1", dead.address());
    let address = dead.address();
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    drop(dead);
    eventually(LIMIT, "the checks find it dead", async || {
        let key = format!("/mayfly/backends/a/1/{address}");
        let health = router.engine.health([key.as_str()].into_iter()).await.unwrap();
        health.values().any(|health| *health == Health::Fails)
    })
    .await;
    router.no_instance("a@1", address);
    router.apply().await;
    router.engine.see_off(Instant::now()).await.unwrap();
    assert_eq!(router.servers().await, 1, "disabled, and not deleted yet");
    let _again = Service::start_at(address, "a", "1", None).await.unwrap();
    router.instance("a@1", address);
    router.apply().await;
    assert_eq!(router.outside("www-prod.x", "/").await.status, 200);
    // A check that began before it was there fails in a moment, and must not take it out.
    let state = router.ask("show servers state").await.unwrap();
    let mut lines = state.lines().filter(|line| !line.is_empty());
    let header: Vec<&str> = lines.find(|line| line.starts_with('#')).unwrap()[1..]
        .split_whitespace()
        .collect();
    let health = header
        .iter()
        .position(|name| *name == "srv_check_health")
        .unwrap();
    let server: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(server[health], "3", "as of one that may fail twice");
}

#[tokio::test]
async fn instances_come_and_go_under_load_without_a_failed_request() {
    let mut router = Router::new(&["--slots", "8"]);
    let stay = Service::start("a", "1").await.unwrap();
    router.instance("a@1", stay.address());
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    let load = Load::start(router.edge, Request::get("www-prod.x", "/?delay=3"));
    for round in 0..6 {
        let guest = Service::start("a", "1").await.unwrap();
        router.instance("a@1", guest.address());
        router.apply().await;
        eventually(LIMIT, "the guest serves", async || guest.requests() > 10).await;
        if round % 2 == 0 {
            // Killed without a word: its record outlives it.
            drop(guest);
        } else {
            router.instance_with("a@1", guest.address(), json!({"state": "draining"}));
            router.apply().await;
            let address = guest.address();
            eventually(LIMIT, "the guest serves no more", async || {
                let before = guest.requests();
                tokio::time::sleep(Duration::from_millis(50)).await;
                guest.requests() == before
            })
            .await;
            drop(guest);
            router.no_instance("a@1", address);
            router.apply().await;
        }
    }
    load.stop().await.assert_flawless(30);
}

async fn open_websocket(edge: std::net::SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(edge).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: www-prod.x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(
        answer.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    stream
}

async fn echo(stream: &mut TcpStream, bytes: &[u8]) -> Vec<u8> {
    stream.write_all(bytes).await.unwrap();
    let mut back = vec![0; bytes.len()];
    tokio::time::timeout(LIMIT, stream.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    back
}
