//! What is whose: containers of this launcher, of others, and of nobody that Mayfly knows.

use std::collections::BTreeMap;

use crate::engine::{Docker, Engine as _};
use mayfly_e2e::docker::NETWORK;
use serde_json::json;

use super::support::{GRACE, IMAGE, backend, bench, containers, inspect, launch};

#[tokio::test]
async fn ours_others_and_strangers() {
    let (engine, docker) = bench().await;
    docker
        .start(
            &launch("mayfly-backend-1", IMAGE, json!({ "networks": [NETWORK] })),
            |_| {},
        )
        .await
        .unwrap();
    engine.docker(&["network", "create", "second"]).await.unwrap();
    for (name, labels) in [
        ("stranger", &[][..]),
        ("version-from-tag", &["mayfly.service=backend"]),
        (
            "whole",
            &["mayfly.service=frontend", "mayfly.version=7", "mayfly.port=81"],
        ),
        // It is one of another Mayfly that shares the engine.
        (
            "other-mayfly",
            &[
                "mayfly.service=frontend",
                "mayfly.version=7",
                "mayfly.launcher=/other",
                "mayfly.unit=other-mayfly",
            ],
        ),
        // A container of an image that somebody made of one of ours.
        (
            "of-a-copied-image",
            &[
                "mayfly.service=search",
                "mayfly.launcher=/mayfly",
                "mayfly.unit=mayfly-search-1",
            ],
        ),
        // A single command, with all labels of its service.
        (
            "compose-run",
            &["mayfly.service=backend", "com.docker.compose.oneoff=True"],
        ),
        ("faulty", &["mayfly.service=Back_End"]),
        ("unknown-label", &["mayfly.service=backend", "mayfly.prot=h2c"]),
        (
            "swarm-task",
            &[
                "mayfly.service=search",
                "mayfly.launcher=/mayfly",
                "com.docker.swarm.task.id=x",
            ],
        ),
        ("ended", &["mayfly.service=backend"]),
    ] {
        let options: Vec<&str> = labels.iter().flat_map(|label| ["--label", *label]).collect();
        engine.run(name, IMAGE, &options).await.unwrap();
    }
    engine.docker(&["kill", "ended"]).await.unwrap();
    // An engine forgets the name of an image whose tag has moved.
    engine.image(IMAGE).await.unwrap();

    let inventory = docker.inventory().await.unwrap();
    let units: Vec<_> = inventory.units.iter().map(|unit| unit.name.as_str()).collect();
    assert_eq!(units, ["mayfly-backend-1"]);
    let expected = [("backend@0.0.1", 1), ("frontend@7", 1), ("search@0.0.1", 2)];
    let expected = expected.map(|(backend, count)| (backend.parse().unwrap(), count));
    assert_eq!(inventory.others, BTreeMap::from(expected));

    let theirs = Docker::new(&engine.host_url().parse().unwrap(), &"/other".parse().unwrap());
    let units = theirs.inventory().await.unwrap().units;
    assert_eq!(units.len(), 1);
    assert_eq!(units[0].name, "other-mayfly");

    // What an image says of Swarm hides no container that the launcher has made of it.
    let hidden = "team/hidden:0.0.1";
    engine
        .image_with(hidden, &["LABEL com.docker.swarm.task.id=1"])
        .await
        .unwrap();
    let launch = launch("mayfly-hidden-1", hidden, json!({ "networks": [NETWORK] }));
    docker.start(&launch, |_| {}).await.unwrap();
    let inventory = docker.inventory().await.unwrap();
    assert!(
        inventory.units.iter().any(|unit| unit.name == launch.name),
        "{inventory:?}"
    );
    assert_eq!(inventory.others[&backend()], 1, "and it is not counted twice");
    docker.remove(&launch.name, &launch.backend, GRACE).await.unwrap();
    assert_eq!(docker.inventory().await.unwrap().units.len(), 1);
}

#[tokio::test]
async fn what_is_not_ours_is_never_touched_whatever_its_name() {
    let (engine, docker) = bench().await;
    let label = ["--label", "mayfly.service=backend"];
    let id = engine.run("mayfly-backend-1", IMAGE, &label).await.unwrap();
    let before = inspect(&engine, &id).await;
    let launch = launch("mayfly-backend-1", IMAGE, json!({ "networks": [NETWORK] }));
    let error = docker.start(&launch, |_| {}).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "container `mayfly-backend-1` already exists, and this launcher did not create it; rename that container, or remove it if nothing needs it"
    );
    let error = docker
        .remove(&launch.name, &launch.backend, GRACE)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(error, "this launcher did not create it");

    // An engine takes the beginning of an id for a name: ours, but not by that name.
    engine
        .docker(&["rename", "mayfly-backend-1", "theirs"])
        .await
        .unwrap();
    docker.start(&launch, |_| {}).await.unwrap();
    let ours = inspect(&engine, &launch.name).await["Id"]
        .as_str()
        .unwrap()
        .to_owned();
    docker.remove(&ours[..12], &backend(), GRACE).await.unwrap();
    docker.remove("heirs", &backend(), GRACE).await.unwrap();

    // Ours by its labels, and of another backend: two whose names are the same.
    let mut other = launch.clone();
    other.backend = "other@0.0.1".parse().unwrap();
    let why = "it belongs to backend@0.0.1, not to other@0.0.1";
    let error = docker.start(&other, |_| {}).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "container `{}` already exists, and {why}; rename that container, or remove it if nothing needs it",
            other.name
        )
    );
    let removed = docker.remove(&other.name, &other.backend, GRACE).await;
    assert_eq!(removed.unwrap_err().to_string(), why);

    assert_eq!(
        containers(&engine).await,
        ["mayfly-backend-1 running", "theirs running"]
    );
    let after = inspect(&engine, &id).await;
    assert_eq!(before["State"]["StartedAt"], after["State"]["StartedAt"]);
}
