//! Runs the chain whenever the directory or etcd has changed, as a task beside the one for environments, and tells that
//! one what is left out, and why.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use mayfly_core::definition::Definition;
use mayfly_core::keys::Key;
use mayfly_core::names::{NodeName, ServiceName};
use mayfly_core::records::{self, SetAside};
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::store::{Guard, Store, StoreError};
use mayfly_daemon::tasks::Tasks;
use mayfly_daemon::watch::{self, Watch, WatchOptions as EtcdWatchOptions};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync;
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use super::library::Library;
use super::mirror::Mirror;
use super::plan::{Absences, Refusal, file_of, plan};
use crate::args::WatchOptions;
use crate::observe::{Look, Observer};
use crate::report::Reasons;

/// What the keys of entries of the status record begin with: no file of an environment has a slash in its name.
const FOLDER: &str = "services/";
/// When to think again about deletes that were held back.
const RECONSIDER: Duration = Duration::from_secs(1);
/// How often to try again at once when somebody else writes the same records at the same time.
const TRIES: usize = 3;

/// What is to be said of the definitions in the registrar's status record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// What is left out, with the reason: keys are `services/<file>:<service>`, `services/<file>`, or keys of etcd.
    pub set_aside: Vec<SetAside>,
    /// Whether etcd has all that the files say and that is not refused.
    pub in_step: bool,
}

/// Keeps the definitions of etcd in step with a directory, which need not exist, until the tasks are dropped. While
/// `taken_over` holds a key, another registrar runs as this node, and etcd is left to that one.
pub fn start(
    tasks: &Tasks,
    store: &Store,
    node: &NodeName,
    (directory, options): (PathBuf, &WatchOptions),
    taken_over: sync::watch::Receiver<BTreeSet<Key>>,
    registry: &mut Registry,
) -> sync::watch::Receiver<Report> {
    let (reports, report) = sync::watch::channel(Report::default());
    let metrics = Metrics::register(registry);
    let watched = store.keyspace().definitions();
    let registrar = Registrar {
        observer: Observer::new(&directory, options.poll, options.rescan).that_may_be_missing(),
        etcd: watch::watch(store, watched, EtcdWatchOptions::default()),
        library: Library::new(node.clone()),
        mirror: Mirror::new(store.keyspace().clone(), node.clone()),
        accepted: BTreeMap::new(),
        refused: Vec::new(),
        rejected: Vec::new(),
        absences: Absences::new(options.grace),
        taken_over,
        scanned: false,
        directory_error: None,
        again: None,
        backoff: Backoff::default(),
        failed: false,
        store: store.clone(),
        reports,
        metrics,
    };
    info!("watching {} for service definitions", directory.display());
    tasks.spawn("service definitions", registrar.run());
    report
}

struct Registrar {
    observer: Observer,
    etcd: Watch,
    library: Library,
    mirror: Mirror,
    /// What is to be in etcd, as of the last plan.
    accepted: BTreeMap<ServiceName, Definition>,
    refused: Vec<Refusal>,
    /// What etcd itself does not take.
    rejected: Vec<Refusal>,
    absences: Absences,
    taken_over: sync::watch::Receiver<BTreeSet<Key>>,
    /// Whether the directory has been looked through once.
    scanned: bool,
    directory_error: Option<std::io::Error>,
    /// When to go through the chain even if nothing changes.
    again: Option<Instant>,
    backoff: Backoff,
    /// Whether the last write failed: then nothing is written before `again`.
    failed: bool,
    store: Store,
    reports: sync::watch::Sender<Report>,
    metrics: Metrics,
}

impl Registrar {
    async fn run(mut self) -> anyhow::Result<()> {
        loop {
            let again = self
                .again
                .unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            tokio::select! {
                look = self.observer.next() => self.look(look).await,
                batch = self.etcd.next_batch_coalesced() => self.mirror.take(batch),
                Ok(()) = self.taken_over.changed() => self.accepted.clear(),
                () = sleep_until(again.into()) => (self.again, self.failed) = (None, false),
            }
            let standing_by = !self.taken_over.borrow_and_update().is_empty();
            if self.scanned && self.mirror.is_listed() && !standing_by && !self.failed {
                match self.write().await {
                    Ok(()) if self.rejected.is_empty() => self.backoff.reset(),
                    // That holds up nothing else.
                    Ok(()) => self.try_again(),
                    Err(error) => {
                        warn!("{error:#}; trying again");
                        self.failed = true;
                        self.try_again();
                    }
                }
            }
            self.report();
        }
    }

    fn try_again(&mut self) {
        let pause = Instant::now() + self.backoff.next_delay();
        self.again = Some(self.again.map_or(pause, |again| again.min(pause)));
    }

    /// Brings the library in step with the directory.
    async fn look(&mut self, look: Look) {
        match look {
            Look::Files(names) => {
                for (name, found) in self.observer.look(names).await {
                    self.library.take(&name, found);
                }
            }
            Look::All => match self.observer.scan(self.library.known()).await {
                Ok(scan) => {
                    self.library.take_scan(scan);
                    (self.scanned, self.directory_error) = (true, None);
                }
                Err(error) => self.directory_error = Some(error),
            },
        }
    }

