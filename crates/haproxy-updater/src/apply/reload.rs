//! What the run-time API cannot do: other settings, and more slots. Both are a reload through the
//! master socket. A configuration that HAProxy refuses is remembered as refused, never as applied:
//! the good files are put back, and the reason goes into the status record. It is tried again when
//! something has changed, and from time to time: the cause may lie outside it, such as a port that
//! another program has, and go away without a sign.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::anyhow;
use mayfly_core::routing::{Routing, Touched};
use mayfly_core::shorten::first_of;
use mayfly_core::version::BackendId;
use mayfly_daemon::advice::Advised;
use mayfly_daemon::failure::retrying;
use mayfly_daemon::retry::Backoff;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Applier, SyncState, restore, write};
use crate::actual::ActualRouting;
use crate::haproxy::master::{self, Reload};
use crate::haproxy::render::Fingerprint;
use crate::haproxy::slots::Pool;

/// How long a new process may take to answer after a reload has succeeded.
const NEW_PROCESS_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// How long a refused configuration rests at first,
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// and at most: where a port is taken HAProxy tries for about a second, and nothing changes then.
const RETRY_CAP: Duration = Duration::from_secs(60);

/// How many backends that wait a line of the log names.
const MOST_NAMES: usize = 3;

const NOT_RELOADED: &str = "HAProxy was not reloaded";

/// The delays between tries of a configuration that HAProxy refuses.
pub(super) fn retries() -> Backoff {
    Backoff::new(RETRY_FIRST, RETRY_CAP)
}

/// A configuration that is not in force, and why.
#[derive(Debug, Clone)]
pub(super) struct RefusedConfig {
    fingerprint: Fingerprint,
    reason: String,
    /// It is faulty, so it must not lie where HAProxy starts from. Otherwise only the reload did
    /// not work.
    faulty: bool,
    /// What lies there in its place.
    pub(super) good: Option<String>,
    /// It rests until then.
    next_try: Instant,
}

impl RefusedConfig {
    fn is_of(&self, fingerprint: &Fingerprint) -> bool {
        self.fingerprint == *fingerprint
    }

    /// Whether nothing is to be tried for a configuration with these settings yet.
    fn rests(&self, fingerprint: &Fingerprint) -> bool {
        self.is_of(fingerprint) && !self.is_due()
    }

    fn is_due(&self) -> bool {
        Instant::now() >= self.next_try
    }

    /// Whether HAProxy could not start from a configuration with these settings.
    pub(super) fn forbids(&self, fingerprint: &Fingerprint) -> bool {
        self.faulty && self.is_of(fingerprint)
    }
}

/// Why the pool should grow for backends that wait.
fn no_slot_is_empty(waiting: &BTreeSet<BackendId>) -> String {
    let names = waiting.iter().map(BackendId::to_string);
    format!("no slot is empty for {}", first_of(names, MOST_NAMES))
}

/// Why a reload did not come about.
enum ReloadFailure {
    Faulty(anyhow::Error),
    NotReloaded(anyhow::Error),
    /// HAProxy says that it was reloaded, and does not show it.
    Lost(anyhow::Error),
}

