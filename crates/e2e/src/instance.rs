//! A small real HTTP service that says who it is and what it received: HTTP/1.1 and h2c on one port, slow
//! answers, WebSocket upgrades, gRPC trailers, and calls to other services by name through dnsmasq. It runs in
//! the test ([`Service`]) or as a process of its own that can be killed ([`ServiceProcess`]).
//!
//! Query parameters steer an answer: `delay=MS` waits first, `status=CODE` sets the code,
//! `call=SERVICE` calls `http://SERVICE.service/`, forwards `x-mayfly` and `baggage`, and shows the
//! answer under `called`, and with `call=A,B` A calls B in turn; the service in `drop=SERVICE`
//! forwards nothing; `unwell=1` lets `/health` answer 503 from then on, until `unwell=0`;
//! `host=NAME` is what serves that one Host and no other, so that any other is answered by 400.

mod alone;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::{HeaderMap, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::http::{Echo, Request, WEBSOCKET_ACCEPT};
use crate::network::Host;
use crate::process::{Process, Signal};
use crate::{dnsmasq, port};

pub use alone::main;

/// Where an instance finds the other services.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing {
    /// The DNS server that resolves `<service>.service`.
    pub dns: SocketAddr,
    /// The port of HAProxy's internal side (80 in earnest).
    pub port: u16,
}

/// Who an instance says it is, and what it counts.
#[derive(Debug)]
struct Identity {
    service: String,
    version: String,
    address: SocketAddr,
    outgoing: Option<Outgoing>,
    requests: AtomicU64,
    unwell: AtomicBool,
    connections: AtomicU64,
}

/// An instance inside the test process. Dropped, it closes its listener and all connections.
#[derive(Debug)]
pub struct Service {
    identity: Arc<Identity>,
    ending: watch::Sender<bool>,
    serving: JoinSet<()>,
}

impl Service {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub async fn start(service: &str, version: &str) -> Result<Self> {
        Self::start_at(port::free(), service, version, None).await
    }

    /// Starts one at `address`, with a way to other services if `outgoing` is given.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start_at(
        address: SocketAddr,
        service: &str,
        version: &str,
        outgoing: Option<Outgoing>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        let identity = Arc::new(Identity {
            service: service.into(),
            version: version.into(),
            address,
            outgoing,
            requests: AtomicU64::new(0),
            unwell: AtomicBool::new(false),
            connections: AtomicU64::new(0),
        });
        let mut serving = JoinSet::new();
        let (ending, end) = watch::channel(false);
        serving.spawn(accept(listener, identity.clone(), end));
        Ok(Self {
            identity,
            ending,
            serving,
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.identity.address
    }

    /// Ends it in good order: takes no more connections, finishes the requests that have begun, and closes the rest.
    pub async fn end(mut self) {
        self.ending.send_replace(true);
        while self.serving.join_next().await.is_some() {}
    }

    /// Requests that reached it so far.
    pub fn requests(&self) -> u64 {
        self.identity.requests.load(Ordering::Relaxed)
    }

    /// Connections that were opened to it so far, those of health checks too.
    pub fn connections(&self) -> u64 {
        self.identity.connections.load(Ordering::Relaxed)
    }
}

/// An instance as a process of its own.
#[derive(Debug)]
pub struct ServiceProcess {
    process: Process,
    address: SocketAddr,
}

impl ServiceProcess {
    /// Starts one on a free port and waits until it listens; its log goes into `directory`.
    ///
    /// # Errors
    /// When the binary `e2e-instance` is missing or does not listen within 10 s.
    pub async fn start(service: &str, version: &str, directory: &Path) -> Result<Self> {
        Self::start_at(port::free(), service, version, directory).await
    }

    /// The same at `address`: one that was killed comes back.
    ///
    /// # Errors
    /// As [`ServiceProcess::start`].
    pub async fn start_at(
        address: SocketAddr,
        service: &str,
        version: &str,
        directory: &Path,
    ) -> Result<Self> {
        Self::run(address, None, service, version, directory).await
    }

    /// Starts one on another host.
    ///
    /// # Errors
    /// As [`ServiceProcess::start`].
    pub async fn start_on(host: &Host, service: &str, version: &str, directory: &Path) -> Result<Self> {
        // The host is the test's own, so every port is free there.
        let address = SocketAddr::new(host.address().into(), port::free().port());
        Self::run(address, Some(host), service, version, directory).await
    }

