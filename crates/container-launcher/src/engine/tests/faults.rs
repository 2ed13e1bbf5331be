//! What does not start, and why: told in one line, without harm to anything else.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::engine::{Docker, Engine as _, Launch, Pull, UnitState};
use mayfly_e2e::docker::{ENDS_AT_ONCE, NETWORK};
use mayfly_e2e::eventually;
use serde_json::json;

use super::support::{GRACE, IMAGE, LIMIT, PREFIX, bench, containers, launch, script};

#[tokio::test]
async fn an_image_that_is_nowhere() {
    let (engine, docker) = bench().await;
    let nobody = mayfly_e2e::port::free();
    let networks = json!({ "networks": [NETWORK] });
    let mut missing = launch(
        "mayfly-backend-1",
        &format!("{nobody}/backend:7"),
        networks.clone(),
    );
    for (pull, expected) in [
        (Pull::Missing, format!("cannot pull image {nobody}/backend:7: ")),
        (Pull::Always, format!("cannot pull image {nobody}/backend:7: ")),
        (
            Pull::Never,
            format!("the engine does not have image {nobody}/backend:7, and images are not pulled"),
        ),
    ] {
        missing.pull = pull;
        let error = docker.start(&missing, |_| {}).await.unwrap_err().to_string();
        assert!(error.starts_with(&expected) && !error.contains('\n'), "{error}");
    }
    assert_eq!(containers(&engine).await, [""; 0]);
    let there = launch("mayfly-backend-1", IMAGE, networks);
    docker.start(&there, |_| {}).await.unwrap();
    assert_eq!(containers(&engine).await, ["mayfly-backend-1 running"]);
}

#[tokio::test]
async fn one_that_exits_at_once_says_how_and_what_it_printed_last() {
    let (engine, docker) = bench().await;
    engine
        .image_with("team/backend:0.0.9", &[ENDS_AT_ONCE])
        .await
        .unwrap();
    let noisy = "echo to stderr >&2; i=0; while [ $i -lt 50 ]; do i=$((i+1)); echo line $i; done; \
                 printf 'red \\033[31m\\n'; exit 4";
    let hungry = "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x$x$x; done";
    let plain = json!({ "networks": [NETWORK] });
    let launches = [
        (
            launch("mayfly-backend-1", "team/backend:0.0.9", plain),
            "exited with 3",
        ),
        (script("mayfly-backend-2", noisy), "exited with 4"),
    ];
    let end_of = async |launch: &Launch| {
        docker.start(launch, |_| {}).await.unwrap();
        eventually(LIMIT, "it has ended", async || {
            let units = docker.inventory().await.unwrap().units;
            let unit = units.into_iter().find(|unit| unit.name == launch.name).unwrap();
            match unit.state {
                UnitState::Ended(why) => Ok(why),
                other => Err(other),
            }
        })
        .await
    };
    for (launch, expected) in &launches {
        assert_eq!(end_of(launch).await, *expected);
    }
    // The engine sometimes hears of the end before it hears of the lack of memory, and then never says why.
    let mut ends = BTreeSet::new();
    for attempt in 3..8 {
        let mut greedy = script(&format!("mayfly-backend-{attempt}"), hungry);
        let mut definition = (*greedy.definition).clone();
        definition.memory = Some("16m".parse().unwrap());
        greedy.definition = definition.into();
        ends.insert(end_of(&greedy).await);
        docker.remove(&greedy.name, &greedy.backend, GRACE).await.unwrap();
        if ends.contains("exited with 137: it needed more memory than its limit") {
            break;
        }
    }
    assert!(
        ends.contains("exited with 137: it needed more memory than its limit"),
        "{ends:?}"
    );
    assert_eq!(docker.output("mayfly-backend-1", 3).await, ["no such basket"]);
    // Standard output and error come by two ways, and their order is that in which the engine read them: no
    // test may count on it, so the lines that are compared all go one way.
    let printed = docker.output("mayfly-backend-2", 60).await;
    assert_eq!(printed.len(), 52, "{printed:?}");
    assert!(printed.iter().any(|line| line == "to stderr"), "{printed:?}");
    let of_stdout: Vec<_> = printed.iter().filter(|line| *line != "to stderr").collect();
    assert_eq!(of_stdout[49..], ["line 50", "red  [31m"]);
    assert_eq!(docker.output("mayfly-backend-2", 3).await.len(), 3);
    assert_eq!(docker.output("nobody", 3).await, [""; 0]);
    for (launch, _) in launches {
        docker.remove(&launch.name, &launch.backend, GRACE).await.unwrap();
    }
    assert_eq!(containers(&engine).await, [""; 0]);
}

#[tokio::test]
async fn what_the_engine_cannot_start_is_not_taken_for_created() {
    let (engine, docker) = bench().await;
    let data = engine.directory().join("file");
    std::fs::write(&data, "x").unwrap();
    // A file over the directory /proc is refused when the container is started, and not before.
    let fields = json!({ "networks": [NETWORK], "volumes": [format!("{}:/proc", data.display())] });
    let launch = launch("mayfly-backend-1", IMAGE, fields);
    let error = docker.start(&launch, |_| {}).await.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot start container `mayfly-backend-1`: "),
        "{error}"
    );
    let units = docker.inventory().await.unwrap().units;
    assert!(
        matches!(&units[0].state, UnitState::Ended(why) if why.starts_with("the engine cannot start it: ")),
        "{units:?}"
    );
    let error = docker.start(&launch, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("has ended but was not removed"), "{error}");
    docker.remove(&launch.name, &launch.backend, GRACE).await.unwrap();
    assert_eq!(containers(&engine).await, [""; 0]);
}

#[tokio::test]
async fn an_engine_that_is_gone_or_frozen_is_told_in_time() {
    let (mut engine, docker) = bench().await;
    docker.inventory().await.unwrap();
    engine.freeze().unwrap();
    let start = Instant::now();
    let error = docker.inventory().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "cannot list the containers of the engine: the engine did not answer in time"
    );
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    engine.thaw().unwrap();
    docker.inventory().await.unwrap();

    engine.stop().await.unwrap();
    let url = engine.host_url();
    let error = docker.inventory().await.unwrap_err().to_string();
    assert!(!error.contains('\n') && error.starts_with("cannot "), "{error}");
    // One that was not there when the launcher began.
    let early = Docker::new(&url.parse().unwrap(), &PREFIX.parse().unwrap());
    let error = early.inventory().await.unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("cannot reach the engine at {url}: ")),
        "{error}"
    );
    engine.start_again().await.unwrap();
    for docker in [docker, early] {
        assert_eq!(docker.inventory().await.unwrap().units, []);
    }
}
