//! Whoever may push files gets no more of an engine than files go: places, networks, limits, and what is retired.

use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::poll::throughout;

use super::stage::{LATER, Stage};

#[tokio::test(flavor = "multi_thread")]
async fn no_definition_takes_what_others_need_or_what_nobody_gives_it() {
    let mut stage = Stage::start(&["team/greedy:1", "team/victim:1", "team/asking:1"]).await;
    // What an image says of Swarm made its containers somebody else's.
    stage
        .engine
        .image_with("team/hidden:1", &["LABEL com.docker.swarm.task.id=1"])
        .await
        .unwrap();
    let places = [
        "--max-containers",
        "4",
        "--retire-after",
        "1s",
        "--guard-window",
        "5s",
    ];
    stage.launch(&places);

    // One definition has all places, until somebody else needs one.
    stage.define("greedy", "instances: 100");
    stage.environment("a", &["greedy=1"]);
    stage.runs("greedy@1", 4).await;
    stage.says("greedy@1", "failed", "limit of 4 containers").await;
    stage.define("victim", "");
    stage.environment("b", &["victim=1"]);
    stage.answers("b", "victim@1").await;
    stage.answers("a", "greedy@1").await;
    stage.runs("greedy@1", 3).await;

    // What is asked for and not given is refused with the reason, and starts nothing.
    let network = "etcd-s-own";
    stage
        .engine
        .docker(&["network", "create", network])
        .await
        .unwrap();
    for (more, reason) in [
        ("memory: 1g", "at most 512m (--memory)"),
        ("cpus: 2", "at most 1 (--cpus)"),
    ] {
        stage.define("asking", more);
        stage.environment("c", &["asking=1"]);
        stage.says("asking@1", "failed", reason).await;
    }
    stage.define_with("asking", "team/asking", network, "");
    let reason = "network etcd-s-own is not allowed here: allowed is mayfly (--network";
    stage.says("asking@1", "failed", reason).await;
    stage.world.remove("c.yaml");

    // A container that its image would hide is counted, and goes when nobody needs it.
    stage.define("hidden", "instances: 9");
    stage.environment("d", &["hidden=1"]);
    stage.runs("hidden@1", 1).await;
    throughout(Duration::from_secs(2), "there are four in all", async || {
        stage.containers().await.len() <= 4
    })
    .await;

    // Environments of which nothing would be retired come and go: the guard does not mind them.
    for number in 0..8 {
        stage.environment(&format!("e{number}"), &[]);
    }
    registered(&stage, 11).await;
    for number in 0..8 {
        stage.world.remove(&format!("e{number}.yaml"));
    }
    registered(&stage, 3).await;
    stage.world.remove("d.yaml");
    stage.runs("hidden@1", 0).await;
    stage.runs("greedy@1", 3).await;
    assert!(stage.launching().await.unwrap()["guard"].is_null());
}

/// Waits until so many environments are in etcd.
async fn registered(stage: &Stage, count: usize) {
    eventually(LATER, &format!("{count} environments"), async || -> Result<()> {
        let all = stage.world.etcd.list("/mayfly/environments/").await?;
        ensure!(all.len() == count, "{:?}", all.keys());
        Ok(())
    })
    .await;
}
