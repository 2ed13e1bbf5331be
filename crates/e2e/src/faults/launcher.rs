//! The launcher, its engine and etcd break while containers are started and retired.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;

use super::Length;
use super::loaded::{AT_LAST, LoadedMayfly, Outcome};
use crate::docker::{DockerEngine, NETWORK};
use crate::eventually;
use crate::http::Request;
use crate::launching;
use crate::load::{Expected, Load, Target};
use crate::process::Process;

/// Leases of what the launcher has not started play no part here.
const TTL: &str = "10s";
/// What changed meanwhile is started and retired, and nothing else is. The lead ends with a lease of 3 s; containers take
/// seconds. Less than the 20 s after an outage in which a lost instance is kept: one that is drained goes at once.
const IN_STEP: Duration = Duration::from_secs(15);
/// Changes take effect in about this time, and the fault is somewhere in it.
const UNDER_WAY: Duration = Duration::from_millis(1_200);
/// Requests a second to what the launcher keeps running.
const RATE: (u32, u32) = (100, 400);
/// One environment each: the first two stay, the others choose other versions all the time.
const ENVIRONMENTS: [(&str, [u32; 2]); 4] = [
    ("kept", [1, 1]),
    ("base", [2, 2]),
    ("storm", [3, 4]),
    ("gale", [5, 6]),
];
const ARGUMENTS: [&str; 4] = ["--retire-after", "500ms", "--pull", "never"];

#[derive(Debug, Clone, Copy)]
enum Broken {
    Launcher,
    Engine,
    Etcd,
}

/// Each of the three in turn, at random points.
pub async fn broken(length: Length) -> Result<Outcome> {
    let mut launching = Launching::start(length).await?;
    let load = launching.load(length);
    let mut kept = launching.containers().await?;
    kept.retain(|backend, _| ["backend@1", "backend@2"].contains(&backend.as_str()));
    let mut round = 0;
    for _ in 0..length.pick(1, 3) {
        for what in [Broken::Launcher, Broken::Engine, Broken::Etcd] {
            round += 1;
            launching.environments(round % 2);
            let point = (RandomState::new().hash_one(round) % 1_000) as u32;
            tokio::time::sleep(UNDER_WAY * point / 1_000).await;
            let after = launching.breaks(what).await?;
            launching.in_step(round % 2, after, &kept).await;
        }
    }
    let report = load.stop().await;
    let mut outcome = launching.loaded.end().await;
    outcome.report.add(report);
    Ok(outcome)
}

/// A loaded Mayfly with an engine and a launcher.
struct Launching {
    // Dropped in this order.
    launcher: Process,
    _registrar: Process,
    loaded: LoadedMayfly,
    engine: DockerEngine,
}

impl Launching {
    /// Starts everything and waits until it is in step.
    async fn start(length: Length) -> Result<Self> {
        // Containers outlive an engine that is killed.
        let engine = DockerEngine::start_with(json!({ "live-restore": true })).await?;
        for version in 1..=6 {
            engine.image(&format!("team/backend:{version}")).await?;
        }
        let loaded = LoadedMayfly::start(length, TTL).await?;
        launching::define(&loaded.mayfly, "backend", "team/backend", NETWORK, "")?;
        let registrar = launching::registrar(&loaded.mayfly, &engine, NETWORK)?;
        let launcher = launcher(&loaded, &engine)?;
        let mut this = Self {
            launcher,
            _registrar: registrar,
            loaded,
            engine,
        };
        this.environments(0);
        this.in_step(0, "started", &BTreeMap::new()).await;
        Ok(this)
    }

    /// Says which versions there are to be.
    fn environments(&self, which: usize) {
        for (name, versions) in ENVIRONMENTS {
            let version = versions[which];
            self.loaded.mayfly.save(
                &format!("{name}.yaml"),
                &format!("{{name: {name}, services: [{{name: backend, version: \"{version}\", route: /}}]}}"),
            );
        }
    }

    /// A load on what stays.
    fn load(&self, length: Length) -> Load {
        let stays = ENVIRONMENTS
            .iter()
            .filter(|(_, versions)| versions[0] == versions[1]);
        let targets = stays.map(|(name, versions)| Target {
            to: self.loaded.mayfly.edge,
            request: Request::get(&host(name), "/"),
            expected: Expected::only(&[&format!("backend@{}", versions[0])]),
        });
        Load::steady(targets.collect(), length.pick(RATE.0, RATE.1))
    }

    /// Breaks something, brings it back, and says what it is to be followed by.
    async fn breaks(&mut self, what: Broken) -> Result<&'static str> {
        match what {
            Broken::Launcher => {
                self.launcher.kill9().await?;
                self.launcher = launcher(&self.loaded, &self.engine)?;
                Ok("in sync after a killed launcher")
            }
            Broken::Engine => {
                self.engine.kill9().await?;
                self.engine.start_again().await?;
                Ok("in sync after a killed engine")
            }
            Broken::Etcd => {
                self.loaded.mayfly.etcd.kill9().await?;
                self.loaded.last(1, 4).await;
                self.loaded.mayfly.etcd.restart().await?;
                Ok("in sync after a killed etcd")
            }
        }
    }

    /// The launcher's containers: `backend@version` to state and id, each once.
    async fn containers(&self) -> Result<BTreeMap<String, String>> {
        let format = r#"{{.Label "mayfly.service"}}@{{.Label "mayfly.version"}} {{.State}} {{.ID}}"#;
        let list = [
            "ps",
            "-a",
            "--filter",
            "label=mayfly.launcher",
            "--format",
            format,
        ];
        let mut found = BTreeMap::new();
        for line in self.engine.docker(&list).await?.lines() {
            let (backend, rest) = line.split_once(' ').context("a container")?;
            let twice = found.insert(backend.to_owned(), rest.to_owned());
            ensure!(twice.is_none(), "{backend} twice: {twice:?} and {rest}");
        }
        Ok(found)
    }

    /// Each version that is needed runs once and answers, nothing else is there, and what was always needed is the same as ever.
    async fn in_step(&mut self, which: usize, after: &str, kept: &BTreeMap<String, String>) {
        let since = Instant::now();
        let wanted: BTreeMap<String, &str> = ENVIRONMENTS
            .iter()
            .map(|(name, versions)| (format!("backend@{}", versions[which]), *name))
            .collect();
        let this = &*self;
        let right = async || -> Result<()> {
            let found = this.containers().await?;
            ensure!(
                found.keys().eq(wanted.keys()) && found.values().all(|it| it.starts_with("running ")),
                "there are {found:?}"
            );
            for (backend, name) in &wanted {
                let answer = this.loaded.mayfly.get(&host(name), "/").await?.backend()?;
                ensure!(answer == *backend, "{answer} answers for {name}");
            }
            let drains = this.loaded.mayfly.etcd.list("/mayfly/drains/").await?;
            ensure!(drains.is_empty(), "{drains:?}");
            let replaced = kept
                .iter()
                .find(|(backend, it)| found.get(*backend).is_some_and(|now| now != *it));
            ensure!(replaced.is_none(), "{replaced:?} was replaced: {found:?}");
            Ok(())
        };
        eventually(AT_LAST, after, right).await;
        self.loaded.saw(after, since.elapsed(), IN_STEP);
    }
}

fn host(environment: &str) -> String {
    format!("www-{environment}.example.com")
}

fn launcher(loaded: &LoadedMayfly, engine: &DockerEngine) -> Result<Process> {
    let command = launching::launcher(&loaded.mayfly, engine, "test", &ARGUMENTS)?;
    loaded.mayfly.spawn("container-launcher", &command)
}
