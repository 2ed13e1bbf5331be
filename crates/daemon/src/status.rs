//! The status record: what a daemon says of itself in etcd, so that anybody can ask whether a
//! change is live. It hangs on a lease, is written only when it changes, and at most some five
//! times a second.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mayfly_core::file::is_yaml_file;
use mayfly_core::keys::{Daemon, Key};
use mayfly_core::names::NodeName;
use mayfly_core::records::{self, SetAside, Status};
use mayfly_core::shorten;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::admin::CommonMetrics;
use crate::lease::Advertiser;
use crate::metrics::show;
use crate::output::printable;

/// Entries set aside that the record holds at most: etcd takes 1.5 MB, and nobody reads more.
const MOST_SET_ASIDE: usize = 100;
/// Longest key or reason that the record repeats, in characters.
const LONGEST_TEXT: usize = 400;
/// The field of `detail` that counts the entries left out of a long list.
const MORE: &str = "set_aside_more";
/// The field of `detail` that has the version of the daemon.
pub const VERSION: &str = "version";
/// The field of `detail` that has what needs attention and is no error, in words.
pub const NOTES: &str = "notes";

/// Publishes a daemon's status record. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StatusReporter {
    key: Key,
    advertiser: Advertiser,
    metrics: CommonMetrics,
    status: Arc<Mutex<Status>>,
    log: Arc<Mutex<Log>>,
}

impl StatusReporter {
    /// A reporter for one daemon on one node. Nothing is written before the first
    /// [`StatusReporter::update`].
    pub fn new(advertiser: &Advertiser, daemon: Daemon, node: NodeName, metrics: &CommonMetrics) -> Self {
        Self {
            key: Key::Status(daemon, node),
            advertiser: advertiser.clone(),
            metrics: metrics.clone(),
            status: Arc::default(),
            log: Arc::default(),
        }
        .with_detail(VERSION, env!("CARGO_PKG_VERSION").into())
    }

    /// With a field of `detail` that stays as it is. It is published with the first
    /// [`StatusReporter::update`].
    #[must_use]
    pub fn with_detail(self, field: &str, value: serde_json::Value) -> Self {
        self.lock().detail.insert(field.to_owned(), value);
        self
    }

