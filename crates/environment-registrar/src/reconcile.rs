//! Keeps one kind of records in sync: takes changes of files and etcd, plans the writes, and
//! applies them. The loop over this is [`crate::run`].

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use mayfly_core::keys::Key;
use mayfly_core::names::NodeName;
use mayfly_core::records::SetAside;
use mayfly_daemon::failure::retrying;
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::store::{Store, StoreError};
use mayfly_daemon::watch::{self, Batch, Watch, WatchMetrics, WatchOptions};
use prometheus_client::registry::Registry;
use tokio::sync;
use tokio::time::sleep_until;
use tracing::{info, warn};

use crate::actual::{Actual, Held};
use crate::apply::{Applied, apply};
use crate::args::DirectoryArguments;
use crate::changes::Changes;
use crate::desired::files::Files;
use crate::desired::merge::Merged;
use crate::desired::{Desired, Quota, Scope, Terms};
use crate::environments::Environments;
use crate::files_in::observe::{Observer, ScanScope};
use crate::plan::backlog::Backlog;
use crate::plan::{Absences, Plan, next_end, plan};
use crate::report::{Metrics, Reasons, set_aside};
use crate::resource::{Resource, SharedRecord};

/// When to think again about deletes that were held back.
const RECONSIDER: Duration = Duration::from_secs(1);
/// How often to try again at once when another writer writes the same records at the same time.
const TRIES: usize = 3;
/// How long to sleep while nothing is due.
const LONG: Duration = Duration::from_secs(3600);

#[derive(Debug)]
pub enum ReconcileEvent {
    /// Files have to be looked at.
    Files(ScanScope),
    Etcd(Batch),
    /// Another registrar of this node came or went.
    Rival,
    /// It is time to plan again.
    Due,
}

/// Files and etcd, and what is under way between them.
#[derive(Debug)]
pub struct Reconciler<K: Resource = Environments, D: Desired<K> = Merged> {
    observer: Observer,
    etcd: Watch,
    pub files: Files<K>,
    pub actual: Actual<K>,
    pub desired: D,
    absences: Absences<K>,
    terms: Terms,
    /// The status record is in it when another registrar runs as this node.
    taken_over: sync::watch::Receiver<BTreeSet<Key>>,
    /// Whether etcd and the files are left to that one.
    standing_by: bool,
    /// Whether the directory has been looked through once.
    scanned: bool,
    directory_error: Option<io::Error>,
    /// What has changed since etcd was last in sync.
    changes: Changes<K>,
    /// What of the plans waits for the next round.
    backlog: Backlog<K>,
    /// What etcd has refused since everything was planned last; the rest goes on.
    refused: Option<StoreError>,
    rejected: Vec<(SharedRecord<K>, String)>,
    /// How many rounds in a row another writer wrote the same.
    conflicts: usize,
    /// When to plan again even if nothing changes.
    again: Option<Instant>,
    /// Whether the last write failed: then everything is planned again.
    failed: bool,
    backoff: Backoff,
    store: Store,
    metrics: Metrics,
}

impl<K: Resource, D: Desired<K>> Reconciler<K, D> {
    /// Nothing is known yet, of the files in a directory and of etcd. `beside` is a directory that
    /// is read elsewhere.
    pub fn new(
        directory: &Path,
        beside: &Path,
        quota: Quota,
        (store, node, options): (&Store, &NodeName, &DirectoryArguments),
        taken_over: sync::watch::Receiver<BTreeSet<Key>>,
        registry: &mut Registry,
    ) -> Self {
        let observer = Observer::new(directory, options.poll).beside(&[beside]);
        let keys = K::range(store.keyspace());
        info!("watching {} for {} as node {node}", directory.display(), K::NOUN);
        Self {
            observer: if K::IS_OPTIONAL {
                observer.that_may_be_missing()
            } else {
                observer
            },
            etcd: watch::watch(store, keys, WatchOptions::default()),
            files: Files::new(node.clone()),
            actual: Actual::new(store.keyspace().clone(), node.clone()),
            desired: D::default(),
            absences: Absences::new(options.grace),
            terms: Terms {
                now: SystemTime::now(),
                force: options.force,
                quota,
            },
            taken_over,
            standing_by: false,
            scanned: false,
            directory_error: None,
            changes: Changes::default(),
            backlog: Backlog::default(),
            refused: None,
            rejected: Vec::new(),
            conflicts: 0,
            again: None,
            failed: false,
            backoff: Backoff::default(),
            store: store.clone(),
            metrics: Metrics::register::<K>(registry),
        }
    }

