//! Carries out a plan: conditional writes to etcd, several at once, each noted in the actual as
//! soon as it is done.

use std::time::Duration;

use mayfly_daemon::environments::Written;
use mayfly_daemon::store::{Guard, Store, StoreError};
use mayfly_daemon::watch::{Change, look_up};
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::actual::Actual;
use crate::environments::Environments;
use crate::plan::{Doubt, Plan, Put};
use crate::resource::{Name, Part, Resource, SharedRecord};

pub mod answered;
pub mod ends;

/// Writes on their way at the same time; etcd writes those to disk together.
const AT_ONCE: usize = 32;

/// How a plan was carried out.
#[derive(Debug, Default)]
pub struct Applied<K: Resource = Environments> {
    /// How many records were put.
    pub puts: u64,
    /// What took effect, as the files have it: put, or found in etcd as it should be.
    pub in_force: Vec<SharedRecord<K>>,
    /// What was deleted with its file, as far as it could be read.
    pub deleted: Vec<(Name<K>, Option<SharedRecord<K>>)>,
    /// What was deleted because its time was over.
    pub ended: Vec<Name<K>>,
    /// What etcd refuses to take, and why.
    pub rejected: Vec<(SharedRecord<K>, String)>,
    /// Whether another writer had changed a record in between; the actual knows of it now.
    pub conflict: bool,
}

impl<K: Resource> Applied<K> {
    /// The records that are gone by it.
    pub fn gone(&self) -> impl Iterator<Item = &K::Name> {
        self.deleted.iter().map(|(name, _)| name).chain(&self.ended)
    }
}

enum PlannedWrite<K: Resource> {
    /// Boxed, for most writes are of many.
    Put(Box<Put<K>>),
    Delete(K::Name, Guard),
    End(K::Name, Guard),
}

/// Carries out a plan.
///
/// # Errors
/// The first write or read that fails; those that were done are noted in the actual and in
/// `outcome`. What etcd refuses holds up nothing else; when it does not answer, nothing more is
/// begun.
pub async fn apply<K: Resource>(
    store: &Store,
    actual: &mut Actual<K>,
    plan: Plan<K>,
    outcome: &mut Applied<K>,
) -> Result<(), StoreError> {
    for record in plan.same {
        actual.same(&record);
        outcome.in_force.push(record);
    }
    let mut puts = plan.puts;
    puts.extend(settle(store, actual, plan.doubts).await?);
    let puts = puts
        .into_iter()
        .map(|put| PlannedWrite::Put(Box::new(put)))
        .collect();
    let deletes = plan.deletes.into_iter();
    let deletes = deletes.map(|(name, guard)| PlannedWrite::Delete(name, guard));
    let ends = plan.ends.into_iter();
    let ends = ends.map(|(name, guard)| PlannedWrite::End(name, guard));
    let put = write_all(store, actual, puts, outcome).await;
    if put.as_ref().is_err_and(|error| !error.is_refusal()) {
        return put;
    }
    let deleted = write_all(store, actual, deletes.chain(ends).collect(), outcome).await;
    put.and(deleted)
}

/// Looks at the leases that are in doubt; gives the records to put again because theirs is wrong.
async fn settle<K: Resource>(
    store: &Store,
    actual: &mut Actual<K>,
    doubts: Vec<Doubt<K>>,
) -> Result<Vec<Put<K>>, StoreError> {
    let (mut puts, mut failure) = (Vec::new(), None);
    let look = |doubt: Doubt<K>| {
        let store = store.clone();
        async move { (store.lease_life(doubt.lease).await, doubt) }
    };
    at_once(doubts, look, |(life, doubt)| {
        match life {
            // A lease that etcd does not know any more takes its keys along in this moment.
            Ok(life) => match life.map_or(Duration::ZERO, |life| life.left) {
                left if left.is_zero() || doubt.is_settled_by(left) => actual.lease_is_good(doubt.put.name()),
                _ => puts.push(doubt.put),
            },
            Err(error) => failure = Some(error),
        }
        failure.is_none()
    })
    .await;
    failure.map_or(Ok(puts), Err)
}

