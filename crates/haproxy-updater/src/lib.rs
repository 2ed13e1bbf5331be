//! The HAProxy updater: follows etcd and updates a running HAProxy to match, without reloads.
//!
//! The chain, as the [`run`](mod@run) loop drives it:
//!
//! 1. `desired`: what etcd says, as far as it is believed ([`mayfly_core::trust`]), becomes rows
//!    and servers ([`mayfly_core::index`]). `follow` resolves host names, and `reach` says which
//!    external addresses count.
//! 2. `actual`: what HAProxy has.
//! 3. `plan`: from what should be and what is to commands in order; a pure function.
//! 4. `apply`: makes HAProxy do it; a reload is rare.
//! 5. `report`: what this router says of itself, in etcd and at `/readyz`; `advertise` finds the
//!    address.
//!
//! `haproxy` is the other side: sockets, answers, and the files that HAProxy starts from. In the
//! other direction, `usage` reads from HAProxy which environments were used, and renews those with
//! an `idle` time in etcd. `lost` reads which instances drop the header, and `traffic` how many
//! requests each backend got. `certificates` brings the files of a directory to HAProxy;
//! etcd has no part in it.

mod actual;
mod advertise;
mod apply;
pub mod args;
mod certificates;
mod desired;
mod follow;
mod haproxy;
mod lost;
mod metrics;
mod plan;
mod reach;
mod report;
mod run;
#[cfg(test)]
mod tests;
mod traffic;
mod usage;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use mayfly_core::index::Index;
use mayfly_core::keys::Daemon;
use mayfly_core::trust::Policy;
use mayfly_daemon::admin::{self, CommonMetrics, Readiness};
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::output;
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::status::StatusReporter;
use mayfly_daemon::tasks::Tasks;
use mayfly_daemon::watch::{self, WatchOptions};
use prometheus_client::registry::Registry;
use tracing::warn;

use advertise::{OPTION, or_where_it_listens};
use apply::{Applier, Parts};
use args::{Arguments, Command, internal_bind};
use certificates::EdgeCertificates;
use desired::DesiredRouting;
use follow::Follower;
use haproxy::files::HaproxyFiles;
pub use haproxy::simulated;
use haproxy::sockets::Runtime;
use haproxy::tokens::Word;
use lost::report::LostReporter;
use metrics::Metrics;
use report::RouterReport;
use run::{Checks, Locating, Location, Readers, Run, TrafficReader};
use usage::report::UsageReporter;

/// How long an environment may lack a parent or the instance for `latest` before the log warns of
/// it. They may be about to be registered: when everything starts at once, that takes some seconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The key of this daemon's status.
const DAEMON: Daemon = Daemon::HaproxyUpdater;

/// The life of the status and router records without a sign of life.
const TTL: Duration = Duration::from_secs(15);

