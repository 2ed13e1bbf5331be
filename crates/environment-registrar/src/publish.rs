//! Carries out a plan: conditional writes to etcd, several at once, each noted in the mirror as soon as it is done.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mayfly_core::keys::Key;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;
use mayfly_daemon::environments::{register, unregister};
use mayfly_daemon::store::{Entry, Guard, Store, StoreError};
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::mirror::Mirror;
use crate::plan::{Doubt, Plan, Put};

/// Writes on their way at the same time; etcd writes those to disk together.
const AT_ONCE: usize = 32;

/// How a plan was carried out.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Records put.
    pub puts: u64,
    /// Records deleted.
    pub deletes: u64,
    /// What took effect, as the library has it: put, or found in etcd as it should be.
    pub in_force: Vec<Arc<Environment>>,
    /// The environments that are gone by it.
    pub gone: Vec<EnvironmentName>,
    /// Whether somebody else had changed a record in between; the mirror knows of it now.
    pub conflict: bool,
}

/// One write.
enum Write {
    /// Boxed, for most writes are of many.
    Put(Box<Put>),
    Delete(EnvironmentName, Guard),
    End(EnvironmentName, Guard),
}

/// Carries out a plan.
///
/// # Errors
/// The first write or read that fails; those that were done are noted in the mirror and in `outcome`. What etcd refuses
/// holds up nothing else; when it does not answer, nothing more is begun.
pub async fn publish(
    store: &Store,
    mirror: &mut Mirror,
    plan: Plan,
    outcome: &mut Outcome,
) -> Result<(), StoreError> {
    for environment in &plan.same {
        mirror.same(environment);
        outcome.in_force.push(environment.clone());
    }
    let mut puts = plan.puts;
    puts.extend(settle(store, mirror, plan.doubts).await?);
    let puts = puts.into_iter().map(|put| Write::Put(Box::new(put))).collect();
    let deletes = plan.deletes.into_iter();
    let deletes = deletes.map(|(name, guard)| Write::Delete(name, guard));
    let ends = plan.ends.into_iter();
    let ends = ends.map(|(name, guard)| Write::End(name, guard));
    let put = write_all(store, mirror, puts, outcome).await;
    if put.as_ref().is_err_and(|error| !error.is_refusal()) {
        return put;
    }
    let deleted = write_all(store, mirror, deletes.chain(ends).collect(), outcome).await;
    put.and(deleted)
}

/// Looks at the leases that are in doubt; gives the records to put again because theirs is wrong.
async fn settle(store: &Store, mirror: &mut Mirror, doubts: Vec<Doubt>) -> Result<Vec<Put>, StoreError> {
    let (mut puts, mut under_way) = (Vec::new(), JoinSet::new());
    let mut doubts = doubts.into_iter();
    loop {
        while under_way.len() < AT_ONCE {
            let Some(doubt) = doubts.next() else { break };
            let store = store.clone();
            under_way.spawn(async move {
                let life = store.lease_life(doubt.lease).await;
                (doubt, life)
            });
        }
        let Some(ended) = under_way.join_next().await else {
            return Ok(puts);
        };
        let Ok((doubt, life)) = ended else { continue };
        // A lease that etcd does not know any more takes its keys along in this moment.
        let left = life?.map_or(Duration::ZERO, |life| life.left);
        if left.is_zero() || doubt.is_settled_by(left) {
            mirror.lease_is_good(&doubt.put.environment.name);
        } else {
            puts.push(doubt.put);
        }
    }
}

async fn write_all(
    store: &Store,
    mirror: &mut Mirror,
    writes: Vec<Write>,
    outcome: &mut Outcome,
) -> Result<(), StoreError> {
    let mut under_way = JoinSet::new();
    let mut writes = writes.into_iter();
    let mut failure: Option<StoreError> = None;
    loop {
        let goes_on = failure
            .as_ref()
            .is_none_or(|error| error.is_refusal() && !error.is_full());
        while goes_on && under_way.len() < AT_ONCE {
            let Some(write) = writes.next() else { break };
            let store = store.clone();
            under_way.spawn(async move {
                let done = carry_out(&store, &write).await;
                (write, done)
            });
        }
        // A task that panicked, where that does not end the program, has told so; its write is planned again with the next round.
        let Some(ended) = under_way.join_next().await else {
            break;
        };
        let Ok((write, done)) = ended else { continue };
        match done {
            Ok(Some(revision)) => note(mirror, &write, revision, outcome),
            Ok(None) => {
                outcome.conflict = true;
                let name = write.name();
                debug!("environment {name} was changed by somebody else in between");
                match read(store, name).await {
                    Ok((entry, history)) => mirror.refresh(name, entry, history),
                    Err(error) => failure = worse(failure, error),
                }
            }
            Err(error) => failure = worse(failure, error),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// The failure to go by: that etcd does not answer weighs more than that it refuses something.
fn worse(failure: Option<StoreError>, error: StoreError) -> Option<StoreError> {
    Some(match failure {
        Some(first) if !first.is_refusal() || error.is_refusal() => first,
        _ => error,
    })
}

/// The record of an environment and its history. Read one after the other: what happens in between the watch tells.
async fn read(store: &Store, name: &EnvironmentName) -> Result<(Option<Entry>, Option<Entry>), StoreError> {
    let entry = store.get(&Key::Environment(name.clone())).await?;
    let history = store.get(&Key::History(name.clone())).await?;
    Ok((entry, history))
}

/// The revision of the write; `None` when the guard did not hold.
async fn carry_out(store: &Store, write: &Write) -> Result<Option<i64>, StoreError> {
    match write {
        Write::Put(put) => register(store, &put.record(), put.guard, put.before, SystemTime::now()).await,
        Write::Delete(name, guard) => {
            let done = unregister(store, name, *guard, true).await?;
            Ok(done.then_some(0))
        }
        Write::End(name, guard) => {
            let done = unregister(store, name, *guard, false).await?;
            Ok(done.then_some(0))
        }
    }
}

fn note(mirror: &mut Mirror, write: &Write, revision: i64, outcome: &mut Outcome) {
    match write {
        Write::Put(put) => {
            let environment = &put.environment;
            mirror.published(environment, put.life.clone(), revision);
            outcome.puts += 1;
            outcome.in_force.push(environment.clone());
            let file = environment
                .source
                .as_ref()
                .map_or("?", |source| source.file.as_str());
            let name = &environment.name;
            match &put.life.refused {
                None => info!("published environment {name} of {file} (revision {revision})"),
                Some(reason) => info!("published environment {name} again (revision {revision}): {reason}"),
            }
        }
        Write::Delete(name, _) => {
            mirror.deleted(name);
            outcome.deletes += 1;
            outcome.gone.push(name.clone());
            info!("deleted environment {name}: no file names it");
        }
        Write::End(name, _) => {
            mirror.ended_now(name);
            outcome.deletes += 1;
            outcome.gone.push(name.clone());
            info!("deleted environment {name}: its time is over");
        }
    }
}

impl Write {
    fn name(&self) -> &EnvironmentName {
        match self {
            Self::Put(put) => &put.environment.name,
            Self::Delete(name, _) | Self::End(name, _) => name,
        }
    }
}
