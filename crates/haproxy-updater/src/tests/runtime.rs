//! What happens while HAProxy runs: changes without reloads, growth, restarts behind the applier's back, foreign
//! changes, refused configurations, and servers that come and go under load.

use std::collections::BTreeSet;

use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::load::Load;
use mayfly_e2e::port;
use mayfly_e2e::tls::Authority;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

use super::support::{LIMIT, Router};

#[tokio::test]
async fn environments_and_versions_reach_a_running_haproxy_without_a_reload() {
    let mut router = Router::new(&["--slots", "128"]);
    router.run().await;
    let worker = router.ask("show info").await.unwrap();
    let pid = worker
        .lines()
        .find(|line| line.starts_with("Pid:"))
        .unwrap()
        .to_owned();
    let mut instances = Vec::new();
    for version in 1..=50 {
        let instance = Service::start("backend", &version.to_string()).await.unwrap();
        router.instance(&format!("backend@{version}"), instance.address());
        instances.push(instance);
        router.apply().await;
        for change in 0..4 {
            // One environment is made, one changed over and over; each answers right away.
            let name = if change == 0 {
                format!("env-{version}")
            } else {
                "dev".to_owned()
            };
            let choice = if change == 2 { 1 } else { version };
            router.environment(&name, None, &[&format!("backend@{choice}/")]);
            router.apply().await;
            let answer = router.outside(&format!("www-{name}.example.com"), "/").await;
            assert_eq!(answer.backend().unwrap(), format!("backend@{choice}"));
        }
        if version % 10 == 0 {
            router.write().await;
        }
    }
    for version in 1..=50 {
        router.delete(&format!("environments/env-{version}"));
    }
    router.apply().await;
    assert_eq!(router.outside("www-env-7.example.com", "/").await.status, 404);
    assert_eq!((router.rows("edge").await, router.rows("versions").await), (1, 1));
    assert!(
        router.ask("show info").await.unwrap().contains(&pid),
        "the same process"
    );
    assert_eq!(router.reloads(), 0);
    // The files, of which each round wrote only the stale ones, say what the process has.
    router.write().await;
    for map in ["edge", "headers", "parents", "routes", "versions", "slots"] {
        let text = std::fs::read_to_string(router.path(&format!("maps/{map}.map"))).unwrap();
        let mut on_disk: Vec<&str> = text.lines().collect();
        let answer = router
            .ask(&format!("show map {}", router.path(&format!("maps/{map}.map"))))
            .await
            .unwrap();
        let mut running: Vec<&str> = answer
            .lines()
            .filter_map(|line| Some(line.split_once(' ')?.1))
            .collect();
        on_disk.sort_unstable();
        running.sort_unstable();
        assert_eq!(on_disk, running, "{map}");
    }
    let config = std::fs::read_to_string(router.path("haproxy.cfg")).unwrap();
    assert_eq!(
        config
            .lines()
            .filter(|line| line.trim().starts_with("server "))
            .count(),
        50
    );
    // The shadow of what HAProxy has is right: reading everything finds nothing to repair.
    router.applier.verify(router.index.routing()).await.unwrap();
    assert_eq!(router.applier.metrics().drift_repairs.get(), 0);
}

#[tokio::test]
async fn the_pool_grows_by_a_reload_without_a_failed_request() {
    let mut router = Router::new(&["--slots", "4"]);
    let first = Service::start("s0", "1").await.unwrap();
    router.instance("s0@1", first.address());
    router.environment("prod", None, &["s0@1/"]);
    router.run().await;
    let load = Load::start(router.edge, Request::get("www-prod.x", "/"));
    let mut instances = Vec::new();
    for number in 1..12 {
        let name = format!("s{number}");
        let instance = Service::start(&name, "1").await.unwrap();
        router.instance(&format!("{name}@1"), instance.address());
        instances.push(instance);
        router.environment(&format!("e{number}"), None, &[&format!("{name}@1/")]);
        router.apply().await;
        let answer = router.outside(&format!("www-e{number}.x"), "/").await;
        assert_eq!(answer.backend().unwrap(), format!("{name}@1"));
    }
    assert_eq!(
        (
            router.applier.pool().total(),
            router.applier.pool().used(),
            router.reloads()
        ),
        (16, 12, 2)
    );
    let report = load.stop().await;
    report.assert_flawless(30);
}

