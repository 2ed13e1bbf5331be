//! What is missing is started, and only that.

use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::docker::NETWORK;
use mayfly_e2e::http::Request;
use mayfly_e2e::poll::throughout;
use mayfly_e2e::{eventually, port};

use super::with_engine::{LATER, MayflyWithEngine};

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_runs_nowhere_is_started_registered_and_routed() {
    let mut whole = MayflyWithEngine::start(&["team/backend:0.0.3"]).await;
    let admin = port::free();
    whole.launch(&["--admin", &admin.to_string()]);
    whole.define("backend", "env: {LOG_LEVEL: info}\nmemory: 64m\ncpus: 0.5");
    whole.environment("temp-1", &["backend=0.0.3"]);
    let waited = whole
        .mayfly
        .run("mayfly", &["wait", "temp-1", "--timeout", "25s"])
        .await
        .unwrap();
    assert!(waited.code == Some(0), "{waited:?}");
    // `wait` says that the next request is answered, so it is.
    let answer = whole.mayfly.get("www-temp-1.example.com", "/").await.unwrap();
    assert_eq!(answer.backend().unwrap(), "backend@0.0.3");

    let said = whole.says("backend@0.0.3", "running", "").await;
    assert_eq!((&said["wanted"], &said["live"]), (&1.into(), &1.into()));
    let containers: Vec<String> = whole.containers().await.into_iter().collect();
    let form =
        "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.Privileged}} {{json .Config.Env}}";
    let inspected = whole
        .engine
        .docker(&["inspect", "--format", form, &containers[0]])
        .await
        .unwrap();
    assert!(
        inspected.starts_with("67108864 500000000 false") && inspected.contains("LOG_LEVEL=info"),
        "{inspected}"
    );
    let status = whole
        .mayfly
        .run("mayfly", &["status"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert!(
        status.contains("container-launcher") && status.contains("backend@0.0.3"),
        "{status}"
    );
    let metrics = Request::get("localhost", "/metrics")
        .send(admin)
        .await
        .unwrap()
        .body;
    mayfly_e2e::metrics::check(&metrics).unwrap();
    for line in [
        "mayfly_launcher_backends{phase=\"running\"} 1",
        "mayfly_launcher_started_total 1",
        "mayfly_launcher_leading 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_else_runs_is_left_to_them_and_the_difference_is_started() {
    let mut whole = MayflyWithEngine::start(&["team/backend:0.0.1", "team/search:2"]).await;
    // One in a container that somebody has labelled, one beside a registrar of its own.
    let labels = ["--label", "mayfly.service=backend", "--network", NETWORK];
    whole
        .engine
        .run("theirs", "team/backend:0.0.1", &labels)
        .await
        .unwrap();
    let _beside = whole.mayfly.instance("search", "2").await.unwrap();
    whole.define("backend", "");
    whole.define("search", "instances: 2");
    whole.environment("a", &["backend=0.0.1", "search=2"]);
    whole.answers("a", "backend@0.0.1").await;
    whole.launch(&[]);
    whole.runs("search@2", 1).await;
    whole.says("search@2", "running", "").await;
    assert_eq!(whole.containers().await.len(), 1);

    // And when they stop theirs, it is started.
    whole.engine.docker(&["rm", "-f", "theirs"]).await.unwrap();
    whole.runs("backend@0.0.1", 1).await;
    whole.answers("a", "backend@0.0.1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_backends_wanted_at_once_all_come() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1"]).await;
    let mut services = Vec::new();
    for number in 1..=50 {
        let version = format!("1.0.{number}");
        let tag = format!("team/backend:{version}");
        whole
            .engine
            .docker(&["tag", "team/backend:1", &tag])
            .await
            .unwrap();
        whole.environment(&format!("e{number}"), &[&format!("backend={version}")]);
        services.push(format!("backend@{version}"));
    }
    whole.launch(&["--max-containers", "50"]);
    whole.define("backend", "");
    let all = Duration::from_secs(160);
    eventually(all, "all fifty run and answer", async || -> Result<()> {
        let launching = whole.launching().await?;
        let running = |backend: &&String| launching["backends"][backend.as_str()]["state"] == "running";
        let count = services.iter().filter(running).count();
        ensure!(count == 50, "{count} run");
        Ok(())
    })
    .await;
    assert_eq!(whole.containers().await.len(), 50);
    // The limit is reached; what comes on top waits and says why.
    whole
        .engine
        .docker(&["tag", "team/backend:1", "team/backend:2"])
        .await
        .unwrap();
    whole.environment("one-more", &["backend=2"]);
    whole.says("backend@2", "failed", "limit of 50 containers").await;
    assert_eq!(whole.containers().await.len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_environment_that_changes_faster_than_containers_start_ends_up_right() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1", "team/backend:2"]).await;
    whole.launch(&["--patience", "0s"]);
    whole.define("backend", "");
    for flip in 0..12 {
        whole.environment("temp", &[if flip % 2 == 0 { "backend=1" } else { "backend=2" }]);
        let revision = whole.mayfly.etcd.revision().await.unwrap();
        eventually(LATER, "the change is registered", async || -> Result<()> {
            ensure!(whole.mayfly.etcd.revision().await? > revision || flip == 0);
            Ok(())
        })
        .await;
    }
    whole.answers("temp", "backend@2").await;
    for backend in ["backend@1", "backend@2"] {
        assert!(
            whole.states(backend).await.unwrap().len() <= 1,
            "{backend} was made twice"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_happen_and_does_nothing() {
    let whole = MayflyWithEngine::start(&["team/backend:1"]).await;
    whole.define("backend", "");
    whole.environment("a", &["backend=1", "search=1"]);
    eventually(LATER, "everything is registered", async || -> Result<()> {
        let definition = whole.mayfly.etcd.get("/mayfly/services/backend").await?;
        let environment = whole.mayfly.etcd.get("/mayfly/environments/a").await?;
        ensure!(definition.is_some() && environment.is_some());
        Ok(())
    })
    .await;
    let said = whole.run_launcher(&["--dry-run"]).await.ok().unwrap();
    assert!(
        said.contains("start   backend@1 as mayfly-backend-1-") && said.contains("from team/backend:1"),
        "{said}"
    );
    assert!(said.contains("cannot start search@1: no definition"), "{said}");
    throughout(Duration::from_secs(1), "nothing is made", async || {
        whole.containers().await.is_empty()
    })
    .await;
    let led = whole
        .mayfly
        .etcd
        .get("/mayfly/leaders/container-launcher")
        .await
        .unwrap();
    assert_eq!(led, None);
}
