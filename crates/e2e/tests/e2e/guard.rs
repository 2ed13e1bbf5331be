//! What is said to go goes at once. What etcd loses without a word is a matter of [`crate::faults`].

use std::time::{Duration, Instant};

use mayfly_e2e::eventually;
use mayfly_e2e::world::{SOON, World};

/// `www` on web 1.0.0 and an internal service, with one instance each.
const ENVIRONMENT: &str = "{name: prod, prefix: www, services: [{name: web, version: 1.0.0, route: /}, {name: api, version: 1.0.0}]}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_instance_goes_at_once_when_its_registrar_says_so() {
    let world = World::start().await.unwrap();
    let mut web = world.instance("web", "1.0.0").await.unwrap();
    world.save("prod.yaml", ENVIRONMENT);
    world.answers("www.example.com", "web@1.0.0").await;
    web.registrar.terminate(SOON).await.unwrap();
    // The instance still answers its check, and gets no request.
    let start = Instant::now();
    eventually(SOON, "nothing is routed there", async || {
        world.get("www.example.com", "/").await.unwrap().status == 503
    })
    .await;
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    eventually(SOON, "its key is gone", async || {
        world.etcd.list("/mayfly/backends/").await.unwrap().is_empty()
    })
    .await;
    let status = world.status("haproxy-updater").await.unwrap();
    assert!(status["detail"]["guard"].is_null(), "{status}");
    let output = world.updater.as_ref().unwrap().output();
    assert!(!output.contains("without a word"), "{output}");
}
