//! `deregister`: deletes a permanent entry, or that of an instance whose registrar is gone, and
//! fails if there is none.

use std::process::ExitCode;

use anyhow::bail;
use mayfly_core::address::InstanceId;
use mayfly_core::keys::{Key, KeyRange};
use mayfly_core::records::Record;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output;
use mayfly_daemon::store::{Guard, Store};
use mayfly_daemon::watch::{Change, Stored, look_up};

use crate::args::InstanceArguments;
use crate::location::{AdvertisedHost, HOST, with_remedy};

/// Runs the command.
///
/// # Errors
/// When there is no such entry, the host does not resolve, or etcd does not answer.
pub async fn run(common: &CommonArgs, instance: &InstanceArguments) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let backend = instance.backend();
    // The key of a permanent entry has the name of its host, whatever that resolves to now.
    if let Some(place) = instance.host.named(instance.port) {
        if let Ok(id) = place.id() {
            if delete(&store, &Key::Instance(backend.clone(), id)).await? {
                output::print(&format!("{backend} at {place} is deregistered\n"))?;
                return Ok(ExitCode::SUCCESS);
            }
        }
        if matches!(instance.host, AdvertisedHost::Tls(_)) {
            bail!("{backend} at {place} is not registered");
        }
    }
    let address = instance
        .host
        .locate(HOST, instance.port, store.endpoints(), None)
        .await
        .map_err(|error| with_remedy(&error, HOST))?;
    let key = Key::Instance(backend.clone(), InstanceId::of(&address));
    if !delete(&store, &key).await? {
        bail!("{backend} at {address} is not registered");
    }
    output::print(&format!(
        "{backend} at {address} is deregistered; a registrar that still runs registers it again\n"
    ))?;
    Ok(ExitCode::SUCCESS)
}

/// Deletes an instance's entry, also one that was put by hand with the service's suffix in its key.
async fn delete(store: &Store, key: &Key) -> anyhow::Result<bool> {
    if let Some(found) = look_up(store, key.clone()).await? {
        if let Change::Put(Stored {
            record: Record::Instance(_, _, instance),
            revision,
            lease,
        }) = found
        {
            let unchanged = Guard::ModRevision(revision.changed);
            store.put_if(key, instance.farewell(), lease, unchanged).await?;
        }
        return Ok(store.delete(key).await?);
    }
    match store.keyspace().text_with_suffix(key) {
        Some(text) => Ok(store.delete_all(&KeyRange::only(&text)).await? > 0),
        None => Ok(false),
    }
}
