//! The loop: takes what the engine says, the results of checks and the address of the host, and
//! applies what follows.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::failing::Failing;
use mayfly_core::keys::{Daemon, Key, KeySpace};
use mayfly_core::records::{Instance, SetAside};
use mayfly_core::shorten::counted;
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::metrics::metric;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::status::StatusReporter;
use mayfly_daemon::store::Store;
use mayfly_daemon::tasks::Tasks;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::actual::{self, Observation};
use super::container::{self, ContainerReading, Inspected, Reached};
use super::desired::{CheckedContainer, Signal, Verdict};
use super::leftover::{self, RecordOrigin, Running};
use super::{host, swarm};
use crate::args::{DockerArguments, Keeping};

/// How long etcd may take for the last changes.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// How long a signal is remembered to a container that is not known yet.
const YOUNG: Duration = Duration::from_secs(60);
/// How many observations may wait; a slow reader slows the observer down, and nothing is lost.
const WAITING: usize = 64;

/// Runs the command until the shutdown begins. Its entries stay until the lease expires, since the
/// containers keep running.
///
/// # Errors
/// When the admin address is taken, or a background task ends.
pub async fn run(
    common: &CommonArgs,
    arguments: DockerArguments,
    shutdown: Shutdown,
) -> anyhow::Result<ExitCode> {
    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let mut registry = Registry::default();
    let metrics = CommonMetrics::register(
        &mut registry,
        "container-registrar",
        env!("CARGO_PKG_VERSION"),
        &store,
    );
    let registered = metric(
        &mut registry,
        "mayfly_registered",
        "How many instances this registrar keeps in etcd",
    );
    let engine = "1 while the Docker engine is followed";
    let connected = metric(&mut registry, "mayfly_engine_connected", engine);
    admin::start(&tasks, common.admin, &readiness, registry).await?;

    let advertiser = Advertiser::start(&tasks, &store, arguments.keeping.ttl);
    let origin = RecordOrigin {
        node: common.node()?,
        engine: arguments.docker.to_string(),
    };
    let status = StatusReporter::new(
        &advertiser,
        Daemon::ContainerRegistrar,
        origin.node.clone(),
        &metrics,
    );
    let (sender, observations) = mpsc::channel(WAITING);
    let url = arguments.docker.clone();
    tasks.spawn("docker engine", actual::run(url, sender));
    let (found, host) = watch::channel(None);
    let reached = match arguments.network {
        _ if arguments.published => {
            let endpoints = store.endpoints().to_vec();
            tasks.spawn(
                "host address",
                host::run(arguments.host.clone(), endpoints, found),
            );
            Reached::Published {
                at_loopback: arguments.host.is_loopback(),
            }
        }
        Some(network) => Reached::Network(network),
        None => Reached::Directly,
    };
    let (verdicts, judged) = mpsc::unbounded_channel();
    let run = DockerRegistrar {
        origin,
        prefix: store.keyspace().clone(),
        leftover: Some(store),
        running: watch::Sender::new(Running::new()),
        reached,
        keeping: arguments.keeping,
        advertiser,
        status,
        readiness,
        registered,
        connected,
        host,
        verdicts,
        probes: 0,
        containers: BTreeMap::new(),
        set_aside: BTreeMap::new(),
        undescribed: BTreeMap::new(),
        misplaced: Vec::new(),
        signals: BTreeMap::new(),
        advertised: BTreeMap::new(),
        failing: Vec::new(),
        lost_at: None,
        error: None,
    };
    tasks.supervise(run.run(observations, judged, shutdown)).await
}