#[tokio::test]
async fn many_backends_at_once_wait_for_one_reload() {
    let mut router = Router::new(&["--slots", "2"]);
    router.run().await;
    let instance = Service::start("all", "1").await.unwrap();
    for number in 0..40 {
        router.instance(&format!("s{number}@1"), instance.address());
        router.environment(&format!("e{number}"), None, &[&format!("s{number}@1/")]);
    }
    router.apply().await;
    assert_eq!(
        (
            router.applier.pool().total(),
            router.reloads(),
            router.applier.waiting()
        ),
        (64, 1, 0)
    );
    for number in 0..40 {
        assert_eq!(router.outside(&format!("www-e{number}.x"), "/").await.status, 200);
    }
}

#[tokio::test]
async fn haproxy_restarted_from_old_files_is_noticed_and_brought_in_sync() {
    let mut router = Router::new(&["--slots", "8"]);
    let (one, two) = (
        Service::start("a", "1").await.unwrap(),
        Service::start("b", "1").await.unwrap(),
    );
    router.instance("a@1", one.address());
    router.environment("old", None, &["a@1/"]);
    router.run().await;
    // Not on disk yet when HAProxy dies.
    router.instance("b@1", two.address());
    router.no_instance("a@1", one.address());
    router.environment("new", None, &["b@1/"]);
    router.delete("environments/old");
    router.apply().await;
    router.kill().await;
    assert!(router.applier.look().await.is_err());
    assert!(router.applier.apply(router.index.routing()).await.is_err() && !router.applier.in_sync());
    router.start().await;
    assert_eq!(
        router.outside("www-old.x", "/").await.status,
        200,
        "the old files"
    );

    router.applier.look().await.unwrap();
    assert!(!router.applier.in_sync());
    router.apply().await;
    assert_eq!(router.outside("www-new.x", "/").await.backend().unwrap(), "b@1");
    assert_eq!(router.outside("www-old.x", "/").await.status, 404);
    router.applier.look().await.unwrap();
    assert!(router.applier.in_sync() && router.reloads() == 0);
    router.see_off(1).await;
    router.applier.verify(router.index.routing()).await.unwrap();
    assert_eq!(router.applier.metrics().drift_repairs.get(), 0);
}

#[tokio::test]
async fn the_files_alone_route_and_slots_outlive_updater_and_haproxy() {
    let flags = ["--slots", "8"];
    let mut router = Router::new(&flags);
    let mut instances = Vec::new();
    for name in ["c", "b", "a"] {
        let instance = Service::start(name, "1").await.unwrap();
        router.instance(&format!("{name}@1"), instance.address());
        router.environment(name, None, &[&format!("{name}@1/")]);
        instances.push(instance);
        router.resolve();
        if name == "c" {
            router.run().await;
        } else {
            router.apply().await;
        }
    }
    let slots = |router: &Router| {
        router
            .applier
            .pool()
            .assigned()
            .map(|(backend, slot)| (backend.to_string(), slot))
            .collect::<Vec<_>>()
    };
    let before = slots(&router);
    router.write().await;
    router.kill().await;
    router.start().await;
    for name in ["a", "b", "c"] {
        let answer = router.outside(&format!("www-{name}.x"), "/").await;
        assert_eq!(
            answer.backend().unwrap(),
            format!("{name}@1"),
            "from the files alone"
        );
    }
    router.replace_updater(&flags);
    for (name, instance) in ["c", "b", "a"].into_iter().zip(&instances) {
        router.instance(&format!("{name}@1"), instance.address());
        router.environment(name, None, &[&format!("{name}@1/")]);
    }
    router.apply().await;
    assert_eq!(slots(&router), before);
    assert_eq!(router.reloads(), 0);
    assert_eq!(
        before.iter().map(|(_, slot)| slot.0).collect::<BTreeSet<_>>(),
        BTreeSet::from([1, 2, 3])
    );
}

