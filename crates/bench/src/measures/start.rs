//! From the start of haproxy-updater, with etcd full, until HAProxy has all of it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mayfly_e2e::eventually;

use crate::fleet::{self, VERSIONS};
use crate::results::{Goal, Results};
use crate::scaled::ScaledMayfly;

const LIMIT: Duration = Duration::from_secs(60);
const GOAL: Goal = Goal::AtMost(2.0);

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
    eventually(LIMIT, "the registrar has published the change", async || {
        let record = etcd.get(&key).await;
        record.is_ok_and(|record| record.is_some_and(|record| record.contains(&wanted)))
    })
    .await;
    let start = Instant::now();
    scaled.mayfly.start_updater()?;
    let backend = format!("web@{next}");
    let (right, _) = probe.until(LIMIT, |answer| answer.is_from(&backend))?;
    let time = ((right - start).as_secs_f64(), "s");
    results.add("start, HAProxy runs", "mayfly", scaled.scale, time, GOAL);
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
    scaled.mayfly.haproxy.start().await?;
    let (right, _) = scaled
        .edge(environment)
        .until(LIMIT, |answer| answer.is_from(&backend))?;
    let time = ((right - start).as_secs_f64(), "s");
    results.add("start, from nothing", "mayfly", scaled.scale, time, GOAL);
    Ok(())
}

async fn stop(scaled: &mut ScaledMayfly) -> Result<()> {
    let updater = scaled.mayfly.updater.as_mut().context("an updater")?;
    updater.terminate(LIMIT).await.map(drop)
}
