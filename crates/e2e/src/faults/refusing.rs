//! Addresses that refuse connections come and go, under load, with every request tried again elsewhere. HAProxy 2.6 ends
//! when a server is deleted that a request still points to, which is then anybody's means to bring a router down.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Length;
use super::loaded::{AT_LAST, LoadedMayfly, Outcome};
use crate::instance::Service;
use crate::mayfly::Mayfly;
use crate::{eventually, port};

/// Leases play no part here.
const TTL: &str = "10s";
/// Good instances beside the one address that refuses: of seven tries of a request one finds one of them.
const GOOD: usize = 6;
/// How long an address is there before it goes: some requests meet it.
const STAY: Duration = Duration::from_millis(30);
/// So many addresses take turns, so that some come back while their last server waits to be deleted.
const ADDRESSES: usize = 200;
/// A server is deleted when no request can point to it (`haproxy_updater::apply::leaving`).
const DELETED: Duration = Duration::from_secs(5);

/// One after the other comes, refuses what it gets, and goes.
pub async fn comes_and_goes(length: Length) -> Result<Outcome> {
    let admin = port::free();
    // Nothing is to be kept that has gone.
    let mayfly = Mayfly::start_with(&["--admin", &admin.to_string(), "--distrust", "0"]).await?;
    let mut loaded = LoadedMayfly::on(mayfly, admin, length, TTL).await?;
    let mut good = Vec::new();
    for _ in 0..GOOD {
        let service = Service::start("web", "1.0.0").await?;
        put(&loaded, &service.address().to_string()).await?;
        good.push(service);
    }
    let all = loaded.instances.len() + GOOD;
    only_good(&loaded, all).await;
    let worker = loaded.mayfly.haproxy.worker().await?;

    let (begun, lasts) = (Instant::now(), length.seconds(5, 120));
    let mut came = 0;
    while begun.elapsed() < lasts {
        let address = format!("127.9.0.{}:1", came % ADDRESSES + 1);
        let key = put(&loaded, &address).await?;
        // Its first check may have found it dead by now; requests met it before.
        eventually(AT_LAST, &format!("{address} has a server"), async || {
            let servers = loaded.mayfly.haproxy.servers().await;
            servers.is_ok_and(|servers| servers.values().any(|at| *at == address))
        })
        .await;
        tokio::time::sleep(STAY).await;
        loaded.mayfly.etcd.delete(&key).await?;
        came += 1;
    }
    loaded.saw(
        &format!("{came} addresses came and went"),
        begun.elapsed(),
        lasts + AT_LAST,
    );
    let gone = async |loaded: &LoadedMayfly| {
        let found = loaded.mayfly.haproxy.servers().await?.len();
        ensure!(found == all, "{found} servers, and {all} instances");
        Ok(())
    };
    loaded
        .sees("the last one deleted", Instant::now(), DELETED, gone)
        .await;
    ensure!(
        loaded.mayfly.haproxy.worker().await? == worker,
        "HAProxy is not the process that it was"
    );
    Ok(loaded.end().await)
}

/// Registers an instance of what is asked for most, by hand: it takes no time, and nobody has to answer there.
async fn put(loaded: &LoadedMayfly, address: &str) -> Result<String> {
    let key = format!("/mayfly/backends/web/1.0.0/{address}");
    let record = format!(r#"{{"address": "{address}"}}"#);
    loaded.mayfly.etcd.put(&key, &record).await?;
    Ok(key)
}

async fn only_good(loaded: &LoadedMayfly, all: usize) {
    eventually(AT_LAST, "every good instance has a server", async || {
        loaded
            .mayfly
            .haproxy
            .servers()
            .await
            .is_ok_and(|servers| servers.len() == all)
    })
    .await;
}
