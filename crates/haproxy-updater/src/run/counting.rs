//! Reads what HAProxy counts, beside the loop that keeps it in sync: every 15 s, and right after a
//! reload, while the replaced process still ends its requests. It shows the numbers at `/metrics`
//! after each reading, and in etcd once a minute at most.

use std::time::{Duration, SystemTime};

use mayfly_core::keys::Key;
use mayfly_core::names::NodeName;
use mayfly_core::records::{self, traffic as record};
use mayfly_daemon::lease::Advertiser;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use crate::apply::Applier;
use crate::apply::replaced::WHILE;
use crate::haproxy::counters::{self, ProcessCounters};
use crate::haproxy::master::ask_old_workers;
use crate::haproxy::sockets::{Runtime, Trouble};
use crate::haproxy::tokens::ConfigPath;
use crate::traffic::{Owners, TrafficTotals};
use crate::usage::last::Moments;

/// How often HAProxy is asked.
const EVERY: Duration = Duration::from_secs(15);
/// How often while a replaced process still ends requests, and when HAProxy is not in sync yet.
const SOON: Duration = Duration::from_secs(1);
/// How often at most the record in etcd changes: each change is a write of up to some 60 kB.
const PUBLISH: Duration = Duration::from_secs(60);

/// What a reading needs, and what it gives back.
struct ReadJob {
    traffic: TrafficTotals,
    runtime: Runtime,
    /// Where to ask processes that were replaced just now.
    master: Option<ConfigPath>,
    owners: Owners,
    /// What was read of a process right before it was replaced.
    saved: Option<ProcessCounters>,
}

/// What is to be done next.
pub enum TrafficTurn {
    /// HAProxy is to be asked.
    Read,
    /// `None` when the reading was lost.
    Conclude(Option<Box<TrafficTotals>>),
}

pub struct TrafficReader {
    /// `None` while a reading is under way.
    traffic: Option<TrafficTotals>,
    under_way: Option<JoinHandle<TrafficTotals>>,
    advertiser: Advertiser,
    key: Key,
    /// The record as it was last published, and when.
    published: (record::Traffic, Option<Instant>),
    saved: Option<ProcessCounters>,
    next: Instant,
    /// The replacement of HAProxy's process that was seen last.
    replaced: Option<Instant>,
}

impl TrafficReader {
    pub fn new(advertiser: Advertiser, node: NodeName) -> Self {
        Self {
            traffic: Some(TrafficTotals::new(now())),
            under_way: None,
            advertiser,
            key: Key::Traffic(node),
            published: (record::Traffic::default(), None),
            saved: None,
            next: Instant::now() + SOON,
            replaced: None,
        }
    }

    /// Waits for what is to be done next. Safe in `select!`.
    pub async fn next(&mut self) -> TrafficTurn {
        match &mut self.under_way {
            Some(task) => {
                let done = task.await;
                self.under_way = None;
                TrafficTurn::Conclude(done.ok().map(Box::new))
            }
            None => {
                sleep_until(self.next).await;
                TrafficTurn::Read
            }
        }
    }

    /// Looks whether HAProxy's process was replaced: then it is read soon.
    pub fn note(&mut self, applier: &mut Applier) {
        if applier.replaced_at() != self.replaced {
            self.replaced = applier.replaced_at();
            self.next = self.next.min(Instant::now() + SOON);
        }
        if let Some(saved) = applier.take_saved_counters() {
            self.saved = Some(saved);
        }
    }

    /// `used` is asked for when the environments were last used, if that is to be published.
    pub fn turn(&mut self, turn: TrafficTurn, applier: &Applier, used: impl FnOnce() -> Moments) {
        match turn {
            TrafficTurn::Read => self.begin(applier),
            TrafficTurn::Conclude(Some(traffic)) => {
                applier.metrics().traffic.show(&traffic);
                self.publish(&traffic, used);
                self.traffic = Some(*traffic);
            }
            TrafficTurn::Conclude(None) => {
                warn!(
                    "the task that reads HAProxy's request counters has failed: this router counts \
                     its requests from zero again"
                );
                self.traffic = Some(TrafficTotals::new(now()));
            }
        }
    }

    fn begin(&mut self, applier: &Applier) {
        let was_replaced = self.replaced.is_some_and(|at| at.elapsed() <= WHILE);
        // Whose the slots are is known only then.
        let Some(traffic) = self.traffic.take_if(|_| applier.in_sync()) else {
            self.next = Instant::now() + SOON;
            return;
        };
        self.next = Instant::now() + if was_replaced { SOON } else { EVERY };
        let owners = applier.pool().assigned();
        let job = ReadJob {
            traffic,
            runtime: applier.runtime().clone(),
            master: was_replaced.then(|| applier.master().clone()),
            owners: owners.map(|(backend, slot)| (slot, backend.clone())).collect(),
            saved: self.saved.take(),
        };
        self.under_way = Some(tokio::spawn(job.run()));
    }

    fn publish(&mut self, traffic: &TrafficTotals, used: impl FnOnce() -> Moments) {
        let (published, at) = &mut self.published;
        if at.is_some_and(|at| at.elapsed() < PUBLISH) {
            return;
        }
        let (backends, more) = traffic.busiest();
        let used = used();
        let now = record::Traffic { backends, more, used };
        if *published == now {
            // The next change is published as soon as it is read.
            return;
        }
        *at = Some(Instant::now());
        self.advertiser
            .set(self.key.clone(), Some(records::to_json(&now)));
        *published = now;
    }
}

impl ReadJob {
    /// Reads, and adds up. With HAProxy away there is nothing new.
    async fn run(mut self) -> TrafficTotals {
        self.traffic.advance(now());
        if let Err(trouble) = self.read().await {
            debug!("{trouble}");
        }
        self.traffic
    }

    async fn read(&mut self) -> Result<(), Trouble> {
        if let Some(saved) = self.saved.take() {
            self.traffic.take(saved, &self.owners);
        }
        if let Some(master) = &self.master {
            // The process that serves now is read all the same.
            let answers = ask_old_workers(master, counters::ALL_OF_OLD).await;
            let answers = answers.inspect_err(|trouble| debug!("{trouble}"));
            for (pid, answer) in answers.unwrap_or_default() {
                match counters::slots(&answer) {
                    Ok(slots) => self.traffic.take_old(pid, slots, &self.owners),
                    Err(error) => debug!("{error:#}"),
                }
            }
        }
        let reading = self.runtime.counters().await?;
        let mixed = self.traffic.take(reading, &self.owners);
        if !mixed.is_empty() {
            let means = self.runtime.means_of_servers(&mixed).await?;
            self.traffic.set_means(means, &self.owners);
        }
        Ok(())
    }
}

/// In seconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
