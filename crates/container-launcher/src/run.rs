//! The daemon: follows etcd and the engine, and carries out a plan whenever something has changed,
//! while it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mayfly_core::keys::{Daemon, Key};
use mayfly_core::launching::GivenUp;
use mayfly_core::shorten::counted;
use mayfly_core::trust::{Policy, Retiring};
use mayfly_core::version::BackendId;
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::election::{Election, Leadership};
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::output::printable;
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::status::StatusReporter;
use mayfly_daemon::store::{self, Store};
use mayfly_daemon::tasks::Tasks;
use mayfly_daemon::watch::{self, Batch, Watch, WatchOptions};
use prometheus_client::registry::Registry;
use tokio::sync::watch as channel;
use tokio::time::sleep_until;
use tracing::{info, warn};

use crate::apply::{Message, Outcome, Workers};
use crate::args::Arguments;
use crate::desired::View;
use crate::engine::{Engine, Inventory};
use crate::plan::{ClockReading, Doing, Planner, Situation, sooner};
use crate::report::{self, LauncherReport, Metrics};

/// How long the shutdown may wait for etcd, and for work on units.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// How long the status record may take into etcd before what depends on it is left for later.
const REPORTING: Duration = Duration::from_secs(2);
/// When to retry what etcd refused.
const RETRY: Duration = Duration::from_secs(1);
/// How long retiring is held back before that is reported: the note that an end was meant comes
/// some milliseconds after the end.
const UNREPORTED: Duration = Duration::from_secs(2);
/// When to plan again although nothing has changed.
const RECONSIDER: Duration = Duration::from_secs(60);

/// An inventory, and when it was begun; or why there is none.
type LatestInventory = Option<(Instant, Result<Arc<Inventory>, String>)>;

/// Runs until the shutdown begins.
///
/// # Errors
/// When the node has no name, the admin address is taken, or a background task ends. It is no error
/// if etcd or the engine is out of reach: the launcher waits for both.
pub async fn run<E: Engine>(engine: E, arguments: Arguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let common = &arguments.common;
    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let node = common.node()?;
    let mut registry = Registry::default();
    let version = env!("CARGO_PKG_VERSION");
    let common_metrics = CommonMetrics::register(&mut registry, "container-launcher", version, &store);
    let options = WatchOptions::default().with_policy(Policy::launching(arguments.distrust));
    let etcd = watch::watch(&store, store.keyspace().launching(), options);
    CommonMetrics::register_watch(&mut registry, &etcd.metrics());
    let metrics = Metrics::register(&mut registry);
    let advertiser = Advertiser::start(&tasks, &store, arguments.ttl);
    let daemon = Daemon::ContainerLauncher;
    let status = StatusReporter::new(&advertiser, daemon, node.clone(), &common_metrics);
    admin::start(&tasks, common.admin, &readiness, registry).await?;
    let election = Election::start(&tasks, &store, daemon, node, arguments.ttl);

    if arguments.dns.is_empty() {
        info!(
            "--dns is not set: containers resolve *.service only if the name servers of the \
             engine's host resolve these names"
        );
    }
    let engine = Arc::new(engine);
    let (sender, listed) = channel::channel(LatestInventory::None);
    let nudge = Arc::new(tokio::sync::Notify::new());
    tasks.spawn(
        "engine",
        follow(engine.clone(), sender, nudge.clone(), metrics.clone()),
    );
    let launcher = Launcher {
        etcd,
        view: View::new(store.keyspace()),
        is_listed: false,
        listed,
        known: None,
        nudge,
        leadership: election.leadership(),
        leading_since: None,
        planner: Planner::new(arguments.terms()?),
        retiring: Retiring::new(arguments.distrust),
        held_since: None,
        workers: Workers::new(engine, arguments.stop_timeout),
        advertiser: advertiser.clone(),
        drains: BTreeSet::new(),
        reporter: LauncherReport::new(status.clone(), metrics.clone()),
        again: None,
        arguments,
        store,
        status,
        metrics,
        readiness,
    };
    tasks.supervise(launcher.run(shutdown)).await?;
    // An etcd that is gone must not hold up the shutdown: our records then vanish with their lease.
    let (resigned, taken_back) = (election.resign(LAST_WAIT), advertiser.shutdown(LAST_WAIT));
    let _ = tokio::join!(resigned, taken_back);
    Ok(ExitCode::SUCCESS)
}

