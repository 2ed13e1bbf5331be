//! What an import is told of where it happens: the command, and the project that it writes into.

use std::path::Path;

/// The command that imports. Its messages name its own flags and files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImportCommand {
    /// `mayfly import`.
    Import,
    /// `mayfly init`.
    Init,
}

/// A project that `mayfly init` has made, around the files of an import.
pub trait ProjectAround {
    /// Gives a file with values of variables the mode and the group that an init gives it.
    ///
    /// # Errors
    /// When that cannot be done.
    fn close(&self, file: &Path, is_definition: bool) -> anyhow::Result<()>;

    /// Adds files to the project's .gitignore, definitions also where the project has them, and says
    /// so.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    fn ignore(&self, files: &[(&Path, bool)]) -> anyhow::Result<String>;
}
