//! HAProxy crashes, is reloaded, or is changed by somebody else.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Length;
use super::stage::{DEV, Outcome, Stage, WWW};
use crate::world::World;
use crate::{eventually, port};

/// Leases play no part here.
const TTL: &str = "10s";
/// A HAProxy that was started anew is in step.
const ANEW: Duration = Duration::from_secs(1);
/// What somebody else has changed is repaired.
const REPAIRED: Duration = Duration::from_secs(5);

/// Its supervisor starts it again, while a change is under way.
pub async fn killed(length: Length) -> Result<Outcome> {
    let mut stage = Stage::start(length, TTL).await?;
    on_disk(&stage, "1.0.0").await;
    for round in 0..length.pick(1, 3) {
        let (from, to) = if round % 2 == 0 {
            ("1.0.0", "2.0.0")
        } else {
            ("2.0.0", "1.0.0")
        };
        stage.outage(true);
        stage.world.haproxy.kill9().await?;
        stage.change(from, to);
        stage.world.haproxy.start().await?;
        let since = Instant::now();
        // At once, from the files: dev has not changed.
        let answer = stage.world.get(DEV, "/").await?.backend()?;
        ensure!(
            answer == "web@2.0.0",
            "right after its start HAProxy answers {answer}"
        );
        stage.outage(false);
        stage.converges(to, since, ANEW).await;
        on_disk(&stage, to).await;
    }
    Ok(stage.end().await)
}

/// The files follow a change shortly.
async fn on_disk(stage: &Stage, version: &str) {
    has_row(stage, "edge", "www-dev dev").await;
    has_row(stage, "versions", &format!("prod/web web@{version}")).await;
}

async fn has_row(stage: &Stage, map: &str, row: &str) {
    let file = stage.world.map_file(map);
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
    let world = World::start_with(&arguments).await?;
    let mut stage = Stage::on(world, admin, length, TTL).await?;
    on_disk(&stage, "1.0.0").await;
    stage.change("1.0.0", "2.0.0");
    stage.converges("2.0.0", Instant::now(), ANEW).await;
    // This change is perhaps in no file yet, from which the new process answers until it is brought in step.
    stage.www.set(&["web@1.0.0", "web@2.0.0"]);
    stage.world.haproxy.reload().await?;
    stage.converges("2.0.0", Instant::now(), ANEW).await;
    let servers = stage.world.haproxy.servers().await?;
    let two = stage.instances[2].service.address().to_string();
    let two = servers.iter().find(|(_, address)| **address == two);
    let (two, _) = two.context("a server for web 2.0.0")?;
    // Each takes the answers away from www, which is why it is out of the load's sight meanwhile; and from dev the first does.
    for damage in [
        format!("set server {two} state maint"),
        format!("del map {} www", stage.world.map_file("edge").display()),
        format!("clear map {}", stage.world.map_file("versions").display()),
        format!(
            "set map {} prod/web web@1.0.0",
            stage.world.map_file("versions").display()
        ),
    ] {
        stage.excuse = "while a damage was not repaired yet";
        stage.outage(true);
        stage.world.haproxy.ask(&damage).await?;
        stage
            .sees("repaired", Instant::now(), REPAIRED, async |stage| {
                for host in [WWW, DEV] {
                    let found = stage.world.get(host, "/").await?.backend()?;
                    ensure!(found == "web@2.0.0", "{host} is answered by {found}");
                }
                Ok(())
            })
            .await;
        stage.outage(false);
    }
    stage
        .says(&["WARN", "haproxy was changed by somebody else: repairing it"])
        .await;
    Ok(stage.end().await)
}
