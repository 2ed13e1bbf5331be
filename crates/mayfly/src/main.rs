//! The operator's tool. See the library for its commands.

use std::process::ExitCode;

use mayfly::args::Arguments;
use mayfly_daemon::run;

fn main() -> ExitCode {
    let arguments = Arguments::from_command_line();
    let common = arguments.common.clone();
    run::main(&common, |signals| mayfly::run(arguments, signals))
}
