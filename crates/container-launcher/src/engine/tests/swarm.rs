//! Services of a swarm of one node: the same as for containers, and what only Swarm does.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::engine::{Engine as _, Inventory, Launch, Swarm, UnitState};
use mayfly_e2e::docker::{DockerEngine, NETWORK, SWARM_NETWORK};
use mayfly_e2e::eventually;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::support::{
    CAPABILITIES, GRACE, IMAGE, LIMIT, PREFIX, SHELL, backend, containers, inspect, is_confined, launch,
    swarm_bench, swarm_handle,
};

const NAME: &str = "mayfly-backend-1";

async fn services(engine: &DockerEngine) -> String {
    engine
        .docker(&["service", "ls", "--format", "{{.Name}}"])
        .await
        .unwrap()
}

fn in_swarm(fields: Value) -> Launch {
    let mut all = json!({ "networks": [SWARM_NETWORK] });
    for (field, value) in fields.as_object().unwrap() {
        all[field] = value.clone();
    }
    launch(NAME, if all["command"].is_null() { IMAGE } else { SHELL }, all)
}

async fn state(swarm: &Swarm) -> Option<UnitState> {
    let units = swarm.inventory().await.unwrap().units;
    units.into_iter().next().map(|unit| unit.state)
}

#[tokio::test]
async fn a_service_is_started_again_by_swarm_and_removed_without_a_trace() {
    let (engine, swarm) = swarm_bench().await;
    let launch = in_swarm(json!({}));
    swarm.start(&launch, |_| {}).await.unwrap();
    let inventory = swarm.inventory().await.unwrap();
    assert_eq!(
        inventory.others,
        BTreeMap::new(),
        "tasks of ours are nobody else's"
    );
    let [unit] = &inventory.units[..] else {
        panic!("{inventory:?}");
    };
    assert_eq!(
        (unit.name.as_str(), &unit.state, unit.digest.as_str()),
        (NAME, &UnitState::Running, "digest-1")
    );
    assert_eq!(unit.backend, "backend@0.0.1".parse().unwrap());
    let [container] = &unit.containers[..] else {
        panic!("{unit:?}");
    };
    let ip = engine.ip_of(container, SWARM_NETWORK).await.unwrap();
    eventually(LIMIT, "it answers", async || {
        tokio::net::TcpStream::connect((ip, 8080)).await
    })
    .await;
    assert_eq!(
        inspect(&engine, container).await["Config"]["Labels"]["mayfly.launcher"],
        json!(PREFIX)
    );

    // Whoever asks for it once more gets the same one.
    swarm.start(&launch, |_| {}).await.unwrap();
    assert_eq!(swarm.inventory().await.unwrap(), inventory);

    engine.kill9_container(container).await.unwrap();
    let another = async || {
        let units = swarm.inventory().await.unwrap().units;
        let unit = units.into_iter().find(|unit| unit.state == UnitState::Running)?;
        unit.containers.into_iter().find(|id| id != container)
    };
    eventually(LIMIT, "Swarm has started another container", another).await;

    swarm.remove(NAME, &backend(), GRACE).await.unwrap();
    assert_eq!(swarm.inventory().await.unwrap(), Inventory::default());
    assert_eq!(services(&engine).await, "");
    // Those of earlier tasks Swarm removes in its own time.
    eventually(LIMIT, "no container is left", async || {
        containers(&engine).await.is_empty()
    })
    .await;
    swarm.remove(NAME, &backend(), GRACE).await.unwrap();
}

