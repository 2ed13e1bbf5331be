//! The container registrar: runs beside one instance of a backend, or on a host with many, and
//! registers in etcd under a lease what answers. It has commands for single entries, too.
//!
//! The chain of `register`: [`args`] (checked arguments) -> [`location`] (the address, names
//! resolved) -> [`check`] (does it answer?) -> [`health`] (pure: N failures take it out, M
//! successes bring it back) -> [`probe`] (both, again and again) -> [`register`] (the record, and
//! its end). [`docker`] follows the spine, with the same [`probe`] for each container.
//! [`permanent`], [`list`] and [`deregister`] are for single entries.
//!
//! [`mayfly_daemon::lease`] writes what is registered to etcd, and retries while etcd is away.

pub mod args;
mod check;
mod deregister;
mod docker;
mod health;
mod list;
mod location;
mod permanent;
mod probe;
mod register;

use std::process::ExitCode;

use mayfly_daemon::shutdown::Signals;

use args::{Arguments, Command};

/// Runs the command that the arguments name.
///
/// # Errors
/// When the command fails; the message says which action on what.
pub async fn run(arguments: Arguments, signals: impl Into<Signals>) -> anyhow::Result<ExitCode> {
    let signals = signals.into();
    let Arguments { common, command } = arguments;
    match command {
        Command::Register(register) if register.permanent => permanent::run(&common, &register).await,
        Command::Docker(docker) => docker::run(&common, *docker, signals.shutdown()?).await,
        Command::Register(register) => register::run(&common, *register, signals.shutdown()?).await,
        Command::Deregister(instance) => deregister::run(&common, &instance).await,
        Command::List(list) => list::run(&common, &list).await,
    }
}
