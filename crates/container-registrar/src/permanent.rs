//! `register --permanent`: writes the entry of a server that Mayfly has not started, once and without a lease, and says
//! how to remove it.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use mayfly_core::address::InstanceId;
use mayfly_core::check::Check;
use mayfly_core::keys::Key;
use mayfly_core::records::{self, Instance as Record, InstanceState};
use mayfly_core::upstream::Upstream;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output;

use crate::args::Register;
use crate::check;
use crate::location;

/// Runs the command.
///
/// # Errors
/// When the host cannot be registered, the server does not answer the check, or etcd does not answer.
pub async fn run(common: &CommonArgs, arguments: &Register) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let instance = &arguments.instance;
    let place = instance.host.place(instance.port, store.endpoints()).await?;
    let id = InstanceId::at(&place).context("the host name is too long to be registered")?;
    let backend = instance.backend();
    if let Some(check) = &arguments.check {
        ask(check, &place, arguments)
            .await
            .with_context(|| format!("{backend} is not registered: {place} does not pass the check"))?;
    }
    let record = Record {
        address: place.clone(),
        state: InstanceState::Up,
        protocol: arguments.protocol.into(),
        weight: arguments.weight,
        shared: arguments.shared,
        metadata: arguments.meta.iter().cloned().collect(),
    };
    let key = Key::Instance(backend.clone(), id);
    let old = store.get(&key).await?;
    if old.is_some_and(|old| old.lease.is_some()) {
        bail!(
            "{backend} at {place} is registered by a container-registrar that runs: end that first, or leave it to it"
        );
    }
    store.put(&key, records::to_json(&record), None).await?;
    // `auto` may mean something else tomorrow, or elsewhere.
    let host = match place.address() {
        Some(address) if !place.tls => address.ip().to_string(),
        _ => instance.host.to_string(),
    };
    output::print(&format!(
        "{backend} at {place} is registered permanently; to remove it: container-registrar deregister {} {} {host} {}\n",
        backend.service,
        backend.version,
        place.port(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// One of its addresses has to give a good answer.
async fn ask(check: &Check, place: &Upstream, arguments: &Register) -> anyhow::Result<()> {
    let (protocol, limit) = (arguments.protocol.into(), arguments.keeping.check_timeout);
    let mut failures = Vec::new();
    for address in location::addresses(place).await? {
        match check::ask_as(check, &place.authority(), address, protocol, limit).await {
            Ok(()) => return Ok(()),
            Err(error) => failures.push(format!("{address}: {error:#}")),
        }
    }
    bail!("{}", failures.join("; "))
}
