//! A plain HTTP client that connects where it is told and sends the Host it is told: what a test of a router
//! needs. One request per connection here; [`crate::load`] keeps connections alive.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::header::{HOST, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::tls::TlsClient;

/// Limit for a whole request; far above what any answer of the tests takes.
const LIMIT: Duration = Duration::from_secs(10);

/// A request in the making.
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    host: String,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Request {
    /// GET `path` with this Host header.
    pub fn get(host: &str, path: &str) -> Self {
        Self::new(Method::GET, host, path)
    }

    /// POST `body` to `path` with this Host header.
    pub fn post(host: &str, path: &str, body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..Self::new(Method::POST, host, path)
        }
    }

    fn new(method: Method, host: &str, path: &str) -> Self {
        Self {
            method,
            host: host.into(),
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    /// Adds a header; a name given twice is sent twice.
    ///
    /// # Panics
    /// When name or value cannot stand in HTTP.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().expect("a header's name");
        self.headers
            .append(name, HeaderValue::from_str(value).expect("a header's value"));
        self
    }

    /// The request as hyper sends it by HTTP/1.1.
    pub fn build(&self) -> hyper::Request<Full<Bytes>> {
        let mut request = hyper::Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.path.parse().expect("a path");
        *request.headers_mut() = self.headers.clone();
        if !self.host.is_empty() {
            request
                .headers_mut()
                .insert(HOST, HeaderValue::from_str(&self.host).expect("a host"));
        }
        request
    }

    /// Sends it to `to` by HTTP/1.1 on a connection of its own.
    ///
    /// # Errors
    /// When no complete answer has come within 10 s.
    pub async fn send(&self, to: SocketAddr) -> Result<Answer> {
        self.send_within(LIMIT, to).await
    }

    /// As [`Request::send`], with a limit of its own.
    ///
    /// # Errors
    /// When no complete answer has come within it.
    pub async fn send_within(&self, limit: Duration, to: SocketAddr) -> Result<Answer> {
        self.connect_and_send(limit, TcpStream::connect(to), to).await
    }

    /// As [`Request::send`], from an address of this host: a router knows callers by theirs.
    ///
    /// # Errors
    /// As [`Request::send`], and when the address is not of this host.
    pub async fn send_from(&self, from: IpAddr, to: SocketAddr) -> Result<Answer> {
        let connect = async {
            let socket = match from {
                IpAddr::V4(_) => TcpSocket::new_v4()?,
                IpAddr::V6(_) => TcpSocket::new_v6()?,
            };
            socket.bind(SocketAddr::new(from, 0))?;
            socket.connect(to).await
        };
        self.connect_and_send(LIMIT, connect, to).await
    }

    async fn connect_and_send(
        &self,
        limit: Duration,
        connect: impl Future<Output = std::io::Result<TcpStream>>,
        to: SocketAddr,
    ) -> Result<Answer> {
        let exchange = async { self.by_http1(connect.await.context("connect")?).await };
        tokio::time::timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| anyhow::bail!("no answer within {limit:?}"))
            .with_context(|| format!("{} http://{}{} at {to}", self.method, self.host, self.path))
    }

    /// Sends it to `to` by TLS, with the protocol `h2` or `http/1.1`.
    ///
    /// # Errors
    /// When no complete answer has come within 10 s.
    pub async fn send_tls(&self, to: SocketAddr, client: &TlsClient, protocol: &str) -> Result<Answer> {
        let exchange = async {
            let stream = client.connect(to, &self.host, protocol).await?;
            match protocol {
                "h2" => self.by_http2(stream, "https").await,
                _ => self.by_http1(stream).await,
            }
        };
        tokio::time::timeout(LIMIT, exchange)
            .await
            .unwrap_or_else(|_| anyhow::bail!("no answer within {LIMIT:?}"))
            .with_context(|| {
                format!(
                    "{} https://{}{} at {to} by {protocol}",
                    self.method, self.host, self.path
                )
            })
    }

    /// Sends it by HTTP/1.1 over a connection that is open already.
    ///
    /// # Errors
    /// When no complete answer has come within 10 s.
    pub async fn send_on<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
    ) -> Result<Answer> {
        tokio::time::timeout(LIMIT, self.by_http1(stream))
            .await
            .unwrap_or_else(|_| anyhow::bail!("no answer within {LIMIT:?}"))
            .with_context(|| format!("{} http://{}{}", self.method, self.host, self.path))
    }

    async fn by_http1<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
    ) -> Result<Answer> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .context("begin HTTP/1.1")?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(self.build()).await.context("send")?;
        let answer = Answer::read(response).await;
        drop(sender);
        connection.abort();
        answer
    }

    async fn by_http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        stream: S,
        scheme: &str,
    ) -> Result<Answer> {
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                .await
                .context("begin HTTP/2")?;
        let connection = tokio::spawn(connection);
        let mut request = self.build();
        request.headers_mut().remove(HOST);
        *request.uri_mut() = format!("{scheme}://{}{}", self.host, self.path)
            .parse()
            .context("the address")?;
        let response = sender.send_request(request).await.context("send")?;
        let answer = Answer::read(response).await;
        drop(sender);
        connection.abort();
        answer
    }

    /// Sends it to `to` by HTTP/2 in clear text with prior knowledge, as gRPC does.
    ///
    /// # Errors
    /// When no complete answer has come within 10 s.
    pub async fn send_h2c(&self, to: SocketAddr) -> Result<Answer> {
        let exchange = async {
            let stream = TcpStream::connect(to).await.context("connect")?;
            self.by_http2(stream, "http").await
        };
        tokio::time::timeout(LIMIT, exchange)
            .await
            .unwrap_or_else(|_| anyhow::bail!("no answer within {LIMIT:?}"))
            .with_context(|| format!("{} http://{}{} by h2c at {to}", self.method, self.host, self.path))
    }
}