    /// Brings etcd in step with the library.
    async fn write(&mut self) -> anyhow::Result<()> {
        for _ in 0..TRIES {
            let mut plan = plan(
                &self.library,
                &self.mirror,
                &self.accepted,
                &mut self.absences,
                Instant::now(),
            );
            (self.accepted, self.refused, self.again) = (plan.accepted, plan.refused, plan.again);
            self.rejected.clear();
            // Files that vanish one by one may be the beginning of the end of the whole directory, or the middle of git's work.
            if (!plan.deletes.is_empty() || self.observer.doubt().is_some()) && !self.observer.is_believed() {
                plan.deletes.clear();
                self.absences.begin_anew(Instant::now());
                self.again = Some(Instant::now() + RECONSIDER);
            }
            let mut conflict = false;
            for (definition, guard) in plan.puts {
                match self.put(definition.clone(), guard).await {
                    Ok(done) => conflict |= !done,
                    Err(error) if error.is_refusal() => self.reject(&definition, &error),
                    Err(error) => return Err(error.into()),
                }
            }
            for (name, guard) in plan.deletes {
                conflict |= !self.delete(&name, guard).await?;
            }
            if !conflict {
                return Ok(());
            }
        }
        anyhow::bail!("somebody else keeps changing the same service definitions")
    }

    /// Puts a record; says whether nobody else had changed it in between.
    async fn put(&mut self, definition: Definition, guard: Guard) -> Result<bool, StoreError> {
        let (name, value) = (definition.name.clone(), records::to_json(&definition));
        let key = Key::Definition(name.clone());
        match self.store.put_if(&key, value, None, guard).await? {
            Some(revision) => {
                let file = file_of(&definition).unwrap_or("?");
                info!("published the definition of service {name} of {file} (revision {revision})");
                self.mirror.published(definition, revision);
                Ok(true)
            }
            None => self.read_again(&name).await.map(|()| false),
        }
    }

    /// Deletes a record; says whether nobody else had changed it in between.
    async fn delete(&mut self, name: &ServiceName, guard: Guard) -> Result<bool, StoreError> {
        let key = Key::Definition(name.clone());
        if self.store.delete_if(&key, guard).await? {
            info!("deleted the definition of service {name}: no file defines it");
            self.mirror.deleted(name);
            return Ok(true);
        }
        self.read_again(name).await.map(|()| false)
    }

    async fn read_again(&mut self, name: &ServiceName) -> Result<(), StoreError> {
        debug!("the definition of service {name} was changed by somebody else in between");
        let entry = self.store.get(&Key::Definition(name.clone())).await?;
        self.mirror.refresh(name, entry);
        Ok(())
    }

    /// Notes that etcd does not take a definition: the others go on.
    fn reject(&mut self, definition: &Definition, error: &StoreError) {
        self.rejected.push(Refusal {
            file: file_of(definition).unwrap_or_default().to_owned(),
            service: definition.name.clone(),
            mark: None,
            reason: error.to_string(),
        });
    }

    fn report(&self) {
        let mut reasons = Reasons::default();
        let mut faults = self.refused.len();
        for (file, document) in self.library.files() {
            faults += document.faults().len();
            reasons.add_faults(&format!("{FOLDER}{file}"), document.faults());
        }
        for Refusal {
            file,
            service,
            mark,
            reason,
        } in self.refused.iter().chain(&self.rejected)
        {
            reasons.add(format!("{FOLDER}{file}:{service}"), *mark, reason);
        }
        if let Some(error) = self.directory_error.as_ref().filter(|error| self.is_told(error)) {
            let reason = format!("the directory cannot be read: {error}; nothing of it is deleted");
            reasons.add(FOLDER.to_owned(), None, &reason);
        }
        if let Some(doubt) = self.observer.doubt() {
            reasons.add(FOLDER.to_owned(), None, doubt);
        }
        let mut set_aside = reasons.entries();
        set_aside.extend(self.mirror.set_aside());
        self.metrics.set(self.accepted.len(), faults);
        let is_known = self.mirror.is_listed() && (self.scanned || self.directory_error.is_some());
        let is_written = !self.failed && self.rejected.is_empty();
        let report = Report {
            set_aside,
            in_step: is_known && is_written && self.library.is_complete(),
        };
        self.reports.send_if_modified(|before| {
            let changed = *before != report;
            *before = report;
            changed
        });
    }

    /// Whether it is worth a word that the directory can't be read: not if nobody has ever used it.
    fn is_told(&self, error: &std::io::Error) -> bool {
        error.kind() != ErrorKind::NotFound || self.scanned || self.mirror.ours().next().is_some()
    }
}

/// The metrics of the definitions.
#[derive(Debug, Default)]
struct Metrics {
    definitions: Gauge,
    faults: Gauge,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "mayfly_definitions",
            "Service definitions of this registrar that are to be in etcd",
            metrics.definitions.clone(),
        );
        registry.register(
            "mayfly_definition_faults",
            "Faults and clashes in the files of service definitions",
            metrics.faults.clone(),
        );
        metrics
    }

    fn set(&self, definitions: usize, faults: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.definitions.set(number(definitions));
        self.faults.set(number(faults));
    }
}
