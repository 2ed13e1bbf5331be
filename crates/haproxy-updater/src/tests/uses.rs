//! What HAProxy notes of the use of environments, and what becomes of it.

// The lint's exception for tests does not reach their helpers.

use std::collections::BTreeSet;

use mayfly_core::names::EnvironmentName;
use mayfly_e2e::instance::Service;
use serde_json::json;

use super::support::Router;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

fn names(names: &[&str]) -> BTreeSet<EnvironmentName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// A router with `a`, `b` and `c`, which extends `a`, on one instance.
async fn router(flags: &[&str]) -> (Router, Service) {
    let mut router = Router::new(flags);
    let service = Service::start("s0", "1").await.unwrap();
    router.instance("s0@1", service.address());
    router.environment("a", None, &["s0@1/"]);
    router.environment("b", None, &["s0@1/x"]);
    router.environment("c", Some("a"), &[]);
    router.run().await;
    (router, service)
}

#[tokio::test]
async fn requests_on_both_sides_are_noted_until_they_are_forgotten() {
    let (mut router, _service) = router(&[]).await;
    router.environment("b", None, &["s0@1/x", "none@1/gone"]);
    router.environment("d", None, &["s0@1/x"]);
    router.apply().await;
    assert_eq!(router.applier.uses().await.unwrap(), Some(names(&[])));
    for _ in 0..3 {
        assert_eq!(router.outside("www-c.x", "/").await.status, 200);
    }
    assert_eq!(router.inside("s0", "h-a").await.status, 200);
    // An instance would have got it.
    assert_eq!(router.outside("www-b.x", "/gone").await.status, 503);
    // Bots that are refused keep nothing alive.
    assert_eq!(router.outside("www-d.x", "/no-route").await.status, 404);
    assert_eq!(router.outside("www-d.x", "/x/../y").await.status, 400);
    assert_eq!(router.inside("nobody", "h-d").await.status, 404);
    let mut stream = TcpStream::connect(router.edge).await.unwrap();
    let connect = b"CONNECT www-d.x:80 HTTP/1.1\r\nHost: www-d.x\r\n\r\n";
    stream.write_all(connect).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 405");
    assert_eq!(router.outside("www-nobody.x", "/").await.status, 404);
    assert_eq!(
        router.applier.uses().await.unwrap(),
        Some(names(&["a", "b", "c"]))
    );
    // Neither a change nor a look at everything takes it for something to repair.
    router.environment("e", None, &["s0@1/"]);
    router.apply().await;
    router.applier.verify(router.index.routing()).await.unwrap();
    assert_eq!(router.applier.metrics().drift_repairs.get(), 0);
    assert_eq!(
        router.applier.uses().await.unwrap(),
        Some(names(&["a", "b", "c"]))
    );

    router
        .applier
        .forget_uses(&names(&["a", "c", "not-there"]))
        .await
        .unwrap();
    assert_eq!(router.applier.uses().await.unwrap(), Some(names(&["b"])));
    assert_eq!(router.outside("www-c.x", "/").await.status, 200);
    assert_eq!(router.applier.uses().await.unwrap(), Some(names(&["b", "c"])));
}

#[tokio::test]
async fn a_reload_loses_nothing_that_was_noted() {
    let (mut router, service) = router(&["--slots", "4"]).await;
    assert_eq!(router.outside("www-a.x", "/").await.status, 200);
    // Two requests that have begun; the second one keeps the process alive that is to be replaced.
    let mut late = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(router.edge).await.unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: www-c.x\r\n")
            .await
            .unwrap();
        late.push(stream);
    }
    for version in 2..8 {
        router.instance(&format!("s0@{version}"), service.address());
        router.environment(&format!("e{version}"), None, &[&format!("s0@{version}/")]);
        router.apply().await;
        // The process that is replaced ends its connections within two seconds (`close-spread-time`).
        if router.reloads() > 0 {
            break;
        }
    }
    assert!(router.reloads() > 0);
    assert_eq!(router.applier.uses().await.unwrap(), Some(names(&["a"])));
    // The replaced process answers a request that had begun, and what it notes is reported once.
    late[0].write_all(b"\r\n").await.unwrap();
    let mut answer = String::new();
    late[0].read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let used = router.applier.uses().await.unwrap().unwrap();
    assert_eq!(used, names(&["c"]));
    router.applier.forget_uses(&used).await.unwrap();
    assert_eq!(router.outside("www-b.x", "/x").await.status, 200);
    assert_eq!(router.applier.uses().await.unwrap(), Some(names(&["b"])));
}

#[tokio::test]
async fn a_template_that_notes_no_use_is_known_as_such() {
    let (mut router, _service) = router(&["--template", "tests/golden/05-own-template/template.tera"]).await;
    assert_eq!(router.outside("www-a.x", "/").await.status, 200);
    assert_eq!(router.applier.uses().await.unwrap(), None);
    router.applier.forget_uses(&names(&["a"])).await.unwrap();
    assert!(router.applier.in_sync());
    // Nor does it look for what has ended: there is no such map to keep in sync.
    let ended = json!({"prefix": "www-z", "at": "2026-11-29T02:00:00Z", "why": "idle"});
    router.put("ended/z", &ended);
    router.apply().await;
    assert!(router.applier.in_sync());
    assert_eq!(router.outside("www-a.x", "/").await.status, 200);
    assert_eq!(router.reloads(), 0);
}
