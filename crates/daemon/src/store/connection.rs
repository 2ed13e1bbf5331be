//! One connection to whichever endpoint of etcd answers. It is made when first needed, doubted
//! after a failure (the next call then looks for an endpoint that answers), and never pinged more
//! than etcd permits. A login that etcd does not know any more is made again on a new connection,
//! unseen by whoever calls.
//!
//! One task makes the connection for all calls that wait for it, and goes on when they have given
//! up ([`super::connect`] says why). It ends with the last clone of the store.

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Client, KvClient, LeaseClient, MaintenanceClient, WatchClient};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::Endpoint;
use super::access::EtcdAccess;
use super::connect::{Connector, Progress};
use super::error::Cause;

/// gRPC's own limit of 4 MB is less than a thousand large environments; etcd takes at most 1.5 MB a
/// value.
const MESSAGE_LIMIT: usize = 1 << 30;

/// The clients of one connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Clients {
    pub kv: KvClient,
    pub lease: LeaseClient,
    pub watch: WatchClient,
    pub maintenance: MaintenanceClient,
    generation: u64,
    endpoint: Endpoint,
}

/// The connection, shared by all clones of a store.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    shared: Arc<SharedConnection>,
}

struct SharedConnection {
    connector: Arc<Connector>,
    limit: Duration,
    connected: Gauge,
    /// Never held while something is waited for.
    state: Mutex<ConnectionState>,
}

impl std::fmt::Debug for SharedConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("endpoints", &self.connector.endpoints)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct ConnectionState {
    current: Option<Clients>,
    /// The one that is being made, where there is none.
    connecting: Option<Connecting>,
    /// Which endpoint to try first when the next connection is made.
    next: usize,
    generation: u64,
}

