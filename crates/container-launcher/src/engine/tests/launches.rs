//! A unit from its start to its end, and what its definition comes to in the engine.

use crate::engine::{Engine as _, Inventory, Progress, Unit, UnitState};
use mayfly_e2e::docker::NETWORK;
use mayfly_e2e::eventually;
use serde_json::json;
use std::time::{Duration, Instant};

use super::support::{
    CAPABILITIES, GRACE, IMAGE, LIMIT, PREFIX, ProgressLog, SHELL, bench, containers, inspect, is_confined,
    launch, script,
};

#[tokio::test]
async fn a_unit_is_started_seen_and_removed_without_a_trace() {
    let (engine, docker) = bench().await;
    let launch = launch("mayfly-backend-1", IMAGE, json!({ "networks": [NETWORK] }));
    let log = ProgressLog::default();
    docker
        .start(&launch, |progress| log.note(progress))
        .await
        .unwrap();
    assert_eq!(log.all(), [Progress::Starting], "the image is there already");

    let inspected = inspect(&engine, &launch.name).await;
    let text = |field: &str| inspected[field].as_str().unwrap().to_owned();
    let id = text("Id");
    let unit = Unit {
        name: launch.name.clone(),
        backend: "backend@0.0.1".parse().unwrap(),
        digest: launch.digest.clone(),
        state: UnitState::Running,
        containers: vec![id],
        image: Some(text("Image")["sha256:".len()..][..12].to_owned()),
    };
    let expected = Inventory {
        units: vec![unit],
        ..Inventory::default()
    };
    assert_eq!(docker.inventory().await.unwrap(), expected);
    let ip = engine.ip_of(&launch.name, NETWORK).await.unwrap();
    eventually(LIMIT, "it answers", async || {
        tokio::net::TcpStream::connect((ip, 8080)).await
    })
    .await;

    // Whoever asks for it once more gets the same one.
    docker.start(&launch, |_| {}).await.unwrap();
    assert_eq!(docker.inventory().await.unwrap(), expected);

    docker.remove(&launch.name, &launch.backend, GRACE).await.unwrap();
    assert_eq!(docker.inventory().await.unwrap(), Inventory::default());
    assert_eq!(containers(&engine).await, [""; 0]);
    docker.remove(&launch.name, &launch.backend, GRACE).await.unwrap();
}

#[tokio::test]
async fn what_a_definition_says_and_no_privilege() {
    let (engine, docker) = bench().await;
    engine.docker(&["network", "create", "second"]).await.unwrap();
    let data = engine.directory().join("shared");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("price"), "7").unwrap();
    let text = "while read line; do case $line in CapEff*) echo $line;; esac; done < /proc/self/status; read price < /data/price; echo price $price $LOG_LEVEL; echo 8 > /data/price || echo refused; \
                echo in_root > /written && echo written; trap 'exit 0' TERM; while :; do /sleep 1; done";
    let mut launch = launch(
        "mayfly-backend-1",
        SHELL,
        json!({
            "command": ["/sh", "-c", text],
            "env": { "LOG_LEVEL": "info" },
            "networks": [NETWORK, "second"],
            "memory": "64m",
            "cpus": "0.5",
            "volumes": [format!("{}:/data", data.display())],
        }),
    );
    launch.dns = vec!["10.9.9.53".parse().unwrap()];
    docker.start(&launch, |_| {}).await.unwrap();

    let expected = ["price 7 info", "written", "refused", CAPABILITIES];
    let printed = eventually(LIMIT, "all lines", async || {
        let printed = docker.output(&launch.name, 10).await;
        printed.iter().any(|line| line == "written").then_some(printed)
    })
    .await;
    for line in expected {
        assert!(
            printed.iter().any(|printed| printed == line),
            "{line}: {printed:?}"
        );
    }
    assert_eq!(std::fs::read_to_string(data.join("price")).unwrap(), "7");

    let container = inspect(&engine, &launch.name).await;
    let host = &container["HostConfig"];
    assert_eq!(host["Memory"], json!(64 << 20));
    assert_eq!(host["NanoCpus"], json!(500_000_000));
    assert_eq!(host["PidsLimit"], json!(1024));
    is_confined(host);
    assert_eq!(host["Dns"], json!(["10.9.9.53"]));
    assert_eq!(host["Privileged"], json!(false));
    assert_eq!(host["Init"], json!(true));
    assert_eq!(host["SecurityOpt"], json!(["no-new-privileges"]));
    assert_eq!(host["RestartPolicy"]["Name"], json!("no"));
    for nothing in ["Binds", "Devices", "PortBindings", "ExtraHosts"] {
        let said = &host[nothing];
        assert!(
            said.is_null() || *said == json!([]) || *said == json!({}),
            "{nothing}: {said}"
        );
    }
    let mount = &container["Mounts"][0];
    assert_eq!(
        (&mount["RW"], &mount["Destination"]),
        (&json!(false), &json!("/data"))
    );
    let networks = container["NetworkSettings"]["Networks"].as_object().unwrap();
    assert_eq!(networks.keys().collect::<Vec<_>>(), [NETWORK, "second"]);
    assert!(container["Config"]["ExposedPorts"]["8080/tcp"].is_object());
    assert_eq!(container["Config"]["Labels"]["mayfly.launcher"], json!(PREFIX));

    // As the entrypoints of ordinary images do: give files away, and become another user for good.
    let text = "echo a > /file && /chown 33:33 /file && exec /setpriv --reuid 33 --regid 33 --clear-groups \
                /sh -c 'echo b > /file && echo mine; echo c > /other || echo not mine; exec /sleep 1000'";
    let dropping = script("mayfly-backend-2", text);
    docker.start(&dropping, |_| {}).await.unwrap();
    eventually(LIMIT, "it has become another user", async || {
        let printed = docker.output(&dropping.name, 10).await;
        let is_done = ["mine", "not mine"]
            .iter()
            .all(|line| printed.iter().any(|it| it == line));
        is_done.then_some(()).ok_or(printed)
    })
    .await;
}

