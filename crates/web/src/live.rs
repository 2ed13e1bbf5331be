//! What etcd says, followed into one state that all answers are made of. The daemon writes nothing,
//! and what it has stays in use while etcd is gone: then it says since when.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, SystemTime};

use mayfly_core::keys::Key;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::lifetime::Moment;
use mayfly_daemon::admin::{CommonMetrics, Readiness};
use mayfly_daemon::metrics::show;
use mayfly_daemon::store::{FULL, Store};
use mayfly_daemon::watch::{Batch, Watch};
use mayfly_state::report::{ends_of, idle_leases};
use mayfly_state::state::State;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use crate::problem::Problem;

/// How often to look whether etcd still answers.
const LOOK: Duration = Duration::from_secs(1);
/// How old the knowledge may be that etcd answers.
const SURE: Duration = Duration::from_secs(1);
/// How long no change may arrive before etcd counts as gone: a new listing takes shorter.
const DOUBT: Duration = Duration::from_secs(3);
/// How old what etcd is asked for besides the watch may be.
const FRESH: Duration = Duration::from_secs(5);
/// How long such a question may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// etcd tells what is left of a lease in whole seconds: a difference of so much is none.
const SAME_END: Duration = Duration::from_secs(3);

/// The state, and what the watch does not bring. Shared by all answers.
#[derive(Debug)]
pub struct Live {
    store: Store,
    state: RwLock<State>,
    facts: Mutex<Facts>,
    /// Counts the changes of state and facts.
    changes: watch::Sender<u64>,
    /// One question to etcd at a time.
    asking: tokio::sync::Mutex<Option<Instant>>,
    /// When etcd was asked last whether it answers, and whether it did.
    answered: tokio::sync::Mutex<Option<(Instant, bool)>>,
}

/// What the watch does not bring.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Facts {
    /// When environments end if nobody uses them.
    pub idle_ends: BTreeMap<EnvironmentName, Moment>,
    /// What is wrong with etcd itself.
    pub etcd: Option<&'static str>,
    /// Since when etcd does not answer.
    pub unreachable_since: Option<Moment>,
    /// Where environments are opened: a URL in which `*` stands for the prefix.
    pub edge_url: Option<String>,
}

impl Live {
    /// Nothing yet but where environments are opened.
    pub fn new(store: &Store, edge_url: Option<String>) -> Self {
        let facts = Facts {
            edge_url,
            ..Facts::default()
        };
        Self {
            store: store.clone(),
            state: RwLock::new(State::new(store.keyspace(), 1)),
            facts: Mutex::new(facts),
            changes: watch::Sender::new(0),
            asking: tokio::sync::Mutex::new(None),
            answered: tokio::sync::Mutex::new(None),
        }
    }

    /// The state, once etcd has answered.
    ///
    /// # Errors
    /// When it has not answered yet.
    pub fn state(&self) -> Result<RwLockReadGuard<'_, State>, Problem> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        match state.revision {
            0 => Err(Problem::unavailable(
                "etcd has not answered yet, so nothing is known; see the log of mayfly-web",
            )),
            _ => Ok(state),
        }
    }

    /// What the watch does not bring, as it is known now.
    pub fn facts(&self) -> Facts {
        self.lock().clone()
    }

    /// Tells of each change; the value counts them.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// How many changes there have been.
    pub fn version(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Follows etcd, without end.
    pub async fn follow(&self, mut watch: Watch, readiness: &Readiness, metrics: &CommonMetrics) {
        let in_sync = watch.metrics().in_sync;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut doubt: Option<(Instant, Moment)> = None;
        loop {
            tokio::select! {
                batch = watch.next_batch_coalesced() => {
                    metrics.applied_revision.set(batch.revision);
                    show(&metrics.set_aside, batch.set_aside.iter().count());
                    self.take(batch);
                    readiness.set_ready();
                }
                _ = looks.tick() => {
                    doubt = match in_sync.get() {
                        0 => doubt.or_else(|| Some((Instant::now(), last_heard(&watch)))),
                        _ => None,
                    };
                    let since = doubt.filter(|(begun, _)| begun.elapsed() >= DOUBT);
                    self.set_unreachable(since.map(|(_, moment)| moment));
                }
            }
        }
    }

    pub fn take(&self, batch: Batch) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.take(batch);
        drop(state);
        self.bump();
    }

    /// Says since when etcd does not answer.
    pub fn set_unreachable(&self, since: Option<Moment>) {
        let mut facts = self.lock();
        if facts.unreachable_since == since {
            return;
        }
        match since {
            Some(_) => warn!("etcd does not answer; mayfly-web shows the last known state"),
            None => info!("etcd answers again"),
        }
        facts.unreachable_since = since;
        drop(facts);
        self.bump();
    }

    /// Whether etcd answers, as of the last second. The watch notices a silent etcd only after some
    /// seconds; whoever acts on an answer asks here first.
    pub async fn is_sure(&self, name: &EnvironmentName) -> bool {
        let mut answered = self.answered.lock().await;
        if let Some((asked, outcome)) = *answered {
            if asked.elapsed() < SURE {
                return outcome;
            }
        }
        let key = Key::Environment(name.clone());
        let outcome = matches!(timeout(PATIENCE, self.store.get(&key)).await, Ok(Ok(_)));
        *answered = Some((Instant::now(), outcome));
        outcome
    }

    /// Asks etcd for what the watch does not bring, unless it was asked just now.
    pub async fn freshen(&self) {
        let mut asked = self.asking.lock().await;
        let is_fresh = asked.is_some_and(|asked| asked.elapsed() < FRESH);
        if is_fresh || self.facts().unreachable_since.is_some() {
            return;
        }
        let Ok(leases) = self.state().map(|state| idle_leases(&state, None)) else {
            return;
        };
        let now = SystemTime::now();
        let questions = async { tokio::join!(ends_of(&self.store, leases, now), self.store.is_full()) };
        let answered = timeout(PATIENCE, questions).await;
        *asked = Some(Instant::now());
        let Ok((ends, full)) = answered else { return };
        let mut facts = self.lock();
        let ends: BTreeMap<_, _> = ends
            .into_iter()
            .map(|(name, end)| {
                let before = facts.idle_ends.get(&name).copied();
                let end = before.filter(|before| is_same(*before, end)).unwrap_or(end);
                (name, end)
            })
            .collect();
        // Who may not ask for faults of etcd sees the rest.
        let etcd = full.unwrap_or_default().then_some(FULL);
        if facts.idle_ends == ends && facts.etcd == etcd {
            return;
        }
        (facts.idle_ends, facts.etcd) = (ends, etcd);
        drop(facts);
        self.bump();
    }

    fn bump(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// When etcd was heard last, as far as it was ever.
fn last_heard(watch: &Watch) -> Moment {
    let silent = watch.last_heard().map_or(Duration::ZERO, |heard| heard.elapsed());
    Moment::of(SystemTime::now() - silent)
}

fn is_same(one: Moment, other: Moment) -> bool {
    let (one, other) = (one.time(), other.time());
    let apart = one.duration_since(other).or_else(|_| other.duration_since(one));
    apart.is_ok_and(|apart| apart <= SAME_END)
}
