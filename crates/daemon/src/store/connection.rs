//! One connection to whichever endpoint of etcd answers. It is made when first needed, doubted
//! after a failure (the next call then looks for an endpoint that answers), and never pinged more
//! than etcd permits. A login that etcd does not know any more is made again on a new connection,
//! unseen by whoever calls.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, KvClient, LeaseClient, MaintenanceClient, WatchClient};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::Endpoint;
use super::access::EtcdAccess;
use super::error::Cause;

/// HTTP/2 pings end connections that nobody answers on. etcd itself ends those that are pinged more
/// often than every 5 s, or without a stream, so a frozen etcd is noticed sooner by other means:
/// the limit of a call, and the question that [`crate::watch`] asks on its stream.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait for a connection, and for the answer that shows an endpoint to be alive.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long a login may take: etcd makes it costly, and many may want one at once.
const LOGIN_LIMIT: Duration = Duration::from_secs(4);
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
    endpoints: Vec<Endpoint>,
    access: EtcdAccess,
    limit: Duration,
    connected: Gauge,
    /// Whether it has been told that etcd wants no login.
    unasked: AtomicBool,
    state: Mutex<ConnectionState>,
}

impl std::fmt::Debug for SharedConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct ConnectionState {
    current: Option<Clients>,
    /// Which endpoint to try first when the next connection is made.
    next: usize,
    generation: u64,
}

