//! Names: the DNS updater writes what dnsmasq serves, and dnsmasq follows without a restart.

use std::net::IpAddr;

use mayfly_e2e::dnsmasq::Dnsmasq;
use mayfly_e2e::eventually;
use mayfly_e2e::world::{SOON, World};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// etcd, dnsmasq and the DNS updater, with one router that a record stands for.
async fn dns() -> World {
    let mut world = World::bare(&[]).unwrap();
    world.etcd.restart().await.unwrap();
    world
        .etcd
        .put(
            "/mayfly/routers/one",
            r#"{"address":"10.0.0.1","haproxy_version":"2.6"}"#,
        )
        .await
        .unwrap();
    world.start_dns().await.unwrap();
    world
}

#[tokio::test]
async fn every_known_service_resolves_to_the_live_router() {
    let mut world = World::start().await.unwrap();
    world.start_dns().await.unwrap();
    let dnsmasq = world.dnsmasq.as_ref().unwrap().id();
    let internal = [world.internal.ip()];
    world.resolves("backend.service", &[]).await;
    // Known by an instance.
    let mut backend = world.instance("backend", "0.0.1").await.unwrap();
    world.resolves("backend.service", &internal).await;
    world.resolves("BACKEND.Service", &internal).await;
    // Known by an environment only.
    world.save("dev.yaml", "{name: dev, services: [planned]}");
    world.save("other.yaml", "{name: other, services: [something]}");
    world.resolves("planned.service", &internal).await;
    world.resolves("something.service", &internal).await;
    world.resolves("unknown.service", &[]).await;
    // Gone when nobody knows it any more.
    world.remove("dev.yaml");
    world.resolves("planned.service", &[]).await;
    backend.registrar.terminate(SOON).await.unwrap();
    world.resolves("backend.service", &[]).await;
    assert_eq!(world.dnsmasq.as_ref().unwrap().id(), dnsmasq);
}

#[tokio::test]
async fn all_live_routers_are_named() {
    let world = dns().await;
    let _backend = world.instance("backend", "0.0.1").await.unwrap();
    world.resolves("backend.service", &[ip("10.0.0.1")]).await;
    world
        .etcd
        .put(
            "/mayfly/routers/two",
            r#"{"address":"10.0.0.2","haproxy_version":"3.0"}"#,
        )
        .await
        .unwrap();
    world
        .resolves("backend.service", &[ip("10.0.0.1"), ip("10.0.0.2")])
        .await;
    world
        .etcd
        .put(
            "/mayfly/routers/six",
            r#"{"address":"fd00::6","haproxy_version":"3.0"}"#,
        )
        .await
        .unwrap();
    eventually(SOON, "the IPv6 router is named", async || {
        world
            .dnsmasq
            .as_ref()
            .unwrap()
            .lookup_v6("backend.service")
            .await
            .unwrap()
            == [ip("fd00::6")]
    })
    .await;
    world.etcd.delete("/mayfly/routers/one").await.unwrap();
    world.resolves("backend.service", &[ip("10.0.0.2")]).await;
    // A router that changes its address.
    world
        .etcd
        .put(
            "/mayfly/routers/two",
            r#"{"address":"10.0.0.3","haproxy_version":"3.0"}"#,
        )
        .await
        .unwrap();
    world.resolves("backend.service", &[ip("10.0.0.3")]).await;
}

#[tokio::test]
async fn static_records_go_through_etcd() {
    let world = dns().await;
    let run = async |arguments: &[&str]| world.run("dns-updater", arguments).await.unwrap();
    run(&["update", "db.internal", "10.9.0.1", "10.9.0.2"])
        .await
        .ok()
        .unwrap();
    world
        .resolves("db.internal", &[ip("10.9.0.1"), ip("10.9.0.2")])
        .await;
    run(&["update", "db.internal", "10.9.0.3"]).await.ok().unwrap();
    world.resolves("db.internal", &[ip("10.9.0.3")]).await;
    run(&["update", "cache.internal", "10.9.0.4"]).await.ok().unwrap();
    run(&["update", "queue.internal", "10.9.0.5"]).await.ok().unwrap();
    world.resolves("queue.internal", &[ip("10.9.0.5")]).await;
    let list = run(&["list"]).await.ok().unwrap();
    for part in ["db.internal", "10.9.0.3", "cache.internal", "10.9.0.4"] {
        assert!(list.contains(part), "{part} in\n{list}");
    }
    run(&["delete", "db.internal", "queue.internal"])
        .await
        .ok()
        .unwrap();
    world.resolves("db.internal", &[]).await;
    world.resolves("queue.internal", &[]).await;
    world.resolves("cache.internal", &[ip("10.9.0.4")]).await;
    run(&["reset"]).await.ok().unwrap();
    world.resolves("cache.internal", &[]).await;
    assert!(!run(&["list"]).await.ok().unwrap().contains("cache"));
    assert!(world.etcd.list("/mayfly/dns/").await.unwrap().is_empty());
}

