//! What an earlier registrar of this node left in etcd: entries of containers that are gone, or that have another
//! address by now. They are corrected once, at the start, for their lease may have some time to run, and their address
//! another service.

use std::collections::BTreeMap;
use std::time::Duration;

use mayfly_core::keys::Key;
use mayfly_core::labels;
use mayfly_core::names::NodeName;
use mayfly_core::records::{self, Instance};
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::store::{Entry, Guard, Store, StoreError};
use tokio::time::Instant;
use tracing::{debug, info, warn};

/// By what an entry is known as this registrar's own: the node and the engine that it names. Another registrar of the
/// same node follows another engine, or sees the same containers.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The node.
    pub node: NodeName,
    /// The engine's URL.
    pub engine: String,
}

impl Origin {
    /// What an entry says of it.
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

/// Takes out what is not true any more. After `limit` there is nothing left to do: the leases have run out.
pub async fn correct(store: Store, origin: Origin, running: Running, limit: Duration) {
    let (begun, mut backoff) = (Instant::now(), Backoff::default());
    while begun.elapsed() < limit {
        match take_out(&store, &origin, &running).await {
            Ok(()) => return,
            Err(error) if backoff.failures() == 0 => {
                warn!("cannot correct what an earlier registrar of this node left: {error}; trying again");
            }
            Err(error) => debug!("{error}; trying again"),
        }
        backoff.rest().await;
    }
}

async fn take_out(store: &Store, origin: &Origin, running: &Running) -> Result<(), StoreError> {
    let listing = store.list(&store.keyspace().instances(None)).await?;
    for entry in listing.entries {
        let Some((key, farewell)) = stale(store, &entry, origin, running) else {
            continue;
        };
        // Not when somebody has put it meanwhile.
        let unchanged = Guard::ModRevision(entry.mod_revision);
        // A router goes on with what only vanishes.
        let Some(revision) = store.put_if(&key, farewell, entry.lease, unchanged).await? else {
            continue;
        };
        store.delete_if(&key, Guard::ModRevision(revision)).await?;
        info!(
            "{} is taken out: an earlier registrar left it, and its container is gone or elsewhere",
            entry.key
        );
    }
    Ok(())
}

/// The key and the last value of an entry that is ours and not true any more.
fn stale(store: &Store, entry: &Entry, origin: &Origin, running: &Running) -> Option<(Key, Vec<u8>)> {
    let key = store.keyspace().parse(&entry.key).ok()?;
    let instance: Instance = records::parse(&entry.value).ok()?;
    let container = instance.metadata.get(labels::CONTAINER)?;
    let is_true = match running.get(container) {
        // What is set aside is left to its lease: it may be another registrar's, of another network.
        Some(None) => true,
        Some(Some(own)) => *own == key,
        None => false,
    };
    if is_true || !origin.wrote(&instance) {
        return None;
    }
    Some((key, records::draining(&entry.value).ok()?))
}
