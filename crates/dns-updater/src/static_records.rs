//! The commands for static records, which are in etcd: `update`, `delete`, `list`, `reset`.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::ExitCode;

use mayfly_core::keys::Key;
use mayfly_core::names::Hostname;
use mayfly_core::records::{self, DnsRecord, Record};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, Format, TextTable, printable};
use mayfly_daemon::watch;
use serde::Serialize;

/// Sets a record and replaces an earlier one.
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

/// Deletes records. Those that do not exist are named on stderr and give exit code 1; the others
/// are deleted.
///
/// # Errors
/// When etcd does not answer.
pub async fn delete(common: &CommonArgs, hosts: Vec<Hostname>) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let mut code = ExitCode::SUCCESS;
    for host in hosts {
        if !store.delete(&Key::Dns(host.clone())).await? {
            output::complain(&format!("error: there is no static record `{host}`"));
            code = ExitCode::FAILURE;
        }
    }
    Ok(code)
}

/// One line of the answer of `list`.
#[derive(Debug, Serialize)]
struct HostRecord {
    host: Hostname,
    addresses: Vec<IpAddr>,
}

/// Prints the records. One that cannot be parsed is named on stderr and affects no other.
///
/// # Errors
/// When etcd does not answer.
pub async fn list(common: &CommonArgs, format: Format) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let batch = watch::look(&store, &store.keyspace().dns()).await?;
    if batch.is_empty() {
        store.ensure_used().await?;
    }
    for aside in batch.set_aside.iter() {
        output::complain(&format!("warning: {}: {}", printable(&aside.key), aside.reason));
    }
    let mut found = Vec::new();
    for stored in batch.records() {
        if let Record::Dns(host, DnsRecord { addresses }) = stored.record {
            found.push(HostRecord { host, addresses });
        }
    }
    output::print(&match format {
        Format::Json => output::json(&found)?,
        Format::Table => {
            let mut table = TextTable::new(["HOST", "ADDRESSES"]);
            for HostRecord { host, addresses } in &found {
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
