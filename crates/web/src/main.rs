//! Serves the page and the read API. See the library for the chain of its steps.

use std::process::ExitCode;

use mayfly_web::args::Arguments;

fn main() -> ExitCode {
    let arguments: Arguments = mayfly_daemon::args::parse();
    let common = arguments.common.clone();
    mayfly_daemon::run::main(&common, |signals| async {
        mayfly_web::run(arguments, signals.shutdown()?).await
    })
}
