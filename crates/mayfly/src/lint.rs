//! `mayfly lint`: what the registrar would say of files, by the same code, without etcd.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::ValueEnum;
use mayfly_core::lint::{self, Around};
use mayfly_core::outside::{AddressRule, MOST};
use mayfly_core::{definition_file, environment_file};
use mayfly_daemon::args::AddressArgs;
use mayfly_daemon::{input, output};

const EXAMPLES: &str = "\
Examples:
  mayfly lint temp-1.yaml                       one file
  mayfly lint environments/                     its *.yaml and *.yml, also against each other
  mayfly lint environments/ --services services/    and service definitions
  mayfly lint --allow-address '*.internal' environments/    as routers with this flag
  git show main:temp-1.yaml | mayfly lint -     standard input
  mayfly lint --format json environments/       for programs

Each fault is a line `file:line:column: field: what is wrong and what would be right`, as editors and CI take it.
Exit codes: 0 no fault; 1 there are faults; 2 the command line is wrong.";

/// Check files without etcd: what a registrar would say, exit code 1 if there is a fault
///
/// Besides the faults of each file it finds what the files can't have together: a name, prefix or header twice, a service
/// that is defined twice, and environments that extend each other in a circle or over too many levels. And it finds the
/// addresses outside that routers refuse, as far as that is known without resolving a name: give it the `--allow-address`
/// of the routers.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Files of environments, directories with *.yaml and *.yml files, or `-` for standard input
    #[arg(
        required_unless_present_any = ["services", "before", "beside", "services_beside"],
        value_name = "FILE"
    )]
    pub files: Vec<PathBuf>,

    /// A file of service definitions, or a directory with *.yaml and *.yml files; may be given again
    #[arg(long, value_name = "PATH")]
    pub services: Vec<PathBuf>,

    /// A file or directory of environments that is there already, and not checked: its names, prefixes and headers are
    /// taken; may be given again
    #[arg(long, value_name = "PATH")]
    pub beside: Vec<PathBuf>,

    /// The same for service definitions: the services that it defines are taken
    #[arg(long, value_name = "PATH")]
    pub services_beside: Vec<PathBuf>,

    /// The directory of environments as it was before: a protected environment that has gone is a fault, and so is one that
    /// others still extend
    #[arg(long, value_name = "DIRECTORY")]
    pub before: Option<PathBuf>,

    /// What routers allow.
    #[command(flatten)]
    pub addresses: AddressArgs,

    /// How to print the outcome
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
/// When the outcome can't be printed.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut before = input::read(args.before.as_slice(), environment_file::parse);
    for (file, _) in &mut before {
        // By the name that the file had, wherever what was before is kept.
        if let Some(name) = Path::new(file).file_name() {
            *file = name.to_string_lossy().into_owned();
        }
    }
    let checked = lint::check_among(
        &input::read(&args.files, environment_file::parse),
        &input::read(&args.services, definition_file::parse),
        Around {
            beside: &input::read(&args.beside, environment_file::parse),
            definitions_beside: &input::read(&args.services_beside, definition_file::parse),
            before: &before,
        },
        &AddressRule::new(args.addresses.allow_address.clone(), BTreeSet::new(), MOST),
    );
    match args.format {
        Format::Text => output::print(&checked.text())?,
        Format::Json => output::print(&output::json(&checked)?)?,
    }
    Ok(if checked.faults == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
