//! What a container is created with: what its definition says, within limits that no definition can lift.

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, NetworkingConfig, RestartPolicy, RestartPolicyNameEnum,
};

use crate::engine::Launch;
use crate::engine::labels::Labels;
use crate::engine::parts::{PIDS, command, mounts, signed, variables};

/// The body of the request that creates the container of a launch.
pub(super) fn body(launch: &Launch, labels: Labels) -> ContainerCreateBody {
    let definition = &launch.definition;
    let port = format!("{}/tcp", definition.port);
    // An engine before API 1.44 takes one network here; the others are joined before the start.
    let network = definition.networks.first().map(ToString::to_string);
    let endpoint = network.clone().map(|name| (name, EndpointSettings::default()));
    ContainerCreateBody {
        image: Some(launch.image.to_string()),
        cmd: command(definition),
        env: Some(variables(definition)),
        labels: Some(labels),
        exposed_ports: Some(vec![port]),
        host_config: Some(HostConfig {
            network_mode: network,
            memory: definition.memory.map(|memory| signed(memory.octets())),
            nano_cpus: definition.cpus.map(|cpus| signed(cpus.nano())),
            pids_limit: Some(PIDS),
            mounts: Some(mounts(definition)),
            // Signals reach the process whatever it is, and what it leaves behind is reaped.
            init: Some(true),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::NO),
                maximum_retry_count: None,
            }),
            ..HostConfig::default()
        }),
        networking_config: endpoint.map(|endpoint| NetworkingConfig {
            endpoints_config: Some([endpoint].into()),
        }),
        ..ContainerCreateBody::default()
    }
}
