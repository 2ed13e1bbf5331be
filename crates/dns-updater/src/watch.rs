//! `watch`: keeps the hosts file in step with etcd. What cannot be written is tried again; what etcd does not say any
//! more for lack of a router stays as it was.

use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::keys::Daemon;
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::status::StatusReporter;
use mayfly_daemon::tasks::Tasks;
use mayfly_daemon::watch::{self, Batch, WatchOptions};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::time::{MissedTickBehavior, interval};
use tracing::{info, warn};

use crate::args::Watch;
use crate::hosts_file::HostsFile;
use crate::render::render;
use crate::view::View;

/// The life of the status record without its daemon.
const STATUS_TTL: Duration = Duration::from_secs(15);
/// How long taking the status record back may hold up the end.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Runs the command until the shutdown begins.
///
/// # Errors
/// When the directory of the file cannot be made, the admin address is taken, or a background task ends.
pub async fn run(common: &CommonArgs, arguments: Watch, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let file = HostsFile::new(arguments.hosts_file)?;
    let view = View::new(store.keyspace().clone(), arguments.domain, file.last_routers());

    let mut registry = Registry::default();
    let metrics = CommonMetrics::register(&mut registry, "dns-updater", env!("CARGO_PKG_VERSION"), &store);
    let options = WatchOptions::default().with_vanish_grace(arguments.vanish_grace);
    let mut watch = watch::watch(&store, store.keyspace().naming(), options);
    CommonMetrics::register_watch(&mut registry, &watch.metrics());
    let writes = Counter::default();
    registry.register(
        "mayfly_hosts_writes",
        "How often the hosts file was written",
        writes.clone(),
    );
    let advertiser = Advertiser::start(&tasks, &store, STATUS_TTL);
    let status = StatusReporter::new(&advertiser, Daemon::DnsUpdater, common.node()?, &metrics);
    admin::start(&tasks, common.admin, &readiness, registry).await?;
    info!("writing {}", file.path().display());

    let mut updater = Updater {
        view,
        file,
        status,
        readiness,
        writes,
        revision: 0,
        failing: false,
        without_router: false,
        without_environment: false,
    };
    let mut repairs = interval(arguments.repair_interval);
    repairs.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let work = async {
        loop {
            tokio::select! {
                () = shutdown.begun() => break,
                batch = watch.next_batch_coalesced() => {
                    let held = watch.held();
                    updater.take(&batch, held).await;
                }
                _ = repairs.tick() => {
                    let held = watch.held();
                    updater.repair(held).await;
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
    view: View,
    file: HostsFile,
    status: StatusReporter,
    readiness: Readiness,
    writes: Counter,
    /// The revision that the view is at; 0 before the first sync.
    revision: i64,
    /// Whether the last write failed, so that it is told once.
    failing: bool,
    without_router: bool,
    without_environment: bool,
}

impl Updater {
    async fn take(&mut self, batch: &Batch, held: usize) {
        self.view.apply_all(&batch.changes);
        self.revision = batch.revision;
        let text = render(&self.view);
        let outcome = self.file.set(text).await;
        self.tell(outcome, held, "etcd changed");
    }

    /// Mends the file, and tries again what failed before.
    async fn repair(&mut self, held: usize) {
        if self.revision == 0 {
            return;
        }
        let outcome = self.file.mend().await;
        let unchanged = matches!(outcome, Ok(false)) && !self.failing;
        if !unchanged {
            self.tell(
                outcome,
                held,
                "somebody else changed it, or it could not be written before",
            );
        }
    }

    fn tell(&mut self, outcome: anyhow::Result<bool>, held: usize, why: &str) {
        let path = self.file.path().display().to_string();
        match outcome {
            Ok(written) => {
                self.failing = false;
                if written {
                    self.writes.inc();
                    info!("wrote {path} with {} names: {why}", self.view.names().len());
                }
                self.status.applied(self.revision, self.view.set_aside());
                self.readiness.set_ready();
            }
            Err(error) => {
                if !std::mem::replace(&mut self.failing, true) {
                    warn!("{error:#}; trying again");
                }
                self.status.failed(&error);
            }
        }
        self.tell_routers();
        self.tell_environments();
        let routers: Vec<String> = self.view.routers().iter().map(ToString::to_string).collect();
        let (names, without) = (self.view.names().len(), self.view.without_router());
        self.status.update(|status| {
            status.detail.insert("file".to_owned(), path.into());
            status.detail.insert("names".to_owned(), names.into());
            status.detail.insert("routers".to_owned(), routers.into());
            status.detail.insert("routers_live".to_owned(), (!without).into());
            status.detail.insert("held".to_owned(), held.into());
        });
    }

    fn tell_environments(&mut self) {
        let without = self.view.without_environment();
        if std::mem::replace(&mut self.without_environment, without) == without {
            return;
        }
        match self.view.names().len() {
            count if without && count > 0 => {
                warn!("no environment is left: the {count} names stay until there is one")
            }
            _ if without => info!("there is no environment"),
            _ => info!("there are environments again"),
        }
    }

    fn tell_routers(&mut self) {
        let without = self.view.without_router();
        if std::mem::replace(&mut self.without_router, without) == without {
            return;
        }
        if without {
            match self.view.routers().len() {
                0 => {
                    warn!("no router is known yet: only static records are names (does haproxy-updater run?)")
                }
                count => warn!("no router is live: names go on leading to the {count} addresses known last"),
            }
        } else {
            info!("names lead to live routers again");
        }
    }
}
