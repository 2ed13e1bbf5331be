//! The operator's tool. It reads and writes etcd, as the daemons do, and talks to none of them.
//! Only [`doctor`] uses a Docker engine, too.
//!
//! One module for each command, with its own arguments. [`status`], [`explain`], [`wait`] and
//! [`diff`] only read: `mayfly_state` is what they read from etcd, and what follows from it.
//! [`lint`] and [`schema`] are about files alone. [`apply`], [`delete`] and [`keep`] change what is
//! registered: [`registry`] is what they read from etcd first, and [`clash`] finds conflicts with
//! it. [`local`] registers an environment for as long as it runs, with a process on this machine in
//! it. [`confirm`] and [`relaunch`] give a daemon an operator's request. [`access`] makes passwords.
//! [`dump`] and [`restore`] back up and bring back what only etcd has. [`init`] writes a compose
//! project of Mayfly, and [`import`] makes files of what other tools' files describe. [`mcp`] offers
//! commands to agents. [`completions`] and [`man`] describe the tool itself.

mod access;
mod apply;
pub mod args;
mod clash;
mod completions;
mod confirm;
mod delete;
mod diff;
mod doctor;
mod dump;
mod explain;
pub mod import;
mod init;
mod keep;
mod lint;
mod local;
mod man;
mod mcp;
mod quoting;
mod registry;
mod relaunch;
mod restore;
mod route_table;
mod schema;
mod status;
mod wait;

use std::process::ExitCode;

use mayfly_daemon::shutdown::Signals;

use args::{Arguments, Command};

/// Runs the command that the arguments name. A command that asks for no shutdown ends with the first
/// signal.
///
/// # Errors
/// When the command fails; the message says which action on what.
pub async fn run(arguments: Arguments, signals: Signals) -> anyhow::Result<ExitCode> {
    let Arguments { common, command } = arguments;
    match command {
        Command::Init(args) => init::run(&args, &signals.shutdown()?).await,
        Command::Status(args) => status::run(&common, &args, signals).await,
        Command::Doctor(args) => doctor::run(&common, &args, &signals.shutdown()?).await,
        Command::Explain(args) => explain::run(&common, &args).await,
        Command::Wait(args) => wait::run(&common, &args, &signals.shutdown()?).await,
        Command::Diff(args) => diff::run(&common, &args).await,
        Command::Lint(args) => lint::run(&args),
        Command::Apply(args) => apply::run(&common, &args).await,
        Command::Delete(args) => delete::run(&common, &args).await,
        Command::Confirm(args) => confirm::run(&common, &args).await,
        Command::Relaunch(args) => relaunch::run(&common, &args, &signals.shutdown()?).await,
        Command::Access(args) => access::run(&common, &args).await,
        Command::Keep(args) => keep::run(&common, &args).await,
        Command::Local(args) => local::run(&common, &args, &signals.shutdown()?).await,
        Command::Import(args) => import::run(&args, init::project_around),
        Command::Dump(args) => dump::run(&common, &args).await,
        Command::Restore(args) => restore::run(&common, &args).await,
        Command::Mcp(args) => mcp::run(&args, args::command(), &signals.shutdown()?).await,
        Command::Schema(args) => schema::run(&args),
        Command::Completions(args) => completions::run(&args, args::command()),
        Command::Man(args) => man::run(&args, args::command()),
    }
}