/// The loop with all that it knows.
pub(super) struct DockerRegistrar {
    /// What marks entries as this registrar's own.
    pub(super) origin: RecordOrigin,
    /// Where to correct what an earlier registrar left, until that has begun.
    leftover: Option<Store>,
    /// What runs now, for that correction.
    running: watch::Sender<Running>,
    prefix: KeySpace,
    reached: Reached,
    keeping: Keeping,
    pub(super) advertiser: Advertiser,
    pub(super) status: StatusReporter,
    readiness: Readiness,
    pub(super) registered: Gauge,
    pub(super) connected: Gauge,
    host: watch::Receiver<Option<IpAddr>>,
    verdicts: mpsc::UnboundedSender<Verdict>,
    /// Counts the probes, so that a verdict of one that has ended is recognized.
    probes: u64,
    /// The containers to register, by id.
    pub(super) containers: BTreeMap<String, CheckedContainer>,
    /// Those that are set aside, by id: name and reason.
    pub(super) set_aside: BTreeMap<String, (String, String)>,
    /// Those that the engine does not describe at present, by id, and since when.
    undescribed: BTreeMap<String, Instant>,
    /// The services of a swarm whose labels are in the wrong place.
    pub(super) misplaced: Vec<SetAside>,
    pub(super) signals: BTreeMap<String, Vec<Signal>>,
    /// The entries in etcd.
    pub(super) advertised: BTreeMap<Key, Instance>,
    /// The containers that a check keeps out, as the status record has them.
    pub(super) failing: Vec<Failing>,
    /// Since when the engine has not been followed.
    lost_at: Option<Instant>,
    /// Why the engine cannot be followed.
    pub(super) error: Option<String>,
}

