//! Names: the DNS updater writes what dnsmasq serves, and dnsmasq follows without a restart.

use std::net::IpAddr;

use mayfly_e2e::dnsmasq::Dnsmasq;
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// etcd, dnsmasq and the DNS updater, with one router that a record stands for.
async fn dns() -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly
        .etcd
        .put(
            "/mayfly/routers/one",
            r#"{"address":"10.0.0.1","haproxy_version":"2.6"}"#,
        )
        .await
        .unwrap();
    mayfly.start_dns().await.unwrap();
    mayfly
}

#[tokio::test]
async fn every_known_service_resolves_to_the_live_router() {
    let mut mayfly = Mayfly::start().await.unwrap();
    mayfly.start_dns().await.unwrap();
    let dnsmasq = mayfly.dnsmasq.as_ref().unwrap().id();
    let internal = [mayfly.internal.ip()];
    mayfly.resolves("backend.service", &[]).await;
    // Known by an instance.
    let mut backend = mayfly.instance("backend", "0.0.1").await.unwrap();
    mayfly.resolves("backend.service", &internal).await;
    mayfly.resolves("BACKEND.Service", &internal).await;
    // Known by an environment only.
    mayfly.save("dev.yaml", "{name: dev, services: [planned]}");
    mayfly.save("other.yaml", "{name: other, services: [something]}");
    mayfly.resolves("planned.service", &internal).await;
    mayfly.resolves("something.service", &internal).await;
    mayfly.resolves("unknown.service", &[]).await;
    // Gone when nobody knows it any more.
    mayfly.remove("dev.yaml");
    mayfly.resolves("planned.service", &[]).await;
    backend.registrar.terminate(SOON).await.unwrap();
    mayfly.resolves("backend.service", &[]).await;
    assert_eq!(mayfly.dnsmasq.as_ref().unwrap().id(), dnsmasq);
}

#[tokio::test]
async fn all_live_routers_are_named() {
    let mayfly = dns().await;
    let _backend = mayfly.instance("backend", "0.0.1").await.unwrap();
    mayfly.resolves("backend.service", &[ip("10.0.0.1")]).await;
    mayfly
        .etcd
        .put(
            "/mayfly/routers/two",
            r#"{"address":"10.0.0.2","haproxy_version":"3.0"}"#,
        )
        .await
        .unwrap();
    mayfly
        .resolves("backend.service", &[ip("10.0.0.1"), ip("10.0.0.2")])
        .await;
    mayfly
        .etcd
        .put(
            "/mayfly/routers/six",
            r#"{"address":"fd00::6","haproxy_version":"3.0"}"#,
        )
        .await
        .unwrap();
    eventually(SOON, "the IPv6 router is named", async || {
        mayfly
            .dnsmasq
            .as_ref()
            .unwrap()
            .lookup_v6("backend.service")
            .await
            .unwrap()
            == [ip("fd00::6")]
    })
    .await;
    mayfly.etcd.delete("/mayfly/routers/one").await.unwrap();
    mayfly.resolves("backend.service", &[ip("10.0.0.2")]).await;
    // A router that changes its address.
    mayfly
        .etcd
        .put(
            "/mayfly/routers/two",
            r#"{"address":"10.0.0.3","haproxy_version":"3.0"}"#,
        )
        .await
        .unwrap();
    mayfly.resolves("backend.service", &[ip("10.0.0.3")]).await;
}

#[tokio::test]
async fn static_records_go_through_etcd() {
    let mayfly = dns().await;
    let run = async |arguments: &[&str]| mayfly.run("dns-updater", arguments).await.unwrap();
    run(&["update", "db.internal", "10.9.0.1", "10.9.0.2"])
        .await
        .ok()
        .unwrap();
    mayfly
        .resolves("db.internal", &[ip("10.9.0.1"), ip("10.9.0.2")])
        .await;
    run(&["update", "db.internal", "10.9.0.3"]).await.ok().unwrap();
    mayfly.resolves("db.internal", &[ip("10.9.0.3")]).await;
    run(&["update", "cache.internal", "10.9.0.4"]).await.ok().unwrap();
    run(&["update", "queue.internal", "10.9.0.5"]).await.ok().unwrap();
    mayfly.resolves("queue.internal", &[ip("10.9.0.5")]).await;
    let list = run(&["list"]).await.ok().unwrap();
    for part in ["db.internal", "10.9.0.3", "cache.internal", "10.9.0.4"] {
        assert!(list.contains(part), "{part} in\n{list}");
    }
    run(&["delete", "db.internal", "queue.internal"])
        .await
        .ok()
        .unwrap();
    mayfly.resolves("db.internal", &[]).await;
    mayfly.resolves("queue.internal", &[]).await;
    mayfly.resolves("cache.internal", &[ip("10.9.0.4")]).await;
    run(&["reset"]).await.ok().unwrap();
    mayfly.resolves("cache.internal", &[]).await;
    assert!(!run(&["list"]).await.ok().unwrap().contains("cache"));
    assert!(mayfly.etcd.list("/mayfly/dns/").await.unwrap().is_empty());
}