/// Opens a WebSocket at `to`, sends `message` in a frame and returns what comes back first.
///
/// # Errors
/// When the upgrade is refused, or no frame comes back within 10 s.
pub async fn websocket(to: SocketAddr, host: &str, path: &str, message: &str) -> Result<String> {
    let exchange = async {
        let stream = TcpStream::connect(to).await.context("connect")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .context("begin HTTP/1.1")?;
        let connection = tokio::spawn(connection.with_upgrades());
        let request = Request::get(host, path)
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", WEBSOCKET_KEY);
        let response = sender.send_request(request.build()).await.context("send")?;
        let status = response.status();
        ensure!(
            status == StatusCode::SWITCHING_PROTOCOLS,
            "the upgrade is refused: {status}"
        );
        let accept = response
            .headers()
            .get("sec-websocket-accept")
            .context("a key in the answer")?;
        ensure!(accept == WEBSOCKET_ACCEPT, "wrong key in the answer: {accept:?}");
        let mut stream = TokioIo::new(hyper::upgrade::on(response).await.context("upgrade")?);
        // A whole text message, not masked: the instance echoes bytes, and the router must not look at them.
        let mut frame = vec![0x81, u8::try_from(message.len()).context("a short message")?];
        frame.extend(message.as_bytes());
        stream.write_all(&frame).await.context("write a frame")?;
        let mut echo = vec![0; frame.len()];
        stream.read_exact(&mut echo).await.context("read a frame")?;
        connection.abort();
        String::from_utf8(echo.split_off(2)).context("read the message")
    };
    tokio::time::timeout(LIMIT, exchange)
        .await
        .unwrap_or_else(|_| anyhow::bail!("no answer within {LIMIT:?}"))
        .with_context(|| format!("WebSocket ws://{host}{path} at {to}"))
}

/// A complete answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Headers; several of one name are joined by `, `.
    pub headers: BTreeMap<String, String>,
    /// Trailers (gRPC's status stands there).
    pub trailers: BTreeMap<String, String>,
    /// The body; bytes that are not UTF-8 are replaced.
    pub body: String,
}

impl Answer {
    /// Reads an answer to its end.
    ///
    /// # Errors
    /// When the body breaks off.
    pub async fn read(response: hyper::Response<hyper::body::Incoming>) -> Result<Self> {
        let status = response.status().as_u16();
        let headers = flat(response.headers());
        let body = response.into_body().collect().await.context("read the body")?;
        let trailers = body.trailers().map(flat).unwrap_or_default();
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        Ok(Self {
            status,
            headers,
            trailers,
            body,
        })
    }

    /// What the instance that answered saw.
    ///
    /// # Errors
    /// When the answer is not that of an [`crate::instance`], with the answer.
    pub fn echo(&self) -> Result<Echo> {
        serde_json::from_str(&self.body).with_context(|| format!("not an instance's answer: {self:?}"))
    }

    /// `service@version` of the instance that answered.
    ///
    /// # Errors
    /// As [`Answer::echo`].
    pub fn backend(&self) -> Result<String> {
        self.echo()
            .map(|echo| format!("{}@{}", echo.service, echo.version))
    }
}

/// What an instance answers: who it is and what reached it.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Echo {
    pub service: String,
    /// The version it was started as.
    pub version: String,
    /// The address it listens on: tells instances of one version apart.
    pub address: SocketAddr,
    pub method: String,
    /// Path and query.
    pub path: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// Every header received, by lower-case name, each with all its values.
    pub headers: BTreeMap<String, Vec<String>>,
    /// Length of the body received.
    pub body_length: usize,
    /// The answer of the service that was called on the way (`call=`).
    pub called: Option<Box<Echo>>,
    /// Why that call brought no such answer.
    pub call_failed: Option<String>,
}

impl Echo {
    /// The values of a header, joined by `, `; empty when it did not come.
    pub fn header(&self, name: &str) -> String {
        self.headers
            .get(name)
            .map(|values| values.join(", "))
            .unwrap_or_default()
    }
}

/// The key and answer of the handshake that RFC 6455 shows; the test client uses this one key only.
pub(crate) const WEBSOCKET_KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// What answers it.
pub(crate) const WEBSOCKET_ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

fn flat(headers: &HeaderMap) -> BTreeMap<String, String> {
    let mut flat: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        flat.entry(name.to_string())
            .and_modify(|all| {
                all.push_str(", ");
                all.push_str(&value);
            })
            .or_insert_with(|| value.into_owned());
    }
    flat
}