#[tokio::test]
async fn foreign_changes_are_found_and_repaired() {
    let mut router = Router::new(&["--slots", "8"]);
    let (one, two) = (
        Service::start("a", "1").await.unwrap(),
        Service::start("a", "1").await.unwrap(),
    );
    router.instance("a@1", one.address());
    router.instance("a@1", two.address());
    router.environment("prod", None, &["a@1/", "a@1/api"]);
    router.environment("dev", Some("prod"), &[]);
    router.run().await;
    let map = |name: &str| router.path(&format!("maps/{name}.map"));
    let server = format!("slot-1/{}", one.address());
    for command in [
        format!("clear map {}", map("routes")),
        format!("del map {} www-prod", map("edge")),
        format!("set map {} prod/a a@9", map("versions")),
        format!("add map {} prod/a a@8", map("versions")),
        format!("add map {} foreign nonsense", map("headers")),
        format!("add map {} we\"ird x", map("parents")),
        format!("set server {server} weight 1"),
        format!("disable health {server}"),
        format!("set server slot-1/{} state maint", two.address()),
        "add server slot-5/127.0.0.1:1 127.0.0.1:1".to_owned(),
        format!("set server {server} addr 127.0.0.1 port 2"),
    ] {
        router.ask(&command).await.unwrap();
    }
    // HAProxy 3.0 changes an address only after it has answered.
    let has_address = async |router: &Router, text: &str| {
        let answer = router.ask("show servers state slot-1").await.unwrap();
        let mut rows = answer
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        rows.any(|row| {
            row.len() > 18
                && format!("slot-1/{}", row[3]) == server
                && format!("{}:{}", row[4], row[18]) == text
        })
    };
    eventually(LIMIT, "the foreign address", async || {
        has_address(&router, "127.0.0.1:2").await
    })
    .await;
    router.applier.verify(router.index.routing()).await.unwrap();
    assert!(router.applier.metrics().drift_repairs.get() >= 8);
    let right = one.address().to_string();
    eventually(LIMIT, "the right address", async || {
        has_address(&router, &right).await
    })
    .await;
    router.see_off(2).await;
    for _ in 0..4 {
        assert_eq!(
            router.outside("www-prod.x", "/api").await.backend().unwrap(),
            "a@1"
        );
    }
    assert!(one.requests() > 0 && two.requests() > 0);
    assert_eq!(
        (router.rows("parents").await, router.rows("headers").await),
        (1, 2)
    );

    let repairs = router.applier.metrics().drift_repairs.get();
    router.applier.verify(router.index.routing()).await.unwrap();
    assert_eq!(
        router.applier.metrics().drift_repairs.get(),
        repairs,
        "nothing is left to repair"
    );
    assert_eq!(router.reloads(), 0);
}

#[tokio::test]
async fn a_refused_configuration_leaves_the_old_one_serving() {
    let flags = ["--slots", "4"];
    let mut router = Router::new(&flags);
    let instance = Service::start("a", "1").await.unwrap();
    router.instance("a@1", instance.address());
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    router.write().await;
    let good = std::fs::read_to_string(router.path("haproxy.cfg")).unwrap();

    // haproxy -c finds nothing, but the port is taken: only the reload shows that.
    let taken = TcpListener::bind(port::free()).await.unwrap();
    let bind = format!("{},{}", router.edge, taken.local_addr().unwrap());
    router.replace_updater(&["--slots", "4", "--edge-bind", &bind]);
    router.instance("a@1", instance.address());
    router.environment("prod", None, &["a@1/"]);
    router.apply().await;
    let refusal = router.applier.refusal().unwrap().to_owned();
    assert!(refusal.contains("HAProxy was not reloaded"), "{refusal}");
    assert_eq!(std::fs::read_to_string(router.path("haproxy.cfg")).unwrap(), good);
    // Meanwhile the good configuration is written again where another program has damaged it.
    for damage in [&good[..], "cut"] {
        std::fs::write(router.path("haproxy.cfg"), damage).unwrap();
        router.write().await;
        assert_eq!(std::fs::read_to_string(router.path("haproxy.cfg")).unwrap(), good);
    }

    // Changes go on reaching the process that serves, and nothing is tried again meanwhile.
    let tries = router.applier.metrics().refused_reloads.get();
    router.environment("dev", None, &["a@1/"]);
    router.apply().await;
    assert_eq!(router.outside("www-dev.x", "/").await.backend().unwrap(), "a@1");
    assert_eq!(
        (router.applier.metrics().refused_reloads.get(), router.reloads()),
        (tries, 0)
    );

    // Fixed: HAProxy is restarted, and this time it accepts the configuration.
    drop(taken);
    router.kill().await;
    router.applier.look().await.unwrap_err();
    router.start().await;
    router.applier.look().await.unwrap();
    router.apply().await;
    assert_eq!((router.applier.refusal(), router.reloads()), (None, 1));
    assert_eq!(router.outside("www-dev.x", "/").await.backend().unwrap(), "a@1");
}

