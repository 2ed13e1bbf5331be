//! What an earlier registrar of this node left in etcd: entries of containers that are gone, or
//! that have another address by now. They are deleted once, at the start: their lease may have time
//! to run, and their address may belong to another service.

use std::collections::BTreeMap;
use std::time::Duration;

use mayfly_core::keys::Key;
use mayfly_core::labels;
use mayfly_core::names::NodeName;
use mayfly_core::records::{Instance, Record};
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::store::{Store, StoreError};
use mayfly_daemon::{instances, watch};
use tokio::sync::watch::Receiver;
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// What marks an entry as this registrar's own: the node and the engine that it names. Another
/// registrar of the same node follows another engine, or sees the same containers.
#[derive(Debug, Clone)]
pub struct RecordOrigin {
    pub node: NodeName,
    pub engine: String,
}

impl RecordOrigin {
    /// The metadata of its entries.
    pub fn metadata(&self) -> [(String, String); 2] {
        [
            (labels::NODE.to_owned(), self.node.to_string()),
            (labels::ENGINE.to_owned(), self.engine.clone()),
        ]
    }

    fn wrote(&self, instance: &Instance) -> bool {
        let says = |(name, value): &(String, String)| instance.metadata.get(name) == Some(value);
        self.metadata().iter().all(says)
    }
}

/// The containers that run, each with the key of its entry; `None` for one that is set aside.
pub type Running = BTreeMap<String, Option<Key>>;

/// Deregisters what is no longer true. After `limit` there is nothing left to do: the leases have
/// expired. `running` is always what runs now: while etcd is away, containers start, and what this
/// registrar then registers is nothing that another one left.
pub async fn correct(store: Store, origin: RecordOrigin, running: Receiver<Running>, limit: Duration) {
    let (begun, mut backoff) = (Instant::now(), Backoff::default());
    while begun.elapsed() < limit {
        match take_out(&store, &origin, &running).await {
            Ok(()) => return,
            Err(error) if backoff.failures() == 0 => {
                warn!(
                    "cannot delete the outdated entries of an earlier registrar of this node: {}",
                    error.retrying()
                );
            }
            Err(error) => debug!("{}", error.retrying()),
        }
        backoff.rest().await;
    }
}

async fn take_out(
    store: &Store,
    origin: &RecordOrigin,
    running: &Receiver<Running>,
) -> Result<(), StoreError> {
    let batch = watch::look(store, &store.keyspace().instances(None)).await?;
    for stored in batch.records() {
        let Record::Instance(backend, id, instance) = stored.record else {
            continue;
        };
        let key = Key::Instance(backend, id);
        // What runs is looked at after etcd: whatever this registrar has put there is in it.
        if !is_stale(&key, &instance, origin, &running.borrow()) {
            continue;
        }
        // Not if it was put again meanwhile.
        if instances::deregister(store, &key, instance, stored.revision, stored.lease).await? {
            info!(
                "deregistered {}, which an earlier registrar left behind: the container at this address is \
                 gone, or has another address now",
                store.keyspace().text(&key)
            );
        }
    }
    Ok(())
}

/// Whether an entry is ours and no longer true.
fn is_stale(key: &Key, instance: &Instance, origin: &RecordOrigin, running: &Running) -> bool {
    let container = instance.metadata.get(labels::CONTAINER);
    let is_true = match container.map(|container| running.get(container)) {
        // What is set aside is left to its lease: it may belong to another registrar, on another
        // network.
        None | Some(Some(None)) => true,
        Some(Some(Some(own))) => own == key,
        Some(None) => false,
    };
    !is_true && origin.wrote(instance)
}
