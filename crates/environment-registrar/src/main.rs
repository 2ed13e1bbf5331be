//! Keeps etcd in sync with files. See the library for the chain of its steps.

use std::process::ExitCode;

use environment_registrar::args::Arguments;

fn main() -> ExitCode {
    let arguments: Arguments = mayfly_daemon::args::parse();
    let common = arguments.common.clone();
    mayfly_daemon::run::with_one_thread(&common, |signals| environment_registrar::run(arguments, signals))
}
