//! The HAProxy updater: follows etcd and makes a running HAProxy route accordingly, without reloads.
//!
//! The chain: observe ([`updater`] takes batches from etcd) -> [`guard`] (what etcd lost without a word is kept) -> resolve ([`mayfly_core::index`] turns records into
//! rows and servers; [`slots`] gives each backend its place) -> plan ([`plan`], pure: what should be, and what HAProxy
//! has as [`model`] knows it, to [`command`]s in order) -> apply ([`engine`], through [`runtime`] and, for the rare
//! reload, [`master`]).
//!
//! The other way round, [`uses`] reads from HAProxy which environments were used and lets those with an `idle` time live on
//! in etcd.
//!
//! Beside the chain: [`reach`] says which addresses outside it may lead to; [`follow`] finds out what the host names of
//! servers resolve to; [`render`] and [`files`] keep on disk
//! what HAProxy starts from; [`read`] understands its answers; [`text`] has the types without which no text reaches it;
//! [`advertise`], [`metrics`] and [`args`] face the world.

pub mod advertise;
pub mod args;
pub mod command;
pub mod engine;
pub mod files;
pub mod follow;
pub mod guard;
pub mod master;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod reach;
pub mod read;
pub mod render;
pub mod runtime;
pub mod slots;
pub mod text;
pub mod updater;
pub mod uses;

use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use mayfly_core::index::Index;
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

use args::{Arguments, Command, internal_bind};
use engine::{Engine, Parts};
use files::Files;
use follow::Follower;
use guard::Guard;
use metrics::Metrics;
use runtime::Runtime;
use text::Word;
use updater::{DAEMON, Times, Updater, Voice};
use uses::report::Reporter;

/// The life of the status and router records without a sign of life.
const TTL: Duration = Duration::from_secs(15);

/// Runs the command that the arguments name, or follows etcd until told to end.
///
/// # Errors
/// When the command line asks for something that cannot be, or a background task ends.
pub async fn run(mut arguments: Arguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    if let Some(Command::Template) = arguments.command {
        output::print(render::TEMPLATE)?;
        return Ok(ExitCode::SUCCESS);
    }
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
    let renderer = arguments.renderer()?;
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
            "the internal side listens on every address of its host ({bind}): whoever reaches it chooses an environment by \
             x-mayfly and reaches services without a route; give one address with --internal-bind"
        );
    }
    let (tasks, store, readiness) = (Tasks::new(), common.store()?, Readiness::new());
    let mut registry = Registry::default();
    let common_metrics =
        CommonMetrics::register(&mut registry, DAEMON.as_str(), env!("CARGO_PKG_VERSION"), &store);
    let metrics = Metrics::register(&mut registry);
    let dir = options.dir()?;
    let parts = Parts {
        renderer,
        files: Files::open(&dir, &options.haproxy)?,
        runtime: Runtime::new(&options.runtime_socket()?, dir.join("maps")),
        master: options.master_socket()?,
        slots: options.slots,
        token: token()?,
        metrics,
    };
    let reach = options.reach();
    let index = Index::new(store.keyspace().clone())
        .with_least_instances(options.min_instances)
        .with_rule(reach.rule(None));
    let engine = Engine::new(parts, index);

    let guard = Guard::new(store.keyspace().clone(), options.guard.0);
    let following = WatchOptions {
        doubt_leases: options.guard.0.is_some(),
        ..WatchOptions::default()
    };
    let watch = watch::watch(&store, store.keyspace().routing(), following);
    CommonMetrics::register_watch(&mut registry, &watch.metrics());
    let advertiser = Advertiser::start(&tasks, &store, TTL);
    let node = common.node()?;
    let voice = Voice {
        status: StatusReporter::new(&advertiser, DAEMON, node.clone(), &common_metrics),
        advertiser,
        readiness: readiness.clone(),
        node,
        advertised: options.advertise.clone(),
        listens,
        endpoints: common.etcd.clone(),
        reach,
    };
    admin::start(&tasks, common.admin, &readiness, registry).await?;

    let times = Times {
        look: options.look,
        verify: options.verify,
    };
    let follower = Follower::new(&dir.as_path().join("names.json"), options.resolve);
    let reporter = Reporter::new(store.clone(), options.report_use);
    let updater = Updater::new(guard, engine, follower, reporter, voice, times);
    tasks.supervise(updater.run(watch, &shutdown)).await?;
    Ok(ExitCode::SUCCESS)
}

/// The address to advertise, which the internal side then has, too. A daemon waits until it is
/// known, and HAProxy goes on with the configuration that it has; nothing is found when it is told
/// to end meanwhile.
async fn where_advertised(arguments: &Arguments, shutdown: &Shutdown) -> anyhow::Result<Option<IpAddr>> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let error = match arguments.options.advertise.locate(&arguments.common.etcd).await {
            Ok(address) => return Ok(Some(address)),
            Err(error) => error.context("cannot tell where the internal side listens: give --internal-bind"),
        };
        if arguments.command.is_some() {
            return Err(error);
        }
        warn!("{error:#}; trying again");
        tokio::select! {
            () = shutdown.begun() => return Ok(None),
            () = backoff.rest() => {}
        }
    }
}

/// A word that no other haproxy-updater has told HAProxy.
fn token() -> anyhow::Result<Word> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{}", std::process::id(), now.as_nanos())
        .parse()
        .context("cannot make a token")
}
