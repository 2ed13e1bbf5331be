//! HAProxy crashes, is reloaded, or is changed by somebody else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Length;
use super::loaded::{DEV, LoadedMayfly, Outcome, WWW};
use crate::mayfly::Mayfly;
use crate::{eventually, port};

/// Leases play no part here.
const TTL: &str = "10s";
/// A HAProxy that was started anew is in step.
const ANEW: Duration = Duration::from_secs(1);
/// What somebody else has changed is repaired.
const REPAIRED: Duration = Duration::from_secs(5);

/// Its supervisor starts it again, while a change is under way.
pub async fn killed(length: Length) -> Result<Outcome> {
    let mut loaded = LoadedMayfly::start(length, TTL).await?;
    on_disk(&loaded, "1.0.0").await;
    for round in 0..length.pick(1, 3) {
        let (from, to) = if round % 2 == 0 {
            ("1.0.0", "2.0.0")
        } else {
            ("2.0.0", "1.0.0")
        };
        loaded.outage(true);
        loaded.mayfly.haproxy.kill9().await?;
        loaded.change(from, to);
        loaded.mayfly.haproxy.start().await?;
        let since = Instant::now();
        // At once, from the files: dev has not changed.
        let answer = loaded.mayfly.get(DEV, "/").await?.backend()?;
        ensure!(
            answer == "web@2.0.0",
            "right after its start HAProxy answers {answer}"
        );
        loaded.outage(false);
        loaded.converges(to, since, ANEW).await;
        on_disk(&loaded, to).await;
    }
    Ok(loaded.end().await)
}

/// The files follow a change shortly.
async fn on_disk(loaded: &LoadedMayfly, version: &str) {
    has_row(loaded, "edge", "www-dev dev").await;
    has_row(loaded, "versions", &format!("prod/web web@{version}")).await;
}

async fn has_row(loaded: &LoadedMayfly, map: &str, row: &str) {
    let file = loaded.mayfly.map_file(map);
    eventually(REPAIRED, &format!("{} has {row}", file.display()), async || {
        let text = std::fs::read_to_string(&file).context("read a map file")?;
        ensure!(text.lines().any(|line| line == row), "{text}");
        Ok(())
    })
    .await;
}

/// Somebody reloads it, disables servers, and deletes, adds and changes rows.
pub async fn changed(length: Length) -> Result<Outcome> {
    let admin = port::free();
    let arguments = ["--admin", &admin.to_string(), "--verify", length.pick("1s", "4s")];
    let mayfly = Mayfly::start_with(&arguments).await?;
    let mut loaded = LoadedMayfly::on(mayfly, admin, length, TTL).await?;
    on_disk(&loaded, "1.0.0").await;
    loaded.change("1.0.0", "2.0.0");
    loaded.converges("2.0.0", Instant::now(), ANEW).await;
    // This change is perhaps in no file yet, from which the new process answers until it is brought in step.
    loaded.www.set(&["web@1.0.0", "web@2.0.0"]);
    loaded.mayfly.haproxy.reload().await?;
    loaded.converges("2.0.0", Instant::now(), ANEW).await;
    let servers = loaded.mayfly.haproxy.servers().await?;
    let two = loaded.instances[2].service.address().to_string();
    let two = servers.iter().find(|(_, address)| **address == two);
    let (two, _) = two.context("a server for web 2.0.0")?;
    // Each takes the answers away from www, which is why it is out of the load's sight meanwhile; and from dev the first does.
    for damage in [
        format!("set server {two} state maint"),
        format!("del map {} www", loaded.mayfly.map_file("edge").display()),
        format!("clear map {}", loaded.mayfly.map_file("versions").display()),
        format!(
            "set map {} prod/web web@1.0.0",
            loaded.mayfly.map_file("versions").display()
        ),
    ] {
        loaded.excuse = "while a damage was not repaired yet";
        loaded.outage(true);
        loaded.mayfly.haproxy.ask(&damage).await?;
        loaded
            .sees("repaired", Instant::now(), REPAIRED, async |loaded| {
                for host in [WWW, DEV] {
                    let found = loaded.mayfly.get(host, "/").await?.backend()?;
                    ensure!(found == "web@2.0.0", "{host} is answered by {found}");
                }
                Ok(())
            })
            .await;
        loaded.outage(false);
    }
    loaded
        .says(&[
            "WARN",
            "another program has changed HAProxy's tables or servers: undoing this with",
        ])
        .await;
    Ok(loaded.end().await)
}
