//! `register`: keeps one instance registered while it answers, through every loss of etcd, lease or
//! address. On shutdown it drains the instance and then deregisters it.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::address::{Address, InstanceId};
use mayfly_core::check;
use mayfly_core::failing::Failing;
use mayfly_core::keys::{Daemon, Key};
use mayfly_core::labels;
use mayfly_core::names::NodeName;
use mayfly_core::records::{self, Instance as Record, InstanceState, Status};
use mayfly_core::version::BackendId;
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::metrics::metric;
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::store::Endpoint;
use mayfly_daemon::tasks::Tasks;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::args::Register;
use crate::check::{CheckRequest, SET_BY_FLAG};
use crate::location::{self, HOST};
use crate::probe::{Liveness, Probe};

/// How long etcd may take for each step of the way out.
const LAST_WRITE: Duration = Duration::from_secs(3);
/// How often a name is resolved again while all is well.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// As long as any process lives.
const EVER: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Runs the command until the shutdown begins.
///
/// # Errors
/// When the admin address is taken, or a background task ends.
pub async fn run(common: &CommonArgs, arguments: Register, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let mut registry = Registry::default();
    CommonMetrics::register(
        &mut registry,
        "container-registrar",
        env!("CARGO_PKG_VERSION"),
        &store,
    );
    let registered = metric(
        &mut registry,
        "mayfly_registered",
        "1 while this registrar keeps the instance in etcd",
    );
    admin::start(&tasks, common.admin, &readiness, registry).await?;

    let advertiser = Advertiser::start_eager(&tasks, &store, arguments.keeping.ttl);
    let endpoints = store.endpoints().to_vec();
    let mut notes: BTreeMap<String, String> = arguments.meta.iter().cloned().collect();
    let node = common.node().ok();
    if let Some(node) = &node {
        // An instance on loopback is reached only from its node.
        notes.entry(labels::NODE.to_owned()).or_insert(node.to_string());
    }
    let registration = Registration {
        arguments,
        node,
        notes,
        endpoints,
        advertiser,
        complained: None,
        readiness,
        registered,
        unresolved: false,
        address: None,
        advertised: None,
    };
    tasks.supervise(registration.keep(shutdown)).await
}

struct Registration {
    arguments: Register,
    /// Without one it works all the same, and complains only in its log.
    node: Option<NodeName>,
    /// The metadata of its entry.
    notes: BTreeMap<String, String>,
    endpoints: Vec<Endpoint>,
    advertiser: Advertiser,
    /// The key of the status record, which is there only while there is a complaint: a host may
    /// have many registrars like this.
    complained: Option<Key>,
    readiness: Readiness,
    registered: Gauge,
    /// Whether its address was not found at the last search.
    unresolved: bool,
    /// Where the instance was found last.
    address: Option<Address>,
    /// What is advertised at present.
    advertised: Option<Address>,
}

impl Registration {
    async fn keep(mut self, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
        tokio::select! {
            never = self.follow() => match never {},
            () = shutdown.begun() => {}
        }
        self.leave().await;
        Ok(ExitCode::SUCCESS)
    }

    /// Keeps the entry in sync with the instance.
    async fn follow(&mut self) -> std::convert::Infallible {
        self.find().await;
        let Some(check) = self.arguments.check.clone() else {
            self.advertise();
            loop {
                sleep(LOOK_AGAIN).await;
                self.find().await;
                self.advertise();
            }
        };
        let backend = self.arguments.instance.backend();
        let question = CheckRequest {
            check,
            host: check::host(self.arguments.check_host.as_ref(), &backend.service),
            host_set_by: SET_BY_FLAG,
            protocol: self.arguments.protocol.into(),
        };
        let mut probe = Probe::new(question, &self.arguments.keeping);
        let mut found_at = Instant::now();
        loop {
            probe.wait().await;
            if probe.is_failing() || found_at.elapsed() >= LOOK_AGAIN {
                // It may have moved: a container that came back under its name has another address.
                self.find().await;
                found_at = Instant::now();
            }
            let Some(address) = self.address else { continue };
            match probe.ask(&backend, address).await {
                // Also when it has moved meanwhile without having been down.
                Liveness::Alive => self.advertise(),
                Liveness::Dead => self.withdraw(),
                Liveness::Undecided => {}
            }
            self.complain(probe.complaint(), address);
        }
    }

