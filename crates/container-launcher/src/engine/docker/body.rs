//! What a container is created with: what its definition says, within limits that no definition can
//! lift.

use bollard::models::{
    ContainerCreateBody, EndpointSettings, HostConfig, HostConfigLogConfig, NetworkingConfig, RestartPolicy,
    RestartPolicyNameEnum,
};

use crate::engine::Launch;
use crate::engine::labels::Labels;
use crate::engine::log::LogDriver;
use crate::engine::parts::{capabilities, command, mounts, name_servers, signed, variables};

/// The body of the request that creates the container of a launch. `log` is a driver of logs and
/// its limits, where the engine's own needs some.
pub(super) fn body(launch: &Launch, labels: Labels, log: Option<LogDriver>) -> ContainerCreateBody {
    let definition = &launch.definition;
    let memory = definition.memory.map(|memory| signed(memory.bytes()));
    let (dropped, added) = capabilities();
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
            memory,
            // In all: else it has as much of the host's swap again.
            memory_swap: memory,
            nano_cpus: definition.cpus.map(|cpus| signed(cpus.nano())),
            pids_limit: Some(launch.processes.into()),
            log_config: log.map(|(driver, limits)| HostConfigLogConfig {
                typ: Some(driver),
                config: Some(limits),
            }),
            dns: name_servers(launch),
            cap_drop: Some(dropped),
            cap_add: Some(added),
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

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::engine::Pull;

    #[test]
    fn whatever_a_definition_says_there_is_a_limit_and_no_way_to_the_neighbours() {
        let definition = br#"{"name": "x", "image": "x:{{ version }}", "port": 80, "networks": ["mayfly"],
            "memory": "64m", "cpus": "0.5"}"#;
        let launch = Launch {
            name: "n".to_owned(),
            backend: "x@1".parse().unwrap(),
            labels: [].into(),
            digest: String::new(),
            image: "x:1".parse().unwrap(),
            pull: Pull::Missing,
            definition: std::sync::Arc::new(mayfly_core::records::parse(definition).unwrap()),
            processes: 99,
            dns: vec!["10.0.0.53".parse().unwrap(), "fd00::53".parse().unwrap()],
        };
        let log = (
            "local".to_owned(),
            HashMap::from([("max-size".to_owned(), "10m".to_owned())]),
        );
        let host = body(&launch, Labels::new(), Some(log)).host_config.unwrap();
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        let added = host.cap_add.unwrap();
        assert!(
            !added
                .iter()
                .any(|name| name.contains("NET_RAW") || name.contains("ADMIN")),
            "{added:?}"
        );
        assert_eq!((host.memory, host.memory_swap), (Some(64 << 20), Some(64 << 20)));
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(500_000_000), Some(99)));
        assert_eq!(host.network_mode.as_deref(), Some("mayfly"));
        assert_eq!(host.dns.unwrap(), ["10.0.0.53", "fd00::53"]);
        let log = host.log_config.unwrap();
        assert_eq!(
            (log.typ.as_deref(), log.config.unwrap()["max-size"].as_str()),
            (Some("local"), "10m")
        );
        let unlimited = body(&launch, Labels::new(), None).host_config.unwrap();
        assert_eq!(unlimited.log_config, None, "the engine's driver as it is");
    }
}