#[tokio::test]
async fn reset_removes_nothing_but_static_records() {
    let mayfly = dns().await;
    let _backend = mayfly.instance("backend", "0.0.1").await.unwrap();
    mayfly.resolves("backend.service", &[ip("10.0.0.1")]).await;
    mayfly
        .run("dns-updater", &["update", "db.internal", "10.9.0.1"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    mayfly.resolves("db.internal", &[ip("10.9.0.1")]).await;
    mayfly.run("dns-updater", &["reset"]).await.unwrap().ok().unwrap();
    mayfly.resolves("db.internal", &[]).await;
    mayfly.resolves("backend.service", &[ip("10.0.0.1")]).await;
    assert_eq!(mayfly.etcd.list("/mayfly/routers/").await.unwrap().len(), 1);
}

#[tokio::test]
async fn wrong_records_are_refused() {
    let mayfly = dns().await;
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
        let finished = mayfly.run("dns-updater", arguments).await.unwrap();
        assert_eq!(finished.code, Some(2), "{arguments:?}: {finished:?}");
    }
    assert!(mayfly.etcd.list("/mayfly/dns/").await.unwrap().is_empty());
}

#[tokio::test]
async fn the_domain_is_a_flag() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly
        .etcd
        .put(
            "/mayfly/routers/one",
            r#"{"address":"10.0.0.1","haproxy_version":"2.6"}"#,
        )
        .await
        .unwrap();
    let hosts = mayfly.directory().join("hosts");
    let mut command = mayfly.dns_watch().unwrap();
    command.args(["--domain", "mesh.example"]);
    mayfly.dns_updater = Some(mayfly.spawn("dns-updater", &command).unwrap());
    mayfly.dnsmasq = Some(
        Dnsmasq::start(&hosts, "mesh.example", mayfly.directory())
            .await
            .unwrap(),
    );
    let _backend = mayfly.instance("backend", "0.0.1").await.unwrap();
    mayfly.resolves("backend.mesh.example", &[ip("10.0.0.1")]).await;
    mayfly.resolves("backend.service", &[]).await;
}

#[tokio::test]
async fn names_survive_an_outage_of_etcd() {
    let mut mayfly = dns().await;
    let backend = mayfly_e2e::instance::Service::start("backend", "0.0.1")
        .await
        .unwrap();
    let _registrar = mayfly
        .register("backend", "0.0.1", backend.address(), &["--ttl", "3s"])
        .unwrap();
    mayfly.resolves("backend.service", &[ip("10.0.0.1")]).await;
    let resolves = async |mayfly: &Mayfly| {
        mayfly
            .dnsmasq
            .as_ref()
            .unwrap()
            .lookup("backend.service")
            .await
            .unwrap()
            == [ip("10.0.0.1")]
    };
    mayfly.etcd.kill9().await.unwrap();
    let span = std::time::Duration::from_secs(4);
    mayfly_e2e::poll::throughout(span, "the name resolves without etcd", async || {
        resolves(&mayfly).await
    })
    .await;
    mayfly.etcd.restart().await.unwrap();
    let _other = mayfly.instance("other", "0.0.1").await.unwrap();
    mayfly.resolves("other.service", &[ip("10.0.0.1")]).await;
    assert!(resolves(&mayfly).await);
}

#[tokio::test]
async fn its_status_tells_the_revision_that_is_applied() {
    let mayfly = dns().await;
    let _backend = mayfly.instance("backend", "0.0.1").await.unwrap();
    mayfly.resolves("backend.service", &[ip("10.0.0.1")]).await;
    let revision = mayfly.etcd.revision().await.unwrap();
    mayfly
        .etcd
        .put("/mayfly/dns/db.internal", r#"{"addresses":["10.9.0.1"]}"#)
        .await
        .unwrap();
    mayfly.resolves("db.internal", &[ip("10.9.0.1")]).await;
    eventually(SOON, "the status has the revision", async || {
        let status = mayfly.status("dns-updater").await.unwrap_or_default();
        status["applied_revision"]
            .as_i64()
            .is_some_and(|applied| applied > revision)
            && status["ready"] == true
    })
    .await;
}
