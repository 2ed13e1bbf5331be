//! `mayfly wait`: returns when an environment is in force everywhere: every router and every DNS updater has applied it,
//! and nothing is missing. It follows etcd, and asks nobody else.

use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::names::EnvironmentName;
use mayfly_daemon::args::{CommonArgs, duration};
use mayfly_daemon::output::{self, Format, printable};
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::watch::{WatchOptions, watch};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::state::State;

const EXAMPLES: &str = "\
Examples:
  mayfly wait temp-1                          and the next request is answered by what temp-1 says
  mayfly apply -f temp-1.yaml && mayfly wait temp-1 --timeout 2min
  mayfly wait temp-1 --format json            {\"environment\": ..., \"ready\": true, \"revision\": ..., \"reasons\": []}

Exit codes: 0 it is in force; 1 it is not, with the reason; 2 the command line is wrong.";

/// Wait until an environment is in force on every router and nothing of it is missing
///
/// What is waited for: each service of the environment, inherited ones too, has its live instances, and every router and
/// DNS updater that says something of itself in etcd has applied the newest revision of the environment, of those that
/// it extends and of its instances. One whose newest version its registrar refused is not in force. What hinders it is
/// told on standard error as it changes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The environment; it need not be registered yet
    #[arg(value_name = "ENV")]
    pub environment: EnvironmentName,

    /// How long to wait at most
    #[arg(long, env = "MAYFLY_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,

    /// How many live instances each service has to have
    #[arg(long, env = "MAYFLY_MIN_INSTANCES", value_name = "N", default_value_t = 1)]
    pub min_instances: usize,

    /// How to print the outcome
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Waits.
///
/// # Errors
/// When the outcome cannot be printed.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    let store = common.store();
    let deadline = Instant::now() + args.timeout;
    let mut following = watch(&store, store.keyspace().everything(), WatchOptions::default());
    let mut state = State::new(store.keyspace(), args.min_instances);
    let mut reasons = vec!["etcd has not answered yet".to_owned()];
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(ExitCode::from(130)),
            () = sleep_until(deadline) => return conclude(args, &state, &reasons),
            batch = following.next_batch_coalesced() => state.take(batch),
        }
        let now = hindrances(&state, &args.environment);
        if now.is_empty() {
            return conclude(args, &state, &now);
        }
        if now != reasons {
            eprintln!("waiting: {}", printable(&now.join("; ")));
            reasons = now;
        }
    }
}

fn conclude(args: &Args, state: &State, reasons: &[String]) -> anyhow::Result<ExitCode> {
    let (name, ready) = (&args.environment, reasons.is_empty());
    let revision = state.revision_of(name);
    if args.format == Format::Json {
        let outcome = json!({"environment": name, "ready": ready, "revision": revision, "reasons": reasons});
        output::print(&output::json(&outcome)?)?;
    } else if ready {
        output::print(&format!("{name} is in force everywhere (revision {revision})\n"))?;
    }
    if ready {
        return Ok(ExitCode::SUCCESS);
    }
    let (limit, reasons) = (humantime::format_duration(args.timeout), reasons.join("; "));
    eprintln!(
        "error: {name} is not in force after {limit}: {}",
        printable(&reasons)
    );
    Ok(ExitCode::FAILURE)
}

/// Why an environment is not in force everywhere; nothing when it is.
fn hindrances(state: &State, name: &EnvironmentName) -> Vec<String> {
    let Some(view) = state.index.view(name) else {
        return vec![state.unknown(name)];
    };
    let mut reasons = view.reasons();
    let revision = state.revision_of(name);
    let mut routers = 0;
    for daemon in state.daemons() {
        let what = match daemon.daemon {
            "haproxy-updater" => "router",
            "dns-updater" => "dns-updater",
            _ => continue,
        };
        routers += usize::from(what == "router");
        let who = format!("{what} {}", daemon.node);
        if let Some(error) = daemon.error {
            reasons.push(format!("{who}: {error}"));
        } else if !daemon.ready {
            reasons.push(format!("{who} is not in step with etcd yet"));
        } else if daemon.applied_revision < revision {
            let applied = daemon.applied_revision;
            reasons.push(format!("{who} is at revision {applied}, {name} at {revision}"));
        }
    }
    if routers == 0 {
        reasons.push(
            "no router is there: is a haproxy-updater running on this etcd, with the same --prefix?"
                .to_owned(),
        );
    }
    reasons
}
