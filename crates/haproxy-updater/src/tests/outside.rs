//! Servers outside with a real HAProxy: what TLS needs is there at run time, in the files and after a repair; and a
//! HAProxy that knows no authorities goes without those servers, and with all others.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::support::{LIMIT, Router};
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::tls::{Authority, Terminator};
use mayfly_e2e::{eventually, port};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Everything here, the routers included, is at one loopback address, which routers ask only where
/// that is allowed.
const ALLOW: &str = "--allow-address";

fn here() -> String {
    port::own_ip().to_string()
}

/// Says what a host name resolves to.
fn resolved(router: &mut Router, name: &str, ips: &[IpAddr]) {
    router.resolve();
    let ips: BTreeSet<IpAddr> = ips.iter().copied().collect();
    router.index.resolved(&name.parse().unwrap(), ips);
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
    let mut router = Router::new(&[
        "--slots",
        "4",
        "--ca-file",
        &authority.certificate(),
        ALLOW,
        &here(),
    ]);
    router.run().await;
    router.put(
        "environments/prod",
        &environment(&[("legacy", format!("https://legacy.test:{}", at.port()))]),
    );
    resolved(&mut router, "legacy.test", &[at.ip()]);
    router.apply().await;
    until_it_answers(&router, "legacy.test").await;
    assert_eq!(router.reloads(), 0);
    assert_eq!(router.applier.distrust(), None);

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
    router.applier.verify(router.index.routing()).await.unwrap();
    until_it_answers(&router, "legacy.test").await;
    router
        .ask(&format!("set server {server} state maint;del server {server}"))
        .await
        .unwrap();
    router.applier.verify(router.index.routing()).await.unwrap();
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
        crate::haproxy::render::TEMPLATE.replacen("global\n", "global\n    httpclient.ssl.verify none\n", 1);
    let path = place.path().join("own.tera");
    std::fs::write(&path, template).unwrap();
    let mut router = Router::new(&[
        "--slots",
        "4",
        "--template",
        path.to_str().unwrap(),
        ALLOW,
        &here(),
    ]);
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
    let reason = router.applier.distrust().unwrap();
    assert!(
        reason.starts_with("no requests go to 1 server behind TLS") && reason.contains("--ca-file"),
        "{reason}"
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
    let mut router = Router::new(&["--slots", "4", ALLOW, &here()]);
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
    assert_eq!(router.applier.distrust().is_none(), loaded);
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

/// A router whose environments `a` and `b` are as told, each a name of `www-a.x` and `www-b.x` at
/// this edge or another.
async fn roundabout(at: SocketAddr, router: &mut Router, services: &[(&str, String)]) {
    for (name, version) in services {
        router.put(
            &format!("environments/{name}"),
            &json!({"name": name, "prefix": format!("www-{name}"), "header": format!("h-{name}"),
                "services": [{"name": "s", "version": version, "routes": ["/"]}]}),
        );
    }
    router.run().await;
    for name in ["www-a.x", "www-b.x"] {
        resolved(router, name, &[at.ip()]);
    }
    router.apply().await;
}

/// How many requests the process has taken.
async fn requests(router: &Router) -> u64 {
    let info = router.ask("show info").await.unwrap();
    let line = info.lines().find_map(|line| line.strip_prefix("CumReq: "));
    line.unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_comes_back_and_goes_outside_again_ends_at_once() {
    let named = |host: &str, at: SocketAddr| format!("http://{host}:{}", at.port());
    // One environment that names itself, and two that name each other.
    let mut router = Router::new(&["--slots", "8", "--node", "n", ALLOW, &here()]);
    let at = router.edge;
    let services = [
        ("a", named("www-b.x", at)),
        ("b", named("www-a.x", at)),
        ("c", format!("http://{at}")),
    ];
    roundabout(at, &mut router, &services).await;
    for request in [
        Request::get("www-a.x", "/").send(router.edge),
        Request::get("s.service", "/")
            .header("x-mayfly", "h-a")
            .send(router.internal),
    ] {
        let before = requests(&router).await;
        let answer = request.await.unwrap();
        assert_eq!(answer.status, 508, "{answer:?}");
        assert!(answer.body.contains("routes back to this router"), "{answer:?}");
        assert!(requests(&router).await - before < 5);
    }
    // Inside `c` there is no environment of that host: it is no loop.
    assert_eq!(router.outside("www-c.x", "/").await.status, 404);
}

#[tokio::test]
async fn a_loop_over_two_routers_ends_and_two_teams_may_call_each_other() {
    let named = |host: &str, at: SocketAddr| format!("http://{host}:{}", at.port());
    // The same node, as of two teams.
    let mut one = Router::new(&["--slots", "4", "--node", "n", ALLOW, &here()]);
    let mut two = Router::new(&["--slots", "4", "--node", "n", ALLOW, &here()]);
    let (there, back) = (two.edge, one.edge);
    let service = Service::start("s", "1").await.unwrap();
    let outside = format!("http://{}", service.address());
    roundabout(
        there,
        &mut one,
        &[("a", named("www-a.x", there)), ("b", named("www-b.x", there))],
    )
    .await;
    roundabout(back, &mut two, &[("a", named("www-a.x", back)), ("b", outside)]).await;
    // Each was started while the other one was not there.
    for host in ["www-a.x", "www-b.x"] {
        eventually(LIMIT, "each has found the other", async || {
            one.outside(host, "/").await.status != 503
        })
        .await;
    }
    let before = requests(&one).await + requests(&two).await;
    assert_eq!(one.outside("www-a.x", "/").await.status, 508);
    assert!(requests(&one).await + requests(&two).await - before < 8);
    // Outside from one, in at the other, and outside again.
    let echo = one.outside("www-b.x", "/").await.echo().unwrap();
    let marks = &echo.headers["via"];
    let marks: Vec<&str> = marks.iter().flat_map(|line| line.split(", ")).collect();
    assert!(marks.len() == 2 && marks[0] != marks[1], "{marks:?}");
    for mark in marks {
        let digits = mark.strip_prefix("1.1 mayfly-").unwrap();
        assert!(
            digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{mark}"
        );
    }
}

#[tokio::test]
async fn an_instance_learns_nothing_of_it_and_a_server_outside_the_name_that_was_asked_for() {
    let (inside, outside) = (
        Service::start("s", "1").await.unwrap(),
        Service::start("o", "1").await.unwrap(),
    );
    let mut router = Router::new(&["--slots", "4", ALLOW, &here()]);
    router.instance("s@1", inside.address());
    let outside = format!("http://{}", outside.address());
    router.put(
        "environments/prod",
        &environment(&[("s", "1".to_owned()), ("o", outside)]),
    );
    router.run().await;
    let echo = router.inside("s", "h-prod").await.echo().unwrap();
    assert_eq!(
        (echo.header("via"), echo.header("x-forwarded-host")),
        (String::new(), String::new())
    );
    let echo = router.inside("o", "h-prod").await.echo().unwrap();
    assert_eq!(echo.header("x-forwarded-host"), "o.service");
    assert!(echo.header("via").starts_with("1.1 mayfly-"), "{echo:?}");
}
