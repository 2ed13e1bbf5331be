//! Environments with an idle time live as long as routers see requests for them, and no longer.

use std::time::Duration;

use mayfly_e2e::eventually;
use mayfly_e2e::instance::Service;
use mayfly_e2e::mayfly::{Instance, Mayfly, SOON};
use mayfly_e2e::poll::throughout;
use serde_json::json;

/// etcd, HAProxy and its updater, with one instance of `web`.
async fn mayfly() -> (Mayfly, Instance<Service>) {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly.start_updater().unwrap();
    mayfly.haproxy.start().await.unwrap();
    let web = mayfly.instance("web", "1.0.0").await.unwrap();
    (mayfly, web)
}

fn key(name: &str) -> String {
    format!("/mayfly/environments/{name}")
}

/// Registers an environment as a registrar does: under a lease of its idle time, whose id it gives.
async fn register(mayfly: &Mayfly, name: &str, idle: u64, extends: Option<&str>) -> String {
    let mut record = json!({"name": name, "prefix": name, "header": name, "idle": format!("{idle}s")});
    match extends {
        Some(parent) => record["extends"] = json!(parent),
        None => record["services"] = json!([{"name": "web", "version": "1.0.0", "routes": ["/"]}]),
    }
    let lease = mayfly.etcd.grant(idle).await.unwrap();
    let (key, record) = (key(name), record.to_string());
    mayfly.etcd.put_leased(&key, &record, &lease).await.unwrap();
    lease
}

/// Waits until the environment is routed. That takes requests, so it counts as used.
async fn routed(mayfly: &Mayfly, name: &str) {
    eventually(SOON, "the environment is routed", async || {
        mayfly
            .get(name, "/")
            .await
            .map(|answer| answer.status == 200)
            .unwrap_or(false)
    })
    .await;
}

/// Waits until the edge knows the environment no more.
async fn ended(mayfly: &Mayfly, name: &str) {
    eventually(SOON, "the environment has ended", async || {
        mayfly
            .get(name, "/")
            .await
            .is_ok_and(|answer| answer.status == 404)
    })
    .await;
}

/// Waits until a lease has no more than this many seconds left.
async fn down_to(mayfly: &Mayfly, lease: &str, seconds: u64) {
    eventually(Duration::from_secs(30), "time goes by", async || {
        mayfly.etcd.left_of(lease).await.is_ok_and(|left| left <= seconds)
    })
    .await;
}

#[tokio::test]
async fn requests_on_both_sides_and_to_a_child_keep_it_and_idleness_ends_it() {
    let (mayfly, _web) = mayfly().await;
    for name in ["outside", "inside", "parent", "unused"] {
        register(&mayfly, name, 4, None).await;
    }
    register(&mayfly, "child", 4, Some("parent")).await;
    for name in ["outside", "inside", "child"] {
        routed(&mayfly, name).await;
    }
    throughout(Duration::from_secs(10), "what is used lives", async || {
        let outside = mayfly.get("outside", "/").await?;
        let inside = mayfly.call("inside", "web").await?;
        let child = mayfly.call("child", "web").await?;
        for answer in [&outside, &inside, &child] {
            anyhow::ensure!(answer.status == 200, "{}", answer.body);
        }
        // Not a wait for anything, but the pace of use: rarer than the reports, more often than the idle time.
        tokio::time::sleep(Duration::from_millis(900)).await;
        Ok::<_, anyhow::Error>(())
    })
    .await;
    let alive = mayfly.etcd.list("/mayfly/environments/").await.unwrap();
    let alive: Vec<&str> = alive.keys().map(|key| key.rsplit('/').next().unwrap()).collect();
    assert_eq!(alive, ["child", "inside", "outside", "parent"]);
    ended(&mayfly, "unused").await;
    // Asking once more whether it has ended would be a use.
    for name in ["outside", "inside", "child", "parent"] {
        eventually(SOON, "nobody uses it any more", async || {
            mayfly
                .etcd
                .get(&key(name))
                .await
                .is_ok_and(|record| record.is_none())
        })
        .await;
        ended(&mayfly, name).await;
    }
}

#[tokio::test]
async fn a_crash_of_the_updater_loses_no_use_and_without_it_nobody_keeps_an_environment() {
    let (mut mayfly, _web) = mayfly().await;
    let lease = register(&mayfly, "dev", 8, None).await;
    routed(&mayfly, "dev").await;
    // What routed() did is reported by now.
    down_to(&mayfly, &lease, 4).await;
    assert_eq!(mayfly.get("dev", "/").await.unwrap().status, 200);
    mayfly.updater.as_mut().unwrap().kill9().await.unwrap();
    let left = mayfly.etcd.left_of(&lease).await.unwrap();
    mayfly.start_updater().unwrap();
    eventually(SOON, "the use before the crash is reported", async || {
        mayfly
            .etcd
            .left_of(&lease)
            .await
            .is_ok_and(|now| now > left.max(5))
    })
    .await;

    mayfly.updater.as_mut().unwrap().kill9().await.unwrap();
    eventually(Duration::from_secs(20), "nobody keeps it", async || {
        let answer = mayfly.get("dev", "/").await.unwrap();
        assert_eq!(answer.status, 200, "HAProxy goes on as it was: {}", answer.body);
        mayfly
            .etcd
            .get(&key("dev"))
            .await
            .is_ok_and(|record| record.is_none())
    })
    .await;
    mayfly.start_updater().unwrap();
    ended(&mayfly, "dev").await;
    assert_eq!(
        mayfly.etcd.get(&key("dev")).await.unwrap(),
        None,
        "what has ended stays so"
    );
}

#[tokio::test]
async fn a_use_during_an_outage_of_etcd_is_reported_after_it() {
    let (mut mayfly, _web) = mayfly().await;
    let lease = register(&mayfly, "dev", 12, None).await;
    routed(&mayfly, "dev").await;
    down_to(&mayfly, &lease, 8).await;
    mayfly.etcd.kill9().await.unwrap();
    assert_eq!(mayfly.get("dev", "/").await.unwrap().status, 200);
    let output = |mayfly: &Mayfly| mayfly.updater.as_ref().unwrap().output();
    eventually(SOON, "the log tells it", async || {
        output(&mayfly).contains("cannot report the use of 1 environment to etcd")
    })
    .await;
    // HAProxy may be started anew meanwhile.
    mayfly.haproxy.restart().await.unwrap();
    mayfly.etcd.restart().await.unwrap();
    eventually(SOON, "it is reported after all", async || {
        output(&mayfly).contains("the use of environments is reported to etcd again")
    })
    .await;
    assert!(mayfly.etcd.left_of(&lease).await.unwrap() >= 9);
}
