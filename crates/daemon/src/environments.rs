//! Environments in etcd. Registering one writes its record and its history in one step. The record
//! is under a lease of its time to live, so etcd ends it with every daemon down. The history stays
//! after its end. A router that sees a request for it renews the lease.

use std::time::{Duration, SystemTime};

use mayfly_core::keys::Key;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::ended::{ENDS_LAST, Ended};
use mayfly_core::records::{self, Environment};
use tracing::debug;

use crate::store::{Guard, Lease, LeaseId, LeaseLife, Store, StoreError, Write};

/// What a registration has written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The revision of the change.
    pub revision: i64,
    /// The lease that the record hangs on now.
    pub lease: Option<LeaseId>,
}

/// Registers an environment if `guard` holds for its key; `None` when it does not hold. `before` is
/// the lease that the key hung on; it is let go, unless something else hangs on it. An environment
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
) -> Result<Option<Written>, StoreError> {
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
) -> Result<Option<Written>, StoreError> {
    let lease = lease_for(store, environment, now).await?.map(|lease| lease.id);
    let name = environment.name.clone();
    let key = Key::Environment(name.clone());
    let writes = vec![
        Write::Put(key.clone(), value.clone(), lease),
        Write::Put(Key::History(name), value, None),
    ];
    let written = match guard {
        Guard::Absent => put_anew(store, &environment.name, writes).await,
        guard => store.write_if(&key, guard, writes).await,
    };
    // Whichever lease holds no key now is let go; that this may fail costs nothing but a lease that
    // runs out.
    let unused = match &written {
        Ok(Some(_)) => before,
        Ok(None) => lease,
        // What etcd refuses is not written.
        Err(error) if error.is_refusal() => lease,
        Err(_) => None,
    };
    if let Some(unused) = unused {
        if let Err(error) = store.revoke_unused(unused).await {
            debug!("{error}");
        }
    }
    Ok(written?.map(|revision| Written { revision, lease }))
}

/// Writes if there is no environment of this name, whose earlier end is past then. A role from
/// before ends were noted does not allow that: then the note stays, and counts for nothing while
/// the environment is there.
async fn put_anew(
    store: &Store,
    name: &EnvironmentName,
    writes: Vec<Write>,
) -> Result<Option<i64>, StoreError> {
    let key = Key::Environment(name.clone());
    let mut all = writes.clone();
    all.push(Write::Delete(Key::Ended(name.clone())));
    match store.write_if(&key, Guard::Absent, all).await {
        Err(error) if error.is_refusal() && !error.is_full() => {
            debug!("{error}");
            store.write_if(&key, Guard::Absent, writes).await
        }
        done => done,
    }
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

/// Deletes an environment if `guard` holds for its key, with its history if nothing of it is to be
/// remembered. Says whether it did.
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

/// Deletes an environment if `guard` holds for its key, and notes in the same step how it ended.
/// Its history stays. Says whether it was deleted. Where etcd refuses the note it is deleted all
/// the same: a role from before there were such notes does not allow them, and an etcd without
/// space takes deletes only.
///
/// # Errors
/// When etcd does not answer within the limit. It may be deleted all the same.
pub async fn end(
    store: &Store,
    name: &EnvironmentName,
    guard: Guard,
    ended: Option<&Ended>,
) -> Result<bool, StoreError> {
    if let Some(ended) = ended {
        let key = Key::Environment(name.clone());
        let noted = async {
            let note = note(name, ended, ENDS_LAST, store).await?;
            let writes = vec![Write::Delete(key.clone()), note];
            store.write_if(&key, guard, writes).await
        };
        match noted.await {
            Ok(revision) => return Ok(revision.is_some()),
            Err(error) if error.is_refusal() => debug!("{error}"),
            Err(error) => return Err(error),
        }
    }
    unregister(store, name, guard, false).await
}

/// Notes how an environment has ended, unless it is registered again. Says whether it was noted.
///
/// # Errors
/// When etcd refuses that, or does not answer within the limit.
pub async fn note_end(
    store: &Store,
    name: &EnvironmentName,
    ended: &Ended,
    now: SystemTime,
) -> Result<bool, StoreError> {
    let last = ended.at.after(ENDS_LAST).left(now);
    if last.is_zero() {
        return Ok(false);
    }
    let note = note(name, ended, last, store).await?;
    let key = Key::Environment(name.clone());
    Ok(store.write_if(&key, Guard::Absent, vec![note]).await?.is_some())
}

async fn note(
    name: &EnvironmentName,
    ended: &Ended,
    last: Duration,
    store: &Store,
) -> Result<Write, StoreError> {
    let lease = store.grant(last).await?;
    let value = records::to_json(ended);
    Ok(Write::Put(Key::Ended(name.clone()), value, Some(lease.id)))
}

/// Lets an environment that was used just now live on, as long as what it says of its life allows.
/// Only one with an `idle` time needs that. `mod_revision` and `lease` are those of its key as it
/// was last seen; one that was changed since is left alone, since whoever changed it has just done
/// the same. Says whether the environment was still there like that; one that has ended is not
/// brought back.
///
/// # Errors
/// When etcd does not answer within the limit.
pub async fn touch(
    store: &Store,
    environment: &Environment,
    mod_revision: i64,
    lease: Option<LeaseId>,
    now: SystemTime,
) -> Result<bool, StoreError> {
    let (Some(_), Some(lease), Some(wanted)) = (environment.idle, lease, environment.time_to_live(now))
    else {
        return Ok(false);
    };
    let Some(life) = store.lease_life(lease).await? else {
        return Ok(false);
    };
    match needed(life, wanted) {
        Need::Nothing => Ok(true),
        Need::KeepAlive => renew(store, lease).await,
        Need::OtherLease => {
            let guard = Guard::ModRevision(mod_revision);
            match register(store, environment, guard, Some(lease), now).await {
                // A router's role does not cover environments, and an etcd without space takes no
                // record. To live on for too long is better than to end while it is used: what is
                // past its expiry the registrar ends.
                Err(error) if error.is_refusal() => renew_if_short(store, lease, life, wanted).await,
                written => Ok(written?.is_some()),
            }
        }
    }
}

/// Gives a lease its whole time again. Says whether it was still there.
async fn renew(store: &Store, lease: LeaseId) -> Result<bool, StoreError> {
    match store.keep_alive(lease).await {
        Err(error) if error.is_lease_lost() => Ok(false),
        done => done.map(|()| true),
    }
}

/// The same where what is left is less than what is wanted.
async fn renew_if_short(
    store: &Store,
    lease: LeaseId,
    life: LeaseLife,
    wanted: Duration,
) -> Result<bool, StoreError> {
    match life.left < wanted {
        true => renew(store, lease).await,
        false => Ok(true),
    }
}

/// What a lease needs so that its key lives for a certain time from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    Nothing,
    KeepAlive,
    OtherLease,
}

/// Spans that differ by less are the same: etcd counts whole seconds, grants two at least, and
/// clocks differ.
const SLACK: Duration = Duration::from_secs(2);

/// A keep-alive gives the lease its whole time again: that is right while nothing but idleness ends
/// the environment. Where it expires before, or was kept for longer, its lease ends at that moment
/// already, and use does not move it.
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