#[tokio::test]
async fn the_internal_side_moves_with_the_address_that_is_advertised() {
    let mut router = Router::new(&["--slots", "4"]);
    let instance = Service::start("a", "1").await.unwrap();
    router.instance("a@1", instance.address());
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    let before = router.internal;
    router.internal = port::free_at(port::another_ip().into());
    router
        .applier
        .listen_at(router.internal.to_string().parse().unwrap());
    assert!(!router.applier.in_sync());
    router.apply().await;
    assert_eq!((router.applier.refusal(), router.reloads()), (None, 1));
    assert_eq!(router.inside("a", "h-prod").await.backend().unwrap(), "a@1");
    let request = Request::get("a.service", "/").header("x-mayfly", "h-prod");
    request.send(before).await.unwrap_err();
    let config = std::fs::read_to_string(router.path("haproxy.cfg")).unwrap();
    assert!(
        config.contains(&format!("    bind {}\n", router.internal)),
        "{config}"
    );
}

#[tokio::test]
async fn a_template_that_haproxy_cannot_read_does_not_reach_the_disk() {
    let flags = ["--slots", "4"];
    let mut router = Router::new(&flags);
    router.run().await;
    let good = std::fs::read_to_string(router.path("haproxy.cfg")).unwrap();
    let template = router.path("my.tera");
    std::fs::write(
        &template,
        format!("{}\n    bogus keyword\n", crate::haproxy::render::TEMPLATE),
    )
    .unwrap();
    router.replace_updater(&["--slots", "4", "--template", &template]);
    router.environment("prod", None, &["a@1/"]);
    router.apply().await;
    let refusal = router.applier.refusal().unwrap();
    assert!(refusal.contains("unknown keyword 'bogus'"), "{refusal}");
    assert_eq!(std::fs::read_to_string(router.path("haproxy.cfg")).unwrap(), good);
    assert_eq!(
        router.outside("www-prod.x", "/").await.status,
        503,
        "changes still arrive"
    );

    std::fs::write(
        &template,
        format!("{}\n    timeout check 5s\n", crate::haproxy::render::TEMPLATE),
    )
    .unwrap();
    router.replace_updater(&["--slots", "4", "--template", &template]);
    router.environment("prod", None, &["a@1/"]);
    router.apply().await;
    assert_eq!((router.applier.refusal(), router.reloads()), (None, 1));
}

#[tokio::test]
async fn thousands_of_rows_come_in_chunks_and_go_by_a_swap() {
    let mut router = Router::new(&["--slots", "4"]);
    router.run().await;
    let services: Vec<String> = (0..20)
        .map(|number| format!("a-rather-long-name-of-a-service-{number}@1/path-{number}"))
        .collect();
    let services: Vec<&str> = services.iter().map(String::as_str).collect();
    for number in 0..200 {
        router.environment(&format!("environment-{number}"), None, &services);
    }
    router.apply().await;
    assert_eq!(
        (
            router.rows("versions").await,
            router.rows("routes").await,
            router.rows("edge").await
        ),
        (4000, 4000, 200)
    );
    router.applier.verify(router.index.routing()).await.unwrap();
    assert_eq!(router.applier.metrics().drift_repairs.get(), 0);
    for number in 1..200 {
        router.delete(&format!("environments/environment-{number}"));
    }
    router.apply().await;
    assert_eq!(
        (
            router.rows("versions").await,
            router.rows("routes").await,
            router.rows("edge").await
        ),
        (20, 20, 1)
    );
    router.applier.verify(router.index.routing()).await.unwrap();
    assert_eq!(router.applier.metrics().drift_repairs.get(), 0);
}

#[tokio::test]
async fn a_backend_that_is_not_needed_frees_its_slot() {
    let mut router = Router::new(&["--slots", "8"]);
    let instance = Service::start("a", "1").await.unwrap();
    router.instance("a@1", instance.address());
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    router.no_instance("a@1", instance.address());
    router.apply().await;
    assert_eq!(
        (router.applier.pool().used(), router.rows("slots").await),
        (1, 1),
        "prod still names it"
    );
    router.delete("environments/prod");
    router.apply().await;
    assert_eq!((router.applier.pool().used(), router.rows("slots").await), (0, 0));
    router.see_off(0).await;
    // Another protocol at the same address is another server.
    router.instance("a@1", instance.address());
    router.environment("prod", None, &["a@1/"]);
    router.apply().await;
    router.instance_with("a@1", instance.address(), json!({"protocol": "h2c"}));
    router.apply().await;
    assert_eq!(
        router.outside("www-prod.x", "/").await.echo().unwrap().protocol,
        "HTTP/2.0"
    );
}

