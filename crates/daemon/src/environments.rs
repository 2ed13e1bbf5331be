//! Environments in etcd: registering one puts its record and, for the time after its end, its history in one step, under
//! a lease of the time that it has to live. etcd then ends it with every daemon down; whoever sees a request for it lets
//! it live on.

use std::time::{Duration, SystemTime};

use mayfly_core::keys::Key;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::{self, Environment};
use tracing::debug;

use crate::store::{Entry, Guard, Lease, LeaseId, Store, StoreError, Write};

/// Registers an environment if `guard` holds for its key, and gives the revision of the change; `None` when it does not
/// hold. `before` is the lease that the key hung on; it is let go, unless something else hangs on it. An environment
/// whose time is over is registered for the shortest time that etcd knows, some two seconds.
///
/// # Errors
/// When etcd does not answer within the limit. The record may stand there all the same.
pub async fn register(
    store: &Store,
    environment: &Environment,
    guard: Guard,
    before: Option<LeaseId>,
    now: SystemTime,
) -> Result<Option<i64>, StoreError> {
    let lease = lease_for(store, environment, now).await?.map(|lease| lease.id);
    let (name, value) = (environment.name.clone(), records::to_json(environment));
    let key = Key::Environment(name.clone());
    let writes = vec![
        Write::Put(key.clone(), value.clone(), lease),
        Write::Put(Key::History(name), value, None),
    ];
    let written = store.write_if(&key, guard, writes).await;
    // Whichever lease holds no key now is let go; that this may fail costs nothing but a lease that runs out.
    let unused = match &written {
        Ok(Some(_)) => before,
        Ok(None) => lease,
        Err(_) => None,
    };
    if let Some(unused) = unused {
        if let Err(error) = let_go(store, unused).await {
            debug!("{error}");
        }
    }
    written
}

/// Revokes a lease that holds no key: one that somebody has put by hand may hold several.
async fn let_go(store: &Store, lease: LeaseId) -> Result<(), StoreError> {
    if store.keys_of(lease).await?.is_empty() {
        store.revoke(lease).await?;
    }
    Ok(())
}

async fn lease_for(
    store: &Store,
    environment: &Environment,
    now: SystemTime,
) -> Result<Option<Lease>, StoreError> {
    match environment.time_to_live(now) {
        Some(span) => store.grant(span).await.map(Some),
        None => Ok(None),
    }
}

/// Deletes an environment if `guard` holds for its key, with its history if nothing of it is to be remembered. Says
/// whether it did.
///
/// # Errors
/// When etcd does not answer within the limit. It may be deleted all the same.
pub async fn unregister(
    store: &Store,
    name: &EnvironmentName,
    guard: Guard,
    forget: bool,
) -> Result<bool, StoreError> {
    let key = Key::Environment(name.clone());
    let mut writes = vec![Write::Delete(key.clone())];
    if forget {
        writes.push(Write::Delete(Key::History(name.clone())));
    }
    Ok(store.write_if(&key, guard, writes).await?.is_some())
}

/// Lets an environment that was used just now live on, as long as what it says of its life allows. Only one with an `idle`
/// time needs that; says whether it was done. `entry` is its key as it was last seen; one that was changed since is left alone: whoever changed it
/// has just done the same.
///
/// # Errors
/// When etcd does not answer within the limit.
pub async fn touch(
    store: &Store,
    environment: &Environment,
    entry: &Entry,
    now: SystemTime,
) -> Result<bool, StoreError> {
    let (Some(_), Some(lease), Some(wanted)) = (environment.idle, entry.lease, environment.time_to_live(now))
    else {
        return Ok(false);
    };
    let Some(life) = store.lease_life(lease).await? else {
        return Ok(false);
    };
    // A keep-alive gives the lease its whole time again: that must not pass the end of the environment.
    let slack = Duration::from_secs(2);
    if life.granted <= wanted + slack && wanted <= life.granted + slack {
        store.keep_alive(lease).await?;
        return Ok(true);
    }
    let guard = Guard::ModRevision(entry.mod_revision);
    Ok(register(store, environment, guard, Some(lease), now)
        .await?
        .is_some())
}
