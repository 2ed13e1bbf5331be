//! The command `check`: says what is wrong with files, without etcd. `mayfly lint` says the same, by the same code.

use std::path::PathBuf;
use std::process::ExitCode;

use mayfly_core::lint;
use mayfly_daemon::{input, output};

/// Checks files and prints the outcome to standard output. The exit code is 1 if there is a fault.
///
/// # Errors
/// When the outcome can't be printed.
pub fn run(files: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let checked = lint::check(&input::read(files));
    output::print(&checked.text())?;
    Ok(if checked.faults == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