    /// Puts into a status record why the instance is not registered, or deletes that record.
    fn complain(&mut self, reason: Option<&str>, address: Address) {
        let failing = reason.map(|reason| Failing {
            backend: self.arguments.instance.backend(),
            address,
            container: None,
            reason: reason.to_owned(),
        });
        let key = failing
            .as_ref()
            .zip(self.node.as_ref())
            .map(|(failing, node)| Key::Status(Daemon::ContainerRegistrar, status_node(node, failing)));
        if let Some(old) = self.complained.take().filter(|old| key.as_ref() != Some(old)) {
            self.advertiser.set(old, None);
        }
        if let (Some(failing), Some(key)) = (failing, &key) {
            let mut status = Status::default();
            Failing::put(vec![failing], &mut status);
            self.advertiser.set(key.clone(), Some(records::to_json(&status)));
        }
        self.complained = key;
    }

    /// Finds the instance's address. If it is not found, the last one stays; the first search is
    /// retried until it succeeds.
    async fn find(&mut self) {
        let instance = &self.arguments.instance;
        if self.address.is_some() && !instance.host.may_move() {
            return;
        }
        let mut backoff = Backoff::default();
        loop {
            match instance
                .host
                .locate(HOST, instance.port, &self.endpoints, self.address)
                .await
            {
                Ok(address) => {
                    self.unresolved = false;
                    if self.address.replace(address) != Some(address) {
                        let backend = instance.backend();
                        if let Some(doubt) = location::doubt(&backend, &address.into(), HOST) {
                            warn!("{doubt}");
                        }
                    }
                    return;
                }
                Err(error) if self.address.is_some() => {
                    match self.lost_sight(&error) {
                        Some(warning) => warn!("{warning}"),
                        None => debug!("{error:#}; retrying"),
                    }
                    return;
                }
                Err(error) if backoff.failures() == 0 => {
                    warn!("{error:#}; retrying{}", HOST.remedy(&error))
                }
                Err(error) => debug!("{error:#}; retrying"),
            }
            backoff.rest().await;
        }
    }

    /// What to warn of when the instance, which had an address, is not found: once, until it is
    /// found again.
    fn lost_sight(&mut self, error: &anyhow::Error) -> Option<String> {
        if std::mem::replace(&mut self.unresolved, true) {
            return None;
        }
        let consequence = match self.advertised {
            Some(_) => "the instance stays registered at its last address",
            None => "the instance is not registered; it is checked at its last address",
        };
        Some(format!("{error:#}; {consequence}; retrying"))
    }

    /// Advertises the instance at its present address, and no longer at another. The complaint
    /// ends.
    fn advertise(&mut self) {
        let Some(address) = self.address.filter(|address| self.advertised != Some(*address)) else {
            return;
        };
        let backend = self.arguments.instance.backend();
        if let Some(old) = self.advertised.replace(address) {
            info!("{backend} moved from {old} to {address}");
            self.take_back(old);
        }
        let entry = (
            key(&backend, &address),
            Some(self.record(address, InstanceState::Up)),
        );
        let complaint = self.complained.take().map(|key| (key, None));
        self.advertiser.set_all(std::iter::once(entry).chain(complaint));
        self.registered.set(1);

        let (advertiser, readiness) = (self.advertiser.clone(), self.readiness.clone());
        tokio::spawn(async move {
            if advertiser.flush(EVER).await.is_ok() {
                info!("{backend} at {address} is registered");
                readiness.set_ready();
            }
        });
    }

    fn withdraw(&mut self) {
        if let Some(address) = self.advertised.take() {
            self.take_back(address);
            self.registered.set(0);
        }
    }

    /// Deregisters an entry: a router would keep one that only vanishes.
    fn take_back(&self, address: Address) {
        let farewell = self.record(address, InstanceState::Draining);
        self.advertiser
            .leave(key(&self.arguments.instance.backend(), &address), farewell);
    }

