//! `mayfly lint`: checks files as the registrar would, by the same code, without etcd.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::ensure;
use clap::ValueEnum;
use mayfly_core::environment_file::{self, ParsedEnvironments};
use mayfly_core::file::{Fault, Subject};
use mayfly_core::lint::Checked;
use mayfly_core::printable::printable;
use mayfly_daemon::args::AddressArgs;
use mayfly_daemon::input;
use mayfly_daemon::lint::{Lint, exit_code};
use mayfly_daemon::output;

const EXAMPLES: &str = "\
Examples:
  mayfly lint temp-1.yaml                       checks one file
  mayfly lint environments/                     checks all *.yaml and *.yml files, also against each other
  mayfly lint environments/ --services services/    checks service definitions, too
  mayfly lint --allow-address '*.internal' environments/    checks addresses like routers with this flag
  git show main:temp-1.yaml | mayfly lint -     checks standard input
  mayfly lint --format json environments/       prints JSON, for programs

Each fault is a line `file:line:column: field: what is wrong and what would be right`. Editors and CI can read this form.
Exit codes: 0 no fault; 1 faults; 2 wrong command line.";

/// Checks files as a registrar would, but without etcd. Exits with 1 if a file has a fault.
///
/// Besides the faults of each file, the command finds conflicts between files: a name, prefix or
/// header that two environments claim, a service that is defined twice, and environments that
/// extend each other in a circle or over too many levels. It also finds external addresses that
/// routers refuse, but resolves no host names. To find all of these addresses, give
/// --allow-address the same values as the routers.
///
/// A note is no fault. The command prints one if an environment extends an unknown environment, or
/// has a service that no base environment and no definition has, and a similar name is known.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Environment files, directories with *.yaml and *.yml files, or `-` for standard input
    #[arg(
        required_unless_present_any = ["services", "before", "beside", "services_beside", "limited"],
        value_name = "FILE"
    )]
    pub files: Vec<PathBuf>,

    /// Checks the service definitions in this file, or in the *.yaml and *.yml files of this
    /// directory; repeatable
    #[arg(long, value_name = "PATH")]
    pub services: Vec<PathBuf>,

    /// Refuses names, prefixes and headers that environments in this file or directory claim;
    /// repeatable
    ///
    /// The file or directory itself is not checked.
    #[arg(long, value_name = "PATH")]
    pub beside: Vec<PathBuf>,

    /// Refuses a service definition if this file or directory defines the same service; repeatable
    ///
    /// The file or directory itself is not checked.
    #[arg(long, value_name = "PATH")]
    pub services_beside: Vec<PathBuf>,

    /// Compares the files with the files of this directory, an earlier copy of the environments
    ///
    /// Its folder `services` is the earlier copy of the service definitions.
    /// A missing environment is then a fault if it is protected, or if other environments still
    /// extend it. If two environments claim a name, prefix or header, the earlier owner keeps it.
    #[arg(long, value_name = "DIRECTORY")]
    pub before: Option<PathBuf>,

    /// Checks this environment file by stricter rules; repeatable
    ///
    /// An environment in this file must have the name of the file, and must not be protected. The
    /// hooks of a Git repository use this option for the files that a limited key changes.
    #[arg(long, value_name = "FILE")]
    pub limited: Vec<PathBuf>,

    #[command(flatten)]
    pub addresses: AddressArgs,

    /// Prints the outcome in this format
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

/// How to print the outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line for each fault, for people and editors.
    #[default]
    Text,
    /// One JSON document, for programs.
    Json,
}

/// Checks files and prints the outcome to standard output.
///
/// # Errors
/// When the outcome can't be printed, or standard input is to have the name of a file.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    ensure!(
        !args.limited.iter().any(|file| file == Path::new("-")),
        "--limited needs a file name, which standard input does not have"
    );
    let files = [args.files.as_slice(), &args.limited].concat();
    let lint = Lint {
        files: &files,
        services: &args.services,
        beside: &args.beside,
        services_beside: &args.services_beside,
        before: args.before.as_deref(),
    };
    let mut checked = lint.check(&args.addresses);
    for (file, parsed) in input::read(&args.limited, environment_file::parse) {
        limit(&mut checked, &file, &parsed);
    }
    match args.format {
        Format::Text => output::print(&checked.text())?,
        Format::Json => output::print(&output::json(&checked)?)?,
    }
    Ok(exit_code(&checked))
}

/// Adds the faults that a file has only because it is limited.
fn limit(checked: &mut Checked, file: &str, parsed: &ParsedEnvironments) {
    let Some(of_file) = checked.files.iter_mut().find(|of| of.file == file) else {
        return;
    };
    let stem = Path::new(file).file_stem().unwrap_or_default().to_string_lossy();
    let before = of_file.faults.len();
    for found in &parsed.entries {
        let environment = &found.environment;
        let mut fault = |field: &str, message: String| {
            of_file.faults.push(Fault {
                mark: found.name,
                field: field.to_owned(),
                message,
                subject: Some(Subject::Environment(environment.name.clone())),
            });
        };
        if stem != environment.name.as_str() {
            let stem = printable(&stem);
            fault("name", format!("only the environment {stem} may be in this file"));
        }
        if environment.protected {
            fault(
                "protected",
                "this field may not be set in this file: remove the field".to_owned(),
            );
        }
    }
    checked.faults += of_file.faults.len() - before;
    of_file.faults.sort_by_key(|fault| fault.mark);
}
