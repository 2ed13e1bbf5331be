//! What nobody needs any more is drained, stopped and removed, and nothing else is.

use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::docker::NETWORK;
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::load::Load;
use mayfly_e2e::poll::throughout;

use super::with_engine::{LATER, MayflyWithEngine};

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_needs_is_drained_and_goes_and_no_other_request_fails() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1", "team/backend:2", "team/backend:3"]).await;
    // Somebody else's, of a version that nobody needs later on.
    let labels = ["--label", "mayfly.service=backend", "--network", NETWORK];
    whole
        .engine
        .run("theirs", "team/backend:3", &labels)
        .await
        .unwrap();
    whole.launch(&["--retire-after", "1s"]);
    whole.define("backend", "");
    whole.environment("stays", &["backend=1"]);
    whole.environment("temp", &["backend=2"]);
    whole.environment("other", &["backend=3"]);
    for (environment, backend) in [
        ("stays", "backend@1"),
        ("temp", "backend@2"),
        ("other", "backend@3"),
    ] {
        whole.answers(environment, backend).await;
    }
    let load = Load::start(whole.mayfly.edge, Request::get("www-stays.example.com", "/"));
    whole.mayfly.remove("temp.yaml");
    whole.runs("backend@2", 0).await;
    whole.forgets("backend@2").await;
    whole.mayfly.remove("other.yaml");
    throughout(Duration::from_secs(3), "theirs is not touched", async || {
        let state = whole
            .engine
            .docker(&["inspect", "--format", "{{.State.Status}}", "theirs"])
            .await;
        state.is_ok_and(|state| state.trim() == "running")
    })
    .await;
    load.stop().await.assert_flawless(100);
    whole.runs("backend@1", 1).await;
    let drains = whole.mayfly.etcd.list("/mayfly/drains/").await.unwrap();
    assert!(drains.is_empty(), "{drains:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_retired_while_it_is_asked_finishes_what_it_has() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1"]).await;
    whole.define("backend", "instances: 2");
    whole.environment("a", &["backend=1"]);
    whole.launch(&[]);
    whole.runs("backend@1", 2).await;
    whole.says("backend@1", "running", "").await;
    whole.answers("a", "backend@1").await;
    let load = Load::start(whole.mayfly.edge, Request::get("www-a.example.com", "/?delay=50"));
    // Fewer, then another definition: both replace containers that are asked at this moment.
    whole.define("backend", "instances: 1");
    whole.runs("backend@1", 1).await;
    let before = whole.containers().await;
    whole.define("backend", "instances: 1\nenv: {A: '1'}");
    eventually(LATER, "the container is another one", async || -> Result<()> {
        let now = whole.containers().await;
        ensure!(now.len() == 1 && now != before, "{now:?}");
        Ok(())
    })
    .await;
    load.stop().await.assert_flawless(50);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_empties_retires_nothing_without_an_operator_s_word() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1"]).await;
    whole.define("backend", "");
    for name in ["a", "b", "c"] {
        whole.environment(name, &["backend=1"]);
    }
    whole.launch(&["--retire-after", "500ms"]);
    whole.answers("a", "backend@1").await;
    // Behind the registrar's back, so that they do not come back.
    whole
        .mayfly
        .etcd
        .delete_all("/mayfly/environments/")
        .await
        .unwrap();
    eventually(LATER, "the guard says so", async || -> Result<()> {
        let launching = whole.launching().await?;
        let guard = launching["guard"].as_str().unwrap_or_default();
        ensure!(guard.contains("etcd has no environment at all"), "{launching}");
        Ok(())
    })
    .await;
    throughout(Duration::from_secs(3), "the container stays", async || {
        whole
            .states("backend@1")
            .await
            .is_ok_and(|states| states == ["running"])
    })
    .await;
    let status = whole
        .mayfly
        .run("mayfly", &["status"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert!(status.contains("no environment at all"), "{status}");

    let confirmed = whole
        .mayfly
        .run("mayfly", &["confirm", "container-launcher"])
        .await
        .unwrap();
    assert!(confirmed.code == Some(0), "{confirmed:?}");
    whole.runs("backend@1", 0).await;
    assert_eq!(
        whole
            .mayfly
            .etcd
            .get("/mayfly/confirmations/container-launcher")
            .await
            .unwrap(),
        None
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn half_of_all_environments_within_seconds_are_not_believed_to_be_gone() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1", "team/backend:2"]).await;
    whole.define("backend", "");
    for (name, version) in [("a", "1"), ("b", "1"), ("c", "2"), ("d", "2")] {
        whole.environment(name, &[&format!("backend={version}")]);
    }
    whole.launch(&["--retire-after", "500ms"]);
    whole.answers("a", "backend@1").await;
    whole.answers("c", "backend@2").await;
    for name in ["c", "d"] {
        let key = format!("/mayfly/environments/{name}");
        whole.mayfly.etcd.delete(&key).await.unwrap();
    }
    eventually(LATER, "the guard says so", async || -> Result<()> {
        let launching = whole.launching().await?;
        let guard = launching["guard"].as_str().unwrap_or_default();
        ensure!(guard.contains("2 of 4 environments vanished"), "{launching}");
        Ok(())
    })
    .await;
    assert_eq!(whole.states("backend@2").await.unwrap(), ["running"]);
    // One of them is back: that is less than half. The other one's container is needed again anyway.
    whole.environment("c", &["backend=1"]);
    whole.runs("backend@2", 0).await;
}

#[tokio::test]
async fn half_of_all_environments_that_end_with_their_files_are_believed_to_be_gone() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1", "team/backend:2"]).await;
    whole.define("backend", "");
    for (name, version) in [("a", "1"), ("b", "1"), ("c", "2"), ("d", "2")] {
        whole.environment(name, &[&format!("backend={version}")]);
    }
    whole.launch(&["--retire-after", "500ms"]);
    whole.answers("a", "backend@1").await;
    whole.answers("c", "backend@2").await;
    for name in ["c", "d"] {
        whole.mayfly.remove(&format!("{name}.yaml"));
    }
    whole.runs("backend@2", 0).await;
    assert_eq!(whole.states("backend@1").await.unwrap(), ["running"]);
}
