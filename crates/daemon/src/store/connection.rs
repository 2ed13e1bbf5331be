//! One connection to whichever endpoint of etcd answers. It is made when first needed, doubted after a failure
//! (the next call then looks for an endpoint that answers), and never pinged more than etcd permits.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, KvClient, LeaseClient, WatchClient};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::Mutex;
use tracing::debug;

use super::error::{Cause, StoreError};
use crate::args::Endpoint;

/// HTTP/2 pings end connections that nobody answers on. etcd itself ends those that are pinged more often than every 5 s,
/// or without a stream, so a frozen etcd is noticed sooner by other means: the limit of a call, and the question that
/// [`crate::watch`] asks on its stream.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait for a connection, and for the answer that shows an endpoint to be alive.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// gRPC's own limit of 4 MB is less than a thousand large environments; etcd takes at most 1.5 MB a value.
const MESSAGE_LIMIT: usize = 1 << 30;

/// The clients of one connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Clients {
    pub kv: KvClient,
    pub lease: LeaseClient,
    pub watch: WatchClient,
    generation: u64,
    endpoint: Endpoint,
}

/// The connection, shared by all clones of a store.
#[derive(Debug, Clone)]
pub(super) struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    endpoints: Vec<Endpoint>,
    limit: Duration,
    connected: Gauge,
    state: Mutex<State>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("endpoints", &self.endpoints)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    current: Option<Clients>,
    /// Which endpoint to try first when the next connection is made.
    next: usize,
    generation: u64,
}

impl Connection {
    pub(super) fn new(endpoints: Vec<Endpoint>, limit: Duration) -> Self {
        let shared = Shared {
            endpoints,
            limit,
            connected: Gauge::default(),
            state: Mutex::default(),
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    pub(super) fn with_limit(&self, limit: Duration) -> Self {
        Self::new(self.shared.endpoints.clone(), limit)
    }

    pub(super) fn endpoints(&self) -> &[Endpoint] {
        &self.shared.endpoints
    }

    pub(super) fn connected(&self) -> &Gauge {
        &self.shared.connected
    }

    /// Does one call within the limit; `action` completes the sentence "cannot ...".
    pub(super) async fn call<T, F, Work>(&self, action: impl Fn() -> String, work: F) -> Result<T, StoreError>
    where
        F: FnOnce(Clients) -> Work,
        Work: Future<Output = Result<T, etcd_client::Error>>,
    {
        let limit = self.shared.limit;
        let mut used = None;
        let attempt = async {
            let clients = self.clients().await?;
            let endpoint = clients.endpoint.clone();
            used = Some(clients.clone());
            work(clients).await.map_err(|error| Cause::of(&error, &endpoint))
        };
        let outcome = match tokio::time::timeout(limit, attempt).await {
            Ok(outcome) => outcome,
            Err(_) => Err(Cause::Late {
                at: self.place(used.as_ref()),
                limit,
            }),
        };
        self.note(
            used.as_ref().map(|clients| clients.generation),
            outcome.as_ref().err(),
        )
        .await;
        outcome.map_err(|cause| StoreError::new(action(), cause))
    }

    /// Learns from the outcome of a call or of a stream. Whoever tries again tells the people about it.
    pub(super) async fn note(&self, generation: Option<u64>, failure: Option<&Cause>) {
        let Some(cause) = failure.filter(|cause| cause.doubts_connection()) else {
            // A refusal is an answer too.
            self.shared.connected.set(1);
            return;
        };
        let mut state = self.shared.state.lock().await;
        if generation.is_none_or(|generation| generation == state.generation) {
            debug!("{cause}: connecting anew");
            // Others may still use the old connection; it goes when the last of them lets go.
            if state.current.take().is_some() {
                state.next += 1;
            }
            self.shared.connected.set(0);
        }
    }

    async fn clients(&self) -> Result<Clients, Cause> {
        let mut state = self.shared.state.lock().await;
        if let Some(clients) = &state.current {
            return Ok(clients.clone());
        }
        let generation = state.generation + 1;
        let clients = self.connect(state.next, generation).await?;
        state.generation = generation;
        state.current = Some(clients.clone());
        Ok(clients)
    }

    /// Connects to the first endpoint, from number `first` on, that answers and knows a leader. A single endpoint is
    /// taken without asking: there is no choice.
    async fn connect(&self, first: usize, generation: u64) -> Result<Clients, Cause> {
        let endpoints = &self.shared.endpoints;
        let mut reasons = Vec::new();
        for offset in 0..endpoints.len() {
            let endpoint = &endpoints[(first + offset) % endpoints.len()];
            match self.try_endpoint(endpoint).await {
                Ok(client) => {
                    return Ok(Clients {
                        kv: client.kv_client().max_decoding_message_size(MESSAGE_LIMIT),
                        lease: client.lease_client(),
                        watch: client.watch_client().max_decoding_message_size(MESSAGE_LIMIT),
                        generation,
                        endpoint: endpoint.clone(),
                    });
                }
                Err(reason) => reasons.push(format!("{}: {reason}", endpoint.host_and_port())),
            }
        }
        Err(Cause::Unreachable {
            at: self.place(None),
            reason: reasons.join("; "),
        })
    }

    async fn try_endpoint(&self, endpoint: &Endpoint) -> Result<Client, String> {
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_LIMIT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            // A member that is cut off from the others would answer watches with silence.
            .with_require_leader(true);
        let connected = Client::connect([endpoint.url()], Some(options)).await;
        let client = connected.map_err(|error| error.to_string())?;
        if self.shared.endpoints.len() > 1 {
            let mut maintenance = client.maintenance_client();
            match tokio::time::timeout(CONNECT_LIMIT, maintenance.status()).await {
                Ok(Ok(status)) if status.leader() != 0 => {}
                Ok(Ok(_)) => return Err("it knows no leader".to_owned()),
                Ok(Err(error)) => return Err(Cause::of(&error, endpoint).to_string()),
                Err(_) => return Err(format!("no answer within {CONNECT_LIMIT:?}")),
            }
        }
        Ok(client)
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
