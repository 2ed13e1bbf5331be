//! The DNS updater: every service that Mayfly knows leads, by name, to the internal side of every live router, by way of
//! a hosts file that dnsmasq reads by itself whenever it is replaced. Static records stand beside them.
//!
//! The chain of `watch`: [`args`] -> [`view`] (pure: changes of etcd to a typed view, the faulty set aside) ->
//! [`render`] (pure: view to the bytes of the hosts file) -> [`hosts_file`] (written only when different, mended when
//! somebody else changed it), driven by [`watch`]. [`records`] holds the commands for static records.

pub mod args;
pub mod hosts_file;
pub mod records;
pub mod render;
pub mod view;
pub mod watch;

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
        Command::Watch(watch) => watch::run(&common, watch, shutdown).await,
        Command::Update { host, addresses } => records::update(&common, host, addresses).await,
        Command::Delete { hosts } => records::delete(&common, hosts).await,
        Command::List { format } => records::list(&common, format).await,
        Command::Reset => records::reset(&common).await,
    }
}
