//! `mayfly wait`: once it returns, the very next request is answered right; else it says what hinders.

use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::{Finished, Signal};
use serde_json::json;

/// Registers an environment with `web` at a version, past any file.
async fn register(mayfly: &Mayfly, name: &str, extends: Option<&str>, version: Option<&str>) {
    let services = version.map(|version| json!({"name": "web", "version": version, "routes": ["/"]}));
    let services: Vec<_> = services.into_iter().collect();
    let record = json!({"name": name, "prefix": format!("www-{name}"), "header": name, "extends": extends, "services": services});
    let key = format!("/mayfly/environments/{name}");
    mayfly.etcd.put(&key, &record.to_string()).await.unwrap();
}

async fn wait(mayfly: &Mayfly, name: &str, timeout: &str) -> Finished {
    mayfly
        .run("mayfly", &["wait", name, "--timeout", timeout])
        .await
        .unwrap()
}

#[tokio::test]
async fn the_very_next_request_is_answered_right() {
    let mut mayfly = Mayfly::start().await.unwrap();
    mayfly.start_dns().await.unwrap();
    let mut instances = Vec::new();
    for version in ["1.0.0", "2.0.0"] {
        instances.push(mayfly.instance("web", version).await.unwrap());
    }
    for version in ["1.0.0", "2.0.0", "1.0.0", "latest"] {
        // The child changes with its parent, though its own record stays.
        register(&mayfly, "qa", None, Some(version)).await;
        register(&mayfly, "heir", Some("qa"), None).await;
        wait(&mayfly, "heir", "10s").await.ok().unwrap();
        let answer = mayfly
            .get("www-heir.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap();
        let version = version.replace("latest", "2.0.0");
        assert_eq!(answer, format!("web@{version}"));
    }
    // A newer instance is part of it: no moment between its registration and the wait counts.
    instances.push(mayfly.instance("web", "3.0.0").await.unwrap());
    wait(&mayfly, "heir", "10s").await.ok().unwrap();
    let answer = mayfly.get("www-heir.example.com", "/").await.unwrap();
    assert_eq!(answer.backend().unwrap(), "web@3.0.0");
}

#[tokio::test]
async fn what_hinders_is_told() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    register(&mayfly, "qa", None, Some("1.0.0")).await;
    register(&mayfly, "second", None, None).await;
    let hinders = async |mayfly: &Mayfly, name: &str, reasons: &[&str]| {
        let waited = wait(mayfly, name, "500ms").await;
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
        &mayfly,
        "qa",
        &["no instance of web@1.0.0 is live", "there is no router"],
    )
    .await;
    hinders(&mayfly, "qb", &["there is no environment qb; did you mean qa?"]).await;

    mayfly.start_updater().unwrap();
    mayfly.haproxy.start().await.unwrap();
    wait(&mayfly, "second", "10s").await.ok().unwrap();
    // It waits for what is not there yet.
    let mut command = mayfly.command("mayfly").unwrap();
    command.args(["wait", "qa", "--timeout", "20s"]);
    let mut waiting = mayfly.spawn("mayfly-wait", &command).unwrap();
    eventually(SOON, "it says what it waits for", async || {
        waiting
            .output()
            .contains("waiting: no instance of web@1.0.0 is live")
    })
    .await;
    let _web = mayfly.instance("web", "1.0.0").await.unwrap();
    assert_eq!(waiting.wait(SOON).await.unwrap().code(), Some(0));
    assert_eq!(
        mayfly
            .get("www-qa.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@1.0.0"
    );

    // A router that does not follow.
    mayfly.updater.as_mut().unwrap().signal(Signal::Stop).unwrap();
    register(&mayfly, "second", None, Some("1.0.0")).await;
    hinders(&mayfly, "second", &["router test is at revision"]).await;
    mayfly.updater.as_mut().unwrap().signal(Signal::Cont).unwrap();
    wait(&mayfly, "second", "10s").await.ok().unwrap();

    // One whose prefix belongs to another.
    let record = r#"{"name": "late", "prefix": "www-qa", "header": "late"}"#;
    mayfly
        .etcd
        .put("/mayfly/environments/late", record)
        .await
        .unwrap();
    hinders(&mayfly, "late", &["prefix www-qa belongs to environment qa"]).await;
}