    /// The metrics of the watch.
    pub fn watch_metrics(&self) -> WatchMetrics {
        self.etcd.metrics()
    }

    /// Waits until something has happened. Safe in `select!`.
    pub async fn next(&mut self) -> ReconcileEvent {
        let again = self.again.unwrap_or_else(|| Instant::now() + LONG);
        // What was put off comes last: during a flood it is always there. Files and etcd take turns
        // by chance: where files came first, thousands of changes of etcd waited in memory.
        tokio::select! {
            biased;
            event = Self::next_change(&mut self.observer, &mut self.etcd) => event,
            Ok(()) = self.taken_over.changed() => ReconcileEvent::Rival,
            () = sleep_until(again.into()) => ReconcileEvent::Due,
        }
    }

    /// Waits until files or etcd have changed. Safe in `select!`.
    async fn next_change(observer: &mut Observer, etcd: &mut Watch) -> ReconcileEvent {
        tokio::select! {
            look = observer.next() => ReconcileEvent::Files(look),
            batch = etcd.next_batch_coalesced() => ReconcileEvent::Etcd(batch),
        }
    }

    /// Takes what has happened; gives what of it concerns more than this.
    pub async fn take(&mut self, event: ReconcileEvent) -> Changes<K> {
        let mut news = Changes::default();
        match event {
            ReconcileEvent::Files(look) => self.look(look).await,
            ReconcileEvent::Etcd(batch) => {
                news = self.actual.update(batch);
                self.changes.add(&mut news);
            }
            ReconcileEvent::Rival => self.stand_by(),
            ReconcileEvent::Due => {}
        }
        news
    }

    /// Leaves etcd to another registrar that runs as the same node, or goes on when that has ended.
    fn stand_by(&mut self) {
        let is_taken = !self.taken_over.borrow_and_update().is_empty();
        if std::mem::replace(&mut self.standing_by, is_taken) == is_taken {
            return;
        }
        // Everything is looked at again then; until then no time is worth waking up for.
        (self.changes.all, self.again) = (true, None);
        if !is_taken {
            // What that one has registered is newer than what was to be there before.
            self.desired = D::default();
            // What was missing before has had no time to come back since.
            self.absences.begin_anew(Instant::now());
        }
    }

    /// Whether etcd and the files are left to another registrar that runs as the same node.
    pub fn is_standing_by(&self) -> bool {
        self.standing_by
    }

    async fn look(&mut self, look: ScanScope) {
        let changed = match look {
            ScanScope::Files(names) => {
                let looked = self.observer.look(names).await.into_iter();
                let changed =
                    looked.filter_map(|(name, found)| self.files.update(&name, found).then_some(name));
                changed.collect()
            }
            ScanScope::All => match self.observer.scan(self.files.known()).await {
                Ok(scan) => {
                    self.changes.all |= !self.scanned;
                    (self.scanned, self.directory_error) = (true, None);
                    self.files.update_all(scan)
                }
                Err(error) => {
                    self.directory_error = Some(error);
                    Vec::new()
                }
            },
        };
        for file in &changed {
            if let Some(name) = self.files.get(file).and_then(|it| K::copy_of(it.origin())) {
                self.actual.copied(name);
            }
        }
        self.changes.files.extend(changed);
    }

    /// Notes that files are gone, before what they say is taken for meant.
    pub fn forget(&mut self, files: Vec<String>) {
        let gone = files.into_iter().filter(|file| self.files.update(file, None));
        self.changes.files.extend(gone);
    }

    /// Plans what has to be written; `None` where nothing may be, or nothing has changed.
    pub fn plan(&mut self) -> Option<Plan<K>> {
        let now = Instant::now();
        let due = self.again.is_some_and(|again| again <= now);
        let may_write = !self.standing_by && self.scanned && self.actual.is_listed();
        if !may_write || (!due && self.changes.is_empty()) {
            return None;
        }
        let mut changes = std::mem::take(&mut self.changes);
        changes.all |= std::mem::take(&mut self.failed);
        self.terms.now = SystemTime::now();
        let mut scope = self
            .desired
            .merge(&self.files, &self.actual, &changes, self.terms);
        match &mut scope {
            Scope::Only(names) => names.extend(self.backlog.take()),
            Scope::Everything => {
                self.backlog.clear();
                (self.refused, self.rejected) = (None, Vec::new());
            }
        }
        let absences = &mut self.absences;
        let mut plan = plan(&self.desired, &self.actual, &scope, absences, self.terms, now);
        self.again = plan.again;
        // Files that vanish one by one may be the beginning of the end of the whole directory, or
        // the middle of git's work.
        if (!plan.deletes.is_empty() || self.observer.doubt().is_some()) && !self.observer.is_believed() {
            plan.deletes.clear();
            absences.begin_anew(now);
            self.again = Some(now + RECONSIDER);
        }
        if self.backlog.put_off(&mut plan, &self.desired, &self.actual) {
            self.again = Some(now);
        }
        Some(plan)
    }