    /// With some time before the log reports an entry set aside: what it waits for may be about to
    /// come. Then [`StatusReporter::remind`] has to be called again and again.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        self.log().patience = patience;
        self
    }

    /// Logs what is set aside for long enough by now.
    pub fn remind(&self) {
        let mut log = self.log();
        if !log.waiting.is_empty() {
            log.report(&self.lock().set_aside, Instant::now());
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

    /// Says that everything up to a revision is applied, ready from now on, with these entries set
    /// aside.
    pub fn applied(&self, revision: i64, set_aside: Vec<SetAside>) {
        let (listed, more) = self.note(set_aside);
        self.update(|status| {
            put(status, listed, more);
            if status.applied_revision != revision || status.applied_at.is_none() {
                status.applied_at = Some(format!("{:.3}", jiff::Timestamp::now()));
            }
            status.applied_revision = revision;
            status.ready = true;
            status.error = None;
        });
    }

    /// Says which entries are set aside. Those that are newly so are logged, and so is their
    /// return; a record holds the first hundred of them.
    pub fn set_aside(&self, set_aside: Vec<SetAside>) {
        let (listed, more) = self.note(set_aside);
        self.update(|status| put(status, listed, more));
    }

    /// Counts and logs the entries set aside: those for the record, and how many it leaves out.
    fn note(&self, set_aside: Vec<SetAside>) -> (Vec<SetAside>, usize) {
        let total = set_aside.len();
        show(&self.metrics.set_aside, total);
        let listed = shortened(set_aside);
        self.log().report(&listed, Instant::now());
        let more = total - listed.len();
        (listed, more)
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

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts the entries set aside, and how many more there are.
fn put(status: &mut Status, listed: Vec<SetAside>, more: usize) {
    match more {
        0 => status.detail.remove(MORE),
        more => status.detail.insert(MORE.to_owned(), more.into()),
    };
    status.set_aside = listed;
}

/// Sorted by key, not too many and none too long.
fn shortened(mut set_aside: Vec<SetAside>) -> Vec<SetAside> {
    set_aside.sort();
    set_aside.truncate(MOST_SET_ASIDE);
    for SetAside { key, reason } in &mut set_aside {
        for text in [key, reason] {
            *text = shorten::shortened(text, LONGEST_TEXT);
        }
    }
    set_aside
}

/// How the log names an entry: `dev.yaml:dev` looks like a place in a file.
fn subject(key: &str) -> Cow<'_, str> {
    match key.rsplit_once(':') {
        Some((file, name)) if is_yaml_file(file) => format!("`{name}` of {file}").into(),
        _ => key.into(),
    }
}

/// The entries set aside that the log has had.
#[derive(Debug, Default)]
struct Log {
    patience: Duration,
    /// Those that are yet to be logged, and since when they are set aside.
    waiting: BTreeMap<SetAside, Instant>,
    logged: BTreeSet<SetAside>,
}

impl Log {
    fn report(&mut self, entries: &[SetAside], now: Instant) {
        for entry in self.due(entries, now) {
            let SetAside { key, reason } = &entry;
            warn!("{} is set aside: {}", printable(&subject(key)), printable(reason));
            self.logged.insert(entry);
        }
        let logged = std::mem::take(&mut self.logged);
        let (still, gone): (BTreeSet<_>, BTreeSet<_>) =
            logged.into_iter().partition(|entry| entries.contains(entry));
        self.logged = still;
        for SetAside { key, .. } in gone {
            if !entries.iter().any(|entry| entry.key == key) {
                info!("the problem with {} is resolved", printable(&subject(&key)));
            }
        }
    }

    /// The entries to tell of now.
    fn due(&mut self, entries: &[SetAside], now: Instant) -> Vec<SetAside> {
        self.waiting.retain(|entry, _| entries.contains(entry));
        let mut due = Vec::new();
        for entry in entries.iter().filter(|entry| !self.logged.contains(*entry)) {
            let since = *self.waiting.entry(entry.clone()).or_insert(now);
            if now >= since + self.patience {
                self.waiting.remove(entry);
                due.push(entry.clone());
            }
        }
        due
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

    #[test]
    fn the_log_names_what_a_file_holds() {
        for (key, named) in [
            ("dev.yaml:dev", "`dev` of dev.yaml"),
            ("services/a.yml:orders", "`orders` of services/a.yml"),
            ("dev.yaml", "dev.yaml"),
            ("/shop/backends/a/1/10.0.0.1:80", "/shop/backends/a/1/10.0.0.1:80"),
        ] {
            assert_eq!(subject(key), named);
        }
    }

    #[test]
    fn the_log_waits_for_what_may_be_about_to_come() {
        let entry = |key: &str| SetAside {
            key: key.to_owned(),
            reason: "nothing live".to_owned(),
        };
        let begun = Instant::now();
        let after = |seconds| begun + Duration::from_secs(seconds);
        let mut log = Log {
            patience: Duration::from_secs(5),
            ..Log::default()
        };
        assert!(log.due(&[entry("a"), entry("b")], after(0)).is_empty());
        assert!(log.due(&[entry("a")], after(4)).is_empty(), "b came");
        // The patience begins again with each time.
        log.report(&[entry("a"), entry("b")], after(5));
        assert_eq!(log.logged, BTreeSet::from([entry("a")]));
        log.report(&[entry("a"), entry("b")], after(10));
        assert_eq!(log.logged, BTreeSet::from([entry("a"), entry("b")]));
        assert!(
            log.due(&[entry("a"), entry("b")], after(11)).is_empty(),
            "told once"
        );
        log.report(&[entry("b")], after(12));
        assert_eq!((log.logged.len(), log.waiting.len()), (1, 0));
        assert_eq!(Log::default().due(&[entry("a")], begun), [entry("a")]);
    }
}