    async fn run(
        address: SocketAddr,
        host: Option<&Host>,
        service: &str,
        version: &str,
        directory: &Path,
    ) -> Result<Self> {
        let mut command = Command::new(crate::process::binary("e2e-instance")?);
        command.arg(address.to_string()).args([service, version]);
        if let Some(host) = host {
            command = host.wrap(&command);
        }
        let name = format!("instance-{service}-{version}-{}", address.port());
        let mut process = Process::spawn(&name, &command, &directory.join(format!("{name}.log")))?;
        for _ in 0..1000 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return Ok(Self { process, address });
            }
            if !process.is_running() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("{name} does not listen: {}", process.output());
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Kills it as a crash would.
    ///
    /// # Errors
    /// When it has ended before.
    pub async fn kill9(&mut self) -> Result<()> {
        self.process.kill9().await
    }

    /// Sends it a signal (STOP freezes it).
    ///
    /// # Errors
    /// When it has ended before.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }
}

/// Serves connections until `ending` says to end; then those that are open finish what they have begun.
async fn accept(listener: TcpListener, identity: Arc<Identity>, mut ending: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = ending.wait_for(|ending| *ending) => break,
        };
        let Ok((stream, _)) = accepted else { continue };
        let _ = stream.set_nodelay(true);
        identity.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(serve(stream, identity.clone(), ending.clone()));
        while connections.try_join_next().is_some() {}
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve(stream: TcpStream, identity: Arc<Identity>, mut ending: watch::Receiver<bool>) {
    // In a container it listens at every address; this is the one that it was reached at.
    let address = stream.local_addr().unwrap_or(identity.address);
    let service = hyper::service::service_fn(move |request| answer(identity.clone(), address, request));
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::pin!(connection);
    // A client that goes away is no concern of the instance's.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = ending.wait_for(|ending| *ending) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = connection.await;
}

type Body = http_body_util::combinators::BoxBody<Bytes, Infallible>;

async fn answer(
    identity: Arc<Identity>,
    address: SocketAddr,
    request: hyper::Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    identity.requests.fetch_add(1, Ordering::Relaxed);
    let query: BTreeMap<String, String> = request
        .uri()
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    if request
        .headers()
        .get(UPGRADE)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"))
        // As RFC 6455, section 4.2.1, asks of a server: a router that drops it breaks most of them.
        && request
            .headers()
            .get(CONNECTION)
            .is_some_and(|v| v.to_str().is_ok_and(|v| v.to_ascii_lowercase().contains("upgrade")))
    {
        return Ok(websocket(request));
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await?.to_bytes();
    if let Some(delay) = query.get("delay").and_then(|d| d.parse().ok()) {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let mut echo = Echo {
        service: identity.service.clone(),
        version: identity.version.clone(),
        address,
        method: parts.method.to_string(),
        path: parts
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        protocol: format!("{:?}", parts.version),
        headers: values(&parts.headers),
        body_length: body.len(),
        called: None,
        call_failed: None,
    };
    if let Some(services) = query.get("call") {
        let dropper = query.get("drop").map_or("", String::as_str);
        match call(&identity, services, dropper, &parts.headers).await {
            Ok(called) => echo.called = Some(Box::new(called)),
            Err(error) => echo.call_failed = Some(format!("{error:#}")),
        }
    }
    if let Some(unwell) = query.get("unwell") {
        identity.unwell.store(unwell == "1", Ordering::Relaxed);
    }
    if parts.uri.path() == "/health" && identity.unwell.load(Ordering::Relaxed) {
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE));
    }
    let authority = parts.uri.authority().map(ToString::to_string);
    let asked = authority.unwrap_or_else(|| echo.header("host"));
    if query.get("host").is_some_and(|host| *host != asked) {
        return Ok(plain(StatusCode::BAD_REQUEST));
    }
    let status = query
        .get("status")
        .and_then(|s| s.parse().ok())
        .and_then(|s| StatusCode::from_u16(s).ok());
    let json = serde_json::to_vec(&echo).unwrap_or_default();
    let mut response = Response::new(Full::new(Bytes::from(json)).boxed());
    *response.status_mut() = status.unwrap_or(StatusCode::OK);
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    if parts
        .headers
        .get("content-type")
        .is_some_and(|t| t.as_bytes().starts_with(b"application/grpc"))
    {
        return Ok(with_grpc_status(response));
    }
    Ok(response)
}

fn plain(status: StatusCode) -> Response<Body> {
    let empty: Full<Bytes> = Full::default();
    let mut response = Response::new(empty.boxed());
    *response.status_mut() = status;
    response
}

fn values(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        all.entry(name.to_string())
            .or_default()
            .push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    all
}

/// Ends the answer as gRPC does: with trailers.
fn with_grpc_status(response: Response<Body>) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let mut response = response.map(|body| body.with_trailers(async { Some(Ok(trailers)) }).boxed());
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    response
        .headers_mut()
        .insert("trailer", HeaderValue::from_static("grpc-status"));
    response
}