#[tokio::test]
async fn what_a_definition_says_and_no_privilege() {
    let (engine, swarm) = swarm_bench().await;
    engine
        .docker(&["network", "create", "--driver", "overlay", "second"])
        .await
        .unwrap();
    let data = engine.directory().join("shared");
    std::fs::create_dir_all(&data).unwrap();
    let text = "echo $LOG_LEVEL; while read line; do case $line in CapEff*) echo $line;; esac; done < /proc/self/status; echo 8 > /data/price || echo refused; trap 'exit 0' TERM; while :; do /sleep 1; done";
    let mut launch = in_swarm(json!({
        "command": ["/sh", "-c", text],
        "env": { "LOG_LEVEL": "info" },
        "networks": [SWARM_NETWORK, "second"],
        "memory": "64m",
        "cpus": "0.5",
        "volumes": [format!("{}:/data", data.display())],
    }));
    launch.dns = vec!["10.9.9.53".parse().unwrap()];
    swarm.start(&launch, |_| {}).await.unwrap();
    eventually(LIMIT, "all lines", async || {
        let printed = swarm.output(NAME, 10).await;
        let expected = ["info", "refused", CAPABILITIES];
        let all = expected
            .iter()
            .all(|line| printed.iter().any(|printed| printed == line));
        all.then_some(()).ok_or(printed)
    })
    .await;
    assert!(!data.join("price").exists());

    let spec = inspect(&engine, NAME).await["Spec"].clone();
    assert_eq!(
        spec["EndpointSpec"],
        json!({ "Mode": "dnsrr" }),
        "no port of the swarm"
    );
    let unit = swarm.inventory().await.unwrap().units.remove(0);
    let container = inspect(&engine, &unit.containers[0]).await;
    let host = &container["HostConfig"];
    assert_eq!(host["Memory"], json!(64 << 20));
    assert_eq!(host["NanoCpus"], json!(500_000_000));
    assert_eq!(host["PidsLimit"], json!(1024));
    is_confined(host);
    assert_eq!(host["Dns"], json!(["10.9.9.53"]));
    assert_eq!(host["Privileged"], json!(false));
    assert_eq!(host["Init"], json!(true));
    for nothing in ["Binds", "Devices", "PortBindings"] {
        let said = &host[nothing];
        assert!(
            said.is_null() || *said == json!([]) || *said == json!({}),
            "{nothing}: {said}"
        );
    }
    assert_eq!(container["Mounts"][0]["RW"], json!(false));
    let networks = container["NetworkSettings"]["Networks"].as_object().unwrap();
    assert_eq!(networks.keys().collect::<Vec<_>>(), [SWARM_NETWORK, "second"]);
}

#[tokio::test]
async fn what_does_not_start_ends_with_the_reason_when_swarm_gives_up() {
    let (engine, swarm) = swarm_bench().await;
    let missing = launch(NAME, "team/nowhere:7", json!({ "networks": [SWARM_NETWORK] }));
    let crashing = in_swarm(json!({ "command": ["/sh", "-c", "echo no such basket; exit 3"] }));
    for (launch, expected, printed) in [
        (missing, "No such image: team/nowhere:7", &[][..]),
        (crashing, "exited with 3", &["no such basket"]),
    ] {
        // Between its attempts the task may be seen running.
        let started = swarm.start(&launch, |_| {}).await;
        let ended = Some(UnitState::Ended(expected.to_owned()));
        eventually(LIMIT, expected, async || state(&swarm).await == ended).await;
        assert!(started.map_or_else(|error| error.to_string() == expected, |_| !printed.is_empty()));
        assert_eq!(swarm.output(NAME, 5).await, printed);
        swarm.remove(NAME, &launch.backend, GRACE).await.unwrap();
        assert_eq!(services(&engine).await, "");
    }
    for (network, expected) in [
        (
            "nowhere",
            "network `nowhere` does not exist; create it with `docker network create --driver overlay --attachable nowhere`",
        ),
        (
            NETWORK,
            "network `mayfly` is not a network of the swarm; create it with `--driver overlay`",
        ),
    ] {
        let launch = in_swarm(json!({ "networks": [network] }));
        let error = swarm.start(&launch, |_| {}).await.unwrap_err().to_string();
        assert_eq!(error, expected);
    }
    assert_eq!(services(&engine).await, "");
}

