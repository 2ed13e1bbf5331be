//! The command `watch`: runs the chain whenever the directory or etcd has changed. Of two registrars that run as the same
//! node, each would delete what the other has registered; so the one that came first stands by.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use mayfly_core::keys::{Daemon, Key};
use mayfly_core::names::NodeName;
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::status::StatusReporter;
use mayfly_daemon::store::{Store, StoreError};
use mayfly_daemon::tasks::Tasks;
use mayfly_daemon::watch::{self, Watch, WatchOptions as EtcdWatchOptions};
use prometheus_client::registry::Registry;
use tokio::sync;
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use crate::answered::Answered;
use crate::archive::Archive;
use crate::args::WatchOptions;
use crate::backlog::Backlog;
use crate::cabinet::Cabinet;
use crate::definitions;
use crate::filing::Filing;
use crate::library::{Document, Library};
use crate::merge::{Changes, Merged, Quota, Terms, merge, update};
use crate::mirror::Mirror;
use crate::observe::{Look, Observer};
use crate::plan::{Absences, next_end, plan};
use crate::publish::{Outcome, publish};
use crate::report::{Metrics, set_aside};
use crate::write_back::Origin;

/// How long the status record lives without its registrar.
const STATUS_TTL: Duration = Duration::from_secs(15);
/// How long the end may wait for etcd.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// When to think again about deletes that were held back.
const RECONSIDER: Duration = Duration::from_secs(1);
/// How often to try again at once when somebody else writes the same records at the same time.
const TRIES: usize = 3;

/// Keeps etcd in step with the directory until the shutdown begins.
///
/// # Errors
/// When the node has no name, the admin address can't be listened at, or a background task ends. Neither a missing
/// directory nor an etcd out of reach is an error: both are waited for.
pub async fn run(common: &CommonArgs, options: WatchOptions, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let node = common.node()?;
    let cabinet = Cabinet {
        directory: options.directory.clone(),
        archive: Archive::new(
            options.archive.as_deref(),
            &options.directory,
            options.archive_keep,
        )?,
    };
    let mut registry = Registry::default();
    let common_metrics = CommonMetrics::register(
        &mut registry,
        "environment-registrar",
        env!("CARGO_PKG_VERSION"),
        &store,
    );
    let etcd = watch::watch(&store, store.keyspace().registry(), EtcdWatchOptions::default());
    CommonMetrics::register_watch(&mut registry, &etcd.metrics());
    let metrics = Metrics::register(&mut registry);
    let advertiser = Advertiser::start(&tasks, &store, STATUS_TTL);
    let services = (options.services()?, &options);
    let taken_over = advertiser.taken_over();
    let definitions = definitions::start(&tasks, &store, &node, services, taken_over, &mut registry);
    let status = StatusReporter::new(
        &advertiser,
        Daemon::EnvironmentRegistrar,
        node.clone(),
        &common_metrics,
    );
    admin::start(&tasks, common.admin, &readiness, registry).await?;
    info!("watching {} as node {node}", options.directory.display());

    let registrar = Registrar {
        observer: Observer::new(&options.directory, options.poll, options.rescan),
        etcd,
        library: Library::new(node.clone()),
        mirror: Mirror::new(store.keyspace().clone(), node.clone()),
        merged: Merged::default(),
        absences: Absences::new(options.grace),
        force: options.force,
        filing: Filing::new(cabinet, options.write_back),
        node,
        taken_over: advertiser.taken_over(),
        definitions,
        standing_by: false,
        scanned: false,
        directory_error: None,
        changes: Changes::default(),
        backlog: Backlog::default(),
        refused: None,
        quota: options.quota(),
        again: None,
        answered: Answered::default(),
        backoff: Backoff::default(),
        store,
        status,
        readiness,
        metrics,
    };
    tasks.supervise(registrar.run(shutdown)).await?;
    // An etcd that is gone must not hold up the end: the status record then vanishes with its lease.
    let _ = advertiser.shutdown(LAST_WAIT).await;
    Ok(ExitCode::SUCCESS)
}

