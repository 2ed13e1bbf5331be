//! A port that another program has when HAProxy is to listen at it.

use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::port;
use tokio::net::TcpListener;

use super::support::{LIMIT, Router};

/// Nothing else has changed, and HAProxy is the same process.
#[tokio::test]
async fn a_port_that_becomes_free_is_listened_at() {
    let mut router = Router::new(&["--slots", "4"]);
    let instance = Service::start("a", "1").await.unwrap();
    router.instance("a@1", instance.address());
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    let taken = TcpListener::bind(port::free()).await.unwrap();
    let second = taken.local_addr().unwrap();
    let bind = format!("{},{second}", router.edge);
    router.replace_updater(&["--slots", "4", "--edge-bind", &bind]);
    router.instance("a@1", instance.address());
    router.environment("prod", None, &["a@1/"]);
    router.apply().await;
    assert!(router.applier.refusal().is_some());
    drop(taken);
    let deadline = tokio::time::Instant::now() + LIMIT;
    while router.applier.refusal().is_some() {
        assert!(tokio::time::Instant::now() < deadline, "it is not tried again");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        router.applier.retry_refused();
        router.apply().await;
    }
    assert_eq!(router.reloads(), 1);
    let answer = Request::get("www-prod.x", "/").send(second).await.unwrap();
    assert_eq!(answer.backend().unwrap(), "a@1");
}

/// The address is another one again before its port was free: nothing is refused any longer.
#[tokio::test]
async fn a_taken_port_that_is_not_wanted_any_longer_hinders_nothing() {
    let mut router = Router::new(&["--slots", "4"]);
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    let taken = TcpListener::bind(port::free()).await.unwrap();
    let second = taken.local_addr().unwrap();
    router.applier.listen_at(second.to_string().parse().unwrap());
    router.apply().await;
    assert!(router.applier.refusal().is_some());
    let first = router.internal.to_string().parse().unwrap();
    router.applier.listen_at(first);
    router.apply().await;
    assert_eq!(router.applier.refusal(), None);
}
