//! The command `check`: says what is wrong with files, without etcd. `mayfly lint` says the same, by the same code.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use mayfly_core::outside::{AddressRule, MOST};
use mayfly_core::{definition_file, environment_file, lint};
use mayfly_daemon::args::AddressArgs;
use mayfly_daemon::{input, output};

/// Checks files of environments and of service definitions, and prints the outcome to standard output. The exit code is 1
/// if there is a fault.
///
/// # Errors
/// When the outcome can't be printed.
pub fn run(files: &[PathBuf], services: &[PathBuf], addresses: AddressArgs) -> anyhow::Result<ExitCode> {
    let checked = lint::check(
        &input::read(files, environment_file::parse),
        &input::read(services, definition_file::parse),
        &AddressRule::new(addresses.allow_address, BTreeSet::new(), MOST),
    );
    output::print(&checked.text())?;
    Ok(if checked.faults == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
