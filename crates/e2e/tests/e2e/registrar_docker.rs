//! `container-registrar docker` on an engine of the test's own: what is registered, and when it goes.

mod ending;
mod engine;
mod labels;
mod shared;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mayfly_e2e::docker::{DockerEngine, HEALTHCHECK, NETWORK};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::load::Load;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::poll::throughout;
use mayfly_e2e::port;
use mayfly_e2e::process::Process;
use serde_json::{Value, json};

const BACKEND: [&str; 2] = ["--label", "mayfly.service=backend"];
/// A service that goes on answering for a while after SIGTERM, as it should.
const LINGER: [&str; 2] = ["--env", "E2E_LINGER=1500"];

/// Starts `container-registrar docker` for an engine.
fn registrar(mayfly: &Mayfly, url: &str, arguments: &[&str]) -> Process {
    let mut command = mayfly.command("container-registrar").unwrap();
    command.args(["docker", "--docker", url]).args(arguments);
    mayfly.spawn("container-registrar", &command).unwrap()
}

/// etcd and an engine with an image `backend:0.0.1`; for what shows in etcd alone.
async fn etcd_and_engine() -> (Mayfly, DockerEngine) {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    let engine = DockerEngine::start().await.unwrap();
    engine.image("team/backend:0.0.1").await.unwrap();
    (mayfly, engine)
}

/// Everything, and an environment `temp-1` that chooses `backend 0.0.1`.
async fn mayfly_and_engine() -> (Mayfly, DockerEngine) {
    let mayfly = Mayfly::start().await.unwrap();
    let engine = DockerEngine::start().await.unwrap();
    engine.image("team/backend:0.0.1").await.unwrap();
    mayfly.save(
        "temp-1.yaml",
        "name: temp-1\nservices:\n  - {name: backend, version: 0.0.1, route: /}\n",
    );
    (mayfly, engine)
}

async fn answered(mayfly: &Mayfly) {
    mayfly.answers("www-temp-1.example.com", "backend@0.0.1").await;
}

/// A load at the edge for `temp-1`.
fn load(mayfly: &Mayfly) -> Load {
    Load::start(mayfly.edge, Request::get("www-temp-1.example.com", "/?delay=15"))
}

async fn run(engine: &DockerEngine, name: &str, options: &[&[&str]]) -> String {
    let options = options.concat();
    engine.run(name, "team/backend:0.0.1", &options).await.unwrap()
}

/// What is registered: the containers' names with state and address.
async fn registered(mayfly: &Mayfly) -> Result<BTreeMap<String, (String, String)>> {
    let all = mayfly.etcd.list("/mayfly/backends/").await?;
    let entries = all.values().map(|text| -> Result<_> {
        let value: Value = serde_json::from_str(text)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let name = text(&value["metadata"]["name"]);
        Ok((name, (text(&value["state"]), text(&value["address"]))))
    });
    entries.collect()
}

/// Waits until exactly these containers are registered, each in its state, and says how long that took.
async fn until(mayfly: &Mayfly, expected: &[(&str, &str)]) {
    let expected: BTreeMap<_, _> = expected
        .iter()
        .map(|(name, state)| ((*name).to_owned(), (*state).to_owned()))
        .collect();
    eventually(
        SOON,
        &format!("{expected:?} are registered"),
        async || -> Result<()> {
            let found = registered(mayfly).await?;
            let states: BTreeMap<_, _> = found
                .iter()
                .map(|(name, (state, _))| (name.clone(), state.clone()))
                .collect();
            ensure!(states == expected, "{found:?}");
            Ok(())
        },
    )
    .await;
}

