//! Which of several daemons of a kind works: the one whose name stands under the key of the leader,
//! under a lease. Another takes over when that lease ends. A leader that cannot keep its lease
//! alive gives up before the lease can have run out, by its own clock, so that no two ever lead at
//! once. No leader writes that key without a lease: such a record is overwritten, by the leader at
//! once, by the others when no leader has done so for the life of a lease.

use std::time::Duration;

use anyhow::bail;
use mayfly_core::keys::{Daemon, Key};
use mayfly_core::names::NodeName;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{debug, info, warn};

use crate::retry::Backoff;
use crate::store::{Entry, Guard, Lease, LeaseId, Store, StoreError};
use crate::tasks::Tasks;

/// How often a candidate looks whether there is a leader.
const LOOK: Duration = Duration::from_secs(1);

/// What a candidate knows of the election.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Leadership {
    /// etcd has not been asked yet, or does not answer.
    Unknown,
    /// It leads.
    Leading,
    /// Another one leads: the name of its node.
    Following(String),
}

/// A candidacy. Dropping it does not end it: it ends with its tasks, or with [`Election::resign`].
#[derive(Debug)]
pub struct Election {
    leadership: watch::Receiver<Leadership>,
    resigning: watch::Sender<bool>,
}

impl Election {
    /// Stands for the lead among the daemons of a kind, under the name of a node. A leader that
    /// dies is followed after `ttl` (at least 2 s, etcd's own minimum).
    pub fn start(tasks: &Tasks, store: &Store, daemon: Daemon, node: NodeName, ttl: Duration) -> Self {
        let (sender, leadership) = watch::channel(Leadership::Unknown);
        let (resigning, resign) = watch::channel(false);
        let candidate = Candidate {
            // A call that hangs must not outlast the lease.
            store: store.with_limit(ttl / 3),
            key: Key::Leader(daemon),
            node,
            ttl,
            sender,
            resign,
            unleased: None,
        };
        tasks.spawn("election", candidate.run());
        Self {
            leadership,
            resigning,
        }
    }

    /// Who leads, and every change of it.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    /// Gives the lead up, so that another takes over at once.
    ///
    /// # Errors
    /// When etcd does not take that within `limit`; the lead then ends with its lease.
    pub async fn resign(&self, limit: Duration) -> anyhow::Result<()> {
        self.resigning.send_replace(true);
        let mut leadership = self.leadership.clone();
        let gone = leadership.wait_for(|leadership| *leadership != Leadership::Leading);
        match timeout(limit, gone).await {
            Ok(_) => Ok(()),
            Err(_) => bail!(
                "cannot release the leadership: etcd did not answer within {limit:?}; the \
                 leadership ends when its lease expires"
            ),
        }
    }
}

struct Candidate {
    store: Store,
    key: Key,
    node: NodeName,
    ttl: Duration,
    sender: watch::Sender<Leadership>,
    resign: watch::Receiver<bool>,
    /// The revision of a record without a lease under the key, and when it was seen first.
    unleased: Option<(i64, Instant)>,
}

