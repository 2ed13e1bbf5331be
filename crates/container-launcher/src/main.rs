//! Starts the containers that environments need, and retires those that no environment needs. See
//! the library for the chain of its steps.

use std::process::ExitCode;

use container_launcher::args::Arguments;

fn main() -> ExitCode {
    let arguments: Arguments = mayfly_daemon::args::parse();
    let common = arguments.common.clone();
    mayfly_daemon::run::main(&common, |signals| async {
        container_launcher::run(arguments, signals.shutdown()?).await
    })
}
