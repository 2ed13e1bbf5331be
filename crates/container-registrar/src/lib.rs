//! The container registrar: runs beside one instance of a backend, or on a host with many, and advertises in etcd under a
//! lease what answers. Commands for a single entry and for looking are included.
//!
//! The chain of `register`: [`args`] (checked arguments) -> [`location`] (the address, names resolved) -> [`check`]
//! (does it answer?) -> [`health`] (pure: N failures take it out, M successes bring it back) -> [`pulse`] (both, again and
//! again) -> [`register`] (the advertised record, and the way out). [`docker`] has a chain of its own, with the same
//! [`pulse`] for each container. [`permanent`], [`list`] and [`deregister`] stand beside it.

pub mod args;
pub mod check;
pub mod deregister;
pub mod docker;
pub mod health;
pub mod list;
pub mod location;
pub mod permanent;
pub mod pulse;
pub mod register;

use std::process::ExitCode;

use mayfly_daemon::shutdown::Shutdown;

use args::{Arguments, Command};

/// Runs the command that the arguments name.
///
/// # Errors
/// When the command fails; the message says which action on what.
pub async fn run(arguments: Arguments, shutdown: Shutdown) -> anyhow::Result<ExitCode> {
    let Arguments { common, command } = arguments;
    match command {
        Command::Register(register) if register.permanent => permanent::run(&common, &register).await,
        Command::Docker(docker) => docker::run(&common, *docker, shutdown).await,
        Command::Register(register) => register::run(&common, *register, shutdown).await,
        Command::Deregister(instance) => deregister::run(&common, &instance).await,
        Command::List(list) => list::run(&common, &list).await,
    }
}
