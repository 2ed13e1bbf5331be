//! A bounded load over kept-alive connections that counts every request that failed, or was answered by a version that
//! it should not be answered by: the witness of "without a failed request".

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::Full;
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::http::{Answer, Request};

/// Connections of each target of a load.
const CONNECTIONS: u32 = 4;
/// Requests a second of a load that a test starts beside others: two cores serve several tests at once.
const MODEST: u32 = 800;
/// No load runs longer than its limit, whatever the test does; this is the usual one.
const LONGEST: Duration = Duration::from_secs(180);
/// An answer that takes longer has failed.
const SLOWEST: Duration = Duration::from_secs(5);

/// The `service@version` that may answer, which changes while a load runs.
#[derive(Debug, Clone, Default)]
pub struct Expected(Arc<RwLock<Option<BTreeSet<String>>>>);

impl Expected {
    /// Whoever answers is right.
    pub fn anyone() -> Self {
        Self::default()
    }

    /// Only these are right.
    pub fn only(backends: &[&str]) -> Self {
        let expected = Self::default();
        expected.set(backends);
        expected
    }

    /// From now on only these are right. An answer is right if it was at its request's begin or at its end.
    pub fn set(&self, backends: &[&str]) {
        let all = backends.iter().map(ToString::to_string).collect();
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(all);
    }

    fn has(&self, backend: &str) -> bool {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        all.as_ref().is_none_or(|all| all.contains(backend))
    }

    fn now(&self) -> Option<BTreeSet<String>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where a load sends which request, and who may answer it.
#[derive(Debug, Clone)]
pub struct Target {
    pub to: SocketAddr,
    pub request: Request,
    pub expected: Expected,
}

/// A load that runs until it is stopped, or for [`LONGEST`].
#[derive(Debug)]
pub struct Load {
    workers: JoinSet<Report>,
    stop: Arc<AtomicBool>,
    outage: Arc<AtomicBool>,
}

/// What a load has seen.
#[derive(Debug, Default, Clone)]
pub struct Report {
    pub requests: u64,
    /// Requests without a complete answer of status 200 from whom it was expected: when, counted from the load's start, and
    /// why.
    pub failures: Vec<(Duration, String)>,
    /// Requests that failed during an announced outage ([`Load::outage`]).
    pub excused: u64,
    /// How many answers came from each `service@version`.
    pub backends: BTreeMap<String, u64>,
    /// How many answers came from each instance's address.
    pub instances: BTreeMap<SocketAddr, u64>,
}

impl Load {
    /// Begins to send `request` to `to`, at most 800 times a second.
    pub fn start(to: SocketAddr, request: Request) -> Self {
        let expected = Expected::anyone();
        Self::steady(
            vec![Target {
                to,
                request,
                expected,
            }],
            MODEST,
        )
    }

    /// Begins to send so many requests a second, spread evenly over the targets; fewer where answers take longer than it takes
    /// four connections for each target to keep up.
    pub fn steady(targets: Vec<Target>, rate: u32) -> Self {
        Self::steady_for(targets, rate, LONGEST)
    }

    /// The same for a run that may take longer.
    pub fn steady_for(targets: Vec<Target>, rate: u32, longest: Duration) -> Self {
        let (stop, outage) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        let mut workers = JoinSet::new();
        let connections = u32::try_from(targets.len()).unwrap_or(u32::MAX) * CONNECTIONS;
        let every = Duration::from_secs(1) * connections / rate;
        for target in targets {
            for _ in 0..CONNECTIONS {
                workers.spawn(work(target.clone(), every, longest, stop.clone(), outage.clone()));
            }
        }
        Self {
            workers,
            stop,
            outage,
        }
    }

    /// Says that the proxy itself is down, or up again: what fails meanwhile is counted apart.
    pub fn outage(&self, begins: bool) {
        self.outage.store(begins, Ordering::Relaxed);
    }

    /// Stops it and returns what it has seen; requests under way are finished first.
    pub async fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Report::default();
        while let Some(part) = self.workers.join_next().await {
            total.add(part.expect("a worker of the load"));
        }
        total
    }
}

impl Report {
    /// Adds what another load has seen.
    pub fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.failures.extend(other.failures);
        self.failures.sort();
        self.excused += other.excused;
        for (backend, count) in other.backends {
            *self.backends.entry(backend).or_default() += count;
        }
        for (instance, count) in other.instances {
            *self.instances.entry(instance).or_default() += count;
        }
    }

    /// Checks that at least `least` requests were sent and none failed.
    ///
    /// # Panics
    /// When it is not so, with the first failures.
    #[track_caller]
    pub fn assert_flawless(&self, least: u64) {
        let first: Vec<_> = self.failures.iter().take(5).collect();
        assert!(
            self.failures.is_empty(),
            "{} of {} requests failed: {first:#?}",
            self.failures.len(),
            self.requests
        );
        assert!(
            self.requests >= least,
            "only {} requests were sent, not {least}",
            self.requests
        );
    }
}

