//! Instances in etcd. A router goes on with an instance that only vanishes, for as long as it
//! answers: its lease may have run out in an outage. So one that is deregistered on purpose is
//! marked as draining before its key is deleted.

use mayfly_core::index::Revision;
use mayfly_core::keys::Key;
use mayfly_core::records::Instance;

use crate::store::{Guard, LeaseId, Store, StoreError};

/// Deregisters an instance if its key is still as it was read, with this record, revision and
/// lease. Says whether it did. A key that another program has put since then stays: who still wants
/// to deregister the instance has to read the key again.
///
/// # Errors
/// When etcd does not answer within the limit, or the lease is lost. The instance may be
/// deregistered all the same.
pub async fn deregister(
    store: &Store,
    key: &Key,
    instance: Instance,
    revision: Revision,
    lease: Option<LeaseId>,
) -> Result<bool, StoreError> {
    let unchanged = Guard::ModRevision(revision.changed);
    match store.put_if(key, instance.farewell(), lease, unchanged).await? {
        Some(farewell) => store.delete_if(key, Guard::ModRevision(farewell)).await,
        None => Ok(false),
    }
}