#[tokio::test]
async fn reset_removes_nothing_but_static_records() {
    let world = dns().await;
    let _backend = world.instance("backend", "0.0.1").await.unwrap();
    world.resolves("backend.service", &[ip("10.0.0.1")]).await;
    world
        .run("dns-updater", &["update", "db.internal", "10.9.0.1"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    world.resolves("db.internal", &[ip("10.9.0.1")]).await;
    world.run("dns-updater", &["reset"]).await.unwrap().ok().unwrap();
    world.resolves("db.internal", &[]).await;
    world.resolves("backend.service", &[ip("10.0.0.1")]).await;
    assert_eq!(world.etcd.list("/mayfly/routers/").await.unwrap().len(), 1);
}

#[tokio::test]
async fn wrong_records_are_refused() {
    let world = dns().await;
    for arguments in [
        &["update"][..],
        &["update", "db.internal"],
        &["update", "db.internal", "not-an-address"],
        &["update", "db internal", "10.9.0.1"],
        &["update", "db.internal\n6.6.6.6 evil", "10.9.0.1"],
        &["update", "-db.internal", "10.9.0.1"],
        &["update", "db.internal", "10.9.0.1 evil"],
        &["delete"],
    ] {
        let finished = world.run("dns-updater", arguments).await.unwrap();
        assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
    }
    assert!(world.etcd.list("/mayfly/dns/").await.unwrap().is_empty());
}

#[tokio::test]
async fn the_domain_is_a_flag() {
    let mut world = World::bare(&[]).unwrap();
    world.etcd.restart().await.unwrap();
    world
        .etcd
        .put(
            "/mayfly/routers/one",
            r#"{"address":"10.0.0.1","haproxy_version":"2.6"}"#,
        )
        .await
        .unwrap();
    let hosts = world.directory().join("hosts");
    let mut command = world.dns_watch().unwrap();
    command.args(["--domain", "mesh.example"]);
    world.dns_updater = Some(world.spawn("dns-updater", &command).unwrap());
    world.dnsmasq = Some(
        Dnsmasq::start(&hosts, "mesh.example", world.directory())
            .await
            .unwrap(),
    );
    let _backend = world.instance("backend", "0.0.1").await.unwrap();
    world.resolves("backend.mesh.example", &[ip("10.0.0.1")]).await;
    world.resolves("backend.service", &[]).await;
}

#[tokio::test]
async fn names_survive_an_outage_of_etcd() {
    let mut world = dns().await;
    let backend = mayfly_e2e::instance::Service::start("backend", "0.0.1")
        .await
        .unwrap();
    let _registrar = world
        .register("backend", "0.0.1", backend.address(), &["--ttl", "3s"])
        .unwrap();
    world.resolves("backend.service", &[ip("10.0.0.1")]).await;
    let resolves = async |world: &World| {
        world
            .dnsmasq
            .as_ref()
            .unwrap()
            .lookup("backend.service")
            .await
            .unwrap()
            == [ip("10.0.0.1")]
    };
    world.etcd.kill9().await.unwrap();
    let span = std::time::Duration::from_secs(4);
    mayfly_e2e::poll::throughout(span, "the name resolves without etcd", async || {
        resolves(&world).await
    })
    .await;
    world.etcd.restart().await.unwrap();
    let _other = world.instance("other", "0.0.1").await.unwrap();
    world.resolves("other.service", &[ip("10.0.0.1")]).await;
    assert!(resolves(&world).await);
}

#[tokio::test]
async fn its_status_tells_the_revision_that_is_applied() {
    let world = dns().await;
    let _backend = world.instance("backend", "0.0.1").await.unwrap();
    world.resolves("backend.service", &[ip("10.0.0.1")]).await;
    let revision = world.etcd.revision().await.unwrap();
    world
        .etcd
        .put("/mayfly/dns/db.internal", r#"{"addresses":["10.9.0.1"]}"#)
        .await
        .unwrap();
    world.resolves("db.internal", &[ip("10.9.0.1")]).await;
    eventually(SOON, "the status has the revision", async || {
        let status = world.status("dns-updater").await.unwrap_or_default();
        status["applied_revision"]
            .as_i64()
            .is_some_and(|applied| applied > revision)
            && status["ready"] == true
    })
    .await;
}
