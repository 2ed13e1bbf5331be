//! The command line: what every command takes, and the list of commands. Each command's own
//! arguments stand in its module.

use clap::{CommandFactory as _, Parser, Subcommand};
use mayfly_daemon::args::CommonArgs;

use crate::{
    access, apply, completions, confirm, delete, diff, doctor, dump, explain, import, init, keep, lint,
    local, man, mcp, relaunch, restore, schema, status, wait,
};

const EXAMPLES: &str = "\
Examples:
  mayfly init shop                          writes a compose project that runs Mayfly on this host
  mayfly status                             shows environments, what is missing and which daemon lags
  mayfly doctor                             finds faults of the installation, and names cures
  mayfly explain http://www-temp-1.example.com/api
  mayfly wait temp-1                        returns when temp-1 is in force everywhere
  mayfly diff qa prod                       shows which versions and routes differ
  mayfly lint environments/                 finds faults in files, before a registrar reads them
  mayfly apply -f temp-1.yaml               registers an environment without a registrar
  mayfly keep temp-1 8h                     extends the life of temp-1, or brings temp-1 back
  mayfly access temp-1                      makes a password for the users of temp-1
  mayfly delete temp-1
  mayfly local backend 8080 -e temp-1       routes a service of your own environment to a local process
  mayfly relaunch backend pr-12             starts containers again after an image push under the same tag
  mayfly import compose docker-compose.yml  makes definitions and an environment from a compose file
  mayfly confirm container-launcher         confirms that the mass deletion was intended
  mayfly dump mayfly.dump                   backs up the records that only etcd has

Each command has examples of its own: mayfly help apply.

Exit codes: 0 success; 1 failure, or faulty files; 2 wrong command line.";

/// Checks environment files, and shows and changes what is registered in etcd
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
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Init(init::Args),
    Status(status::Args),
    Doctor(doctor::Args),
    Explain(explain::Args),
    Wait(wait::Args),
    Diff(diff::Args),
    Lint(lint::Args),
    Apply(apply::Args),
    Delete(delete::Args),
    Keep(keep::Args),
    Access(access::Args),
    Confirm(confirm::Args),
    Relaunch(relaunch::Args),
    Local(local::Args),
    Import(import::Args),
    Dump(dump::Args),
    Restore(restore::Args),
    Mcp(mcp::Args),
    Schema(schema::Args),
    Completions(completions::Args),
    Man(man::Args),
}

impl Arguments {
    /// Reads the command line; ends the process where it is wrong or asks for help.
    pub fn from_command_line() -> Self {
        mayfly_daemon::args::parse_as(command())
    }
}

/// The command line as clap has it: as for a daemon, but quiet, and without the endpoint of a
/// daemon.
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
    fn an_import_has_a_key_prefix_only_if_one_was_given() {
        for (line, expected) in [
            ("mayfly import compose c.yml", None),
            ("mayfly import compose c.yml --prefix /shop", Some("/shop")),
            ("mayfly --prefix /shop import compose c.yml", Some("/shop")),
            ("mayfly import --prefix=/mayfly compose c.yml", Some("/mayfly")),
            ("mayfly --prefix /mayfly import compose c.yml", Some("/mayfly")),
        ] {
            let arguments = Arguments::parse_from(line.split(' '));
            let Command::Import(args) = arguments.command else {
                panic!("{line}");
            };
            let found = args.prefix.0.as_ref().map(ToString::to_string);
            assert_eq!(found.as_deref(), expected, "{line}");
            assert_eq!(
                arguments.common.prefix.to_string(),
                expected.unwrap_or("/mayfly"),
                "{line}"
            );
        }
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
