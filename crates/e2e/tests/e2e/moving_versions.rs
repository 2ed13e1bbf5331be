//! Versions that move: `latest` and ranges follow the instances that live.

use mayfly_e2e::eventually;
use mayfly_e2e::instance::Service;
use mayfly_e2e::world::{Instance, SOON, World};

const DEV: &str = "{name: dev, services: [{name: web, route: /}, {name: ranged, version: ^1.2}]}";

async fn stop(mut instance: Instance<Service>) {
    assert_eq!(instance.registrar.terminate(SOON).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn latest_follows_the_newest_live_version_both_ways() {
    let world = World::start().await.unwrap();
    world.save("dev.yaml", DEV);
    let old = world.instance("web", "0.0.2").await.unwrap();
    world.answers("www-dev.example.com", "web@0.0.2").await;
    let new = world.instance("web", "0.0.10").await.unwrap();
    world.answers("www-dev.example.com", "web@0.0.10").await;
    // An older one that appears changes nothing.
    let _older = world.instance("web", "0.0.9").await.unwrap();
    eventually(SOON, "0.0.9 is registered", async || {
        !world
            .etcd
            .list("/mayfly/backends/web/0.0.9/")
            .await
            .unwrap()
            .is_empty()
    })
    .await;
    assert_eq!(
        world
            .get("www-dev.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@0.0.10"
    );
    stop(new).await;
    world.answers("www-dev.example.com", "web@0.0.9").await;
    stop(old).await;
    world.answers("www-dev.example.com", "web@0.0.9").await;
}

#[tokio::test]
async fn a_prerelease_is_latest_only_where_nothing_else_exists() {
    let world = World::start().await.unwrap();
    world.save("dev.yaml", DEV);
    let _one = world.instance("web", "2.0.0-rc.1").await.unwrap();
    world.answers("www-dev.example.com", "web@2.0.0-rc.1").await;
    let _two = world.instance("web", "2.0.0-rc.2").await.unwrap();
    world.answers("www-dev.example.com", "web@2.0.0-rc.2").await;
    let _release = world.instance("web", "1.9.0").await.unwrap();
    world.answers("www-dev.example.com", "web@1.9.0").await;
    let _final = world.instance("web", "2.0.0").await.unwrap();
    world.answers("www-dev.example.com", "web@2.0.0").await;
}

#[tokio::test]
async fn a_version_called_latest_is_taken_first() {
    let world = World::start().await.unwrap();
    world.save("dev.yaml", DEV);
    let _numbered = world.instance("web", "9.0.0").await.unwrap();
    world.answers("www-dev.example.com", "web@9.0.0").await;
    let literal = world.instance("web", "latest").await.unwrap();
    world.answers("www-dev.example.com", "web@latest").await;
    stop(literal).await;
    world.answers("www-dev.example.com", "web@9.0.0").await;
}

#[tokio::test]
async fn a_range_picks_the_highest_live_version_that_fits() {
    let world = World::start().await.unwrap();
    world.save("dev.yaml", DEV);
    let _low = world.instance("ranged", "1.1.9").await.unwrap();
    let _high = world.instance("ranged", "2.0.0").await.unwrap();
    // Neither fits: incomplete, and told so.
    eventually(SOON, "503 that names the range", async || {
        let answer = world.call("dev", "ranged").await.unwrap();
        answer.status == 503
            && ["dev", "ranged", "^1.2"]
                .iter()
                .all(|part| answer.body.contains(part))
    })
    .await;
    let _first = world.instance("ranged", "1.2.0").await.unwrap();
    world.calls("dev", "ranged", "ranged@1.2.0").await;
    let better = world.instance("ranged", "1.10.3").await.unwrap();
    world.calls("dev", "ranged", "ranged@1.10.3").await;
    stop(better).await;
    world.calls("dev", "ranged", "ranged@1.2.0").await;
}

#[tokio::test]
async fn a_draining_version_is_not_followed_any_more() {
    let world = World::start().await.unwrap();
    world.save("dev.yaml", DEV);
    let _old = world.instance("web", "1.0.0").await.unwrap();
    let new = Service::start("web", "2.0.0").await.unwrap();
    let mut registrar = world
        .register("web", "2.0.0", new.address(), &["--drain", "60s"])
        .unwrap();
    world.answers("www-dev.example.com", "web@2.0.0").await;
    registrar.signal(mayfly_e2e::process::Signal::Term).unwrap();
    world.answers("www-dev.example.com", "web@1.0.0").await;
    assert!(registrar.is_running());
}

#[tokio::test]
async fn an_incomplete_environment_harms_no_other() {
    let world = World::start().await.unwrap();
    let _web = world.instance("web", "1.0.0").await.unwrap();
    world.save(
        "incomplete.yaml",
        "{name: incomplete, services: [{name: nothing, route: /}]}",
    );
    world.save("dev.yaml", DEV);
    world.answers("www-dev.example.com", "web@1.0.0").await;
    let answer = world.get("www-incomplete.example.com", "/").await.unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    // The updater says so, for whoever asks.
    eventually(SOON, "the updater tells of it", async || {
        let status = world
            .status("haproxy-updater")
            .await
            .unwrap_or_default()
            .to_string();
        status.contains("incomplete") && status.contains("nothing")
    })
    .await;
}
