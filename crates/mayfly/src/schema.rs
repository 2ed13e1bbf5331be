//! `mayfly schema`: the JSON Schema of the environment file, with which editors complete and check it. It says what a
//! schema can say; `mayfly lint` says all.

use std::process::ExitCode;

use mayfly_daemon::output;

/// The schema, in draft-07: what the language servers of editors know best.
pub const SCHEMA: &str = include_str!("../environment.schema.json");

pub(crate) const EXAMPLES: &str = "\
Examples:
  mayfly schema > /etc/mayfly/environment.schema.json

An editor with yaml-language-server (VS Code, Neovim, Helix, Emacs) then completes and checks a file that begins with
  # yaml-language-server: $schema=/etc/mayfly/environment.schema.json
and every file of a directory by its setting
  yaml.schemas: {\"/etc/mayfly/environment.schema.json\": \"environments/*.yaml\"}";

/// Prints the schema to standard output.
///
/// # Errors
/// When it can't be printed.
pub fn run() -> anyhow::Result<ExitCode> {
    output::print(SCHEMA)?;
    Ok(ExitCode::SUCCESS)
}
