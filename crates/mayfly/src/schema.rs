//! `mayfly schema`: the JSON Schemas of the files, for completion and checks in editors. They cover
//! what a schema can express; `mayfly lint` covers everything.

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
For all files of a directory, use the setting
  yaml.schemas: {\"/etc/mayfly/environment.schema.json\": \"environments/*.yaml\"}";

/// Prints the JSON Schema of environment files or service definitions, for completion and checks in
/// editors
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The kind of files that the schema describes
    #[arg(value_enum, default_value_t)]
    pub files: SchemaKind,
}

/// The kinds of files that have a schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum SchemaKind {
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
        SchemaKind::Environments => ENVIRONMENTS,
        SchemaKind::Services => SERVICES,
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests;
