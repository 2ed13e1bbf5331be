//! `watch`: keeps the hosts file in sync with etcd. A write that fails is retried. Without a live
//! router, names keep their last addresses.

use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::keys::Daemon;
use mayfly_core::shorten::counted;
use mayfly_core::trust::{Kept, Policy};
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::metrics::metric;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::status::{NOTES, StatusReporter};
use mayfly_daemon::tasks::Tasks;
use mayfly_daemon::watch::{self, Batch, Watch, WatchOptions};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::apply::HostsFile;
use crate::args::WatchArguments;
use crate::desired::DnsView;
use crate::lacks::{Lacks, Notice};
use crate::render::render;

/// The life of the status record without its daemon.
const STATUS_TTL: Duration = Duration::from_secs(15);
/// How often to look whether another program changed or removed the file or its directory: it costs
/// little, and no client waits long for a name.
const REPAIR: Duration = Duration::from_secs(2);
/// How long deleting the status record may hold up the shutdown.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Runs the command until the shutdown begins.
///
/// # Errors
/// When the directory of the file cannot be created, the admin address is taken, or a background
/// task ends.
pub async fn run(
    common: &CommonArgs,
    arguments: WatchArguments,
    shutdown: Shutdown,
) -> anyhow::Result<ExitCode> {
    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let file = HostsFile::new(arguments.hosts_file)?;
    let view = DnsView::new(arguments.domain, file.last_routers());

    let mut registry = Registry::default();
    let metrics = CommonMetrics::register(&mut registry, "dns-updater", env!("CARGO_PKG_VERSION"), &store);
    let options = WatchOptions::default().with_policy(Policy::naming(arguments.distrust));
    let mut watch = watch::watch(&store, store.keyspace().naming(), options);
    CommonMetrics::register_watch(&mut registry, &watch.metrics());
    let help = "How often the hosts file was written";
    let writes = metric(&mut registry, "mayfly_hosts_writes", help);
    let advertiser = Advertiser::start(&tasks, &store, STATUS_TTL);
    let status = StatusReporter::new(&advertiser, Daemon::DnsUpdater, common.node()?, &metrics);
    admin::start(&tasks, common.admin, &readiness, registry).await?;
    info!("writing the hosts file `{}`", file.path().display());

    let mut updater = Updater {
        view,
        file,
        status,
        readiness,
        writes,
        revision: 0,
        failing: false,
        note: None,
        begun: Instant::now(),
        lacks: Lacks::default(),
        held: 0,
        kept: Kept::default(),
    };
    let mut repairs = interval(REPAIR);
    repairs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        loop {
            tokio::select! {
                () = shutdown.begun() => break,
                batch = watch.next_batch_coalesced() => {
                    updater.take(batch, &watch).await;
                }
                _ = repairs.tick() => {
                    updater.repair().await;
                }
            }
        }
        if let Err(error) = advertiser.shutdown(LAST_WRITE).await {
            warn!("{error:#}");
        }
        Ok(ExitCode::SUCCESS)
    };
    tasks.supervise(work).await
}

struct Updater {
    view: DnsView,
    file: HostsFile,
    status: StatusReporter,
    readiness: Readiness,
    writes: Counter,
    /// The revision that the view is at; 0 before the first sync.
    revision: i64,
    /// Whether the last write failed, which is logged once.
    failing: bool,
    /// What the status record says of a directory that was replaced.
    note: Option<String>,
    begun: Instant,
    lacks: Lacks,
    /// How many deletions of keys are withheld, and what is kept because of that.
    held: usize,
    kept: Kept,
}

impl Updater {
    async fn take(&mut self, batch: Batch, watch: &Watch) {
        (self.held, self.kept) = (watch.held(), watch.kept().clone());
        self.revision = batch.revision;
        self.view.take(batch);
        let text = render(&self.view);
        let outcome = self.file.set(text).await;
        self.warn_if_replaced();
        self.report(outcome, "etcd changed");
    }

    /// Repairs the file, and retries what failed before.
    async fn repair(&mut self) {
        if self.revision == 0 {
            return;
        }
        let outcome = self.file.repair().await;
        let replaced = self.warn_if_replaced();
        let unchanged = matches!(outcome, Ok(false)) && !self.failing && !replaced;
        if !unchanged {
            self.report(
                outcome,
                "another program changed the file, or an earlier write failed",
            );
        }
        self.log_lacks();
    }

    /// Logs if the directory of the file was replaced, and notes it for the status record. Returns
    /// whether it was.
    fn warn_if_replaced(&mut self) -> bool {
        let Some(directory) = self.file.take_replaced() else {
            return false;
        };
        let warning = format!(
            "the directory `{}` was replaced: dnsmasq no longer notices changes in it. Restart dnsmasq",
            directory.display()
        );
        warn!("{warning}");
        // Nothing shows that dnsmasq was restarted.
        self.note = Some(format!("{warning}. This note stays until dns-updater restarts"));
        true
    }

    fn report(&mut self, outcome: anyhow::Result<bool>, why: &str) {
        let path = self.file.path().display().to_string();
        match outcome {
            Ok(written) => {
                self.failing = false;
                if written {
                    self.writes.inc();
                    let names = counted(self.view.names().len(), "name");
                    info!("wrote `{path}` with {names}: {why}");
                }
                self.status.applied(self.revision, self.view.set_aside());
                self.readiness.set_ready();
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    warn!("{error:#}; retrying");
                }
                self.status.failed(&error);
            }
        }
        self.log_lacks();
        let routers: Vec<String> = self.view.routers().iter().map(ToString::to_string).collect();
        let (names, without) = (self.view.names().len(), self.view.without_router());
        self.status.update(|status| {
            status.detail.insert("file".to_owned(), path.into());
            status.detail.insert("names".to_owned(), names.into());
            status.detail.insert("routers".to_owned(), routers.into());
            status.detail.insert("routers_live".to_owned(), (!without).into());
            status.detail.insert("held".to_owned(), self.held.into());
            if let Some(note) = &self.note {
                status.detail.insert(NOTES.to_owned(), vec![note.clone()].into());
            }
            self.kept.put(status);
        });
    }

    fn log_lacks(&mut self) {
        let Self { view, lacks, .. } = self;
        let known = view.routers().len();
        let routers = lacks.routers(view.without_router(), known, self.begun.elapsed());
        let environments = lacks.environments(view.without_environment());
        routers.into_iter().chain(environments).for_each(Notice::log);
    }
}
