//! From the start of haproxy-updater, with etcd full, until HAProxy has all of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::fleet::{self, Scale, VERSIONS};
use crate::results::{Goal, Results};
use crate::scaled::ScaledMayfly;

const LIMIT: Duration = Duration::from_secs(180);
/// Pause between two looks for what has to come first.
const PAUSE: Duration = Duration::from_millis(10);

/// Promised for at most 10,000 environments.
fn goal(scale: Scale) -> Goal {
    if scale.environments > 10_000 {
        Goal::None
    } else {
        Goal::AtMost(2.0)
    }
}

/// Beside an HAProxy that runs on, with a change that came while no updater ran.
///
/// # Errors
/// When the change takes no effect.
pub async fn beside_a_running_haproxy(scaled: &mut ScaledMayfly, results: &mut Results) -> Result<()> {
    let environment = 7;
    let mut probe = scaled.edge(environment);
    let now = probe.ask()?;
    let next = VERSIONS
        .iter()
        .find(|version| !now.is_from(&format!("web@{version}")));
    let next = next.context("another version")?;
    stop(scaled).await?;
    let (beside, place) = scaled.prepare(environment, scaled.scale.services, next)?;
    std::fs::rename(beside, place).context("rename a file")?;
    let key = format!("/mayfly/environments/{}", fleet::environment(environment));
    let etcd = &scaled.mayfly.etcd;
    let wanted = format!(r#""name":"web","version":"{next}""#);
    let saved = Instant::now();
    while !etcd
        .get(&key)
        .await
        .ok()
        .flatten()
        .is_some_and(|record| record.contains(&wanted))
    {
        ensure!(saved.elapsed() < LIMIT, "the registrar does not publish a change");
        tokio::time::sleep(PAUSE).await;
    }
    let start = Instant::now();
    scaled.mayfly.start_updater()?;
    let backend = format!("web@{next}");
    let (right, _) = probe.until(LIMIT, |answer| answer.is_from(&backend))?;
    let time = ((right - start).as_secs_f64(), "s");
    let goal = goal(scaled.scale);
    results.add("start, HAProxy runs", "mayfly", scaled.scale, time, goal);
    Ok(())
}

/// With nothing on disk and no HAProxy: until HAProxy, started as soon as its configuration is there, answers right.
///
/// # Errors
/// When it does not.
pub async fn from_nothing(scaled: &mut ScaledMayfly, results: &mut Results) -> Result<()> {
    let environment = scaled.scale.environments - 1;
    let now = scaled.edge(environment).ask()?;
    let backend = now.body.split(' ').next().unwrap_or_default().to_owned();
    stop(scaled).await?;
    scaled.mayfly.haproxy.kill9().await?;
    let directory = scaled.mayfly.haproxy_directory();
    std::fs::remove_dir_all(&directory).context("remove HAProxy's directory")?;
    std::fs::create_dir_all(directory.join("run")).context("make HAProxy's directory")?;
    let start = Instant::now();
    scaled.mayfly.start_updater()?;
    // The harness would wait for ten seconds only.
    while !directory.join("haproxy.cfg").exists() {
        ensure!(start.elapsed() < LIMIT, "haproxy-updater writes no configuration");
        tokio::time::sleep(PAUSE).await;
    }
    scaled.mayfly.haproxy.start().await?;
    let (right, _) = scaled
        .edge(environment)
        .until(LIMIT, |answer| answer.is_from(&backend))?;
    let time = ((right - start).as_secs_f64(), "s");
    let goal = goal(scaled.scale);
    results.add("start, from nothing", "mayfly", scaled.scale, time, goal);
    Ok(())
}

async fn stop(scaled: &mut ScaledMayfly) -> Result<()> {
    let updater = scaled.mayfly.updater.as_mut().context("an updater")?;
    updater.terminate(LIMIT).await.map(drop)
}
