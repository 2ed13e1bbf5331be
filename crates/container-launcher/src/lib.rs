//! The container launcher: starts the containers that environments need and that do not run yet,
//! and retires those that no environment needs.
//!
//! The chain, driven by [`run`] while it leads:
//!
//! 1. [`desired`]: etcd as a view: environments resolved, definitions, live instances.
//! 2. [`engine`]: what the engine has, as an inventory, and how units start and stop there.
//! 3. [`recipe`] (pure): how a backend is started, by its definition and this launcher's limits.
//! 4. [`plan`] (pure): what to start, drain and remove, by the clock. [`mayfly_core::trust`] holds
//!    back what a registry that suddenly empties would retire.
//! 5. [`apply`]: one task for each unit.
//! 6. [`report`]: the status record, metrics and log.
//!
//! [`dry_run`] prints one plan.
//!
//! Invariants: nothing is touched without the labels of this launcher's key prefix; no unit is made
//! twice, since its name follows from its backend and number; what a definition asks for is checked
//! again before each start.

mod apply;
pub mod args;
mod desired;
mod dry_run;
pub mod engine;
mod naming;
mod plan;
mod recipe;
mod report;
mod run;

use std::process::ExitCode;

use mayfly_daemon::shutdown::Shutdown;

use args::{Arguments, EngineKind};
use engine::{Docker, Swarm};
/// Runs the daemon on an engine, whatever the arguments say of that.
pub use run::run as run_on;

/// Runs until the shutdown begins, or prints one plan.
///
/// # Errors
/// When the admin address is taken, or a background task ends; and for one plan, when
/// etcd or the engine do not answer. A daemon waits for both.
pub async fn run(arguments: Arguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let (url, prefix) = (&arguments.docker, &arguments.common.prefix);
    match arguments.engine {
        EngineKind::Docker => with(Docker::new(url, prefix), arguments, shutdown).await,
        EngineKind::Swarm => {
            let engine = Swarm::new(url, prefix, arguments.stop_timeout);
            with(engine, arguments, shutdown).await
        }
    }
}

async fn with<E: engine::Engine>(
    engine: E,
    arguments: Arguments,
    shutdown: Shutdown,
) -> anyhow::Result<ExitCode> {
    if arguments.dry_run {
        return dry_run::run(&engine, &arguments).await;
    }
    run_on(engine, arguments, shutdown).await
}
