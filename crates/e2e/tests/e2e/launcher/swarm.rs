//! The same on a Docker Swarm of one node.

use anyhow::{Result, ensure};
use mayfly_e2e::docker::{DockerEngine, SWARM_NETWORK};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::load::Load;

use super::with_engine::{LATER, MayflyWithEngine};

impl MayflyWithEngine {
    async fn services(&self) -> Vec<String> {
        let arguments = [
            "service",
            "ls",
            "--filter",
            "label=mayfly.launcher",
            "--format",
            "{{.Name}} {{.Replicas}}",
        ];
        let listed = self.engine.docker(&arguments).await.unwrap();
        listed.lines().map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_of_a_swarm_come_and_go_and_swarm_restarts_them() {
    let engine = DockerEngine::start().await.unwrap();
    engine.swarm_init().await.unwrap();
    let mut whole =
        MayflyWithEngine::start_on(engine, &["team/backend:1", "team/backend:2"], SWARM_NETWORK).await;
    whole.launch(&[
        "--engine",
        "swarm",
        "--network",
        SWARM_NETWORK,
        "--retire-after",
        "1s",
    ]);
    whole.define_with("backend", "team/backend", SWARM_NETWORK, "instances: 2");
    whole.environment("stays", &["backend=1"]);
    whole.environment("temp", &["backend=2"]);
    // So many that two less are not half of them.
    for name in ["more", "others", "besides"] {
        whole.environment(name, &["backend=1"]);
    }
    whole.environment("bad", &["backend=9"]);
    whole.answers("stays", "backend@1").await;
    whole.answers("temp", "backend@2").await;
    whole.says("backend@1", "running", "").await;
    whole.says("backend@2", "running", "").await;
    // Swarm's own words about an image that is not there.
    whole.says("backend@9", "failed", "o such image").await;
    whole.mayfly.remove("bad.yaml");

    let load = Load::start(whole.mayfly.edge, Request::get("www-stays.example.com", "/"));
    whole.mayfly.remove("temp.yaml");
    eventually(LATER, "two services are left", async || -> Result<()> {
        let services = whole.services().await;
        ensure!(
            services.len() == 2 && services.iter().all(|line| line.contains("-backend-1-")),
            "{services:?}"
        );
        Ok(())
    })
    .await;
    load.stop().await.assert_flawless(100);

    // A task that dies is Swarm's to bring back.
    let find = ["ps", "--filter", "label=mayfly.version=1", "--format", "{{.ID}}"];
    let before = whole.engine.docker(&find).await.unwrap();
    let first = before.split_whitespace().next().unwrap().to_owned();
    whole.engine.kill9_container(&first).await.unwrap();
    let services = whole.services().await.len();
    eventually(
        LATER,
        "another container takes its place",
        async || -> Result<()> {
            let now = whole.engine.docker(&find).await?;
            let all: Vec<&str> = now.split_whitespace().collect();
            ensure!(all.len() == 2 && !all.contains(&first.as_str()), "{all:?}");
            Ok(())
        },
    )
    .await;
    whole.says("backend@1", "running", "").await;
    assert_eq!(whole.services().await.len(), services);
}
