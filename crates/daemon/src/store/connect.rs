//! Makes connections to etcd: to the first endpoint that answers, logged in where there is a user.
//!
//! A login costs etcd some 60 ms of a core, and etcd spends them even if the client has given up.
//! Clients that give up and try again can keep etcd so busy that no login ever ends in time. So no
//! login is given up because a call is: a store has at most one under way at each endpoint, and
//! etcd's work ends, however many log in at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use etcd_client::{Client, ConnectOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::warn;

use super::Endpoint;
use super::access::EtcdAccess;
use super::error::Cause;

/// HTTP/2 pings end connections that nobody answers on. etcd itself ends those that are pinged more
/// often than every 5 s, or without a stream, so a frozen etcd is noticed sooner by other means:
/// the limit of a call, and the question that [`crate::watch`] asks on its stream.
const PING_INTERVAL: Duration = Duration::from_secs(10);
/// An etcd with some hundred logins to make on one core answers a ping after seconds: they take
/// turns of 10 ms.
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait for a connection, and for the answer that shows an endpoint to be alive.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long one endpoint is waited for alone: then the next one is asked too.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a login may take: as long as a core of etcd needs for a thousand of them.
const LOGIN_LIMIT: Duration = Duration::from_secs(60);

/// How far a connection is that is being made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Progress {
    /// It has been started.
    Started,
    /// It is being opened, and this user logged in.
    LoggingIn(String),
    /// It is made.
    Connected,
    /// It cannot be made.
    Failed(Cause),
}

impl Progress {
    /// Whether nothing more will happen.
    pub(super) fn is_over(&self) -> bool {
        matches!(self, Self::Connected | Self::Failed(_))
    }
}

/// Where etcd is, and what a connection to it needs.
pub(super) struct Connector {
    pub endpoints: Vec<Endpoint>,
    pub access: EtcdAccess,
    /// Whether it has been told that etcd wants no login.
    unasked: AtomicBool,
}

impl Connector {
    pub(super) fn new(endpoints: Vec<Endpoint>, access: EtcdAccess) -> Self {
        Self {
            endpoints,
            access,
            unasked: AtomicBool::new(false),
        }
    }

