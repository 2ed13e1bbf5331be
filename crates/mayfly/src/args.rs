//! The command line: what every command takes, and the list of commands. Each command's own arguments stand in its
//! module.

use clap::{CommandFactory as _, Parser, Subcommand};
use mayfly_daemon::args::CommonArgs;

use crate::{apply, completions, confirm, delete, explain, keep, lint, man, schema, status, wait};

const EXAMPLES: &str = "\
Examples:
  mayfly status                             what there is, what is missing, and who lags behind
  mayfly explain http://www-temp-1.example.com/api
  mayfly wait temp-1                        until it is in force everywhere
  mayfly lint environments/                 what is wrong with files, before they are saved there
  mayfly apply -f temp-1.yaml               register an environment without a registrar
  mayfly keep temp-1 8h                     let it live on, or bring it back
  mayfly delete temp-1
  mayfly confirm container-launcher         yes, so many environments were to go

Each command has examples of its own: mayfly help apply.

Exit codes: 0 it is done; 1 it failed, or files have faults; 2 the command line is wrong.";

/// The operator's tool of Mayfly: checks environment files, and changes and shows what is registered in etcd
#[derive(Debug, Parser)]
#[command(
    name = "mayfly",
    version,
    after_help = EXAMPLES,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Arguments {
    /// What every program of Mayfly takes.
    #[command(flatten)]
    pub common: CommonArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    #[allow(missing_docs)]
    Status(status::Args),
    #[allow(missing_docs)]
    Explain(explain::Args),
    #[allow(missing_docs)]
    Wait(wait::Args),
    #[allow(missing_docs)]
    Lint(lint::Args),
    #[allow(missing_docs)]
    Apply(apply::Args),
    #[allow(missing_docs)]
    Delete(delete::Args),
    #[allow(missing_docs)]
    Keep(keep::Args),
    #[allow(missing_docs)]
    Confirm(confirm::Args),
    #[allow(missing_docs)]
    Schema(schema::Args),
    #[allow(missing_docs)]
    Completions(completions::Args),
    #[allow(missing_docs)]
    Man(man::Args),
}

impl Arguments {
    /// Reads the command line; ends the process where it is wrong or asks for help.
    pub fn from_command_line() -> Self {
        mayfly_daemon::args::parse_as(command())
    }
}

/// The command line as clap has it: as for a daemon, but quiet, and without the endpoint of a daemon.
pub fn command() -> clap::Command {
    Arguments::command()
        .mut_arg("log", |log| log.default_value("warn"))
        .mut_arg("admin", |admin| admin.hide(true))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::FromArgMatches as _;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn a_tool_is_quiet() {
        let matches = command().try_get_matches_from(["mayfly", "schema"]).unwrap();
        assert_eq!(Arguments::from_arg_matches(&matches).unwrap().common.log, "warn");
    }

    #[test]
    fn every_command_shows_examples() {
        for mut command in command().get_subcommands().cloned() {
            let help = command.render_long_help().to_string();
            let example = format!("  mayfly {}", command.get_name());
            assert!(help.contains("Examples:\n") && help.contains(&example), "{help}");
        }
    }
}