    /// Carries a plan out.
    ///
    /// # Errors
    /// When etcd does not answer or refuses something, or another writer keeps writing the same.
    pub async fn apply(&mut self, plan: Plan<K>, outcome: &mut Applied<K>) -> anyhow::Result<()> {
        let done = apply(&self.store, &mut self.actual, plan, outcome).await;
        self.metrics.count(outcome);
        self.rejected.append(&mut outcome.rejected);
        match done {
            // That holds up nothing else; it is reported, and tried again, once the rest is done.
            Err(error) if error.is_refusal() && !error.is_full() && !self.backlog.is_empty() => {
                self.refused = self.refused.take().or(Some(error));
            }
            done => done?,
        }
        if let Some(error) = self.refused.take_if(|_| self.backlog.is_empty()) {
            return Err(error.into());
        }
        self.conflicts = if outcome.conflict { self.conflicts + 1 } else { 0 };
        anyhow::ensure!(
            self.conflicts < TRIES,
            "cannot write {} to etcd: another program keeps changing them at the same time",
            K::NOUN
        );
        // Somebody may wait for what is gone now.
        self.changes.names.extend(outcome.gone().cloned());
        self.changes.all |= outcome.conflict;
        let next_end = next_end(&self.actual, SystemTime::now(), Instant::now());
        let at_once = (!self.changes.is_empty()).then(Instant::now);
        self.again = [self.again, next_end, at_once].into_iter().flatten().min();
        Ok(())
    }

    /// Plans what has to be written, and carries it out.
    pub async fn round(&mut self) {
        if let Some(plan) = self.plan() {
            let done = self.apply(plan, &mut Applied::default()).await;
            self.conclude(&done);
        }
    }

    /// Notes how that ended. After a failure everything is planned again with the next change, and
    /// each time later without.
    pub fn conclude(&mut self, done: &anyhow::Result<()>) {
        match done {
            Ok(()) => self.backoff.reset(),
            Err(error) => {
                warn!("{}", retrying(error));
                self.failed = true;
                self.again = Some(Instant::now() + self.backoff.next_delay());
            }
        }
    }

    /// Whether everything that files say is in etcd, as far as it is not refused. Where a directory
    /// need not exist and can't be read, that is nothing.
    pub fn is_in_sync(&self) -> bool {
        let done = !self.failed && self.changes.is_empty() && self.backlog.is_empty();
        let is_without = K::IS_OPTIONAL && self.directory_error.is_some();
        self.actual.is_listed()
            && if self.scanned {
                done && self.files.is_complete()
            } else {
                is_without
            }
    }

    /// Whether the directory is there and is the one that has been looked through.
    pub fn is_there(&self) -> bool {
        self.observer.is_there()
    }

    /// Why the directory can't be read, unless nobody has ever used it.
    pub fn unread(&self) -> Option<String> {
        let is_missed = |error: &&io::Error| {
            let is_unused = K::IS_OPTIONAL && !self.scanned && error.kind() == io::ErrorKind::NotFound;
            !is_unused || self.actual.records().values().any(Held::is_ours)
        };
        let error = self.directory_error.as_ref().filter(is_missed)?;
        Some(format!("the directory cannot be read: {error}"))
    }

    /// Why a missing file means nothing at the moment.
    pub fn doubt(&self) -> Option<&str> {
        self.observer.doubt()
    }

    /// Sets the metrics, and says what is left out, with the reason: keys are `<file>:<name>`,
    /// `<file>`, or keys of etcd.
    pub fn report(&self) -> Vec<SetAside> {
        self.metrics.set(&self.files, &self.desired);
        let mut entries = set_aside(&self.files, &self.desired, &self.actual);
        let mut reasons = Reasons::default();
        for (record, reason) in &self.rejected {
            let file = K::source(record).map_or("?", |source| source.file.as_str());
            reasons.add(format!("{}{file}:{}", K::FOLDER, K::name(record)), None, reason);
        }
        entries.extend(reasons.entries());
        entries.extend(self.observer.asides().iter().map(|aside| SetAside {
            key: format!("{}{}", K::FOLDER, aside.name),
            reason: aside.reason.to_owned(),
        }));
        entries
    }
}
