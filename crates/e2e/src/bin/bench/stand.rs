//! Mayfly as it runs in earnest: etcd, HAProxy, every daemon, one instance of each version, and a file for each environment. It
//! can grow to a larger scale.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mayfly_e2e::world::World;

use crate::fleet::{self, Scale, VERSIONS};
use crate::origin::{Instance, Origin};
use crate::probe::Probe;

/// Limit for bringing a whole scale in.
const POPULATE: Duration = Duration::from_secs(300);

/// A running Mayfly.
pub struct Stand {
    /// The processes.
    pub world: World,
    /// How much they route.
    pub scale: Scale,
    /// Where instances come from.
    pub origin: Origin,
    /// By service, then by version.
    instances: Vec<[Instance; VERSIONS.len()]>,
}

impl Stand {
    /// Starts it.
    ///
    /// # Errors
    /// When something does not start, or does not come to route everything within five minutes.
    pub async fn start(scale: Scale) -> Result<Self> {
        let mut world = World::bare(&[])?;
        world.etcd.restart().await?;
        world.start_updater()?;
        world.start_registrar(&[])?;
        world.start_dns().await?;
        world.haproxy.start().await?;
        let mut stand = Self {
            world,
            scale: Scale::new(0, 0),
            origin: Origin::start()?,
            instances: Vec::new(),
        };
        stand.grow(scale).await?;
        Ok(stand)
    }

    /// Brings in the services and environments that are missing, and waits until all of them answer.
    ///
    /// # Errors
    /// As [`Stand::start`].
    pub async fn grow(&mut self, scale: Scale) -> Result<Duration> {
        ensure!(
            self.scale.services == 0 || self.scale.services == scale.services,
            "a stand grows by environments only"
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
                self.world.run("container-registrar", &arguments).await?.ok()?;
            }
            self.instances.push(instances);
        }
        let start = Instant::now();
        for number in self.scale.environments..scale.environments {
            self.save(number, scale.services, VERSIONS[fleet::version(number, 0)])?;
        }
        for number in self.scale.environments..scale.environments {
            let backend = format!("web@{}", VERSIONS[fleet::version(number, 0)]);
            self.edge(number)
                .until(POPULATE, |answer| answer.is_from(&backend))
                .with_context(|| format!("environment {number} of {}", scale.environments))?;
        }
        self.scale = scale;
        Ok(start.elapsed())
    }

    /// A probe from outside.
    pub fn edge(&self, environment: usize) -> Probe {
        Probe::new(self.world.edge, &fleet::host(environment), &[])
    }

    /// The address of an instance.
    ///
    /// # Errors
    /// When there is no such service.
    pub fn instance(&self, service: usize, version: usize) -> Result<std::net::SocketAddr> {
        let instances = self.instances.get(service).context("a service of the stand")?;
        Ok(instances[version].address)
    }

    /// Writes an environment's file beside its place; the rename is left to the caller, who takes the time.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn prepare(&self, number: usize, services: usize, web: &str) -> Result<(PathBuf, PathBuf)> {
        self.prepare_text(&fleet::environment(number), &fleet::yaml(number, services, web))
    }

    /// As [`Stand::prepare`], with any name and content.
    ///
    /// # Errors
    /// As [`Stand::prepare`].
    pub fn prepare_text(&self, name: &str, text: &str) -> Result<(PathBuf, PathBuf)> {
        let file = format!("{name}.yaml");
        let beside = self.world.directory().join(&file);
        std::fs::write(&beside, text).with_context(|| format!("write {}", beside.display()))?;
        Ok((beside, self.world.environments().join(file)))
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
        self.world.start_updater()?;
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

    /// The process ids of everything, by name.
    ///
    /// # Errors
    /// When one of them does not run.
    pub async fn processes(&self) -> Result<Vec<(&'static str, u32)>> {
        let daemons = [
            ("environment-registrar", &self.world.registrar),
            ("haproxy-updater", &self.world.updater),
            ("dns-updater", &self.world.dns_updater),
        ];
        let mut all = vec![("haproxy", self.world.haproxy.worker().await?)];
        for (name, process) in daemons {
            all.push((
                name,
                process.as_ref().with_context(|| format!("{name} runs"))?.id(),
            ));
        }
        Ok(all)
    }
}
