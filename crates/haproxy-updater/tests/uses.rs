//! What HAProxy notes of the use of environments, and what becomes of it.

mod support;

use std::collections::BTreeSet;

use mayfly_core::names::EnvironmentName;
use mayfly_e2e::instance::Service;
use support::Router;

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
    assert_eq!(router.engine.uses().await.unwrap(), Some(names(&[])));
    for _ in 0..3 {
        assert_eq!(router.outside("www-c.x", "/").await.status, 200);
    }
    assert_eq!(router.outside("www-b.x", "/no-route").await.status, 404);
    assert_eq!(router.inside("s0", "h-a").await.status, 200);
    assert_eq!(router.outside("www-nobody.x", "/").await.status, 404);
    assert_eq!(router.engine.uses().await.unwrap(), Some(names(&["a", "b", "c"])));
    // Neither a change nor a look at everything takes it for something to repair.
    router.environment("d", None, &["s0@1/"]);
    router.apply().await;
    router.engine.verify().await.unwrap();
    assert_eq!(router.engine.metrics().drift_repairs.get(), 0);
    assert_eq!(router.engine.uses().await.unwrap(), Some(names(&["a", "b", "c"])));

    router
        .engine
        .forget_uses(&names(&["a", "c", "not-there"]))
        .await
        .unwrap();
    assert_eq!(router.engine.uses().await.unwrap(), Some(names(&["b"])));
    assert_eq!(router.outside("www-c.x", "/").await.status, 200);
    assert_eq!(router.engine.uses().await.unwrap(), Some(names(&["b", "c"])));
}

#[tokio::test]
async fn a_reload_loses_nothing_that_was_noted() {
    let (mut router, service) = router(&["--slots", "4"]).await;
    assert_eq!(router.outside("www-a.x", "/").await.status, 200);
    for version in 2..8 {
        router.instance(&format!("s0@{version}"), service.address());
        router.environment(&format!("e{version}"), None, &[&format!("s0@{version}/")]);
        router.apply().await;
    }
    assert!(router.reloads() > 0);
    assert_eq!(router.outside("www-b.x", "/x").await.status, 200);
    assert_eq!(router.engine.uses().await.unwrap(), Some(names(&["a", "b"])));
}
