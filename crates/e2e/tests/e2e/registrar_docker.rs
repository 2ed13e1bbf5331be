//! `container-registrar docker` on an engine of the test's own: what is registered, and when it goes.

mod ending;
mod engine;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mayfly_e2e::docker::{DockerEngine, HEALTHCHECK, NETWORK};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::load::Load;
use mayfly_e2e::poll::throughout;
use mayfly_e2e::port;
use mayfly_e2e::process::Process;
use mayfly_e2e::world::{SOON, World};
use serde_json::{Value, json};

const BACKEND: [&str; 2] = ["--label", "mayfly.service=backend"];
/// A service that goes on answering for a while after SIGTERM, as it should.
const LINGER: [&str; 2] = ["--env", "E2E_LINGER=1500"];

/// Starts `container-registrar docker` for an engine.
fn registrar(world: &World, url: &str, arguments: &[&str]) -> Process {
    let mut command = world.command("container-registrar").unwrap();
    command.args(["docker", "--docker", url]).args(arguments);
    world.spawn("container-registrar", &command).unwrap()
}

/// etcd and an engine with an image `backend:0.0.1`; for what shows in etcd alone.
async fn etcd_and_engine() -> (World, DockerEngine) {
    let mut world = World::bare(&[]).unwrap();
    world.etcd.restart().await.unwrap();
    let engine = DockerEngine::start().await.unwrap();
    engine.image("team/backend:0.0.1").await.unwrap();
    (world, engine)
}

/// Everything, and an environment `temp-1` that chooses `backend 0.0.1`.
async fn world_and_engine() -> (World, DockerEngine) {
    let world = World::start().await.unwrap();
    let engine = DockerEngine::start().await.unwrap();
    engine.image("team/backend:0.0.1").await.unwrap();
    world.save(
        "temp-1.yaml",
        "name: temp-1\nservices:\n  - {name: backend, version: 0.0.1, route: /}\n",
    );
    (world, engine)
}

async fn answered(world: &World) {
    world.answers("www-temp-1.example.com", "backend@0.0.1").await;
}

/// A load at the edge for `temp-1`.
fn load(world: &World) -> Load {
    Load::start(world.edge, Request::get("www-temp-1.example.com", "/?delay=15"))
}

async fn run(engine: &DockerEngine, name: &str, options: &[&[&str]]) -> String {
    let options = options.concat();
    engine.run(name, "team/backend:0.0.1", &options).await.unwrap()
}

/// What is registered: the containers' names with state and address.
async fn registered(world: &World) -> Result<BTreeMap<String, (String, String)>> {
    let all = world.etcd.list("/mayfly/backends/").await?;
    let entries = all.values().map(|text| -> Result<_> {
        let value: Value = serde_json::from_str(text)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&value["metadata"]["name"]);
        Ok((name, (text(&value["state"]), text(&value["address"]))))
    });
    entries.collect()
}

/// Waits until exactly these containers are registered, each in its state, and says how long that took.
async fn until(world: &World, expected: &[(&str, &str)]) -> Duration {
    let start = Instant::now();
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(name, state)| ((*name).to_owned(), (*state).to_owned()))
        .collect();
    eventually(
        SOON,
        &format!("{expected:?} are registered"),
        async || -> Result<()> {
            let found = registered(world).await?;
            let states: BTreeMap<_, _> = found
                .iter()
                .map(|(name, (state, _))| (name.clone(), state.clone()))
                .collect();
            ensure!(states == expected, "{found:?}");
            Ok(())
        },
    )
    .await;
    start.elapsed()
}

/// Waits until exactly these are set aside, each for a reason with this in it.
async fn until_aside(world: &World, expected: &[(&str, &str)]) {
    eventually(
        SOON,
        &format!("{expected:?} are set aside"),
        async || -> Result<()> {
            let found = world.set_aside("container-registrar").await?;
            let fits = expected.iter().all(|(name, part)| {
                found
                    .iter()
                    .any(|(found, reason)| *found == format!("container {name}") && reason.contains(part))
            });
            ensure!(fits && found.len() == expected.len(), "{found:#?}");
            Ok(())
        },
    )
    .await;
}

/// Waits until the registrar's status record says so.
async fn until_told(world: &World, what: &str, says: impl Fn(&Value) -> bool) {
    eventually(SOON, what, async || -> Result<()> {
        let status = world.status("container-registrar").await?;
        ensure!(says(&status), "{status}");
        Ok(())
    })
    .await;
}

async fn address_of(world: &World, name: &str) -> String {
    registered(world).await.unwrap()[name].1.clone()
}

async fn ask(address: &str, path: &str) -> u16 {
    let answer = Request::get("x", path).send(address.parse().unwrap()).await;
    answer.unwrap().status
}

