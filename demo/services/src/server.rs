//! How a demo service is set up and served: arguments, listening, and an end that finishes what is under way.

use std::future::Future;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// How long a service goes on as if nothing had happened after the signal to end: routers hear of the signal when it does,
/// and still send it requests until they have acted on that.
pub const SERVES_ON: Duration = Duration::from_secs(1);

/// How long requests that are under way after that may still take. `docker stop` kills 10 s after the signal.
const DRAIN_LIMIT: Duration = Duration::from_secs(8);

/// What both services can be told.
#[derive(Debug, Clone, clap::Args)]
pub struct ServiceArgs {
    /// Port to listen on, on all addresses of this host
    #[arg(long, env = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// Version that the answers name
    #[arg(long = "service-version", env = "VERSION", default_value = "0.0.0")]
    pub version: String,
    /// Name of this instance in the answers; in a container, its host name
    #[arg(long, env = "HOSTNAME", default_value = "localhost")]
    pub instance: String,
}

/// Serves `routes`, and `/health` beside them, until [`SERVES_ON`] after SIGTERM or SIGINT; then finishes the requests that are
/// under way.
///
/// # Errors
///
/// When the port cannot be listened on, or the signals cannot be waited for.
pub async fn serve(args: &ServiceArgs, routes: Router) -> anyhow::Result<()> {
    let listener = listen(args.port).await?;
    let address = listener
        .local_addr()
        .context("reading the address listened on failed")?;
    println!("version {} listens on {address}", args.version);
    let end = end_signal()?;
    serve_until(listener, routes, end).await
}

/// As [`serve`], on a given listener, with `end` in place of the signals.
///
/// # Errors
///
/// When serving fails, or what is under way is not finished in time.
pub async fn serve_until(
    listener: TcpListener,
    routes: Router,
    end: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let routes = routes.route("/health", get(|| async { "ok\n" }));
    let (ended, draining) = tokio::sync::oneshot::channel();
    let server = axum::serve(listener, routes).with_graceful_shutdown(async move {
        end.await;
        tokio::time::sleep(SERVES_ON).await;
        // The receiver is only gone when the server is, too.
        let _ = ended.send(());
    });
    tokio::select! {
        served = server => served.context("serving failed"),
        () = async {
            if draining.await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(DRAIN_LIMIT).await;
        } => anyhow::bail!("requests were still under way {} s after the end", DRAIN_LIMIT.as_secs()),
    }
}

/// Listens for IPv6 and IPv4; where the host has no IPv6, for IPv4 alone.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    if let Ok(listener) = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        return Ok(listener);
    }
    TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], port)))
        .await
        .with_context(|| format!("listening on port {port} failed"))
}

fn end_signal() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("waiting for SIGTERM failed")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("waiting for SIGINT failed")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
