//! Whoever leads, and whatever dies in between: nothing is made twice, and nothing is left behind.

use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::poll::throughout;

use super::with_engine::{LATER, MayflyWithEngine};

#[tokio::test(flavor = "multi_thread")]
async fn of_two_launchers_one_works_and_the_other_takes_over() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1", "team/backend:2"]).await;
    whole.define("backend", "");
    whole.environment("a", &["backend=1"]);
    whole.launch_as("first", &[]);
    whole.answers("a", "backend@1").await;
    whole.launch_as("second", &[]);
    eventually(LATER, "the second stands by", async || -> Result<()> {
        let record = whole
            .mayfly
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
    let before = whole.containers().await;
    whole.launchers.remove(0).kill9().await.unwrap();
    whole.environment("b", &["backend=2"]);
    whole.answers("b", "backend@2").await;
    let leader = whole
        .mayfly
        .etcd
        .get("/mayfly/leaders/container-launcher")
        .await
        .unwrap();
    assert_eq!(leader.as_deref(), Some("second"));
    let now = whole.containers().await;
    assert!(now.is_superset(&before) && now.len() == 2, "{before:?} {now:?}");
    // One that ends in good order is followed at once, and its containers live on.
    whole.launch_as("third", &[]);
    whole.launchers.remove(0).terminate(LATER).await.unwrap();
    eventually(
        Duration::from_secs(10),
        "the third leads",
        async || -> Result<()> {
            let leader = whole
                .mayfly
                .etcd
                .get("/mayfly/leaders/container-launcher")
                .await?;
            ensure!(leader.as_deref() == Some("third"), "{leader:?}");
            Ok(())
        },
    )
    .await;
    assert_eq!(whole.containers().await, now);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_keeps_what_was_registered_by_a_registrar_that_is_down() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1"]).await;
    whole.define("backend", "");
    whole.environment("a", &["backend=1"]);
    whole.launch(&[]);
    whole.answers("a", "backend@1").await;
    let before = whole.containers().await;
    whole.registrar.kill9().await.unwrap();
    eventually(LATER, "its lease expires", async || -> Result<()> {
        let instances = whole.mayfly.etcd.list("/mayfly/backends/").await?;
        ensure!(instances.is_empty(), "{instances:?}");
        Ok(())
    })
    .await;
    whole.launchers.remove(0).kill9().await.unwrap();
    whole.launch_as("second", &["--start-timeout", "1s"]);
    eventually(LATER, "the second leads", async || -> Result<()> {
        let leader = whole
            .mayfly
            .etcd
            .get("/mayfly/leaders/container-launcher")
            .await?;
        ensure!(leader.as_deref() == Some("second"), "{leader:?}");
        Ok(())
    })
    .await;
    whole.says("backend@1", "checking", "").await;
    throughout(Duration::from_secs(5), "the container stays", async || {
        whole.containers().await == before
    })
    .await;
    whole.answers("a", "backend@1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_etcd_that_lost_its_data_and_gets_half_of_it_back_retires_nothing() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1", "team/backend:2"]).await;
    whole.define("backend", "");
    for (name, version) in [("a", "1"), ("b", "1"), ("c", "2"), ("d", "2")] {
        whole.environment(name, &[&format!("backend={version}")]);
    }
    whole.launch(&["--retire-after", "500ms", "--distrust", "1s"]);
    whole.answers("a", "backend@1").await;
    whole.answers("c", "backend@2").await;
    let before = whole.containers().await;
    // The registrar has only half of the files by now; the launcher loses its lead with etcd's data, and takes it again.
    whole.mayfly.registrar.take().unwrap().kill9().await.unwrap();
    whole.mayfly.etcd.restart_emptied().await.unwrap();
    for name in ["c", "d"] {
        whole.mayfly.remove(&format!("{name}.yaml"));
    }
    whole.mayfly.start_registrar(&[]).unwrap();
    eventually(LATER, "the guard says so", async || -> Result<()> {
        let launching = whole.launching().await?;
        let guard = launching["guard"].as_str().unwrap_or_default();
        ensure!(guard.contains("of 4 environments vanished"), "{launching}");
        Ok(())
    })
    .await;
    throughout(Duration::from_secs(3), "the containers stay", async || {
        whole.containers().await == before
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_mayflies_share_an_engine() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1"]).await;
    whole.define("backend", "");
    whole.environment("a", &["backend=1"]);
    whole.launch(&[]);
    whole.answers("a", "backend@1").await;
    // The other one's keys lie below another prefix of the same etcd.
    for kind in ["environments/a", "services/backend"] {
        let value = whole
            .mayfly
            .etcd
            .get(&format!("/mayfly/{kind}"))
            .await
            .unwrap()
            .unwrap();
        whole
            .mayfly
            .etcd
            .put(&format!("/other/{kind}"), &value)
            .await
            .unwrap();
    }
    whole.launch_as("other", &["--prefix", "/other"]);
    whole.runs("backend@1", 2).await;
    throughout(Duration::from_secs(2), "ours has one instance", async || {
        let instances = whole.mayfly.etcd.list("/mayfly/backends/").await;
        instances.is_ok_and(|instances| instances.len() == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_restarted_has_everything_again() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1", "team/backend:2"]).await;
    whole.define("backend", "");
    whole.environment("a", &["backend=1"]);
    whole.environment("b", &["backend=2"]);
    whole.launch(&[]);
    whole.answers("a", "backend@1").await;
    whole.answers("b", "backend@2").await;
    whole.engine.restart().await.unwrap();
    for (environment, backend) in [("a", "backend@1"), ("b", "backend@2")] {
        whole.runs(backend, 1).await;
        whole.says(backend, "running", "").await;
        whole.answers(environment, backend).await;
    }
    assert_eq!(whole.containers().await.len(), 2);
}
