//! What a service is created with: what its definition says, within limits that no definition can
//! lift.

use std::time::Duration;

use bollard::models::{
    EndpointSpec, EndpointSpecModeEnum, Limit, NetworkAttachmentConfig, ServiceSpec, ServiceSpecMode,
    ServiceSpecModeReplicated, TaskSpec, TaskSpecContainerSpec, TaskSpecContainerSpecDnsConfig,
    TaskSpecContainerSpecPrivileges, TaskSpecLogDriver, TaskSpecResources, TaskSpecRestartPolicy,
    TaskSpecRestartPolicyConditionEnum,
};

use crate::engine::Launch;
use crate::engine::labels::Labels;
use crate::engine::log::LogDriver;
use crate::engine::parts::{capabilities, command, mounts, name_servers, signed, variables};

/// How long Swarm waits before it starts a container again.
const PAUSE: Duration = Duration::from_secs(2);
/// How often Swarm does so within [`WINDOW`]. After that it gives up, and the launcher takes over
/// with its own pauses.
const ATTEMPTS: i64 = 2;
const WINDOW: Duration = Duration::from_secs(120);

/// The service of a launch in networks by their ids, whose container has `grace` to end by itself.
/// `log` is a driver of logs and its limits, where the engine's own needs some.
pub(super) fn spec(
    launch: &Launch,
    labels: Labels,
    networks: Vec<String>,
    grace: Duration,
    log: Option<LogDriver>,
) -> ServiceSpec {
    let definition = &launch.definition;
    let (dropped, added) = capabilities();
    let networks = networks.into_iter().map(|id| NetworkAttachmentConfig {
        target: Some(id),
        ..NetworkAttachmentConfig::default()
    });
    ServiceSpec {
        name: Some(launch.name.clone()),
        labels: Some(labels.clone()),
        mode: Some(ServiceSpecMode {
            replicated: Some(ServiceSpecModeReplicated { replicas: Some(1) }),
            ..ServiceSpecMode::default()
        }),
        // It is called only by the address of its container.
        endpoint_spec: Some(EndpointSpec {
            mode: Some(EndpointSpecModeEnum::DNSRR),
            ports: None,
        }),
        task_template: Some(TaskSpec {
            container_spec: Some(TaskSpecContainerSpec {
                image: Some(launch.image.to_string()),
                labels: Some(labels),
                args: command(definition),
                env: Some(variables(definition)),
                mounts: Some(mounts(definition)),
                init: Some(true),
                stop_grace_period: Some(nanoseconds(grace)),
                capability_drop: Some(dropped),
                capability_add: Some(added),
                dns_config: name_servers(launch).map(|servers| TaskSpecContainerSpecDnsConfig {
                    nameservers: Some(servers),
                    ..TaskSpecContainerSpecDnsConfig::default()
                }),
                // Engines of 20.10 to 24 do not know this one, and leave it out.
                privileges: Some(TaskSpecContainerSpecPrivileges {
                    no_new_privileges: Some(true),
                    ..TaskSpecContainerSpecPrivileges::default()
                }),
                ..TaskSpecContainerSpec::default()
            }),
            resources: Some(TaskSpecResources {
                limits: Some(Limit {
                    nano_cpus: definition.cpus.map(|cpus| signed(cpus.nano())),
                    memory_bytes: definition.memory.map(|memory| signed(memory.bytes())),
                    pids: Some(launch.processes.into()),
                }),
                ..TaskSpecResources::default()
            }),
            restart_policy: Some(TaskSpecRestartPolicy {
                condition: Some(TaskSpecRestartPolicyConditionEnum::ANY),
                delay: Some(nanoseconds(PAUSE)),
                max_attempts: Some(ATTEMPTS),
                window: Some(nanoseconds(WINDOW)),
            }),
            networks: Some(networks.collect()),
            log_driver: log.map(|(driver, limits)| TaskSpecLogDriver {
                name: Some(driver),
                options: Some(limits),
            }),
            ..TaskSpec::default()
        }),
        ..ServiceSpec::default()
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}
