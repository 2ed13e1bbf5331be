//! Versions that move: `latest` and ranges follow the instances that live.

use mayfly_e2e::eventually;
use mayfly_e2e::instance::Service;
use mayfly_e2e::mayfly::{Instance, Mayfly, SOON};

const DEV: &str = "{name: dev, services: [{name: web, route: /}, {name: ranged, version: ^1.2}]}";

async fn stop(mut instance: Instance<Service>) {
    assert_eq!(instance.registrar.terminate(SOON).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn latest_follows_the_newest_live_version_both_ways() {
    let mayfly = Mayfly::start().await.unwrap();
    mayfly.save("dev.yaml", DEV);
    let old = mayfly.instance("web", "0.0.2").await.unwrap();
    mayfly.answers("www-dev.example.com", "web@0.0.2").await;
    let new = mayfly.instance("web", "0.0.10").await.unwrap();
    mayfly.answers("www-dev.example.com", "web@0.0.10").await;
    // An older one that appears changes nothing.
    let _older = mayfly.instance("web", "0.0.9").await.unwrap();
    eventually(SOON, "0.0.9 is registered", async || {
        !mayfly
            .etcd
            .list("/mayfly/backends/web/0.0.9/")
            .await
            .unwrap()
            .is_empty()
    })
    .await;
    assert_eq!(
        mayfly
            .get("www-dev.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@0.0.10"
    );
    stop(new).await;
    mayfly.answers("www-dev.example.com", "web@0.0.9").await;
    stop(old).await;
    mayfly.answers("www-dev.example.com", "web@0.0.9").await;
}

#[tokio::test]
async fn a_prerelease_is_latest_only_where_nothing_else_exists() {
    let mayfly = Mayfly::start().await.unwrap();
    mayfly.save("dev.yaml", DEV);
    let _one = mayfly.instance("web", "2.0.0-rc.1").await.unwrap();
    mayfly.answers("www-dev.example.com", "web@2.0.0-rc.1").await;
    let _two = mayfly.instance("web", "2.0.0-rc.2").await.unwrap();
    mayfly.answers("www-dev.example.com", "web@2.0.0-rc.2").await;
    let _release = mayfly.instance("web", "1.9.0").await.unwrap();
    mayfly.answers("www-dev.example.com", "web@1.9.0").await;
    let _final = mayfly.instance("web", "2.0.0").await.unwrap();
    mayfly.answers("www-dev.example.com", "web@2.0.0").await;
}

#[tokio::test]
async fn a_version_called_latest_is_taken_first() {
    let mayfly = Mayfly::start().await.unwrap();
    mayfly.save("dev.yaml", DEV);
    let _numbered = mayfly.instance("web", "9.0.0").await.unwrap();
    mayfly.answers("www-dev.example.com", "web@9.0.0").await;
    let literal = mayfly.instance("web", "latest").await.unwrap();
    mayfly.answers("www-dev.example.com", "web@latest").await;
    stop(literal).await;
    mayfly.answers("www-dev.example.com", "web@9.0.0").await;
}

#[tokio::test]
async fn a_range_picks_the_highest_live_version_that_fits() {
    let mayfly = Mayfly::start().await.unwrap();
    mayfly.save("dev.yaml", DEV);
    let _low = mayfly.instance("ranged", "1.1.9").await.unwrap();
    let _high = mayfly.instance("ranged", "2.0.0").await.unwrap();
    // Neither fits: incomplete, and told so.
    eventually(SOON, "503 that names the range", async || {
        let answer = mayfly.call("dev", "ranged").await.unwrap();
        answer.status == 503
            && ["dev", "ranged", "^1.2"]
                .iter()
                .all(|part| answer.body.contains(part))
    })
    .await;
    let _first = mayfly.instance("ranged", "1.2.0").await.unwrap();
    mayfly.calls("dev", "ranged", "ranged@1.2.0").await;
    let better = mayfly.instance("ranged", "1.10.3").await.unwrap();
    mayfly.calls("dev", "ranged", "ranged@1.10.3").await;
    stop(better).await;
    mayfly.calls("dev", "ranged", "ranged@1.2.0").await;
}

#[tokio::test]
async fn a_draining_version_is_not_followed_any_more() {
    let mayfly = Mayfly::start().await.unwrap();
    mayfly.save("dev.yaml", DEV);
    let _old = mayfly.instance("web", "1.0.0").await.unwrap();
    let new = Service::start("web", "2.0.0").await.unwrap();
    let mut registrar = mayfly
        .register("web", "2.0.0", new.address(), &["--drain", "60s"])
        .unwrap();
    mayfly.answers("www-dev.example.com", "web@2.0.0").await;
    registrar.signal(mayfly_e2e::process::Signal::Term).unwrap();
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    assert!(registrar.is_running());
}

#[tokio::test]
async fn an_incomplete_environment_harms_no_other() {
    let mayfly = Mayfly::start().await.unwrap();
    let _web = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save(
        "incomplete.yaml",
        "{name: incomplete, services: [{name: nothing, route: /}]}",
    );
    mayfly.save("dev.yaml", DEV);
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    let answer = mayfly.get("www-incomplete.example.com", "/").await.unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    // The updater says so, for whoever asks.
    eventually(SOON, "the updater tells of it", async || {
        let status = mayfly
            .status("haproxy-updater")
            .await
            .unwrap_or_default()
            .to_string();
        status.contains("incomplete") && status.contains("nothing")
    })
    .await;
}
