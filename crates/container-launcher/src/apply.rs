//! Carries out a plan: one task for each unit, so that a slow image holds up no other. Messages
//! report what a task is doing and how it ended; a unit counts as busy until an inventory has been
//! made after its task's end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mayfly_core::version::BackendId;
use mayfly_daemon::output::printable;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

use crate::engine::{Engine, NotOurs, Progress};
use crate::plan::{Doing, LaunchPlan};

/// How many of the last lines of a failed unit are kept.
const LINES: usize = 10;
/// How long a unit that could not be removed is left alone.
const REST: Duration = Duration::from_secs(2);

/// Why a unit is still there. What is not ours is not tried again.
fn not_removed(unit: &str, error: &anyhow::Error) -> String {
    match error.downcast_ref::<NotOurs>() {
        Some(why) => format!("did not remove `{unit}`: {why}"),
        None => format!("cannot remove `{unit}`: {error:#}; retrying"),
    }
}

/// What became of a unit.
#[derive(Debug)]
pub enum Outcome {
    /// It was started; why its image could not be pulled, if the engine's was taken instead.
    Started(Option<String>),
    /// It could not be started, or has failed and been removed: why, and what it printed last.
    Failed(String, Vec<String>),
    Removed,
    /// It could not be removed.
    Stays,
}

/// A message of a task.
#[derive(Debug)]
pub enum Message {
    /// How far the start of a unit is.
    Progress(String, Progress),
    /// What became of a unit of a backend.
    Outcome(String, BackendId, Outcome),
}

#[derive(Debug)]
pub struct Workers<E> {
    engine: Arc<E>,
    /// How long a unit may take to end by itself once it is stopped.
    grace: Duration,
    busy: BTreeMap<String, (BackendId, Doing)>,
    /// When the tasks of those units ended that are busy only until the next inventory.
    ended: BTreeMap<String, Instant>,
    tasks: JoinSet<()>,
    sender: mpsc::UnboundedSender<Message>,
    messages: mpsc::UnboundedReceiver<Message>,
}

impl<E: Engine> Workers<E> {
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

    /// Waits for the next message. Safe in `select!`.
    pub async fn next_message(&mut self) -> Message {
        let message = match self.messages.recv().await {
            Some(message) => message,
            // `self` holds a sender.
            None => std::future::pending().await,
        };
        match &message {
            Message::Progress(name, progress) => {
                if let Some((_, doing)) = self.busy.get_mut(name) {
                    *doing = Doing::Starting(*progress);
                }
            }
            Message::Outcome(name, ..) => drop(self.ended.insert(name.clone(), Instant::now())),
        }
        message
    }

    /// Notes that an inventory was begun at a moment: what ended before is no longer busy.
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
                    // Its unit would stay busy.
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        }
    }

    /// Gives up all that is being done: another launcher goes on with it.
    pub fn give_up(&mut self) {
        self.tasks.abort_all();
        self.busy.clear();
        self.ended.clear();
        // The messages of the tasks no longer matter.
        while self.messages.try_recv().is_ok() {}
    }

    /// Begins to carry out a plan.
    pub fn carry_out(&mut self, plan: &LaunchPlan) {
        for (backend, launch) in &plan.starts {
            info!(
                "{backend}: starting `{}` from image {}",
                launch.name, launch.image
            );
            let (engine, launch) = (self.engine.clone(), launch.clone());
            let sender = self.sender.clone();
            let doing = Doing::Starting(Progress::Starting);
            self.begin(backend, launch.name.clone(), doing, async move {
                let report = |progress| drop(sender.send(Message::Progress(launch.name.clone(), progress)));
                match engine.start(&launch, report).await {
                    Ok(not_pulled) => Outcome::Started(not_pulled),
                    Err(error) => {
                        let output = engine.output(&launch.name, LINES).await;
                        // What may be left of it would count as another failure.
                        let (name, backend) = (&launch.name, &launch.backend);
                        if let Err(left) = engine.remove(name, backend, Duration::ZERO).await {
                            debug!("{backend}: {}", not_removed(name, &left));
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
                    let reason = printable(&reason);
                    warn!(
                        "{of}: `{unit}` has failed ({reason}); {}",
                        not_removed(&unit, &error)
                    );
                    tokio::time::sleep(REST).await;
                    return Outcome::Stays;
                }
                Outcome::Failed(reason, output)
            });
        }
        for (backend, name) in &plan.removes {
            info!("{backend}: stopping and removing `{name}`");
            let (engine, unit, grace) = (self.engine.clone(), name.clone(), self.grace);
            let of = backend.clone();
            self.begin(backend, name.clone(), Doing::Removing, async move {
                match engine.remove(&unit, &of, grace).await {
                    Ok(()) => Outcome::Removed,
                    Err(error) => {
                        warn!("{of}: {}", not_removed(&unit, &error));
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
            let _ = sender.send(Message::Outcome(name, backend, outcome));
        });
    }

    /// Waits until every task has ended, at most for `limit`; the others are given up half way, and
    /// the next leader goes on with them.
    pub async fn finish(&mut self, limit: Duration) {
        let all = async { while self.tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(limit, all).await;
        self.tasks.abort_all();
    }
}
