//! The status record: what a daemon says of itself in etcd, so that anybody can ask whether a change is live. It
//! hangs on a lease, is written only when it changes, and at most some five times a second.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use mayfly_core::keys::{Daemon, Key};
use mayfly_core::names::NodeName;
use mayfly_core::records::{self, SetAside, Status};
use tracing::{info, warn};

use crate::admin::CommonMetrics;
use crate::lease::Advertiser;
use crate::output::printable;

/// Entries set aside that the record holds at most: etcd takes 1.5 MB, and nobody reads more.
const MOST_SET_ASIDE: usize = 100;
/// Longest key or reason that the record repeats, in characters.
const LONGEST_TEXT: usize = 400;
/// The field of `detail` that counts the entries left out of a long list.
const MORE: &str = "set_aside_more";

/// Publishes a daemon's status record. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StatusReporter {
    key: Key,
    advertiser: Advertiser,
    metrics: CommonMetrics,
    status: Arc<Mutex<Status>>,
}

impl StatusReporter {
    /// A reporter for one daemon on one node. Nothing is written before the first [`StatusReporter::update`].
    pub fn new(advertiser: &Advertiser, daemon: Daemon, node: NodeName, metrics: &CommonMetrics) -> Self {
        Self {
            key: Key::Status(daemon, node),
            advertiser: advertiser.clone(),
            metrics: metrics.clone(),
            status: Arc::default(),
        }
    }

    /// Changes the record and publishes it, if it is another one now. The latest record wins.
    pub fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.lock();
        change(&mut status);
        self.metrics.applied_revision.set(status.applied_revision);
        self.advertiser
            .set(self.key.clone(), Some(records::to_json(&*status)));
    }

    /// Says that everything up to a revision is applied, ready from now on, with these entries set aside.
    pub fn applied(&self, revision: i64, set_aside: Vec<SetAside>) {
        self.set_aside(set_aside);
        self.update(|status| {
            if status.applied_revision != revision || status.applied_at.is_none() {
                status.applied_at = Some(humantime::format_rfc3339_millis(SystemTime::now()).to_string());
            }
            status.applied_revision = revision;
            status.ready = true;
            status.error = None;
        });
    }

    /// Says which entries are set aside. Those that are newly so are logged, and so is their return; a record holds
    /// the first hundred of them.
    pub fn set_aside(&self, set_aside: Vec<SetAside>) {
        let total = set_aside.len();
        self.metrics
            .set_aside
            .set(i64::try_from(total).unwrap_or(i64::MAX));
        let set_aside = shortened(set_aside);
        self.update(|status| {
            tell(&status.set_aside, &set_aside);
            match total - set_aside.len() {
                0 => status.detail.remove(MORE),
                more => status.detail.insert(MORE.to_owned(), more.into()),
            };
            status.set_aside = set_aside;
        });
    }

    /// Says why the newest state is not in force.
    pub fn failed(&self, error: &anyhow::Error) {
        self.update(|status| status.error = Some(format!("{error:#}")));
    }

    /// The record as it was last set.
    pub fn current(&self) -> Status {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sorted by key, not too many and none too long.
fn shortened(mut set_aside: Vec<SetAside>) -> Vec<SetAside> {
    set_aside.sort();
    set_aside.truncate(MOST_SET_ASIDE);
    for SetAside { key, reason } in &mut set_aside {
        for text in [key, reason] {
            if let Some((end, _)) = text.char_indices().nth(LONGEST_TEXT) {
                text.truncate(end);
                text.push_str("...");
            }
        }
    }
    set_aside
}

fn tell(before: &[SetAside], now: &[SetAside]) {
    for SetAside { key, reason } in now.iter().filter(|entry| !before.contains(entry)) {
        warn!("{} is set aside: {}", printable(key), printable(reason));
    }
    for SetAside { key, .. } in before
        .iter()
        .filter(|old| !now.iter().any(|new| new.key == old.key))
    {
        info!("{} is no longer set aside", printable(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lists_and_texts_are_shortened() {
        let entry = |n: usize| SetAside {
            key: format!("k{n:04}"),
            reason: "ü".repeat(1_000_000),
        };
        let short = shortened((0..500).rev().map(entry).collect());
        assert_eq!(
            (short.len(), short[0].key.as_str(), short[99].key.as_str()),
            (100, "k0000", "k0099")
        );
        assert_eq!(short[0].reason.chars().count(), LONGEST_TEXT + 3);
        assert!(serde_json::to_vec(&short).unwrap().len() < 200_000);
    }
}
