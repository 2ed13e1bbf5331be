//! Waiting for a change: it is seen when it happens, whoever makes it, and an engine that is gone is no busy loop.

use std::time::{Duration, Instant};

use crate::engine::{Docker, Engine as _, UnitState};
use mayfly_e2e::docker::{DockerEngine, NETWORK};
use serde_json::json;
use tokio::time::timeout;

use super::support::{IMAGE, LIMIT, bench, launch};

/// Waits as the launcher does until the inventory is as expected, and gives how long that took.
async fn until(docker: &Docker, what: &str, expected: impl Fn(&[UnitState]) -> bool) -> Duration {
    let start = Instant::now();
    let seen = async {
        loop {
            let units = docker
                .inventory()
                .await
                .map(|inventory| inventory.units)
                .unwrap_or_default();
            let states: Vec<UnitState> = units.into_iter().map(|unit| unit.state).collect();
            if expected(&states) {
                return;
            }
            docker.changed().await;
        }
    };
    timeout(LIMIT, seen)
        .await
        .unwrap_or_else(|_| panic!("not seen: {what}"));
    start.elapsed()
}

fn runs(states: &[UnitState]) -> bool {
    states == [UnitState::Running]
}

/// Waits until the stream of events is open and quiet: then it tells of what comes.
async fn quiet(docker: &Docker) {
    let start = Instant::now();
    loop {
        let began = Instant::now();
        docker.changed().await;
        if began.elapsed() > Duration::from_secs(5) {
            return;
        }
        assert!(start.elapsed() < LIMIT, "the engine is never quiet");
    }
}

async fn started() -> (DockerEngine, Docker) {
    let (engine, docker) = bench().await;
    let launch = launch("mayfly-backend-1", IMAGE, json!({ "networks": [NETWORK] }));
    docker.start(&launch, |_| {}).await.unwrap();
    until(&docker, "it runs", runs).await;
    quiet(&docker).await;
    (engine, docker)
}

/// Kills the container while somebody waits, and checks that the wait ends by the event, long before the time for doubts.
async fn dies(engine: &DockerEngine, docker: &Docker) {
    let waiting = async {
        docker.changed().await;
        Instant::now()
    };
    let killing = async {
        engine.kill9_container("mayfly-backend-1").await.unwrap();
        Instant::now()
    };
    let (seen, killed) = tokio::join!(waiting, killing);
    let took = seen.saturating_duration_since(killed);
    assert!(took < Duration::from_secs(5), "seen after {took:?}");
}

#[tokio::test]
async fn a_container_that_dies_is_seen_at_once() {
    let (engine, docker) = started().await;
    dies(&engine, &docker).await;
    until(&docker, "it has ended", |states| {
        matches!(states, [UnitState::Ended(_)])
    })
    .await;
    engine.docker(&["rm", "mayfly-backend-1"]).await.unwrap();
    timeout(Duration::from_secs(5), docker.changed())
        .await
        .expect("what happened while nobody waited");
    until(&docker, "it is gone", <[UnitState]>::is_empty).await;
}

#[tokio::test]
async fn an_engine_that_is_restarted_ends_the_wait() {
    let (mut engine, docker) = started().await;
    let waiting = async { docker.changed().await };
    let restarting = async { engine.stop().await.unwrap() };
    let ((), ()) = tokio::join!(waiting, restarting);

    // It is asked again and again, and not all the time.
    let mut waits = 0;
    let asked = async {
        loop {
            docker.changed().await;
            waits += 1;
        }
    };
    let never: Result<(), _> = timeout(Duration::from_secs(3), asked).await;
    assert!(never.is_err() && (2..30).contains(&waits), "{waits} waits in 3 s");

    engine.start_again().await.unwrap();
    // The launcher restarts what has ended, not the engine.
    let took = until(&docker, "it has ended", |states| {
        matches!(states, [UnitState::Ended(_)])
    })
    .await;
    assert!(took < Duration::from_secs(15), "{took:?}");
    let launch = launch("mayfly-backend-1", IMAGE, json!({ "networks": [NETWORK] }));
    docker
        .remove(&launch.name, &launch.backend, Duration::ZERO)
        .await
        .unwrap();
    docker.start(&launch, |_| {}).await.unwrap();
    until(&docker, "it runs again", runs).await;
    quiet(&docker).await;
    dies(&engine, &docker).await;
    until(&docker, "it has ended again", |states| {
        matches!(states, [UnitState::Ended(_)])
    })
    .await;
}