#[tokio::test]
async fn labels_are_enough() {
    let (world, engine) = world_and_engine().await;
    let url = engine.host_url();
    let mut registrar = registrar(&world, &url, &["--ttl", "3s"]);
    let id = run(&engine, "b-1", &[&BACKEND, &["--label", "mayfly.check=/health"]]).await;
    run(&engine, "unlabelled", &[]).await;
    answered(&world).await;
    let ip = engine.ip_of("b-1", NETWORK).await.unwrap();
    let entry = world
        .etcd
        .get_json(&format!("/mayfly/backends/backend/0.0.1/{ip}:8080"))
        .await
        .unwrap();
    // Its registrar knows it again by the node and the engine.
    let metadata = json!({ "container": id, "name": "b-1", "node": "test", "engine": url });
    assert_eq!(entry["metadata"], metadata);

    let more = ["--label", "mayfly.version=2", "--label", "mayfly.port=8080"];
    let h2c = [
        "--label",
        "mayfly.protocol=h2c",
        "--label",
        "mayfly.weight=7",
        "--label",
        "mayfly.check=/",
    ];
    run(&engine, "b-2", &[&BACKEND, &more, &h2c]).await;
    until(&world, &[("b-1", "up"), ("b-2", "up")]).await;
    let all = world.etcd.list("/mayfly/backends/backend/2/").await.unwrap();
    let entry: Value = serde_json::from_str(all.values().next().unwrap()).unwrap();
    assert_eq!((&entry["protocol"], &entry["weight"]), (&json!("h2c"), &json!(7)));
    world.save(
        "temp-1.yaml",
        "name: temp-1\nservices:\n  - {name: backend, version: 2, route: /}\n",
    );
    eventually(
        SOON,
        "HTTP/2 is spoken with the new one",
        async || -> Result<()> {
            let echo = world.get("www-temp-1.example.com", "/").await?.echo()?;
            // It says for itself that it is of the image's version.
            ensure!(echo.protocol == "HTTP/2.0", "{echo:?}");
            Ok(())
        },
    )
    .await;

    until_told(&world, "ready, with two", |status| {
        let detail = &status["detail"];
        status["ready"] == true && detail["registered"] == 2 && detail["engine_connected"] == true
    })
    .await;
    // The containers outlive the registrar; nobody vouches for them longer than the lease lasts.
    assert_eq!(registrar.terminate(SOON).await.unwrap().code(), Some(0));
    assert_eq!(registered(&world).await.unwrap().len(), 2);
    until(&world, &[]).await;
}

#[tokio::test]
async fn a_fault_sets_one_container_aside_and_no_other() {
    let (world, engine) = etcd_and_engine().await;
    engine
        .image_with("backend:0.0.2", &["EXPOSE 8080/udp"])
        .await
        .unwrap();
    let _registrar = registrar(&world, &engine.host_url(), &[]);
    let faults = [
        ("bad-name", "mayfly.service=Back_End", "label mayfly.service"),
        ("bad-port", "mayfly.port=http", "label mayfly.port"),
        ("bad-check", "mayfly.check=health", "label mayfly.check"),
        ("bad-protocol", "mayfly.protocol=h3", "label mayfly.protocol"),
        ("bad-weight", "mayfly.weight=1000", "0 to 256"),
        ("unknown", "mayfly.prot=http", "did you mean mayfly.protocol?"),
    ];
    for (name, label, _) in faults {
        run(&engine, name, &[&BACKEND, &["--label", label]]).await;
    }
    engine.run("no-port", "backend:0.0.2", &BACKEND).await.unwrap();
    run(
        &engine,
        "host",
        &[&BACKEND, &["--network", "host", "--env", "E2E_SILENT=1"]],
    )
    .await;
    run(&engine, "good", &[&BACKEND]).await;
    until(&world, &[("good", "up")]).await;
    let told = faults.map(|(name, _, reason)| (name, reason));
    let told = [
        &told[..],
        &[("no-port", "exposes no port"), ("host", "give --published")],
    ]
    .concat();
    until_aside(&world, &told).await;
    let status = world.run("mayfly", &["status"]).await.unwrap().ok().unwrap();
    assert!(status.contains("container bad-port"), "{status}");
    // Labels of a container cannot be changed: it is made anew, and then nothing is set aside any more.
    for (name, _) in &told {
        engine.docker(&["rm", "--force", name]).await.unwrap();
    }
    run(&engine, "bad-port", &[&BACKEND, &["--label", "mayfly.port=8080"]]).await;
    until(&world, &[("bad-port", "up"), ("good", "up")]).await;
    until_aside(&world, &[]).await;
    engine.docker(&["rename", "good", "better"]).await.unwrap();
    until(&world, &[("bad-port", "up"), ("better", "up")]).await;
}

