//! The connections: few enough at once, each with limits of its own, so that clients that are slow
//! or gone cost nothing for long.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mayfly_daemon::shutdown::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::answers::Api;
use crate::tls::TlsFiles;

/// Connections at a time.
const CONNECTIONS: usize = 1024;
/// How long a new connection may be silent: it takes a place that others wait for.
const SILENT: Duration = Duration::from_secs(5);
/// How long a head may take to come, and how long a connection may be idle.
const HEAD_TIME: Duration = Duration::from_secs(20);
/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a client may take nothing of what is there for it.
const STUCK: Duration = Duration::from_secs(30);
/// The largest head, and the most that is held for a connection that is written to.
const BUFFER: usize = 16 * 1024;
/// How long to wait after a connection could not be accepted, as without a free descriptor.
const PAUSE: Duration = Duration::from_millis(200);
/// How long answers may hold up the shutdown.
const LAST: Duration = Duration::from_secs(3);

/// Answers requests until the shutdown begins.
pub async fn serve(listener: TcpListener, tls: Option<Arc<TlsFiles>>, api: Arc<Api>, shutdown: Shutdown) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let tracker = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.begun() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!("cannot accept a connection: {error}");
                sleep(PAUSE).await;
                continue;
            }
        };
        let (tls, api, shutdown) = (tls.clone(), api.clone(), shutdown.clone());
        tracker.spawn(async move {
            let _permit = permit;
            if let Err(error) = connection(stream, tls.as_deref(), api, &shutdown).await {
                debug!("a connection failed: {error:#}");
            }
        });
    }
    tracker.close();
    let _ = timeout(LAST, tracker.wait()).await;
}

/// The next connection once there is room. Whoever comes beyond the limit waits in the queue of the
/// system.
async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    // Nobody closes it.
    let permit = room.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(
    stream: TcpStream,
    tls: Option<&TlsFiles>,
    api: Arc<Api>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    if !speaks(&stream, shutdown).await? {
        return Ok(());
    }
    let stream = Patient::new(stream, STUCK);
    match tls {
        Some(tls) => {
            let stream = timeout(HANDSHAKE, tls.acceptor().accept(stream)).await??;
            exchange(stream, api, shutdown).await
        }
        None => exchange(stream, api, shutdown).await,
    }
}

/// Waits until the client has sent something; says `false` if the shutdown begins before that.
///
/// # Errors
/// When it is silent for too long.
async fn speaks(stream: &TcpStream, shutdown: &Shutdown) -> io::Result<bool> {
    let mut first = [0];
    tokio::select! {
        () = shutdown.begun() => Ok(false),
        heard = timeout(SILENT, stream.peek(&mut first)) => heard?.map(|_| true),
    }
}

async fn exchange<S>(stream: S, api: Arc<Api>, shutdown: &Shutdown) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let api = api.clone();
        async move { Ok::<Response<Body>, std::convert::Infallible>(api.answer(&request).await) }
    });
    let mut connection = pin!(
        Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = shutdown.begun() => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

/// A connection whose other side has to take what is written within a limit.
struct Patient {
    stream: TcpStream,
    limit: Duration,
    stuck: Option<Pin<Box<Sleep>>>,
}

impl Patient {
    fn new(stream: TcpStream, limit: Duration) -> Self {
        Self {
            stream,
            limit,
            stuck: None,
        }
    }

    fn watch<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stuck = None;
            return written;
        }
        let limit = self.limit;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(sleep(limit)));
        ready!(stuck.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let ended = Pin::new(&mut self.stream).poll_shutdown(context);
        self.watch(ended, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt as _;

    #[tokio::test]
    async fn a_silent_connection_makes_way() {
        let listener = TcpListener::bind(mayfly_e2e::port::free()).await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let shutdown = Shutdown::new();
        tokio::time::pause();
        let error = speaks(&accepted, &shutdown).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        tokio::time::resume();
        let ending = Shutdown::new();
        ending.begin();
        assert!(
            !speaks(&accepted, &ending).await.unwrap(),
            "it holds up no shutdown"
        );
        client.write_all(b"G").await.unwrap();
        assert!(speaks(&accepted, &shutdown).await.unwrap());
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_is_given_up() {
        let listener = TcpListener::bind(mayfly_e2e::port::free()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let (accepted, _) = listener.accept().await.unwrap();
        let mut patient = Patient::new(accepted, Duration::from_millis(100));
        let flood = vec![b'x'; 64 * 1024];
        let error = loop {
            if let Err(error) = patient.write_all(&flood).await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