/// Calls `http://<service>.service/` as every service must: by name, with the environment's headers forwarded.
/// The first of `services` calls the next one, and so on; `dropper` is the service that forwards nothing.
async fn call(identity: &Identity, services: &str, dropper: &str, headers: &HeaderMap) -> Result<Echo> {
    let outgoing = identity
        .outgoing
        .context("this instance knows no way to other services")?;
    let (service, path) = match services.split_once(',') {
        Some((service, rest)) => (service, format!("/?call={rest}&drop={dropper}")),
        None => (services, "/".to_owned()),
    };
    let host = format!("{service}.service");
    let found = dnsmasq::lookup(outgoing.dns, &host).await?;
    let ip = *found.first().with_context(|| format!("{host} has no address"))?;
    let mut request = Request::get(&host, &path);
    let forwarded: &[&str] = match dropper == identity.service {
        true => &[],
        false => &["x-mayfly", "baggage"],
    };
    for name in forwarded {
        for value in headers.get_all(*name) {
            request = request.header(name, value.to_str().context("read a header")?);
        }
    }
    // In a container it listens at every address, and calls from the only one.
    let from = identity.address.ip();
    request
        .send_from(from, SocketAddr::new(ip, outgoing.port))
        .await?
        .echo()
}

/// Accepts the upgrade and echoes every byte after it: to a router, frames are only bytes.
fn websocket(request: hyper::Request<Incoming>) -> Response<Body> {
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else {
            return;
        };
        let mut stream = TokioIo::new(upgraded);
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            if stream.write_all(&buffer[..length]).await.is_err() || stream.flush().await.is_err() {
                return;
            }
        }
    });
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS);
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response
        .headers_mut()
        .insert(UPGRADE, HeaderValue::from_static("websocket"));
    response
        .headers_mut()
        .insert("sec-websocket-accept", HeaderValue::from_static(WEBSOCKET_ACCEPT));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_says_who_it_is_and_what_it_received() {
        let service = Service::start("backend", "0.0.2").await.unwrap();
        let request = Request::post("backend.service", "/a?status=418", "12345").header("x-mayfly", "qa");
        for answer in [
            request.send(service.address()).await.unwrap(),
            request.send_h2c(service.address()).await.unwrap(),
        ] {
            let echo = answer.echo().unwrap();
            assert_eq!((answer.status, echo.body_length), (418, 5));
            assert_eq!(
                (answer.backend().unwrap().as_str(), echo.path.as_str()),
                ("backend@0.0.2", "/a?status=418")
            );
            assert_eq!(echo.header("x-mayfly"), "qa");
        }
        assert_eq!(service.requests(), 2);
    }

    #[tokio::test]
    async fn grpc_ends_with_trailers() {
        let service = Service::start("backend", "1").await.unwrap();
        let request = Request::post("backend.service", "/pkg.S/M", "x")
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let answer = request.send_h2c(service.address()).await.unwrap();
        assert_eq!(answer.trailers.get("grpc-status").map(String::as_str), Some("0"));
    }

    #[tokio::test]
    async fn a_websocket_echoes() {
        let service = Service::start("backend", "1").await.unwrap();
        let echo = crate::http::websocket(service.address(), "backend.service", "/ws", "hello")
            .await
            .unwrap();
        assert_eq!(echo, "hello");
    }

    #[tokio::test]
    async fn in_good_order_it_finishes_what_has_begun() {
        let service = Service::start("backend", "1").await.unwrap();
        let address = service.address();
        let slow = Request::get("backend.service", "/?delay=300");
        let answer = tokio::spawn(async move { slow.send(address).await });
        crate::eventually(Duration::from_secs(5), "it has the request", async || {
            service.requests() == 1
        })
        .await;
        service.end().await;
        assert_eq!(answer.await.unwrap().unwrap().status, 200);
        assert!(tokio::net::TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn it_can_be_unwell() {
        let service = Service::start("backend", "1").await.unwrap();
        for (path, status) in [
            ("/?unwell=1", 200),
            ("/health", 503),
            ("/", 200),
            ("/?unwell=0", 200),
            ("/health", 200),
        ] {
            let answer = Request::get("backend.service", path)
                .send(service.address())
                .await;
            assert_eq!(answer.unwrap().status, status, "{path}");
        }
    }

    #[tokio::test]
    async fn a_dropped_instance_is_gone() {
        let service = Service::start("backend", "1").await.unwrap();
        let address = service.address();
        drop(service);
        crate::eventually(Duration::from_secs(5), "the port is closed", async || {
            tokio::net::TcpStream::connect(address).await.is_err()
        })
        .await;
    }
}