#[tokio::test]
async fn a_network_is_chosen() {
    let (world, engine) = etcd_and_engine().await;
    engine.docker(&["network", "create", "other"]).await.unwrap();
    let mut first = registrar(&world, &engine.host_url(), &["--ttl", "2s"]);
    run(&engine, "b-1", &[&BACKEND]).await;
    until(&world, &[("b-1", "up")]).await;
    engine
        .docker(&["network", "connect", "other", "b-1"])
        .await
        .unwrap();
    until(&world, &[]).await;
    until_aside(
        &world,
        &[("b-1", "it is on several networks (mayfly, other): give --network")],
    )
    .await;
    first.terminate(SOON).await.unwrap();

    let _second = registrar(&world, &engine.host_url(), &["--network", "other"]);
    until(&world, &[("b-1", "up")]).await;
    let there = engine.ip_of("b-1", "other").await.unwrap();
    assert_eq!(address_of(&world, "b-1").await, format!("{there}:8080"));
    engine
        .docker(&["network", "disconnect", "other", "b-1"])
        .await
        .unwrap();
    until(&world, &[]).await;
    until_aside(&world, &[("b-1", "no address on network other, only on mayfly")]).await;
    engine
        .docker(&["network", "connect", "other", "b-1"])
        .await
        .unwrap();
    until(&world, &[("b-1", "up")]).await;
}

#[tokio::test]
async fn published_ports_are_at_the_host() {
    let (world, engine) = world_and_engine().await;
    let host = engine.ip().to_string();
    let _registrar = registrar(&world, &engine.host_url(), &["--published", "--host", &host]);
    run(
        &engine,
        "b-1",
        &[
            &BACKEND,
            &["--publish", "9000:8080", "--label", "mayfly.check=tcp"],
        ],
    )
    .await;
    run(&engine, "b-2", &[&BACKEND, &["--publish", "8080"]]).await;
    run(
        &engine,
        "local",
        &[&BACKEND, &["--publish", "127.0.0.1:9001:8080"]],
    )
    .await;
    run(&engine, "hidden", &[&BACKEND]).await;
    until(&world, &[("b-1", "up"), ("b-2", "up")]).await;
    assert_eq!(address_of(&world, "b-1").await, format!("{host}:9000"));
    let aside = [
        ("hidden", "its port 8080 is not published"),
        ("local", "its port 8080 is published to this host only"),
    ];
    until_aside(&world, &aside).await;
    answered(&world).await;
}

#[tokio::test]
async fn the_engine_s_check_and_the_label_s_both_count() {
    let (world, engine) = etcd_and_engine().await;
    let slow = HEALTHCHECK.replace("--retries=2", "--retries=2 --start-period=1s");
    engine.image_with("backend:1", &[&slow]).await.unwrap();
    let _registrar = registrar(
        &world,
        &engine.host_url(),
        &["--check-interval", "200ms", "--fall", "2"],
    );
    // One that is about to: first neither answers, and it is not registered.
    let late = [&BACKEND[..], &["--env", "E2E_READY_AFTER=2000"]].concat();
    engine.run("late", "backend:1", &late).await.unwrap();
    let start = Instant::now();
    throughout(
        Duration::from_secs(1),
        "it is not registered before it answers",
        async || {
            registered(&world)
                .await
                .map(|found| found.is_empty())
                .unwrap_or(false)
        },
    )
    .await;
    until(&world, &[("late", "up")]).await;
    assert!(
        start.elapsed() >= Duration::from_secs(2),
        "after {:?}",
        start.elapsed()
    );

    // Two checks at two places: the engine's at /health, which can be unwell, the label's at /, which is always well.
    let other = [&BACKEND[..], &["--label", "mayfly.check=/"]].concat();
    engine.run("both", "backend:1", &other).await.unwrap();
    let two = [("both", "up"), ("late", "up")];
    until(&world, &two).await;
    for name in ["both", "late"] {
        let address = address_of(&world, name).await;
        assert_eq!(ask(&address, "/?unwell=1").await, 200);
        let left = if name == "both" {
            ("late", "up")
        } else {
            ("both", "up")
        };
        until(&world, &[left]).await;
        assert_eq!(ask(&address, "/?unwell=0").await, 200);
        until(&world, &two).await;
    }
    // The label's check alone finds what the engine's does not look at.
    let third = [&BACKEND[..], &["--label", "mayfly.check=/x?status=503"]].concat();
    engine.run("bad", "backend:1", &third).await.unwrap();
    eventually(SOON, "the engine finds it healthy", async || {
        let state = engine
            .docker(&["inspect", "--format", "{{.State.Health.Status}}", "bad"])
            .await;
        state.unwrap() == "healthy"
    })
    .await;
    throughout(Duration::from_millis(700), "it is not registered", async || {
        registered(&world)
            .await
            .map(|found| !found.contains_key("bad"))
            .unwrap_or(false)
    })
    .await;
}
