//! Servers that go (drained, killed, or still in use when their record ends), dead ones that come,
//! and what requests notice of it.

use std::net::SocketAddr;
use std::time::Duration;

use mayfly_core::keys::Key;
use mayfly_core::trust::Health;
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::load::Load;
use mayfly_e2e::port;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::Instant;

use super::support::{LIMIT, Router};

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
        router.applier.remove_leaving(Instant::now()).await.unwrap();
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
    assert!(router.applier.has_leaving());
    assert_eq!(
        (echo(&mut socket, b"three").await, router.servers().await),
        (b"three".to_vec(), 2)
    );

    // Its end is the server's end.
    drop(socket);
    router.see_off(1).await;
    assert!(!router.applier.has_leaving());
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
    router.applier.remove_leaving(Instant::now()).await.unwrap();
    assert_eq!(router.outside("www-prod.x", "/").await.status, 503);
    router.instance_with("a@1", instance.address(), json!({"weight": 7}));
    router.apply().await;
    assert!(!router.applier.has_leaving());
    assert_eq!(router.outside("www-prod.x", "/").await.backend().unwrap(), "a@1");
    assert_eq!(echo(&mut socket, b"still").await, b"still");
    router.applier.verify(router.index.routing()).await.unwrap();
    assert_eq!(router.applier.metrics().drift_repairs.get(), 0);
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
    router.applier.remove_leaving(Instant::now()).await.unwrap();
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

/// HAProxy counts a new server as up until its first check.
#[tokio::test]
async fn a_dozen_dead_servers_that_come_at_once_fail_no_request() {
    let mut router = Router::new(&["--slots", "4"]);
    let mut live = Vec::new();
    for _ in 0..3 {
        let service = Service::start("a", "1").await.unwrap();
        router.instance("a@1", service.address());
        live.push(service);
    }
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    let load = Load::start(router.edge, Request::get("www-prod.x", "/"));
    for _ in 0..3 {
        let dead: Vec<SocketAddr> = (0..12).map(|_| port::free()).collect();
        for address in &dead {
            router.instance("a@1", *address);
        }
        let before = live[0].requests();
        router.apply().await;
        eventually(LIMIT, "requests go on", async || {
            live[0].requests() > before + 200
        })
        .await;
        for address in &dead {
            router.no_instance("a@1", *address);
        }
        router.apply().await;
    }
    load.stop().await.assert_flawless(1_000);
}

