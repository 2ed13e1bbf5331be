//! Creates a container and starts it. If a launcher dies in between, or two do this at the same
//! time, there is one complete container in the end: it has a fixed name, and a launcher that finds
//! it created completes it.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bollard::models::{ContainerInspectResponse, NetworkConnectRequest};
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use mayfly_core::records::definition::NetworkName;
use mayfly_daemon::docker::{failed, found, reason, status, within};
use mayfly_daemon::retry::Backoff;
use tokio::time::Instant;

use super::{Docker, body, state};
use crate::engine::containers::inspect;
use crate::engine::{Launch, UnitState};
use crate::engine::{QUESTION, WORK};

/// Pauses between tries while the engine says that the name is taken by a container that is not
/// there: it reserves the name before the container is visible, and frees it after the container is
/// gone.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

impl Docker {
    /// Creates the container of a launch, joins it to its networks, which are there, and starts it.
    pub(super) async fn create(&self, client: &bollard::Docker, launch: &Launch) -> anyhow::Result<()> {
        let name = &launch.name;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let log = self.connection.log(client).await?;
        let start = Instant::now();
        while start.elapsed() < WORK {
            let options = CreateContainerOptionsBuilder::default().name(name).build();
            let body = body::body(launch, self.owner.labels(launch), log.clone());
            match within(WORK, client.create_container(Some(options), body)).await {
                Ok(created) => return bring_up(client, &created.id, launch).await,
                Err(error) if status(&error) == Some(409) => {
                    let there = Self::named(client, name).await;
                    let there = there.map_err(failed(format!("look at container `{name}`")))?;
                    if let Some(there) = there {
                        if self.settle(client, there, launch).await? {
                            return Ok(());
                        }
                    }
                    backoff.rest().await;
                }
                Err(error) if status(&error) == Some(404) => {
                    bail!("image {} does not exist: {}", launch.image, reason(&error));
                }
                Err(error) => return Err(failed(format!("create container `{name}`"))(error)),
            }
        }
        bail!(
            "cannot create container `{name}`: the engine reports that a container of this name \
             exists, but cannot find that container"
        )
    }

    /// Deals with a container that has the name already. Returns whether it runs now; else the name
    /// is free again.
    async fn settle(
        &self,
        client: &bollard::Docker,
        there: ContainerInspectResponse,
        launch: &Launch,
    ) -> anyhow::Result<bool> {
        let name = &launch.name;
        let labels = there.config.and_then(|config| config.labels).unwrap_or_default();
        if let Some(whose) = self.owner.stranger(name, &labels, &launch.backend) {
            bail!(
                "container `{name}` already exists, and {whose}; rename that container, or remove it if nothing needs it"
            );
        }
        let id = there.id.unwrap_or_default();
        match state::inspected(there.state.unwrap_or_default()) {
            UnitState::Running | UnitState::Starting => Ok(true),
            UnitState::Leaving => bail!("container `{name}` is being removed"),
            UnitState::Ended(why) => bail!("container `{name}` has ended but was not removed: {why}"),
            UnitState::Created => {
                let asked = self.owner.labels(launch);
                if asked.iter().all(|(name, text)| labels.get(name) == Some(text)) {
                    bring_up(client, &id, launch).await?;
                    return Ok(true);
                }
                // It is of an earlier definition and was never started.
                let options = RemoveContainerOptionsBuilder::default()
                    .v(true)
                    .force(true)
                    .build();
                let removed = within(WORK, client.remove_container(&id, Some(options))).await;
                found(removed).map_err(failed(format!("remove container `{name}`")))?;
                Ok(false)
            }
        }
    }
}

/// Joins a created container to those of its networks that it lacks, and starts it.
async fn bring_up(client: &bollard::Docker, id: &str, launch: &Launch) -> anyhow::Result<()> {
    let name = &launch.name;
    for network in missing_networks(client, id, launch).await? {
        let request = NetworkConnectRequest {
            container: id.to_owned(),
            endpoint_config: None,
        };
        let joined = within(WORK, client.connect_network(network.as_str(), request)).await;
        if let Err(error) = joined {
            // Another launcher may have joined it at the same moment.
            if missing_networks(client, id, launch).await?.contains(network) {
                return Err(failed(format!("join container `{name}` to network `{network}`"))(
                    error,
                ));
            }
        }
    }
    let started = within(WORK, client.start_container(id, None)).await;
    started.map_err(failed(format!("start container `{name}`")))
}

async fn missing_networks<'a>(
    client: &bollard::Docker,
    id: &str,
    launch: &'a Launch,
) -> anyhow::Result<BTreeSet<&'a NetworkName>> {
    let inspected = inspect(client, id).await?;
    let inspected = inspected
        .with_context(|| format!("container `{}` was removed right after its creation", launch.name))?;
    let joined = inspected.network_settings.and_then(|settings| settings.networks);
    let joined = joined.unwrap_or_default();
    let asked = launch.definition.networks.iter();
    Ok(asked
        .filter(|network| !joined.contains_key(network.as_str()))
        .collect())
}

/// Makes sure that there is a network of exactly this name: an engine also accepts the beginning of
/// an id, and that could be the id of the host's network.
pub(super) async fn known_network(client: &bollard::Docker, name: &NetworkName) -> anyhow::Result<()> {
    let inspected = within(QUESTION, client.inspect_network(name.as_str(), None)).await;
    let inspected = found(inspected).map_err(failed(format!("look for network `{name}`")))?;
    match inspected {
        Some(network) if network.name.as_deref() == Some(name.as_str()) => Ok(()),
        _ => bail!("network `{name}` does not exist; create it with `docker network create {name}`"),
    }
}
