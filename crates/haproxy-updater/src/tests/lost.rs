//! What HAProxy counts of calls without an environment.

use std::net::SocketAddr;

use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;
use tokio::time::Instant;

use super::support::Router;
use crate::lost::LostCalls;

/// A router with an environment `a` of the service `s0`, which has an instance at an address of its own.
async fn router(flags: &[&str]) -> (Router, Service) {
    let mut router = Router::new(flags);
    let address = SocketAddr::new(port::another_ip().into(), port::free().port());
    let service = Service::start_at(address, "s0", "1", None).await.unwrap();
    router.instance("s0@1", service.address());
    router.environment("a", None, &["s0@1/"]);
    router.run().await;
    (router, service)
}

async fn said(router: &mut Router, calls: &mut LostCalls) -> Vec<String> {
    let counters = router.applier.lost_calls().await.unwrap().unwrap();
    calls.take(counters, router.index.routing(), Instant::now());
    calls.list().iter().map(ToString::to_string).collect()
}

async fn call(router: &Router, from: &Service, headers: &[(&str, &str)]) -> u16 {
    let mut request = Request::get("s0.service", "/");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    let answer = request.send_from(from.address().ip(), router.internal).await;
    answer.unwrap().status
}

#[tokio::test]
async fn only_calls_without_a_value_are_counted() {
    for (flags, status) in [(&[][..], 400), (&["--default-environment", "a"], 200)] {
        let (mut router, service) = router(flags).await;
        let mut calls = LostCalls::new(Instant::now(), 0);
        for (headers, status) in [
            (&[("x-mayfly", "h-a")][..], 200),
            (&[("baggage", "x=1,mayfly=h-a")], 200),
            (&[("x-mayfly", "h-a"), ("x-mayfly", "h-a")], 200),
            (&[("x-mayfly", "h-a"), ("x-mayfly", "other")], 400),
            (&[("x-mayfly", "unknown")], 404),
        ] {
            assert_eq!(call(&router, &service, headers).await, status, "{headers:?}");
        }
        assert_eq!(said(&mut router, &mut calls).await, [] as [&str; 0]);
        for headers in [&[][..], &[("baggage", "x=1")], &[("x-mayfly", "")]] {
            assert_eq!(call(&router, &service, headers).await, status, "{headers:?}");
        }
        // Neither what comes from elsewhere, nor what comes in at the edge.
        let request = Request::get("s0.service", "/");
        assert_eq!(request.send(router.internal).await.unwrap().status, status);
        request
            .send_from(service.address().ip(), router.edge)
            .await
            .unwrap();
        let expected = "s0@1 dropped the header in 3 calls in the last 10 min";
        assert_eq!(said(&mut router, &mut calls).await, [expected]);
        assert_eq!(said(&mut router, &mut calls).await, [expected], "once");
    }
}

#[tokio::test]
async fn a_reload_loses_no_call_that_was_counted() {
    let (mut router, service) = router(&["--slots", "4"]).await;
    let mut calls = LostCalls::new(Instant::now(), 0);
    assert_eq!(said(&mut router, &mut calls).await, [] as [&str; 0]);
    // Two requests that have begun; the second one keeps the process alive that is to be replaced.
    let mut late = Vec::new();
    for _ in 0..2 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(service.address().ip(), 0)).unwrap();
        let mut stream = socket.connect(router.internal).await.unwrap();
        let head = b"GET / HTTP/1.1\r\nHost: s0.service\r\n";
        stream.write_all(head).await.unwrap();
        late.push(stream);
    }
    for _ in 0..41 {
        assert_eq!(call(&router, &service, &[]).await, 400);
    }
    for version in 2..8 {
        router.instance(&format!("s0@{version}"), port::free());
        router.environment(&format!("e{version}"), None, &[&format!("s0@{version}/")]);
        router.apply().await;
        if router.reloads() > 0 {
            break;
        }
    }
    assert!(router.reloads() > 0);
    let of = |count: u32| {
        [format!(
            "s0@1 dropped the header in {count} calls in the last 10 min"
        )]
    };
    assert_eq!(call(&router, &service, &[]).await, 400);
    assert_eq!(said(&mut router, &mut calls).await, of(42));
    late[0].write_all(b"\r\n").await.unwrap();
    let mut answer = String::new();
    late[0].read_to_string(&mut answer).await.unwrap();
    // HAProxy 3.0 may end a request of which only a part has come.
    let is_counted = answer.starts_with("HTTP/1.1 400");
    assert!(is_counted || answer.starts_with("HTTP/1.1 408"), "{answer}");
    let count = 42 + u32::from(is_counted);
    assert_eq!(said(&mut router, &mut calls).await, of(count));
    assert_eq!(said(&mut router, &mut calls).await, of(count), "once");
}

#[tokio::test]
async fn a_template_that_counts_nothing_is_known_as_such() {
    let (mut router, _service) = router(&["--template", "tests/golden/05-own-template/template.tera"]).await;
    assert_eq!(router.applier.lost_calls().await.unwrap(), None);
}