#[tokio::test]
async fn ours_others_and_strangers() {
    let (engine, swarm) = swarm_bench().await;
    swarm.start(&in_swarm(json!({})), |_| {}).await.unwrap();
    let create = ["service", "create", "--detach", "--network", SWARM_NETWORK];
    for (name, labels) in [
        ("stranger", &[][..]),
        (
            "others",
            &["--replicas", "2", "--container-label", "mayfly.service=frontend"],
        ),
        (
            "other-mayfly",
            &[
                "--label",
                "mayfly.launcher=/other",
                "--container-label",
                "mayfly.service=search",
            ],
        ),
    ] {
        let arguments = [&create[..], &["--name", name], labels, &[IMAGE]].concat();
        engine.docker(&arguments).await.unwrap();
    }
    engine
        .run("beside", IMAGE, &["--label", "mayfly.service=frontend"])
        .await
        .unwrap();
    let expected = [("frontend@0.0.1", 3), ("search@0.0.1", 1)];
    let expected = BTreeMap::from(expected.map(|(backend, count)| (backend.parse().unwrap(), count)));
    eventually(LIMIT, "all run", async || {
        let inventory = swarm.inventory().await.unwrap();
        let right = inventory.units.len() == 1 && inventory.others == expected;
        right.then_some(()).ok_or(inventory)
    })
    .await;

    let error = swarm
        .remove("others", &backend(), GRACE)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(error, "this launcher did not create it");
    let mut launch = in_swarm(json!({}));
    launch.name = "others".to_owned();
    let error = swarm.start(&launch, |_| {}).await.unwrap_err().to_string();
    assert_eq!(
        error,
        "service `others` already exists, and this launcher did not create it; remove that service if nothing needs it"
    );
    // Ours by its labels, and of another backend: two whose names are the same.
    let mut launch = in_swarm(json!({}));
    launch.backend = "other@0.0.1".parse().unwrap();
    let error = swarm.start(&launch, |_| {}).await.unwrap_err().to_string();
    let why = "it belongs to backend@0.0.1, not to other@0.0.1";
    assert_eq!(
        error,
        format!("service `{NAME}` already exists, and {why}; remove that service if nothing needs it")
    );
    let error = swarm
        .remove(NAME, &launch.backend, GRACE)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(error, why);
    assert_eq!(swarm.inventory().await.unwrap().units.len(), 1);
    assert!(services(&engine).await.lines().any(|name| name == "others"));
}

#[tokio::test]
async fn a_start_that_is_cut_off_or_done_twice_makes_one_service() {
    let (engine, swarm) = swarm_bench().await;
    let other = swarm_handle(&engine);
    let launch = in_swarm(json!({}));
    for limit in [1, 20, 100, 500].map(Duration::from_millis) {
        // The launcher dies here, and another one goes on.
        let _ = timeout(limit, swarm.start(&launch, |_| {})).await;
        let (one, two) = tokio::join!(other.start(&launch, |_| {}), swarm.start(&launch, |_| {}));
        one.unwrap();
        two.unwrap();
        assert_eq!(services(&engine).await, NAME);
        assert_eq!(state(&swarm).await, Some(UnitState::Running));
        swarm.remove(NAME, &backend(), GRACE).await.unwrap();
        eventually(LIMIT, "no container is left", async || {
            containers(&engine).await.is_empty()
        })
        .await;
    }
}

#[tokio::test]
async fn changes_are_seen_and_an_engine_that_is_no_manager_says_so() {
    let (mut engine, swarm) = swarm_bench().await;
    // A bridge of the swarm is one that an engine of this age does not find again after its start.
    engine
        .docker(&["network", "create", "--driver", "overlay", "over"])
        .await
        .unwrap();
    swarm
        .start(&in_swarm(json!({ "networks": ["over"] })), |_| {})
        .await
        .unwrap();
    let until = async |what: &str, expected: fn(Option<UnitState>) -> bool| {
        let seen = async {
            loop {
                let known = swarm.inventory().await;
                if known.is_ok_and(|inventory| {
                    expected(inventory.units.into_iter().next().map(|unit| unit.state))
                }) {
                    return;
                }
                swarm.changed().await;
            }
        };
        timeout(LIMIT, seen)
            .await
            .unwrap_or_else(|_| panic!("not seen: {what}"));
    };
    let runs = |state| state == Some(UnitState::Running);
    until("it runs", runs).await;
    engine.restart().await.unwrap();
    until("it runs again", runs).await;
    engine.docker(&["service", "rm", NAME]).await.unwrap();
    until("it is gone", |state| state.is_none()).await;

    engine.docker(&["swarm", "leave", "--force"]).await.unwrap();
    let error = swarm.inventory().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot list the services of the swarm: the engine is not a manager of a swarm"
    );
}