    /// Drains and deregisters the instance, within a bounded time.
    async fn leave(&mut self) {
        let backend = self.arguments.instance.backend();
        if let Some(address) = self.advertised {
            let record = self.record(address, InstanceState::Draining);
            self.advertiser.set(key(&backend, &address), Some(record));
            match self.advertiser.flush(LAST_WRITE).await {
                Ok(()) => {
                    info!("{backend} at {address} drains for {:?}", self.arguments.drain);
                    sleep(self.arguments.drain).await;
                }
                // No router would see the drain, so waiting is of no use.
                Err(error) => warn!("cannot mark {backend} at {address} as draining: {error:#}"),
            }
        }
        match self.advertiser.shutdown(LAST_WRITE).await {
            Ok(()) => info!("{backend} is deregistered"),
            Err(error) => warn!("{error:#}"),
        }
        self.registered.set(0);
    }

    fn record(&self, address: Address, state: InstanceState) -> Vec<u8> {
        records::to_json(&Record {
            address: address.into(),
            state,
            protocol: self.arguments.protocol.into(),
            weight: self.arguments.weight,
            shared: self.arguments.shared,
            metadata: self.notes.clone(),
        })
    }
}

fn key(backend: &BackendId, address: &Address) -> Key {
    Key::Instance(backend.clone(), InstanceId::of(address))
}

/// The node of the status record. One host may have many, so it names the instance, too.
fn status_node(node: &NodeName, Failing { backend, address, .. }: &Failing) -> NodeName {
    let own = format!("{node}.{}.{}.{address}", backend.service, backend.version);
    let own: String = own.replace([':', '[', ']'], "-");
    // Its end distinguishes it from others.
    let start = own.len().saturating_sub(NodeName::LIMIT);
    own[start..].parse().unwrap_or_else(|_| node.clone())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use mayfly_core::keys::KeySpace;
    use mayfly_daemon::store::Store;

    use super::*;
    use crate::args::{Arguments, Command};

    /// A registration of an instance at the host of this name, which had an address.
    fn registration(host: &str) -> (Registration, Tasks) {
        let words = ["container-registrar", "register", "backend", "1", host, "80"];
        let Command::Register(arguments) = Arguments::try_parse_from(words).unwrap().command else {
            panic!("{words:?}")
        };
        let tasks = Tasks::new();
        let store = Store::new(vec!["127.0.0.1:1".parse().unwrap()], KeySpace::default());
        let address = Some("10.0.0.5:80".parse().unwrap());
        let registration = Registration {
            advertiser: Advertiser::start(&tasks, &store, arguments.keeping.ttl),
            arguments: *arguments,
            node: None,
            notes: BTreeMap::new(),
            endpoints: Vec::new(),
            complained: None,
            readiness: Readiness::new(),
            registered: Gauge::default(),
            unresolved: false,
            address,
            advertised: address,
        };
        (registration, tasks)
    }

    #[tokio::test]
    async fn a_host_name_that_stops_resolving_is_warned_of_once_and_truly() {
        let (mut registration, _tasks) = registration("localhost");
        let error = anyhow::anyhow!("cannot resolve host name `localhost`");
        let registered = "cannot resolve host name `localhost`; the instance stays registered at its last \
                          address; retrying";
        assert_eq!(registration.lost_sight(&error).as_deref(), Some(registered));
        for _ in 0..3 {
            assert_eq!(registration.lost_sight(&error), None);
        }
        registration.find().await;
        registration.withdraw();
        let not_registered = "cannot resolve host name `localhost`; the instance is not registered; it is \
                              checked at its last address; retrying";
        assert_eq!(registration.lost_sight(&error).as_deref(), Some(not_registered));
        assert_eq!(registration.lost_sight(&error), None);
    }

    #[tokio::test]
    async fn a_search_that_fails_keeps_the_last_address() {
        let (mut registration, _tasks) = registration("no-such-host.invalid");
        let address = registration.address;
        for _ in 0..2 {
            registration.find().await;
            assert!(registration.unresolved);
            assert_eq!(registration.address, address);
        }
    }
}
