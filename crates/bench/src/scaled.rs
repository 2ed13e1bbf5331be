//! Mayfly as it runs in earnest: etcd, HAProxy, every daemon, one instance of each version, and a file for each environment. It
//! can grow to a larger scale.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::Process;
use mayfly_e2e::{eventually, port};

use crate::fleet::{self, Scale, VERSIONS};
use crate::origin::{Instance, Origin};
use crate::probe::Probe;

/// Limit for bringing a whole scale in, if the caller sets none.
const POPULATE: Duration = Duration::from_secs(300);
/// Pause between two questions for an environment that is not routed yet: short beside what a scale
/// takes, and no load.
const PAUSE: Duration = Duration::from_millis(5);

pub struct ScaledMayfly {
    pub mayfly: Mayfly,
    pub scale: Scale,
    pub origin: Origin,
    /// By service, then by version.
    instances: Vec<[Instance; VERSIONS.len()]>,
    web: Option<Process>,
}

impl ScaledMayfly {
    /// Starts it.
    ///
    /// # Errors
    /// When something does not start, or does not come to route everything within five minutes.
    pub async fn start(scale: Scale) -> Result<Self> {
        Self::start_with(scale, &[]).await
    }

    /// As [`ScaledMayfly::start`], with further arguments of environment-registrar.
    ///
    /// # Errors
    /// As [`ScaledMayfly::start`].
    pub async fn start_with(scale: Scale, registrar: &[&str]) -> Result<Self> {
        let mut mayfly = Mayfly::bare(&[])?;
        mayfly.etcd.restart().await?;
        mayfly.start_updater()?;
        mayfly.start_registrar(registrar)?;
        mayfly.start_dns().await?;
        mayfly.haproxy.start().await?;
        let mut scaled = Self {
            mayfly,
            scale: Scale::new(0, 0),
            origin: Origin::start()?,
            instances: Vec::new(),
            web: None,
        };
        scaled.grow(scale).await?;
        Ok(scaled)
    }

    /// Brings in the services and environments that are missing, and waits until all of them answer.
    ///
    /// # Errors
    /// As [`ScaledMayfly::start`].
    pub async fn grow(&mut self, scale: Scale) -> Result<Duration> {
        self.grow_within(scale, POPULATE).await
    }

    /// As [`ScaledMayfly::grow`], with a limit of its own.
    ///
    /// # Errors
    /// When something does not start, or not every environment is routed in time.
    pub async fn grow_within(&mut self, scale: Scale, limit: Duration) -> Result<Duration> {
        ensure!(
            self.scale.services == 0 || self.scale.services == scale.services,
            "a scaled grows by environments only"
        );
        for service in self.instances.len()..scale.services {
            let name = fleet::service(service);
            let [first, second] = VERSIONS.map(|version| self.origin.open(&name, version));
            let instances = [first?, second?];
            for (instance, version) in instances.iter().zip(VERSIONS) {
                let (ip, port) = (
                    instance.address.ip().to_string(),
                    instance.address.port().to_string(),
                );
                let arguments = ["register", "--permanent", &name, version, &ip, &port];
                self.mayfly.run("container-registrar", &arguments).await?.ok()?;
            }
            self.instances.push(instances);
        }
        let start = Instant::now();
        for number in self.scale.environments..scale.environments {
            self.save(number, scale.services, VERSIONS[fleet::version(number, 0)])?;
        }
        // One connection for all: a hundred thousand of their own would use up the ports.
        let mut probe = self.edge(0);
        for number in self.scale.environments..scale.environments {
            let backend = format!("web@{}", VERSIONS[fleet::version(number, 0)]);
            probe.turn_to(&fleet::host(number));
            loop {
                let answer = probe.ask();
                if matches!(&answer, Ok(answer) if answer.is_from(&backend)) {
                    break;
                }
                ensure!(
                    start.elapsed() < limit,
                    "environment {number} of {} is not routed after {limit:?}: {answer:?}",
                    scale.environments
                );
                self.still_run()?;
                std::thread::sleep(PAUSE);
            }
        }
        self.scale = scale;
        Ok(start.elapsed())
    }

