//! `environment-registrar`: parses the arguments and runs the library.

use std::process::ExitCode;

use environment_registrar::args::{Arguments, Command};
use environment_registrar::{check, list, watch};
use mayfly_daemon::run;

fn main() -> ExitCode {
    let Arguments { common, command } = mayfly_daemon::args::parse();
    run::with_one_thread(&common, |shutdown| {
        let common = common.clone();
        async move {
            match command {
                Command::Watch(options) => watch::run(&common, options, shutdown).await,
                Command::Check {
                    files,
                    services,
                    addresses,
                } => check::run(&files, &services, addresses),
                Command::List(options) => list::run(&common.store()?, &options).await,
            }
        }
    })
}
