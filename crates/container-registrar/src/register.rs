//! `register`: advertises one instance while it answers, through every loss of etcd, lease or address; on shutdown it
//! drains first and removes the entry then.

use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::address::{Address, InstanceId};
use mayfly_core::keys::Key;
use mayfly_core::records::{self, Instance as Record, InstanceState};
use mayfly_core::version::BackendId;
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::args::{CommonArgs, Endpoint};
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::tasks::Tasks;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::time::{Instant, sleep};
use tracing::{debug, info, warn};

use crate::args::Register;
use crate::pulse::{Life, Pulse};

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
    let registered = Gauge::default();
    registry.register(
        "mayfly_registered",
        "1 while the instance is advertised",
        registered.clone(),
    );
    admin::start(&tasks, common.admin, &readiness, registry).await?;

    let advertiser = Advertiser::start_eager(&tasks, &store, arguments.keeping.ttl);
    let endpoints = store.endpoints().to_vec();
    let registration = Registration {
        arguments,
        endpoints,
        advertiser,
        readiness,
        registered,
        address: None,
        advertised: None,
    };
    tasks.supervise(registration.keep(shutdown)).await
}

struct Registration {
    arguments: Register,
    endpoints: Vec<Endpoint>,
    advertiser: Advertiser,
    readiness: Readiness,
    registered: Gauge,
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

    /// Keeps the entry in step with the instance, for ever.
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
        let mut pulse = Pulse::new(check, self.arguments.protocol.into(), &self.arguments.keeping);
        let backend = self.arguments.instance.backend();
        let mut found_at = Instant::now();
        loop {
            pulse.wait().await;
            if pulse.is_failing() || found_at.elapsed() >= LOOK_AGAIN {
                // It may have moved: a container that came back under its name has another address.
                self.find().await;
                found_at = Instant::now();
            }
            let Some(address) = self.address else { continue };
            match pulse.ask(&backend, address).await {
                // Also when it has moved meanwhile without having been down.
                Life::Alive => self.advertise(),
                Life::Dead => self.withdraw(),
                Life::Undecided => {}
            }
        }
    }

    /// Finds the instance's address. What cannot be found now stays where it was; the first time is tried until found.
    async fn find(&mut self) {
        let instance = &self.arguments.instance;
        if self.address.is_some() && !instance.host.may_move() {
            return;
        }
        let mut backoff = Backoff::default();
        loop {
            match instance
                .host
                .locate(instance.port, &self.endpoints, self.address)
                .await
            {
                Ok(address) => {
                    self.address = Some(address);
                    return;
                }
                Err(error) if self.address.is_some() => {
                    warn!("{error:#}; staying with the address of before");
                    return;
                }
                Err(error) if backoff.failures() == 0 => warn!("{error:#}; trying again"),
                Err(error) => debug!("{error:#}; trying again"),
            }
            backoff.rest().await;
        }
    }

    /// Advertises the instance at its present address, and no longer at another.
    fn advertise(&mut self) {
        let Some(address) = self.address.filter(|address| self.advertised != Some(*address)) else {
            return;
        };
        let backend = self.arguments.instance.backend();
        if let Some(old) = self.advertised.replace(address) {
            info!("{backend} has moved from {old} to {address}");
            self.take_back(old);
        }
        self.advertiser.set(
            key(&backend, &address),
            Some(self.record(address, InstanceState::Up)),
        );
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

    /// Deletes an entry and says that it is meant: a router goes on with what only vanishes.
    fn take_back(&self, address: Address) {
        let farewell = self.record(address, InstanceState::Draining);
        self.advertiser
            .leave(key(&self.arguments.instance.backend(), &address), farewell);
    }

    /// The way out, within a bounded time: draining, a wait for what is under way, gone.
    async fn leave(&mut self) {
        let backend = self.arguments.instance.backend();
        if let Some(address) = self.advertised {
            let record = self.record(address, InstanceState::Draining);
            self.advertiser.set(key(&backend, &address), Some(record));
            match self.advertiser.flush(LAST_WRITE).await {
                Ok(()) => {
                    info!(
                        "{backend} at {address} is draining for {:?}",
                        self.arguments.drain
                    );
                    sleep(self.arguments.drain).await;
                }
                // No router would learn of it, so waiting helps nobody.
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
            metadata: self.arguments.meta.iter().cloned().collect(),
        })
    }
}

fn key(backend: &BackendId, address: &Address) -> Key {
    Key::Instance(backend.clone(), InstanceId::of(address))
}
