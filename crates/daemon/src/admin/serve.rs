//! The connections of the admin endpoint. Others than the intended clients may reach it, and a
//! daemon needs its file descriptors for other things: so it takes few connections at once, for a
//! short time, with one request each.

use std::collections::VecDeque;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

/// How long to wait after a connection could not be accepted, as when the process has no descriptor
/// left.
const PAUSE: Duration = Duration::from_secs(1);

/// What connections may use up.
#[derive(Debug, Clone, Copy)]
pub(super) struct ConnectionLimits {
    /// How many there may be at once.
    pub connections: usize,
    /// How long the head of a request may take to come.
    pub head: Duration,
    /// How long a connection may last in all.
    pub whole: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            connections: 32,
            head: Duration::from_secs(5),
            whole: Duration::from_secs(10),
        }
    }
}

/// Answers requests, without end. A connection beyond the limit takes the place of the oldest one:
/// an answer takes milliseconds, so the oldest is one that says nothing.
pub(super) async fn serve(listener: TcpListener, service: Router, limits: ConnectionLimits) {
    let mut open: VecDeque<AbortOnDropHandle<()>> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                debug!("cannot accept a connection to the admin endpoint: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        open.retain(|connection| !connection.is_finished());
        if open.len() >= limits.connections {
            open.pop_front();
        }
        let answering = tokio::spawn(answer(stream, service.clone(), limits));
        open.push_back(AbortOnDropHandle::new(answering));
    }
}

async fn answer(stream: TcpStream, service: Router, limits: ConnectionLimits) {
    let connection = Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    match timeout(limits.whole, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("a connection to the admin endpoint failed: {error}"),
        Err(_) => debug!(
            "a connection to the admin endpoint took longer than {:?}",
            limits.whole
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_e2e::http::Request;
    use mayfly_e2e::poll::eventually;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    const SOON: Duration = Duration::from_secs(20);

    async fn start(limits: ConnectionLimits) -> std::net::SocketAddr {
        let listener = TcpListener::bind(mayfly_e2e::port::free()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = Router::new().route("/", axum::routing::get(|| async { "here" }));
        tokio::spawn(serve(listener, service, limits));
        address
    }

    /// Whether the other side has closed the connection.
    fn is_closed(stream: &TcpStream) -> bool {
        match stream.try_read(&mut [0; 8]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }

    #[tokio::test]
    async fn silent_connections_make_way() {
        let patient = ConnectionLimits {
            head: SOON * 10,
            whole: SOON * 10,
            ..ConnectionLimits::default()
        };
        let address = start(patient).await;
        let mut silent = Vec::new();
        for _ in 0..3 * patient.connections {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let answer = Request::get("admin", "/").send(address).await.unwrap();
        assert_eq!((answer.status, answer.body.as_str()), (200, "here"));
        eventually(SOON, "the oldest ones are closed", async || {
            silent.iter().filter(|stream| is_closed(stream)).count() > 2 * patient.connections
        })
        .await;
        let left = silent.iter().filter(|stream| !is_closed(stream)).count();
        assert!(left > 0, "those within the limit stay");
    }

    #[tokio::test]
    async fn a_head_has_its_time_and_a_connection_one_request() {
        let quick = ConnectionLimits {
            head: Duration::from_millis(200),
            ..ConnectionLimits::default()
        };
        let address = start(quick).await;
        for sent in [
            "",
            "GET / HTTP/1.1\r\nhost: x\r\n",
            "GET / HTTP/1.1\r\nhost: x\r\n\r\n",
        ] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(sent.as_bytes()).await.unwrap();
            let mut reported = String::new();
            let read = timeout(SOON, stream.read_to_string(&mut reported)).await;
            assert!(read.is_ok(), "{sent:?} keeps the connection open");
            assert_eq!(
                reported.ends_with("here"),
                sent.ends_with("\r\n\r\n"),
                "{sent:?}: {reported}"
            );
        }
        // What does not take its answer.
        let short = ConnectionLimits {
            whole: Duration::from_millis(200),
            ..ConnectionLimits::default()
        };
        let stream = TcpStream::connect(start(short).await).await.unwrap();
        eventually(SOON, "it is closed", async || is_closed(&stream)).await;
    }
}
