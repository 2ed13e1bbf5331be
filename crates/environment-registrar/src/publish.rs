//! Carries out a plan: conditional writes to etcd, several at once, each noted in the mirror as soon as it is done.

use std::sync::Arc;

use mayfly_core::keys::Key;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::{self, Environment};
use mayfly_daemon::store::{Guard, Store, StoreError};
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::mirror::Mirror;
use crate::plan::Plan;

/// Writes on their way at the same time; etcd writes those to disk together.
const AT_ONCE: usize = 32;

/// How a plan was carried out.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Records put.
    pub puts: u64,
    /// Records deleted.
    pub deletes: u64,
    /// Whether somebody else had changed a record in between; the mirror knows of it now.
    pub conflict: bool,
}

/// One write.
enum Write {
    Put(Arc<Environment>, Guard),
    Delete(EnvironmentName, Guard),
}

/// Carries out a plan.
///
/// # Errors
/// The first write or read that fails; those that were done by then are noted in the mirror and in `outcome`.
pub async fn publish(
    store: &Store,
    mirror: &mut Mirror,
    plan: Plan,
    outcome: &mut Outcome,
) -> Result<(), StoreError> {
    for environment in &plan.same {
        mirror.same(environment);
    }
    let puts = plan
        .puts
        .into_iter()
        .map(|(environment, guard)| Write::Put(environment, guard))
        .collect();
    let deletes = plan
        .deletes
        .into_iter()
        .map(|(name, guard)| Write::Delete(name, guard))
        .collect();
    write_all(store, mirror, puts, outcome).await?;
    write_all(store, mirror, deletes, outcome).await
}

async fn write_all(
    store: &Store,
    mirror: &mut Mirror,
    writes: Vec<Write>,
    outcome: &mut Outcome,
) -> Result<(), StoreError> {
    let mut under_way = JoinSet::new();
    let mut writes = writes.into_iter();
    let mut failure = None;
    loop {
        while failure.is_none() && under_way.len() < AT_ONCE {
            let Some(write) = writes.next() else { break };
            let store = store.clone();
            under_way.spawn(async move {
                let done = carry_out(&store, &write).await;
                (write, done)
            });
        }
        // A task that panicked has told so; what it was to write is planned again with the next round.
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
                let entry = store.get(&Key::Environment(name.clone())).await;
                match entry {
                    Ok(entry) => mirror.refresh(name, entry),
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            Err(error) => failure = failure.or(Some(error)),
        }
    }
    failure.map_or(Ok(()), Err)
}

/// The revision of the write; `None` when the guard did not hold.
async fn carry_out(store: &Store, write: &Write) -> Result<Option<i64>, StoreError> {
    match write {
        Write::Put(environment, guard) => {
            let key = Key::Environment(environment.name.clone());
            store
                .put_if(&key, records::to_json(environment.as_ref()), None, *guard)
                .await
        }
        Write::Delete(name, guard) => {
            let done = store.delete_if(&Key::Environment(name.clone()), *guard).await?;
            Ok(done.then_some(0))
        }
    }
}

fn note(mirror: &mut Mirror, write: &Write, revision: i64, outcome: &mut Outcome) {
    match write {
        Write::Put(environment, _) => {
            mirror.published(environment, revision);
            outcome.puts += 1;
            let file = environment
                .source
                .as_ref()
                .map_or("?", |source| source.file.as_str());
            info!(
                "published environment {} of {file} (revision {revision})",
                environment.name
            );
        }
        Write::Delete(name, _) => {
            mirror.deleted(name);
            outcome.deletes += 1;
            info!("deleted environment {name}: no file names it");
        }
    }
}

impl Write {
    fn name(&self) -> &EnvironmentName {
        match self {
            Self::Put(environment, _) => &environment.name,
            Self::Delete(name, _) => name,
        }
    }
}
