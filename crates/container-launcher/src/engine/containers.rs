//! Containers of an engine, as both kinds of engine look at them.

use bollard::errors::Error;
use bollard::models::{
    ContainerInspectResponse, ContainerSummary, ContainerSummaryStateEnum, PortSummaryTypeEnum,
};
use bollard::query_parameters::ListContainersOptionsBuilder;
use mayfly_core::labels::SERVICE;
use mayfly_core::version::BackendId;
use mayfly_daemon::docker::{failed, found, within};
use tracing::debug;

use super::QUESTION;
use super::labels::{self, Labels};

/// All containers with the label of a service, running or not.
pub(super) async fn labelled(client: &bollard::Docker) -> anyhow::Result<Vec<ContainerSummary>> {
    let options = ListContainersOptionsBuilder::default()
        .all(true)
        .filters(&[("label", vec![SERVICE])].into())
        .build();
    let listed = within(QUESTION, client.list_containers(Some(options))).await;
    listed.map_err(failed("list the containers of the engine"))
}

/// The name of a listed container, without the slash that an engine puts before it.
pub(super) fn name_of(listed: &ContainerSummary) -> &str {
    let name = listed.names.iter().flatten().next();
    name.map(|name| name.trim_start_matches('/')).unwrap_or_default()
}

/// What there is to know of a container; `None` where it is gone.
pub(super) async fn inspect(
    client: &bollard::Docker,
    id: &str,
) -> anyhow::Result<Option<ContainerInspectResponse>> {
    look_at(client, id)
        .await
        .map_err(failed(format!("look at container {id}")))
}

/// As [`inspect`], with the error of the engine.
pub(super) async fn look_at(
    client: &bollard::Docker,
    id: &str,
) -> Result<Option<ContainerInspectResponse>, Error> {
    found(within(QUESTION, client.inspect_container(id, None)).await)
}

/// The backend that a container not made by a launcher is an instance of, if it runs and its labels
/// say so.
pub(super) async fn other(
    client: &bollard::Docker,
    listed: &ContainerSummary,
    labels: &Labels,
) -> Option<BackendId> {
    if listed.state != Some(ContainerSummaryStateEnum::RUNNING) {
        return None;
    }
    let ports = listed.ports.iter().flatten();
    let tcp = ports.filter(|port| port.typ == Some(PortSummaryTypeEnum::TCP));
    let mut exposed: Vec<u16> = tcp.map(|port| port.private_port).collect();
    exposed.sort_unstable();
    exposed.dedup();
    let read = labels::other(labels, listed.image.as_deref().unwrap_or_default(), &exposed);
    if read.is_some() {
        return read;
    }
    // A list gives an image by its digest once its tag has moved, and no ports in some networks.
    let inspected = inspect(client, listed.id.as_deref().unwrap_or_default()).await;
    let inspected = inspected.inspect_err(|error| debug!("{error:#}")).ok()??;
    let config = inspected.config.unwrap_or_default();
    let ports = config.exposed_ports.iter().flatten();
    let exposed: Vec<u16> = ports
        .filter_map(|port| port.strip_suffix("/tcp")?.parse().ok())
        .collect();
    labels::other(labels, config.image.as_deref().unwrap_or_default(), &exposed)
}
