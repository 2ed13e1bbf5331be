//! The DNS updater: every service that Mayfly knows resolves to the internal side of every live
//! router, by a hosts file that dnsmasq reads whenever it is replaced. The file has the static
//! records, too.
//!
//! The chain of `watch`, driven by [`run`](mod@run):
//!
//! 1. [`desired`] (pure): what etcd says about names, as a typed view.
//! 2. [`render`] (pure): the bytes of the hosts file.
//! 3. [`apply`]: the file on disk, written only when its bytes differ, and repaired.
//!
//! [`lacks`] logs what is missing. [`static_records`] holds the commands for static records.

mod apply;
pub mod args;
mod desired;
mod lacks;
mod render;
mod run;
mod static_records;

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
        Command::Watch(watch) => run::run(&common, watch, signals.shutdown()?).await,
        Command::Update { host, addresses } => static_records::update(&common, host, addresses).await,
        Command::Delete { hosts } => static_records::delete(&common, hosts).await,
        Command::List { format } => static_records::list(&common, format).await,
        Command::Reset => static_records::reset(&common).await,
    }
}