/// Waits until exactly these are set aside, each for a reason with this in it.
async fn until_aside(mayfly: &Mayfly, expected: &[(&str, &str)]) {
    eventually(
        SOON,
        &format!("{expected:?} are set aside"),
        async || -> Result<()> {
            let found = mayfly.set_aside("container-registrar").await?;
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
async fn until_told(mayfly: &Mayfly, what: &str, says: impl Fn(&Value) -> bool) {
    eventually(SOON, what, async || -> Result<()> {
        let status = mayfly.status("container-registrar").await?;
        ensure!(says(&status), "{status}");
        Ok(())
    })
    .await;
}

async fn address_of(mayfly: &Mayfly, name: &str) -> String {
    registered(mayfly).await.unwrap()[name].1.clone()
}

async fn ask(address: &str, path: &str) -> u16 {
    let answer = Request::get("x", path).send(address.parse().unwrap()).await;
    answer.unwrap().status
}

#[tokio::test]
async fn labels_are_enough() {
    let (mayfly, engine) = mayfly_and_engine().await;
    let url = engine.host_url();
    let mut registrar = registrar(&mayfly, &url, &["--ttl", "3s"]);
    let id = run(&engine, "b-1", &[&BACKEND, &["--label", "mayfly.check=/health"]]).await;
    run(&engine, "unlabelled", &[]).await;
    answered(&mayfly).await;
    let ip = engine.ip_of("b-1", NETWORK).await.unwrap();
    let entry = mayfly
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
    until(&mayfly, &[("b-1", "up"), ("b-2", "up")]).await;
    let all = mayfly.etcd.list("/mayfly/backends/backend/2/").await.unwrap();
    let entry: Value = serde_json::from_str(all.values().next().unwrap()).unwrap();
    assert_eq!((&entry["protocol"], &entry["weight"]), (&json!("h2c"), &json!(7)));
    mayfly.save(
        "temp-1.yaml",
        "name: temp-1\nservices:\n  - {name: backend, version: 2, route: /}\n",
    );
    eventually(
        SOON,
        "HTTP/2 is spoken with the new one",
        async || -> Result<()> {
            let echo = mayfly.get("www-temp-1.example.com", "/").await?.echo()?;
            // It says for itself that it is of the image's version.
            ensure!(echo.protocol == "HTTP/2.0", "{echo:?}");
            Ok(())
        },
    )
    .await;

    until_told(&mayfly, "ready, with two", |status| {
        let detail = &status["detail"];
        status["ready"] == true && detail["registered"] == 2 && detail["engine_connected"] == true
    })
    .await;
    // The containers outlive the registrar; nobody vouches for them longer than the lease lasts.
    assert_eq!(registrar.terminate(SOON).await.unwrap().code(), Some(0));
    assert_eq!(registered(&mayfly).await.unwrap().len(), 2);
    until(&mayfly, &[]).await;
}

#[tokio::test]
async fn a_fault_sets_one_container_aside_and_no_other() {
    let (mayfly, engine) = etcd_and_engine().await;
    engine
        .image_with("backend:0.0.2", &["EXPOSE 8080/udp"])
        .await
        .unwrap();
    let _registrar = registrar(&mayfly, &engine.host_url(), &[]);
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
    until(&mayfly, &[("good", "up")]).await;
    let told = faults.map(|(name, _, reason)| (name, reason));
    let told = [
        &told[..],
        &[
            ("no-port", "exposes no port"),
            ("host", "start container-registrar with --published"),
        ],
    ]
    .concat();
    until_aside(&mayfly, &told).await;
    let status = mayfly.run("mayfly", &["status"]).await.unwrap().ok().unwrap();
    assert!(status.contains("container bad-port"), "{status}");
    // Labels of a container cannot be changed: it is made anew, and then nothing is set aside any more.
    for (name, _) in &told {
        engine.docker(&["rm", "--force", name]).await.unwrap();
    }
    run(&engine, "bad-port", &[&BACKEND, &["--label", "mayfly.port=8080"]]).await;
    until(&mayfly, &[("bad-port", "up"), ("good", "up")]).await;
    until_aside(&mayfly, &[]).await;
    engine.docker(&["rename", "good", "better"]).await.unwrap();
    until(&mayfly, &[("bad-port", "up"), ("better", "up")]).await;
}

#[tokio::test]
async fn a_network_is_chosen() {
    let (mayfly, engine) = etcd_and_engine().await;
    engine.docker(&["network", "create", "other"]).await.unwrap();
    let mut first = registrar(&mayfly, &engine.host_url(), &["--ttl", "2s"]);
    run(&engine, "b-1", &[&BACKEND]).await;
    until(&mayfly, &[("b-1", "up")]).await;
    engine
        .docker(&["network", "connect", "other", "b-1"])
        .await
        .unwrap();
    until(&mayfly, &[]).await;
    until_aside(
        &mayfly,
        &[(
            "b-1",
            "it is on several networks (mayfly, other); start container-registrar with --network \
             and one of them",
        )],
    )
    .await;
    first.terminate(SOON).await.unwrap();

    let _second = registrar(&mayfly, &engine.host_url(), &["--network", "other"]);
    until(&mayfly, &[("b-1", "up")]).await;
    let there = engine.ip_of("b-1", "other").await.unwrap();
    assert_eq!(address_of(&mayfly, "b-1").await, format!("{there}:8080"));
    engine
        .docker(&["network", "disconnect", "other", "b-1"])
        .await
        .unwrap();
    until(&mayfly, &[]).await;
    until_aside(
        &mayfly,
        &[("b-1", "no address on network `other`, only on mayfly")],
    )
    .await;
    engine
        .docker(&["network", "connect", "other", "b-1"])
        .await
        .unwrap();
    until(&mayfly, &[("b-1", "up")]).await;
}

#[tokio::test]
async fn published_ports_are_at_the_host() {
    let (mayfly, engine) = mayfly_and_engine().await;
    let host = engine.ip().to_string();
    let _registrar = registrar(&mayfly, &engine.host_url(), &["--published", "--host", &host]);
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
    until(&mayfly, &[("b-1", "up"), ("b-2", "up")]).await;
    assert_eq!(address_of(&mayfly, "b-1").await, format!("{host}:9000"));
    let aside = [
        ("hidden", "its port 8080 is not published"),
        ("local", "its port 8080 is published on loopback only"),
    ];
    until_aside(&mayfly, &aside).await;
    answered(&mayfly).await;
}

#[tokio::test]
async fn the_engine_s_check_and_the_label_s_both_count() {
    let (mayfly, engine) = etcd_and_engine().await;
    let slow = HEALTHCHECK.replace("--retries=2", "--retries=2 --start-period=1s");
    engine.image_with("backend:1", &[&slow]).await.unwrap();
    let _registrar = registrar(
        &mayfly,
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
            registered(&mayfly)
                .await
                .map(|found| found.is_empty())
                .unwrap_or(false)
        },
    )
    .await;
    until(&mayfly, &[("late", "up")]).await;
    assert!(
        start.elapsed() >= Duration::from_secs(2),
        "after {:?}",
        start.elapsed()
    );

    // Two checks at two places: the engine's at /health, which can be unwell, the label's at /, which is always well.
    let other = [&BACKEND[..], &["--label", "mayfly.check=/"]].concat();
    engine.run("both", "backend:1", &other).await.unwrap();
    let two = [("both", "up"), ("late", "up")];
    until(&mayfly, &two).await;
    for name in ["both", "late"] {
        let address = address_of(&mayfly, name).await;
        assert_eq!(ask(&address, "/?unwell=1").await, 200);
        let left = if name == "both" {
            ("late", "up")
        } else {
            ("both", "up")
        };
        until(&mayfly, &[left]).await;
        assert_eq!(ask(&address, "/?unwell=0").await, 200);
        until(&mayfly, &two).await;
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
        registered(&mayfly)
            .await
            .map(|found| !found.contains_key("bad"))
            .unwrap_or(false)
    })
    .await;
}

#[tokio::test]
async fn a_check_asks_as_callers_do_and_what_it_keeps_out_is_told_with_the_reason() {
    let (mayfly, engine) = etcd_and_engine().await;
    let _registrar = registrar(&mayfly, &engine.host_url(), &["--check-interval", "200ms"]);
    let check = |host: &str| format!("mayfly.check=/health?host={host}");
    let [usual, other] = ["backend.service", "shop.example.com"].map(check);
    run(&engine, "usual", &[&BACKEND, &["--label", &usual]]).await;
    let given = ["--label", &other, "--label", "mayfly.check-host=shop.example.com"];
    run(&engine, "given", &[&BACKEND, &given]).await;
    run(&engine, "refusing", &[&BACKEND, &["--label", &other]]).await;
    engine.image_with("backend:1", &[HEALTHCHECK]).await.unwrap();
    engine.run("unwell", "backend:1", &BACKEND).await.unwrap();
    until(&mayfly, &[("given", "up"), ("usual", "up"), ("unwell", "up")]).await;
    let address = address_of(&mayfly, "unwell").await;
    assert_eq!(ask(&address, "/?unwell=1").await, 200);
    let reason =
        "/health?host=shop.example.com answers 400 Bad Request to a request with Host backend.service";
    until_told(&mayfly, "both are told", |status| {
        let failing = status["detail"]["failing"].as_array();
        let told = |name: &str, part: &str| {
            failing.into_iter().flatten().any(|one| {
                one["container"] == name && one["reason"].as_str().is_some_and(|reason| reason.contains(part))
            })
        };
        told("refusing", reason) && told("unwell", "its HEALTHCHECK is unhealthy")
    })
    .await;
    let shown = mayfly.run("mayfly", &["status"]).await.unwrap().stdout;
    for part in [
        "NOT REGISTERED",
        "refusing",
        reason,
        "its HEALTHCHECK is unhealthy",
    ] {
        assert!(shown.contains(part), "no {part:?} in {shown}");
    }
    assert_eq!(ask(&address, "/?unwell=0").await, 200);
    until_told(&mayfly, "only one is left", |status| {
        status["detail"]["failing"]
            .as_array()
            .is_some_and(|all| all.len() == 1)
    })
    .await;
}