async fn write_all<K: Resource>(
    store: &Store,
    actual: &mut Actual<K>,
    writes: Vec<PlannedWrite<K>>,
    outcome: &mut Applied<K>,
) -> Result<(), StoreError> {
    let (mut conflicts, mut failure) = (Vec::new(), None);
    let write = |write: PlannedWrite<K>| {
        let store = store.clone();
        async move { (carry_out(&store, &write).await, write) }
    };
    at_once(writes, write, |(done, write)| {
        match (done, write) {
            (Ok(Some(written)), write) => note(actual, write, written, outcome),
            (Ok(None), write) => conflicts.push(write),
            (Err(error), write) => {
                if let PlannedWrite::Put(put) = write {
                    let refused = error.is_refusal().then(|| (put.record, error.to_string()));
                    outcome.rejected.extend(refused);
                }
                failure = worse(failure.take(), error);
            }
        }
        failure
            .as_ref()
            .is_none_or(|error| error.is_refusal() && !error.is_full())
    })
    .await;
    for name in conflicts.iter().map(PlannedWrite::name) {
        outcome.conflict = true;
        if failure.as_ref().is_some_and(|error| !error.is_refusal()) {
            // After a failure everything is planned again.
            break;
        }
        debug!("another writer has changed {} meanwhile", K::title(name));
        match read::<K>(store, name).await {
            Ok((record, history)) => actual.refresh(name, record, history),
            Err(error) => failure = worse(failure, error),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Does this for all of them, several at once, until `done` says of one that nothing more is to be
/// begun.
pub async fn at_once<Item, Work, Done>(
    items: impl IntoIterator<Item = Item>,
    work: impl Fn(Item) -> Work,
    mut done: impl FnMut(Done) -> bool,
) where
    Work: Future<Output = Done> + Send + 'static,
    Done: Send + 'static,
{
    let (mut items, mut under_way, mut goes_on) = (items.into_iter(), JoinSet::new(), true);
    loop {
        while goes_on && under_way.len() < AT_ONCE {
            let Some(item) = items.next() else { break };
            under_way.spawn(work(item));
        }
        // Of a task that panicked, where that does not end the program, what it did is planned
        // again with the next round.
        match under_way.join_next().await {
            None => return,
            Some(Ok(ended)) => goes_on &= done(ended),
            Some(Err(_)) => {}
        }
    }
}

/// The failure to go by: that etcd does not answer weighs more than that it refuses something.
fn worse(failure: Option<StoreError>, error: StoreError) -> Option<StoreError> {
    Some(match failure {
        Some(first) if !first.is_refusal() || error.is_refusal() => first,
        _ => error,
    })
}

/// A record and its history. Read one after the other: what happens in between the watch reports.
async fn read<K: Resource>(
    store: &Store,
    name: &K::Name,
) -> Result<(Option<Change>, Option<Change>), StoreError> {
    let record = look_up(store, K::key(name.clone(), Part::Record)).await?;
    let history = match K::HAS_HISTORY {
        true => look_up(store, K::key(name.clone(), Part::History)).await?,
        false => None,
    };
    Ok((record, history))
}

/// `None` when the guard did not hold. The revision of a delete counts for nothing.
async fn carry_out<K: Resource>(
    store: &Store,
    write: &PlannedWrite<K>,
) -> Result<Option<Written>, StoreError> {
    let (name, guard, forget) = match write {
        PlannedWrite::Put(put) => {
            return K::put(store, &put.record, &put.life, (put.guard, put.before)).await;
        }
        PlannedWrite::Delete(name, guard) => (name, guard, true),
        PlannedWrite::End(name, guard) => (name, guard, false),
    };
    let done = K::delete(store, name, *guard, forget).await?;
    Ok(done.then_some(Written {
        revision: 0,
        lease: None,
    }))
}

fn note<K: Resource>(
    actual: &mut Actual<K>,
    write: PlannedWrite<K>,
    Written { revision, lease }: Written,
    outcome: &mut Applied<K>,
) {
    let title = K::title(write.name());
    match write {
        PlannedWrite::Put(put) => {
            let file = K::source(&put.record).map_or("?", |source| source.file.as_str());
            match K::refused(&put.life) {
                None => info!("registered {title} from {file} (revision {revision})"),
                Some(reason) => info!("{title}: {reason} (revision {revision})"),
            }
            actual.wrote(&put.record, put.life, revision);
            actual.hangs_on(K::name(&put.record), lease);
            outcome.puts += 1;
            outcome.in_force.push(put.record);
        }
        PlannedWrite::Delete(name, _) => {
            let held = actual.records().get(&name);
            let record = held.and_then(|held| held.record.as_ref().ok()).cloned();
            actual.deleted(&name);
            info!("deleted {title}: it is no longer in any file");
            outcome.deleted.push((name, record));
        }
        PlannedWrite::End(name, _) => {
            actual.ended_now(&name);
            info!("deleted {title}: it has expired");
            outcome.ended.push(name);
        }
    }
}

impl<K: Resource> PlannedWrite<K> {
    fn name(&self) -> &K::Name {
        match self {
            Self::Put(put) => put.name(),
            Self::Delete(name, _) | Self::End(name, _) => name,
        }
    }
}
