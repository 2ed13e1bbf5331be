//! A port of TLS that another program has when HAProxy is to listen at it.

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::SOON;
use tokio::net::TcpListener;

use super::{WWW, World};

#[tokio::test]
async fn a_port_that_is_taken_is_served_once_it_is_free() {
    let world = World::start(None, &[]).await;
    let taken = TcpListener::bind(world.tls).await.unwrap();
    let first = world.renew("a.pem", &["DNS:*.example.com"]).await;
    eventually(SOON, "the status says it", async || -> Result<()> {
        let status = world.mayfly.status("haproxy-updater").await?;
        let error = status["error"].as_str().unwrap_or_default();
        ensure!(error.starts_with("HAProxy was not reloaded"), "{status}");
        Ok(())
    })
    .await;
    // Everything else goes on meanwhile.
    let worker = world.mayfly.haproxy.worker().await.unwrap();
    world.mayfly.save(
        "more.yaml",
        "{name: more, services: [{name: web, version: 1, route: /}]}",
    );
    world.mayfly.answers("www-more.example.com", "web@1").await;
    assert_eq!(world.mayfly.haproxy.worker().await.unwrap(), worker);
    drop(taken);
    world.shows(WWW, &first).await;
    eventually(SOON, "the status says nothing more", async || -> Result<()> {
        let status = world.mayfly.status("haproxy-updater").await?;
        ensure!(status["error"].is_null(), "{status}");
        Ok(())
    })
    .await;
    assert_eq!(world.mayfly.reloads().await.unwrap(), 1);
}