    /// Whether everything runs that a new environment needs.
    fn still_run(&mut self) -> Result<()> {
        let daemons = [&mut self.mayfly.registrar, &mut self.mayfly.updater];
        for daemon in daemons.into_iter().flatten() {
            ensure!(daemon.is_running(), "{} has ended", daemon.name());
        }
        ensure!(self.mayfly.haproxy.is_running(), "HAProxy has ended");
        Ok(())
    }

    /// A probe from outside.
    pub fn edge(&self, environment: usize) -> Probe {
        Probe::new(self.mayfly.edge, &fleet::host(environment), &[])
    }

    /// The address of an instance.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn instance(&self, service: usize, version: usize) -> Result<std::net::SocketAddr> {
        let instances = self.instances.get(service).context("a service of the scaled")?;
        Ok(instances[version].address)
    }

    /// Writes an environment's file beside its place; the rename is left to the caller, who takes the time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn prepare(&self, number: usize, services: usize, web: &str) -> Result<(PathBuf, PathBuf)> {
        self.prepare_text(&fleet::environment(number), &fleet::yaml(number, services, web))
    }

    /// As [`ScaledMayfly::prepare`], with any name and content.
    ///
    /// # Errors
    /// As [`ScaledMayfly::prepare`].
    pub fn prepare_text(&self, name: &str, text: &str) -> Result<(PathBuf, PathBuf)> {
        let file = format!("{name}.yaml");
        let beside = self.mayfly.directory().join(&file);
        std::fs::write(&beside, text).with_context(|| format!("write {}", beside.display()))?;
        Ok((beside, self.mayfly.environments().join(file)))
    }

    /// Adds an environment with any content.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn add(&self, name: &str, text: &str) -> Result<()> {
        let (beside, place) = self.prepare_text(name, text)?;
        std::fs::rename(beside, place).context("rename a file")
    }

    /// Starts the updater again and waits until it is in step.
    ///
    /// # Errors
    /// When it does not come to follow a change.
    pub async fn restart_updater(&mut self) -> Result<()> {
        self.mayfly.start_updater()?;
        self.in_step()
    }

    /// Waits until a change takes effect.
    ///
    /// # Errors
    /// When none does within five minutes.
    pub fn in_step(&self) -> Result<()> {
        let mut probe = self.edge(0);
        let now = probe.ask()?;
        let next = VERSIONS
            .iter()
            .find(|version| !now.is_from(&format!("web@{version}")));
        let next = next.context("another version")?;
        self.save(0, self.scale.services, next)?;
        let backend = format!("web@{next}");
        probe.until(POPULATE, |answer| answer.is_from(&backend)).map(drop)
    }

    fn save(&self, number: usize, services: usize, web: &str) -> Result<()> {
        let (beside, place) = self.prepare(number, services, web)?;
        std::fs::rename(beside, place).context("rename a file")
    }

    /// Starts mayfly-web, and asks it for everything as often as a few people who open the page.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start_web(&mut self) -> Result<()> {
        let at = port::free();
        let mut command = self.mayfly.command("mayfly-web")?;
        command.args(["--bind", &at.to_string()]);
        self.web = Some(self.mayfly.spawn("mayfly-web", &command)?);
        for _ in 0..4 {
            eventually(SOON, "mayfly-web answers", async || -> Result<()> {
                let answer = Request::get(&at.to_string(), "/v1/state").send(at).await?;
                ensure!(answer.status == 200, "{}", answer.body);
                Ok(())
            })
            .await;
        }
        Ok(())
    }

    /// Ends mayfly-web.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn end_web(&mut self) -> Result<()> {
        match self.web.take() {
            Some(mut web) => web.terminate(SOON).await.map(drop),
            None => Ok(()),
        }
    }

    /// The process ids of everything, by name.
    ///
    /// # Errors
    /// When one of them does not run.
    pub async fn processes(&self) -> Result<Vec<(&'static str, u32)>> {
        let daemons = [
            ("environment-registrar", &self.mayfly.registrar),
            ("haproxy-updater", &self.mayfly.updater),
            ("dns-updater", &self.mayfly.dns_updater),
        ];
        let mut all = vec![("haproxy", self.mayfly.haproxy.worker().await?)];
        for (name, process) in daemons {
            all.push((
                name,
                process.as_ref().with_context(|| format!("{name} runs"))?.id(),
            ));
        }
        all.extend(self.web.as_ref().map(|web| ("mayfly-web", web.id())));
        Ok(all)
    }
}
