//! `deregister`: removes the entry of an instance whose registrar is gone, and says whether there was one.

use std::process::ExitCode;

use anyhow::bail;
use mayfly_core::address::InstanceId;
use mayfly_core::keys::Key;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output;

use crate::args::Instance;

/// Runs the command.
///
/// # Errors
/// When there is no such entry, the host does not resolve, or etcd does not answer.
pub async fn run(common: &CommonArgs, instance: &Instance) -> anyhow::Result<ExitCode> {
    let store = common.store();
    let address = instance
        .host
        .locate(instance.port, store.endpoints(), None)
        .await?;
    let backend = instance.backend();
    let key = Key::Instance(backend.clone(), InstanceId::of(&address));
    if !store.delete(&key).await? {
        bail!("{backend} at {address} is not registered");
    }
    output::print(&format!(
        "{backend} at {address} is removed; a registrar that still runs would add it again\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}
