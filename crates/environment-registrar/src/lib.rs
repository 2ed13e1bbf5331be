//! Keeps the environments of etcd in sync with a directory of YAML files, and service definitions
//! with another.
//!
//! The chain, one stack for both, generic over a [`resource::Resource`] ([`environments`],
//! [`definitions`]): [`files_in`] (what has changed in the directory, and what the files hold) ->
//! [`desired`] (what each file says, and all of them merged with what others have registered: what
//! is to be in etcd) -> [`plan`] (that against [`actual`], what etcd holds: puts and deletes, and
//! what of them waits for the next round) -> [`apply`] (conditional writes) -> [`report`] (the
//! status record and metrics). [`reconcile`] goes through it once, for all or for what has changed;
//! [`run`](mod@run) is the loop. [`check`] and [`list`] are commands of their own.
//!
//! The way back, beside the chain and after it: [`files_out`] (contents that took effect and files
//! of ended environments go to the archive, files of those that were brought back return, and
//! copies are kept of what others registered).
//!
//! Invariants: nothing of a refused environment is registered, and its last good version stays; a
//! record that somebody else registered is never touched, unless a person changed the copy of it
//! that we wrote; nothing is deleted while the directory cannot be read; no file is overwritten,
//! and none deleted, that says anything but what we know it to say.

mod actual;
mod apply;
pub mod args;
mod changes;
mod check;
mod definitions;
mod desired;
mod environments;
mod files_in;
mod files_out;
mod list;
mod plan;
mod reconcile;
mod report;
mod resource;
mod run;

use std::process::ExitCode;

use mayfly_daemon::shutdown::Signals;

use args::{Arguments, Command};

/// Runs the command that the arguments name; `watch` until the shutdown begins.
///
/// # Errors
/// When what the command needs is not there: see each of them.
pub async fn run(arguments: Arguments, signals: impl Into<Signals>) -> anyhow::Result<ExitCode> {
    let signals = signals.into();
    let common = arguments.common;
    match arguments.command {
        Command::Watch(options) => run::watch(&common, options, signals.shutdown()?).await,
        Command::Check {
            files,
            services,
            addresses,
        } => check::run(&files, &services, &addresses),
        Command::List(options) => list::run(&common.store()?, &options).await,
    }
}
