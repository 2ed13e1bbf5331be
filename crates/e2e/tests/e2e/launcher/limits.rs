//! Whoever may push files gets no more of an engine than files go: places, networks, limits, and what is retired.

use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::poll::throughout;

use super::with_engine::{LATER, MayflyWithEngine};

#[tokio::test(flavor = "multi_thread")]
async fn no_definition_takes_what_others_need_or_what_nobody_gives_it() {
    let mut whole = MayflyWithEngine::start(&["team/greedy:1", "team/victim:1", "team/asking:1"]).await;
    // What an image says of Swarm made its containers somebody else's.
    whole
        .engine
        .image_with("team/hidden:1", &["LABEL com.docker.swarm.task.id=1"])
        .await
        .unwrap();
    let places = [
        "--max-containers",
        "4",
        "--retire-after",
        "1s",
        "--distrust",
        "5s",
    ];
    whole.launch(&places);

    // One definition has all places, until somebody else needs one.
    whole.define("greedy", "instances: 100");
    whole.environment("a", &["greedy=1"]);
    whole.runs("greedy@1", 4).await;
    whole.says("greedy@1", "failed", "limit of 4 containers").await;
    whole.define("victim", "");
    whole.environment("b", &["victim=1"]);
    whole.answers("b", "victim@1").await;
    whole.answers("a", "greedy@1").await;
    whole.runs("greedy@1", 3).await;

    // What is asked for and not given is refused with the reason, and starts nothing.
    let network = "etcd-s-own";
    whole
        .engine
        .docker(&["network", "create", network])
        .await
        .unwrap();
    for (more, reason) in [
        ("memory: 1g", "exceeds the limit of 512m (--memory)"),
        ("cpus: 2", "exceeds the limit of 1 (--cpus)"),
    ] {
        whole.define("asking", more);
        whole.environment("c", &["asking=1"]);
        whole.says("asking@1", "failed", reason).await;
    }
    whole.define_with("asking", "team/asking", network, "");
    let reason = "network `etcd-s-own` is not allowed; --network and --allow-network allow mayfly";
    whole.says("asking@1", "failed", reason).await;
    whole.mayfly.remove("c.yaml");

    // A container that its image would hide is counted, and goes when nobody needs it.
    whole.define("hidden", "instances: 9");
    whole.environment("d", &["hidden=1"]);
    whole.runs("hidden@1", 1).await;
    throughout(Duration::from_secs(2), "there are four in all", async || {
        whole.containers().await.len() <= 4
    })
    .await;

    // Environments of which nothing would be retired come and go: the guard does not mind them.
    for number in 0..8 {
        whole.environment(&format!("e{number}"), &[]);
    }
    registered(&whole, 11).await;
    for number in 0..8 {
        whole.mayfly.remove(&format!("e{number}.yaml"));
    }
    registered(&whole, 3).await;
    whole.mayfly.remove("d.yaml");
    whole.runs("hidden@1", 0).await;
    whole.runs("greedy@1", 3).await;
    assert!(whole.launching().await.unwrap()["guard"].is_null());
}

/// Waits until so many environments are in etcd.
async fn registered(whole: &MayflyWithEngine, count: usize) {
    eventually(LATER, &format!("{count} environments"), async || -> Result<()> {
        let all = whole.mayfly.etcd.list("/mayfly/environments/").await?;
        ensure!(all.len() == count, "{:?}", all.keys());
        Ok(())
    })
    .await;
}
