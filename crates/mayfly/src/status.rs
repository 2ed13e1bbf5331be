//! `mayfly status`: what is registered, what it resolves to, what is missing, when it ends, and how far each daemon has
//! come. [`table`] is for people, and the JSON has the same.

mod table;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use mayfly_core::index::{EnvironmentView, Shortage};
use mayfly_core::launching::{Backend, Launching};
use mayfly_core::lifetime::{Idle, Moment};
use mayfly_core::names::{DnsPrefix, EnvironmentName, HeaderValue};
use mayfly_core::records::{SetAside, Source};
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, Format, printable};
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::store::{FULL, LeaseId, Store};
use mayfly_daemon::watch::{WatchOptions, watch};
use serde::Serialize;

use crate::launchers::Launchers;
use crate::state::{DaemonView, State};

const EXAMPLES: &str = "\
Examples:
  mayfly status                       every environment, and the daemons
  mayfly status temp-1                the services of one
  mayfly status --watch               again whenever something changes, until Ctrl-C
  mayfly status --format json | jq '.environments[] | select(.complete | not) | .name'

JSON, one object (with --watch one on each line):
  revision      the revision of etcd that it shows
  etcd          what is wrong with etcd itself: that its database is full
  environments  name, prefix, header, routed, complete, parents, reasons (why it is not complete), set_aside,
                services [service, selector, version, inherited_from, routes, outside, live, draining, missing,
                awaited (the version that it changes to when that is live), passed_over (live versions that are no
                candidates, and why)], broken_parent,
                protected, ends_at, idle, idle_until, description, source,
                launching (what a container-launcher says of those of its backends that are missing or on their way)
  ended         names of those that have been
  shortage      environments, services (how many lack instances), first [environment, service, version, reason, ...]
  set_aside     keys of etcd that are left out: key, reason
  daemons       daemon, node, address, applied_revision, newest_revision, lag, ready, error,
                host_names_without_address, set_aside, of a container-launcher leading, of it and a router guard
  launching     what the container-launcher that leads says: leading, guard (why nothing is retired at present),
                backends {\"backend@0.0.3\": {state, percent, retire_at, reason, wanted, live, failures, next_try, output}}
A field without a value is null or absent; more may be added.

Exit codes: 0 it is shown; 1 there is no such environment, or etcd does not answer; 2 the command line is wrong.";

/// Services that lack instances that the JSON tells of beside the environments.
const MOST_MISSING: usize = 100;
/// Leases that are asked for at most; who has more environments that end when idle sees the span instead.
const MOST_LEASES: usize = 500;

/// Show environments, what they resolve to and what is missing, and how far each daemon has come
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Only this environment, with its services
    #[arg(value_name = "ENV")]
    pub environment: Option<EnvironmentName>,

    /// Go on, and show it again when something has changed
    #[arg(long, short)]
    pub watch: bool,

    /// How many live instances each service has to have
    #[arg(long, env = "MAYFLY_MIN_INSTANCES", value_name = "N", default_value_t = 1)]
    pub min_instances: usize,

    /// How to print it
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// All that is shown.
#[derive(Debug, Serialize)]
struct Report {
    revision: i64,
    /// What is wrong with etcd itself.
    etcd: Option<&'static str>,
    environments: Vec<EnvironmentReport>,
    ended: Vec<EnvironmentName>,
    shortage: Shortage,
    set_aside: Vec<SetAside>,
    daemons: Vec<DaemonView>,
    /// What the container-launcher says that leads, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    launching: Option<Launching>,
}

#[derive(Debug, Serialize)]
struct EnvironmentReport {
    #[serde(flatten)]
    view: EnvironmentView,
    prefix: DnsPrefix,
    header: HeaderValue,
    /// Why it is not complete.
    reasons: Vec<String>,
    protected: bool,
    ends_at: Option<Moment>,
    idle: Option<Idle>,
    /// When it ends if nobody uses it.
    idle_until: Option<Moment>,
    description: Option<String>,
    source: Option<Source>,
    /// What the launcher says of those of its backends that are missing or on their way.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    launching: BTreeMap<String, Backend>,
    /// The same in words, and why nothing is done about the rest; not in the JSON, as `launching` has it.
    #[serde(skip)]
    launcher: Vec<String>,
}

/// Shows it.
///
/// # Errors
/// When etcd does not answer, or it cannot be printed.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    if !args.watch {
        let state = State::read(&store, args.min_instances).await?;
        return match show(&store, &state, args).await? {
            Ok(text) => output::print(&text).map(|()| ExitCode::SUCCESS),
            Err(unknown) => {
                output::complain(&format!("error: {unknown}"));
                Ok(ExitCode::FAILURE)
            }
        };
    }
    let mut following = watch(&store, store.keyspace().everything(), WatchOptions::default());
    let mut state = State::new(store.keyspace(), args.min_instances);
    let mut shown = String::new();
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(ExitCode::SUCCESS),
            batch = following.next_batch_coalesced() => state.take(batch),
        }
        // One that is not there yet, or no more, may come.
        let text = show(&store, &state, args)
            .await?
            .unwrap_or_else(|unknown| printable(&unknown) + "\n");
        if text != shown {
            match args.format {
                Format::Json => output::print(&text)?,
                Format::Table => output::print_again(&text)?,
            }
            shown = text;
        }
    }
}

