//! `register --permanent`: writes the entry of a server that Mayfly does not start, once and
//! without a lease, and prints how to deregister it.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use mayfly_core::check::{self, Check};
use mayfly_core::keys::Key;
use mayfly_core::names::{Hostname, ServiceName};
use mayfly_core::records::{self, Instance as Record, InstanceState};
use mayfly_core::upstream::Upstream;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output;
use tracing::warn;

use crate::args::Register;
use crate::check::{CheckRequest, SET_BY_FLAG, ask};
use crate::location::{self, HOST};

/// Runs the command.
///
/// # Errors
/// When the host cannot be registered, the server does not answer the check, or etcd does not
/// answer.
pub async fn run(common: &CommonArgs, arguments: &Register) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let instance = &arguments.instance;
    let place = instance.host.place(instance.port, store.endpoints()).await?;
    let id = place.id().context("the host name is too long to be registered")?;
    let backend = instance.backend();
    if let Some(check) = &arguments.check {
        ask_all(check, &place, arguments)
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
            "{backend} at {place} is already registered by a running container-registrar; stop that registrar first, or keep its entry"
        );
    }
    if let Some(doubt) = location::doubt(&backend, &place, HOST) {
        warn!("{doubt}");
    }
    store.put(&key, records::to_json(&record), None).await?;
    // `auto` may mean something else tomorrow, or elsewhere.
    let host = match place.address() {
        Some(address) if !place.tls => address.ip().to_string(),
        _ => instance.host.to_string(),
    };
    output::print(&format!(
        "{backend} at {place} is registered permanently; to deregister it: container-registrar deregister {} {} {host} {}\n",
        backend.service,
        backend.version,
        place.port(),
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// One of its addresses must pass the check.
async fn ask_all(check: &Check, place: &Upstream, arguments: &Register) -> anyhow::Result<()> {
    let question = CheckRequest {
        check: check.clone(),
        host: host(place, arguments.check_host.as_ref(), &arguments.instance.service),
        host_set_by: SET_BY_FLAG,
        protocol: arguments.protocol.into(),
    };
    let limit = arguments.keeping.check_timeout;
    let mut failures = Vec::new();
    for address in location::addresses(place).await? {
        match ask(&question, address, limit).await {
            Ok(()) => return Ok(()),
            Err(error) => failures.push(format!("{address}: {error:#}")),
        }
    }
    bail!("{}", failures.join("; "))
}

/// The Host to ask a server with: as routers do, which know one that has a name by that name.
fn host(place: &Upstream, given: Option<&Hostname>, service: &ServiceName) -> String {
    match given {
        None if place.tls || place.name().is_some() => place.authority(),
        given => check::host(given, service),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_checked_as_routers_check_it() {
        let given = Some("shop.example.com".parse().unwrap());
        for (place, given, expected) in [
            ("10.0.0.5:8080", None, "billing.service"),
            ("10.0.0.5:8080", given.clone(), "shop.example.com"),
            ("billing.internal:8080", None, "billing.internal:8080"),
            ("billing.internal:80", given, "shop.example.com"),
            ("https://10.0.0.5:443", None, "10.0.0.5"),
        ] {
            let service = "billing".parse().unwrap();
            assert_eq!(host(&place.parse().unwrap(), given.as_ref(), &service), expected);
        }
    }
}
