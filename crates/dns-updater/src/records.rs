//! The commands for static records, which live in etcd: `update`, `delete`, `list`, `reset`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::ExitCode;

use mayfly_core::keys::Key;
use mayfly_core::names::Hostname;
use mayfly_core::records::{self, DnsRecord};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, Format, Table, printable};
use serde::Serialize;

/// Puts a record in place of the one that was there.
///
/// # Errors
/// When etcd does not answer.
pub async fn update(common: &CommonArgs, host: Hostname, addresses: Vec<IpAddr>) -> anyhow::Result<ExitCode> {
    let addresses: Vec<IpAddr> = addresses
        .into_iter()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let record = records::to_json(&DnsRecord { addresses });
    common.store()?.put(&Key::Dns(host), record, None).await?;
    Ok(ExitCode::SUCCESS)
}

/// Deletes records. Those that do not exist are named on stderr and give exit code 1; the others are deleted.
///
/// # Errors
/// When etcd does not answer.
pub async fn delete(common: &CommonArgs, hosts: Vec<Hostname>) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let mut code = ExitCode::SUCCESS;
    for host in hosts {
        if !store.delete(&Key::Dns(host.clone())).await? {
            output::complain(&format!("error: there is no static record {host}"));
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// One line of the answer of `list`.
#[derive(Debug, Serialize)]
struct Found {
    host: Hostname,
    addresses: Vec<IpAddr>,
}

/// Prints the records. One that breaks a rule is named on stderr and harms no other.
///
/// # Errors
/// When etcd does not answer.
pub async fn list(common: &CommonArgs, format: Format) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let listing = store.list(&store.keyspace().dns()).await?;
    if listing.entries.is_empty() {
        store.ensure_used().await?;
    }
    let mut found = Vec::new();
    for entry in listing.entries {
        let record = match store.keyspace().parse(&entry.key) {
            Ok(Key::Dns(host)) => records::parse::<DnsRecord>(&entry.value)
                .map(|record| Found {
                    host,
                    addresses: record.addresses,
                })
                .map_err(|error| error.to_string()),
            Ok(_) => Err("not a static record".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        match record {
            Ok(record) => found.push(record),
            Err(reason) => output::complain(&format!("warning: {}: {reason}", printable(&entry.key))),
        }
    }
    output::print(&match format {
        Format::Json => output::json(&found)?,
        Format::Table => {
            let mut table = Table::new(["HOST", "ADDRESSES"]);
            for Found { host, addresses } in &found {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                table.row([host.to_string(), addresses.join(" ")]);
            }
            table.render()
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Deletes all records, in one step.
///
/// # Errors
/// When etcd does not answer.
pub async fn reset(common: &CommonArgs) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let count = store.delete_all(&store.keyspace().dns()).await?;
    output::print(&format!("deleted {count} static records\n"))?;
    Ok(ExitCode::SUCCESS)
}
