//! The environment and the instance of a session in etcd, both under one lease. They are written
//! together or not at all, and the name of the environment belongs to one session only.
//!
//! What [`mayfly_daemon::lease`] does for a daemon is not right here: it takes a key over, and
//! writes it again after a delete. A session never takes over another one's name, and ends when an
//! operator deletes its environment.

use std::collections::BTreeSet;
use std::time::Duration;

use mayfly_core::keys::Key;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::{self, Environment};
use mayfly_daemon::store::{Entry, Guard, Lease, Store, StoreError, Write};

use crate::registry::origin;

/// Tries while other writers change the same key.
const TRIES: usize = 5;

/// What a session wants in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRecords {
    pub environment: Vec<u8>,
    pub instance: (Key, Vec<u8>),
}

/// Why something is not in etcd.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another writer has the name.
    #[error(
        "the name {name} is taken by an environment that was registered {whose}; choose another name with --name{hint}"
    )]
    Taken {
        name: EnvironmentName,
        whose: String,
        hint: &'static str,
    },
    /// It was there, and an operator or another program has deleted or replaced it.
    #[error("another program deleted or replaced the environment {0}, so `mayfly local` ends")]
    Gone(EnvironmentName),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What is said of another session.
const HINT: &str = ", or end the other `mayfly local`; if it was killed, wait until its lease expires";

#[derive(Debug)]
pub struct SessionClaim {
    store: Store,
    name: EnvironmentName,
    ttl: Duration,
    lease: Option<Lease>,
    /// Whether the environment has been there under the present lease.
    is_held: bool,
    /// The instances that have been put under it.
    instances: BTreeSet<Key>,
}

impl SessionClaim {
    /// Nothing is written yet.
    pub fn new(store: Store, name: EnvironmentName, ttl: Duration) -> Self {
        Self {
            store,
            name,
            ttl,
            lease: None,
            is_held: false,
            instances: BTreeSet::new(),
        }
    }

    /// Writes everything in one step, and no longer any other instance.
    ///
    /// # Errors
    /// When the name is another's, or etcd does not answer; it may be written all the same then.
    pub async fn put(&mut self, wanted: &SessionRecords) -> Result<(), ClaimError> {
        let key = Key::Environment(self.name.clone());
        for _ in 0..TRIES {
            match self.try_put(&key, wanted).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                // It ran out, as while the machine was asleep, and took the keys along.
                Err(ClaimError::Store(error)) if error.is_lease_lost() => self.forget(),
                Err(error) => return Err(error),
            }
        }
        Err(ClaimError::Gone(self.name.clone()))
    }

    /// Whether it was written: not if another writer was quicker.
    async fn try_put(&mut self, key: &Key, wanted: &SessionRecords) -> Result<bool, ClaimError> {
        let lease = match self.lease {
            Some(lease) => lease,
            None => *self.lease.insert(self.store.grant(self.ttl).await?),
        };
        let guard = match self.store.get(key).await? {
            Some(entry) if entry.lease == Some(lease.id) => Guard::OwnedBy(lease.id),
            _ if self.is_held => return Err(self.gone_or_lost(lease).await),
            Some(entry) => return Err(self.taken(&entry)),
            None => Guard::Absent,
        };
        let (instance, value) = &wanted.instance;
        let mut writes = vec![
            Write::Put(key.clone(), wanted.environment.clone(), Some(lease.id)),
            Write::Put(instance.clone(), value.clone(), Some(lease.id)),
        ];
        let old = self.instances.iter().filter(|old| *old != instance);
        writes.extend(old.cloned().map(Write::Delete));
        if self.store.write_if(key, guard, writes).await?.is_none() {
            return Ok(false);
        }
        self.is_held = true;
        self.instances = BTreeSet::from([instance.clone()]);
        Ok(true)
    }

    /// Keeps the lease alive, and writes again what is missing.
    ///
    /// # Errors
    /// As [`SessionClaim::put`].
    pub async fn keep(&mut self, wanted: &SessionRecords) -> Result<(), ClaimError> {
        let Some(lease) = self.lease else {
            return self.put(wanted).await;
        };
        let kept = async {
            self.store.keep_alive(lease.id).await?;
            self.store.keys_of(lease.id).await
        };
        match kept.await {
            Ok(present) => {
                let keys = [Key::Environment(self.name.clone()), wanted.instance.0.clone()];
                let text = |key: &Key| self.store.keyspace().text(key);
                if keys.iter().all(|key| present.contains(&text(key))) {
                    return Ok(());
                }
            }
            Err(error) if error.is_lease_lost() => self.forget(),
            Err(error) => return Err(error.into()),
        }
        self.put(wanted).await
    }

    /// Deletes everything, by revoking the lease.
    ///
    /// # Errors
    /// When etcd does not answer; everything then ends with the lease.
    pub async fn end(&mut self) -> Result<(), StoreError> {
        match self.lease.take() {
            Some(lease) => self.store.revoke(lease.id).await,
            None => Ok(()),
        }
    }

    fn forget(&mut self) {
        (self.lease, self.is_held) = (None, false);
        self.instances.clear();
    }

    /// Why the environment is not there any more: with its lease, or by another writer.
    async fn gone_or_lost(&self, lease: Lease) -> ClaimError {
        match self.store.keep_alive(lease.id).await {
            Ok(()) => ClaimError::Gone(self.name.clone()),
            Err(error) => error.into(),
        }
    }

    fn taken(&self, entry: &Entry) -> ClaimError {
        taken(&self.name, records::parse(&entry.value).ok().as_ref())
    }
}

/// That a name belongs to another environment.
pub fn taken(name: &EnvironmentName, there: Option<&Environment>) -> ClaimError {
    let is_session = there.is_some_and(crate::registry::is_local);
    ClaimError::Taken {
        name: name.clone(),
        whose: there.map_or("by hand".to_owned(), origin),
        hint: if is_session { HINT } else { "" },
    }
}
