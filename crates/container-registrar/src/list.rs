//! `list`: the instances in etcd. An entry that cannot be parsed is named on stderr and affects no
//! other.

use std::process::ExitCode;

use mayfly_core::labels;
use mayfly_core::records::{Instance, InstanceState, Protocol, Record};
use mayfly_core::version::BackendId;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, Format, TextTable, printable};
use mayfly_daemon::watch;
use serde::Serialize;

use crate::args::List;

/// One line of the answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ListedInstance {
    service: String,
    version: String,
    /// It has no lease, so it stays until it is deregistered.
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
    let batch = watch::look(&store, &store.keyspace().instances(list.service.as_ref())).await?;
    if batch.is_empty() {
        store.ensure_used().await?;
    }
    for aside in batch.set_aside.iter() {
        output::complain(&format!("warning: {}: {}", printable(&aside.key), aside.reason));
    }
    let mut found = Vec::new();
    for stored in batch.records() {
        let Record::Instance(BackendId { service, version }, _, instance) = stored.record else {
            continue;
        };
        if list.version.as_ref().is_none_or(|wanted| *wanted == version) {
            found.push(ListedInstance {
                service: service.to_string(),
                version: version.to_string(),
                permanent: stored.lease.is_none(),
                instance,
            });
        }
    }
    output::print(&match list.format {
        Format::Json => output::json(&found)?,
        Format::Table => table(&found).render(),
    })?;
    Ok(ExitCode::SUCCESS)
}

fn table(found: &[ListedInstance]) -> TextTable {
    let mut table = TextTable::new([
        "SERVICE", "VERSION", "ADDRESS", "STATE", "ENTRY", "PROTOCOL", "WEIGHT", "NOTES",
    ]);
    for ListedInstance {
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

/// A note, for people: a container's id is as long as in `docker ps`.
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
        let found = ListedInstance {
            service: "backend".to_owned(),
            version: "0.0.1".to_owned(),
            permanent: false,
            instance: mayfly_core::records::parse(instance).unwrap(),
        };
        let shown = table(&[found]).render();
        assert!(
            shown.contains("container=401e3c2f4550 name=demo-backend-v1-b-1"),
            "{shown}"
        );
    }
}
