//! Containers of one Docker engine. The engine only runs them: the launcher decides whether and
//! when one that has ended is restarted, so no container has a restart policy.

mod body;
mod create;
mod state;

use std::time::Duration;

use anyhow::anyhow;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, ContainerSummary};
use bollard::query_parameters::{RemoveContainerOptionsBuilder, StopContainerOptionsBuilder};
use mayfly_core::keys::KeySpace;
use mayfly_core::labels::SERVICE;
use mayfly_core::version::BackendId;
use mayfly_daemon::docker::{EngineUrl, reason, status, within};
use tracing::debug;

use super::WORK;
use super::connect::EngineConnection;
use super::containers::{inspect, labelled, look_at, name_of, other};
use super::events::Events;
use super::labels::{self, Labels, UnitOwner};
use super::{Engine, Inventory, Launch, NotOurs, Progress, Unit, UnitState, output, pull};

/// How long [`Engine::changed`] waits at most: an event may be lost.
const DOUBT: Duration = Duration::from_secs(10);

/// The containers of one engine.
#[derive(Debug)]
pub struct Docker {
    connection: EngineConnection,
    owner: UnitOwner,
    events: Events,
    silence: Duration,
}

impl Docker {
    /// The engine at an address. It need not be there yet. `prefix` is the
    /// key prefix, which marks what this launcher makes.
    pub fn new(url: &EngineUrl, prefix: &KeySpace) -> Self {
        let happenings = [
            "create", "start", "die", "destroy", "pause", "unpause", "rename", "update",
        ];
        Self {
            connection: EngineConnection::new(url),
            owner: UnitOwner::new(prefix),
            events: Events::new([
                ("type", &["container"]),
                ("label", &[SERVICE]),
                ("event", &happenings),
            ]),
            silence: pull::SILENCE,
        }
    }

    /// Another limit than 60 s for a pull of which nothing moves: a test cannot wait that long.
    #[cfg(test)]
    pub fn pull_silence(mut self, limit: Duration) -> Self {
        self.silence = limit;
        self
    }

    /// A listed container as a unit; `None` where it is gone or its labels are wrong.
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
                debug!("cannot read the labels of container {id} of this launcher: {reason}");
                return None;
            }
        };
        let state = match state::listed(listed.state) {
            Some(state) => state,
            // Only a look at the container shows why it does not run.
            None => match inspect(client, &id).await {
                Ok(Some(inspected)) => state::inspected(inspected.state.unwrap_or_default()),
                Ok(None) => return None,
                // Neither made again nor cleared until that is known.
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
            image: listed.image_id.as_deref().and_then(short),
        })
    }

    /// The container of exactly this name, if there is one.
    async fn named(client: &bollard::Docker, name: &str) -> Result<Option<ContainerInspectResponse>, Error> {
        // An engine accepts the beginning of an id for a name, too.
        let inspected = look_at(client, name).await?;
        Ok(inspected
            .filter(|found| found.name.as_deref().map(|name| name.trim_start_matches('/')) == Some(name)))
    }
}

/// The id of an image as an engine lists it: `sha256:0f1e2d3c4b5a...` is `0f1e2d3c4b5a`.
fn short(id: &str) -> Option<String> {
    let (_, digits) = id.split_once(':')?;
    let short = digits.get(..12)?;
    short
        .bytes()
        .all(|digit| digit.is_ascii_hexdigit())
        .then(|| short.to_owned())
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

    async fn start(
        &self,
        launch: &Launch,
        report: impl Fn(Progress) + Send + Sync,
    ) -> anyhow::Result<Option<String>> {
        let client = self.connection.client().await?;
        for network in &launch.definition.networks {
            create::known_network(&client, network).await?;
        }
        let not_pulled = pull::ensure(&client, &launch.image, launch.pull, self.silence, &report).await?;
        report(Progress::Starting);
        self.create(&client, launch).await?;
        Ok(not_pulled)
    }

    async fn remove(&self, name: &str, backend: &BackendId, grace: Duration) -> anyhow::Result<()> {
        let client = self.connection.client().await?;
        let because = |error: Error| anyhow!(reason(&error));
        let Some(found) = Self::named(&client, name).await.map_err(because)? else {
            return Ok(());
        };
        let labels = found.config.and_then(|config| config.labels).unwrap_or_default();
        if let Some(whose) = self.owner.stranger(name, &labels, backend) {
            return Err(NotOurs(whose).into());
        }
        // By its id from here on: the name may be another container's in the next moment.
        let id = found.id.unwrap_or_default();
        let seconds = i32::try_from(grace.as_secs_f64().ceil() as i64).unwrap_or(i32::MAX);
        let options = StopContainerOptionsBuilder::default().t(seconds).build();
        let patient = client.clone().with_timeout(grace + WORK);
        if let Err(error) = within(grace + WORK, patient.stop_container(&id, Some(options))).await {
            debug!(
                "cannot stop container `{name}`: {}; removing it anyway",
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
            outcome => outcome.map_err(because),
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
