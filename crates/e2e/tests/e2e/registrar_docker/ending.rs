//! How containers end: told to, killed, paused, in a loop; and how the registrar itself ends.

use super::*;

#[tokio::test]
async fn docker_stop_under_load_fails_no_request() {
    let (mayfly, engine) = mayfly_and_engine().await;
    let _registrar = registrar(&mayfly, &engine.host_url(), &[]);
    for name in ["b-1", "b-2"] {
        run(
            &engine,
            name,
            &[&BACKEND, &LINGER, &["--label", "mayfly.check=/health"]],
        )
        .await;
    }
    until(&mayfly, &[("b-1", "up"), ("b-2", "up")]).await;
    answered(&mayfly).await;
    let load = load(&mayfly);
    for round in 0..2 {
        for (name, other) in [("b-1", "b-2"), ("b-2", "b-1")] {
            let command = ["stop", name];
            let stop = engine.docker(&command);
            let seen = async {
                until(&mayfly, &[(name, "draining"), (other, "up")]).await;
                until(&mayfly, &[(other, "up")]).await;
            };
            let (stopped, ()) = tokio::join!(stop, seen);
            stopped.unwrap();
            engine.docker(&["start", name]).await.unwrap();
            until(&mayfly, &[(name, "up"), (other, "up")]).await;
            // Only with traffic on the one that is back does stopping the other one show anything.
            let back = address_of(&mayfly, name).await;
            eventually(
                SOON,
                &format!("round {round}: {name} is used again"),
                async || -> Result<()> {
                    let echo = mayfly.get("www-temp-1.example.com", "/").await?.echo()?;
                    ensure!(echo.address.to_string() == back, "{}", echo.address);
                    Ok(())
                },
            )
            .await;
        }
    }
    let report = load.stop().await;
    report.assert_flawless(500);
    assert!(report.instances.len() >= 2, "{report:?}");
}

#[tokio::test]
async fn docker_restart_under_load_fails_no_request() {
    let (mayfly, engine) = mayfly_and_engine().await;
    let _registrar = registrar(&mayfly, &engine.host_url(), &[]);
    for name in ["b-1", "b-2"] {
        // No check at all: the engine's word alone.
        run(&engine, name, &[&BACKEND, &LINGER]).await;
    }
    until(&mayfly, &[("b-1", "up"), ("b-2", "up")]).await;
    answered(&mayfly).await;
    let load = load(&mayfly);
    for name in ["b-1", "b-2", "b-1"] {
        let before = engine
            .docker(&["inspect", "--format", "{{.State.StartedAt}}", name])
            .await
            .unwrap();
        engine.docker(&["restart", name]).await.unwrap();
        until(&mayfly, &[("b-1", "up"), ("b-2", "up")]).await;
        let after = engine
            .docker(&["inspect", "--format", "{{.State.StartedAt}}", name])
            .await
            .unwrap();
        assert_ne!(before, after);
        let back = address_of(&mayfly, name).await;
        eventually(SOON, &format!("{name} is used again"), async || -> Result<()> {
            let echo = mayfly.get("www-temp-1.example.com", "/").await?.echo()?;
            ensure!(echo.address.to_string() == back, "{}", echo.address);
            Ok(())
        })
        .await;
    }
    load.stop().await.assert_flawless(300);
}

