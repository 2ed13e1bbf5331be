//! What the `main` of every program does: start logging, build the runtime, run until the work or
//! the process is told to end, print the chain of causes once, and turn the outcome into an exit
//! code.

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::Builder;
use tracing::debug;

use crate::args::CommonArgs;
use crate::shutdown::Signals;
use crate::{clock, logs};

/// How long blocking work, such as a name being looked up, may hold up the end of the process.
const LAST_WAIT: Duration = Duration::from_millis(500);

/// Runs a program to its end: `fn main() -> ExitCode { let args = Args::parse();
/// run::main(&args.common, |signals| ...) }`.
///
/// `run` gets the [`Signals`]. A daemon asks them for the shutdown that SIGTERM and SIGINT begin,
/// and has to return soon after; a command that does not ask ends with the first signal. The error
/// of `run` is printed to stderr as one line, causes included, and gives exit code 1.
pub fn main<F, Work>(common: &CommonArgs, run: F) -> ExitCode
where
    F: FnOnce(Signals) -> Work,
    Work: Future<Output = anyhow::Result<ExitCode>>,
{
    let mut runtime = Builder::new_multi_thread();
    // Daemons wait more than they compute; one thread a core would only cost memory.
    finish(common, runtime.worker_threads(2), run)
}

/// As [`main`], with one thread for everything: for a program that only waits, and that never
/// computes for so long that its leases would suffer. It starts quicker, and wakes up without
/// waking another thread.
pub fn with_one_thread<F, Work>(common: &CommonArgs, run: F) -> ExitCode
where
    F: FnOnce(Signals) -> Work,
    Work: Future<Output = anyhow::Result<ExitCode>>,
{
    finish(common, &mut Builder::new_current_thread(), run)
}

fn finish<F, Work>(common: &CommonArgs, runtime: &mut Builder, run: F) -> ExitCode
where
    F: FnOnce(Signals) -> Work,
    Work: Future<Output = anyhow::Result<ExitCode>>,
{
    let outcome = start(common, runtime, run);
    logs::flush();
    match outcome {
        Ok(code) => code,
        Err(error) => {
            logs::last_words(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn start<F, Work>(common: &CommonArgs, runtime: &mut Builder, run: F) -> anyhow::Result<ExitCode>
where
    F: FnOnce(Signals) -> Work,
    Work: Future<Output = anyhow::Result<ExitCode>>,
{
    logs::start(&common.log, common.log_format)?;
    let signals = Signals::of_process();
    let runtime = runtime.enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        tokio::spawn(clock::watch());
        run(signals).await
    });
    runtime.shutdown_timeout(LAST_WAIT);
    debug!("ended");
    result
}
