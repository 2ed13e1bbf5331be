//! Asks HAProxy which environments were used and tells etcd, beside the loop that keeps HAProxy in step: a slow etcd
//! holds up no change. A row of HAProxy is taken away only once etcd knows.

use std::time::{Duration, SystemTime};

use mayfly_daemon::environments::touch;
use mayfly_daemon::store::{Store, StoreError};
use mayfly_daemon::watch::Change;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::{Idler, Round, Uses};
use crate::engine::Engine;

/// Environments that are told of at the same time.
const AT_ONCE: usize = 8;

/// A round on its way.
struct UnderWay {
    round: Round,
    begun: Instant,
    task: JoinHandle<Result<u64, StoreError>>,
}

/// Reports uses.
pub struct Reporter {
    uses: Uses,
    store: Store,
    under_way: Option<UnderWay>,
    /// When HAProxy is to be asked next.
    next: Instant,
    /// Whether the last round failed, which is told once.
    failing: bool,
    /// Whether it was told that the template notes no uses.
    blind: bool,
}

impl Reporter {
    /// Reports to `store` at most once in `longest`.
    pub fn new(store: Store, longest: Duration) -> Self {
        Self {
            uses: Uses::new(store.keyspace().clone(), longest),
            store,
            under_way: None,
            next: Instant::now(),
            failing: false,
            blind: false,
        }
    }

    /// Takes a change of etcd.
    pub fn take(&mut self, change: &Change) {
        self.uses.take(change);
        self.next = self.next.min(Instant::now() + self.uses.pause());
    }

    /// When [`Reporter::look`] is to be called.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Whether a round is on its way.
    pub fn is_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Reads what HAProxy has noted, and begins a round if one is due.
    pub async fn look(&mut self, engine: &mut Engine) {
        self.next = Instant::now() + self.uses.pause();
        match engine.uses().await {
            Ok(Some(noted)) => {
                self.blind = false;
                let gone = self.uses.note(&noted);
                if let Err(trouble) = engine.forget_uses(&gone).await {
                    debug!("{trouble}");
                }
            }
            Ok(None) if self.uses.idlers.is_empty() => {}
            Ok(None) => {
                if !std::mem::replace(&mut self.blind, true) {
                    warn!(
                        "the template does not set {{{{ maps }}}}/uses.map, so nobody sees which environments are used: \
                         those with an idle time end as if they were not; `haproxy-updater template` has the line"
                    );
                }
            }
            // That HAProxy is away is told elsewhere; what was read before is reported all the same.
            Err(trouble) => debug!("{trouble}"),
        }
        if self.under_way.is_some() {
            return;
        }
        let begun = Instant::now();
        if let Some(round) = self.uses.due(begun) {
            let (store, touches) = (self.store.clone(), round.touch.clone());
            let task = tokio::spawn(async move { touch_all(&store, touches).await });
            self.under_way = Some(UnderWay { round, begun, task });
        }
    }

    /// Waits for the end of the round that is on its way, for ever if there is none. Safe in `select!`.
    pub async fn ended(&mut self) -> Result<u64, String> {
        match &mut self.under_way {
            Some(under_way) => match (&mut under_way.task).await {
                Ok(done) => done.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            },
            None => std::future::pending().await,
        }
    }

    /// Draws the conclusion from the end of a round.
    pub async fn conclude(&mut self, outcome: Result<u64, String>, engine: &mut Engine) {
        let Some(UnderWay { round, begun, .. }) = self.under_way.take() else {
            return;
        };
        match outcome {
            Ok(count) => {
                engine.metrics().uses_reported.inc_by(count);
                // A use between the report and this is as old as the report: nothing is lost but that moment.
                match engine.forget_uses(&round.used).await {
                    Ok(()) => self.uses.reported(&round, begun),
                    // The rows stand there still, and are read again.
                    Err(trouble) => {
                        debug!("{trouble}");
                        self.uses.reported(&round, begun);
                    }
                }
                if std::mem::take(&mut self.failing) {
                    info!("etcd knows again which environments are used");
                }
            }
            Err(error) => {
                let delay = self.uses.failed(&round, Instant::now());
                self.next = self.next.min(Instant::now() + delay);
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(
                        "cannot tell etcd which environments are used ({} with an idle time): {error}; trying again",
                        round.touch.len()
                    );
                }
            }
        }
    }
}

/// Lets all of them live on, and says how many were still there. Ends with the first failure: etcd is then out of reach
/// for all.
async fn touch_all(store: &Store, touches: Vec<Idler>) -> Result<u64, StoreError> {
    let mut touches = touches.into_iter();
    let (mut under_way, mut count) = (JoinSet::new(), 0);
    loop {
        while under_way.len() < AT_ONCE {
            let Some(Idler { environment, entry }) = touches.next() else {
                break;
            };
            let store = store.clone();
            under_way.spawn(async move {
                let alive = touch(&store, &environment, &entry, SystemTime::now()).await?;
                if alive {
                    debug!("{} is used: it lives on", environment.name);
                } else {
                    debug!(
                        "{} is used, and has ended or was changed just now",
                        environment.name
                    );
                }
                Ok(alive)
            });
        }
        match under_way.join_next().await {
            None => return Ok(count),
            Some(Ok(alive)) => count += u64::from(alive?),
            // A touch that panicked, where that does not end the program: its environment is touched with its next use.
            Some(Err(error)) => warn!("{error}"),
        }
    }
}
