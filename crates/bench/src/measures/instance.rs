//! Instances that come and go: from the start of a container registrar to the first answer, and from its SIGTERM to the last.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mayfly_e2e::process::Signal;

use crate::probe::Probe;
use crate::results::{Goal, Results};
use crate::scaled::ScaledMayfly;

/// Limit for one step.
const LIMIT: Duration = Duration::from_secs(20);
/// How long a registrar drains: far longer than a router needs to hear of it.
const DRAIN: &str = "400ms";
/// No answer of a draining instance for so long means that there will be none.
const SILENCE: Duration = Duration::from_millis(250);

/// Instances of a version that is known and has another instance: no request may fail, neither when one comes nor when it goes.
///
/// # Errors
/// When one of the steps takes no effect.
pub async fn known_version(scaled: &ScaledMayfly, count: usize, results: &mut Results) -> Result<()> {
    let first = scaled.origin.open("pool", "1.0.0")?;
    let (ip, port) = (first.address.ip().to_string(), first.address.port().to_string());
    let arguments = ["register", "--permanent", "pool", "1.0.0", &ip, &port];
    scaled.mayfly.run("container-registrar", &arguments).await?.ok()?;
    scaled.add(
        "pool",
        "name: pool\nservices: [{name: pool, version: 1.0.0, route: /}]\n",
    )?;
    let mut probe = Probe::new(scaled.mayfly.edge, "www-pool.example.com", &[]);
    probe.until(LIMIT, |answer| answer.is_from("pool@1.0.0"))?;

    let (mut coming, mut going, mut failed) = (Vec::new(), Vec::new(), 0);
    for _ in 0..count {
        let instance = scaled.origin.open("pool", "1.0.0")?;
        let address = format!(" {} ", instance.address);
        let start = Instant::now();
        let mut registrar = scaled
            .mayfly
            .register("pool", "1.0.0", instance.address, &["--drain", DRAIN])?;
        let (answered, refused) = probe
            .until(LIMIT, |answer| answer.body.contains(&address))
            .context("an instance comes")?;
        coming.push(answered - start);
        failed += refused;

        let start = Instant::now();
        registrar.signal(Signal::Term)?;
        let (mut last, mut asked) = (start, start);
        // Until it is silent, and further until the registrar has ended: requests must go on.
        while registrar.is_running() || last.elapsed() < SILENCE {
            ensure!(start.elapsed() < LIMIT, "an instance does not go");
            match probe.ask() {
                Ok(answer) if answer.body.contains(&address) => last = asked,
                Ok(answer) if answer.status == 200 => {}
                _ => failed += 1,
            }
            std::thread::sleep(Duration::from_micros(250));
            asked = Instant::now();
        }
        going.push(last - start);
        drop(instance);
    }
    let goal = Goal::AtMost(50.0);
    results.add_times(
        "instance comes",
        "mayfly",
        scaled.scale,
        &coming,
        (Goal::None, goal),
    );
    results.add_times(
        "instance goes",
        "mayfly",
        scaled.scale,
        &going,
        (Goal::None, goal),
    );
    let failed = (failed as f64, "failed");
    results.add(
        "instance requests",
        "mayfly",
        scaled.scale,
        failed,
        Goal::AtMost(0.0),
    );
    Ok(())
}

/// Versions that nobody has seen before, each followed by an environment that takes the latest.
///
/// # Errors
/// When one of them takes no effect.
pub async fn new_version(scaled: &ScaledMayfly, count: usize, results: &mut Results) -> Result<()> {
    scaled.add(
        "rolling",
        "name: rolling\nservices: [{name: rolling, version: latest, route: /}]\n",
    )?;
    let reloads = scaled.mayfly.reloads().await?;
    let mut probe = Probe::new(scaled.mayfly.edge, "www-rolling.example.com", &[]);
    let mut times = Vec::new();
    let mut running = None;
    for number in 1..=count {
        let version = format!("1.{number}.0");
        let instance = scaled.origin.open("rolling", &version)?;
        let start = Instant::now();
        let registrar = scaled
            .mayfly
            .register("rolling", &version, instance.address, &["--drain", DRAIN])?;
        let backend = format!("rolling@{version}");
        let (answered, _) = probe
            .until(LIMIT, |answer| answer.is_from(&backend))
            .with_context(|| format!("version {version}"))?;
        times.push(answered - start);
        // The one before goes, so that its slot is free again.
        if let Some((mut old, _instance)) = running.replace((registrar, instance)) {
            old.terminate(LIMIT).await?;
        }
    }
    results.add_times(
        "new version",
        "mayfly",
        scaled.scale,
        &times,
        (Goal::None, Goal::AtMost(50.0)),
    );
    let reloads = scaled.mayfly.reloads().await? - reloads;
    let reloads = (reloads as f64, "reloads");
    results.add("new version", "mayfly", scaled.scale, reloads, Goal::AtMost(0.0));
    Ok(())
}
