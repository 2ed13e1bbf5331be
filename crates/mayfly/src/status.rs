//! `mayfly status`: what is registered, what it resolves to, what is missing, when it ends, and how
//! far each daemon has come. [`table`] is for people, and the JSON has the same as the tables. The
//! Markdown is for comments.

mod table;

use std::process::ExitCode;
use std::time::SystemTime;

use mayfly_core::names::EnvironmentName;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::output::{self, Color, Look, printable};
use mayfly_daemon::shutdown::Signals;
use mayfly_daemon::store::{FULL, Store};
use mayfly_daemon::watch::{WatchOptions, watch};
use mayfly_state::markdown::{self, edge_url};
use mayfly_state::report::{Report, idle_ends};
use mayfly_state::state::State;

const EXAMPLES: &str = "\
Examples:
  mayfly status                       shows every environment and every daemon
  mayfly status temp-1                shows the services of one environment
  mayfly status --watch               shows the status again after every change, until Ctrl-C
  mayfly status | tail -n 1           shows what needs attention, or that nothing does
  mayfly status pr-12 --format markdown --edge-url 'https://*.example.com'
                                      prints the comment for a pull request: the link, or the reason
  mayfly status --format json | jq '.environments[] | select(.complete | not) | .name'

JSON, one object (with --watch one on each line):
  revision      the revision of etcd that the output shows
  etcd          a fault of etcd itself: its database is full
  environments  name, prefix, header, routed, complete, parents, reasons (why it is not complete), set_aside,
                services [service, selector, version, inherited_from, routes, outside, live, draining, missing,
                awaited (the version that takes over when it is live), passed_over (live versions that are no
                candidates, and why)], broken_parent,
                access (who may use it from outside: of, users, from, unknown),
                protected, ends_at, idle, idle_until, last_used_at, description, source,
                launching (what the container-launcher reports about backends that are missing or starting)
  ended         names of environments that have ended
  shortage      environments, services (how many lack instances), first [environment, service, version, reason, ...]
  failing       instances whose check fails and that are not registered: backend, address, container, reason, node
  lost_headers  instances that called others without x-mayfly and baggage in the last 10 minutes: service, version
                (or address, one_of, more where several services share an address), calls
  set_aside     keys of etcd that are left out: key, reason
  daemons       daemon, node, address, version, applied_revision, newest_revision, lag, ready, error,
                host_names_without_address, set_aside; routers: notes (known faults of this HAProxy, and of
                certificates), certificate_warnings (how many of these);
                container-launchers: leading; all of these and dns-updaters: guard,
                keeps (keys that the daemon keeps although etcd has lost them)
  unreachable   routers and instances that are registered at a loopback address although others need them, in words
  traffic       requests of the last 10 minutes, summed over the routers, busiest first: service, version, requests,
                errors, connection_errors, mean_ms
  launching     what the leading container-launcher reports: leading, guard (why it retires nothing at present),
                backends {\"backend@0.0.3\": {state, percent, retire_at, reason, wanted, live, images, failures, next_try, output}}
A field without a value is null or absent. Later versions may add fields.

Exit codes: 0 success; 1 no such environment, or etcd does not answer; 2 wrong command line.";

/// Shows environments, what they resolve to, what is missing, and which revision each daemon has
/// applied
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Shows only this environment, with its services
    #[arg(value_name = "ENV")]
    pub environment: Option<EnvironmentName>,

    /// Keeps running, and shows the status again after every change
    #[arg(long, short)]
    pub watch: bool,

    /// Counts an environment as complete only if each service has at least this many live instances
    #[arg(long, env = "MAYFLY_MIN_INSTANCES", value_name = "N", default_value_t = 1)]
    pub min_instances: usize,

    /// Prints the output in this format
    #[arg(long, value_enum, default_value_t)]
    pub format: StatusFormat,

    /// Links each environment to this URL, with the environment's prefix in place of `*`, such as
    /// https://*.example.com
    ///
    /// The links are in the Markdown output, and on the page of mayfly-web. The flag is needed
    /// because the routers do not know the domain.
    #[arg(long, env = "MAYFLY_WEB_EDGE_URL", value_name = "URL", value_parser = edge_url)]
    pub edge_url: Option<String>,

    /// Chooses when to use colour
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub color: Color,
}

/// How to print the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum StatusFormat {
    /// Columns, for people
    #[default]
    Table,
    /// One JSON document, for programs
    Json,
    /// Markdown: the comment for a pull request if ENV is given, otherwise a table
    Markdown,
}

/// Shows it.
///
/// # Errors
/// When etcd does not answer, or it cannot be printed.
pub async fn run(common: &CommonArgs, args: &Args, signals: Signals) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let look = args.color.look();
    if !args.watch {
        let state = State::read_settled(&store, args.min_instances).await?;
        return match show(&store, &state, args, look).await? {
            Ok(text) => match args.format {
                StatusFormat::Json | StatusFormat::Markdown => output::print(&text),
                StatusFormat::Table => output::print_painted(&text, look),
            }
            .map(|()| ExitCode::SUCCESS),
            Err(unknown) => {
                output::complain(&format!("error: {unknown}"));
                Ok(ExitCode::FAILURE)
            }
        };
    }
    let shutdown = signals.shutdown()?;
    let mut following = watch(&store, store.keyspace().everything(), WatchOptions::default());
    let mut state = State::new(store.keyspace(), args.min_instances);
    let mut shown = String::new();
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(ExitCode::SUCCESS),
            batch = following.next_batch_coalesced() => state.take(batch),
        }
        // One that is not there yet, or no more, may come.
        // The terminal may have another width by now.
        let look = args.color.look();
        let text = show(&store, &state, args, look)
            .await?
            .unwrap_or_else(|unknown| printable(&unknown) + "\n");
        if text != shown {
            match args.format {
                StatusFormat::Json | StatusFormat::Markdown => output::print(&text)?,
                StatusFormat::Table => output::print_again(&text, look)?,
            }
            shown = text;
        }
    }
}

/// What to print; an error if there is no such environment.
async fn show(
    store: &Store,
    state: &State,
    args: &Args,
    look: Look,
) -> anyhow::Result<Result<String, String>> {
    let only = args.environment.as_ref();
    if let Some(name) = only.filter(|name| state.index.environment(name).is_none()) {
        return Ok(Err(state.unknown(name)));
    }
    if args.format == StatusFormat::Markdown {
        let edge_url = args.edge_url.as_deref();
        return Ok(Ok(match only {
            Some(name) => markdown::one(state, name, edge_url),
            None => markdown::all(state, edge_url),
        }));
    }
    let now = SystemTime::now();
    let mut report = Report::of(state, only, &idle_ends(store, state, only, now).await);
    // No daemon can put it into its status record then. Who may not ask sees the rest.
    report.etcd = store.is_full().await.unwrap_or_default().then_some(FULL);
    Ok(Ok(match (args.format, args.watch) {
        (StatusFormat::Json, true) => output::json_line(&report)?,
        (StatusFormat::Json, false) => output::json(&report)?,
        _ => table::text(&report, only.is_some(), now, look),
    }))
}