impl Connection {
    pub(super) fn new(endpoints: Vec<Endpoint>, access: EtcdAccess, limit: Duration) -> Self {
        let shared = SharedConnection {
            endpoints,
            access,
            limit,
            connected: Gauge::default(),
            unasked: AtomicBool::new(false),
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(super) fn with_limit(&self, limit: Duration) -> Self {
        Self::new(self.shared.endpoints.clone(), self.shared.access.clone(), limit)
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.shared.endpoints
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
        let mut used = None;
        let attempt = async {
            let clients = self.clients().await?;
            let endpoint = clients.endpoint.clone();
            used = Some(clients.clone());
            work(clients).await.map_err(|error| self.cause(&error, &endpoint))
        };
        let outcome = match tokio::time::timeout_at(deadline, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Cause::Late {
                at: self.place(used.as_ref()),
                limit: self.shared.limit,
            }),
        };
        self.note(
            used.as_ref().map(|clients| clients.generation),
            outcome.as_ref().err(),
        )
        .await;
        outcome
    }

    /// What an error means here.
    pub(super) fn cause(&self, error: &etcd_client::Error, endpoint: &Endpoint) -> Cause {
        Cause::of(error, endpoint, &self.shared.access)
    }

    /// As [`Connection::cause`], for the first call on a new connection.
    fn first_cause(&self, error: &etcd_client::Error, endpoint: &Endpoint) -> Cause {
        match self.cause(error, endpoint) {
            Cause::Unreachable { at, reason } if endpoint.is_tls() => {
                match self.shared.access.explain_end(&reason) {
                    Some(reason) => Cause::Untrusted { at, reason },
                    None => Cause::Unreachable { at, reason },
                }
            }
            cause => cause,
        }
    }

    /// What it means that etcd ends a watch with this reason.
    pub(super) fn ended(&self, reason: &str) -> Cause {
        Cause::ended(reason, &self.shared.access)
    }

    /// Learns from the outcome of a call or of a stream. Whoever tries again tells the people about
    /// it.
    pub(super) async fn note(&self, generation: Option<u64>, failure: Option<&Cause>) {
        let Some(cause) = failure.filter(|cause| cause.doubts_connection() || cause.ends_login()) else {
            // A refusal is an answer too.
            self.shared.connected.set(1);
            return;
        };
        let mut state = self.shared.state.lock().await;
        if generation.is_none_or(|generation| generation == state.generation) {
            debug!("{cause}: connecting again");
            // Others may still use the old connection; it goes when the last of them lets go.
            let dropped = state.current.take().is_some();
            if cause.doubts_connection() {
                state.next += usize::from(dropped);
                self.shared.connected.set(0);
            }
        }
    }

    async fn clients(&self) -> Result<Clients, Cause> {
        let mut state = self.shared.state.lock().await;
        if let Some(clients) = &state.current {
            return Ok(clients.clone());
        }
        let generation = state.generation + 1;
        let clients = self.connect(&mut state.next, generation).await?;
        state.generation = generation;
        state.current = Some(clients.clone());
        Ok(clients)
    }

    /// Connects to the first endpoint, from number `next` on, that answers and knows a leader. A
    /// single endpoint is taken without asking: there is no choice. `next` is that endpoint then;
    /// before, the one after it, for the call may be given up while a silent endpoint is waited
    /// for, and the following one must not wait for the same.
    async fn connect(&self, next: &mut usize, generation: u64) -> Result<Clients, Cause> {
        let endpoints = &self.shared.endpoints;
        let first = *next;
        let (mut reasons, mut untrusted) = (Vec::new(), false);
        for offset in 0..endpoints.len() {
            let number = (first + offset) % endpoints.len();
            let endpoint = &endpoints[number];
            *next = number + 1;
            match self.try_endpoint(endpoint).await {
                Ok(client) => {
                    *next = number;
                    return Ok(Clients {
                        kv: client.kv_client().max_decoding_message_size(MESSAGE_LIMIT),
                        lease: client.lease_client(),
                        maintenance: client.maintenance_client(),
                        watch: client.watch_client().max_decoding_message_size(MESSAGE_LIMIT),
                        generation,
                        endpoint: endpoint.clone(),
                    });
                }
                Err(cause @ (Cause::Unreachable { .. } | Cause::Untrusted { .. }))
                    if endpoints.len() == 1 =>
                {
                    return Err(cause);
                }
                Err(Cause::Unreachable { reason, .. }) => {
                    reasons.push(format!("{}: {reason}", endpoint.host_and_port()));
                }
                Err(Cause::Untrusted { reason, .. }) => {
                    untrusted = true;
                    reasons.push(format!("{}: {reason}", endpoint.host_and_port()));
                }
                // The others would say the same.
                Err(cause) => return Err(cause),
            }
        }
        let (at, reason) = (self.place(None), reasons.join("; "));
        Err(match untrusted {
            true => Cause::Untrusted { at, reason },
            false => Cause::Unreachable { at, reason },
        })
    }

    async fn try_endpoint(&self, endpoint: &Endpoint) -> Result<Client, Cause> {
        let access = &self.shared.access;
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_LIMIT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            // A member that is cut off from the others would answer watches with silence.
            .with_require_leader(true);
        let open = access
            .encrypted(options, endpoint, CONNECT_LIMIT)
            .map_err(Cause::Unprepared)?;
        let logged_in = access.logged_in(open.clone()).map_err(Cause::Unprepared)?;
        let client = match self.open(endpoint, logged_in).await {
            Err(error) if says_without_authentication(&error) => {
                // So that users can be given to the daemons before etcd asks for them.
                if !self.shared.unasked.swap(true, Ordering::Relaxed) {
                    warn!("etcd has no authentication enabled: continuing without a login");
                }
                self.open(endpoint, open).await
            }
            other => other,
        };
        let client = client.map_err(|error| self.first_cause(&error, endpoint))?;
        // With a single endpoint there is no choice; but with TLS, etcd's opinion of our
        // certificate comes with its first answer.
        if self.shared.endpoints.len() > 1 || endpoint.is_tls() {
            let unreachable = |reason| Cause::Unreachable {
                at: endpoint.host_and_port().to_owned(),
                reason,
            };
            let mut maintenance = client.maintenance_client();
            match tokio::time::timeout(CONNECT_LIMIT, maintenance.status()).await {
                Ok(Ok(status)) if status.leader() != 0 => {}
                Ok(Ok(_)) => {
                    return Err(unreachable(
                        "this member of etcd sees no leader of its cluster".to_owned(),
                    ));
                }
                Ok(Err(error)) => match self.first_cause(&error, endpoint) {
                    // It answers, and that is what was asked.
                    Cause::Refused(_) | Cause::NoUser | Cause::Denied { .. } => {}
                    cause => return Err(cause),
                },
                Err(_) => return Err(unreachable(format!("no answer within {CONNECT_LIMIT:?}"))),
            }
        }
        Ok(client)
    }

    /// Opens a connection, and logs in where there is a user.
    async fn open(&self, endpoint: &Endpoint, options: ConnectOptions) -> Result<Client, etcd_client::Error> {
        let connect = Client::connect([endpoint.url()], Some(options));
        match tokio::time::timeout(LOGIN_LIMIT, connect).await {
            Ok(connected) => connected,
            Err(_) => Err(etcd_client::Error::EndpointError(format!(
                "no login within {LOGIN_LIMIT:?}"
            ))),
        }
    }

    fn place(&self, clients: Option<&Clients>) -> String {
        match clients {
            Some(clients) => clients.endpoint.host_and_port().to_owned(),
            None => {
                let all: Vec<&str> = self
                    .shared
                    .endpoints
                    .iter()
                    .map(Endpoint::host_and_port)
                    .collect();
                all.join(",")
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

fn says_without_authentication(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.message().contains("authentication is not enabled"))
}
