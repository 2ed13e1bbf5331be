//! From the rename of a file to the first right answer: Mayfly's environment files, and what does the same for each peer.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::changeable::Changeable;
use crate::fleet::{self, Scale, VERSIONS};
use crate::pace::Pace;
use crate::probe::Probe;
use crate::results::{Goal, Results};
use crate::scaled::ScaledMayfly;

/// Limit for one change.
const LIMIT: Duration = Duration::from_secs(60);

/// Makes so many changes, at moments that no timer of the systems knows, each after the one before has taken effect.
///
/// # Errors
/// When one of them does not take effect within a minute.
pub fn changes(system: &mut impl Changeable, environments: usize, count: usize) -> Result<Vec<Duration>> {
    let mut pace = Pace::default();
    let mut times = Vec::with_capacity(count);
    for change in 0..count {
        // Spread over all of them; a number that is prime to any count of environments here.
        let environment = (change * 7919) % environments;
        let mut probe = system.probe(environment);
        let now = probe.ask().context("ask before the change")?;
        let next = match VERSIONS
            .iter()
            .position(|version| now.is_from(&format!("web@{version}")))
        {
            Some(version) => (version + 1) % VERSIONS.len(),
            None => anyhow::bail!("environment {environment} answers {now:?} before the change"),
        };
        system.prepare(environment, next)?;
        std::thread::sleep(pace.next_pause());
        let backend = format!("web@{}", VERSIONS[next]);
        let start = Instant::now();
        system.commit()?;
        let (right, _) = probe
            .until(LIMIT, |answer| answer.is_from(&backend))
            .with_context(|| format!("change {change}: environment {environment} to {backend}"))?;
        times.push(right - start);
    }
    Ok(times)
}

pub struct Files<'a> {
    scaled: &'a ScaledMayfly,
    rename: Option<(PathBuf, PathBuf)>,
}

impl<'a> Files<'a> {
    pub fn new(scaled: &'a ScaledMayfly) -> Self {
        Self { scaled, rename: None }
    }
}

impl Changeable for Files<'_> {
    fn prepare(&mut self, environment: usize, version: usize) -> Result<()> {
        let services = self.scaled.scale.services;
        self.rename = Some(self.scaled.prepare(environment, services, VERSIONS[version])?);
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        let (from, to) = self.rename.take().context("a prepared change")?;
        std::fs::rename(from, to).context("rename a file")
    }

    fn probe(&self, environment: usize) -> Probe {
        self.scaled.edge(environment)
    }
}

/// The run-time command alone, as the limit of what any updater could reach.
pub struct Bare<'a> {
    scaled: &'a ScaledMayfly,
    command: String,
}

impl<'a> Bare<'a> {
    /// The run-time socket of a Mayfly, whose updater must not run.
    pub fn new(scaled: &'a ScaledMayfly) -> Self {
        Self {
            scaled,
            command: String::new(),
        }
    }
}

impl Changeable for Bare<'_> {
    fn prepare(&mut self, environment: usize, version: usize) -> Result<()> {
        let map = self.scaled.mayfly.map_file("versions");
        let (environment, version) = (fleet::environment(environment), VERSIONS[version]);
        self.command = format!("set map {} {environment}/web web@{version}\n", map.display());
        Ok(())
    }

    fn commit(&mut self) -> Result<()> {
        use std::io::{Read as _, Write as _};
        let socket = self.scaled.mayfly.haproxy_directory().join("run/haproxy.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).context("connect to HAProxy")?;
        stream
            .write_all(self.command.as_bytes())
            .context("send a command")?;
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .context("read HAProxy's answer")?;
        anyhow::ensure!(answer.trim().is_empty(), "HAProxy refuses: {answer}");
        Ok(())
    }

    fn probe(&self, environment: usize) -> Probe {
        self.scaled.edge(environment)
    }
}

/// The changes of a Mayfly.
///
/// # Errors
/// When a change takes no effect.
pub fn of_mayfly(scaled: &ScaledMayfly, count: usize, results: &mut Results) -> Result<()> {
    let times = changes(&mut Files::new(scaled), scaled.scale.environments, count)?;
    let goals = (Goal::AtMost(10.0), Goal::AtMost(30.0));
    results.add_times("change", "mayfly", scaled.scale, &times, goals);
    Ok(())
}

/// The limit on a Mayfly. Its updater is stopped for that, and started again.
///
/// # Errors
/// When a change takes no effect.
pub async fn bare(scaled: &mut ScaledMayfly, count: usize, results: &mut Results) -> Result<()> {
    let limit = Duration::from_secs(30);
    let updater = scaled.mayfly.updater.as_mut().context("an updater")?;
    updater.terminate(limit).await?;
    let times = changes(&mut Bare::new(scaled), scaled.scale.environments, count)?;
    results.add_times(
        "change",
        "bare command",
        scaled.scale,
        &times,
        (Goal::None, Goal::None),
    );
    scaled.restart_updater().await
}

/// How much longer a change takes at the largest scale than at the smallest.
pub fn curve(few: Scale, many: Scale, results: &mut Results) {
    let find = |scale| results.find("change p50", "mayfly", scale);
    if let Some((few, many_time)) = find(few).zip(find(many)) {
        let ratio = (many_time / few, "times");
        results.add("change p50, 100 fold", "mayfly", many, ratio, Goal::AtMost(2.0));
    }
}