/// What is to be printed; else that there is no such environment.
async fn show(store: &Store, state: &State, args: &Args) -> anyhow::Result<Result<String, String>> {
    let only = args.environment.as_ref();
    if let Some(name) = only.filter(|name| state.index.environment(name).is_none()) {
        return Ok(Err(state.unknown(name)));
    }
    let now = SystemTime::now();
    let mut report = Report::of(state, only, &idle_left(store, state, only).await, now);
    // No daemon can put it into its status record then. Who may not ask sees the rest.
    report.etcd = store.is_full().await.unwrap_or_default().then_some(FULL);
    Ok(Ok(match (args.format, args.watch) {
        (Format::Json, true) => output::json_line(&report)?,
        (Format::Json, false) => output::json(&report)?,
        (Format::Table, _) => table::text(&report, only.is_some(), now),
    }))
}

/// What is left of the leases of environments that end when nobody uses them.
async fn idle_left(
    store: &Store,
    state: &State,
    only: Option<&EnvironmentName>,
) -> BTreeMap<EnvironmentName, Duration> {
    let mut asking = tokio::task::JoinSet::new();
    let idle = state
        .index
        .environments()
        .filter(|environment| environment.idle.is_some());
    let wanted = idle.filter(|environment| only.is_none_or(|only| *only == environment.name));
    let leases =
        wanted.filter_map(|environment| Some((environment.name.clone(), state.lease(&environment.name)?)));
    for (name, lease) in leases.take(MOST_LEASES) {
        let store = store.clone();
        asking.spawn(async move { (name, left(&store, lease).await) });
    }
    let mut found = BTreeMap::new();
    while let Some(answer) = asking.join_next().await {
        if let Ok((name, Some(left))) = answer {
            found.insert(name, left);
        }
    }
    found
}

/// A lease that has just run out, or etcd that has just gone, makes no difference: nothing is known then.
async fn left(store: &Store, lease: LeaseId) -> Option<Duration> {
    Some(store.lease_life(lease).await.ok()??.left)
}

impl Report {
    fn of(
        state: &State,
        only: Option<&EnvironmentName>,
        idle_left: &BTreeMap<EnvironmentName, Duration>,
        now: SystemTime,
    ) -> Self {
        let launchers: Launchers = state.launchers();
        let wanted = |name: &EnvironmentName| only.is_none_or(|only| only == name);
        let environments = state
            .index
            .environments()
            .filter(|environment| wanted(&environment.name));
        let report = |environment: &mayfly_core::records::Environment| {
            let view = state.index.view(&environment.name)?;
            Some(EnvironmentReport {
                reasons: view.reasons(),
                launching: launchers.unsettled(&view),
                launcher: launchers.reasons(&view),
                prefix: environment.prefix.clone(),
                header: environment.header.clone(),
                protected: environment.protected,
                ends_at: environment.ends_at(),
                idle: environment.idle,
                idle_until: idle_left
                    .get(&environment.name)
                    .map(|left| Moment::of(now).after(*left)),
                description: environment.description.clone(),
                source: environment.source.clone(),
                view,
            })
        };
        Self {
            revision: state.revision,
            etcd: None,
            environments: environments.filter_map(report).collect(),
            ended: state.ended().filter(|name| wanted(name)).cloned().collect(),
            shortage: state.index.shortage(MOST_MISSING),
            set_aside: state.index.set_aside(),
            daemons: state.daemons(),
            launching: launchers.leader.map(|leader| leader.launching),
        }
    }
}
