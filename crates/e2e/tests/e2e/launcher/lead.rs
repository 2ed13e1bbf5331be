//! Whoever leads, and whatever dies in between: nothing is made twice, and nothing is left behind.

use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::load::Load;
use mayfly_e2e::poll::throughout;

use super::stage::{LATER, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn a_launcher_killed_at_any_moment_of_a_start_leaves_nothing_twice_and_nothing_behind() {
    let versions = ["1", "2", "3", "4", "5", "6"];
    let images = versions.map(|version| format!("team/backend:{version}"));
    let mut stage = Stage::start(&images.each_ref().map(String::as_str)).await;
    stage.define("backend", "");
    for version in versions {
        stage.environment(&format!("e{version}"), &[&format!("backend={version}")]);
    }
    for made in 1..=4 {
        stage.launch(&["--patience", "0s", "--ttl", "2s", "--starts-at-once", "2"]);
        // The moment at which one more container is there lies between its creation and its start, or close to it.
        eventually(LATER, "one more container", async || -> Result<()> {
            let containers = stage.containers().await;
            ensure!(containers.len() >= made, "{containers:?}");
            Ok(())
        })
        .await;
        let mut launcher = stage.launchers.pop().unwrap();
        launcher.kill9().await.unwrap();
    }
    stage.launch(&["--patience", "0s"]);
    for version in versions {
        stage.runs(&format!("backend@{version}"), 1).await;
        stage
            .answers(&format!("e{version}"), &format!("backend@{version}"))
            .await;
    }
    assert_eq!(stage.containers().await.len(), versions.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_launchers_one_works_and_the_other_takes_over() {
    let mut stage = Stage::start(&["team/backend:1", "team/backend:2"]).await;
    stage.define("backend", "");
    stage.environment("a", &["backend=1"]);
    stage.launch_as("first", &[]);
    stage.answers("a", "backend@1").await;
    stage.launch_as("second", &[]);
    eventually(LATER, "the second stands by", async || -> Result<()> {
        let record = stage
            .world
            .etcd
            .get_json("/mayfly/status/container-launcher/second")
            .await?;
        ensure!(
            record["ready"] == true && record["detail"]["launching"]["leading"] == false,
            "{record}"
        );
        Ok(())
    })
    .await;
    let before = stage.containers().await;
    stage.launchers.remove(0).kill9().await.unwrap();
    stage.environment("b", &["backend=2"]);
    stage.answers("b", "backend@2").await;
    let leader = stage
        .world
        .etcd
        .get("/mayfly/leaders/container-launcher")
        .await
        .unwrap();
    assert_eq!(leader.as_deref(), Some("second"));
    let now = stage.containers().await;
    assert!(now.is_superset(&before) && now.len() == 2, "{before:?} {now:?}");
    // One that ends in good order is followed at once, and its containers live on.
    stage.launch_as("third", &[]);
    stage.launchers.remove(0).terminate(LATER).await.unwrap();
    eventually(
        Duration::from_secs(10),
        "the third leads",
        async || -> Result<()> {
            let leader = stage.world.etcd.get("/mayfly/leaders/container-launcher").await?;
            ensure!(leader.as_deref() == Some("third"), "{leader:?}");
            Ok(())
        },
    )
    .await;
    assert_eq!(stage.containers().await, now);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_restarted_has_everything_again() {
    let mut stage = Stage::start(&["team/backend:1", "team/backend:2"]).await;
    stage.define("backend", "");
    stage.environment("a", &["backend=1"]);
    stage.environment("b", &["backend=2"]);
    stage.launch(&[]);
    stage.answers("a", "backend@1").await;
    stage.answers("b", "backend@2").await;
    stage.engine.restart().await.unwrap();
    for (environment, backend) in [("a", "backend@1"), ("b", "backend@2")] {
        stage.runs(backend, 1).await;
        stage.says(backend, "running", "").await;
        stage.answers(environment, backend).await;
    }
    assert_eq!(stage.containers().await.len(), 2);
    // Killed, too.
    stage.engine.kill9().await.unwrap();
    stage.engine.start_again().await.unwrap();
    for (environment, backend) in [("a", "backend@1"), ("b", "backend@2")] {
        stage.runs(backend, 1).await;
        stage.answers(environment, backend).await;
    }
    assert_eq!(stage.containers().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_etcd_gone_nothing_is_started_or_retired_and_no_request_fails() {
    let mut stage = Stage::start(&["team/backend:1"]).await;
    stage.define("backend", "");
    stage.environment("a", &["backend=1"]);
    stage.launch(&["--retire-after", "500ms"]);
    stage.answers("a", "backend@1").await;
    let before = stage.containers().await;
    let load = Load::start(stage.world.edge, Request::get("www-a.example.com", "/"));
    stage.world.etcd.kill9().await.unwrap();
    throughout(Duration::from_secs(5), "the container stays", async || {
        stage.containers().await == before
    })
    .await;
    stage.world.etcd.restart().await.unwrap();
    eventually(LATER, "a launcher leads again", async || {
        stage.backend("backend@1").await
    })
    .await;
    stage.says("backend@1", "running", "").await;
    assert_eq!(stage.containers().await, before);
    load.stop().await.assert_flawless(100);
}
