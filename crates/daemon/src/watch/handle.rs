//! The consumer's end of a watch. The task at the other end reports what etcd has. Which of it is
//! believed is decided here ([`mayfly_core::trust`]), where the consumer can report its checks.

use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::records::SetAsides;
use mayfly_core::shorten::counted;
use mayfly_core::trust::{Health, Kept, Trust};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{mpsc, watch as channel};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::change::{Batch, Change};
use crate::metrics::show;

/// What a watch reports of itself. Cheap to clone; the values follow the watch.
#[derive(Debug, Clone, Default)]
pub struct WatchMetrics {
    /// Repeated listings of all keys.
    pub relists: Counter,
    /// How many ends of keys are withheld.
    pub held: Gauge,
    /// Whether changes arrive: 1 between a listing and the next doubt.
    pub in_sync: Gauge,
}

/// What the task tells.
#[derive(Debug)]
pub(super) struct Heard {
    /// What etcd says.
    pub(super) batch: Batch,
    /// Whether no lease could be renewed right before.
    pub(super) after_outage: bool,
}

/// Where the task tells it.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) heard: mpsc::Receiver<Heard>,
    /// Whether changes arrive.
    pub(super) in_sync: channel::Receiver<bool>,
    /// When etcd was heard last.
    pub(super) last_heard: channel::Receiver<Option<Instant>>,
}

/// A running watch: yields batches, the first one being the full first sync.
#[derive(Debug)]
pub struct Watch {
    told: Told,
    /// What was received already, and is to be taken alone.
    next: Option<Heard>,
    task: JoinHandle<()>,
    metrics: WatchMetrics,
    trust: Trust,
    space: KeySpace,
    kept: Kept,
    kept_count: usize,
    /// Of the last batch.
    revision: i64,
    set_aside: SetAsides,
}

impl Watch {
    pub(super) fn new(
        told: Told,
        task: JoinHandle<()>,
        metrics: WatchMetrics,
        trust: Trust,
        space: KeySpace,
    ) -> Self {
        Self {
            told,
            next: None,
            task,
            metrics,
            trust,
            space,
            kept: Kept::default(),
            kept_count: 0,
            revision: 0,
            set_aside: SetAsides::default(),
        }
    }

    /// When etcd was heard last; `None` if never.
    pub fn last_heard(&self) -> Option<Instant> {
        *self.told.last_heard.borrow()
    }

    /// Waits for the next batch, without limit: with etcd gone there is none. Safe in `select!`.
    pub async fn next(&mut self) -> Batch {
        if let Some(heard) = self.next.take() {
            return self.believe(heard);
        }
        loop {
            // With etcd gone, nothing is taken away.
            let in_sync = *self.told.in_sync.borrow_and_update();
            let expiry = self.trust.next_expiry().filter(|_| in_sync);
            let heard = tokio::select! {
                biased;
                heard = self.told.heard.recv() => heard,
                Ok(()) = self.told.in_sync.changed() => continue,
                () = sleep_until(expiry.map_or_else(Instant::now, Instant::from_std)), if expiry.is_some() => {
                    return self.expire();
                }
            };
            if let Some(heard) = heard {
                return self.believe(heard);
            }
            // The task ends only with its receiver, so this is a panic in it, or the end of the
            // runtime.
            match (&mut self.task).await {
                Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
                _ => std::future::pending().await,
            }
        }
    }

    /// As [`Watch::next`], and takes along all that has queued up since: the changes in order, the
    /// newest revision, `listed` if any of them was. Only the listing of an etcd that lost its data
    /// is taken alone: its revisions begin again, so what came before and after it must not be
    /// compared with it.
    pub async fn next_batch_coalesced(&mut self) -> Batch {
        let before = self.revision;
        let mut batch = self.next().await;
        if batch.revision < before {
            return batch;
        }
        while let Ok(heard) = self.told.heard.try_recv() {
            if heard.batch.revision < batch.revision {
                self.next = Some(heard);
                break;
            }
            let more = self.believe(heard);
            batch.revision = more.revision;
            batch.listed |= more.listed;
            batch.changes.extend(more.changes);
            batch.set_aside = more.set_aside;
        }
        batch
    }

    /// What is believed of a batch.
    fn believe(&mut self, Heard { batch, after_outage }: Heard) -> Batch {
        let now = Instant::now().into_std();
        if after_outage {
            self.trust.outage_ended(now);
        }
        self.revision = batch.revision;
        self.set_aside = batch.set_aside.clone();
        let changes = self.trust.take(batch.revision, batch.listed, batch.changes, now);
        self.note();
        Batch { changes, ..batch }
    }

    fn expire(&mut self) -> Batch {
        let ended = self.trust.expire(Instant::now().into_std());
        if !ended.is_empty() {
            warn!(
                "{} that vanished from etcd did not come back in time: they now count as deleted",
                counted(ended.len(), "key")
            );
        }
        Batch {
            revision: self.revision,
            listed: false,
            changes: self.ends(ended),
            set_aside: self.set_aside.clone(),
        }
    }

    /// Takes what checks say of the instances of [`Watch::checked`], and gives the ends that follow
    /// from it.
    pub fn judge(&mut self, health: impl Fn(&Key) -> Health) -> Vec<Change> {
        let ended = self
            .trust
            .judge(health, *self.told.in_sync.borrow(), Instant::now().into_std());
        self.ends(ended)
    }

    /// Gives the ends of instances that are kept although their address belongs to another backend
    /// by now.
    pub fn let_go(&mut self, is_superseded: impl Fn(&Key) -> bool) -> Vec<Change> {
        let ended = self.trust.let_go(is_superseded);
        self.ends(ended)
    }

    fn ends(&mut self, keys: Vec<Key>) -> Vec<Change> {
        self.note();
        keys.into_iter().map(Change::Gone).collect()
    }

    /// Takes over what is kept, and logs it when it is more than before.
    fn note(&mut self) {
        let held = self.trust.withheld().len();
        show(&self.metrics.held, held);
        let count = self.trust.lost_count();
        let before = std::mem::replace(&mut self.kept_count, count);
        if count == 0 && before == 0 {
            return;
        }
        self.kept = self.trust.kept(&self.space);
        match (&self.kept.alarm, self.trust.confirmed_by()) {
            (Some(alarm), Some(daemon)) if count > before => {
                warn!("{alarm}. If the loss was intended, run `mayfly confirm {daemon}`");
            }
            (None, _) => info!(
                "nothing is missing in etcd any longer: every key that had vanished is back, or \
                 counts as deleted"
            ),
            _ => {}
        }
    }

    /// The instances that are kept while they answer their check.
    pub fn checked(&self) -> impl Iterator<Item = &Key> {
        self.trust.checked()
    }

    /// What is kept although etcd has lost it.
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// How many keys these are.
    pub fn kept_count(&self) -> usize {
        self.kept_count
    }

    /// How many ends of keys are withheld: of what is kept, and of leased keys in the seconds after
    /// an outage.
    pub fn held(&self) -> usize {
        self.trust.withheld().len()
    }

    /// Numbers for the metrics and the status record; they go on following the watch.
    pub fn metrics(&self) -> WatchMetrics {
        self.metrics.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
