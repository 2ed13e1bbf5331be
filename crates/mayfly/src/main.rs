//! `mayfly`: parses the arguments and runs the library.

use std::process::ExitCode;

use mayfly::args::{Arguments, Command};
use mayfly::{apply, completions, confirm, delete, explain, keep, lint, man, schema, status, wait};
use mayfly_daemon::run;

fn main() -> ExitCode {
    let Arguments { common, command } = Arguments::from_command_line();
    run::main(&common, |shutdown| {
        let common = common.clone();
        async move {
            match command {
                Command::Status(args) => status::run(&common, &args, &shutdown).await,
                Command::Explain(args) => explain::run(&common, &args).await,
                Command::Wait(args) => wait::run(&common, &args, &shutdown).await,
                Command::Lint(args) => lint::run(&args),
                Command::Apply(args) => apply::run(&common, &args).await,
                Command::Delete(args) => delete::run(&common, &args).await,
                Command::Confirm(args) => confirm::run(&common, &args).await,
                Command::Keep(args) => keep::run(&common, &args).await,
                Command::Schema(args) => schema::run(&args),
                Command::Completions(args) => completions::run(&args),
                Command::Man(args) => man::run(&args),
            }
        }
    })
}
