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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_another_service_has_registered_since_is_no_longer_kept() {
    let world = World::start().await.unwrap();
    let mut api = world.instance("api", "1.0.0").await.unwrap();
    world.save(
        "prod.yaml",
        "{name: prod, prefix: www, services: [{name: api, version: 1.0.0, route: /}, {name: web, version: 1.0.0, route: /web}]}",
    );
    world.answers("www.example.com", "api@1.0.0").await;
    api.registrar.kill9().await.unwrap();
    let key = format!("/mayfly/backends/api/1.0.0/{}", api.service.address());
    world.etcd.delete(&key).await.unwrap();
    eventually(SOON, "it is kept", async || {
        let status = world.status("haproxy-updater").await.unwrap();
        status["detail"]["guard"].is_string()
    })
    .await;
    // That concerns nobody else.
    world.save("spare.yaml", "{name: spare}");
    let wait = async |name: &str| {
        world
            .run("mayfly", &["wait", name, "--timeout", "2s"])
            .await
            .unwrap()
    };
    eventually(SOON, "spare is in force", async || {
        wait("spare").await.ok().map(drop)
    })
    .await;
    let hindered = wait("prod").await;
    assert!(
        hindered.stderr.contains("router test: etcd has lost 1 of"),
        "{}",
        hindered.stderr
    );
    // Whatever answers there, it is another service by now.
    let _web = world
        .register("web", "1.0.0", api.service.address(), &[])
        .unwrap();
    eventually(SOON, "the address is the other service's", async || {
        world.get("www.example.com", "/web").await.unwrap().status == 200
    })
    .await;
    assert_eq!(world.get("www.example.com", "/").await.unwrap().status, 503);
    eventually(SOON, "nothing is kept", async || {
        let status = world.status("haproxy-updater").await.unwrap();
        status["detail"]["guard"].is_null()
    })
    .await;
}