/// Runs the command that the arguments name, or follows etcd until told to end.
///
/// # Errors
/// When the command line asks for something that cannot be, or a background task ends.
pub async fn run(mut arguments: Arguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    if let Some(Command::Template) = arguments.command {
        output::print(haproxy::render::TEMPLATE)?;
        return Ok(ExitCode::SUCCESS);
    }
    let binds = &arguments.options.internal_bind;
    let advertised = or_where_it_listens(&arguments.options.advertise, binds);
    let listens = match arguments.listens_where_advertised() {
        false => None,
        true => {
            let found = where_advertised(&arguments, &shutdown).await?;
            let Some(address) = found else {
                return Ok(ExitCode::SUCCESS);
            };
            arguments.options.internal_bind = vec![internal_bind(address)];
            Some(address)
        }
    };
    let mut renderer = arguments.renderer()?;
    let Arguments {
        common,
        options,
        command,
    } = arguments;
    if let Some(Command::Render) = command {
        output::print(&renderer.render(options.slots, &Default::default())?.text)?;
        return Ok(ExitCode::SUCCESS);
    }

    for bind in options.internal_bind.iter().filter(|bind| bind.is_everywhere()) {
        warn!(
            "the internal side listens on every address of its host ({bind}), so every client that reaches this host can \
             call any service in any environment. Set a single address with --internal-bind"
        );
    }
    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let mut registry = Registry::default();
    let common_metrics =
        CommonMetrics::register(&mut registry, DAEMON.as_str(), env!("CARGO_PKG_VERSION"), &store);
    let metrics = Metrics::register(&mut registry);
    let dir = options.dir()?;
    let files = HaproxyFiles::open(&dir, &options.haproxy)?;
    let socket = options.runtime_socket()?;
    let mut certificates = None;
    if let Some(directory) = &options.edge_certificates {
        let kept = options.kept_certificates()?;
        // Now, so that HAProxy's first configuration has the TLS listeners already.
        let found = EdgeCertificates::start(directory, &socket, &kept, metrics.clone()).await;
        renderer.serve_tls(found.are_kept());
        certificates = Some(found);
    }
    let parts = Parts {
        renderer,
        files,
        runtime: Runtime::new(&socket, dir.join("maps")),
        master: options.master_socket()?,
        slots: options.slots,
        token: token()?,
        metrics,
    };
    let reach = options.reach();
    let index = Index::new(store.keyspace().clone())
        .with_least_instances(options.min_instances)
        .with_rule(reach.rule(None));
    let metrics = parts.metrics.clone();
    let applier = Applier::new(parts);

    let following = WatchOptions::default().with_policy(Policy::routing(options.distrust));
    let watch = watch::watch(&store, store.keyspace().routing(), following);
    CommonMetrics::register_watch(&mut registry, &watch.metrics());
    let advertiser = Advertiser::start(&tasks, &store, TTL);
    let node = common.node()?;
    let status =
        StatusReporter::new(&advertiser, DAEMON, node.clone(), &common_metrics).with_patience(PATIENCE);
    // Under a lease of its own: etcd may refuse it to a user whose role is older, and the records
    // above have to live on.
    let counts = Advertiser::start(&tasks, &store, TTL);
    let traffic = TrafficReader::new(counts, node.clone());
    let report = RouterReport::new(status, advertiser, readiness.clone(), node);
    let location = Location {
        locating: Locating::new(advertised, common.etcd.clone()),
        listens,
        reach,
    };
    admin::start(&tasks, common.admin, &readiness, registry).await?;

    let follower = Follower::new(&dir.as_path().join("names.json"), options.resolve);
    let desired = DesiredRouting::new(watch, index, follower, metrics);
    let readers = Readers {
        usage: UsageReporter::new(store.clone(), &dir.as_path().join("used.json")),
        lost: LostReporter::new(),
        traffic,
    };
    let checks = Checks::new(options.verify);
    let run = Run::new(desired, applier, certificates, readers, report, location, checks);
    tasks.supervise(run.run(&shutdown)).await?;
    Ok(ExitCode::SUCCESS)
}

/// The address to advertise, at which the internal side then listens, too. The daemon waits until
/// it is known, and HAProxy goes on with its configuration. `None` when the shutdown begins
/// meanwhile.
async fn where_advertised(arguments: &Arguments, shutdown: &Shutdown) -> anyhow::Result<Option<IpAddr>> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let advertise = &arguments.options.advertise;
        let error = match advertise.locate(OPTION, &arguments.common.etcd, None).await {
            Ok(address) => return Ok(Some(address)),
            Err(error) => error,
        };
        let remedy = OPTION.remedy(&error);
        let error = error
            .context("HAProxy's internal side has no address to listen at, as --internal-bind is not set");
        if arguments.command.is_some() {
            bail!("{error:#}{remedy}");
        }
        warn!("{error:#}; retrying{remedy}");
        tokio::select! {
            () = shutdown.begun() => return Ok(None),
            () = backoff.rest() => {}
        }
    }
}

/// A word that no other haproxy-updater has given HAProxy.
fn token() -> anyhow::Result<Word> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{}", std::process::id(), now.as_nanos())
        .parse()
        .context("cannot make a token")
}
