//! `docker`: advertises every labelled container of an engine, all under one lease.
//!
//! [`engine`] (its API, reading only) -> [`observe`] (events, and lists after doubts) -> [`container`] (pure: what the
//! engine says becomes what is to be registered, or a reason) -> [`tend`] (each container's check, and the decision) ->
//! what is advertised, kept here. Beside it: [`host`], and what an earlier registrar left ([`leftover`]).

pub mod container;
pub mod engine;
pub mod host;
pub mod leftover;
pub mod observe;
pub mod tend;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::Duration;

use bollard::models::ContainerInspectResponse;
use mayfly_core::keys::{Daemon, Key, KeySpace};
use mayfly_core::records::{self, InstanceState, SetAside};
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::status::StatusReporter;
use mayfly_daemon::store::Store;
use mayfly_daemon::tasks::Tasks;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::args::{Docker, Keeping};
use container::{Found, Reached};
use leftover::Origin;
use observe::Seen;
use tend::{Signal, Tended, Verdict};

/// How long etcd may take for what was decided last.
const LAST_WRITE: Duration = Duration::from_secs(1);
/// How long a signal to a container is remembered of which nothing else is known.
const YOUNG: Duration = Duration::from_secs(60);
/// Sightings that may wait; a slow reader slows the observer down, and nothing is lost.
const WAITING: usize = 64;

/// Runs the command until the shutdown begins. What it has advertised stays until the lease ends, since the containers live
/// on.
///
/// # Errors
/// When the admin address is taken, or a background task ends.
pub async fn run(common: &CommonArgs, arguments: Docker, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let mut registry = Registry::default();
    let metrics = CommonMetrics::register(
        &mut registry,
        "container-registrar",
        env!("CARGO_PKG_VERSION"),
        &store,
    );
    let (registered, connected) = (Gauge::default(), Gauge::default());
    registry.register(
        "mayfly_registered",
        "How many instances are advertised",
        registered.clone(),
    );
    registry.register(
        "mayfly_engine_connected",
        "1 while the Docker engine is followed",
        connected.clone(),
    );
    admin::start(&tasks, common.admin, &readiness, registry).await?;

    let advertiser = Advertiser::start(&tasks, &store, arguments.keeping.ttl);
    let origin = Origin {
        node: common.node()?,
        engine: arguments.docker.to_string(),
    };
    let status = StatusReporter::new(
        &advertiser,
        Daemon::ContainerRegistrar,
        origin.node.clone(),
        &metrics,
    );
    let (seen, sightings) = mpsc::channel(WAITING);
    let url = arguments.docker.clone();
    tasks.spawn("docker engine", observe::run(url, arguments.list_again, seen));
    let (found, host) = watch::channel(None);
    let reached = match arguments.network {
        _ if arguments.published => {
            let endpoints = store.endpoints().to_vec();
            tasks.spawn(
                "host address",
                host::run(arguments.host.clone(), endpoints, found),
            );
            Reached::Published
        }
        Some(network) => Reached::Network(network),
        None => Reached::Directly,
    };
    let (verdicts, judged) = mpsc::unbounded_channel();
    let roll = Roll {
        origin,
        prefix: store.keyspace().clone(),
        predecessor: Some(store),
        reached,
        keeping: arguments.keeping,
        advertiser,
        status,
        readiness,
        registered,
        connected,
        host,
        verdicts,
        askings: 0,
        tended: BTreeMap::new(),
        faulty: BTreeMap::new(),
        signals: BTreeMap::new(),
        advertised: BTreeMap::new(),
        lost_at: None,
        trouble: None,
    };
    tasks.supervise(roll.keep(sightings, judged, shutdown)).await
}

/// All containers of the engine that concern us.
struct Roll {
    /// By what our entries are known.
    origin: Origin,
    /// Where to correct what an earlier registrar left, until that is begun.
    predecessor: Option<Store>,
    prefix: KeySpace,
    reached: Reached,
    keeping: Keeping,
    advertiser: Advertiser,
    status: StatusReporter,
    readiness: Readiness,
    registered: Gauge,
    connected: Gauge,
    host: watch::Receiver<Option<IpAddr>>,
    verdicts: mpsc::UnboundedSender<Verdict>,
    /// Counts the askings, so that a verdict of one that has ended is known as such.
    askings: u64,
    tended: BTreeMap<String, Tended>,
    /// Those that are set aside, by id: name and reason.
    faulty: BTreeMap<String, (String, String)>,
    signals: BTreeMap<String, Vec<Signal>>,
    advertised: BTreeMap<Key, Vec<u8>>,
    /// Since when the engine has not been followed.
    lost_at: Option<Instant>,
    /// Why it is not.
    trouble: Option<String>,
}

