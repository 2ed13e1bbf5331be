//! The command `check`: finds faults in files, without etcd. `mayfly lint` finds the same, and
//! more.

use std::path::PathBuf;
use std::process::ExitCode;

use mayfly_daemon::args::AddressArgs;
use mayfly_daemon::lint::{Lint, exit_code};
use mayfly_daemon::output;

/// Checks files of environments and of service definitions, and prints the outcome to standard
/// output. The exit code is 1 if there is a fault.
///
/// # Errors
/// When the outcome can't be printed.
pub fn run(files: &[PathBuf], services: &[PathBuf], addresses: &AddressArgs) -> anyhow::Result<ExitCode> {
    let lint = Lint {
        files,
        services,
        ..Lint::default()
    };
    let checked = lint.check(addresses);
    output::print(&checked.text())?;
    Ok(exit_code(&checked))
}
