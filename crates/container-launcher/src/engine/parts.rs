//! What a container is made of on either engine.

use bollard::models::{Mount, MountBindOptions, MountType};
use mayfly_core::records::definition::Definition;

use super::Launch;

/// What a container may do as root, all else being dropped: what the entrypoints of ordinary images
/// need to give their files to another user, become that user, and bind a port below 1024. Not
/// among them is `NET_RAW`, by which a container answers ARP for its neighbours and reads what is
/// meant for them.
const CAPABILITIES: [&str; 7] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETUID",
];

/// The capabilities to drop, and those to add again.
pub(super) fn capabilities() -> (Vec<String>, Vec<String>) {
    let added = CAPABILITIES.map(str::to_owned);
    (vec!["ALL".to_owned()], added.into())
}

/// The name servers, as the API takes them; `None` for the engine's own.
pub(super) fn name_servers(launch: &Launch) -> Option<Vec<String>> {
    let all: Vec<String> = launch.dns.iter().map(ToString::to_string).collect();
    Some(all).filter(|all| !all.is_empty())
}

/// The command in place of the image's; the entrypoint of the image stays.
pub(super) fn command(definition: &Definition) -> Option<Vec<String>> {
    let words: Vec<String> = definition.command.iter().map(ToString::to_string).collect();
    Some(words).filter(|words| !words.is_empty())
}

pub(super) fn variables(definition: &Definition) -> Vec<String> {
    let pairs = definition.env.iter();
    pairs.map(|(name, value)| format!("{name}={value}")).collect()
}

/// The volumes. None is written to and none is made where the host has no such path.
pub(super) fn mounts(definition: &Definition) -> Vec<Mount> {
    let mount = |(source, target): (&str, &str)| Mount {
        typ: Some(MountType::BIND),
        source: Some(source.to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        bind_options: Some(MountBindOptions {
            // Engines before 25 would mount what is mounted below it so that it can be written to.
            non_recursive: Some(true),
            ..MountBindOptions::default()
        }),
        ..Mount::default()
    };
    let volumes = definition.volumes.iter();
    volumes
        .map(|volume| mount((volume.source(), volume.target())))
        .collect()
}

/// An amount as the API takes it.
pub(super) fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX)
}
