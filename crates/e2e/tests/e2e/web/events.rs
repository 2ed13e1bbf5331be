//! A client of server-sent events.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use mayfly_e2e::http::Request;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Generous, since several tests share two cores.
const LIMIT: Duration = Duration::from_secs(20);

pub struct Events {
    body: Incoming,
    read: String,
    // The connection ends with it.
    _sender: SendRequest<Full<Bytes>>,
}

impl Events {
    pub async fn open(address: SocketAddr, path: &str) -> Self {
        Self::try_open(address, path).await.unwrap()
    }

    pub async fn try_open(address: SocketAddr, path: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.context("connect")?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(&address.to_string(), path).build();
        let answer = timeout(LIMIT, sender.send_request(request)).await??;
        ensure!(answer.status() == 200, "{path}: {}", answer.status());
        ensure!(answer.headers()["content-type"] == "text/event-stream");
        Ok(Self {
            body: answer.into_body(),
            read: String::new(),
            _sender: sender,
        })
    }

    /// The next event: its name and its data.
    pub async fn next(&mut self) -> (String, Value) {
        timeout(LIMIT, self.read_event())
            .await
            .expect("an event within the limit")
    }

    /// The data of the next event of which this is true.
    pub async fn next_with(&mut self, is_it: impl Fn(&Value) -> bool) -> Value {
        let find = async {
            loop {
                let (_, data) = self.read_event().await;
                if is_it(&data) {
                    return data;
                }
            }
        };
        timeout(LIMIT, find).await.expect("the event within the limit")
    }

    async fn read_event(&mut self) -> (String, Value) {
        loop {
            if let Some((event, rest)) = self.read.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.read = rest;
                let line = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
                let Some(data) = line("data: ") else { continue };
                assert!(
                    line("id: ").is_some_and(|id| id.parse::<i64>().is_ok()),
                    "{event}"
                );
                return (
                    line("event: ").unwrap().to_owned(),
                    serde_json::from_str(data).unwrap(),
                );
            }
            let frame = self.body.frame().await.expect("the stream goes on").unwrap();
            self.read
                .push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
        }
    }

    /// Whether the stream ends.
    pub async fn ends(&mut self) -> bool {
        let end = async { while let Some(Ok(_)) = self.body.frame().await {} };
        timeout(LIMIT, end).await.is_ok()
    }
}