async fn work(
    target: Target,
    every: Duration,
    longest: Duration,
    stop: Arc<AtomicBool>,
    outage: Arc<AtomicBool>,
) -> Report {
    let start = Instant::now();
    let mut report = Report::default();
    let mut connection: Option<SendRequest<Full<Bytes>>> = None;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !stop.load(Ordering::Relaxed) && start.elapsed() < longest {
        report.requests += 1;
        let (expected, excused) = (target.expected.now(), outage.load(Ordering::Relaxed));
        let exchange = exchange(target.to, &target.request, &mut connection);
        let outcome = tokio::time::timeout(SLOWEST, exchange).await;
        let outcome = outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {SLOWEST:?}")));
        let checked = outcome.and_then(|(backend, instance)| {
            let was = expected.is_none_or(|expected| expected.contains(&backend));
            ensure!(
                was || target.expected.has(&backend),
                "wrongly answered by {backend}"
            );
            Ok((backend, instance))
        });
        match checked {
            Ok((backend, instance)) => {
                *report.backends.entry(backend).or_default() += 1;
                *report.instances.entry(instance).or_default() += 1;
            }
            Err(error) => {
                connection = None;
                if excused || outage.load(Ordering::Relaxed) {
                    report.excused += 1;
                } else {
                    report.failures.push((start.elapsed(), format!("{error:#}")));
                }
            }
        }
        ticks.tick().await;
    }
    report
}

async fn exchange(
    to: SocketAddr,
    request: &Request,
    kept: &mut Option<SendRequest<Full<Bytes>>>,
) -> Result<(String, SocketAddr)> {
    let mut unsent = request.build();
    if let Some(mut sender) = kept.take() {
        match reuse(&mut sender, unsent).await? {
            Ok(response) => return checked(response, sender, kept).await,
            Err(request) => unsent = request,
        }
    }
    let stream = TcpStream::connect(to).await.context("connect")?;
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.context("begin HTTP/1.1")?;
    tokio::spawn(connection);
    sender.ready().await.context("begin HTTP/1.1")?;
    let response = sender.send_request(unsent).await.context("send")?;
    checked(response, sender, kept).await
}

/// Sends a request over a connection that is open already. A connection that the server closed while it was idle is no
/// failure: any client opens another one. So this gives the request back if nothing of it was sent.
async fn reuse(
    sender: &mut SendRequest<Full<Bytes>>,
    request: hyper::Request<Full<Bytes>>,
) -> Result<Result<Response<Incoming>, hyper::Request<Full<Bytes>>>> {
    if sender.ready().await.is_err() {
        return Ok(Err(request));
    }
    match sender.try_send_request(request).await {
        Ok(response) => Ok(Ok(response)),
        Err(mut refused) => match refused.take_message() {
            Some(request) => Ok(Err(request)),
            None => Err(refused.into_error()).context("send"),
        },
    }
}

/// Who has answered. Only a complete answer of status 200 counts, and leaves the connection open for the next request.
async fn checked(
    response: Response<Incoming>,
    sender: SendRequest<Full<Bytes>>,
    kept: &mut Option<SendRequest<Full<Bytes>>>,
) -> Result<(String, SocketAddr)> {
    let answer = Answer::read(response).await?;
    ensure!(answer.status == 200, "status {}: {}", answer.status, answer.body);
    let echo = answer.echo()?;
    *kept = Some(sender);
    Ok((format!("{}@{}", echo.service, echo.version), echo.address))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::instance::Service;

    #[tokio::test]
    async fn it_counts_answers_and_failures() {
        let service = Service::start("backend", "0.0.1").await.unwrap();
        let load = Load::start(service.address(), Request::get("backend.service", "/"));
        crate::eventually(Duration::from_secs(5), "50 requests", async || {
            service.requests() >= 50
        })
        .await;
        let report = load.stop().await;
        report.assert_flawless(50);
        assert_eq!(report.backends.get("backend@0.0.1"), Some(&report.requests));

        let load = Load::start(service.address(), Request::get("backend.service", "/?status=503"));
        crate::eventually(Duration::from_secs(5), "more requests", async || {
            service.requests() > report.requests + 5
        })
        .await;
        let report = load.stop().await;
        assert_eq!(report.failures.len() as u64, report.requests);
    }

    #[tokio::test]
    async fn a_request_that_was_not_sent_is_given_back() {
        let (client, mut server) = tokio::io::duplex(4096);
        let (mut sender, connection) = handshake(TokioIo::new(client)).await.unwrap();
        tokio::spawn(connection);
        let request = || Request::get("backend.service", "/").build();
        let serve = async {
            assert!(server.read(&mut [0; 4096]).await.unwrap() > 0);
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            server.write_all(answer).await.unwrap();
        };
        let (response, ()) = tokio::join!(reuse(&mut sender, request()), serve);
        let answer = Answer::read(response.unwrap().unwrap()).await.unwrap();
        assert_eq!(answer.status, 200);
        sender.ready().await.unwrap();
        // The task of the connection learns of the end only when this test waits: with the next request in its hands.
        drop(server);
        let unsent = reuse(&mut sender, request()).await.unwrap().unwrap_err();
        assert_eq!(unsent.uri(), request().uri());
    }

    #[tokio::test]
    async fn a_wrong_version_is_a_failure_and_an_outage_an_excuse() {
        let service = Service::start("backend", "0.0.1").await.unwrap();
        let expected = Expected::only(&["backend@0.0.2"]);
        let target = Target {
            to: service.address(),
            request: Request::get("backend.service", "/"),
            expected: expected.clone(),
        };
        let load = Load::steady(vec![target], 200);
        let more = async |than| {
            crate::eventually(Duration::from_secs(5), "more requests", async || {
                service.requests() >= than
            })
            .await;
        };
        more(20).await;
        load.outage(true);
        more(service.requests() + 20).await;
        expected.set(&["backend@0.0.1"]);
        load.outage(false);
        more(service.requests() + 20).await;
        let report = load.stop().await;
        let wrong = report.failures.len() as u64;
        assert!(wrong >= 10 && report.excused >= 10, "{report:?}");
        assert!(report.requests >= wrong + report.excused + 10, "{report:?}");
        let (_, why) = report.failures.first().unwrap();
        assert_eq!(why, "wrongly answered by backend@0.0.1");
    }
}
