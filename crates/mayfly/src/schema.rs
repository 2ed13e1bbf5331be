//! `mayfly schema`: the JSON Schemas of the files, with which editors complete and check them. They say what a schema can
//! say; `mayfly lint` says all.

use std::process::ExitCode;

use clap::ValueEnum;
use mayfly_daemon::output;

/// The schema of the environment file, in draft-07: what the language servers of editors know best.
pub const ENVIRONMENTS: &str = include_str!("../environment.schema.json");
/// The same of the files of service definitions.
pub const SERVICES: &str = include_str!("../service.schema.json");

const EXAMPLES: &str = "\
Examples:
  mayfly schema > /etc/mayfly/environment.schema.json
  mayfly schema services > /etc/mayfly/service.schema.json

An editor with yaml-language-server (VS Code, Neovim, Helix, Emacs) then completes and checks a file that begins with
  # yaml-language-server: $schema=/etc/mayfly/environment.schema.json
and every file of a directory by its setting
  yaml.schemas: {\"/etc/mayfly/environment.schema.json\": \"environments/*.yaml\"}";

/// Print the JSON Schema of the environment file or of service definitions, with which editors complete and check them
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Of which files
    #[arg(value_enum, default_value_t)]
    pub files: Files,
}

/// The kinds of files that have a schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Files {
    /// Environment files.
    #[default]
    Environments,
    /// Files of service definitions.
    Services,
}

/// Prints a schema to standard output.
///
/// # Errors
/// When it can't be printed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    output::print(match args.files {
        Files::Environments => ENVIRONMENTS,
        Files::Services => SERVICES,
    })?;
    Ok(ExitCode::SUCCESS)
}
