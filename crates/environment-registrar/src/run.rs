//! The command `watch`: keeps environments and service definitions in sync. Of two registrars that
//! run as the same node, each would delete what the other has registered; so the one that came
//! first stands by.

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use mayfly_core::keys::Daemon;
use mayfly_core::names::NodeName;
use mayfly_core::records::SetAside;
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::status::{NOTES, StatusReporter};
use mayfly_daemon::store::Store;
use mayfly_daemon::tasks::Tasks;
use prometheus_client::registry::Registry;
use tokio::time::sleep_until;
use tracing::{error, info, warn};

use crate::apply::Applied;
use crate::apply::answered::Answered;
use crate::apply::ends::EndNotes;
use crate::args::DirectoryArguments;
use crate::definitions::{self, Definitions};
use crate::files_out::archive::Archive;
use crate::files_out::queue::Queue;
use crate::files_out::volatile;
use crate::files_out::writer::Writer;
use crate::reconcile::{ReconcileEvent, Reconciler};
use crate::resource::Resource;

/// How long the status record lives without its registrar.
const STATUS_TTL: Duration = Duration::from_secs(15);
/// How long the end may wait for etcd.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Keeps etcd in sync with the directory until the shutdown begins.
///
/// # Errors
/// When the node has no name, the admin address can't be listened at, or a background task ends.
/// Neither a missing directory nor an etcd out of reach is an error: both are waited for.
pub async fn watch(
    common: &CommonArgs,
    options: DirectoryArguments,
    shutdown: Shutdown,
) -> anyhow::Result<ExitCode> {
    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let node = common.node()?;
    let writer = Writer {
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
    let advertiser = Advertiser::start(&tasks, &store, STATUS_TTL);
    let (directory, services) = (&options.directory, options.services()?);
    let environments = Reconciler::new(
        directory,
        &services,
        options.quota(),
        (&store, &node, &options),
        advertiser.taken_over(),
        &mut registry,
    );
    CommonMetrics::register_watch(&mut registry, &environments.watch_metrics());
    let definitions = Reconciler::new(
        &services,
        directory,
        definitions::QUOTA,
        (&store, &node, &options),
        advertiser.taken_over(),
        &mut registry,
    );
    let daemon = Daemon::EnvironmentRegistrar;
    let mut status = StatusReporter::new(&advertiser, daemon, node.clone(), &common_metrics);
    let archive = Some(&writer.archive).filter(|archive| archive.is_on());
    if let Some(warning) = archive.and_then(|archive| volatile::warning(archive.root())) {
        warn!("{warning}");
        status = status.with_detail(NOTES, vec![warning].into());
    }
    admin::start(&tasks, common.admin, &readiness, registry).await?;

    let registrar = Registrar {
        environments,
        definitions,
        queue: Queue::new(writer, options.write_back),
        answered: Answered::default(),
        ends: EndNotes::default(),
        node,
        standing_by: false,
        store,
        status,
        readiness,
    };
    tasks.supervise(registrar.run(shutdown)).await?;
    // An etcd that is gone must not hold up the end: the status record then vanishes with its
    // lease.
    let _ = advertiser.shutdown(LAST_WAIT).await;
    Ok(ExitCode::SUCCESS)
}

/// What comes next, and what it concerns.
enum Next {
    Environments(ReconcileEvent),
    Definitions(ReconcileEvent),
}

/// Waits for what comes next. Neither kind holds up the other, however much comes of it.
async fn next(
    environments: &mut Reconciler,
    definitions: &mut Reconciler<Definitions, definitions::MergedDefinitions>,
) -> Next {
    tokio::select! {
        event = environments.next() => Next::Environments(event),
        event = definitions.next() => Next::Definitions(event),
    }
}

struct Registrar {
    environments: Reconciler,
    definitions: Reconciler<Definitions, definitions::MergedDefinitions>,
    queue: Queue,
    answered: Answered,
    /// How environments ended, where that is yet to be noted.
    ends: EndNotes,
    node: NodeName,
    /// Whether it is told that another registrar runs as this node.
    standing_by: bool,
    store: Store,
    status: StatusReporter,
    readiness: Readiness,
}

impl Registrar {
    async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        loop {
            let answered = self.answered.due(&self.environments.actual);
            let answered = answered.filter(|_| !self.standing_by);
            let due = answered.unwrap_or_else(Instant::now);
            // What comes all the time during a flood comes last.
            tokio::select! {
                biased;
                () = shutdown.begun() => return Ok(()),
                gone = self.queue.turn() => self.environments.forget(gone),
                () = sleep_until(due.into()), if answered.is_some() => {
                    self.answered.look(&self.store, &self.environments.actual).await;
                }
                event = next(&mut self.environments, &mut self.definitions) => match event {
                    Next::Environments(event) => {
                        let news = self.environments.take(event).await;
                        self.ends.take(&news, &self.environments.actual, SystemTime::now());
                        self.stand_by();
                    }
                    Next::Definitions(event) => drop(self.definitions.take(event).await),
                },
            }
            tokio::select! {
                () = shutdown.begun() => return Ok(()),
                () = self.round() => {}
            }
        }
    }

    /// Tells when another registrar that runs as the same node comes or goes.
    fn stand_by(&mut self) {
        let is_taken = self.environments.is_standing_by();
        if std::mem::replace(&mut self.standing_by, is_taken) == is_taken {
            return;
        }
        let node = &self.node;
        if is_taken {
            self.ends.leave();
            error!(
                "another environment-registrar has started as node {node}: this registrar writes \
                 nothing until the other one ends; if both should run, give each its own --node"
            );
        } else {
            info!("the other environment-registrar of node {node} has ended: this registrar resumes");
        }
    }

    /// Brings etcd in sync with the files, and then the files with etcd.
    async fn round(&mut self) {
        let (environments, queue) = (&mut self.environments, &mut self.queue);
        if let Some(plan) = environments.plan() {
            queue.takes_over(
                &mut environments.files,
                &environments.actual,
                &environments.desired,
            );
            let mut outcome = Applied::default();
            let mut done = environments.apply(plan, &mut outcome).await;
            self.ends
                .deleted(&outcome, &environments.actual, SystemTime::now());
            if done.is_ok() {
                let noted = self.ends.write(&self.store, SystemTime::now()).await;
                done = noted.map_err(Into::into);
            }
            queue.has_news();
            for environment in &outcome.in_force {
                queue.took_effect(&mut environments.files, environment);
            }
            environments.conclude(&done);
            if let Err(error) = done {
                self.status.failed(&error);
            }
        }
        if environments.is_in_sync() && environments.is_there() {
            queue.start(&environments.files, &environments.actual, &environments.desired);
        }
        self.definitions.round().await;
        self.report();
    }

    fn report(&self) {
        let mut entries = self.environments.report();
        entries.extend(self.queue.set_aside());
        entries.extend(self.definitions.report());
        let unread = self.definitions.unread();
        let unread = unread.map(|reason| format!("{reason}; nothing from it is deleted from etcd"));
        let doubt = self.definitions.doubt().map(str::to_owned);
        entries.extend(unread.into_iter().chain(doubt).map(|reason| SetAside {
            key: Definitions::FOLDER.to_owned(),
            reason,
        }));
        let unread = self.environments.unread();
        if unread.is_none() && self.environments.is_in_sync() {
            self.status.applied(self.environments.actual.revision(), entries);
            if self.definitions.is_in_sync() {
                self.readiness.set_ready();
            }
        } else {
            self.status.set_aside(entries);
        }
        if let Some(trouble) = self.environments.doubt().map(str::to_owned).or(unread) {
            self.status.update(|status| status.error = Some(trouble));
        }
    }
}
