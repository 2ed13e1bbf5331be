//! `mayfly wait`: returns when an environment is in force everywhere: every router and every DNS
//! updater has applied it, and nothing is missing. It only follows etcd. It also waits for what a
//! container-launcher starts for the environment, as long as there is hope.

use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use mayfly_core::names::EnvironmentName;
use mayfly_daemon::args::{CommonArgs, duration};
use mayfly_daemon::output::{self, Format, complain, printable};
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::store::Store;
use mayfly_daemon::watch::{WatchOptions, watch};
use mayfly_state::launchers;
use mayfly_state::state::State;
use mayfly_state::wait::{SeenFailures, WaitState};
use tokio::time::{Instant, sleep_until};

const EXAMPLES: &str = "\
Examples:
  mayfly wait temp-1                          returns when all routers have applied temp-1
  mayfly apply -f temp-1.yaml && mayfly wait temp-1 --timeout 2min
  mayfly wait temp-1 --format json            {\"environment\": ..., \"ready\": true, \"revision\": ..., \"reasons\": []}

Exit codes: 0 in force; 1 not in force, with the reason; 2 wrong command line.";

/// Waits until an environment is complete, and in force on every router
///
/// An environment is in force when two things are true. Every service, including inherited ones,
/// has its live instances. Every router and dns-updater has applied the newest revision of the
/// environment, of its base environments and of its instances. An environment is not in force if
/// its registrar refused the newest version of its file. When the reasons for waiting change, the
/// command prints them to standard error.
///
/// Every instance that the container-launcher starts for the environment must answer. If a
/// backend fails three times in a row, the command ends immediately. It prints the reason and the
/// last lines of the container's output. A backend that had failed before gets its next try first,
/// if that try comes in time.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The environment; it need not be registered yet
    #[arg(value_name = "ENV")]
    pub environment: EnvironmentName,

    /// Waits at most this long
    #[arg(long, env = "MAYFLY_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub timeout: Duration,

    /// Counts an environment as complete only if each service has at least this many live instances
    #[arg(long, env = "MAYFLY_MIN_INSTANCES", value_name = "N", default_value_t = 1)]
    pub min_instances: usize,

    /// Prints the outcome in this format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// Waits.
///
/// # Errors
/// When the outcome cannot be printed.
pub async fn run(common: &CommonArgs, args: &Args, shutdown: &Shutdown) -> anyhow::Result<ExitCode> {
    let store = common.store()?;
    let state = State::new(store.keyspace(), args.min_instances);
    tokio::select! {
        () = shutdown.begun() => Ok(ExitCode::from(130)),
        waited = until(&store, state, &args.environment, args.timeout, complain) => {
            conclude(args, &waited)
        }
    }
}

/// What a wait has come to.
pub struct Waited {
    /// What etcd had at its end.
    pub state: State,
    /// How the environment was then.
    pub latest: WaitState,
    /// The backend that keeps failing, if the wait was given up for it.
    pub hopeless: Option<String>,
}

/// Follows etcd until an environment is in force everywhere, or cannot be, or time is over. Tells
/// what is waited for, whenever that changes.
pub async fn until(
    store: &Store,
    mut state: State,
    name: &EnvironmentName,
    limit: Duration,
    tell: impl Fn(&str),
) -> Waited {
    let deadline = Instant::now() + limit;
    let mut following = watch(store, store.keyspace().everything(), WatchOptions::default());
    let mut latest = WaitState::unknown();
    let mut hopeless = None;
    let (end, mut seen) = (SystemTime::now() + limit, SeenFailures::default());
    loop {
        tokio::select! {
            () = sleep_until(deadline) => break,
            batch = following.next_batch_coalesced() => state.take(batch),
        }
        let now = WaitState::of(&state, name);
        hopeless = seen.hopeless(&now, end).map(str::to_owned);
        if now.is_ready() || hopeless.is_some() {
            latest = now;
            break;
        }
        if now.reasons != latest.reasons {
            tell(&format!("waiting: {}", printable(&now.reasons.join("; "))));
        }
        latest = now;
    }
    Waited {
        state,
        latest,
        hopeless,
    }
}

fn conclude(args: &Args, waited: &Waited) -> anyhow::Result<ExitCode> {
    let (name, latest) = (&args.environment, &waited.latest);
    let outcome = latest.outcome(name, &waited.state);
    if args.format == Format::Json {
        output::print(&output::json(&outcome)?)?;
    } else if outcome.ready {
        let revision = outcome.revision;
        output::print(&format!("{name} is in force everywhere (revision {revision})\n"))?;
    }
    if outcome.ready {
        return Ok(ExitCode::SUCCESS);
    }
    let what = match &waited.hopeless {
        Some(backend) => format!("{name} cannot come into force: {backend} keeps failing"),
        None => {
            let limit = humantime::format_duration(args.timeout);
            format!("{name} is not in force after {limit}")
        }
    };
    let reasons = printable(&latest.reasons.join("; "));
    complain(&format!(
        "error: {what}: {reasons}\n{}",
        launchers::outputs(&latest.launching)
    ));
    Ok(ExitCode::FAILURE)
}
