//! The daemon: follows etcd and the engine, and carries out a plan whenever something has changed, while it leads.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mayfly_core::keys::{Daemon, Key};
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::election::{Election, Standing};
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::status::StatusReporter;
use mayfly_daemon::store::Store;
use mayfly_daemon::tasks::Tasks;
use mayfly_daemon::watch::{self, Batch, Watch, WatchOptions};
use prometheus_client::registry::Registry;
use tokio::sync::watch as channel;
use tokio::time::sleep_until;
use tracing::{info, warn};

use crate::act::{Crew, Outcome, Told};
use crate::args::Arguments;
use crate::engine::{Engine, Inventory};
use crate::guard::Guard;
use crate::observe::View;
use crate::plan::{Moment, Planner, Situation};
use crate::report::{Metrics, Reporter};

/// How long the end may wait for etcd, and for what is being done with units.
const LAST_WAIT: Duration = Duration::from_secs(2);
/// When to think again although nothing has changed.
const RECONSIDER: Duration = Duration::from_secs(60);

/// An inventory, and when it was begun; or why there is none.
type Listed = Option<(Instant, Result<Arc<Inventory>, String>)>;

/// Runs until the shutdown begins.
///
/// # Errors
/// When the node has no name, the admin address can't be listened at, or a background task ends. Neither etcd nor an engine
/// out of reach is an error: both are waited for.
pub async fn run<E: Engine>(engine: E, arguments: Arguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let common = &arguments.common;
    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let node = common.node()?;
    let mut registry = Registry::default();
    let version = env!("CARGO_PKG_VERSION");
    let common_metrics = CommonMetrics::register(&mut registry, "container-launcher", version, &store);
    let options = WatchOptions::default().with_vanish_grace(arguments.grace);
    let etcd = watch::watch(&store, store.keyspace().launching(), options);
    CommonMetrics::register_watch(&mut registry, &etcd.metrics());
    let metrics = Metrics::register(&mut registry);
    let advertiser = Advertiser::start(&tasks, &store, arguments.ttl);
    let daemon = Daemon::ContainerLauncher;
    let status = StatusReporter::new(&advertiser, daemon, node.clone(), &common_metrics);
    admin::start(&tasks, common.admin, &readiness, registry).await?;
    let election = Election::start(&tasks, &store, daemon, node, arguments.ttl);

    if arguments.dns.is_empty() {
        info!("no --dns: containers resolve *.service only where the name servers of the engine's host do");
    }
    let engine = Arc::new(engine);
    let (sender, listed) = channel::channel(Listed::None);
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
        standing: election.standing(),
        leading_since: None,
        planner: Planner::new(arguments.terms()?),
        guard: Guard::new(arguments.guard_window),
        crew: Crew::new(engine, arguments.stop_timeout),
        advertiser: advertiser.clone(),
        drains: BTreeSet::new(),
        reporter: Reporter::new(status.clone(), metrics.clone()),
        again: None,
        arguments,
        store,
        status,
        metrics,
        readiness,
    };
    tasks.supervise(launcher.run(shutdown)).await?;
    // An etcd that is gone must not hold up the end: what is ours there then vanishes with its lease.
    let (resigned, taken_back) = (election.resign(LAST_WAIT), advertiser.shutdown(LAST_WAIT));
    let _ = tokio::join!(resigned, taken_back);
    Ok(ExitCode::SUCCESS)
}

