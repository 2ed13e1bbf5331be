//! The admin endpoint, off unless an address is given: /healthz (the process is alive), /readyz
//! (503 until it was in sync once) and /metrics (the text format of Prometheus; OpenMetrics for who
//! asks for it). It also holds the metrics that all daemons have. [`serve`] limits the connections,
//! [`text`] writes the text format.

mod serve;
mod text;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::info;

use crate::metrics::metric;
use crate::retry::Backoff;
use crate::store::Store;
use crate::systemd;
use crate::tasks::Tasks;
use crate::watch::WatchMetrics;

/// What is in the Accept header of who wants OpenMetrics.
const OPENMETRICS: &str = "application/openmetrics-text";
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// How long a listening socket that a former process still holds is waited for.
const BIND_TRIES: u32 = 5;

/// Whether the daemon has been in sync with etcd since it started, and can do its work. Cheap to
/// clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness {
    ready: Arc<AtomicBool>,
}

impl Readiness {
    /// Not ready yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first full sync is done: /readyz says so from now on, and systemd learns of it.
    pub fn set_ready(&self) {
        if !self.ready.swap(true, Ordering::Relaxed) {
            systemd::ready();
        }
    }

    /// What it needs is gone: /readyz says so until [`Readiness::set_ready`] is called again.
    pub fn set_not_ready(&self) {
        self.ready.store(false, Ordering::Relaxed);
    }

    /// Whether [`Readiness::set_ready`] has been called last.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

/// The metrics that every daemon has. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct CommonMetrics {
    /// The revision of etcd up to which every change is applied.
    pub applied_revision: Gauge,
    /// How many entries are set aside.
    pub set_aside: Gauge,
}

impl CommonMetrics {
    /// Registers the common metrics of a daemon, those of its store included. Names begin with
    /// `mayfly_`.
    pub fn register(
        registry: &mut Registry,
        daemon: &'static str,
        version: &'static str,
        store: &Store,
    ) -> Self {
        let build = Info::new(vec![("daemon", daemon), ("version", version)]);
        registry.register("mayfly_build", "The program and its version", build);
        registry.register(
            "mayfly_etcd_connected",
            "1 while etcd answers",
            store.connected_gauge(),
        );
        Self {
            applied_revision: metric(
                registry,
                "mayfly_applied_revision",
                "The revision of etcd up to which every change is applied",
            ),
            set_aside: metric(
                registry,
                "mayfly_set_aside",
                "Files and records that are set aside for a fault",
            ),
        }
    }

    /// Registers the metrics of a watch.
    pub fn register_watch(registry: &mut Registry, watch: &WatchMetrics) {
        let relists = "Repeated listings of all keys";
        registry.register("mayfly_watch_relists", relists, watch.relists.clone());
        let held = "Deletions that are withheld";
        registry.register("mayfly_watch_held", held, watch.held.clone());
        registry.register(
            "mayfly_watch_in_step",
            "1 while changes arrive from etcd",
            watch.in_sync.clone(),
        );
    }
}

/// Serves the endpoint in the background if an address is given, and gives the address it listens
/// at.
///
/// # Errors
/// When the address cannot be listened at.
pub async fn start(
    tasks: &Tasks,
    address: Option<SocketAddr>,
    readiness: &Readiness,
    registry: Registry,
) -> anyhow::Result<Option<SocketAddr>> {
    let Some(address) = address else { return Ok(None) };
    let listener = bind(address)
        .await
        .with_context(|| format!("cannot listen at {address} (--admin)"))?;
    let local = listener.local_addr().context("cannot read the admin address")?;
    info!("admin endpoint at http://{local}");
    let service = router(readiness.clone(), registry);
    tasks.spawn("admin endpoint", async move {
        serve::serve(listener, service, serve::ConnectionLimits::default()).await;
        Ok(())
    });
    Ok(Some(local))
}

