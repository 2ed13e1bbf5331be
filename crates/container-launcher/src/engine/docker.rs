//! Containers of one Docker engine. The engine only runs them: whether one that has ended is started again, and when, is
//! the launcher's decision, so no container has a restart policy.

mod body;
mod create;
mod state;

use std::time::Duration;

use anyhow::bail;
use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{RemoveContainerOptionsBuilder, StopContainerOptionsBuilder};
use mayfly_core::labels::SERVICE;
use mayfly_core::version::BackendId;
use tracing::debug;

use super::connect::{Connection, WORK, failed, reason, status, within};
use super::containers::{inspect, labelled, name_of, other};
use super::events::Events;
use super::labels::{self, Labels, Owner};
use super::{Engine, Inventory, Launch, Progress, Unit, UnitState, output, pull};

/// How long [`Engine::changed`] waits at most: an event may be lost.
const DOUBT: Duration = Duration::from_secs(10);

/// The containers of one engine.
#[derive(Debug)]
pub struct Docker {
    connection: Connection,
    owner: Owner,
    events: Events,
    silence: Duration,
}

impl Docker {
    /// The engine at an address, `unix:///run/docker.sock` or `tcp://host:port`. It need not be there yet. `prefix` is the
    /// key prefix, which marks what this launcher makes.
    ///
    /// # Errors
    /// When it is no address of an engine.
    pub fn new(url: &str, prefix: &str) -> anyhow::Result<Self> {
        let happenings = [
            "create", "start", "die", "destroy", "pause", "unpause", "rename", "update",
        ];
        Ok(Self {
            connection: Connection::new(url)?,
            owner: Owner::new(prefix),
            events: Events::new([
                ("type", &["container"]),
                ("label", &[SERVICE]),
                ("event", &happenings),
            ]),
            silence: pull::SILENCE,
        })
    }

    /// Gives up pulling an image when nothing of it has moved for so long; 60 s, where nobody says so. The engine itself
    /// tries again what fails.
    #[must_use]
    pub fn pull_silence(mut self, limit: Duration) -> Self {
        self.silence = limit;
        self
    }

    /// A listed container as a unit; `None` where it is gone or cannot be told.
    async fn unit(
        &self,
        client: &bollard::Docker,
        listed: &ContainerSummary,
        labels: &Labels,
    ) -> Option<Unit> {
        let id = listed.id.clone().unwrap_or_default();
        let (backend, digest) = match labels::unit(labels) {
            Ok(said) => said,
            Err(reason) => {
                debug!("container {id} of this launcher is not to be told: {reason}");
                return None;
            }
        };
        let state = match state::listed(listed.state) {
            Some(state) => state,
            // Why it does not run, only the container itself says.
            None => match inspect(client, &id).await {
                Ok(Some(inspected)) => state::inspected(inspected.state.unwrap_or_default()),
                Ok(None) => return None,
                // Neither made again nor cleared, until it can be told.
                Err(error) => {
                    debug!("{error:#}");
                    UnitState::Starting
                }
            },
        };
        Some(Unit {
            name: name_of(listed).to_owned(),
            backend,
            digest,
            state,
            containers: vec![id],
        })
    }

    /// The container of exactly this name, if there is one.
    async fn named(client: &bollard::Docker, name: &str) -> anyhow::Result<Option<ContainerInspectResponse>> {
        // An engine takes the beginning of an id for a name as well.
        let inspected = inspect(client, name).await?;
        Ok(inspected
            .filter(|found| found.name.as_deref().map(|name| name.trim_start_matches('/')) == Some(name)))
    }
}

impl Engine for Docker {
    async fn inventory(&self) -> anyhow::Result<Inventory> {
        let client = self.connection.client().await?;
        let mut inventory = Inventory::default();
        for container in labelled(&client).await? {
            let labels = container.labels.clone().unwrap_or_default();
            // Those of a service of a swarm have other names than the service, which is the unit.
            if self.owner.owns(name_of(&container), &labels) {
                inventory
                    .units
                    .extend(self.unit(&client, &container, &labels).await);
            } else if !self.owner.is_anothers(&labels) {
                if let Some(backend) = other(&client, &container, &labels).await {
                    *inventory.others.entry(backend).or_default() += 1;
                }
            }
        }
        inventory.units.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(inventory)
    }

    async fn start(&self, launch: &Launch, told: impl Fn(Progress) + Send + Sync) -> anyhow::Result<()> {
        let client = self.connection.client().await?;
        for network in &launch.definition.networks {
            create::known_network(&client, network).await?;
        }
        pull::ensure(&client, &launch.image, launch.pull, self.silence, &told).await?;
        told(Progress::Starting);
        self.create(&client, launch).await
    }

    async fn remove(&self, name: &str, backend: &BackendId, grace: Duration) -> anyhow::Result<()> {
        let client = self.connection.client().await?;
        let Some(found) = Self::named(&client, name).await? else {
            return Ok(());
        };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        if let Some(whose) = self.owner.stranger(name, &labels, backend) {
            bail!("cannot remove container {name}: {whose}; it is left alone");
        }
        // By its id from here on: the name may be another container's in the next moment.
        let id = found.id.unwrap_or_default();
        let seconds = i32::try_from(grace.as_secs_f64().ceil() as i64).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let patient = client.clone().with_timeout(grace + WORK);
        if let Err(error) = within(grace + WORK, patient.stop_container(&id, Some(options))).await {
            debug!(
                "cannot stop container {name}: {}; removing it all the same",
                reason(&error)
            );
        }
        let options = RemoveContainerOptionsBuilder::default()
            .v(true)
            .force(true)
            .build();
        match within(WORK, client.remove_container(&id, Some(options))).await {
            // Gone, or on its way.
            Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
            outcome => outcome.map_err(failed(format!("remove container {name}"))),
        }
    }

    async fn output(&self, name: &str, lines: usize) -> Vec<String> {
        match self.connection.client().await {
            Ok(client) => output::last(lines, client.logs(name, Some(output::options(lines)))).await,
            Err(_) => Vec::new(),
        }
    }

    async fn changed(&self) {
        self.events.next(&self.connection, DOUBT).await;
    }
}
