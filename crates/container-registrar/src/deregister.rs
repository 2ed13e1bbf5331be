//! `deregister`: deletes a permanent entry, or that of an instance whose registrar is gone, and
//! fails if there is none.

use std::process::ExitCode;

use anyhow::bail;
use mayfly_core::address::InstanceId;
use mayfly_core::keys::{Key, KeyRange};
use mayfly_core::records::Record;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::store::{Guard, Store};
use mayfly_daemon::watch::{Change, look_up};
use mayfly_daemon::{instances, output};

use crate::args::InstanceArguments;
use crate::location::{AdvertisedHost, HOST, with_remedy};

/// How often an entry is looked at that another program changes at the same moment.
const ATTEMPTS: usize = 5;

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
    for _ in 0..ATTEMPTS {
        let is_deleted = match look_up(store, key.clone()).await? {
            Some(Change::Put(stored)) => match stored.record {
                Record::Instance(_, _, instance) => {
                    instances::deregister(store, key, instance, stored.revision, stored.lease).await?
                }
                _ => store.delete(key).await?,
            },
            // What is no record has no farewell.
            Some(Change::Unreadable(unreadable)) => {
                let unchanged = Guard::ModRevision(unreadable.revision.changed);
                store.delete_if(key, unchanged).await?
            }
            Some(Change::Gone(_)) | None => {
                return match store.keyspace().text_with_suffix(key) {
                    Some(text) => Ok(store.delete_all(&KeyRange::only(&text)).await? > 0),
                    None => Ok(false),
                };
            }
        };
        if is_deleted {
            return Ok(true);
        }
    }
    bail!(
        "cannot deregister {}: another program keeps changing it; stop that program, and run the command \
         again",
        store.keyspace().text(key)
    )
}

#[cfg(test)]
mod tests;
