//! Whoever leads, and whatever dies in between: nothing is made twice, and nothing is left behind.

use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::poll::throughout;

use super::stage::{LATER, Stage};

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
async fn an_etcd_that_lost_its_data_and_gets_half_of_it_back_retires_nothing() {
    let mut stage = Stage::start(&["team/backend:1", "team/backend:2"]).await;
    stage.define("backend", "");
    for (name, version) in [("a", "1"), ("b", "1"), ("c", "2"), ("d", "2")] {
        stage.environment(name, &[&format!("backend={version}")]);
    }
    stage.launch(&["--retire-after", "500ms", "--grace", "1s"]);
    stage.answers("a", "backend@1").await;
    stage.answers("c", "backend@2").await;
    let before = stage.containers().await;
    // The registrar has only half of the files by now; the launcher loses its lead with etcd's data, and takes it again.
    stage.world.registrar.take().unwrap().kill9().await.unwrap();
    stage.world.etcd.restart_emptied().await.unwrap();
    for name in ["c", "d"] {
        stage.world.remove(&format!("{name}.yaml"));
    }
    stage.world.start_registrar(&[]).unwrap();
    eventually(LATER, "the guard says so", async || -> Result<()> {
        let launching = stage.launching().await?;
        let guard = launching["guard"].as_str().unwrap_or_default();
        ensure!(guard.contains("of 4 environments vanished"), "{launching}");
        Ok(())
    })
    .await;
    throughout(Duration::from_secs(3), "the containers stay", async || {
        stage.containers().await == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_mayflies_share_an_engine() {
    let mut stage = Stage::start(&["team/backend:1"]).await;
    stage.define("backend", "");
    stage.environment("a", &["backend=1"]);
    stage.launch(&[]);
    stage.answers("a", "backend@1").await;
    // The other one's keys lie below another prefix of the same etcd.
    for kind in ["environments/a", "services/backend"] {
        let value = stage
            .world
            .etcd
            .get(&format!("/mayfly/{kind}"))
            .await
            .unwrap()
            .unwrap();
        stage
            .world
            .etcd
            .put(&format!("/other/{kind}"), &value)
            .await
            .unwrap();
    }
    stage.launch_as("other", &["--prefix", "/other"]);
    stage.runs("backend@1", 2).await;
    throughout(Duration::from_secs(2), "ours has one instance", async || {
        let instances = stage.world.etcd.list("/mayfly/backends/").await;
        instances.is_ok_and(|instances| instances.len() == 1)
    })
    .await;
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
}