/// Keeps the newest inventory at hand: makes a new one whenever the engine reports a change, or on
/// a nudge.
async fn follow<E: Engine>(
    engine: Arc<E>,
    listed: channel::Sender<LatestInventory>,
    nudge: Arc<tokio::sync::Notify>,
    metrics: Metrics,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::default();
    loop {
        let begun = Instant::now();
        // Registered before, so that a nudge during the inventory is not lost.
        let nudged = nudge.notified();
        match engine.inventory().await {
            Ok(inventory) => {
                if backoff.failures() > 0 {
                    info!("the engine answers again");
                }
                backoff.reset();
                metrics.engine_connected.set(1);
                listed.send_replace(Some((begun, Ok(Arc::new(inventory)))));
                tokio::select! {
                    () = engine.changed() => {}
                    () = nudged => {}
                }
            }
            Err(error) => {
                metrics.engine_connected.set(0);
                let error = format!("{error:#}");
                if backoff.failures() == 0 {
                    warn!("{error}; retrying");
                }
                listed.send_replace(Some((begun, Err(error))));
                backoff.rest().await;
            }
        }
    }
}

struct Launcher<E> {
    etcd: Watch,
    view: View,
    /// Whether etcd has been listed once.
    is_listed: bool,
    listed: channel::Receiver<LatestInventory>,
    /// The last inventory that could be made.
    known: Option<Arc<Inventory>>,
    /// Asks for a new inventory.
    nudge: Arc<tokio::sync::Notify>,
    leadership: channel::Receiver<Leadership>,
    /// Since when it leads, if it does.
    leading_since: Option<Instant>,
    planner: Planner,
    retiring: Retiring,
    /// Since when retiring has been held back, if it is.
    held_since: Option<Instant>,
    workers: Workers<E>,
    advertiser: Advertiser,
    /// The drains that are in etcd.
    drains: BTreeSet<Key>,
    reporter: LauncherReport,
    /// When to plan again even if nothing changes.
    again: Option<Instant>,
    arguments: Arguments,
    store: Store,
    status: StatusReporter,
    metrics: Metrics,
    readiness: Readiness,
}

impl<E: Engine> Launcher<E> {
    async fn run(mut self, shutdown: Shutdown) -> anyhow::Result<()> {
        loop {
            let again = self.again.unwrap_or_else(|| Instant::now() + RECONSIDER);
            tokio::select! {
                () = shutdown.begun() => break,
                batch = self.etcd.next_batch_coalesced() => {
                    self.take(batch);
                }
                changed = self.listed.changed() => changed.context("the task that watches the engine has ended")?,
                changed = self.leadership.changed() => {
                    changed.context("the task of the leader election has ended")?;
                    self.take_leadership()?;
                }
                message = self.workers.next_message() => self.take_message(message),
                () = sleep_until(again.into()) => {}
            }
            self.round().await;
        }
        // Giving up half way would do no harm; finishing saves the next leader work.
        self.workers.finish(LAST_WAIT).await;
        Ok(())
    }

    /// Takes what etcd says. Before environments end, counts those that our units are for.
    fn take(&mut self, batch: Batch) {
        if self.view.is_end(&batch) {
            let units = self.known.iter().flat_map(|inventory| &inventory.units);
            let units = units.map(|unit| unit.backend.clone()).collect();
            self.retiring.count(self.view.resolving_to(&units));
        }
        let ended = self.view.take(batch);
        self.is_listed = true;
        // Also while another launcher leads: when etcd loses its data, the lead is lost with it.
        let (total, view) = (self.view.environments(), &self.view);
        self.retiring.observe(
            total,
            ended,
            |name| view.has_environment(name),
            |name, changed| view.is_meant(name, changed),
            Instant::now(),
        );
    }

    /// Takes the lead, or gives it up. A new leader starts with an empty memory.
    fn take_leadership(&mut self) -> anyhow::Result<()> {
        let leadership = self.leadership.borrow_and_update().clone();
        match (&leadership, self.leading_since) {
            (Leadership::Leading, None) => {
                self.leading_since = Some(Instant::now());
                self.planner = Planner::new(self.arguments.terms()?);
                self.nudge.notify_one();
            }
            (Leadership::Leading, Some(_)) => {}
            (Leadership::Following(leader), _) => {
                info!("this launcher is on standby: the launcher of node `{leader}` is the leader")
            }
            (Leadership::Unknown, _) => {}
        }
        if leadership != Leadership::Leading && self.leading_since.take().is_some() {
            // The next leader plans by what the engine has then, and goes on with what is half
            // done.
            self.workers.give_up();
        }
        Ok(())
    }

