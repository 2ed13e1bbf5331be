//! The text of a file with one service definition: what a person would write.

use std::collections::BTreeMap;

use mayfly_core::check::Check;
use mayfly_core::names::{Hostname, ServiceName};
use mayfly_core::records::Protocol;
use mayfly_core::records::definition::{
    Argument, Cpus, Definition, ImageTemplate, Instances, Memory, NetworkName, Port, VariableName, Volume,
};
use mayfly_core::version::Range;
use serde::Serialize;

/// The fields in the order in which people write them, without those that are as by default.
#[derive(Serialize)]
struct DefinitionForm<'a> {
    name: &'a ServiceName,
    image: &'a ImageTemplate,
    #[serde(skip_serializing_if = "Option::is_none")]
    versions: Option<&'a Range>,
    port: Port,
    #[serde(skip_serializing_if = "Option::is_none")]
    check: Option<&'a Check>,
    #[serde(rename = "check-host", skip_serializing_if = "Option::is_none")]
    check_host: Option<&'a Hostname>,
    #[serde(skip_serializing_if = "Option::is_none")]
    protocol: Option<Protocol>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instances: Option<Instances>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    command: &'a [Argument],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    env: &'a BTreeMap<VariableName, Argument>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    networks: &'a [NetworkName],
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Memory>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpus: Option<Cpus>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    volumes: &'a [Volume],
}

/// The text of a file with a definition.
pub(super) fn definition(definition: &Definition) -> String {
    let Definition {
        name,
        image,
        versions,
        port,
        check,
        check_host,
        protocol,
        instances,
        command,
        env,
        networks,
        memory,
        cpus,
        volumes,
        source: _,
    } = definition;
    yaml(&DefinitionForm {
        name,
        image,
        versions: versions.as_ref(),
        port: *port,
        check: check.as_ref(),
        check_host: check_host.as_ref(),
        protocol: Some(*protocol).filter(|it| *it != Protocol::default()),
        instances: Some(*instances).filter(|it| *it != Instances::default()),
        command,
        env,
        networks,
        memory: *memory,
        cpus: *cpus,
        volumes,
    })
}

/// A value as YAML.
pub(super) fn yaml<T: Serialize>(value: &T) -> String {
    // Texts, numbers, lists and mappings with fixed keys: there is nothing that YAML could not say.
    serde_yaml::to_string(value).unwrap_or_default()
}
