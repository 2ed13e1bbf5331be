//! A launcher that dies between two calls to the engine, and two that do the same at the same time: one unit comes of it,
//! and a whole one.

use std::time::{Duration, Instant};

use crate::engine::{Engine as _, Launch, UnitState};
use mayfly_e2e::docker::{DockerEngine, NETWORK};
use mayfly_e2e::eventually;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::support::{GRACE, IMAGE, LIMIT, bench, containers, handle, inspect, launch};

/// A launch into two networks, the second of which is joined after the creation.
async fn two_networks(engine: &DockerEngine) -> Launch {
    engine.docker(&["network", "create", "second"]).await.unwrap();
    launch(
        "mayfly-backend-1",
        IMAGE,
        json!({ "networks": [NETWORK, "second"] }),
    )
}

fn networks(container: &Value) -> Vec<&String> {
    container["NetworkSettings"]["Networks"]
        .as_object()
        .unwrap()
        .keys()
        .collect()
}

/// What a launcher leaves that dies after the creation, with labels as given.
async fn create(engine: &DockerEngine, launch: &Launch, digest: &str) -> String {
    let mut labels = launch.labels.clone();
    labels.insert("mayfly.launcher".to_owned(), "/mayfly".to_owned());
    labels.insert("mayfly.definition".to_owned(), digest.to_owned());
    labels.insert("mayfly.unit".to_owned(), launch.name.clone());
    let pairs: Vec<String> = labels
        .iter()
        .map(|(name, text)| format!("{name}={text}"))
        .collect();
    let mut arguments = vec!["create", "--name", &launch.name, "--network", NETWORK];
    for pair in &pairs {
        arguments.extend(["--label", pair]);
    }
    arguments.push(IMAGE);
    engine.docker(&arguments).await.unwrap()
}

#[tokio::test]
async fn what_was_created_and_not_started_is_completed() {
    let (engine, docker) = bench().await;
    let launch = two_networks(&engine).await;
    let id = create(&engine, &launch, &launch.digest).await;
    let inventory = docker.inventory().await.unwrap();
    assert_eq!(inventory.units.len(), 1);
    assert_eq!(inventory.units[0].state, UnitState::Created);
    assert_eq!(inventory.units[0].containers, [id.as_str()]);

    docker.start(&launch, |_| {}).await.unwrap();
    let container = inspect(&engine, &launch.name).await;
    assert_eq!(container["Id"], json!(id), "the same one");
    assert_eq!(networks(&container), [NETWORK, "second"]);
    assert_eq!(containers(&engine).await, ["mayfly-backend-1 running"]);
}

#[tokio::test]
async fn what_was_created_by_an_earlier_definition_is_made_anew() {
    let (engine, docker) = bench().await;
    let launch = two_networks(&engine).await;
    let id = create(&engine, &launch, "digest-0").await;
    docker.start(&launch, |_| {}).await.unwrap();
    let container = inspect(&engine, &launch.name).await;
    assert_ne!(container["Id"], json!(id));
    assert_eq!(networks(&container), [NETWORK, "second"]);
    assert_eq!(docker.inventory().await.unwrap().units[0].digest, launch.digest);
}

#[tokio::test]
async fn one_that_has_ended_has_to_be_removed_first() {
    let (engine, docker) = bench().await;
    let launch = two_networks(&engine).await;
    docker.start(&launch, |_| {}).await.unwrap();
    engine.docker(&["kill", &launch.name]).await.unwrap();
    eventually(LIMIT, "it has ended", async || {
        docker.inventory().await.unwrap().units[0].state == UnitState::Ended("exited with 137".to_owned())
    })
    .await;
    let error = docker.start(&launch, |_| {}).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "container `mayfly-backend-1` has ended but was not removed: exited with 137"
    );
    docker.remove(&launch.name, &launch.backend, GRACE).await.unwrap();
    docker.start(&launch, |_| {}).await.unwrap();
    assert_eq!(containers(&engine).await, ["mayfly-backend-1 running"]);
}

#[tokio::test]
async fn a_start_that_is_cut_off_anywhere_leaves_nothing_twice_and_nothing_half() {
    let (engine, docker) = bench().await;
    let launch = two_networks(&engine).await;
    let start = Instant::now();
    docker.start(&launch, |_| {}).await.unwrap();
    let whole = start.elapsed();
    docker
        .remove(&launch.name, &launch.backend, Duration::ZERO)
        .await
        .unwrap();
    let mut cut = 0;
    for part in 0..12 {
        let limit = whole * part / 12;
        // The first launcher dies here, and another one goes on.
        let first = timeout(limit, docker.start(&launch, |_| {})).await;
        cut += usize::from(first.is_err());
        handle(&engine).start(&launch, |_| {}).await.unwrap();
        let container = inspect(&engine, &launch.name).await;
        assert_eq!(networks(&container), [NETWORK, "second"], "after {limit:?}");
        assert_eq!(
            containers(&engine).await,
            ["mayfly-backend-1 running"],
            "after {limit:?}"
        );
        docker
            .remove(&launch.name, &launch.backend, Duration::ZERO)
            .await
            .unwrap();
    }
    assert!(cut > 3, "cut off in {cut} places only");
}

#[tokio::test]
async fn two_that_start_the_same_at_once_make_one() {
    let (engine, docker) = bench().await;
    let other = handle(&engine);
    let launch = two_networks(&engine).await;
    for _ in 0..5 {
        let (one, two) = tokio::join!(docker.start(&launch, |_| {}), other.start(&launch, |_| {}));
        one.unwrap();
        two.unwrap();
        assert_eq!(containers(&engine).await, ["mayfly-backend-1 running"]);
        assert_eq!(
            networks(&inspect(&engine, &launch.name).await),
            [NETWORK, "second"]
        );
        // And two that remove the same.
        let (one, two) = tokio::join!(
            docker.remove(&launch.name, &launch.backend, GRACE),
            other.remove(&launch.name, &launch.backend, GRACE)
        );
        one.unwrap();
        two.unwrap();
        eventually(LIMIT, "it is gone", async || containers(&engine).await.is_empty()).await;
    }
}
