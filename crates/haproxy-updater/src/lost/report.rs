//! Reads HAProxy's counters of calls without an environment now and then, in the loop that keeps
//! HAProxy in sync, and says when the list is to be published.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mayfly_core::lost::LostHeader;
use mayfly_core::routing::Routing;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info};

use super::LostCalls;
use crate::apply::Applier;

/// How often to read the counters while there are such calls,
const OFTEN: Duration = Duration::from_secs(1);
/// and while there are none.
const SELDOM: Duration = Duration::from_secs(3);
/// The table may have 10,000 rows: reading it takes at most this part of the time,
const SHARE: u32 = 200;
/// but it is read at least this often.
const LONGEST: Duration = Duration::from_secs(60);
/// A list that changes all the time is published this often: each time is a write to etcd.
const PUBLISH: Duration = Duration::from_secs(4);

/// Knows which instances drop the header, and how often.
pub struct LostReporter {
    calls: LostCalls,
    /// As it was published last.
    list: Vec<LostHeader>,
    /// When it was, if ever.
    published: Option<Instant>,
    /// When HAProxy is to be asked next.
    next: Instant,
    /// Whether it was logged that the template counts nothing.
    blind: bool,
}

impl LostReporter {
    pub fn new() -> Self {
        let now = Instant::now();
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Self {
            calls: LostCalls::new(now, since.unwrap_or_default().as_secs()),
            list: Vec::new(),
            published: None,
            next: now,
            blind: false,
        }
    }

    /// The callers with the most calls, as they are to be published.
    pub fn list(&self) -> &[LostHeader] {
        &self.list
    }

    /// Waits until HAProxy is to be asked. Safe in `select!`.
    pub async fn next(&self) {
        sleep_until(self.next).await;
    }

    /// Reads the counters. Says whether the list is to be published.
    pub async fn look(&mut self, applier: &mut Applier, routing: &Routing) -> bool {
        let begun = Instant::now();
        match applier.lost_calls().await {
            Ok(Some(counters)) => {
                self.blind = false;
                let new = self.calls.take(counters, routing, Instant::now());
                let metrics = applier.metrics();
                metrics.count_lost_calls(&new);
                let recent = self.calls.backends();
                metrics.keep_lost_calls(|backend| {
                    recent.contains(backend) || routing.servers(backend).is_some_and(|all| !all.is_empty())
                });
            }
            Ok(None) => {
                if !std::mem::replace(&mut self.blind, true) {
                    info!(
                        "the template has no stick table in `frontend internal`, so services that forward neither `x-mayfly` nor \
                         `baggage` are not detected; copy `stick-table` and `track-sc0` from `haproxy-updater template`"
                    );
                }
            }
            // That HAProxy is away is logged elsewhere.
            Err(trouble) => debug!("{trouble}"),
        }
        let now = Instant::now();
        self.calls.forget(now);
        let pause = if self.calls.is_empty() { SELDOM } else { OFTEN };
        self.next = now + pause.max(SHARE * (now - begun)).min(LONGEST);
        let list = self.calls.list();
        let may = self.published.is_none_or(|published| now >= published + PUBLISH);
        if !may || list == self.list {
            return false;
        }
        self.published = Some(now);
        self.list = list;
        true
    }
}