/// An engine of this age would leave it open to writing.
#[tokio::test]
async fn what_is_mounted_below_a_volume_cannot_be_written_to_either() {
    let (_engine, docker) = bench().await;
    assert!(
        std::fs::read_to_string("/proc/mounts")
            .unwrap()
            .contains(" /dev/shm "),
        "a mount below /dev"
    );
    let mut launch = script(
        "mayfly-backend-1",
        "echo x > /data/shm/probe || echo refused; exec /sleep 1000",
    );
    let mut definition = (*launch.definition).clone();
    definition.volumes = vec!["/dev:/data".parse().unwrap()];
    launch.definition = definition.into();
    docker.start(&launch, |_| {}).await.unwrap();
    eventually(LIMIT, "it cannot write", async || {
        let printed = docker.output(&launch.name, 5).await;
        printed
            .iter()
            .any(|line| line == "refused")
            .then_some(())
            .ok_or(printed)
    })
    .await;
}

#[tokio::test]
async fn a_network_is_known_by_its_name_alone_and_a_volume_has_to_be_there() {
    let (engine, docker) = bench().await;
    let host = engine
        .docker(&["network", "inspect", "--format", "{{.Id}}", "host"])
        .await
        .unwrap();
    for (fields, expected) in [
        (
            json!({ "networks": ["nowhere"] }),
            "network `nowhere` does not exist; create it with".to_owned(),
        ),
        // The beginning of an id is as good as a name to an engine, and this is the network of the host.
        (
            json!({ "networks": [&host[..12]] }),
            format!("network `{}` does not exist", &host[..12]),
        ),
        (
            json!({ "networks": [NETWORK], "volumes": ["/nowhere/at/all:/data"] }),
            "/nowhere/at/all".to_owned(),
        ),
    ] {
        let launch = launch("mayfly-backend-1", IMAGE, fields);
        let error = docker.start(&launch, |_| {}).await.unwrap_err().to_string();
        assert!(error.contains(&expected) && !error.contains('\n'), "{error}");
    }
    assert!(!std::path::Path::new("/nowhere").exists());
    assert_eq!(containers(&engine).await, [""; 0]);
}

#[tokio::test]
async fn a_container_has_its_grace_and_no_more() {
    let (engine, docker) = bench().await;
    let quick = script(
        "mayfly-backend-1",
        "trap 'exit 0' TERM; echo up; while :; do /sleep 0.1; done",
    );
    let deaf = script(
        "mayfly-backend-2",
        "trap '' TERM; echo up; while :; do /sleep 0.1; done",
    );
    for launch in [&quick, &deaf] {
        docker.start(launch, |_| {}).await.unwrap();
        eventually(LIMIT, "it is up", async || {
            docker.output(&launch.name, 1).await == ["up"]
        })
        .await;
    }
    let start = Instant::now();
    docker
        .remove(&quick.name, &quick.backend, Duration::from_secs(50))
        .await
        .unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(40),
        "{:?}: it ends at the signal",
        start.elapsed()
    );
    let start = Instant::now();
    docker.remove(&deaf.name, &deaf.backend, GRACE).await.unwrap();
    assert!(
        start.elapsed() >= GRACE,
        "{:?}: it was given its time",
        start.elapsed()
    );
    assert_eq!(containers(&engine).await, [""; 0]);
}