    /// Connects to the first endpoint, from number `first` on, that answers and knows a leader, and
    /// says which one that is. A single endpoint without login and TLS is taken without asking:
    /// there is no choice. The next endpoint is asked when one has failed, and beside one that
    /// takes its time.
    pub(super) async fn connect(
        self: Arc<Self>,
        first: usize,
        progress: watch::Sender<Progress>,
    ) -> Result<(Client, usize), Cause> {
        let count = self.endpoints.len();
        let (mut reasons, mut untrusted) = (Vec::new(), false);
        let mut tries: JoinSet<(usize, Result<Client, Cause>)> = JoinSet::new();
        let mut asked = 0;
        loop {
            if asked < count {
                let number = (first + asked) % count;
                let (connector, progress) = (self.clone(), progress.clone());
                tries.spawn(async move {
                    let endpoint = &connector.endpoints[number];
                    (number, connector.try_endpoint(endpoint, &progress).await)
                });
                asked += 1;
            }
            let ended = if asked < count {
                match timeout(PATIENCE, tries.join_next()).await {
                    Ok(ended) => ended,
                    Err(_) => continue,
                }
            } else {
                tries.join_next().await
            };
            let (number, outcome) = match ended {
                Some(Ok(ended)) => ended,
                Some(Err(panicked)) => return Err(Cause::Unprepared(panicked.to_string())),
                None => break,
            };
            let endpoint = &self.endpoints[number];
            match outcome {
                Ok(client) => return Ok((client, number)),
                Err(cause @ (Cause::Unreachable { .. } | Cause::Untrusted { .. })) if count == 1 => {
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
        let (at, reason) = (self.place(), reasons.join("; "));
        Err(match untrusted {
            true => Cause::Untrusted { at, reason },
            false => Cause::Unreachable { at, reason },
        })
    }

    async fn try_endpoint(
        &self,
        endpoint: &Endpoint,
        progress: &watch::Sender<Progress>,
    ) -> Result<Client, Cause> {
        let access = &self.access;
        let options = ConnectOptions::new()
            .with_connect_timeout(CONNECT_LIMIT)
            .with_keep_alive(PING_INTERVAL, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            // A member that is cut off from the others would answer watches with silence.
            .with_require_leader(true);
        let open = access
            .encrypted(options, endpoint, CONNECT_LIMIT)
            .map_err(Cause::Unprepared)?;
        if let Some(user) = access.user_name() {
            let logged_in = access.logged_in(open.clone()).map_err(Cause::Unprepared)?;
            tell(progress, Progress::LoggingIn(user.to_owned()));
            match self.open(endpoint, logged_in).await {
                // That was an answer, which a member without a leader does not give. Asking again
                // could waste the login: a busy etcd may be late.
                Ok(client) => return Ok(client),
                Err(error) if says_without_authentication(&error) => {
                    // So that users can be given to the daemons before etcd asks for them.
                    if !self.unasked.swap(true, Ordering::Relaxed) {
                        warn!("etcd has no authentication enabled: continuing without a login");
                    }
                }
                Err(error) => return Err(self.first_cause(&error, endpoint)),
            }
            tell(progress, Progress::Started);
        }
        let client = self.open(endpoint, open).await;
        let client = client.map_err(|error| self.first_cause(&error, endpoint))?;
        // With a single endpoint there is no choice; but with TLS, etcd's opinion of our
        // certificate comes with its first answer.
        if self.endpoints.len() > 1 || endpoint.is_tls() {
            let unreachable = |reason| Cause::Unreachable {
                at: endpoint.host_and_port().to_owned(),
                reason,
            };
            let mut maintenance = client.maintenance_client();
            match timeout(CONNECT_LIMIT, maintenance.status()).await {
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

    /// Opens a connection, and logs in where the options have a user.
    async fn open(&self, endpoint: &Endpoint, options: ConnectOptions) -> Result<Client, etcd_client::Error> {
        let connect = Client::connect([endpoint.url()], Some(options));
        match timeout(LOGIN_LIMIT, connect).await {
            Ok(connected) => connected,
            Err(_) => Err(etcd_client::Error::EndpointError(format!(
                "no login within {LOGIN_LIMIT:?}"
            ))),
        }
    }

    /// What an error means here.
    pub(super) fn cause(&self, error: &etcd_client::Error, endpoint: &Endpoint) -> Cause {
        Cause::of(error, endpoint, &self.access)
    }

    /// As [`Connector::cause`], for the first call on a new connection.
    fn first_cause(&self, error: &etcd_client::Error, endpoint: &Endpoint) -> Cause {
        match self.cause(error, endpoint) {
            Cause::Unreachable { at, reason } if endpoint.is_tls() => {
                match self.access.explain_end(&reason) {
                    Some(reason) => Cause::Untrusted { at, reason },
                    None => Cause::Unreachable { at, reason },
                }
            }
            cause => cause,
        }
    }

    /// All endpoints, for a message.
    pub(super) fn place(&self) -> String {
        let all: Vec<&str> = self.endpoints.iter().map(Endpoint::host_and_port).collect();
        all.join(",")
    }
}

/// Says how far it is, unless it is over: a try may go on for a moment after another has succeeded.
fn tell(progress: &watch::Sender<Progress>, news: Progress) {
    progress.send_if_modified(|progress| {
        let goes_on = !progress.is_over();
        if goes_on {
            *progress = news;
        }
        goes_on
    });
}

fn says_without_authentication(error: &etcd_client::Error) -> bool {
    matches!(error, etcd_client::Error::GRpcStatus(status)
        if status.message().contains("authentication is not enabled"))
}
