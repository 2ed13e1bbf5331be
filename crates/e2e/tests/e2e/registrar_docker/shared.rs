//! A container on the network of another (`network_mode: service:x`), as beside a VPN or a proxy.

use super::*;

/// Has a network, and nothing that listens.
const QUIET: [&str; 2] = ["--env", "E2E_READY_AFTER=3600000"];
/// The one beside it, which answers.
const BESIDE: [&str; 4] = ["--network", "container:vpn", "--label", "mayfly.check=/health"];

/// Waits until `b-1` is registered at the address of `vpn` on a network.
async fn until_beside(mayfly: &Mayfly, engine: &DockerEngine, network: &str) {
    let here = format!("{}:8080", engine.ip_of("vpn", network).await.unwrap());
    eventually(SOON, &format!("b-1 is at {here}"), async || -> Result<()> {
        let found = registered(mayfly).await?;
        let beside = found.get("b-1");
        ensure!(
            beside == Some(&("up".to_owned(), here.clone())) && found.len() == 1,
            "{found:?}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_shares_the_network_of_another_is_at_its_address() {
    let (mayfly, engine) = etcd_and_engine().await;
    engine.docker(&["network", "create", "other"]).await.unwrap();
    let _registrar = registrar(&mayfly, &engine.host_url(), &[]);
    run(&engine, "vpn", &[&QUIET]).await;
    run(&engine, "b-1", &[&BACKEND, &BESIDE]).await;
    until_beside(&mayfly, &engine, NETWORK).await;

    // It follows, though no event names it.
    engine
        .docker(&["network", "disconnect", NETWORK, "vpn"])
        .await
        .unwrap();
    until(&mayfly, &[]).await;
    until_aside(&mayfly, &[("b-1", "no address on any network")]).await;
    engine
        .docker(&["network", "connect", "other", "vpn"])
        .await
        .unwrap();
    until_beside(&mayfly, &engine, "other").await;

    // The engine leaves it in a network that is gone. Whoever gets that address is somebody else.
    engine.docker(&["restart", "vpn"]).await.unwrap();
    until_aside(
        &mayfly,
        &[("b-1", "shares the network of `vpn`, which has restarted since")],
    )
    .await;
    until(&mayfly, &[]).await;
    engine.docker(&["restart", "b-1"]).await.unwrap();
    until_beside(&mayfly, &engine, "other").await;

    engine.docker(&["stop", "vpn"]).await.unwrap();
    until_aside(
        &mayfly,
        &[(
            "b-1",
            "shares the network of `vpn`, which is not running; start `vpn`",
        )],
    )
    .await;
    until(&mayfly, &[]).await;
    engine.docker(&["rm", "vpn"]).await.unwrap();
    until_aside(&mayfly, &[("b-1", "which is gone; recreate this container")]).await;
    // Another one of its name is not the one that it was created beside.
    run(&engine, "vpn", &[&QUIET]).await;
    engine.docker(&["rm", "--force", "b-1"]).await.unwrap();
    until_aside(&mayfly, &[]).await;
    run(&engine, "b-1", &[&BACKEND, &BESIDE]).await;
    until_beside(&mayfly, &engine, NETWORK).await;
}
