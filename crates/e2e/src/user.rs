//! Another user of this machine, by number: a test makes no account. Needs root.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// A user with one group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct User {
    /// The number of the user.
    pub id: u32,
    /// The number of the group.
    pub group: u32,
}

impl User {
    /// The command that starts `command` as this user. Its program is put into `directory`, which the user has to reach: where
    /// it was built, the user perhaps does not.
    ///
    /// # Errors
    /// When the program cannot be put there.
    pub fn wrap(self, command: &Command, directory: &Path) -> Result<Command> {
        let mut wrapped = Command::new("setpriv");
        wrapped
            .arg(format!("--reuid={}", self.id))
            .arg(format!("--regid={}", self.group))
            // What asks to be killed with the test has to ask anew as another user.
            .args(["--clear-groups", "--pdeathsig=KILL", "--"])
            .arg(within_reach(command.get_program().as_ref(), directory)?)
            .args(command.get_args());
        Ok(wrapped)
    }
}

/// A program of PATH stays where it is.
fn within_reach(program: &Path, directory: &Path) -> Result<PathBuf> {
    if !program.is_absolute() {
        return Ok(program.into());
    }
    let own = directory.join(program.file_name().context("a program has a name")?);
    if !own.exists() {
        std::fs::copy(program, &own).with_context(|| format!("copy {}", program.display()))?;
    }
    Ok(own)
}
