//! Asks HAProxy which environments were used and reports that to etcd, beside the loop that keeps
//! HAProxy in sync: a slow etcd holds up no change. HAProxy's row is deleted only after etcd has
//! the report.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use mayfly_core::names::EnvironmentName;
use mayfly_core::shorten::counted;
use mayfly_daemon::environments::touch;
use mayfly_daemon::store::{Store, StoreError};
use mayfly_daemon::tasks::blocking;
use mayfly_daemon::watch::Change;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::last::{self, LastUses, Moments};
use super::{Idler, Round, Uses};
use crate::apply::Applier;

/// How often at most the use of an environment is reported: each report is a write, and idle times
/// are minutes and hours. A shorter idle time is reported more often ([`Uses`]).
const LONGEST: Duration = Duration::from_secs(30);
/// How many environments are reported at the same time.
const AT_ONCE: usize = 8;
/// How long a turn may delete rows before changes get theirs: HAProxy 2.6 searches the whole map for
/// each row, some milliseconds at 100,000 rows.
const FORGETTING: Duration = Duration::from_millis(50);
/// Rows that are deleted before a look at the clock.
const FORGOTTEN_AT_ONCE: usize = 20;
/// When the rest of the rows is deleted.
const FORGET_AGAIN: Duration = Duration::from_secs(1);
/// What follows from a report that failed.
const FAILING: &str = "retrying. Until this works, environments with an idle time may expire \
     although they are in use";

/// A round on its way.
struct UnderWay {
    round: Round,
    begun: Instant,
    task: JoinHandle<Result<u64, StoreError>>,
}

/// What is to be done next.
pub enum UsageTurn {
    /// HAProxy is to be asked.
    Look,
    Conclude(Result<u64, String>),
}

pub struct UsageReporter {
    uses: Uses,
    /// Where the last uses are kept.
    file: PathBuf,
    store: Store,
    under_way: Option<UnderWay>,
    /// When HAProxy is to be asked next.
    next: Instant,
    /// The last row that was deleted, if some had to stay.
    forgotten_to: Option<EnvironmentName>,
    /// Whether the last round failed, which is logged once.
    failing: bool,
    /// Whether it was logged that the template notes no uses.
    blind: bool,
}

impl UsageReporter {
    /// `file` keeps when environments were last used, for the next start.
    pub fn new(store: Store, file: &Path) -> Self {
        let last = LastUses::load(file).unwrap_or_else(|error| {
            warn!("{error:#}. The times of earlier uses are lost; the router notes each use from now on");
            LastUses::default()
        });
        Self {
            uses: Uses::new(LONGEST, last),
            file: file.to_owned(),
            store,
            under_way: None,
            next: Instant::now(),
            forgotten_to: None,
            failing: false,
            blind: false,
        }
    }

    /// Takes a change of etcd.
    pub fn take(&mut self, change: &Change) {
        self.uses.take(change);
        self.next = self.next.min(Instant::now() + self.uses.pause());
    }

    /// When environments were last used, which is also kept for the next start.
    pub fn last_uses(&self) -> Moments {
        let uses = self.uses.last();
        let (file, kept) = (self.file.clone(), uses.clone());
        // Nothing waits for it; the next one tries again.
        blocking(move || {
            if let Err(error) = last::save(&file, &kept) {
                warn!("cannot save the times of last use of environments: {error:#}; retrying");
            }
        });
        uses
    }

    /// Waits for what is to be done next. Safe in `select!`.
    pub async fn next(&mut self) -> UsageTurn {
        let look = sleep_until(self.next);
        tokio::select! {
            () = look => UsageTurn::Look,
            outcome = self.ended() => UsageTurn::Conclude(outcome),
        }
    }

    pub async fn turn(&mut self, turn: UsageTurn, applier: &mut Applier) {
        match turn {
            UsageTurn::Look => self.look(applier).await,
            UsageTurn::Conclude(outcome) => self.conclude(outcome, applier).await,
        }
    }

