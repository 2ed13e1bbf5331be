//! `list`: the instances that etcd knows. An entry that breaks a rule is named on stderr and harms no other.

use std::process::ExitCode;

use mayfly_core::keys::Key;
use mayfly_core::labels;
use mayfly_core::records::{self, Instance, InstanceState, Protocol};
use mayfly_core::version::BackendId;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, Format, Table, printable};
use mayfly_daemon::store::Entry;
use serde::Serialize;

use crate::args::List;

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Found {
    service: String,
    version: String,
    /// It hangs on no lease, so it stays until somebody removes it.
    permanent: bool,
    #[serde(flatten)]
    instance: Instance,
}

/// Runs the command.
///
/// # Errors
/// When etcd does not answer.
pub async fn run(common: &CommonArgs, list: &List) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let keyspace = store.keyspace();
    let listing = store.list(&keyspace.instances(list.service.as_ref())).await?;
    if listing.entries.is_empty() {
        store.ensure_used().await?;
    }
    let mut found = Vec::new();
    for entry in listing.entries {
        let key = keyspace.parse(&entry.key);
        let version = match &key {
            Ok(Key::Instance(backend, _)) => Some(&backend.version),
            _ => None,
        };
        if version.is_some() && list.version.is_some() && version != list.version.as_ref() {
            continue;
        }
        match read(&entry, key) {
            Ok(instance) => found.push(instance),
            Err(reason) => output::complain(&format!("warning: {}: {reason}", printable(&entry.key))),
        }
    }
    output::print(&match list.format {
        Format::Json => output::json(&found)?,
        Format::Table => table(&found).render(),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn read(entry: &Entry, key: Result<Key, impl ToString>) -> Result<Found, String> {
    match key {
        Ok(Key::Instance(BackendId { service, version }, _)) => {
            let instance = records::parse(&entry.value).map_err(|error| error.to_string())?;
            Ok(Found {
                service: service.to_string(),
                version: version.to_string(),
                permanent: entry.lease.is_none(),
                instance,
            })
        }
        Ok(_) => Err("not an instance".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn table(found: &[Found]) -> Table {
    let mut table = Table::new([
        "SERVICE", "VERSION", "ADDRESS", "STATE", "ENTRY", "PROTOCOL", "WEIGHT", "NOTES",
    ]);
    for Found {
        service,
        version,
        permanent,
        instance,
    } in found
    {
        let state = match instance.state {
            InstanceState::Up => "up",
            InstanceState::Draining => "draining",
        };
        let protocol = match instance.protocol {
            Protocol::Http => "http",
            Protocol::H2c => "h2c",
        };
        let notes: Vec<String> = instance.metadata.iter().map(note).collect();
        table.row([
            service.clone(),
            version.clone(),
            instance.address.to_string(),
            state.to_owned(),
            if *permanent { "permanent" } else { "leased" }.to_owned(),
            protocol.to_owned(),
            instance.weight.to_string(),
            notes.join(" "),
        ]);
    }
    table
}

/// A note, for people: of a container's id as much as `docker ps` shows.
fn note((name, value): (&String, &String)) -> String {
    let value = match name.as_str() {
        labels::CONTAINER => value.get(..12).unwrap_or(value),
        _ => value,
    };
    format!("{name}={value}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_container_the_notes_show_what_docker_ps_does() {
        let instance = br#"{"address": "10.0.0.1:80", "metadata": {
            "container": "401e3c2f4550affd7825fd582511d2f55239602ebaa59c6ac19f77bbf88e0bb8", "name": "demo-backend-v1-b-1"}}"#;
        let found = Found {
            service: "backend".to_owned(),
            version: "0.0.1".to_owned(),
            permanent: false,
            instance: records::parse(instance).unwrap(),
        };
        let shown = table(&[found]).render();
        assert!(
            shown.contains("container=401e3c2f4550 name=demo-backend-v1-b-1"),
            "{shown}"
        );
    }
}
