//! A new version in a running environment: it is used when it answers, and not before.

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::load::Load;
use mayfly_e2e::mayfly::{Mayfly, SOON};

fn environment(version: &str) -> String {
    format!("{{name: prod, prefix: www, services: [{{name: web, version: {version}, route: /}}]}}")
}

/// Waits until the record of prod notes this of what it had before.
async fn notes(mayfly: &Mayfly, previous: &str) {
    eventually(
        SOON,
        &format!("the record notes {previous}"),
        async || -> Result<()> {
            let record = mayfly.etcd.get_json("/mayfly/environments/prod").await?;
            let found = record["life"]["previous"].to_string();
            ensure!(found == previous, "{found}");
            Ok(())
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_old_version_answers_until_the_new_one_does_and_not_again() {
    let mayfly = Mayfly::start().await.unwrap();
    let _old = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("prod.yaml", &environment("1.0.0"));
    mayfly.answers("www.example.com", "web@1.0.0").await;
    let load = Load::start(mayfly.edge, Request::get("www.example.com", "/"));
    // One that never comes, and then another.
    mayfly.save("prod.yaml", &environment("2.0.0"));
    notes(&mayfly, r#"{"web":["1.0.0"]}"#).await;
    mayfly.save("prod.yaml", &environment("3.0.0"));
    notes(&mayfly, r#"{"web":["2.0.0","1.0.0"]}"#).await;
    let waited = mayfly
        .run("mayfly", &["wait", "prod", "--timeout", "300ms"])
        .await
        .unwrap();
    let reason = "still on web@1.0.0: web@3.0.0 is starting, it has no live instance yet";
    assert!(
        waited.code == Some(1) && waited.stderr.contains(reason),
        "{}",
        waited.stderr
    );
    let told = mayfly
        .run("mayfly", &["explain", "www.example.com"])
        .await
        .unwrap();
    assert!(told.stdout.contains(reason), "{}", told.stdout);
    let mut new = mayfly.instance("web", "3.0.0").await.unwrap();
    mayfly.answers("www.example.com", "web@3.0.0").await;
    load.stop().await.assert_flawless(20);
    notes(&mayfly, "null").await;
    mayfly
        .run("mayfly", &["wait", "prod"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    // An outage is an outage.
    assert_eq!(new.registrar.terminate(SOON).await.unwrap().code(), Some(0));
    eventually(SOON, "nothing answers", async || {
        mayfly.get("www.example.com", "/").await.unwrap().status == 503
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_inherited_answers_until_then_and_at_once_is_at_once() {
    let mayfly = Mayfly::start().await.unwrap();
    let _old = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("prod.yaml", &environment("1.0.0"));
    mayfly.save("temp.yaml", "{name: temp, extends: prod}");
    mayfly.answers("www-temp.example.com", "web@1.0.0").await;
    let applied = |switch: &str| {
        format!("{{name: temp, extends: prod, switch: {switch}, services: [{{name: web, version: 2.0.0}}]}}")
    };
    mayfly.save("temp.yaml", &applied("when-live"));
    let waits = async |name: &str, reason: &str| {
        eventually(SOON, reason, async || -> Result<()> {
            let waited = mayfly
                .run("mayfly", &["wait", name, "--timeout", "100ms"])
                .await?;
            ensure!(waited.stderr.contains(reason), "{}", waited.stderr);
            Ok(())
        })
        .await;
    };
    waits("temp", "still on the web that it inherits").await;
    mayfly.answers("www-temp.example.com", "web@1.0.0").await;
    mayfly.save("temp.yaml", &applied("at-once"));
    waits("temp", "no instance of web@2.0.0 is live").await;
    eventually(SOON, "nothing answers", async || {
        mayfly.get("www-temp.example.com", "/").await.unwrap().status == 503
    })
    .await;
    let _new = mayfly.instance("web", "2.0.0").await.unwrap();
    mayfly.answers("www-temp.example.com", "web@2.0.0").await;
}