impl Candidate {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        loop {
            let resign = self.resign.clone();
            tokio::select! {
                () = resigned(resign) => return std::future::pending().await,
                outcome = self.campaign() => match outcome {
                    Ok(Some((lease, until))) => {
                        backoff.reset();
                        self.lead(lease, until).await;
                    }
                    Ok(None) => {
                        backoff.reset();
                        sleep(LOOK).await;
                    }
                    Err(error) => {
                        self.report(Leadership::Unknown);
                        if backoff.failures() == 0 {
                            warn!("{}", error.retrying());
                        } else {
                            debug!("{}", error.retrying());
                        }
                        backoff.rest().await;
                    }
                },
            }
        }
    }

    /// Takes the lead if nobody has it: gives the lease, and until when it lives at least.
    async fn campaign(&mut self) -> Result<Option<(Lease, Instant)>, StoreError> {
        let mut guard = Guard::Absent;
        if let Some(entry) = self.store.get(&self.key).await? {
            if !self.is_abandoned(&entry) {
                let leader = String::from_utf8_lossy(&entry.value).into_owned();
                self.report(Leadership::Following(leader));
                return Ok(None);
            }
            guard = Guard::ModRevision(entry.mod_revision);
        }
        let asked = Instant::now();
        let lease = self.store.grant(self.ttl).await?;
        let name = self.node.as_str().as_bytes().to_vec();
        let put = self.store.put_if(&self.key, name, Some(lease.id), guard).await;
        if !matches!(put, Ok(Some(_))) {
            // Whether it stands there or not: without its lease it does not.
            let _ = self.store.revoke(lease.id).await;
        }
        Ok(put?.map(|_| (lease, asked + lease.ttl)))
    }

    /// Whether a record has no lease, and no leader has overwritten it for so long that there is
    /// none.
    fn is_abandoned(&mut self, entry: &Entry) -> bool {
        let now = Instant::now();
        let seen = self
            .unleased
            .filter(|(revision, _)| *revision == entry.mod_revision);
        let (_, since) = seen.unwrap_or((entry.mod_revision, now));
        self.unleased = entry.lease.is_none().then_some((entry.mod_revision, since));
        self.unleased.is_some() && now - since > self.ttl
    }

    /// Leads until the lease is lost, or may be.
    async fn lead(&mut self, lease: Lease, mut until: Instant) {
        info!("node {} is the leader now", self.node);
        self.report(Leadership::Leading);
        let mut backoff = Backoff::default();
        let mut next = Instant::now() + lease.ttl / 3;
        loop {
            let resign = self.resign.clone();
            tokio::select! {
                () = resigned(resign) => {
                    if let Err(error) = self.store.revoke(lease.id).await {
                        warn!("{error}");
                    }
                    break self.report(Leadership::Unknown);
                }
                () = sleep_until(next) => {}
            }
            let asked = Instant::now();
            // A margin, so that whoever acts on the lead has stopped when the lease ends.
            match timeout_at(until - lease.ttl / 6, self.renew(lease.id)).await {
                Ok(Ok(true)) => {
                    backoff.reset();
                    until = asked + lease.ttl;
                    next = asked + lease.ttl / 3;
                }
                Ok(Ok(false)) => {
                    warn!(
                        "this node is no longer the leader: another node leads, or etcd lost the \
                         leader's key"
                    );
                    break self.report(Leadership::Unknown);
                }
                Ok(Err(error)) => {
                    debug!("{}", error.retrying());
                    // Never past the moment at which the lead is given up.
                    next = (Instant::now() + backoff.next_delay()).min(until - lease.ttl / 6);
                }
                Err(_) => {
                    warn!(
                        "etcd has not answered for {:?}: this node is no longer the leader",
                        lease.ttl
                    );
                    break self.report(Leadership::Unknown);
                }
            }
        }
    }

    /// Whether the key still hangs on the lease, which lives for its whole time again.
    async fn renew(&self, lease: LeaseId) -> Result<bool, StoreError> {
        match self.store.keep_alive(lease).await {
            Err(error) if error.is_lease_lost() => return Ok(false),
            kept => kept?,
        }
        match self.store.get(&self.key).await? {
            Some(entry) if entry.lease.is_none() => {
                warn!(
                    "another program has overwritten the leader's key with a record without \
                     a lease; writing the leader's own record again"
                );
                let name = self.node.as_str().as_bytes().to_vec();
                let guard = Guard::ModRevision(entry.mod_revision);
                let put = self.store.put_if(&self.key, name, Some(lease), guard).await?;
                Ok(put.is_some())
            }
            entry => Ok(entry.is_some_and(|entry| entry.lease == Some(lease))),
        }
    }

    fn report(&self, leadership: Leadership) {
        self.sender.send_if_modified(|reported| {
            let changed = *reported != leadership;
            *reported = leadership;
            changed
        });
    }
}

/// Waits until the candidate is to resign. It never does when its handle is dropped.
async fn resigned(mut resign: watch::Receiver<bool>) {
    if resign.wait_for(|resign| *resign).await.is_err() {
        std::future::pending::<()>().await;
    }
}
