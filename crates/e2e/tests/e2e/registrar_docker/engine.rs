//! Engines that restart, crash or hang, and one behind a proxy that lets the registrar read only.

use super::*;

#[tokio::test]
async fn an_engine_that_restarts_brings_everything_back_and_nothing_stale() {
    let (mayfly, mut engine) = etcd_and_engine().await;
    let _registrar = registrar(&mayfly, &engine.host_url(), &[]);
    for (name, restart) in [("back", "always"), ("gone", "no")] {
        run(&engine, name, &[&BACKEND, &["--restart", restart]]).await;
    }
    until(&mayfly, &[("back", "up"), ("gone", "up")]).await;
    engine.restart().await.unwrap();
    until(&mayfly, &[("back", "up")]).await;
    let now = engine.ip_of("back", NETWORK).await.unwrap();
    eventually(SOON, "at its present address", async || -> Result<()> {
        let found = registered(&mayfly).await?;
        ensure!(found["back"].1 == format!("{now}:8080"), "{found:?}");
        Ok(())
    })
    .await;
    // And by a crash, after which it ends the containers that it finds.
    engine.kill9().await.unwrap();
    engine.start_again().await.unwrap();
    let started = async || {
        engine
            .docker(&["inspect", "--format", "{{.State.Running}}", "back"])
            .await
    };
    eventually(SOON, "the container runs again", async || {
        started().await.unwrap() == "true"
    })
    .await;
    until(&mayfly, &[("back", "up")]).await;
    engine.docker(&["rm", "--force", "back", "gone"]).await.unwrap();
    until(&mayfly, &[]).await;
}

#[tokio::test]
async fn containers_outlive_their_engine_as_long_as_somebody_can_vouch_for_them() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    let mut engine = DockerEngine::start_with(json!({ "live-restore": true }))
        .await
        .unwrap();
    engine.image("team/backend:0.0.1").await.unwrap();
    let _registrar = registrar(&mayfly, &engine.host_url(), &["--ttl", "4s"]);
    run(
        &engine,
        "checked",
        &[&BACKEND, &["--label", "mayfly.check=/health"]],
    )
    .await;
    run(&engine, "trusted", &[&BACKEND]).await;
    let both = [("checked", "up"), ("trusted", "up")];
    until(&mayfly, &both).await;

    // Shorter than the ttl: nothing is to be seen.
    engine.kill9().await.unwrap();
    throughout(Duration::from_secs(2), "both stay", async || -> Result<()> {
        let found = registered(&mayfly).await?;
        ensure!(found.len() == 2, "{found:?}");
        Ok(())
    })
    .await;
    engine.start_again().await.unwrap();
    until_told(&mayfly, "the engine is followed again", |status| {
        status["detail"]["engine_connected"] == true
    })
    .await;
    until(&mayfly, &both).await;

    // Longer: the one with a check of its own stays, and goes when that fails.
    engine.freeze().unwrap();
    let took = {
        let start = Instant::now();
        eventually(
            Duration::from_secs(25),
            "the one that nobody can ask is out",
            async || -> Result<()> {
                let found = registered(&mayfly).await?;
                ensure!(!found.contains_key("trusted"), "{found:?}");
                Ok(())
            },
        )
        .await;
        start.elapsed()
    };
    assert!(took >= Duration::from_secs(4), "after {took:?}");
    until(&mayfly, &[("checked", "up")]).await;
    until_told(&mayfly, "the engine is silent", |status| {
        status["error"]
            .as_str()
            .is_some_and(|text| text.contains("cannot follow the containers of the engine"))
    })
    .await;
    let checked = address_of(&mayfly, "checked").await;
    assert_eq!(ask(&checked, "/?unwell=1").await, 200);
    until(&mayfly, &[]).await;
    assert_eq!(ask(&checked, "/?unwell=0").await, 200);
    until(&mayfly, &[("checked", "up")]).await;
    engine.thaw().unwrap();
    until(&mayfly, &both).await;
    until_told(&mayfly, "all is well", |status| status["error"].is_null()).await;
}

#[tokio::test]
async fn through_a_proxy_that_lets_it_read_and_nothing_else() {
    let (mayfly, engine) = etcd_and_engine().await;
    let proxy_at = port::free();
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../deploy/engine-read/haproxy.cfg"
    );
    let mut command = Command::new("haproxy");
    command
        .args(["-db", "-f", file])
        .env("ENGINE_SOCKET", engine.socket())
        .env("BIND", proxy_at.to_string());
    let mut proxy = mayfly.spawn("proxy", &command).unwrap();
    let _registrar = registrar(&mayfly, &format!("tcp://{proxy_at}"), &[]);
    run(&engine, "b-1", &[&BACKEND]).await;
    until(&mayfly, &[("b-1", "up")]).await;

    let id = engine
        .docker(&["inspect", "--format", "{{.Id}}", "b-1"])
        .await
        .unwrap();
    for (request, allowed) in [
        (Request::get("x", "/version"), true),
        (Request::get("x", "/v1.41/containers/json?all=1"), true),
        (Request::get("x", &format!("/v1.41/containers/{id}/json")), true),
        (Request::post("x", "/v1.41/containers/create", "{}"), false),
        (Request::post("x", &format!("/containers/{id}/stop"), ""), false),
        (Request::post("x", &format!("/containers/{id}/json"), ""), false),
        (Request::post("x", "/_ping", ""), false),
        (
            Request::get("x", &format!("/containers/{id}/archive?path=/")),
            false,
        ),
        (
            Request::get("x", &format!("/containers/{id}/logs?stdout=1")),
            false,
        ),
        (Request::get("x", "/containers/../images/json"), false),
        (Request::get("x", "/images/json"), false),
        (Request::get("x", "/version").header("upgrade", "tcp"), false),
    ] {
        let told = format!("{request:?}");
        let status = request.send(proxy_at).await.unwrap().status;
        assert_eq!(status, if allowed { 200 } else { 403 }, "{told}");
    }

    // The stream of events breaks, and what happens meanwhile is found by a list.
    proxy.kill9().await.unwrap();
    until_told(&mayfly, "the registrar says so", |status| {
        status["error"].is_string()
    })
    .await;
    engine.docker(&["rm", "--force", "b-1"]).await.unwrap();
    run(&engine, "b-2", &[&BACKEND]).await;
    let _proxy = mayfly.spawn("proxy", &command).unwrap();
    until(&mayfly, &[("b-2", "up")]).await;
}

#[tokio::test]
async fn it_waits_for_an_engine_and_says_what_it_does() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    let admin = port::free();
    let missing = format!("unix://{}/none.sock", mayfly.directory().display());
    let mut registrar = registrar(&mayfly, &missing, &["--admin", &admin.to_string()]);
    let ask = async |path: &str| Request::get("x", path).send(admin).await;
    eventually(SOON, "it is alive and not ready", async || -> Result<()> {
        ensure!(ask("/healthz").await?.status == 200 && ask("/readyz").await?.status == 503);
        let metrics = ask("/metrics").await?.body;
        ensure!(metrics.contains("mayfly_engine_connected 0"), "{metrics}");
        Ok(())
    })
    .await;
    until_told(&mayfly, "it says why", |status| {
        status["error"]
            .as_str()
            .is_some_and(|text| text.contains("none.sock"))
    })
    .await;
    assert_eq!(registrar.terminate(SOON).await.unwrap().code(), Some(0));
    let help = mayfly
        .run("container-registrar", &["docker", "--help"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    for part in [
        "mayfly.service=backend",
        "Examples:",
        "--network",
        "takes the entries over",
    ] {
        assert!(help.contains(part), "{part} in\n{help}");
    }
}
