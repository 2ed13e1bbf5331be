//! An instance that deregisters leaves at once, and what etcd has lost stays no longer than it has to. [`crate::faults`] covers
//! silent losses in etcd.

use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};

/// `www` on web 1.0.0 and an internal service, with one instance each.
const ENVIRONMENT: &str = "{name: prod, prefix: www, services: [{name: web, version: 1.0.0, route: /}, {name: api, version: 1.0.0}]}";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_only_instance_goes_at_once_when_its_registrar_says_so() {
    let mayfly = Mayfly::start().await.unwrap();
    let mut web = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("prod.yaml", ENVIRONMENT);
    mayfly.answers("www.example.com", "web@1.0.0").await;
    web.registrar.terminate(SOON).await.unwrap();
    // The instance still answers its check; kept by the guard, it would get requests for ever.
    eventually(SOON, "nothing is routed there", async || {
        mayfly.get("www.example.com", "/").await.unwrap().status == 503
    })
    .await;
    eventually(SOON, "its key is gone", async || {
        mayfly.etcd.list("/mayfly/backends/").await.unwrap().is_empty()
    })
    .await;
    let status = mayfly.status("haproxy-updater").await.unwrap();
    assert!(status["detail"]["guard"].is_null(), "{status}");
    let output = mayfly.updater.as_ref().unwrap().output();
    assert!(!output.contains("vanished from etcd"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_another_service_has_registered_since_is_no_longer_kept() {
    let mayfly = Mayfly::start().await.unwrap();
    let mut api = mayfly.instance("api", "1.0.0").await.unwrap();
    mayfly.save(
        "prod.yaml",
        "{name: prod, prefix: www, services: [{name: api, version: 1.0.0, route: /}, {name: web, version: 1.0.0, route: /web}]}",
    );
    mayfly.answers("www.example.com", "api@1.0.0").await;
    api.registrar.kill9().await.unwrap();
    let key = format!("/mayfly/backends/api/1.0.0/{}", api.service.address());
    mayfly.etcd.delete(&key).await.unwrap();
    eventually(SOON, "it is kept", async || {
        let status = mayfly.status("haproxy-updater").await.unwrap();
        status["detail"]["guard"].is_string()
    })
    .await;
    // Whoever looks finds what is only kept, and by whom.
    let explained = mayfly
        .run("mayfly", &["explain", "http://www.example.com/"])
        .await
        .unwrap();
    assert!(
        explained
            .stdout
            .contains("router test keeps the vanished instances of this backend while they answer"),
        "{}",
        explained.stdout
    );
    let status = mayfly.run("mayfly", &["status"]).await.unwrap().ok().unwrap();
    assert!(
        status.contains(&format!("kept by haproxy-updater of test: {key}\n")),
        "{status}"
    );
    // That concerns nobody else.
    mayfly.save("spare.yaml", "{name: spare}");
    let wait = async |name: &str| {
        mayfly
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
        hindered.stderr.contains("router test: 1 of"),
        "{}",
        hindered.stderr
    );
    // Whatever answers there, it is another service by now.
    let _web = mayfly
        .register("web", "1.0.0", api.service.address(), &[])
        .unwrap();
    eventually(SOON, "the address is the other service's", async || {
        mayfly.get("www.example.com", "/web").await.unwrap().status == 200
    })
    .await;
    assert_eq!(mayfly.get("www.example.com", "/").await.unwrap().status, 503);
    eventually(SOON, "nothing is kept", async || {
        let status = mayfly.status("haproxy-updater").await.unwrap();
        status["detail"]["guard"].is_null()
    })
    .await;
}

/// In the seconds after an outage of etcd, deletions are ignored. Dead instances must not gather meanwhile in the files of
/// HAProxy: one that starts counts each as alive until its first check, and a request has seven tries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_haproxy_that_starts_after_an_outage_does_not_ask_the_dead() {
    const DEAD: std::ops::RangeInclusive<u32> = 1..=12;
    let mut mayfly = Mayfly::start().await.unwrap();
    let _web = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("prod.yaml", ENVIRONMENT);
    mayfly.answers("www.example.com", "web@1.0.0").await;
    mayfly.etcd.kill9().await.unwrap();
    mayfly.etcd.restart().await.unwrap();
    let key = |number: u32| format!("/mayfly/backends/web/1.0.0/127.9.0.{number}:1");
    for number in DEAD {
        let record = format!(r#"{{"address": "127.9.0.{number}:1"}}"#);
        mayfly.etcd.put(&key(number), &record).await.unwrap();
    }
    let servers = async |mayfly: &Mayfly| mayfly.haproxy.servers().await.unwrap().len();
    eventually(SOON, "the dead ones have servers", async || {
        servers(&mayfly).await == 13
    })
    .await;
    let config = mayfly.haproxy_directory().join("haproxy.cfg");
    let on_disk = || {
        let text = std::fs::read_to_string(&config).unwrap();
        text.matches("server 127.9.0.").count()
    };
    eventually(SOON, "the files have them", async || on_disk() == 12).await;
    for number in DEAD {
        mayfly.etcd.delete(&key(number)).await.unwrap();
    }
    eventually(SOON, "the files have none of them", async || on_disk() == 0).await;
    mayfly.haproxy.restart().await.unwrap();
    for _ in 0..30 {
        assert_eq!(mayfly.get("www.example.com", "/").await.unwrap().status, 200);
    }
}