struct Connecting {
    progress: watch::Receiver<Progress>,
    task: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) fn new(endpoints: Vec<Endpoint>, access: EtcdAccess, limit: Duration) -> Self {
        let shared = SharedConnection {
            connector: Arc::new(Connector::new(endpoints, access)),
            limit,
            connected: Gauge::default(),
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(super) fn with_limit(&self, limit: Duration) -> Self {
        let connector = &self.shared.connector;
        Self::new(connector.endpoints.clone(), connector.access.clone(), limit)
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.shared.connector.endpoints
    }

    pub(super) fn connected(&self) -> &Gauge {
        &self.shared.connected
    }

    /// Does one call within the limit. It is done a second time where etcd wants a new login, for
    /// which it refuses before it does anything.
    pub(super) async fn call<T, F, Work>(&self, work: F) -> Result<T, Cause>
    where
        F: Fn(Clients) -> Work,
        Work: Future<Output = Result<T, etcd_client::Error>>,
    {
        let deadline = Instant::now() + self.shared.limit;
        let mut outcome = self.attempt(&work, deadline).await;
        if outcome.as_ref().is_err_and(Cause::ends_login) {
            outcome = self.attempt(&work, deadline).await;
        }
        outcome
    }

    async fn attempt<T, F, Work>(&self, work: &F, deadline: Instant) -> Result<T, Cause>
    where
        F: Fn(Clients) -> Work,
        Work: Future<Output = Result<T, etcd_client::Error>>,
    {
        let clients = match self.clients(deadline).await {
            Ok(clients) => clients,
            Err(cause) => {
                self.note(None, Some(&cause));
                return Err(cause);
            }
        };
        let (generation, endpoint) = (clients.generation, clients.endpoint.clone());
        let outcome = match timeout_at(deadline, work(clients)).await {
            Ok(outcome) => outcome.map_err(|error| self.cause(&error, &endpoint)),
            Err(_) => Err(Cause::Late {
                at: endpoint.host_and_port().to_owned(),
                limit: self.shared.limit,
            }),
        };
        self.note(Some(generation), outcome.as_ref().err());
        outcome
    }

    /// What an error means here.
    pub(super) fn cause(&self, error: &etcd_client::Error, endpoint: &Endpoint) -> Cause {
        self.shared.connector.cause(error, endpoint)
    }

    /// What it means that etcd ends a watch with this reason.
    pub(super) fn ended(&self, reason: &str) -> Cause {
        Cause::ended(reason, &self.shared.connector.access)
    }

    /// Learns from the outcome of a call or of a stream; of one that got no connection, without a
    /// generation. Whoever tries again tells the people about it. It waits for nothing, so that a
    /// stream can call it on the way to its answer and remain safe in `select!`.
    pub(super) fn note(&self, generation: Option<u64>, failure: Option<&Cause>) {
        let Some(cause) = failure.filter(|cause| cause.doubts_connection() || cause.ends_login()) else {
            // A refusal is an answer too.
            self.shared.connected.set(1);
            return;
        };
        let mut state = self.shared.state();
        let concerned = match generation {
            Some(generation) => generation == state.generation,
            // One that was made just now is no worse for it.
            None => state.current.is_none(),
        };
        if concerned {
            debug!("{cause}: connecting again");
            // Others may still use the old connection; it goes when the last of them lets go.
            let dropped = state.current.take().is_some();
            if cause.doubts_connection() {
                state.next += usize::from(dropped);
                self.shared.connected.set(0);
            }
        }
    }

    /// The clients of the present connection; where there is none, it is waited for until the
    /// deadline.
    async fn clients(&self, deadline: Instant) -> Result<Clients, Cause> {
        loop {
            let mut progress = match self.current_or_connecting() {
                Ok(clients) => return Ok(clients),
                Err(progress) => progress,
            };
            let over = timeout_at(deadline, progress.wait_for(Progress::is_over))
                .await
                .map(|over| over.map(|progress| Progress::clone(&progress)));
            match over {
                Ok(Ok(Progress::Failed(cause))) => return Err(cause),
                Ok(Ok(_)) => {}
                // Only with the runtime that it was started on.
                Ok(Err(_)) => return Err(Cause::Unprepared("the attempt was stopped".to_owned())),
                Err(_) => {
                    let last = Progress::clone(&progress.borrow());
                    return Err(self.late(last));
                }
            }
        }
    }

    /// What it means that the deadline of a call came while the connection was being made.
    fn late(&self, last: Progress) -> Cause {
        let at = self.shared.connector.place();
        match last {
            Progress::LoggingIn(user) => Cause::LoginLate { at, user },
            _ => Cause::Late {
                at,
                limit: self.shared.limit,
            },
        }
    }

    /// The present connection, or how far the one is that is being made: from now on, if none was.
    fn current_or_connecting(&self) -> Result<Clients, watch::Receiver<Progress>> {
        let mut state = self.shared.state();
        if let Some(clients) = &state.current {
            return Ok(clients.clone());
        }
        if let Some(connecting) = state.connecting.as_ref().filter(|one| !one.task.is_finished()) {
            return Err(connecting.progress.clone());
        }
        let (sender, progress) = watch::channel(Progress::Started);
        let connect = self.shared.connector.clone().connect(state.next, sender.clone());
        // It must not keep alive what ends it.
        let shared = Arc::downgrade(&self.shared);
        let task = tokio::spawn(async move {
            let outcome = connect.await;
            if let Some(shared) = shared.upgrade() {
                sender.send_replace(shared.conclude(outcome));
            }
        });
        state.connecting = Some(Connecting {
            progress: progress.clone(),
            task: AbortOnDropHandle::new(task),
        });
        Err(progress)
    }
}

impl SharedConnection {
    fn state(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a connection that has been made in its place.
    fn conclude(&self, outcome: Result<(Client, usize), Cause>) -> Progress {
        let mut state = self.state();
        state.connecting = None;
        match outcome {
            Ok((client, number)) => {
                state.next = number;
                state.generation += 1;
                state.current = Some(Clients {
                    kv: client.kv_client().max_decoding_message_size(MESSAGE_LIMIT),
                    lease: client.lease_client(),
                    maintenance: client.maintenance_client(),
                    watch: client.watch_client().max_decoding_message_size(MESSAGE_LIMIT),
                    generation: state.generation,
                    endpoint: self.connector.endpoints[number].clone(),
                });
                Progress::Connected
            }
            Err(cause) => {
                state.next += 1;
                Progress::Failed(cause)
            }
        }
    }
}

impl Clients {
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}

#[cfg(test)]
mod tests;