/// Keeps the newest inventory at hand: made again whenever the engine says that something has changed, or somebody asks.
async fn follow<E: Engine>(
    engine: Arc<E>,
    listed: channel::Sender<Listed>,
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
                let error = format!("{:#}", error.context("cannot read the engine"));
                if backoff.failures() == 0 {
                    warn!("{error}; trying again");
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
    listed: channel::Receiver<Listed>,
    /// The last inventory that could be made.
    known: Option<Arc<Inventory>>,
    /// Asks for a new inventory.
    nudge: Arc<tokio::sync::Notify>,
    standing: channel::Receiver<Standing>,
    /// Since when it leads, if it does.
    leading_since: Option<Instant>,
    planner: Planner,
    guard: Guard,
    crew: Crew<E>,
    advertiser: Advertiser,
    /// The drains that are in etcd.
    drains: BTreeSet<Key>,
    reporter: Reporter,
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
                changed = self.listed.changed() => changed.context("nobody looks at the engine any more")?,
                changed = self.standing.changed() => {
                    changed.context("the election has ended")?;
                    self.stand()?;
                }
                told = self.crew.told() => self.hear(told),
                () = sleep_until(again.into()) => {}
            }
            self.round().await;
        }
        // Given up half way it would be no harm; to its end it is less work for the next one.
        self.crew.finish(LAST_WAIT).await;
        Ok(())
    }

    /// Takes what etcd says; before environments end, which of them units of ours are for.
    fn take(&mut self, batch: Batch) {
        if self.view.is_end(&batch) {
            let units = self.known.iter().flat_map(|inventory| &inventory.units);
            let units = units.map(|unit| unit.backend.clone()).collect();
            self.guard.count(self.view.resolving_to(&units));
        }
        self.view.take(batch);
        self.is_listed = true;
        // Also while another one leads: when etcd loses its data, the lead is lost with it.
        let (total, view) = (self.view.environments(), &self.view);
        self.guard
            .observe(total, |key| view.has_environment(key), Instant::now());
    }

    /// Takes the lead, or gives it up. What was remembered as leader is of another time by then.
    fn stand(&mut self) -> anyhow::Result<()> {
        let standing = self.standing.borrow_and_update().clone();
        match (&standing, self.leading_since) {
            (Standing::Leading, None) => {
                self.leading_since = Some(Instant::now());
                self.planner = Planner::new(self.arguments.terms()?);
                self.nudge.notify_one();
            }
            (Standing::Leading, Some(_)) => {}
            (Standing::Following(leader), _) => info!("standing by: the launcher of node {leader} leads"),
            (Standing::Unknown, _) => {}
        }
        if standing != Standing::Leading && self.leading_since.take().is_some() {
            // Whoever leads next plans by what the engine has then, and goes on with what is half done.
            self.crew.give_up();
        }
        Ok(())
    }

    fn hear(&mut self, told: Told) {
        let Told::Outcome(name, backend, outcome) = told else {
            return;
        };
        match outcome {
            Outcome::Started => drop(self.metrics.started.inc()),
            Outcome::Failed(reason, output) => {
                self.metrics.failed.inc();
                self.planner.failed(&backend, reason, output, Moment::now());
            }
            Outcome::Removed => {
                info!("{backend}: {name} is gone");
                self.metrics.removed.inc();
            }
            Outcome::Stays => {}
        }
        self.nudge.notify_one();
    }

    /// Plans and begins what is to be done, if this is the launcher that does so and everything is known.
    async fn round(&mut self) {
        self.again = None;
        let listed = self.listed.borrow_and_update().clone();
        if let Some((begun, Ok(inventory))) = &listed {
            self.crew.listed(*begun);
            self.known = Some(inventory.clone());
        }
        let now = Moment::now();
        let Some(leading_since) = self.leading_since else {
            if self.view.is_confirmed() {
                self.guard.confirm();
            }
            self.drain(BTreeSet::new());
            self.reporter.standing_by();
            if self.is_listed {
                self.in_step();
            }
            return;
        };
        let (begun, inventory) = match listed {
            Some((begun, Ok(inventory))) => (begun, inventory),
            Some((_, Err(error))) => {
                self.status.update(|status| status.error = Some(error));
                // What was to be stopped runs on for now; who needs it again is not to wait for the engine.
                let needed = self.view.needed();
                let is_needed =
                    |key: &Key| matches!(key, Key::Drain(backend, _) if needed.contains_key(backend));
                let unneeded = self.drains.iter().filter(|key| !is_needed(key)).cloned();
                self.drain(unneeded.collect());
                return;
            }
            None => return,
        };
        // What the former leader did is seen only by an inventory of our own time.
        if !self.is_listed || begun < leading_since {
            return;
        }
        if self.view.is_confirmed() {
            self.take_confirmation(now).await;
        }
        let held = self.etcd.held();
        let doubted =
            (held > 0).then(|| format!("etcd has suddenly lost {held} keys, which may be back soon"));
        let guard = doubted.or_else(|| self.guard.closed());
        let situation = Situation {
            view: &self.view,
            inventory: &inventory,
            busy: self.crew.busy(),
            guard: guard.as_deref(),
        };
        let plan = self.planner.plan(&situation, now);
        self.again = self.again.into_iter().chain(plan.again).min();
        self.crew.carry_out(&plan);
        let stopped = self.stopped(&inventory);
        self.drain(plan.drains.into_iter().chain(stopped).collect());
        self.reporter.leading(
            plan.backends,
            inventory.units.len(),
            guard.as_deref(),
            plan.held_back,
        );
        self.in_step();
    }

    /// The drains whose container is gone and whose instance is still in etcd: until its registrar, or its lease, ends it.
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

    fn in_step(&self) {
        self.status.applied(self.view.revision(), self.view.set_aside());
        self.readiness.set_ready();
    }

    /// Puts the drains into etcd that are wanted now, and takes back the others.
    fn drain(&mut self, wanted: BTreeSet<Key>) {
        for key in self.drains.difference(&wanted) {
            self.advertiser.set(key.clone(), None);
        }
        for key in wanted.difference(&self.drains) {
            self.advertiser.set(key.clone(), Some(Vec::new()));
        }
        self.drains = wanted;
    }

    /// Takes an operator's word, once.
    async fn take_confirmation(&mut self, now: Moment) {
        match self
            .store
            .delete(&Key::Confirmation(Daemon::ContainerLauncher))
            .await
        {
            Ok(true) => {
                match self.guard.closed() {
                    Some(reason) => warn!("{reason}: an operator says that this is meant"),
                    None => info!("an operator's word came, and nothing was held back"),
                }
                self.guard.confirm();
            }
            Ok(false) => {}
            Err(error) => {
                warn!("{error}; trying again");
                self.again = Some(now.at + Duration::from_secs(1));
            }
        }
    }
}