impl Roll {
    async fn keep(
        mut self,
        mut sightings: mpsc::Receiver<Seen>,
        mut judged: mpsc::UnboundedReceiver<Verdict>,
        shutdown: Shutdown,
    ) -> anyhow::Result<ExitCode> {
        self.tell_status();
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
                seen = sightings.recv() => match seen {
                    Some(seen) => self.see(seen),
                    // The supervisor says why.
                    None => std::future::pending().await,
                },
                Some(verdict) = judged.recv() => {
                    if let Some(tended) = self.tended.get_mut(&verdict.id) {
                        tended.take(&verdict);
                    }
                }
                Ok(()) = located.changed() => self.moved(),
                () = deadline => {}
            }
            self.publish();
        }
        // Not taken back: a restart of this program would be an outage of every container here.
        if let Err(error) = self.advertiser.flush(LAST_WRITE).await {
            warn!("cannot write what was decided last: {error:#}");
        }
        info!(
            "{} entries are left to their lease of {:?}: their containers live on",
            self.advertised.len(),
            self.keeping.ttl
        );
        Ok(ExitCode::SUCCESS)
    }

    fn see(&mut self, seen: Seen) {
        match seen {
            Seen::Connected(version) => {
                info!(
                    "the engine at {} answers, with version {version} of its API",
                    self.origin.engine
                );
                let version = version.into();
                self.status
                    .update(|status| drop(status.detail.insert("api_version".to_owned(), version)));
            }
            Seen::Container(id, Ok(inspected)) => self.found(id, &inspected),
            Seen::Container(id, Err(reason)) => {
                let reason = format!("the engine does not say how it is: {reason}");
                self.set_aside(id.clone(), id, reason);
            }
            Seen::Gone(id) => self.forget(&id),
            Seen::Signalled { id, signal, at } => self.signalled(id, signal, at),
            Seen::Ended { id, at } => {
                // The engine may tell of the end of an earlier life again.
                let lives = |tended: &Tended| tended.container.started > at;
                if !self.tended.get(&id).is_some_and(lives) {
                    self.forget(&id);
                }
            }
            Seen::InStep => {
                // Not before: an engine that hangs again right after its first answer was never followed.
                (self.lost_at, self.trouble) = (None, None);
                self.connected.set(1);
                // One that has not been looked at yet may be soon.
                let tended = &self.tended;
                self.signals.retain(|id, signals| {
                    let young = |signal: &Signal| signal.seen.elapsed() < YOUNG;
                    tended.contains_key(id) || signals.iter().any(young)
                });
                self.readiness.set_ready();
                self.status.update(|status| status.ready = true);
                self.correct();
            }
            Seen::Lost(reason) => self.lost(&reason),
        }
        self.tell_status();
    }

    /// Corrects what an earlier registrar left, once: now that every container is known.
    fn correct(&mut self) {
        // Until the host's address is known, nobody knows the keys.
        if self.tended.values().any(|tended| tended.address.is_none()) {
            return;
        }
        let Some(store) = self.predecessor.take() else {
            return;
        };
        let tended = self.tended.iter().map(|(id, tended)| (id.clone(), tended.key()));
        let aside = self.faulty.keys().map(|id| (id.clone(), None));
        let (running, limit) = (tended.chain(aside).collect(), 2 * self.keeping.ttl);
        tokio::spawn(leftover::correct(store, self.origin.clone(), running, limit));
    }

    fn found(&mut self, id: String, inspected: &ContainerInspectResponse) {
        match container::read(inspected, &self.reached, &self.prefix) {
            Found::Nothing => self.forget(&id),
            Found::Faulty { name, reason } => self.set_aside(id, name, reason),
            Found::Running(container) => {
                self.faulty.remove(&id);
                let host = *self.host.borrow();
                if self
                    .tended
                    .get_mut(&id)
                    .is_some_and(|tended| tended.update(&container, host))
                {
                    return;
                }
                self.askings += 1;
                let tended = Tended::new(*container, host, &self.keeping, self.askings, &self.verdicts);
                self.tended.insert(id, tended);
            }
        }
    }

    fn set_aside(&mut self, id: String, name: String, reason: String) {
        self.tended.remove(&id);
        self.faulty.insert(id, (name, reason));
    }

    fn forget(&mut self, id: &str) {
        self.tended.remove(id);
        self.faulty.remove(id);
        self.signals.remove(id);
    }

    fn signalled(&mut self, id: String, number: String, at: std::time::SystemTime) {
        let known = self.tended.get(&id).map(|tended| &tended.container);
        // Of one that has not been looked at yet nobody knows which signal ends it.
        if known.is_some_and(|container| !container.ends_by(&number)) {
            return;
        }
        let seen = Instant::now();
        let signals = self.signals.entry(id).or_default();
        // The engine tells it again after a doubt.
        if !signals.iter().any(|signal| signal.at == at) {
            signals.push(Signal { number, at, seen });
        }
    }

    fn lost(&mut self, reason: &str) {
        self.connected.set(0);
        let told = format!(
            "the engine at {} cannot be followed: {reason}",
            self.origin.engine
        );
        if self.trouble.is_some() {
            debug!("{told}");
        } else {
            warn!("{told}; trying again");
        }
        self.trouble = Some(told);
        self.lost_at.get_or_insert_with(Instant::now);
    }

    /// The host has another address.
    fn moved(&mut self) {
        let here: Vec<String> = self.tended.keys().cloned().collect();
        let host = *self.host.borrow();
        for id in here {
            let Some(tended) = self.tended.get_mut(&id) else {
                continue;
            };
            let container = tended.container.clone();
            if !tended.update(&container, host) {
                self.askings += 1;
                *tended = Tended::new(container, host, &self.keeping, self.askings, &self.verdicts);
            }
        }
        if self.connected.get() == 1 {
            self.correct();
        }
    }

    fn blind_at(&self) -> Option<Instant> {
        self.lost_at.map(|at| at + self.keeping.ttl)
    }

    /// When something changes only because time has passed.
    fn next_deadline(&self) -> Option<Instant> {
        let now = Instant::now();
        let endings = self
            .tended
            .iter()
            .filter_map(|(id, tended)| tended.ending(self.signals.get(id)?));
        endings.chain(self.blind_at()).filter(|at| *at > now).min()
    }

    /// Brings what is advertised in step with what is known.
    fn publish(&mut self) {
        let now = Instant::now();
        let blind = self.blind_at().is_some_and(|at| at <= now);
        let mut wanted = BTreeMap::new();
        for (id, tended) in &mut self.tended {
            let signals = self.signals.get(id).map(Vec::as_slice).unwrap_or_default();
            let ending = tended.ending(signals).is_some_and(|until| until > now);
            let entry = tended
                .state(ending, blind)
                .and_then(|state| Some((state, tended.entry(state, &self.origin)?)));
            let state = entry.as_ref().map(|(state, _)| *state);
            if tended.advertised != state {
                tell(tended, state);
                tended.advertised = state;
            }
            wanted.extend(entry.map(|(_, entry)| entry));
        }
        for (key, value) in self
            .advertised
            .iter()
            .filter(|(key, _)| !wanted.contains_key(*key))
        {
            // A router goes on with what only vanishes.
            match records::draining(value) {
                Ok(farewell) => self.advertiser.leave(key.clone(), farewell),
                Err(_) => self.advertiser.set(key.clone(), None),
            }
        }
        for (key, value) in &wanted {
            if self.advertised.get(key) != Some(value) {
                self.advertiser.set(key.clone(), Some(value.clone()));
            }
        }
        if self.advertised.len() != wanted.len() {
            self.registered
                .set(i64::try_from(wanted.len()).unwrap_or(i64::MAX));
            self.status.update(|status| {
                status.detail.insert("registered".to_owned(), wanted.len().into());
            });
        }
        self.advertised = wanted;
    }

    fn tell_status(&self) {
        let entries = self.faulty.values().map(|(name, reason)| SetAside {
            key: format!("container {name}"),
            reason: reason.clone(),
        });
        self.status.set_aside(entries.collect());
        let connected = self.connected.get() == 1;
        self.status.update(|status| {
            status
                .detail
                .insert("engine".to_owned(), self.origin.engine.clone().into());
            status
                .detail
                .insert("engine_connected".to_owned(), connected.into());
            status.error.clone_from(&self.trouble);
        });
    }
}

fn tell(tended: &Tended, state: Option<InstanceState>) {
    let (backend, name) = (&tended.container.labelled.backend, &tended.container.name);
    let at = tended
        .address
        .map(|address| address.to_string())
        .unwrap_or_default();
    match state {
        Some(InstanceState::Up) => info!("{backend} at {at} is registered ({name})"),
        Some(InstanceState::Draining) => info!("{backend} at {at} is draining: the engine ends {name}"),
        None => info!("{backend} at {at} is taken out ({name})"),
    }
}
