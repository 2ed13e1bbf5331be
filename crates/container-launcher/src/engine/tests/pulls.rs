//! Images from a registry: how far a pull is, one that is not there, and a registry that says nothing any more.

use std::net::IpAddr;
use std::time::Duration;

use crate::engine::{Engine as _, Progress, Pull};
use mayfly_e2e::docker::{DockerEngine, NETWORK};
use mayfly_e2e::process::{self, Signal};
use mayfly_e2e::registry::Registry;
use serde_json::json;

use super::support::{GRACE, IMAGE, LIMIT, ProgressLog, handle, inspect, launch};

/// An engine and a registry that it takes images from.
async fn bench() -> (DockerEngine, Registry) {
    let engine = DockerEngine::start_with(Registry::trust()).await.unwrap();
    engine.image(IMAGE).await.unwrap();
    let registry = Registry::start(IpAddr::V4(engine.host_ip())).await.unwrap();
    (engine, registry)
}

/// Puts what the engine has as [`IMAGE`] into the registry, and takes it away from the engine.
async fn push(engine: &DockerEngine, image: &str) {
    engine.docker(&["tag", IMAGE, image]).await.unwrap();
    engine.docker(&["push", image]).await.unwrap();
    engine.docker(&["rmi", image, IMAGE]).await.unwrap();
}

#[tokio::test]
async fn a_pull_says_how_far_it_is_and_a_silent_registry_ends_it() {
    let (engine, mut registry) = bench().await;
    // So large that a pull takes a while, and nothing in it can be compressed.
    let file = engine.directory().join("large");
    let mut command = std::process::Command::new("dd");
    command
        .args(["if=/dev/urandom", "bs=1M", "count=100"])
        .arg(format!("of={}", file.display()));
    process::run(&command, LIMIT).await.unwrap().ok().unwrap();
    let context = engine.directory().join("large.tar").display().to_string();
    let mut command = std::process::Command::new("tar");
    command
        .arg("-C")
        .arg(engine.directory())
        .args(["-cf", &context, "large"]);
    process::run(&command, LIMIT).await.unwrap().ok().unwrap();
    engine.docker(&["import", &context, IMAGE]).await.unwrap();
    let image = registry.image("team/backend:7");
    push(&engine, &image).await;

    let launch = launch(
        "mayfly-backend-1",
        &image,
        json!({ "networks": [NETWORK], "command": ["/large"] }),
    );
    registry.process.signal(Signal::Stop).unwrap();
    let impatient = handle(&engine).pull_silence(Duration::from_secs(2));
    let error = impatient.start(&launch, |_| {}).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot pull image {image}: no progress for 2s; ")),
        "{error}"
    );
    registry.process.signal(Signal::Cont).unwrap();

    let log = ProgressLog::default();
    let outcome = handle(&engine)
        .start(&launch, |progress| log.note(progress))
        .await;
    // It is no program; what counts is that it was there.
    assert!(
        outcome.is_ok()
            || outcome
                .unwrap_err()
                .to_string()
                .contains("cannot start container")
    );
    let reported = log.all();
    assert_eq!(reported.first(), Some(&Progress::Pulling(None)), "{reported:?}");
    assert_eq!(reported.last(), Some(&Progress::Starting), "{reported:?}");
    let per_cent: Vec<u8> = reported
        .iter()
        .filter_map(|progress| match progress {
            Progress::Pulling(per_cent) => *per_cent,
            Progress::Starting => None,
        })
        .collect();
    assert!(per_cent.is_sorted() && per_cent.contains(&100), "{per_cent:?}");
    let between = per_cent.iter().filter(|per_cent| (1..100).contains(*per_cent));
    assert!(between.count() > 2, "{per_cent:?}");
}

#[tokio::test]
async fn what_a_registry_does_not_have_and_what_has_changed_there() {
    let (engine, registry) = bench().await;
    let docker = handle(&engine);
    let image = registry.image("team/backend:7");
    let mut launch = launch("mayfly-backend-1", &image, json!({ "networks": [NETWORK] }));
    let error = docker.start(&launch, |_| {}).await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("image {image} does not exist: ")),
        "{error}"
    );

    assert!(error.contains("build it on the engine's host"), "{error}");

    push(&engine, &image).await;
    docker.start(&launch, |_| {}).await.unwrap();
    let first = inspect(&engine, &launch.name).await["Image"].clone();
    docker.remove(&launch.name, &launch.backend, GRACE).await.unwrap();

    engine.image_with(IMAGE, &["LABEL another=1"]).await.unwrap();
    engine.docker(&["rmi", &image]).await.unwrap();
    push(&engine, &image).await;
    engine.docker(&["pull", &image]).await.unwrap();
    let second = inspect(&engine, &image).await["Id"].clone();
    assert_ne!(first, second);
    // The engine has the new one, and the registry gets a third one.
    engine.image_with(IMAGE, &["LABEL another=2"]).await.unwrap();
    let kept = registry.image("team/kept:7");
    engine.docker(&["tag", &image, &kept]).await.unwrap();
    engine.docker(&["rmi", &image]).await.unwrap();
    push(&engine, &image).await;
    engine.docker(&["tag", &kept, &image]).await.unwrap();
    for (pull, same) in [
        (Pull::Missing, true),
        (Pull::Never, true),
        (Pull::Newest, false),
        (Pull::Always, false),
    ] {
        engine.docker(&["tag", &kept, &image]).await.unwrap();
        launch.pull = pull;
        assert_eq!(docker.start(&launch, |_| {}).await.unwrap(), None);
        let now = inspect(&engine, &launch.name).await["Image"].clone();
        assert_eq!(now == second, same, "{pull:?}");
        docker.remove(&launch.name, &launch.backend, GRACE).await.unwrap();
    }
}

#[tokio::test]
async fn what_only_the_engine_has_is_relaunched_from_there() {
    let engine = DockerEngine::start().await.unwrap();
    engine.image(IMAGE).await.unwrap();
    let docker = handle(&engine);
    // No registry has it, and none is there.
    let image = "registry.invalid/team/backend:7";
    engine.docker(&["tag", IMAGE, image]).await.unwrap();
    let mut launch = launch("mayfly-backend-1", image, json!({ "networks": [NETWORK] }));
    launch.pull = Pull::Newest;
    let reason = docker.start(&launch, |_| {}).await.unwrap();
    let reason = reason.expect("it says that it was not pulled");
    assert!(
        reason.starts_with(&format!("cannot pull image {image}: ")),
        "{reason}"
    );
    docker.remove(&launch.name, &launch.backend, GRACE).await.unwrap();

    launch.pull = Pull::Always;
    let error = docker.start(&launch, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("(--pull always)"), "{error}");
    engine.docker(&["rmi", image]).await.unwrap();
    launch.pull = Pull::Newest;
    let error = docker.start(&launch, |_| {}).await.unwrap_err().to_string();
    assert!(
        error.contains("the engine has no copy of the image either"),
        "{error}"
    );
}
