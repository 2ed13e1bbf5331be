//! Starts everything, and runs until the shutdown begins.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::tasks::Tasks;
use mayfly_daemon::watch::{self, WatchOptions};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::time::interval;
use tracing::info;

use crate::answers::Api;
use crate::args::Arguments;
use crate::feeds::Feeds;
use crate::guard::Authorizer;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::serve::serve;
use crate::tls::TlsFiles;

/// How often to look whether the files of the token and the certificate have changed.
const LOOK: Duration = Duration::from_secs(2);
/// How often to ask etcd, for clients that follow, for what its watch does not bring.
const ASK: Duration = Duration::from_secs(15);

/// Runs the daemon until the shutdown begins.
///
/// # Errors
/// When the arguments leave the API open to all, a file cannot be read, the address is taken, or a
/// background task ends.
pub async fn run(arguments: Arguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let Arguments { common, web } = arguments;
    web.check()?;
    let guard = Arc::new(Authorizer::new(web.token_file.as_deref(), &web.hosts)?);
    let tls = match (&web.tls_certificate, &web.tls_key) {
        (Some(certificate), Some(key)) => Some(Arc::new(TlsFiles::read(certificate, key)?)),
        _ => None,
    };
    let listener = TcpListener::bind(web.bind)
        .await
        .with_context(|| format!("cannot listen at {} (--bind)", web.bind))?;
    let bound = listener.local_addr().context("cannot read the bound address")?;

    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let mut registry = Registry::default();
    let common_metrics =
        CommonMetrics::register(&mut registry, "mayfly-web", env!("CARGO_PKG_VERSION"), &store);
    let watch = watch::watch(&store, store.keyspace().everything(), WatchOptions::default());
    CommonMetrics::register_watch(&mut registry, &watch.metrics());
    let metrics = Metrics::register(&mut registry);
    admin::start(&tasks, common.admin, &readiness, registry).await?;

    let live = Arc::new(Live::new(&store, web.edge_url.clone()));
    let feeds = Arc::new(Feeds::new(&live));
    tasks.spawn("watch", {
        let (live, readiness) = (live.clone(), readiness.clone());
        async move {
            live.follow(watch, &readiness, &common_metrics).await;
            Ok(())
        }
    });
    tasks.spawn("feeds", {
        let feeds = feeds.clone();
        async move {
            feeds.run().await;
            Ok(())
        }
    });
    tasks.spawn("questions", ask(live.clone(), feeds.clone()));
    // Without a file there is nothing to wake up for.
    if web.token_file.is_some() || tls.is_some() {
        tasks.spawn("files", look(guard.clone(), tls.clone()));
    }
    info!("the page is at {}", web.link(bound));
    if web.sends_token_in_clear_text() {
        info!(
            "the token and all answers are not encrypted: put a proxy with HTTPS in front, or give \
             --tls-certificate and --tls-key"
        );
    }
    let api = Arc::new(Api::new(live, feeds, guard, metrics, &web.base_path, &shutdown));
    let work = async {
        serve(listener, tls, api, shutdown).await;
        Ok(ExitCode::SUCCESS)
    };
    tasks.supervise(work).await
}

async fn ask(live: Arc<Live>, feeds: Arc<Feeds>) -> anyhow::Result<()> {
    let mut asks = interval(ASK);
    loop {
        asks.tick().await;
        if feeds.is_followed().await {
            live.freshen().await;
        }
    }
}

async fn look(guard: Arc<Authorizer>, tls: Option<Arc<TlsFiles>>) -> anyhow::Result<()> {
    let mut looks = interval(LOOK);
    loop {
        looks.tick().await;
        guard.refresh();
        if let Some(tls) = &tls {
            tls.refresh();
        }
    }
}
