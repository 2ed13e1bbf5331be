//! `deregister`: removes a permanent entry, or that of an instance whose registrar is gone, and says whether there was
//! one.

use std::process::ExitCode;

use anyhow::bail;
use mayfly_core::address::InstanceId;
use mayfly_core::keys::{Key, KeyRange};
use mayfly_core::records;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output;
use mayfly_daemon::store::{Guard, Store};

use crate::args::Instance;
use crate::location::Host;

/// Runs the command.
///
/// # Errors
/// When there is no such entry, the host does not resolve, or etcd does not answer.
pub async fn run(common: &CommonArgs, instance: &Instance) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let backend = instance.backend();
    // A permanent entry stands under the name of its host, whatever that leads to now.
    if let Some(place) = instance.host.named(instance.port) {
        if let Ok(id) = InstanceId::at(&place) {
            if delete(&store, &Key::Instance(backend.clone(), id)).await? {
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
    if !delete(&store, &key).await? {
        bail!("{backend} at {address} is not registered");
    }
    output::print(&format!(
        "{backend} at {address} is removed; a registrar that still runs would add it again\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Deletes an instance's entry, also one that somebody has put by hand with the service's suffix in its key.
async fn delete(store: &Store, key: &Key) -> anyhow::Result<bool> {
    if let Some(entry) = store.get(key).await? {
        // Said beforehand, since a router goes on with what only vanishes.
        if let Ok(farewell) = records::draining(&entry.value) {
            let unchanged = Guard::ModRevision(entry.mod_revision);
            store.put_if(key, farewell, entry.lease, unchanged).await?;
        }
        return Ok(store.delete(key).await?);
    }
    let Key::Instance(backend, _) = key else {
        return Ok(false);
    };
    let keyspace = store.keyspace();
    let all = store.list(&keyspace.instances(Some(&backend.service))).await?;
    for entry in all.entries {
        if keyspace.parse(&entry.key).is_ok_and(|other| other == *key) {
            return Ok(store.delete_all(&KeyRange::only(&entry.key)).await? > 0);
        }
    }
    Ok(false)
}
