//! What the run-time API cannot do: other settings, and more slots. Both are a reload through the master socket. A
//! configuration that HAProxy refuses is remembered as refused, never as applied: the good files are put back, the
//! reason goes into the status record, and it is tried again only when something has changed.

use std::time::Duration;

use anyhow::anyhow;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Engine, write};
use crate::master::{self, Reload};
use crate::render::Fingerprint;
use crate::slots::Pool;

/// How long a new process may take to answer after a reload has succeeded.
const NEW_PROCESS_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// A configuration that is not in force, and why.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    fingerprint: Fingerprint,
    reason: String,
    /// It is faulty, so it must not lie where HAProxy starts from. Otherwise only the reload did not work.
    faulty: bool,
}

impl Refusal {
    fn is_of(&self, fingerprint: &Fingerprint) -> bool {
        self.fingerprint == *fingerprint
    }

    /// Whether HAProxy could not start from a configuration with these settings.
    pub(super) fn forbids(&self, fingerprint: &Fingerprint) -> bool {
        self.faulty && self.is_of(fingerprint)
    }
}

/// Why a reload did not come about.
enum Failure {
    Faulty(anyhow::Error),
    NotReloaded(anyhow::Error),
}

impl Engine {
    /// Why the newest configuration is not in force, if it is not.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_ref().map(|refusal| refusal.reason.as_str())
    }

    /// A reload that did not come about for another reason than a faulty configuration may be tried again.
    pub(super) fn forget_hindrance(&mut self) {
        self.refusal = self.refusal.take().filter(|refusal| refusal.faulty);
    }

    /// HAProxy runs with other settings than wanted: a reload, unless that was refused already. The process that goes
    /// on serving is brought in step all the same; it has its own number of slots.
    pub(super) async fn settings_differ(&mut self, fingerprint: &Fingerprint) -> anyhow::Result<()> {
        if self
            .refusal
            .as_ref()
            .is_some_and(|refusal| refusal.is_of(fingerprint))
        {
            return Ok(());
        }
        // What the process has may be newer than the files; a foreign process has nothing of the kind.
        if let Ok(actual) = self.parts.runtime.read().await {
            self.actual = actual;
            self.adopt();
        }
        self.allot(true);
        if self.reload().await.is_ok() {
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

    /// Grows the pool when less than a quarter of it is free.
    pub(super) async fn grow_if_needed(&mut self) -> anyhow::Result<()> {
        let total = self
            .pool
            .wanted_total(u32::try_from(self.waiting.len()).unwrap_or(u32::MAX));
        if total == self.pool.total() {
            return Ok(());
        }
        let fingerprint = self.parts.renderer.fingerprint(total)?;
        if self
            .refusal
            .as_ref()
            .is_some_and(|refusal| refusal.is_of(&fingerprint))
        {
            return Ok(());
        }
        let before = self.pool.clone();
        info!(
            from = before.total(),
            to = total,
            "less than a quarter of the slots is free: growing the pool by a reload"
        );
        self.pool.grow(total);
        self.allot(false);
        if let Err(error) = self.reload().await {
            // The process that goes on serving is in step; only who waits for a slot has to wait on.
            self.pool = before;
            self.allot(true);
            return Err(error);
        }
        self.sync(false).await
    }

    /// Puts the files in place and makes HAProxy load them.
    async fn reload(&mut self) -> anyhow::Result<()> {
        let fingerprint = self.parts.renderer.fingerprint(self.pool.total())?;
        let good = self.parts.files.present_config();
        let (error, faulty) = match self.try_reload(&fingerprint).await {
            Ok(()) => {
                self.refusal = None;
                self.parts.metrics.reloads.inc();
                info!("haproxy was reloaded");
                return Ok(());
            }
            Err(Failure::Faulty(error)) => (error, true),
            Err(Failure::NotReloaded(error)) => (error, false),
        };
        warn!("haproxy was not reloaded: {error:#}");
        self.distrust_files();
        self.parts.metrics.refused_reloads.inc();
        self.refusal = Some(Refusal {
            fingerprint,
            reason: format!("haproxy was not reloaded: {error:#}"),
            faulty,
        });
        if let Some(good) = good.filter(|_| faulty) {
            self.parts.files.restore(&good)?;
        }
        Err(error)
    }

    async fn try_reload(&mut self, fingerprint: &Fingerprint) -> Result<(), Failure> {
        self.distrust_files();
        let state = self.next_state().map_err(Failure::Faulty)?;
        write(&self.parts.files, state).await.map_err(Failure::Faulty)?;
        self.known = false;
        self.save_uses().await;
        match master::reload(&self.parts.master).await {
            Ok(Reload::Done) => self.replaced.begin(),
            Ok(Reload::Refused(reason)) => {
                return Err(Failure::Faulty(anyhow!(
                    "haproxy refused the configuration: {reason}"
                )));
            }
            Err(error) => return Err(Failure::NotReloaded(error)),
        }
        let deadline = Instant::now() + NEW_PROCESS_LIMIT;
        self.told = false;
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
                return Err(Failure::NotReloaded(match info {
                    Ok(_) => anyhow!(
                        "after the reload it runs another configuration: was it started with -f {config}?"
                    ),
                    Err(trouble) => anyhow!(trouble).context("after the reload"),
                }));
            }
            sleep(POLL).await;
        }
    }
}