impl DockerRegistrar {
    async fn run(
        mut self,
        mut observations: mpsc::Receiver<Observation>,
        mut judged: mpsc::UnboundedReceiver<Verdict>,
        shutdown: Shutdown,
    ) -> anyhow::Result<ExitCode> {
        self.report();
        let begun = shutdown.begun();
        tokio::pin!(begun);
        let mut located = self.host.clone();
        loop {
            let next = self.next_deadline();
            let deadline = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = &mut begun => break,
                observed = observations.recv() => match observed {
                    Some(observed) => self.take(observed),
                    // The supervisor reports why.
                    None => std::future::pending().await,
                },
                Some(verdict) = judged.recv() => {
                    if let Some(container) = self.containers.get_mut(&verdict.id) {
                        container.take(&verdict);
                    }
                }
                Ok(()) = located.changed() => self.moved(),
                () = deadline => {}
            }
            self.apply();
        }
        // Not deregistered: a restart of this program would be an outage of every container here.
        if let Err(error) = self.advertiser.flush(LAST_WRITE).await {
            warn!("cannot write this registrar's last changes to etcd before the shutdown: {error:#}");
        }
        match self.advertised.len() {
            0 => {}
            left => info!(
                "shutting down without deregistering {}, because their containers still run; their \
                 entries expire after {:?} unless this registrar starts again before",
                counted(left, "instance"),
                self.keeping.ttl
            ),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn take(&mut self, observed: Observation) {
        match observed {
            Observation::Connected(version) => {
                info!(
                    "connected to the engine at {}, version {version} of its API",
                    self.origin.engine
                );
                // Nobody could ask it before.
                let now = Instant::now();
                self.undescribed.values_mut().for_each(|since| *since = now);
                let version = version.into();
                self.status
                    .update(|status| drop(status.detail.insert("api_version".to_owned(), version)));
            }
            Observation::Container(id, Ok(inspected)) => self.found(id, &inspected),
            Observation::Container(id, Err(reason)) => self.not_described(id, &reason),
            Observation::Gone(id) => self.forget(&id),
            Observation::Services(services) => self.misplaced = swarm::misplaced(&services, &self.prefix),
            Observation::Signalled { id, signal, at } => self.signalled(id, signal, at),
            Observation::Ended { id, at } => {
                // The engine may report the end of an earlier life again.
                let lives = |checked: &CheckedContainer| checked.container.started > at;
                if !self.containers.get(&id).is_some_and(lives) {
                    self.forget(&id);
                }
            }
            Observation::InSync => {
                // Not before: an engine that hangs again right after its first answer was never
                // followed.
                (self.lost_at, self.error) = (None, None);
                self.connected.set(1);
                // A container that has not been looked at yet may be soon.
                let containers = &self.containers;
                self.signals.retain(|id, signals| {
                    let young = |signal: &Signal| signal.seen.elapsed() < YOUNG;
                    containers.contains_key(id) || signals.iter().any(young)
                });
                self.readiness.set_ready();
                self.status.update(|status| status.ready = true);
                self.correct_leftover();
            }
            Observation::Lost(reason) => self.lost(&reason),
        }
        self.note_running();
        self.report();
    }

    /// Corrects what an earlier registrar left, once: now that every container is known.
    fn correct_leftover(&mut self) {
        // The keys are known only once the host's address is.
        if self.containers.values().any(|checked| checked.address.is_none()) {
            return;
        }
        let Some(store) = self.leftover.take() else {
            return;
        };
        let (running, limit) = (self.running.subscribe(), 2 * self.keeping.ttl);
        self.note_running();
        tokio::spawn(leftover::correct(store, self.origin.clone(), running, limit));
    }

    /// Lets the correction know what runs now, while there is one. A container is noted before its
    /// entry is put, so that the entry is never taken for one that was left.
    fn note_running(&self) {
        if self.running.is_closed() {
            return;
        }
        let aside = self.set_aside.keys().chain(self.undescribed.keys());
        let aside = aside.map(|id| (id.clone(), None));
        let checked = self.containers.iter();
        let checked = checked.map(|(id, checked)| (id.clone(), checked.key()));
        self.running.send_replace(aside.chain(checked).collect());
    }

    fn found(&mut self, id: String, inspected: &Inspected) {
        self.undescribed.remove(&id);
        match container::read(inspected, &self.reached, &self.prefix) {
            ContainerReading::Nothing => self.forget(&id),
            ContainerReading::Faulty { name, reason } => self.put_aside(id, name, reason),
            ContainerReading::Running(container) => {
                self.set_aside.remove(&id);
                let host = *self.host.borrow();
                let known = self.containers.get_mut(&id);
                if known.is_some_and(|checked| checked.update(&container, host)) {
                    return;
                }
                self.probes += 1;
                let checked =
                    CheckedContainer::new(*container, host, &self.keeping, self.probes, &self.verdicts);
                self.containers.insert(id, checked);
            }
        }
    }

    /// The engine has a container and does not describe it; it is asked again soon. What is known
    /// of the container counts as long as with an engine that is silent.
    fn not_described(&mut self, id: String, reason: &str) {
        let since = *self.undescribed.entry(id.clone()).or_insert_with(Instant::now);
        if since.elapsed() < self.keeping.ttl {
            debug!("the engine cannot describe container {id}: {reason}; retrying");
            return;
        }
        let name = self.containers.get(&id).map(|checked| &checked.container.name);
        let name = name.or_else(|| self.set_aside.get(&id).map(|(name, _)| name));
        let name = name.unwrap_or(&id).clone();
        let reason = format!("the engine cannot describe this container: {reason}");
        self.put_aside(id, name, reason);
    }

    fn put_aside(&mut self, id: String, name: String, reason: String) {
        self.containers.remove(&id);
        self.set_aside.insert(id, (name, reason));
    }

    fn forget(&mut self, id: &str) {
        self.containers.remove(id);
        self.set_aside.remove(id);
        self.undescribed.remove(id);
        self.signals.remove(id);
    }

    fn signalled(&mut self, id: String, number: String, at: std::time::SystemTime) {
        let known = self.containers.get(&id).map(|checked| &checked.container);
        // Which signal ends a container is known only after a look at it.
        if known.is_some_and(|container| !container.ends_by(&number)) {
            return;
        }
        let seen = Instant::now();
        let signals = self.signals.entry(id).or_default();
        // The engine reports it again after a doubt.
        if !signals.iter().any(|signal| signal.at == at) {
            signals.push(Signal { number, at, seen });
        }
    }

    fn lost(&mut self, reason: &str) {
        self.connected.set(0);
        let error = format!(
            "cannot follow the containers of the engine at {}: {reason}",
            self.origin.engine
        );
        if self.error.is_some() {
            debug!("{error}");
        } else {
            warn!("{error}; retrying");
        }
        self.error = Some(error);
        self.lost_at.get_or_insert_with(Instant::now);
    }

    /// The host has another address.
    fn moved(&mut self) {
        let host = *self.host.borrow();
        for checked in self.containers.values_mut() {
            let container = checked.container.clone();
            if !checked.update(&container, host) {
                self.probes += 1;
                *checked = CheckedContainer::new(container, host, &self.keeping, self.probes, &self.verdicts);
            }
        }
        self.note_running();
        if self.connected.get() == 1 {
            self.correct_leftover();
        }
    }

    /// When the engine has been out of reach for too long.
    pub(super) fn blind_at(&self) -> Option<Instant> {
        self.lost_at.map(|at| at + self.keeping.ttl)
    }

    /// When something changes only because time has passed.
    fn next_deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let endings = self
            .containers
            .iter()
            .filter_map(|(id, checked)| checked.ending(self.signals.get(id)?));
        endings.chain(self.blind_at()).filter(|at| *at > now).min()
    }
}

#[cfg(test)]
mod tests;
