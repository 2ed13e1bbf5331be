//! `del server` under load, on HAProxy alone: servers that answer nothing come and go, and every
//! request is tried again elsewhere. HAProxy 2.6.12 ends when a server is deleted right after it
//! was disabled. `scripts/del-server.sh` runs it.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::haproxy::ask;
use crate::process::Process;
use crate::{eventually, port};

/// Servers that come and go together.
const SERVERS: usize = 4;
/// How long they stay, at most: a new number each round.
const STAY: Duration = Duration::from_millis(10);
/// How often `del server` is tried while HAProxy says that the server is in use, and the pause.
const TRIES: (usize, Duration) = (400, Duration::from_millis(2));
/// An answer that takes longer has failed. The retries take a second each at most.
const SLOWEST: Duration = Duration::from_secs(10);

/// What the servers that come and go do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Nothing listens at their address, so the connection fails.
    Refuse,
    /// They accept each connection, read a request and close: HAProxy repeats the whole request.
    Close,
    /// Two of them do the one, two the other.
    Both,
}

/// How the servers come and go.
#[derive(Debug, Clone)]
pub struct DelServer {
    /// The HAProxy: a path, or a name in PATH.
    pub program: PathBuf,
    pub lasts: Duration,
    /// How long a disabled server waits for `del server`.
    pub delay: Duration,
    pub manner: Manner,
    /// Whether a failed try is repeated at the same server, after a second: the request points to it
    /// all that time. Mayfly's configuration tries another one at once.
    pub same: bool,
    /// Clients, each of which sends one request after the other.
    pub clients: usize,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Survival {
    /// Rounds of four servers each.
    pub rounds: u64,
    pub requests: u64,
    /// Requests without a complete answer of status 200: all seven tries may meet a bad server.
    pub failed: u64,
    /// Servers that HAProxy did not delete.
    pub kept: u64,
    /// When and how HAProxy ended by itself, if it did.
    pub ended: Option<(Duration, String)>,
}

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    failed: AtomicU64,
}

impl DelServer {
    /// Runs it to its end, or to that of HAProxy.
    ///
    /// # Errors
    /// When HAProxy does not start, or refuses a command.
    pub async fn run(&self) -> Result<Survival> {
        let directory = tempfile::Builder::new()
            .prefix("mayfly-")
            .tempdir()
            .context("make a directory")?;
        let (socket, config) = (directory.path().join("sock"), directory.path().join("cfg"));
        let (entry, good) = (port::free(), port::free());
        std::fs::write(&config, configuration(&socket, entry, good, self.same))
            .context("write the configuration")?;
        let mut command = Command::new(&self.program);
        command.arg("-db").arg("-f").arg(&config);
        let mut haproxy = Process::spawn("haproxy", &command, &directory.path().join("log"))?;
        eventually(Duration::from_secs(10), "HAProxy answers", async || {
            ensure!(haproxy.is_running(), "it does not start: {}", haproxy.output());
            ask(&socket, "show info").await
        })
        .await;

        let (begun, counts, mut tasks) = (Instant::now(), Arc::<Counts>::default(), JoinSet::new());
        let closing = TcpListener::bind((port::own_ip(), 0)).await.context("listen")?;
        let addresses = self.addresses(closing.local_addr().context("the address")?);
        tasks.spawn(close_each(closing));
        for _ in 0..self.clients {
            tasks.spawn(ask_again_and_again(entry, counts.clone()));
        }
        let mut survival = Survival::default();
        let result = self
            .rounds(&socket, &addresses, begun, &mut survival, &mut haproxy)
            .await;
        survival.requests = counts.requests.load(Ordering::Relaxed);
        survival.failed = counts.failed.load(Ordering::Relaxed);
        // The end of a process may be seen a moment after that of its socket.
        let end = haproxy.wait(Duration::from_secs(2)).await;
        match (end, result) {
            // The clients' requests failed with it, each of them once or more.
            (Ok(status), _) => survival.ended = Some((begun.elapsed(), status.to_string())),
            (Err(_), result) => result?,
        }
        Ok(survival)
    }

