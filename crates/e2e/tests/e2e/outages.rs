//! Outages are boring: with etcd, the updater or a registrar gone, HAProxy routes on, and what comes back catches up.

use std::time::{Duration, Instant};

use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::load::Load;
use mayfly_e2e::process::{Process, Signal};
use mayfly_e2e::world::{SOON, World};

/// After an outage: the daemons notice, connect again and catch up.
const AFTER_OUTAGE: Duration = Duration::from_secs(20);

fn environment(version: &str) -> String {
    format!("name: prod\nprefix: www\nservices:\n  - {{name: web, version: {version}, route: /}}\n")
}

/// `www` on web 1.0.0, while 2.0.0 lives too.
async fn world() -> (World, Vec<(Process, Service)>) {
    world_with(&[]).await
}

/// The same with further arguments for haproxy-updater.
async fn world_with(arguments: &[&str]) -> (World, Vec<(Process, Service)>) {
    let world = World::start_with(arguments).await.unwrap();
    let mut instances = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        let service = Service::start("web", version).await.unwrap();
        let registrar = world
            .register("web", version, service.address(), &["--ttl", "3s"])
            .unwrap();
        instances.push((registrar, service));
    }
    world.save("prod.yaml", &environment("1.0.0"));
    world.answers("www.example.com", "web@1.0.0").await;
    world.save(
        "dev.yaml",
        "{name: dev, services: [{name: web, version: 2.0.0, route: /}]}",
    );
    world.answers("www-dev.example.com", "web@2.0.0").await;
    (world, instances)
}