#[tokio::test]
async fn what_dies_is_out_at_once_and_what_pauses_meanwhile() {
    let (mayfly, engine) = etcd_and_engine().await;
    // Checks that would take an hour to notice.
    let slow = ["--check-interval", "1h"];
    let _registrar = registrar(&mayfly, &engine.host_url(), &slow);
    for name in ["b-1", "b-2", "b-3"] {
        run(&engine, name, &[&BACKEND, &["--label", "mayfly.check=/health"]]).await;
    }
    until(&mayfly, &[("b-1", "up"), ("b-2", "up"), ("b-3", "up")]).await;
    engine.kill9_container("b-1").await.unwrap();
    until(&mayfly, &[("b-2", "up"), ("b-3", "up")]).await;
    engine.docker(&["pause", "b-2"]).await.unwrap();
    until(&mayfly, &[("b-3", "up")]).await;
    engine.docker(&["unpause", "b-2"]).await.unwrap();
    until(&mayfly, &[("b-2", "up"), ("b-3", "up")]).await;
    engine.docker(&["kill", "b-3"]).await.unwrap();
    until(&mayfly, &[("b-2", "up")]).await;
    // A signal that is not the one that ends it changes nothing.
    engine
        .docker(&["kill", "--signal", "WINCH", "b-2"])
        .await
        .unwrap();
    throughout(
        Duration::from_millis(500),
        "it stays up",
        async || -> Result<()> {
            let found = registered(&mayfly).await?;
            ensure!(found["b-2"].0 == "up", "{found:?}");
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
async fn one_that_restarts_in_a_loop_harms_nobody() {
    let (mayfly, engine) = etcd_and_engine().await;
    let _registrar = registrar(&mayfly, &engine.host_url(), &[]);
    run(
        &engine,
        "loop",
        &[&BACKEND, &["--restart", "always", "--env", "E2E_EXIT=1"]],
    )
    .await;
    run(&engine, "b-1", &[&BACKEND, &["--label", "mayfly.check=/health"]]).await;
    let there = async || registered(&mayfly).await.unwrap_or_default().contains_key("b-1");
    eventually(SOON, "the good one is registered", there).await;
    throughout(Duration::from_secs(2), "the good one stays", there).await;
    engine.docker(&["rm", "--force", "loop"]).await.unwrap();
    until(&mayfly, &[("b-1", "up")]).await;
}

#[tokio::test]
async fn a_registrar_that_restarts_under_load_fails_no_request() {
    let (mayfly, engine) = mayfly_and_engine().await;
    let url = engine.host_url();
    let mut first = registrar(&mayfly, &url, &[]);
    for name in ["b-1", "b-2"] {
        run(
            &engine,
            name,
            &[
                &BACKEND,
                &["--env", "E2E_LINGER=4000", "--label", "mayfly.check=/health"],
            ],
        )
        .await;
    }
    until(&mayfly, &[("b-1", "up"), ("b-2", "up")]).await;
    answered(&mayfly).await;
    let load = load(&mayfly);
    let revision = mayfly.etcd.revision().await.unwrap();
    first.terminate(SOON).await.unwrap();
    let both = async || registered(&mayfly).await.is_ok_and(|found| found.len() == 2);
    throughout(Duration::from_secs(1), "the entries stay", both).await;
    let mut second = registrar(&mayfly, &url, &[]);
    eventually(SOON, "the successor has them", async || {
        mayfly.etcd.revision().await.unwrap() >= revision + 2
    })
    .await;
    second.kill9().await.unwrap();
    // A container that is told to end while nobody looks is draining for the next one, and goes in good order.
    let stop = engine.docker(&["stop", "b-1"]);
    let seen = async {
        eventually(SOON, "the signal is sent", async || {
            let since = [
                "events",
                "--since",
                "1m",
                "--until",
                "0s",
                "--filter",
                "event=kill",
                "--format",
                "{{.ID}}",
            ];
            !engine.docker(&since).await.unwrap().is_empty()
        })
        .await;
        let third = registrar(&mayfly, &url, &[]);
        until(&mayfly, &[("b-1", "draining"), ("b-2", "up")]).await;
        until(&mayfly, &[("b-2", "up")]).await;
        third
    };
    let (stopped, _third) = tokio::join!(stop, seen);
    stopped.unwrap();
    engine.docker(&["start", "b-1"]).await.unwrap();
    until(&mayfly, &[("b-1", "up"), ("b-2", "up")]).await;
    load.stop().await.assert_flawless(200);
}

#[tokio::test]
async fn what_a_killed_registrar_left_is_corrected_by_the_next_one_at_its_start() {
    let (mayfly, engine) = etcd_and_engine().await;
    let url = engine.host_url();
    let mut killed = registrar(&mayfly, &url, &["--ttl", "10min"]);
    for name in ["b-1", "b-2"] {
        run(&engine, name, &[&BACKEND]).await;
    }
    until(&mayfly, &[("b-1", "up"), ("b-2", "up")]).await;
    killed.kill9().await.unwrap();
    engine.docker(&["rm", "--force", "b-1"]).await.unwrap();
    let foreign = r#"{"address": "10.9.9.9:80", "state": "up", "metadata": {"container": "0f", "name": "foreign", "node": "other"}}"#;
    let key = "/mayfly/backends/backend/0.0.1/10.9.9.9:80";
    mayfly.etcd.put(key, foreign).await.unwrap();
    let _registrar = registrar(&mayfly, &url, &["--ttl", "10min"]);
    until(&mayfly, &[("b-2", "up"), ("foreign", "up")]).await;
}
