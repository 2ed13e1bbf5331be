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
            log.warn(&self.lock().set_aside, Instant::now());
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
        let set_aside = self.note(set_aside);
        self.update(|status| {
            put(status, set_aside);
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
        let set_aside = self.note(set_aside);
        self.update(|status| put(status, set_aside));
    }

    /// Counts and logs the entries set aside; gives all of them, as they can be shown.
    fn note(&self, set_aside: Vec<SetAside>) -> Vec<SetAside> {
        show(&self.metrics.set_aside, set_aside.len());
        let set_aside = shortened(set_aside);
        self.log().report(&set_aside, Instant::now());
        set_aside
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

/// Puts the first entries set aside, and how many more there are.
fn put(status: &mut Status, mut set_aside: Vec<SetAside>) {
    let more = set_aside.len().saturating_sub(MOST_SET_ASIDE);
    match more {
        0 => status.detail.remove(MORE),
        more => status.detail.insert(MORE.to_owned(), more.into()),
    };
    set_aside.truncate(MOST_SET_ASIDE);
    status.set_aside = set_aside;
}

/// With no text that is too long, and sorted by key.
fn shortened(mut set_aside: Vec<SetAside>) -> Vec<SetAside> {
    for SetAside { key, reason } in &mut set_aside {
        for text in [key, reason] {
            *text = shorten::shortened(text, LONGEST_TEXT);
        }
    }
    set_aside.sort();
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
    /// Takes note of all entries, sorted. Of too many, only the first are logged; but none of the
    /// others is resolved.
    fn report(&mut self, entries: &[SetAside], now: Instant) {
        self.warn(&entries[..entries.len().min(MOST_SET_ASIDE)], now);
        for key in self.resolved(entries) {
            info!("the problem with {} is resolved", printable(&subject(&key)));
        }
    }

    /// Logs those of these entries that are due.
    fn warn(&mut self, entries: &[SetAside], now: Instant) {
        for entry in self.due(entries, now) {
            let SetAside { key, reason } = &entry;
            warn!("{} is set aside: {}", printable(&subject(key)), printable(reason));
            self.logged.insert(entry);
        }
    }

    /// Forgets the logged entries that are not among all of these, which are sorted; gives the keys
    /// that no entry has any more.
    fn resolved(&mut self, entries: &[SetAside]) -> Vec<String> {
        let logged = std::mem::take(&mut self.logged);
        let (still, gone): (BTreeSet<_>, BTreeSet<_>) = logged
            .into_iter()
            .partition(|entry| entries.binary_search(entry).is_ok());
        self.logged = still;
        let is_there = |key: &String| entries.binary_search_by(|entry| entry.key.cmp(key)).is_ok();
        let keys = gone.into_iter().map(|entry| entry.key);
        keys.filter(|key| !is_there(key)).collect()
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
    use std::ops::Range;

    use mayfly_core::keys::KeySpace;

    use super::*;
    use crate::store::Store;
    use crate::tasks::Tasks;

    #[test]
    fn long_lists_and_texts_are_shortened() {
        let entry = |n: usize| SetAside {
            key: format!("k{n:04}"),
            reason: "ü".repeat(1_000_000),
        };
        let mut status = Status::default();
        put(&mut status, shortened((0..500).rev().map(entry).collect()));
        let short = status.set_aside;
        assert_eq!(
            (short.len(), short[0].key.as_str(), short[99].key.as_str()),
            (100, "k0000", "k0099")
        );
        assert_eq!(status.detail[MORE], 400);
        assert_eq!(short[0].reason.chars().count(), LONGEST_TEXT + 3);
        assert!(serde_json::to_vec(&short).unwrap().len() < 200_000);
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_long_list_leaves_out_is_not_resolved() {
        let (tasks, store) = (Tasks::new(), Store::new(vec![], KeySpace::default()));
        let advertiser = Advertiser::start(&tasks, &store, Duration::from_secs(15));
        let (node, metrics) = ("node-1".parse().unwrap(), CommonMetrics::default());
        let status = StatusReporter::new(&advertiser, Daemon::HaproxyUpdater, node, &metrics)
            .with_patience(Duration::from_secs(5));
        let report = |keys: Range<usize>| {
            let entry = |n: usize| SetAside {
                key: format!("k{n:04}"),
                reason: "no".to_owned(),
            };
            status.set_aside(keys.map(entry).collect());
        };
        // How many entries the log has told of, and whether the last is one of them.
        let logged = || {
            let logged = status.log().logged.clone();
            let has_last = logged.iter().any(|entry| entry.key == "k0100");
            (logged.len(), has_last)
        };
        report(1..101);
        tokio::time::advance(Duration::from_secs(6)).await;
        status.remind();
        assert_eq!(logged(), (100, true));
        // With a smaller key before them, the record has no place for the last.
        report(0..101);
        assert_eq!(status.current().set_aside.len(), 100);
        assert_eq!(logged(), (100, true), "it is not resolved");
        tokio::time::advance(Duration::from_secs(6)).await;
        status.remind();
        assert_eq!(logged(), (101, true), "nor with a reminder");
        report(0..100);
        assert_eq!(logged(), (100, false), "now it is");
    }

    #[test]
    fn a_problem_is_resolved_when_its_key_has_none_any_more() {
        let entries = |entries: &[(&str, &str)]| -> Vec<SetAside> {
            let entry = |(key, reason): &(&str, &str)| SetAside {
                key: (*key).to_owned(),
                reason: (*reason).to_owned(),
            };
            entries.iter().map(entry).collect()
        };
        let mut log = Log::default();
        log.report(&entries(&[("a", "no"), ("b", "no"), ("c", "no")]), Instant::now());
        let left = entries(&[("a", "no"), ("b", "nor this")]);
        assert_eq!(log.resolved(&left), ["c"]);
        assert_eq!(log.logged, BTreeSet::from_iter(entries(&[("a", "no")])));
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