    fn take_message(&mut self, message: Message) {
        let Message::Outcome(name, backend, outcome) = message else {
            return;
        };
        match outcome {
            Outcome::Started(not_pulled) => {
                self.metrics.started.inc();
                if let Some(reason) = &not_pulled {
                    warn!(
                        "{backend}: {}; starting `{name}` from the image that the engine has",
                        printable(reason)
                    );
                }
                self.planner.started(&backend, not_pulled);
            }
            Outcome::Failed(reason, output) => {
                self.metrics.failed.inc();
                let doing = self.workers.busy().get(&name).map(|(_, doing)| doing);
                // From the second failure of a start on, the phase says the same, with the next try.
                if self.planner.failures(&backend) == 0 || matches!(doing, Some(Doing::Clearing)) {
                    warn!("{backend}: {}", report::failure(&name, doing, &reason));
                }
                self.planner.failed(&backend, reason, output, ClockReading::now());
            }
            Outcome::Removed => {
                info!("{backend}: `{name}` is removed");
                self.metrics.removed.inc();
            }
            Outcome::Stays => {}
        }
        self.nudge.notify_one();
    }

    /// Plans and begins what is to be done, if this launcher leads and everything is known.
    async fn round(&mut self) {
        self.again = None;
        let listed = self.listed.borrow_and_update().clone();
        if let Some((begun, Ok(inventory))) = &listed {
            self.workers.listed(*begun);
            self.known = Some(inventory.clone());
        }
        let now = ClockReading::now();
        let Some(leading_since) = self.leading_since else {
            if self.view.is_confirmed() {
                self.retiring.confirm();
            }
            self.drain(BTreeSet::new());
            self.reporter.standing_by();
            if self.is_listed {
                self.set_in_sync();
            }
            return;
        };
        let (begun, inventory) = match listed {
            Some((begun, Ok(inventory))) => (begun, inventory),
            Some((_, Err(error))) => {
                self.status.update(|status| status.error = Some(error));
                // What was to be stopped still runs; if it is needed again, that must not wait for
                // the engine.
                let needed = self.view.needed();
                let is_needed =
                    |key: &Key| matches!(key, Key::Drain(backend, _) if needed.contains_key(backend));
                let unneeded = self.drains.iter().filter(|key| !is_needed(key)).cloned();
                self.drain(unneeded.collect());
                return;
            }
            None => return,
        };
        // Only an inventory that was begun since this launcher leads shows what the former leader
        // did.
        if !self.is_listed || begun < leading_since {
            return;
        }
        if self.view.is_confirmed() {
            self.take_confirmation(now).await;
        }
        let held = self.etcd.held();
        let withheld = (held > 0).then(|| {
            let keys = counted(held, "key");
            format!("etcd has suddenly lost {keys}, which may be back soon")
        });
        let guard = withheld.or_else(|| self.retiring.closed());
        let situation = Situation {
            view: &self.view,
            inventory: &inventory,
            busy: self.workers.busy(),
            guard: guard.as_deref(),
        };
        let plan = self.planner.plan(&situation, now);
        let is_told = |backend: &BackendId| {
            plan.backends
                .get(backend)
                .is_some_and(|it| it.not_pulled.is_some())
        };
        let has_news = plan.relaunched.iter().any(is_told);
        self.again = self.again.into_iter().chain(plan.again).min();
        let is_reported = self.is_reported(guard.is_some(), now);
        self.workers.carry_out(&plan);
        let stopped = self.stopped(&inventory);
        self.drain(plan.drains.into_iter().chain(stopped).collect());
        self.reporter.leading(
            plan.backends,
            &plan.given_up,
            inventory.units.len(),
            guard.as_deref().filter(|_| is_reported),
            plan.held_back,
        );
        self.set_in_sync();
        self.take_relaunches(&plan.relaunched, &plan.given_up, has_news, now)
            .await;
    }

