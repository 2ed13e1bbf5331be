//! The container launcher: starts the containers that environments need and nobody runs, and retires those that none needs.
//!
//! The chain: [`observe`] (etcd as a view: environments resolved, definitions, live instances) and the [`engine`]'s inventory
//! -> [`want`] (pure: which backends are needed, and how each is started) -> [`plan`] (pure: that against what runs, by the
//! clock: what to start, drain and remove; [`guard`] holds back what a registry that suddenly empties would retire) ->
//! [`act`] (one task for each unit) -> [`report`] (the status record and metrics). [`launch`] runs it while it leads;
//! [`dry_run`] prints one plan.
//!
//! Invariants: nothing is touched that does not carry the labels of this launcher's key prefix; no unit is made twice, since
//! its name follows from its backend and number; what a definition asks for is checked again before each start.

pub mod act;
pub mod args;
pub mod dry_run;
pub mod engine;
pub mod guard;
pub mod launch;
pub mod naming;
pub mod observe;
pub mod plan;
pub mod report;
pub mod want;

use std::process::ExitCode;

use mayfly_daemon::shutdown::Shutdown;

use args::{Arguments, EngineKind};
use engine::{Docker, Swarm};

/// Runs until the shutdown begins, or prints one plan.
///
/// # Errors
/// When the engine's address makes no sense, the admin address is taken, or a background task ends; and for one plan, when
/// etcd or the engine do not answer. A daemon waits for both.
pub async fn run(arguments: Arguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let (url, prefix) = (&arguments.docker, arguments.common.prefix.to_string());
    match arguments.engine {
        EngineKind::Docker => with(Docker::new(url, &prefix)?, arguments, shutdown).await,
        EngineKind::Swarm => {
            let engine = Swarm::new(url, &prefix, arguments.stop_timeout)?;
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
    launch::run(engine, arguments, shutdown).await
}
