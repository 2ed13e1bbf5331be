//! What etcd loses without a word is routed on while it answers; what is said to go goes at once.

use std::time::{Duration, Instant};

use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::load::Load;
use mayfly_e2e::poll::throughout;
use mayfly_e2e::port;
use mayfly_e2e::world::{SOON, World};

/// `www` on web 1.0.0 and an internal service, with one instance each.
const ENVIRONMENT: &str = "{name: prod, prefix: www, services: [{name: web, version: 1.0.0, route: /}, {name: api, version: 1.0.0}]}";

/// The router keeps so many keys, and says so.
async fn kept(world: &World, what: Option<&str>) {
    eventually(SOON, &format!("the guard says {what:?}"), async || {
        let status = world
            .status("haproxy-updater")
            .await
            .map_err(|error| error.to_string())?;
        let guard = status["detail"]["guard"].as_str().map(str::to_owned);
        let error = status["error"].as_str().map(str::to_owned);
        let right = match what {
            Some(what) => guard.as_ref().is_some_and(|guard| guard.contains(what)) && guard == error,
            None => guard.is_none() && error.is_none(),
        };
        if right { Ok(()) } else { Err(format!("{status}")) }
    })
    .await;
}

async fn unregistered(world: &World, most: usize) {
    eventually(SOON, "the leases have ended", async || {
        let left = world.etcd.list("/mayfly/backends/").await;
        left.is_ok_and(|left| left.len() <= most)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_instance_outlives_its_registrar_while_it_answers() {
    let world = World::start().await.unwrap();
    let mut web = world.killable("web", "1.0.0", &["--ttl", "2s"]).await.unwrap();
    world.save("prod.yaml", ENVIRONMENT);
    world.answers("www.example.com", "web@1.0.0").await;
    let load = Load::start(world.edge, Request::get("www.example.com", "/"));
    web.registrar.kill9().await.unwrap();
    unregistered(&world, 0).await;
    kept(&world, Some("1 of 1 instances")).await;
    let routed = async || world.get("www.example.com", "/").await.unwrap().status == 200;
    throughout(Duration::from_secs(3), "www is routed on", routed).await;
    load.stop().await.assert_flawless(100);

    web.service.kill9().await.unwrap();
    kept(&world, None).await;
    // Not only dead in HAProxy: gone from the routing.
    eventually(SOON, "its server is gone", async || {
        world.haproxy.servers().await.unwrap().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_half_is_kept_until_an_operator_lets_it_go() {
    let admin = port::free();
    let world = World::start_with(&["--admin", &admin.to_string()]).await.unwrap();
    let mut services = Vec::new();
    for name in ["web", "api"] {
        let service = Service::start(name, "1.0.0").await.unwrap();
        let at = service.address();
        services.push(service);
        // Registered by hand: nobody puts it again.
        world
            .etcd
            .put(
                &format!("/mayfly/backends/{name}/1.0.0/{at}"),
                &format!(r#"{{"address": "{at}"}}"#),
            )
            .await
            .unwrap();
    }
    world.save("prod.yaml", ENVIRONMENT);
    world.answers("www.example.com", "web@1.0.0").await;
    world.calls("prod", "api", "api@1.0.0").await;
    let load = Load::start(world.edge, Request::get("www.example.com", "/"));
    world.etcd.delete_all("/mayfly/backends/").await.unwrap();
    kept(&world, Some("2 of 2 instances")).await;
    let metrics = Request::get("x", "/metrics").send(admin).await.unwrap().body;
    assert!(metrics.contains("\nmayfly_haproxy_guard_held 2\n"), "{metrics}");
    let tool = world.run("mayfly", &["status"]).await.unwrap();
    assert!(tool.stdout.contains("2 of 2 instances"), "{}", tool.stdout);
    assert_eq!(
        world.call("prod", "api").await.unwrap().backend().unwrap(),
        "api@1.0.0"
    );
    load.stop().await.assert_flawless(20);

    let confirm = async || {
        world
            .run("mayfly", &["confirm", "haproxy-updater"])
            .await
            .unwrap()
    };
    let told = confirm().await.ok().unwrap();
    assert!(
        told.contains("the haproxy-updater of test: etcd has lost 2 of 2 instances"),
        "{told}"
    );
    kept(&world, None).await;
    assert_eq!(world.get("www.example.com", "/").await.unwrap().status, 503);
    let again = confirm().await.ok().unwrap_err().to_string();
    assert!(
        again.contains("no haproxy-updater holds anything back"),
        "{again}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emptied_list_of_environments_is_kept_until_an_operator_lets_it_go() {
    let mut world = World::start().await.unwrap();
    let _web = world.instance("web", "1.0.0").await.unwrap();
    world.save("prod.yaml", ENVIRONMENT);
    world.answers("www.example.com", "web@1.0.0").await;
    // Nobody is left who would register it again.
    world.registrar.as_mut().unwrap().kill9().await.unwrap();
    let load = Load::start(world.edge, Request::get("www.example.com", "/"));
    world.etcd.restart_emptied().await.unwrap();
    kept(&world, Some("1 of 1 environments")).await;
    let routed = async || world.get("www.example.com", "/").await.unwrap().status == 200;
    throughout(Duration::from_secs(3), "www is routed on", routed).await;
    load.stop().await.assert_flawless(100);
    let confirmed = world.run("mayfly", &["confirm", "haproxy-updater"]).await;
    confirmed.unwrap().ok().unwrap();
    kept(&world, None).await;
    assert_eq!(world.get("www.example.com", "/").await.unwrap().status, 404);
}

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
    unregistered(&world, 0).await;
    kept(&world, None).await;
    let output = world.updater.as_ref().unwrap().output();
    assert!(!output.contains("without a word"), "{output}");
}
