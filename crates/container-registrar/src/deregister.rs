//! `deregister`: removes a permanent entry, or that of an instance whose registrar is gone, and says whether there was
//! one.

use std::process::ExitCode;

use anyhow::bail;
use mayfly_core::address::InstanceId;
use mayfly_core::keys::Key;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output;

use crate::args::Instance;
use crate::location::Host;

/// Runs the command.
///
/// # Errors
/// When there is no such entry, the host does not resolve, or etcd does not answer.
pub async fn run(common: &CommonArgs, instance: &Instance) -> anyhow::Result<ExitCode> {
    let store = common.store();
    let backend = instance.backend();
    // A permanent entry stands under the name of its host, whatever that leads to now.
    if let Some(place) = instance.host.named(instance.port) {
        if let Ok(id) = InstanceId::at(&place) {
            if store.delete(&Key::Instance(backend.clone(), id)).await? {
                output::print(&format!("{backend} at {place} is removed\n"))?;
                return Ok(ExitCode::SUCCESS);
            }
        }
        if matches!(instance.host, Host::Tls(_)) {
            bail!("{backend} at {place} is not registered");
        }
    }
    let address = instance
        .host
        .locate(instance.port, store.endpoints(), None)
        .await?;
    let key = Key::Instance(backend.clone(), InstanceId::of(&address));
    if !store.delete(&key).await? {
        bail!("{backend} at {address} is not registered");
    }
    output::print(&format!(
        "{backend} at {address} is removed; a registrar that still runs would add it again\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}
