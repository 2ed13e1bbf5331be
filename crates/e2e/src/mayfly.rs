//! Mayfly's own programs, as they were built beside the test.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The path of a program of the workspace, in `target/<profile>/` beside the running test.
///
/// # Errors
/// When it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("find the running test")?;
    // A test is target/<profile>/deps/<test>-<hash>; an example or a binary stands one level higher.
    let directory = test.parent().context("the test's directory")?;
    let directory = if directory.ends_with("deps") {
        directory.parent().context("its parent")?
    } else {
        directory
    };
    let path = directory.join(name);
    ensure!(
        path.exists(),
        "{} does not exist: run `cargo build --workspace` first",
        path.display()
    );
    Ok(path)
}
