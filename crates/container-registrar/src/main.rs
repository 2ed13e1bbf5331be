//! Registers running instances in etcd under a lease. See the library for the chain of its steps.

use std::process::ExitCode;

use container_registrar::args::Arguments;

fn main() -> ExitCode {
    let arguments: Arguments = mayfly_daemon::args::parse();
    if let Err(error) = arguments.check() {
        error.exit();
    }
    let common = arguments.common.clone();
    mayfly_daemon::run::with_one_thread(&common, |signals| container_registrar::run(arguments, signals))
}
