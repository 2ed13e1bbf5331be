//! The instances of all services: a small HTTP server in this process, on threads of its own, with a port for each
//! instance. Its answer is one line that lets a load generator check everything: what answered, where, and what came with the
//! request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use mayfly_e2e::port;
use tokio::runtime::{Handle, Runtime};
use tokio::task::{JoinHandle, JoinSet};

/// The server; dropped, all instances are gone.
#[derive(Debug)]
pub struct Origin {
    runtime: Option<Runtime>,
    handle: Handle,
}

/// One instance. Dropped, it closes its listener and all connections, as a container that is stopped does.
#[derive(Debug)]
pub struct Instance {
    pub address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Origin {
    /// A server without instances.
    ///
    /// # Errors
    /// When its thread cannot be started.
    pub fn start() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("origin")
            .enable_all()
            .build()
            .context("start the origin's thread")?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Starts an instance on a free port.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub fn open(&self, service: &str, version: &str) -> Result<Instance> {
        self.open_at(port::free(), service, version)
    }

    /// Starts an instance at an address that [`port::free`] gave.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub fn open_at(&self, address: SocketAddr, service: &str, version: &str) -> Result<Instance> {
        let listener = port::listen(address)?;
        listener.set_nonblocking(true).context("set up a listener")?;
        let who: Arc<str> = format!("{service}@{version} {address}").into();
        let _inside = self.handle.enter();
        let listener = tokio::net::TcpListener::from_std(listener).context("set up a listener")?;
        let serving = self.handle.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else {
                    continue;
                };
                let _ = stream.set_nodelay(true);
                let who = who.clone();
                connections.spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let answer = answer(&who, &request);
                        async move { Ok::<_, Infallible>(answer) }
                    });
                    // A client that goes away is no concern of the instance's.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Instance { address, serving })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        // A runtime may not wait for its threads inside another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// `<service>@<version> <address> <host> <x-mayfly> <x-sent>`, with `-` for a header that did not come.
fn answer(who: &str, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or("-")
    };
    let line = format!(
        "{who} {} {} {}\n",
        header("host"),
        header("x-mayfly"),
        header("x-sent")
    );
    Response::new(Full::new(Bytes::from(line)))
}
