//! A modest, bounded load over kept-alive connections that counts every failed request and the versions that
//! answered: the witness of "without a failed request".

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::http::{Answer, Request};

/// Connections of one load.
const CONNECTIONS: usize = 4;
/// Pause after each answer: two cores serve several tests at once, and some hundred requests a second suffice.
const PAUSE: Duration = Duration::from_millis(4);
/// No load runs longer, whatever the test does.
const LONGEST: Duration = Duration::from_secs(120);
/// An answer that takes longer has failed.
const SLOWEST: Duration = Duration::from_secs(5);

/// A load that runs until it is stopped, or for two minutes.
#[derive(Debug)]
pub struct Load {
    workers: JoinSet<Report>,
    stop: Arc<AtomicBool>,
}

/// What a load has seen.
#[derive(Debug, Default, Clone)]
pub struct Report {
    /// Requests sent.
    pub requests: u64,
    /// Requests without a complete answer of status 200: when, counted from the load's start, and why.
    pub failures: Vec<(Duration, String)>,
    /// How many answers came from each `service@version`.
    pub backends: BTreeMap<String, u64>,
    /// How many answers came from each instance's address.
    pub instances: BTreeMap<SocketAddr, u64>,
}

impl Load {
    /// Begins to send `request` to `to` over four connections.
    pub fn start(to: SocketAddr, request: Request) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let mut workers = JoinSet::new();
        for _ in 0..CONNECTIONS {
            workers.spawn(work(to, request.clone(), stop.clone()));
        }
        Self { workers, stop }
    }

    /// Stops it and returns what it has seen; requests under way are finished first.
    pub async fn stop(mut self) -> Report {
        self.stop.store(true, Ordering::Relaxed);
        let mut total = Report::default();
        while let Some(part) = self.workers.join_next().await {
            let part = part.expect("a worker of the load");
            total.requests += part.requests;
            total.failures.extend(part.failures);
            for (backend, count) in part.backends {
                *total.backends.entry(backend).or_default() += count;
            }
            for (instance, count) in part.instances {
                *total.instances.entry(instance).or_default() += count;
            }
        }
        total.failures.sort();
        total
    }
}

impl Report {
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

async fn work(to: SocketAddr, request: Request, stop: Arc<AtomicBool>) -> Report {
    let start = Instant::now();
    let mut report = Report::default();
    let mut connection: Option<SendRequest<Full<Bytes>>> = None;
    while !stop.load(Ordering::Relaxed) && start.elapsed() < LONGEST {
        report.requests += 1;
        let outcome = tokio::time::timeout(SLOWEST, exchange(to, &request, &mut connection)).await;
        match outcome.unwrap_or_else(|_| Err(anyhow::anyhow!("no answer within {SLOWEST:?}"))) {
            Ok((backend, instance)) => {
                *report.backends.entry(backend).or_default() += 1;
                *report.instances.entry(instance).or_default() += 1;
            }
            Err(error) => {
                connection = None;
                report.failures.push((start.elapsed(), format!("{error:#}")));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    report
}

async fn exchange(
    to: SocketAddr,
    request: &Request,
    kept: &mut Option<SendRequest<Full<Bytes>>>,
) -> Result<(String, SocketAddr)> {
    // A connection that the server closed while it was idle is no failure: any client opens another one.
    let reused = match kept.take() {
        Some(mut sender) => sender.ready().await.is_ok().then_some(sender),
        None => None,
    };
    let mut sender = match reused {
        Some(sender) => sender,
        None => {
            let stream = TcpStream::connect(to).await.context("connect")?;
            let (mut sender, connection) = handshake(TokioIo::new(stream)).await.context("begin HTTP/1.1")?;
            tokio::spawn(connection);
            sender.ready().await.context("begin HTTP/1.1")?;
            sender
        }
    };
    let response = sender.send_request(request.build()).await.context("send")?;
    let answer = Answer::read(response).await?;
    ensure!(answer.status == 200, "status {}: {}", answer.status, answer.body);
    let echo = answer.echo()?;
    *kept = Some(sender);
    Ok((format!("{}@{}", echo.service, echo.version), echo.address))
}

#[cfg(test)]
mod tests {
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
}