struct Registrar {
    observer: Observer,
    etcd: Watch,
    library: Library,
    mirror: Mirror,
    merged: Merged,
    absences: Absences,
    /// Whether protected environments are deleted with their files too.
    force: bool,
    filing: Filing,
    node: NodeName,
    /// The status record is in it when another registrar runs as this node.
    taken_over: sync::watch::Receiver<BTreeSet<Key>>,
    /// What is to be said of the service definitions.
    definitions: sync::watch::Receiver<definitions::Report>,
    /// Whether etcd and the files are left to that one.
    standing_by: bool,
    /// Whether the directory has been looked through once.
    scanned: bool,
    directory_error: Option<String>,
    /// What has changed since etcd was last in step.
    changes: Changes,
    /// What of the plans waits for the next round.
    backlog: Backlog,
    /// What etcd has refused since everything was planned last; the rest goes on.
    refused: Option<StoreError>,
    quota: Quota,
    /// When to go through the chain even if nothing changes.
    again: Option<Instant>,
    answered: Answered,
    backoff: Backoff,
    store: Store,
    status: StatusReporter,
    readiness: Readiness,
    metrics: Metrics,
}

impl Registrar {
    async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        loop {
            let again = self
                .again
                .unwrap_or_else(|| Instant::now() + Duration::from_secs(3600));
            let answered = self.answered.due(&self.mirror).filter(|_| !self.standing_by);
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                look = self.observer.next() => self.look(look).await,
                batch = self.etcd.next_batch_coalesced() => self.changes.add(self.mirror.take(batch)),
                gone = self.filing.turn() => self.forget(gone),
                Ok(()) = self.taken_over.changed() => self.stand_by(),
                Ok(()) = self.definitions.changed() => {}
                () = sleep_until(answered.unwrap_or(again).into()), if answered.is_some() => {
                    self.answered.look(&self.store, &self.mirror).await;
                }
                () = sleep_until(again.into()) => {}
            }
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                () = self.round() => {}
            }
        }
    }

    /// Leaves etcd to another registrar that runs as the same node, or goes on when that has ended.
    fn stand_by(&mut self) {
        let is_taken = !self.taken_over.borrow_and_update().is_empty();
        if std::mem::replace(&mut self.standing_by, is_taken) == is_taken {
            return;
        }
        let node = &self.node;
        if is_taken {
            error!(
                "another environment-registrar runs as node {node} since: leaving everything to that one until it ends; \
                 if both are to run, give each a --node of its own"
            );
        } else {
            info!("no other environment-registrar runs as node {node} any more: going on");
        }
        // Everything is looked at again then; until then no time is worth waking up for.
        (self.changes.all, self.again) = (true, None);
    }

    /// Notes that files are gone, before their environments are taken for alive again by them.
    fn forget(&mut self, files: Vec<String>) {
        for file in files {
            if self.library.take(&file, None) {
                self.changes.files.insert(file);
            }
        }
    }

    /// Brings the library in step with the directory.
    async fn look(&mut self, look: Look) {
        match look {
            Look::Files(names) => {
                for (name, found) in self.observer.look(names).await {
                    if self.library.take(&name, found) {
                        self.note(name);
                    }
                }
            }
            Look::All => match self.observer.scan(self.library.known()).await {
                Ok(scan) => {
                    for name in self.library.take_scan(scan) {
                        self.note(name);
                    }
                    self.changes.all |= !self.scanned;
                    (self.scanned, self.directory_error) = (true, None);
                }
                Err(error) => self.directory_error = Some(format!("the directory cannot be read: {error}")),
            },
        }
    }

    /// Notes that a file says something else.
    fn note(&mut self, file: String) {
        if let Some(Origin::Copy(name)) = self.library.get(&file).map(Document::origin) {
            self.mirror.copied(name);
        }
        self.changes.files.insert(file);
    }

    /// Brings etcd in step with the library.
    async fn round(&mut self) {
        let due = self.again.is_some_and(|again| again <= Instant::now());
        let may_write = !self.standing_by && self.scanned && self.mirror.is_listed();
        if may_write && (due || !self.changes.is_empty()) {
            self.again = None;
            let mut outcome = Outcome::default();
            match self.write(&mut outcome).await {
                Ok(()) => self.backoff.reset(),
                Err(error) => {
                    warn!("{error}; trying again");
                    self.changes.all = true;
                    self.again = Some(Instant::now() + self.backoff.next_delay());
                    self.status.failed(&error);
                }
            }
            self.metrics.count(&outcome);
            self.filing.has_news();
            for environment in &outcome.in_force {
                self.filing.took_effect(&self.library, environment);
            }
        }
        if self.is_in_step() && self.observer.is_there() {
            self.filing.start(&self.library, &self.mirror, &self.merged);
        }
        self.report();
    }

    async fn write(&mut self, outcome: &mut Outcome) -> anyhow::Result<()> {
        for _ in 0..TRIES {
            let changes = std::mem::take(&mut self.changes);
            let terms = Terms {
                now: SystemTime::now(),
                force: self.force,
                quota: self.quota,
            };
            let mut affected = update(&mut self.merged, &self.library, &self.mirror, &changes, terms);
            if let Some(affected) = &mut affected {
                affected.extend(self.backlog.take());
            } else {
                self.merged = merge(&self.library, &self.mirror, &self.merged, terms);
                self.backlog.clear();
                self.refused = None;
            }
            self.filing.takes_over(&self.library, &self.mirror, &self.merged);
            let (merged, absences, affected) = (&self.merged, &mut self.absences, affected.as_ref());
            let mut plan = plan(merged, &self.mirror, affected, absences, terms, Instant::now());
            // Files that vanish one by one may be the beginning of the end of the whole directory, or the middle of git's work.
            self.again = plan.again;
            if (!plan.deletes.is_empty() || self.observer.doubt().is_some()) && !self.observer.is_believed() {
                plan.deletes.clear();
                self.absences.begin_anew(Instant::now());
                self.again = Some(Instant::now() + RECONSIDER);
            }
            let goes_on = self.backlog.put_off(&mut plan, &self.merged, &self.mirror);
            if goes_on {
                self.again = Some(Instant::now());
            }
            outcome.conflict = false;
            match publish(&self.store, &mut self.mirror, plan, outcome).await {
                // That holds up nothing else; it is told, and tried again, once the rest is done.
                Err(error) if error.is_refusal() && !error.is_full() && !self.backlog.is_empty() => {
                    self.refused = self.refused.take().or(Some(error));
                }
                done => done?,
            }
            if let Some(error) = self.refused.take_if(|_| self.backlog.is_empty()) {
                return Err(error.into());
            }
            let next_end = next_end(&self.mirror, SystemTime::now(), Instant::now());
            self.again = self.again.into_iter().chain(next_end).min();
            // Somebody may wait for what is gone now.
            self.changes.names.extend(std::mem::take(&mut outcome.gone));
            // Where more is to follow, files and etcd are looked at in between.
            if !outcome.conflict && (goes_on || self.changes.is_empty()) {
                return Ok(());
            }
            self.changes.all |= outcome.conflict;
        }
        anyhow::bail!("somebody else keeps changing the same environments")
    }

    /// Whether everything that files say is in etcd, as far as it is not refused.
    fn is_in_step(&self) -> bool {
        self.changes.is_empty()
            && self.backlog.is_empty()
            && self.scanned
            && self.mirror.is_listed()
            && self.library.is_complete()
    }

    fn report(&mut self) {
        let mut entries = set_aside(&self.library, &self.merged, &self.mirror);
        entries.extend(self.filing.set_aside());
        let definitions = self.definitions.borrow_and_update().clone();
        entries.extend(definitions.set_aside);
        self.metrics.set(&self.library, &self.merged);
        if let Some(error) = &self.directory_error {
            self.status.set_aside(entries);
            self.status.update(|status| status.error = Some(error.clone()));
        } else if self.is_in_step() {
            self.status.applied(self.mirror.revision(), entries);
            if definitions.in_step {
                self.readiness.set_ready();
            }
        } else {
            self.status.set_aside(entries);
        }
        if let Some(doubt) = self.observer.doubt() {
            self.status.update(|status| status.error = Some(doubt.to_owned()));
        }
    }
}