impl Applier {
    /// Why the newest configuration is not in force, if it is not.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_ref().map(|refusal| refusal.reason.as_str())
    }

    /// A reload that did not come about for another reason than a faulty configuration may be tried
    /// again.
    pub(super) fn forget_hindrance(&mut self) {
        self.refusal = self.refusal.take().filter(|refusal| refusal.faulty);
    }

    /// A refused configuration may be tried again, since what it refers to has changed. Says
    /// whether there was one.
    pub fn forget_refusal(&mut self) -> bool {
        let was_refused = self.refusal.take().is_some();
        self.retries.reset();
        if was_refused {
            self.doubt();
        }
        was_refused
    }

    /// Has a refused configuration tried again by the next round, where it has rested.
    pub fn retry_refused(&mut self) {
        if self.refusal.as_ref().is_some_and(RefusedConfig::is_due) {
            self.doubt();
        }
    }

    /// HAProxy runs with other settings than wanted: a reload, unless that was refused just now.
    /// The process that goes on serving is brought in sync all the same; it has its own number of
    /// slots.
    pub(super) async fn settings_differ(
        &mut self,
        fingerprint: &Fingerprint,
        routing: &Routing,
    ) -> anyhow::Result<()> {
        if self
            .refusal
            .as_ref()
            .is_some_and(|refusal| refusal.rests(fingerprint))
        {
            return Ok(());
        }
        // What the process has may be newer than the files; a foreign process has nothing of the
        // kind.
        if let Ok(actual) = ActualRouting::read(&self.parts.runtime).await {
            self.actual = actual;
            self.adopt();
        }
        self.allot_all(routing, false);
        if self.reload(routing).await.is_ok() {
            return Ok(());
        }
        let slots = self.parts.runtime.slots().await?;
        if slots < self.pool.total() {
            let rows: Vec<_> = self
                .pool
                .assigned()
                .map(|(backend, slot)| (backend.clone(), slot))
                .collect();
            self.pool = Pool::new(slots);
            self.pool.adopt(&rows);
            if let Some(refusal) = &mut self.refusal {
                refusal.fingerprint = self.parts.renderer.fingerprint(slots)?;
            }
        }
        Ok(())
    }

    /// Grows the pool when less than a quarter of it is free, or when backends wait for a slot that
    /// is empty.
    pub(super) async fn grow_if_needed(&mut self, routing: &Routing) -> anyhow::Result<()> {
        let waiting = u32::try_from(self.waiting.len()).unwrap_or(u32::MAX);
        let total = self
            .pool
            .wanted_total(waiting, |slot| !self.actual.servers.contains_key(&slot));
        if total == self.pool.total() {
            self.note_waiting();
            return self.forget_what_is_not_wanted(total);
        }
        let fingerprint = self.parts.renderer.fingerprint(total)?;
        if self
            .refusal
            .as_ref()
            .is_some_and(|refusal| refusal.rests(&fingerprint))
        {
            self.note_waiting();
            return Ok(());
        }
        let before = self.pool.clone();
        let reason = if self.waiting.is_empty() {
            "less than a quarter of the slots is free".to_owned()
        } else {
            no_slot_is_empty(&self.waiting)
        };
        info!(
            "{reason}: reloading HAProxy with {total} slots instead of {}",
            before.total()
        );
        self.pool.grow(total);
        self.allot(routing, &mut Touched::default(), false, true);
        if let Err(error) = self.reload(routing).await {
            // The process that goes on serving is in sync; only who waits for a slot has to wait
            // on.
            self.pool = before;
            self.allot_all(routing, self.is_known());
            return Err(error);
        }
        self.read_and_repair(routing, false).await
    }

    /// Takes over which backends have to wait on for a slot, and logs those that have just begun to.
    fn note_waiting(&mut self) {
        if self.waiting == self.logged_waiting {
            return;
        }
        let new: BTreeSet<_> = self.waiting.difference(&self.logged_waiting).cloned().collect();
        if !new.is_empty() {
            warn!(
                "{}: requests get 503 until a slot is empty",
                no_slot_is_empty(&new)
            );
        }
        self.logged_waiting = self.waiting.clone();
    }

    /// A refused configuration that is wanted no more hinders nothing: the pool needs not grow any
    /// longer, or HAProxy listens where it did before.
    fn forget_what_is_not_wanted(&mut self, total: u32) -> anyhow::Result<()> {
        let wanted = self.parts.renderer.fingerprint(total)?;
        if self
            .refusal
            .as_ref()
            .is_some_and(|refusal| !refusal.is_of(&wanted))
        {
            self.refusal = None;
            self.retries.reset();
        }
        Ok(())
    }

    /// Puts the files in place and makes HAProxy load them.
    async fn reload(&mut self, routing: &Routing) -> anyhow::Result<()> {
        let fingerprint = self.parts.renderer.fingerprint(self.pool.total())?;
        let good = self.parts.files.present_config();
        let (error, faulty) = match self.try_reload(&fingerprint, routing).await {
            Ok(()) => {
                self.refusal = None;
                self.retries.reset();
                self.parts.metrics.reloads.inc();
                info!("HAProxy was reloaded");
                return Ok(());
            }
            Err(ReloadFailure::Faulty(error)) => (error.context(NOT_RELOADED), true),
            Err(ReloadFailure::NotReloaded(error)) => (error.context(NOT_RELOADED), false),
            Err(ReloadFailure::Lost(error)) => (error, false),
        };
        let reason = format!("{error:#}");
        if self.refusal() != Some(&reason) {
            warn!("{}", retrying(&error));
        }
        self.distrust_files();
        self.parts.metrics.refused_reloads.inc();
        self.refusal = Some(RefusedConfig {
            fingerprint,
            reason,
            faulty,
            good: good.clone().filter(|_| faulty),
            next_try: Instant::now() + self.retries.next_delay().max(RETRY_FIRST),
        });
        if let Some(good) = good.filter(|_| faulty) {
            restore(&self.parts.files, good).await?;
        }
        Err(error)
    }

    async fn try_reload(
        &mut self,
        fingerprint: &Fingerprint,
        routing: &Routing,
    ) -> Result<(), ReloadFailure> {
        self.distrust_files();
        let state = self.next_state(routing).map_err(ReloadFailure::Faulty)?;
        write(&self.parts.files, state)
            .await
            .map_err(ReloadFailure::Faulty)?;
        self.doubt();
        self.save_notes().await;
        match master::reload(&self.parts.master).await {
            Ok(Reload::Done) => self.replaced(),
            Ok(Reload::Refused(reason)) => {
                return Err(ReloadFailure::Faulty(anyhow!(
                    "HAProxy refused the configuration: {reason}"
                )));
            }
            Err(error) => return Err(ReloadFailure::NotReloaded(error)),
        }
        let deadline = Instant::now() + NEW_PROCESS_LIMIT;
        self.sync = SyncState::Unknown;
        loop {
            let info = self.parts.runtime.info().await;
            if info
                .as_ref()
                .is_ok_and(|info| info.description == fingerprint.description())
            {
                return Ok(());
            }
            if Instant::now() > deadline {
                let config = self.parts.files.config();
                return Err(ReloadFailure::Lost(match info {
                    Ok(_) => {
                        let failure = "HAProxy was reloaded, but runs another configuration than \
                             haproxy-updater's";
                        Advised::new(failure, format!("Start HAProxy with -f {config}")).into()
                    }
                    Err(trouble) => anyhow!(trouble).context("HAProxy was reloaded, but does not answer"),
                }));
            }
            sleep(POLL).await;
        }
    }
}
