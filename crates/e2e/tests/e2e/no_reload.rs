//! The promise of the product: changes reach a running HAProxy without a reload and without a failed request.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::load::Load;
use mayfly_e2e::mayfly::{Mayfly, SOON};

fn environment(name: &str, version: &str) -> String {
    format!("name: {name}\nservices:\n  - {{name: web, version: {version}, route: /}}\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_environment_changes() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    let _two = mayfly.instance("web", "2.0.0").await.unwrap();
    mayfly.save("still.yaml", &environment("still", "1.0.0"));
    mayfly.answers("www-still.example.com", "web@1.0.0").await;
    let worker = mayfly.haproxy.worker().await.unwrap();
    let outside = Load::start(mayfly.edge, Request::get("www-still.example.com", "/"));
    let call = Request::get("web.service", "/").header("x-mayfly", "still");
    let inside = Load::start(mayfly.internal, call);

    // 40 environments, each created, changed three times and deleted: 200 changes.
    for wave in 0..4 {
        let names: Vec<String> = (0..10).map(|i| format!("temp-{wave}-{i}")).collect();
        for name in &names {
            mayfly.save(&format!("{name}.yaml"), &environment(name, "1.0.0"));
        }
        for name in &names {
            mayfly
                .answers(&format!("www-{name}.example.com"), "web@1.0.0")
                .await;
        }
        for version in ["2.0.0", "1.0.0", "2.0.0"] {
            for name in &names {
                mayfly.save(&format!("{name}.yaml"), &environment(name, version));
            }
            for name in &names {
                mayfly
                    .answers(&format!("www-{name}.example.com"), &format!("web@{version}"))
                    .await;
            }
        }
        for name in &names {
            mayfly.remove(&format!("{name}.yaml"));
        }
        for name in &names {
            eventually(SOON, &format!("{name} is gone"), async || {
                mayfly
                    .get(&format!("www-{name}.example.com"), "/")
                    .await
                    .unwrap()
                    .status
                    == 410
            })
            .await;
        }
    }

    for load in [outside, inside] {
        load.stop().await.assert_flawless(300);
    }
    assert_eq!(
        mayfly.haproxy.worker().await.unwrap(),
        worker,
        "HAProxy was reloaded"
    );
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_versions_never_seen_before() {
    let mayfly = Mayfly::start().await.unwrap();
    let _still = mayfly.instance("still", "1.0.0").await.unwrap();
    mayfly.save(
        "dev.yaml",
        "{name: dev, services: [{name: web, route: /}, {name: still, version: 1.0.0, route: /still}]}",
    );
    eventually(SOON, "the load's target answers", async || {
        mayfly
            .get("www-dev.example.com", "/still")
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let worker = mayfly.haproxy.worker().await.unwrap();
    let load = Load::start(mayfly.edge, Request::get("www-dev.example.com", "/still"));

    let mut instances = Vec::new();
    for n in 1..=50 {
        instances.push(mayfly.instance("web", &format!("1.{n}.0")).await.unwrap());
        // `latest` follows, so one host shows every one of them.
        mayfly
            .answers("www-dev.example.com", &format!("web@1.{n}.0"))
            .await;
    }

    load.stop().await.assert_flawless(300);
    assert_eq!(
        mayfly.haproxy.worker().await.unwrap(),
        worker,
        "HAProxy was reloaded"
    );
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn production_changes_under_load() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    let _two = mayfly.instance("web", "2.0.0").await.unwrap();
    mayfly.save(
        "prod.yaml",
        &format!("{}prefix: www\n", environment("prod", "1.0.0")),
    );
    mayfly.answers("www.example.com", "web@1.0.0").await;
    let load = Load::start(mayfly.edge, Request::get("www.example.com", "/"));
    for version in ["2.0.0", "1.0.0"].repeat(10) {
        mayfly.save(
            "prod.yaml",
            &format!("{}prefix: www\n", environment("prod", version)),
        );
        mayfly.answers("www.example.com", &format!("web@{version}")).await;
    }
    let report = load.stop().await;
    report.assert_flawless(50);
    assert_eq!(report.backends.len(), 2, "{report:?}");
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_come_and_go_under_load() {
    let mayfly = Mayfly::start().await.unwrap();
    mayfly.save("prod.yaml", &environment("prod", "1.0.0"));
    let mut instances = vec![mayfly.instance("web", "1.0.0").await.unwrap()];
    mayfly.answers("www-prod.example.com", "web@1.0.0").await;
    let load = Load::start(mayfly.edge, Request::get("www-prod.example.com", "/"));
    for _ in 0..6 {
        let new = Service::start("web", "1.0.0").await.unwrap();
        let registrar = mayfly
            .register("web", "1.0.0", new.address(), &["--drain", "1s"])
            .unwrap();
        eventually(SOON, "the new instance takes requests", async || {
            new.requests() > 5
        })
        .await;
        // The oldest one is stopped as a deployment does: registrar first, then the service.
        let mut old = instances.remove(0);
        old.registrar.terminate(SOON).await.unwrap();
        drop(old);
        instances.push(mayfly_e2e::mayfly::Instance {
            registrar,
            service: new,
        });
    }
    let report = load.stop().await;
    report.assert_flawless(100);
    assert!(report.instances.len() >= 6, "{report:?}");
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_instance_is_out_of_rotation_without_a_failed_request() {
    let mayfly = Mayfly::start().await.unwrap();
    mayfly.save("prod.yaml", &environment("prod", "1.0.0"));
    let arguments = [
        "--check",
        "tcp",
        "--check-interval",
        "200ms",
        "--fall",
        "2",
        "--ttl",
        "3s",
    ];
    let mut instances = Vec::new();
    for _ in 0..3 {
        instances.push(mayfly.killable("web", "1.0.0", &arguments).await.unwrap());
    }
    for instance in &instances {
        let address = instance.service.address();
        eventually(SOON, "every instance answers", async || {
            mayfly
                .get("www-prod.example.com", "/")
                .await
                .is_ok_and(|a| a.echo().is_ok_and(|e| e.address == address))
        })
        .await;
    }
    let load = Load::start(mayfly.edge, Request::get("www-prod.example.com", "/"));
    let in_rotation = async |left: &[SocketAddr]| {
        eventually(SOON, "the dead one is out of rotation", async || {
            let servers = mayfly.haproxy.servers().await.unwrap();
            servers.len() == left.len()
                && left
                    .iter()
                    .all(|at| servers.values().any(|found| *found == at.to_string()))
        })
        .await;
    };
    let [first, second, third] = [0, 1, 2].map(|n| instances[n].service.address());
    // One loses its service only: its registrar notices.
    instances[0].service.kill9().await.unwrap();
    in_rotation(&[second, third]).await;
    // The other loses the whole container, registrar and all: its lease runs out.
    instances[1].registrar.kill9().await.unwrap();
    instances[1].service.kill9().await.unwrap();
    in_rotation(&[third]).await;
    assert!(instances[0].registrar.is_running(), "{first}");
    load.stop().await.assert_flawless(100);
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_instance_finishes_what_it_has_begun() {
    let mayfly = Mayfly::start().await.unwrap();
    mayfly.save("prod.yaml", &environment("prod", "1.0.0"));
    let only = Service::start("web", "1.0.0").await.unwrap();
    let mut registrar = mayfly
        .register("web", "1.0.0", only.address(), &["--drain", "2s"])
        .unwrap();
    mayfly.answers("www-prod.example.com", "web@1.0.0").await;
    let (edge, before) = (mayfly.edge, only.requests());
    let slow = tokio::spawn(async move {
        Request::get("www-prod.example.com", "/?delay=1500")
            .send(edge)
            .await
    });
    eventually(SOON, "the slow request has begun", async || {
        only.requests() > before
    })
    .await;
    let next = Service::start("web", "1.0.0").await.unwrap();
    let _next_registrar = mayfly.register("web", "1.0.0", next.address(), &[]).unwrap();
    eventually(SOON, "the next instance answers", async || {
        let _ = mayfly.get("www-prod.example.com", "/").await;
        next.requests() > 0
    })
    .await;
    let start = Instant::now();
    registrar.signal(mayfly_e2e::process::Signal::Term).unwrap();
    // While it drains, new requests go elsewhere.
    eventually(SOON, "the draining instance gets no new request", async || {
        let seen = only.requests();
        for _ in 0..10 {
            mayfly
                .get("www-prod.example.com", "/")
                .await
                .unwrap()
                .backend()
                .unwrap();
        }
        only.requests() == seen
    })
    .await;
    assert!(
        start.elapsed() < Duration::from_millis(1900),
        "not before the drain was over: {:?}",
        start.elapsed()
    );
    assert_eq!(slow.await.unwrap().unwrap().backend().unwrap(), "web@1.0.0");
    assert_eq!(registrar.wait(SOON).await.unwrap().code(), Some(0));
}
