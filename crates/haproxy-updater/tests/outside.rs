//! Servers outside with a real HAProxy: what TLS needs is there at run time, in the files and after a repair; and a
//! HAProxy that knows no authorities goes without those servers, and with all others.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use mayfly_e2e::instance::Service;
use mayfly_e2e::tls::{Authority, Terminator};
use mayfly_e2e::{eventually, port};
use serde_json::{Value, json};
use support::{LIMIT, Router};
use tempfile::TempDir;

/// Tells what a host name leads to.
fn resolved(router: &mut Router, name: &str, ips: &[IpAddr]) {
    router.engine.resolve();
    let ips: BTreeSet<IpAddr> = ips.iter().copied().collect();
    router.engine.index.resolved(&name.parse().unwrap(), ips);
}

fn environment(services: &[(&str, String)]) -> Value {
    let services: Vec<Value> = services
        .iter()
        .map(|(name, version)| json!({"name": name, "version": version}))
        .collect();
    json!({"name": "prod", "prefix": "www-prod", "header": "h-prod", "services": services})
}

/// An instance behind TLS as `legacy.test`.
async fn behind_tls(place: &TempDir) -> (Authority, Service, SocketAddr, Terminator) {
    let authority = Authority::new(place.path(), "ours").await.unwrap();
    let certificate = authority.certify("legacy.test").await.unwrap();
    let service = Service::start("legacy", "1").await.unwrap();
    let at = port::free();
    let terminator = Terminator::start(place.path(), at, &certificate, service.address())
        .await
        .unwrap();
    (authority, service, at, terminator)
}

fn place() -> TempDir {
    tempfile::Builder::new().prefix("mayfly-").tempdir().unwrap()
}

async fn until_it_answers(router: &Router, sni: &str) {
    eventually(LIMIT, "the server behind TLS answers", async || {
        let answer = router.inside("legacy", "h-prod").await;
        anyhow::ensure!(
            answer.headers.get("x-sni").is_some_and(|name| name == sni),
            "{answer:?}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn servers_behind_tls_are_added_repaired_and_started_from_the_files() {
    let place = place();
    let (authority, _service, at, _terminator) = behind_tls(&place).await;
    let mut router = Router::new(&["--slots", "4", "--ca-file", &authority.certificate()]);
    router.run().await;
    router.put(
        "environments/prod",
        &environment(&[("legacy", format!("https://legacy.test:{}", at.port()))]),
    );
    resolved(&mut router, "legacy.test", &[at.ip()]);
    router.apply().await;
    until_it_answers(&router, "legacy.test").await;
    assert_eq!(router.reloads(), 0);
    assert_eq!(router.engine.distrust(), None);

    let server = format!("slot-1/{}:{}-tls-legacy.test", at.ip(), at.port());
    router
        .ask(&format!("set server {server} addr 127.0.0.1 port 1"))
        .await
        .unwrap();
    eventually(LIMIT, "the address is changed and repaired", async || {
        router
            .ask("show servers state")
            .await
            .is_ok_and(|text| text.contains("-tls-legacy.test 127.0.0.1 "))
    })
    .await;
    router.engine.verify().await.unwrap();
    until_it_answers(&router, "legacy.test").await;
    router
        .ask(&format!("set server {server} state maint;del server {server}"))
        .await
        .unwrap();
    router.engine.verify().await.unwrap();
    until_it_answers(&router, "legacy.test").await;

    router.write().await;
    router.kill().await;
    router.start().await;
    until_it_answers(&router, "legacy.test").await;
    // By HTTP/2 inside TLS, as gRPC wants it.
    router.put(
        "backends/legacy/2/x",
        &json!({"address": format!("https://legacy.test:{}", at.port()), "protocol": "h2c"}),
    );
    router.put("environments/prod", &environment(&[("legacy", "2".to_owned())]));
    router.apply().await;
    until_it_answers(&router, "legacy.test").await;
}

#[tokio::test]
async fn without_authorities_only_servers_behind_tls_are_left_out() {
    let place = place();
    let (_authority, _service, at, _terminator) = behind_tls(&place).await;
    let plain = Service::start("plain", "1").await.unwrap();
    // As where the system has no authorities: HAProxy does not load them.
    let template =
        haproxy_updater::render::TEMPLATE.replacen("global\n", "global\n    httpclient.ssl.verify none\n", 1);
    let path = place.path().join("own.tera");
    std::fs::write(&path, template).unwrap();
    let mut router = Router::new(&["--slots", "4", "--template", path.to_str().unwrap()]);
    router.put(
        "environments/prod",
        &environment(&[
            ("legacy", format!("https://legacy.test:{}", at.port())),
            ("plain", format!("http://{}", plain.address())),
        ]),
    );
    resolved(&mut router, "legacy.test", &[at.ip()]);
    router.run().await;
    assert_eq!(router.inside("plain", "h-prod").await.status, 200);
    assert_eq!(router.inside("legacy", "h-prod").await.status, 503);
    let told = router.engine.distrust().unwrap();
    assert!(
        told.starts_with("1 servers behind TLS are left out") && told.contains("--ca-file"),
        "{told}"
    );
    router.write().await;
    let config = std::fs::read_to_string(router.path("haproxy.cfg")).unwrap();
    assert!(!config.contains("ca-file"), "{config}");
    router.kill().await;
    router.start().await;
    assert_eq!(router.inside("plain", "h-prod").await.status, 200);
}

#[tokio::test]
async fn the_authorities_of_the_system_are_those_by_default() {
    let place = place();
    let (_authority, service, at, _terminator) = behind_tls(&place).await;
    let mut router = Router::new(&["--slots", "4"]);
    router.run().await;
    let loaded = router
        .ask("show ssl ca-file")
        .await
        .unwrap()
        .contains("@system-ca");
    router.put(
        "environments/prod",
        &environment(&[("legacy", format!("https://legacy.test:{}", at.port()))]),
    );
    resolved(&mut router, "legacy.test", &[at.ip()]);
    router.apply().await;
    // Whether or not this machine has any, none of them knows the test's.
    assert_eq!(router.engine.distrust().is_none(), loaded);
    eventually(LIMIT, "503", async || {
        router.inside("legacy", "h-prod").await.status == 503
    })
    .await;
    assert_eq!(service.requests(), 0);
    router.write().await;
    let config = std::fs::read_to_string(router.path("haproxy.cfg")).unwrap();
    assert_eq!(config.contains("ca-file @system-ca"), loaded);
    assert!(!config.contains("backend authorities"));
}
