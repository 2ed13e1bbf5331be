//! Environments in etcd: registering one puts its record and, for the time after its end, its history in one step, under
//! a lease of the time that it has to live. etcd then ends it with every daemon down; whoever sees a request for it lets
//! it live on.

use std::time::{Duration, SystemTime};

use mayfly_core::keys::Key;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::{self, Environment};
use tracing::debug;

use crate::store::{Entry, Guard, Lease, LeaseId, LeaseLife, Store, StoreError, Write};

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
    let value = records::to_json(environment);
    register_value(store, (environment, value), guard, before, now).await
}

/// As [`register`], with a value that says the same as the environment, and may say more.
///
/// # Errors
/// As [`register`].
pub async fn register_value(
    store: &Store,
    (environment, value): (&Environment, Vec<u8>),
    guard: Guard,
    before: Option<LeaseId>,
    now: SystemTime,
) -> Result<Option<i64>, StoreError> {
    let lease = lease_for(store, environment, now).await?.map(|lease| lease.id);
    let name = environment.name.clone();
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

/// Lets an environment that was used just now live on, as long as what it says of its life allows. Only one with an
/// `idle` time needs that. `entry` is its key as it was last seen; one that was changed since is left alone, since whoever
/// changed it has just done the same. Says whether the environment was still there as `entry` has it; one that has ended
/// is not brought back.
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
    match needed(life, wanted) {
        Need::Nothing => Ok(true),
        Need::KeepAlive => match store.keep_alive(lease).await {
            Err(error) if error.is_lease_lost() => Ok(false),
            done => done.map(|()| true),
        },
        Need::OtherLease => {
            let guard = Guard::ModRevision(entry.mod_revision);
            let written = register(store, environment, guard, Some(lease), now).await?;
            Ok(written.is_some())
        }
    }
}

/// What a lease needs so that its key lives for a certain time from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    KeepAlive,
    OtherLease,
}

/// Spans that differ by less are the same: etcd counts whole seconds, grants two at least, and clocks differ.
const SLACK: Duration = Duration::from_secs(2);

/// A keep-alive gives the lease its whole time again: that is right while nothing but idleness ends the environment.
/// Where it expires before, or was kept for longer, its lease ends at that moment already, and use does not move it.
fn needed(life: LeaseLife, wanted: Duration) -> Need {
    let same = |a: Duration, b: Duration| a <= b + SLACK && b <= a + SLACK;
    if same(life.granted, wanted) {
        Need::KeepAlive
    } else if same(life.left, wanted) {
        Need::Nothing
    } else {
        Need::OtherLease
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(granted: u64, left: u64, wanted: u64, need: Need) {
        let [granted, left, wanted] = [granted, left, wanted].map(Duration::from_secs);
        assert_eq!(
            needed(LeaseLife { granted, left }, wanted),
            need,
            "{left:?} of {granted:?} left, {wanted:?} wanted"
        );
    }

    #[test]
    fn use_gives_an_idle_one_its_whole_time_again() {
        check(28_800, 100, 28_800, Need::KeepAlive);
        check(28_800, 28_800, 28_800, Need::KeepAlive);
        check(2, 1, 1, Need::KeepAlive);
    }

    #[test]
    fn the_end_of_one_that_expires_before_is_reached_once_and_then_left_alone() {
        check(28_800, 7_200, 14_400, Need::OtherLease);
        check(14_400, 14_000, 14_000, Need::Nothing);
        check(14_400, 60, 60, Need::Nothing);
    }

    #[test]
    fn one_that_was_kept_for_longer_is_left_alone_until_its_idle_time_is_longer() {
        check(86_400, 50_000, 50_000, Need::Nothing);
        check(86_400, 20_000, 28_800, Need::OtherLease);
    }
}
