//! What fails says why, is tried again with growing pauses, and harms nobody else.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mayfly_e2e::docker::{ENDS_AT_ONCE, NETWORK};
use mayfly_e2e::eventually;

use super::with_engine::{LATER, MayflyWithEngine};

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_does_not_exist_harms_nobody_and_is_found_once_it_does() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1"]).await;
    whole.launch(&["--pull", "never", "--retry-most", "1s"]);
    whole.define("backend", "");
    whole.environment("bad", &["backend=9"]);
    whole.environment("good", &["backend=1"]);
    whole.answers("good", "backend@1").await;
    let said = whole.says("backend@9", "failed", "team/backend:9").await;
    assert_eq!(said["live"], 0);
    let asked = whole
        .mayfly
        .run("mayfly", &["explain", "bad", "backend"])
        .await
        .unwrap();
    assert!(asked.stdout.contains("team/backend:9"), "{asked:?}");

    whole
        .engine
        .docker(&["tag", "team/backend:1", "team/backend:9"])
        .await
        .unwrap();
    whole.says("backend@9", "running", "").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_crashes_in_a_loop_is_started_less_and_less_often_and_its_last_words_are_told() {
    let mut whole = MayflyWithEngine::start(&["team/search:1"]).await;
    whole
        .engine
        .image_with("team/backend:1", &[ENDS_AT_ONCE])
        .await
        .unwrap();
    whole.launch(&[]);
    whole.define("backend", "");
    whole.define("search", "");
    whole.environment("bad", &["backend=1", "search=1"]);
    let waited = whole
        .mayfly
        .run("mayfly", &["wait", "bad", "--timeout", "28s"])
        .await
        .unwrap();
    assert!(
        waited.code == Some(1) && waited.stderr.contains("no such basket"),
        "{waited:?}"
    );
    let said = whole.says("backend@1", "failed", "exited with 3").await;
    assert!(said["output"].to_string().contains("no such basket"), "{said}");
    whole.says("search@1", "running", "").await;
    let told = async || -> Result<(u64, Duration)> {
        let said = whole.backend("backend@1").await?;
        let next = said["next_try"].as_str().context("no next try")?.to_owned();
        let left = humantime::parse_rfc3339(&next)?.duration_since(std::time::SystemTime::now())?;
        Ok((said["failures"].as_u64().unwrap_or_default(), left))
    };
    eventually(LATER, "its pauses have grown", async || -> Result<()> {
        let (failures, left) = told().await?;
        ensure!(
            failures >= 4 && left >= Duration::from_secs(2),
            "{failures} {left:?}"
        );
        Ok(())
    })
    .await;
    assert!(whole.states("backend@1").await.unwrap().len() <= 1);

    // A mended definition is tried at once, whatever the pause; and who waits for it is not told of the old failures.
    whole.define("backend", "env: {E2E_EXIT: ''}");
    let key = "/mayfly/services/backend";
    eventually(LATER, "the definition is registered", async || -> Result<()> {
        let value = whole.mayfly.etcd.get(key).await?.context("no definition")?;
        ensure!(value.contains("E2E_EXIT"), "{value}");
        Ok(())
    })
    .await;
    let waited = whole
        .mayfly
        .run("mayfly", &["wait", "bad", "--timeout", "25s"])
        .await
        .unwrap();
    assert!(waited.code == Some(0), "{waited:?}");
    whole.answers("bad", "backend@1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_never_answers_its_check_is_replaced() {
    let mut whole = MayflyWithEngine::start(&[]).await;
    whole
        .engine
        .image_with(
            "team/backend:1",
            &["ENV E2E_SILENT=1", "ENV E2E_SAY=\"waiting for godot\""],
        )
        .await
        .unwrap();
    whole.launch(&["--start-timeout", "3s", "--retry-most", "1s"]);
    whole.define("backend", "");
    whole.environment("bad", &["backend=1"]);
    eventually(LATER, "it has failed", async || -> Result<()> {
        let said = whole.backend("backend@1").await?;
        let failure = said["failure"].as_str().unwrap_or_default();
        ensure!(failure.contains("was not registered within 3s"), "{said}");
        ensure!(said["output"].to_string().contains("waiting for godot"), "{said}");
        let log = whole.launchers[0].output();
        let removed = log
            .lines()
            .find(|line| line.contains("removed `mayfly-backend-1-"));
        ensure!(
            removed.is_some_and(|line| line.contains("was not registered within 3s")),
            "{log}"
        );
        let status = whole.mayfly.run("mayfly", &["status"]).await?.stdout;
        ensure!(status.contains("was not registered within 3s"), "{status}");
        Ok(())
    })
    .await;
    whole.engine.image("team/backend:1").await.unwrap();
    whole.answers("bad", "backend@1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_gets_nothing_that_it_may_not_have() {
    let mut whole = MayflyWithEngine::start(&["team/backend:1", "evil/search:1"]).await;
    whole.launch(&["--allow-image", "team/*", "--volume-root", "/srv/mayfly"]);
    whole.define_with("search", "evil/search", NETWORK, "");
    whole.define("backend", "volumes: ['/etc:/stolen']");
    whole.environment("a", &["backend=1", "search=1"]);
    whole.says("backend@1", "failed", "`/etc` is not allowed").await;
    whole
        .says("search@1", "failed", "--allow-image allows team/*")
        .await;

    // In a file, it is refused with its place; the last good definition stays.
    whole.define("backend", "privileged: true");
    eventually(LATER, "the file is refused", async || -> Result<()> {
        let set_aside = whole.mayfly.set_aside("environment-registrar").await?;
        let told = set_aside
            .iter()
            .any(|(key, reason)| key.contains("backend") && reason.contains("privileged"));
        ensure!(told, "{set_aside:?}");
        Ok(())
    })
    .await;
    // Put into etcd by hand, a field that does not exist asks for nothing, and a value that breaks a rule is set aside.
    let by_hand = r#"{"name": "other", "image": "team/backend:{{ version }}", "port": 8080, "networks": ["host"], "privileged": true}"#;
    whole
        .mayfly
        .etcd
        .put("/mayfly/services/other", by_hand)
        .await
        .unwrap();
    eventually(LATER, "the record is set aside", async || -> Result<()> {
        let set_aside = whole.mayfly.set_aside("container-launcher").await?;
        ensure!(
            set_aside
                .iter()
                .any(|(key, reason)| key.ends_with("services/other") && reason.contains("host"))
        );
        Ok(())
    })
    .await;
    let by_hand = by_hand.replace("host", NETWORK);
    whole
        .mayfly
        .etcd
        .put("/mayfly/services/other", &by_hand)
        .await
        .unwrap();
    whole.environment("b", &["other=1"]);
    whole.runs("other@1", 1).await;
    let containers: Vec<String> = whole.containers().await.into_iter().collect();
    let form = "{{.HostConfig.Privileged}} {{.HostConfig.NetworkMode}} {{json .HostConfig.Binds}}";
    let inspected = whole
        .engine
        .docker(&["inspect", "--format", form, &containers[0]])
        .await
        .unwrap();
    assert_eq!(inspected.trim(), format!("false {NETWORK} null"));
    assert_eq!(containers.len(), 1);
}