#[tokio::test]
async fn a_cheap_look_finds_changes_by_other_programs() {
    let mut router = Router::new(&["--slots", "4"]);
    let instance = Service::start("a", "1").await.unwrap();
    router.instance("a@1", instance.address());
    router.environment("prod", None, &["a@1/"]);
    router.run().await;
    let edge = router.path("maps/edge.map");
    assert!(
        !router.applier.check_drift(router.index.routing()).await.unwrap(),
        "nothing was changed"
    );
    for damage in [
        format!("set server slot-1/{} state maint", instance.address()),
        format!("set server slot-1/{} weight 7", instance.address()),
        format!("del map {edge} www-prod"),
        format!("add map {edge} www-ghost prod"),
        // The sum stays the same.
        format!(
            "del map {edge} www-prod; add map {} ghost prod",
            router.path("maps/headers.map")
        ),
    ] {
        router.ask(&damage).await.unwrap();
        assert!(
            router.applier.check_drift(router.index.routing()).await.unwrap(),
            "not seen: {damage}"
        );
        let answer = router.outside("www-prod.x", "/").await;
        assert_eq!(answer.backend().unwrap(), "a@1", "after {damage}");
        assert_eq!(router.outside("www-ghost.x", "/").await.status, 404);
        assert!(
            !router.applier.check_drift(router.index.routing()).await.unwrap(),
            "repaired: {damage}"
        );
    }
    assert_eq!(router.applier.metrics().drift_repairs.get(), 7);
    // A duplicate row does no harm, and is looked into once.
    router
        .ask(&format!("add map {edge} www-prod h-prod"))
        .await
        .unwrap();
    assert!(router.applier.check_drift(router.index.routing()).await.unwrap());
    assert!(!router.applier.check_drift(router.index.routing()).await.unwrap());
    router.ask(&format!("del map {edge} www-prod")).await.unwrap();
    assert!(router.applier.check_drift(router.index.routing()).await.unwrap());
    assert_eq!(router.outside("www-prod.x", "/").await.backend().unwrap(), "a@1");
}

#[tokio::test]
async fn kept_certificates_are_of_no_use_once_haproxy_runs_without_tls() {
    let bind = port::free().to_string();
    let tls = ["--edge-tls-bind", &bind, "--edge-certificates", "/nowhere"];
    for (flags, are_unused) in [(&[][..], true), (&tls[..], false)] {
        let mut router = Router::new(&[&["--slots", "2"], flags].concat());
        let unused = |router: &Router| router.applier.unused_certificates().is_some();
        assert!(!unused(&router), "nothing is known of it yet");
        router.run().await;
        assert_eq!(unused(&router), are_unused, "{flags:?}");
    }
}

#[tokio::test]
async fn tls_that_was_refused_comes_once_the_certificates_have_changed() {
    let tls = port::free();
    let bind = tls.to_string();
    let tls_flags = ["--edge-tls-bind", &bind, "--edge-certificates", "/nowhere"];
    let mut router = Router::new(&[&["--slots", "2"], &tls_flags[..]].concat());
    router.run().await;
    let kept = router.dir.path().join("tls");
    std::fs::create_dir(&kept).unwrap();
    let default = kept.join("default");
    std::fs::write(&default, "broken").unwrap();
    std::fs::write(kept.join("crt-list"), format!("{}\n", default.display())).unwrap();
    assert!(router.applier.serve_tls());
    let _ = router.applier.apply(router.index.routing()).await;
    assert!(router.applier.refusal().is_some());

    let place = tempfile::tempdir().unwrap();
    let authority = Authority::new(place.path(), "authority").await.unwrap();
    let good = authority.certify("*.example.com").await.unwrap();
    std::fs::copy(good, &default).unwrap();
    router.applier.verify(router.index.routing()).await.unwrap();
    assert!(
        router.applier.refusal().is_some(),
        "nobody has said that it changed"
    );
    assert!(router.applier.forget_refusal() && !router.applier.forget_refusal());
    router.apply().await;
    assert_eq!(router.applier.refusal(), None);
    TcpStream::connect(tls).await.unwrap();
}
