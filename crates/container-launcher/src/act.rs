//! Does what a plan says: one task for each unit, so that a slow image holds up nobody else. What a task is doing, and how
//! it ended, comes back as messages; a unit counts as busy until an inventory has been made after its task's end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_core::version::BackendId;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::engine::{Engine, Progress};
use crate::plan::{Doing, Plan};

/// How many of the last lines of a failed unit are kept.
const LINES: usize = 10;
/// How long a unit that could not be removed is left alone.
const REST: Duration = Duration::from_secs(2);

/// What became of a unit.
#[derive(Debug)]
pub enum Outcome {
    /// It is started.
    Started,
    /// It could not be started, or has failed and been removed: why, and what it printed last.
    Failed(String, Vec<String>),
    /// It is removed.
    Removed,
    /// It could not be removed.
    Stays,
}

/// A message of a task.
#[derive(Debug)]
pub enum Told {
    /// How far the start of a unit is.
    Progress(String, Progress),
    /// What became of a unit of a backend.
    Outcome(String, BackendId, Outcome),
}

/// The tasks.
#[derive(Debug)]
pub struct Crew<E> {
    engine: Arc<E>,
    /// How long a unit may take to end by itself once it is stopped.
    grace: Duration,
    busy: BTreeMap<String, (BackendId, Doing)>,
    /// When the tasks of those units ended that are busy only until the next inventory.
    ended: BTreeMap<String, Instant>,
    tasks: JoinSet<()>,
    sender: mpsc::UnboundedSender<Told>,
    messages: mpsc::UnboundedReceiver<Told>,
}

impl<E: Engine> Crew<E> {
    /// Nothing to do yet.
    pub fn new(engine: Arc<E>, grace: Duration) -> Self {
        let (sender, messages) = mpsc::unbounded_channel();
        Self {
            engine,
            grace,
            busy: BTreeMap::new(),
            ended: BTreeMap::new(),
            tasks: JoinSet::new(),
            sender,
            messages,
        }
    }

    /// The units that something is being done with.
    pub fn busy(&self) -> &BTreeMap<String, (BackendId, Doing)> {
        &self.busy
    }

    /// Waits for the next message, for ever if need be; safe in `select!`.
    pub async fn told(&mut self) -> Told {
        let told = match self.messages.recv().await {
            Some(told) => told,
            // `self` holds a sender.
            None => std::future::pending().await,
        };
        match &told {
            Told::Progress(name, progress) => {
                if let Some((_, doing)) = self.busy.get_mut(name) {
                    *doing = Doing::Starting(*progress);
                }
            }
            Told::Outcome(name, ..) => drop(self.ended.insert(name.clone(), Instant::now())),
        }
        told
    }

    /// Takes note of an inventory that was begun at a moment: what ended before is no longer busy.
    pub fn listed(&mut self, begun: Instant) {
        self.ended.retain(|name, ended| {
            let stays = *ended >= begun;
            if !stays {
                self.busy.remove(name);
            }
            stays
        });
        while let Some(ended) = self.tasks.try_join_next() {
            if let Err(error) = ended {
                if error.is_panic() {
                    // Its unit would be busy for ever.
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        }
    }

    /// Gives up all that is being done: somebody else goes on with it.
    pub fn give_up(&mut self) {
        self.tasks.abort_all();
        self.busy.clear();
        self.ended.clear();
        // What the tasks have told is of no interest any more.
        while self.messages.try_recv().is_ok() {}
    }

    /// Begins what a plan says.
    pub fn carry_out(&mut self, plan: &Plan) {
        for (backend, launch) in &plan.starts {
            info!("{backend}: starting {} from {}", launch.name, launch.image);
            let (engine, launch) = (self.engine.clone(), launch.clone());
            let sender = self.sender.clone();
            let doing = Doing::Starting(Progress::Starting);
            self.begin(backend, launch.name.clone(), doing, async move {
                let told = |progress| drop(sender.send(Told::Progress(launch.name.clone(), progress)));
                match engine.start(&launch, told).await {
                    Ok(()) => Outcome::Started,
                    Err(error) => {
                        let output = engine.output(&launch.name, LINES).await;
                        // What may be left of it would be taken for another failure.
                        let (name, backend) = (&launch.name, &launch.backend);
                        if let Err(left) = engine.remove(name, backend, Duration::ZERO).await {
                            debug!("{left:#}");
                        }
                        Outcome::Failed(format!("{error:#}"), output)
                    }
                }
            });
        }
        for (backend, name, reason) in &plan.clears {
            let (engine, unit, reason) = (self.engine.clone(), name.clone(), reason.clone());
            let (grace, of) = (self.grace, backend.clone());
            self.begin(backend, name.clone(), Doing::Clearing, async move {
                let output = engine.output(&unit, LINES).await;
                if let Err(error) = engine.remove(&unit, &of, grace).await {
                    warn!("cannot remove {unit}, which has failed ({reason}): {error:#}; trying again");
                    tokio::time::sleep(REST).await;
                    return Outcome::Stays;
                }
                Outcome::Failed(reason, output)
            });
        }
        for (backend, name) in &plan.removes {
            info!("{backend}: stopping and removing {name}");
            let (engine, unit, grace) = (self.engine.clone(), name.clone(), self.grace);
            let of = backend.clone();
            self.begin(backend, name.clone(), Doing::Removing, async move {
                match engine.remove(&unit, &of, grace).await {
                    Ok(()) => Outcome::Removed,
                    Err(error) => {
                        warn!("cannot remove {unit}: {error:#}; trying again");
                        tokio::time::sleep(REST).await;
                        Outcome::Stays
                    }
                }
            });
        }
    }

    fn begin(
        &mut self,
        backend: &BackendId,
        name: String,
        doing: Doing,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) {
        self.busy.insert(name.clone(), (backend.clone(), doing));
        let (sender, backend) = (self.sender.clone(), backend.clone());
        self.tasks.spawn(async move {
            let outcome = work.await;
            let _ = sender.send(Told::Outcome(name, backend, outcome));
        });
    }

    /// Waits until every task has ended, at most so long; the others are given up half way, and whoever leads next goes
    /// on with them.
    pub async fn finish(&mut self, limit: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(limit, all).await;
        self.tasks.abort_all();
    }
}