    /// Reads what HAProxy has noted, and begins a round if one is due.
    async fn look(&mut self, applier: &mut Applier) {
        self.next = Instant::now() + self.uses.pause();
        match applier.uses().await {
            Ok(Some(noted)) => {
                self.blind = false;
                let old = self.uses.note(&noted, Instant::now(), SystemTime::now());
                self.forget_old(&old, applier).await;
            }
            Ok(None) if self.uses.idlers.is_empty() => {}
            Ok(None) => {
                if !std::mem::replace(&mut self.blind, true) {
                    warn!(
                        "the template does not write to the map {{{{ maps }}}}/uses.map, so \
                         haproxy-updater does not notice the use of environments: environments \
                         with an idle time expire even while they are in use. Copy the lines with \
                         `uses.map` from `haproxy-updater template`"
                    );
                }
            }
            // That HAProxy is away is logged elsewhere; what was read before is still reported.
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

    /// Deletes rows that wait for no report, as many as a moment allows. Those that stay are read
    /// again, and come first then: no row waits for ever.
    async fn forget_old(&mut self, names: &BTreeSet<EnvironmentName>, applier: &Applier) {
        let mut parts = Parts::of(names, self.forgotten_to.as_ref());
        while let Some(part) = parts.next() {
            match applier.forget_uses(&part).await {
                Ok(()) => self.uses.forgotten(&part),
                Err(trouble) => return debug!("{trouble}"),
            }
        }
        self.forgotten_to = parts.last.cloned();
        if self.forgotten_to.is_some() {
            self.next = self.next.min(Instant::now() + FORGET_AGAIN);
        }
    }

    /// Waits for the end of the round that is on its way, forever if there is none. Safe in
    /// `select!`.
    async fn ended(&mut self) -> Result<u64, String> {
        match &mut self.under_way {
            Some(under_way) => match (&mut under_way.task).await {
                Ok(done) => done.map_err(|error| error.and(FAILING)),
                Err(error) => Err(format!("{error}; {FAILING}")),
            },
            None => std::future::pending().await,
        }
    }

    /// Draws the conclusion from the end of a round.
    async fn conclude(&mut self, outcome: Result<u64, String>, applier: &mut Applier) {
        let Some(UnderWay { round, begun, .. }) = self.under_way.take() else {
            return;
        };
        match outcome {
            Ok(count) => {
                applier.metrics().uses_reported.inc_by(count);
                // A use between the report and this is as old as the report: nothing is lost but
                // that moment.
                // All at once: a row that stayed would count as a new use of an idle environment.
                match applier.forget_uses(&round.used).await {
                    Ok(()) => self.uses.forgotten(&round.used),
                    // The rows are still there, and are read again.
                    Err(trouble) => debug!("{trouble}"),
                }
                self.uses.reported(&round, begun);
                if std::mem::take(&mut self.failing) {
                    info!("the use of environments is reported to etcd again");
                }
            }
            Err(error) => {
                let delay = self.uses.failed(&round, Instant::now());
                self.next = self.next.min(Instant::now() + delay);
                if !std::mem::replace(&mut self.failing, true) {
                    warn!(
                        "cannot report the use of {} to etcd: {error}",
                        counted(round.touch.len(), "environment")
                    );
                }
            }
        }
    }
}

/// Names in parts, as many as come in a moment.
struct Parts<'a> {
    end: Instant,
    rest: std::iter::Peekable<std::vec::IntoIter<&'a EnvironmentName>>,
    /// The last one that came, if some did not.
    last: Option<&'a EnvironmentName>,
}

impl<'a> Parts<'a> {
    /// All names, from the first one after `last` on.
    fn of(names: &'a BTreeSet<EnvironmentName>, last: Option<&EnvironmentName>) -> Self {
        let (before, after): (Vec<_>, Vec<_>) = names
            .iter()
            .partition(|name| last.is_some_and(|last| *name <= last));
        let rest: Vec<_> = after.into_iter().chain(before).collect();
        Self {
            end: Instant::now() + FORGETTING,
            rest: rest.into_iter().peekable(),
            last: None,
        }
    }

    fn next(&mut self) -> Option<BTreeSet<EnvironmentName>> {
        if self.rest.peek().is_none() {
            self.last = None;
            return None;
        }
        let is_over = Instant::now() >= self.end;
        let part: Vec<_> = self
            .rest
            .by_ref()
            .take(FORGOTTEN_AT_ONCE * usize::from(!is_over))
            .collect();
        self.last = part.last().copied().or(self.last);
        (!is_over).then(|| part.into_iter().cloned().collect())
    }
}

/// Lets all of them live on, and says how many were still there. Ends with the first failure: etcd
/// is then out of reach for all.
async fn touch_all(store: &Store, touches: Vec<Idler>) -> Result<u64, StoreError> {
    let mut touches = touches.into_iter();
    let (mut under_way, mut count) = (JoinSet::new(), 0);
    loop {
        while under_way.len() < AT_ONCE {
            let Some(idler) = touches.next() else {
                break;
            };
            let store = store.clone();
            under_way.spawn(async move {
                let Idler {
                    environment,
                    mod_revision,
                    lease,
                } = idler;
                let alive = touch(&store, &environment, mod_revision, lease, SystemTime::now()).await?;
                if alive {
                    debug!(
                        "environment `{}` is in use: its idle time starts again",
                        environment.name
                    );
                } else {
                    debug!(
                        "environment `{}` is in use, but has just ended or changed",
                        environment.name
                    );
                }
                Ok(alive)
            });
        }
        match under_way.join_next().await {
            None => return Ok(count),
            Some(Ok(alive)) => count += u64::from(alive?),
            // A touch that panicked, where that does not end the program: its environment is
            // touched with its next use.
            Some(Err(error)) => {
                warn!(
                    "cannot report to etcd that an environment is in use: {error}; trying again at \
                     the next use of the environment"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn rows_are_deleted_for_a_moment_at_a_time() {
        let names = |count: usize| -> BTreeSet<EnvironmentName> {
            (0..count)
                .map(|number| format!("e{number}").parse().unwrap())
                .collect()
        };
        // How many rows are deleted in a moment, and the last one if some are left.
        let deleted = async |names: &BTreeSet<EnvironmentName>, last: Option<&str>, pause| {
            let last = last.map(|last| last.parse().unwrap());
            let (mut parts, mut deleted) = (Parts::of(names, last.as_ref()), BTreeSet::new());
            while let Some(part) = parts.next() {
                deleted.extend(part);
                tokio::time::sleep(pause).await;
            }
            (deleted, parts.last.map(ToString::to_string))
        };
        let (all, slow) = (names(1_000), Duration::from_millis(20));
        let (fast, last) = deleted(&all, None, Duration::ZERO).await;
        assert_eq!((fast, last), (all.clone(), None));
        let (first, last) = deleted(&all, None, slow).await;
        assert_eq!((first.len(), last.is_some()), (60, true));
        let (second, _) = deleted(&all, last.as_deref(), slow).await;
        assert_eq!(
            (second.len(), first.is_disjoint(&second)),
            (60, true),
            "those that stayed come first"
        );
        let (few, last) = deleted(&names(50), last.as_deref(), slow).await;
        assert_eq!((few, last), (names(50), None));
    }
}