/// Waits until the change to 2.0.0 has reached HAProxy after an outage.
async fn catches_up(world: &World, version: &str) {
    eventually(AFTER_OUTAGE, &format!("www is on {version}"), async || {
        let answer = world
            .get("www.example.com", "/")
            .await
            .map_err(|e| format!("{e:#}"))?;
        match answer.backend() {
            Ok(backend) if backend == format!("web@{version}") => Ok(()),
            _ => Err(answer.body),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_killed_and_restarted() {
    let (mut world, _instances) = world().await;
    let load = Load::start(world.edge, Request::get("www.example.com", "/"));
    world.etcd.kill9().await.unwrap();
    world.save("prod.yaml", &environment("2.0.0"));
    // Longer than the leases' TTL: nothing may end only because nobody could say that it lives.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(
        world
            .get("www.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@1.0.0"
    );
    world.etcd.restart().await.unwrap();
    catches_up(&world, "2.0.0").await;
    load.stop().await.assert_flawless(300);
    assert_eq!(world.reloads().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_frozen_for_longer_than_every_lease() {
    let (mut world, _instances) = world().await;
    let load = Load::start(world.edge, Request::get("www.example.com", "/"));
    world.etcd.freeze().unwrap();
    world.save("prod.yaml", &environment("2.0.0"));
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(
        world
            .get("www.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@1.0.0"
    );
    world.etcd.thaw().unwrap();
    catches_up(&world, "2.0.0").await;
    // Leases that ran out while etcd was frozen are revoked soon after, and granted again.
    tokio::time::sleep(Duration::from_secs(4)).await;
    load.stop().await.assert_flawless(300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_emptied() {
    let (mut world, _instances) = world().await;
    let load = Load::start(world.edge, Request::get("www.example.com", "/"));
    world.etcd.restart_emptied().await.unwrap();
    // Whoever lives registers again, and changes are taken as ever.
    eventually(AFTER_OUTAGE, "everything is registered again", async || {
        let all = world.etcd.list("/mayfly/").await.unwrap_or_default();
        let of = |kind: &str| {
            all.keys()
                .filter(|key| key.starts_with(&format!("/mayfly/{kind}/")))
                .count()
        };
        (of("environments"), of("backends"), of("routers")) == (2, 2, 1)
    })
    .await;
    world.save("prod.yaml", &environment("2.0.0"));
    catches_up(&world, "2.0.0").await;
    load.stop().await.assert_flawless(50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_suddenly_empties_does_not_empty_the_routing() {
    let (mut world, instances) = world().await;
    let load = Load::start(world.edge, Request::get("www.example.com", "/"));
    // Nobody is left who would register again.
    world.registrar.as_mut().unwrap().kill9().await.unwrap();
    let mut services = Vec::new();
    for (mut registrar, service) in instances {
        registrar.kill9().await.unwrap();
        services.push(service);
    }
    world.etcd.restart_emptied().await.unwrap();
    let routed = async || world.get("www.example.com", "/").await.unwrap().status == 200;
    mayfly_e2e::poll::throughout(Duration::from_secs(6), "www is routed on", routed).await;
    load.stop().await.assert_flawless(300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_updater_killed_and_started_again() {
    let (mut world, _instances) = world().await;
    let worker = world.haproxy.worker().await.unwrap();
    let slots = world.haproxy.map(&world.map_file("slots")).await.unwrap();
    let load = Load::start(world.edge, Request::get("www.example.com", "/"));
    world.updater.as_mut().unwrap().kill9().await.unwrap();
    world.save("prod.yaml", &environment("2.0.0"));
    let before = async || {
        world
            .get("www.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap()
            == "web@1.0.0"
    };
    mayfly_e2e::poll::throughout(Duration::from_secs(1), "www is routed on", before).await;
    world.start_updater().unwrap();
    catches_up(&world, "2.0.0").await;
    load.stop().await.assert_flawless(100);
    assert_eq!(
        world.haproxy.worker().await.unwrap(),
        worker,
        "HAProxy was reloaded"
    );
    assert_eq!(
        world.haproxy.map(&world.map_file("slots")).await.unwrap(),
        slots,
        "slots survive"
    );
    assert_eq!(world.reloads().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_updater_stops_in_good_order_and_haproxy_routes_on() {
    let (mut world, _instances) = world().await;
    registered(&world).await;
    let status = world.updater.as_mut().unwrap().terminate(SOON).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(
        world
            .get("www.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@1.0.0"
    );
    // Its record ends with the lease, unless it is back before: a restart moves no name.
    assert!(
        world
            .etcd
            .lease_of("/mayfly/routers/test")
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_restarted_converges_within_a_second() {
    let (mut world, _instances) = world().await;
    world.haproxy.kill9().await.unwrap();
    world.save("prod.yaml", &environment("2.0.0"));
    world.haproxy.start().await.unwrap();
    converges(&world).await;
    assert_eq!(
        world
            .get("www-dev.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@2.0.0"
    );
    // And from here on changes arrive as ever.
    world.save("prod.yaml", &environment("1.0.0"));
    world.answers("www.example.com", "web@1.0.0").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_reloaded_behind_the_updaters_back_converges_within_a_second() {
    let (mut world, _instances) = world().await;
    on_disk(&world, "edge", ["www-dev", "dev"]).await;
    let load = Load::start(world.edge, Request::get("www-dev.example.com", "/"));
    // A run-time change that perhaps no file has yet.
    world.save("prod.yaml", &environment("2.0.0"));
    world.answers("www.example.com", "web@2.0.0").await;
    world.haproxy.reload().await.unwrap();
    converges(&world).await;
    let _three = world.instance("web", "3.0.0").await.unwrap();
    world.save("prod.yaml", &environment("3.0.0"));
    world.answers("www.example.com", "web@3.0.0").await;
    load.stop().await.assert_flawless(50);
}

/// Waits until the router is registered: once HAProxy answers, and has told its version.
async fn registered(world: &World) {
    eventually(SOON, "the router is registered", async || {
        let record = world.etcd.get_json("/mayfly/routers/test").await;
        record.is_ok_and(|record| {
            record["haproxy_version"]
                .as_str()
                .is_some_and(|version| !version.is_empty())
        })
    })
    .await;
}

/// Waits until a map's file has a row: files follow a run-time change shortly.
async fn on_disk(world: &World, map: &str, row: [&str; 2]) {
    let file = world.map_file(map);
    eventually(SOON, &format!("{} has {row:?}", file.display()), async || {
        let rows = std::fs::read_to_string(&file).unwrap();
        rows.lines().any(|found| found.split_whitespace().eq(row))
    })
    .await;
}

/// `www` is on 2.0.0 within a second from now, at every look after that.
async fn converges(world: &World) {
    let start = Instant::now();
    world.answers("www.example.com", "web@2.0.0").await;
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "converged after {took:?} only");
    for _ in 0..20 {
        assert_eq!(
            world
                .get("www.example.com", "/")
                .await
                .unwrap()
                .backend()
                .unwrap(),
            "web@2.0.0"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn haproxy_restarted_while_the_updater_is_gone_still_routes() {
    let (mut world, _instances) = world().await;
    world.save("prod.yaml", &environment("2.0.0"));
    world.answers("www.example.com", "web@2.0.0").await;
    for (map, row) in [
        ("versions", ["prod/web", "web@2.0.0"]),
        ("versions", ["dev/web", "web@2.0.0"]),
        ("edge", ["www", "prod"]),
        ("edge", ["www-dev", "dev"]),
    ] {
        on_disk(&world, map, row).await;
    }
    eventually(SOON, "the configuration lists both servers", async || {
        let config = std::fs::read_to_string(world.haproxy_directory().join("haproxy.cfg")).unwrap();
        config
            .lines()
            .filter(|line| line.trim_start().starts_with("server "))
            .count()
            == 2
    })
    .await;
    world.updater.as_mut().unwrap().kill9().await.unwrap();
    world.haproxy.restart().await.unwrap();
    assert_eq!(
        world
            .get("www.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@2.0.0"
    );
    assert_eq!(
        world
            .get("www-dev.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@2.0.0"
    );
    // The updater comes back without a reload.
    let worker = world.haproxy.worker().await.unwrap();
    world.start_updater().unwrap();
    world.save("prod.yaml", &environment("1.0.0"));
    world.answers("www.example.com", "web@1.0.0").await;
    assert_eq!(
        world.haproxy.worker().await.unwrap(),
        worker,
        "HAProxy was reloaded"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drift_is_looked_for_and_repaired() {
    let (world, _instances) = world_with(&["--verify", "500ms"]).await;
    let versions = world.map_file("versions");
    let edge = world.map_file("edge");
    for damage in [
        format!("clear map {}", versions.display()),
        format!("del map {} www", edge.display()),
        format!("set map {} prod/web web@2.0.0", versions.display()),
        format!("add map {} www-ghost prod", edge.display()),
    ] {
        world.haproxy.ask(&damage).await.unwrap();
        eventually(AFTER_OUTAGE, &format!("repaired: {damage}"), async || {
            let www = world.get("www.example.com", "/").await.unwrap();
            let ghost = world.get("www-ghost.example.com", "/").await.unwrap();
            www.backend().is_ok_and(|backend| backend == "web@1.0.0") && ghost.status == 404
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_was_compacted_away_is_listed_again() {
    let (mut world, _instances) = world().await;
    world.updater.as_mut().unwrap().signal(Signal::Stop).unwrap();
    world.save("prod.yaml", &environment("2.0.0"));
    world.remove("dev.yaml");
    eventually(SOON, "etcd has both changes", async || {
        let all = world.etcd.list("/mayfly/environments/").await.unwrap();
        all.len() == 1 && all.values().all(|value| value.contains("2.0.0"))
    })
    .await;
    for n in 0..50 {
        world
            .etcd
            .put("/mayfly/environments/passing", &format!("{n}"))
            .await
            .unwrap();
    }
    world.etcd.delete("/mayfly/environments/passing").await.unwrap();
    world.etcd.compact().await.unwrap();
    // The connection is lost too, or the watch would go on from what is buffered.
    world.etcd.kill9().await.unwrap();
    world.etcd.restart().await.unwrap();
    world.updater.as_mut().unwrap().signal(Signal::Cont).unwrap();
    catches_up(&world, "2.0.0").await;
    eventually(SOON, "www-dev is gone", async || {
        world.get("www-dev.example.com", "/").await.unwrap().status == 404
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_environment_registrar_gone_environments_stay() {
    let (mut world, _instances) = world().await;
    world.registrar.as_mut().unwrap().kill9().await.unwrap();
    let routed = async || world.get("www.example.com", "/").await.unwrap().status == 200;
    mayfly_e2e::poll::throughout(Duration::from_secs(2), "www is routed on", routed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_etcd_last_while_nothing_happens() {
    let (world, instances) = world().await;
    let changes = async || {
        let all = world.etcd.list("/mayfly/").await.unwrap();
        all.into_iter()
            .filter(|(key, _)| !key.starts_with("/mayfly/status/"))
            .collect::<Vec<_>>()
    };
    registered(&world).await;
    let before = changes().await;
    // etcd throws out a client that pings too often, but only after some time.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert_eq!(changes().await, before);
    let daemons = [
        world.updater.as_ref(),
        world.registrar.as_ref(),
        Some(&instances[0].0),
    ];
    for daemon in daemons.into_iter().flatten() {
        let output = daemon.output();
        let troubles: Vec<&str> = output.lines().filter(|line| line.contains("etcd at")).collect();
        assert!(troubles.is_empty(), "{}: {troubles:#?}", daemon.name());
    }
}
