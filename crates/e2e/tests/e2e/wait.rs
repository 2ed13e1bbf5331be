//! `mayfly wait`: once it returns, the very next request is answered right; else it says what hinders.

use mayfly_e2e::eventually;
use mayfly_e2e::process::{Finished, Signal};
use mayfly_e2e::world::{SOON, World};
use serde_json::json;

/// Registers an environment with `web` at a version, past any file.
async fn register(world: &World, name: &str, extends: Option<&str>, version: Option<&str>) {
    let services = version.map(|version| json!({"name": "web", "version": version, "routes": ["/"]}));
    let services: Vec<_> = services.into_iter().collect();
    let record = json!({"name": name, "prefix": format!("www-{name}"), "header": name, "extends": extends, "services": services});
    let key = format!("/mayfly/environments/{name}");
    world.etcd.put(&key, &record.to_string()).await.unwrap();
}

async fn wait(world: &World, name: &str, timeout: &str) -> Finished {
    world
        .run("mayfly", &["wait", name, "--timeout", timeout])
        .await
        .unwrap()
}

#[tokio::test]
async fn the_very_next_request_is_answered_right() {
    let mut world = World::start().await.unwrap();
    world.start_dns().await.unwrap();
    let mut instances = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        instances.push(world.instance("web", version).await.unwrap());
    }
    for version in ["1.0.0", "2.0.0", "1.0.0", "latest"] {
        // The child changes with its parent, though its own record stays.
        register(&world, "qa", None, Some(version)).await;
        register(&world, "heir", Some("qa"), None).await;
        wait(&world, "heir", "10s").await.ok().unwrap();
        let answer = world
            .get("www-heir.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap();
        let version = version.replace("latest", "2.0.0");
        assert_eq!(answer, format!("web@{version}"));
    }
    // A newer instance is part of it: no moment between its registration and the wait counts.
    instances.push(world.instance("web", "3.0.0").await.unwrap());
    wait(&world, "heir", "10s").await.ok().unwrap();
    let answer = world.get("www-heir.example.com", "/").await.unwrap();
    assert_eq!(answer.backend().unwrap(), "web@3.0.0");
}

#[tokio::test]
async fn what_hinders_is_told() {
    let mut world = World::bare(&[]).unwrap();
    world.etcd.restart().await.unwrap();
    register(&world, "qa", None, Some("1.0.0")).await;
    register(&world, "second", None, None).await;
    let hinders = async |world: &World, name: &str, reasons: &[&str]| {
        let waited = wait(world, name, "500ms").await;
        assert_eq!(waited.code, Some(1), "{}", waited.stderr);
        for reason in reasons {
            assert!(
                waited.stderr.contains(reason),
                "no {reason:?} in {}",
                waited.stderr
            );
        }
    };
    hinders(
        &world,
        "qa",
        &["no instance of web@1.0.0 is live", "no router is there"],
    )
    .await;
    hinders(&world, "qb", &["there is no environment qb; did you mean qa?"]).await;

    world.start_updater().unwrap();
    world.haproxy.start().await.unwrap();
    wait(&world, "second", "10s").await.ok().unwrap();
    // It waits for what is not there yet.
    let mut command = world.command("mayfly").unwrap();
    command.args(["wait", "qa", "--timeout", "20s"]);
    let mut waiting = world.spawn("mayfly-wait", &command).unwrap();
    eventually(SOON, "it says what it waits for", async || {
        waiting
            .output()
            .contains("waiting: no instance of web@1.0.0 is live")
    })
    .await;
    let _web = world.instance("web", "1.0.0").await.unwrap();
    assert_eq!(waiting.wait(SOON).await.unwrap().code(), Some(0));
    assert_eq!(
        world
            .get("www-qa.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@1.0.0"
    );

    // A router that does not follow.
    world.updater.as_mut().unwrap().signal(Signal::Stop).unwrap();
    register(&world, "second", None, Some("1.0.0")).await;
    hinders(&world, "second", &["router test is at revision"]).await;
    world.updater.as_mut().unwrap().signal(Signal::Cont).unwrap();
    wait(&world, "second", "10s").await.ok().unwrap();

    // One whose prefix belongs to another.
    let record = r#"{"name": "late", "prefix": "www-qa", "header": "late"}"#;
    world.etcd.put("/mayfly/environments/late", record).await.unwrap();
    hinders(&world, "late", &["prefix www-qa belongs to environment qa"]).await;
}