async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    loop {
        match TcpListener::bind(address).await {
            Err(error)
                if error.kind() == std::io::ErrorKind::AddrInUse && backoff.failures() < BIND_TRIES =>
            {
                backoff.rest().await;
            }
            other => return other,
        }
    }
}

struct AdminState {
    readiness: Readiness,
    registry: Registry,
}

fn router(readiness: Readiness, registry: Registry) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(AdminState { readiness, registry }))
}

async fn ready(State(shared): State<Arc<AdminState>>) -> Response {
    if shared.readiness.is_ready() {
        "ready\n".into_response()
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            "not ready: this daemon is not in sync with etcd yet, or the program that it controls \
             does not answer; see this daemon's log and `mayfly status`\n",
        )
            .into_response()
    }
}

async fn metrics(State(shared): State<Arc<AdminState>>, headers: HeaderMap) -> Response {
    let mut text = String::new();
    let accepted = headers.get_all(header::ACCEPT).iter();
    let mut accepted = accepted.filter_map(|value| value.to_str().ok());
    let is_open = accepted.any(|value| value.contains(OPENMETRICS));
    match encode(&mut text, &shared.registry) {
        Ok(()) if is_open => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Ok(()) => ([(header::CONTENT_TYPE, text::CONTENT_TYPE)], text::classic(&text)).into_response(),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, "cannot encode the metrics\n").into_response(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_e2e::http::{Answer, Request};

    async fn ask(address: SocketAddr, path: &str) -> Answer {
        Request::get("admin", path).send(address).await.unwrap()
    }

    #[tokio::test]
    async fn says_alive_ready_and_numbers() {
        let (tasks, readiness, mut registry) = (Tasks::new(), Readiness::new(), Registry::default());
        let store = Store::new(
            vec!["127.0.0.1:1".parse().unwrap()],
            mayfly_core::keys::KeySpace::default(),
        );
        let metrics = CommonMetrics::register(&mut registry, "dns-updater", "1.2.3", &store);
        CommonMetrics::register_watch(&mut registry, &WatchMetrics::default());
        let wanted = Some(mayfly_e2e::port::free());
        let address = start(&tasks, wanted, &readiness, registry)
            .await
            .unwrap()
            .unwrap();

        assert_eq!(ask(address, "/healthz").await.status, 200);
        assert_eq!(ask(address, "/readyz").await.status, 503);
        readiness.set_ready();
        assert_eq!(ask(address, "/readyz").await.status, 200);
        assert_eq!(ask(address, "/").await.status, 404);

        metrics.applied_revision.set(42);
        // As `curl` and `promtool` take it, and as a Prometheus asks.
        let plain = ask(address, "/metrics").await;
        assert_eq!(plain.headers["content-type"], text::CONTENT_TYPE);
        mayfly_e2e::metrics::check(&plain.body).unwrap();
        assert!(plain.body.contains("\nmayfly_applied_revision 42\n"));
        let answer = Request::get("admin", "/metrics")
            .header(
                "accept",
                "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2",
            )
            .send(address)
            .await
            .unwrap();
        assert_eq!(answer.headers["content-type"], CONTENT_TYPE);
        for line in [
            "mayfly_build_info{daemon=\"dns-updater\",version=\"1.2.3\"} 1",
            "mayfly_etcd_connected 0",
            "mayfly_applied_revision 42",
            "mayfly_set_aside 0",
            "mayfly_watch_relists_total 0",
            "mayfly_watch_held 0",
            "# EOF",
        ] {
            assert!(
                answer.body.lines().any(|found| found == line),
                "{line} in {}",
                answer.body
            );
        }
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named_and_none_is_fine() {
        let (tasks, taken) = (Tasks::new(), std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        let address = taken.local_addr().unwrap();
        let error = start(&tasks, Some(address), &Readiness::new(), Registry::default())
            .await
            .unwrap_err();
        assert!(format!("{error:#}").contains(&address.to_string()), "{error:#}");
        let off = start(&tasks, None, &Readiness::new(), Registry::default())
            .await
            .unwrap();
        assert_eq!(off, None);
    }
}