    /// Whether it is reported that retiring is held back, if it is.
    fn is_reported(&mut self, is_held: bool, now: ClockReading) -> bool {
        if !is_held {
            self.held_since = None;
            return false;
        }
        let due = *self.held_since.get_or_insert(now.at) + UNREPORTED;
        if now.at < due {
            self.again = sooner(self.again, due);
        }
        now.at >= due
    }

    /// The drains whose container is gone and whose instance is still in etcd, until its registrar
    /// deregisters it or its lease expires.
    fn stopped(&self, inventory: &Inventory) -> Vec<Key> {
        let runs = |container: &str| {
            let mut containers = inventory.units.iter().flat_map(|unit| &unit.containers);
            containers.any(|id| id == container)
        };
        let stays = |key: &&Key| match key {
            Key::Drain(backend, id) => {
                let container = self.view.container_of(backend, id);
                container.is_some_and(|container| !runs(container))
            }
            _ => false,
        };
        self.drains.iter().filter(stays).cloned().collect()
    }

    /// Deletes an operator's requests to relaunch backends, unless they were made again meanwhile:
    /// those that are done, and those that were given up. `has_news`: the status record has
    /// something to say about one that is done.
    async fn take_relaunches(
        &mut self,
        done: &[BackendId],
        given_up: &BTreeMap<BackendId, GivenUp>,
        has_news: bool,
        now: ClockReading,
    ) {
        let given = self.view.relaunches();
        let done = done
            .iter()
            .filter_map(|backend| Some((backend, *given.get(backend)?, None)));
        // What was given up earlier is still reported.
        let given_up = given_up
            .iter()
            .filter(|(backend, given_up)| given.get(*backend) == Some(&given_up.revision))
            .map(|(backend, given_up)| (backend, given_up.revision, Some(given_up.reason.as_str())));
        let requests: Vec<(&BackendId, i64, Option<&str>)> = done.chain(given_up).collect();
        // `mayfly relaunch --wait` finds the reason in the status record once the request is gone.
        if has_news || requests.iter().any(|(_, _, reason)| reason.is_some()) {
            if let Err(error) = self.advertiser.flush(REPORTING).await {
                warn!("cannot report relaunches to etcd: {error:#}; retrying");
                self.again = sooner(self.again, now.at + RETRY);
                return;
            }
        }
        for (backend, revision, reason) in requests {
            let key = Key::Relaunch(backend.clone());
            let deleted = self
                .store
                .delete_if(&key, store::Guard::ModRevision(revision))
                .await;
            match (deleted, reason) {
                (Ok(true), None) => info!("{backend}: relaunched, as an operator requested"),
                (Ok(true), Some(reason)) => warn!(
                    "{backend}: cannot do the relaunch that an operator requested: {}",
                    printable(reason)
                ),
                (Ok(false), _) => {}
                (Err(error), _) => {
                    warn!("{}", error.retrying());
                    self.again = sooner(self.again, now.at + RETRY);
                }
            }
        }
    }

    fn set_in_sync(&self) {
        self.status
            .applied(self.view.revision(), self.view.set_aside().iter().collect());
        self.readiness.set_ready();
    }

    /// Puts the drains that are wanted now into etcd, and deletes the others.
    fn drain(&mut self, wanted: BTreeSet<Key>) {
        for key in self.drains.difference(&wanted) {
            self.advertiser.set(key.clone(), None);
        }
        for key in wanted.difference(&self.drains) {
            self.advertiser.set(key.clone(), Some(Vec::new()));
        }
        self.drains = wanted;
    }

    /// Takes an operator's confirmation, once.
    async fn take_confirmation(&mut self, now: ClockReading) {
        match self
            .store
            .delete(&Key::Confirmation(Daemon::ContainerLauncher))
            .await
        {
            Ok(true) => {
                match self.retiring.closed() {
                    Some(reason) => warn!(
                        "an operator confirmed the loss ({reason}): the launcher retires unneeded \
                         containers as usual"
                    ),
                    None => info!(
                        "an operator ran `mayfly confirm container-launcher`: deletions go on \
                         as usual"
                    ),
                }
                self.retiring.confirm();
            }
            Ok(false) => {}
            Err(error) => {
                warn!("{}", error.retrying());
                self.again = sooner(self.again, now.at + RETRY);
            }
        }
    }
}