    async fn rounds(
        &self,
        socket: &Path,
        addresses: &[SocketAddr; SERVERS],
        begun: Instant,
        survival: &mut Survival,
        haproxy: &mut Process,
    ) -> Result<()> {
        let (mut disabled, mut pace) = (VecDeque::new(), 1_u64);
        while begun.elapsed() < self.lasts && haproxy.is_running() {
            let round = survival.rounds;
            let names: [String; SERVERS] = std::array::from_fn(|number| format!("b/x{round}_{number}"));
            for (name, address) in names.iter().zip(addresses) {
                ask(socket, &format!("add server {name} {address}")).await?;
                ask(socket, &format!("enable server {name}")).await?;
            }
            pace = pace.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            tokio::time::sleep(STAY * (pace >> 40) as u32 / (1 << 24)).await;
            for name in names {
                ask(socket, &format!("disable server {name}")).await?;
                disabled.push_back((Instant::now(), name));
            }
            while disabled
                .front()
                .is_some_and(|(since, _)| since.elapsed() >= self.delay)
            {
                let (_, name) = disabled.pop_front().context("a server")?;
                survival.kept += u64::from(!delete(socket, &name).await?);
            }
            survival.rounds += 1;
        }
        Ok(())
    }

    fn addresses(&self, closing: SocketAddr) -> [SocketAddr; SERVERS] {
        let refusing = port::free();
        std::array::from_fn(|number| match self.manner {
            Manner::Close => closing,
            Manner::Both if number % 2 == 0 => closing,
            Manner::Both | Manner::Refuse => refusing,
        })
    }
}

/// Whether HAProxy has deleted a server in the end.
async fn delete(socket: &Path, name: &str) -> Result<bool> {
    for _ in 0..TRIES.0 {
        let answer = ask(socket, &format!("del server {name}")).await?;
        if answer.to_lowercase().contains("deleted") {
            return Ok(true);
        }
        tokio::time::sleep(TRIES.1).await;
    }
    Ok(false)
}

/// As Mayfly's template tries requests again, with a server that always answers.
fn configuration(socket: &Path, entry: SocketAddr, good: SocketAddr, same: bool) -> String {
    let mut text = String::new();
    let another = if same {
        "no option redispatch"
    } else {
        "option redispatch 1"
    };
    let _ = write!(
        text,
        "global
    nbthread 2
    stats socket {} level admin
defaults
    mode http
    timeout connect 1s
    timeout client 20s
    timeout server 5s
frontend entry
    bind {entry}
    default_backend b
backend b
    balance roundrobin
    {another}
    retries 6
    retry-on conn-failure empty-response
    server good {good}
frontend good
    bind {good}
    http-request return status 200 content-type text/plain string good
",
        socket.display()
    );
    text
}

/// Reads something on each connection, and closes it.
async fn close_each(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let _ = stream.read(&mut [0; 1024]).await;
        });
    }
}

async fn ask_again_and_again(entry: SocketAddr, counts: Arc<Counts>) {
    let mut kept = None;
    loop {
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let done = tokio::time::timeout(SLOWEST, exchange(entry, &mut kept)).await;
        if !matches!(done, Ok(Ok(()))) {
            kept = None;
            counts.failed.fetch_add(1, Ordering::Relaxed);
            // HAProxy may be gone for good.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// One request by hand: the load is to cost little beside HAProxy.
async fn exchange(entry: SocketAddr, kept: &mut Option<TcpStream>) -> Result<()> {
    let mut stream = match kept.take() {
        Some(stream) => stream,
        None => TcpStream::connect(entry).await?,
    };
    stream.write_all(b"GET / HTTP/1.1\r\nhost: entry\r\n\r\n").await?;
    let (mut answer, mut length) = ([0; 1024], 0);
    while !answer[..length].ends_with(b"\r\n\r\ngood") {
        let read = stream.read(&mut answer[length..]).await?;
        ensure!(
            read > 0,
            "no complete answer: {}",
            String::from_utf8_lossy(&answer[..length])
        );
        length += read;
    }
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "another status");
    *kept = Some(stream);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn servers_come_and_go_under_load() {
        let run = DelServer {
            program: "haproxy".into(),
            lasts: Duration::from_secs(1),
            delay: Duration::from_millis(200),
            manner: Manner::Both,
            same: false,
            clients: 4,
        };
        let survival = run.run().await.unwrap();
        assert!(survival.rounds > 1 && survival.requests > 10, "{survival:?}");
        assert_eq!(survival.kept, 0, "{survival:?}");
        assert!(survival.ended.is_none(), "{survival:?}");
    }
}