/// A request whose connection to a server does not open is tried at another one. It must not be ended
/// with the server that the checks found dead meanwhile.
#[tokio::test]
async fn a_dead_server_leaves_without_the_requests_that_go_elsewhere_next() {
    let mut router = Router::new(&["--slots", "4", "--connect-timeout", "2s"]);
    let good = Service::start("a", "1").await.unwrap();
    let (_listener, _queue, dead) = listens_and_is_full().await;
    router.instance("a@1", good.address());
    router.instance("a@1", dead);
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    // Of two requests, one meets each server.
    let edge = router.edge;
    let requests: Vec<_> = (0..4)
        .map(|_| tokio::spawn(async move { Request::get("www-prod.x", "/").send(edge).await }))
        .collect();
    let name = eventually(LIMIT, "a request waits for its connection", async || {
        let stat = router.ask("show stat slot-1 4 -1").await.unwrap();
        let mut rows = stat.lines().map(|line| line.split(',').collect::<Vec<_>>());
        let header = rows.next()?;
        let column = |name: &str| {
            header
                .iter()
                .position(|found| found.trim_start_matches("# ") == name)
        };
        let (name, address, current) = (column("svname")?, column("addr")?, column("scur")?);
        let row = rows.find(|row| row.get(address) == Some(&dead.to_string().as_str()))?;
        (row[current] != "0").then(|| row[name].to_owned())
    })
    .await;
    router
        .ask(&format!("set server slot-1/{name} health down"))
        .await
        .unwrap();
    router.no_instance("a@1", dead);
    router.apply().await;
    let now = Instant::now();
    router.applier.remove_leaving(now).await.unwrap();
    for request in requests {
        let answer = request.await.unwrap().unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    router
        .applier
        .remove_leaving(now + Duration::from_secs(4))
        .await
        .unwrap();
    assert_eq!(router.servers().await, 1, "the good one alone");
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
        let gone = router
            .applier
            .remove_leaving(begun + after * second)
            .await
            .unwrap();
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
    router.applier.remove_leaving(begun).await.unwrap();
    router.instance("a@1", instance.address());
    router.apply().await;
    assert_eq!(router.outside("www-prod.x", "/").await.backend().unwrap(), "a@1");
    router.no_instance("a@1", instance.address());
    router.apply().await;
    for (after, left) in [(10, 1), (12, 1), (13, 0)] {
        router
            .applier
            .remove_leaving(begun + after * second)
            .await
            .unwrap();
        assert_eq!(router.servers().await, left, "after {after} s");
    }

    // Another change of the slot and a full look keep the time.
    let (old, new) = (&instance, Service::start("a", "1").await.unwrap());
    router.instance("a@1", old.address());
    router.apply().await;
    router.no_instance("a@1", old.address());
    router.apply().await;
    router.applier.remove_leaving(begun).await.unwrap();
    router.instance("a@1", new.address());
    router.apply().await;
    router.applier.verify(router.index.routing()).await.unwrap();
    assert_eq!(router.applier.metrics().drift_repairs.get(), 0);
    router.applier.remove_leaving(begun + 3 * second).await.unwrap();
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
        let key = Key::Instance("a@1".parse().unwrap(), address.to_string().parse().unwrap());
        let health = router
            .applier
            .health([&key].into_iter(), |key| router.index.servers_of_key(key))
            .await
            .unwrap();
        health.values().any(|health| *health == Health::Fails)
    })
    .await;
    router.no_instance("a@1", address);
    router.apply().await;
    router.applier.remove_leaving(Instant::now()).await.unwrap();
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
            // Killed without deregistering: its record outlives it.
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

/// The slots that no backend has any more all hold connections then.
#[tokio::test]
async fn a_new_version_gets_a_slot_while_every_free_slot_has_connections() {
    let mut router = Router::new(&["--slots", "8"]);
    let mut instances = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        let instance = Service::start(name, "1").await.unwrap();
        router.instance(&format!("{name}@1"), instance.address());
        instances.push(instance);
    }
    router.environment("prod", None, &["a@1/", "b@1", "c@1", "d@1", "e@1"]);
    router.run().await;
    let load = Load::start(router.edge, Request::get("www-prod.x", "/"));
    let (mut old, mut sockets) = (instances[0].address(), Vec::new());
    for version in 1..8 {
        sockets.push(open_websocket(router.edge).await);
        let next = format!("a@{}", version + 1);
        let instance = Service::start("a", &(version + 1).to_string()).await.unwrap();
        router.instance(&next, instance.address());
        router.apply().await;
        router.environment("prod", None, &[&format!("{next}/"), "b@1", "c@1", "d@1", "e@1"]);
        router.apply().await;
        let answer = router.outside("www-prod.x", "/").await;
        assert_eq!(answer.backend().unwrap(), next);
        let former = format!("a@{version}");
        router.instance_with(&former, old, json!({"state": "draining"}));
        router.apply().await;
        router.no_instance(&former, old);
        router.apply().await;
        router.applier.remove_leaving(Instant::now()).await.unwrap();
        old = instance.address();
        instances.push(instance);
    }
    assert_eq!(router.applier.waiting(), 0);
    assert_eq!((router.applier.pool().total(), router.reloads()), (16, 1));
    for socket in &mut sockets {
        assert_eq!(echo(socket, b"still").await, b"still");
    }
    load.stop().await.assert_flawless(30);
}

/// A listener whose queue is full, the connections in it, and its address: further ones do not open.
async fn listens_and_is_full() -> (TcpListener, Vec<TcpStream>, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(port::free()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let (mut queue, moment) = (Vec::new(), Duration::from_millis(300));
    while let Ok(open) = tokio::time::timeout(moment, TcpStream::connect(address)).await {
        queue.push(open.unwrap());
    }
    (listener, queue, address)
}

async fn open_websocket(edge: SocketAddr) -> TcpStream {
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
