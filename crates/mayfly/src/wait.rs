//! `mayfly wait`: returns when an environment is in force everywhere: every router and every DNS updater has applied it,
//! and nothing is missing. It follows etcd, and asks nobody else. What a container-launcher starts for the environment is
//! waited for, too, as long as there is hope.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::launching::{Backend, Phase};
use mayfly_core::names::EnvironmentName;
use mayfly_daemon::args::{CommonArgs, duration};
use mayfly_daemon::output::{self, Format, complain, printable};
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::watch::{WatchOptions, watch};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use crate::launchers;
use crate::state::State;

/// Tries of a backend that have failed in a row, after which nobody waits for it any longer. What fails less often may be a
/// passing thing: a service that it depends on and that is just being started, a registry that was busy.
const HOPELESS: usize = 3;

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
///
/// Where a container-launcher starts what is missing, all that it starts for the environment has to answer. What has failed
/// three times in a row ends the waiting at once, with the reason and the last lines that the container printed.
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
    let store = common.store()?;
    let deadline = Instant::now() + args.timeout;
    let mut following = watch(&store, store.keyspace().everything(), WatchOptions::default());
    let mut state = State::new(store.keyspace(), args.min_instances);
    let mut standing = Standing::unknown();
    loop {
        tokio::select! {
            () = shutdown.begun() => return Ok(ExitCode::from(130)),
            () = sleep_until(deadline) => return conclude(args, &state, &standing),
            batch = following.next_batch_coalesced() => state.take(batch),
        }
        let now = Standing::of(&state, &args.environment);
        if now.is_ready() || now.hopeless().is_some() {
            return conclude(args, &state, &now);
        }
        if now.reasons != standing.reasons {
            complain(&format!("waiting: {}", printable(&now.reasons.join("; "))));
        }
        standing = now;
    }
}

fn conclude(args: &Args, state: &State, standing: &Standing) -> anyhow::Result<ExitCode> {
    let (name, ready) = (&args.environment, standing.is_ready());
    let revision = state.revision_of(name);
    if args.format == Format::Json {
        let mut outcome =
            json!({"environment": name, "ready": ready, "revision": revision, "reasons": standing.reasons});
        if !standing.launching.is_empty() {
            outcome["launching"] = json!(standing.launching);
        }
        output::print(&output::json(&outcome)?)?;
    } else if ready {
        output::print(&format!("{name} is in force everywhere (revision {revision})\n"))?;
    }
    if ready {
        return Ok(ExitCode::SUCCESS);
    }
    let what = match standing.hopeless() {
        Some(backend) => format!("{name} does not come into force, since {backend} fails again and again"),
        None => {
            let limit = humantime::format_duration(args.timeout);
            format!("{name} is not in force after {limit}")
        }
    };
    let reasons = printable(&standing.reasons.join("; "));
    complain(&format!(
        "error: {what}: {reasons}\n{}",
        launchers::outputs(&standing.launching)
    ));
    Ok(ExitCode::FAILURE)
}

/// How it stands with an environment.
struct Standing {
    /// Why it is not in force everywhere; nothing when it is.
    reasons: Vec<String>,
    /// What the launcher says of those of its backends that are missing or on their way.
    launching: BTreeMap<String, Backend>,
    /// Whether it says so with the newest service definitions in mind: what has failed may have been mended just now.
    is_current: bool,
}

impl Standing {
    fn unknown() -> Self {
        Self {
            reasons: vec!["etcd has not answered yet".to_owned()],
            launching: BTreeMap::new(),
            is_current: false,
        }
    }

    fn of(state: &State, name: &EnvironmentName) -> Self {
        let view = state.index.view(name);
        let launchers = state.launchers();
        let launching = view.map(|view| launchers.unsettled(&view));
        Self {
            reasons: hindrances(state, name),
            launching: launching.unwrap_or_default(),
            is_current: launchers.leader.is_some_and(|leader| leader.is_current),
        }
    }

    fn is_ready(&self) -> bool {
        self.reasons.is_empty()
    }

    /// A backend for which it makes no sense to wait.
    fn hopeless(&self) -> Option<&str> {
        let failed = |backend: &Backend| matches!(backend.phase, Phase::Failed { .. });
        let mut all = self.launching.iter().filter(|_| self.is_current);
        let found = all.find(|(_, backend)| failed(backend) && backend.failures >= HOPELESS);
        found.map(|(name, _)| name.as_str())
    }
}

/// Why an environment is not in force everywhere; nothing when it is.
fn hindrances(state: &State, name: &EnvironmentName) -> Vec<String> {
    let Some(view) = state.index.view(name) else {
        return vec![state.unknown(name)];
    };
    let mut reasons = view.reasons();
    reasons.extend(state.launchers().reasons(&view));
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
        // What a router keeps for others hinders nobody here.
        let of_others = daemon.error == daemon.guard && !state.keeps_of(&daemon.node, &view);
        if let Some(error) = daemon.error.filter(|_| !of_others) {
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
