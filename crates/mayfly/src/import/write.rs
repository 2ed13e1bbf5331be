//! Writes the files of an import: all of them or none. A file that is there already stays as it is;
//! if it differs from what would be written, nothing is written. An import that a signal ends may
//! leave some files, each of them whole; the next run adds the others.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use mayfly_core::printable::printable;
use mayfly_daemon::file::write_new;

use super::outcome::HeldValues;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewFile {
    pub path: PathBuf,
    pub text: String,
    /// Whose values are in it.
    pub held: HeldValues,
}

/// What became of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    New,
    /// It was there already, and is the same.
    Unchanged,
}

/// The files of which another content is there, each with the first line that differs. They are not
/// to be written over.
///
/// # Errors
/// When a file that is there cannot be read.
pub fn differing(files: &[NewFile]) -> anyhow::Result<Vec<String>> {
    let mut differing = Vec::new();
    for file in files {
        let path = file.path.display();
        match fs::read(&file.path) {
            Ok(present) if present == file.text.as_bytes() => {}
            Ok(present) => {
                let (line, wanted) = first_difference(&present, &file.text);
                let wanted = match file.held {
                    HeldValues::Own => format!("is not `{wanted}`"),
                    HeldValues::Variables | HeldValues::EnvFile => "differs".to_owned(),
                };
                differing.push(printable(&format!(
                    "{path} exists already, and line {line} {wanted}"
                )));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {path}")),
        }
    }
    Ok(differing)
}

/// The first line that differs, and what it would be.
fn first_difference<'t>(present: &[u8], wanted: &'t str) -> (usize, &'t str) {
    let present = String::from_utf8_lossy(present);
    let mut before = present.lines();
    for (line, text) in (1..).zip(wanted.lines()) {
        if before.next() != Some(text) {
            return (line, text);
        }
    }
    (wanted.lines().count() + 1, "the end of the file")
}

/// Writes the files, and the directories that are missing; in a project, those with values of
/// variables for this user alone. If one cannot be written, those that
/// were written before are removed again.
///
/// # Errors
/// When a file cannot be written, or another content is there by now.
pub fn write(files: &[NewFile], in_project: bool) -> anyhow::Result<Vec<(PathBuf, WriteOutcome)>> {
    let mut undo = Undo::default();
    let mut outcome = Vec::new();
    for NewFile { path, text, held } in files {
        undo.make_directories(path.parent())?;
        let mode = match held {
            HeldValues::Own => 0o644,
            HeldValues::Variables if !in_project => 0o644,
            HeldValues::Variables | HeldValues::EnvFile => 0o600,
        };
        let written = match write_new(path, text.as_bytes(), mode)? {
            true => {
                undo.files.push(path.clone());
                WriteOutcome::New
            }
            false if fs::read(path).is_ok_and(|present| present == text.as_bytes()) => {
                WriteOutcome::Unchanged
            }
            false => bail!("{} exists already: nothing was written", path.display()),
        };
        outcome.push((path.clone(), written));
    }
    undo.done();
    Ok(outcome)
}

/// What was made so far, and goes again unless all is well.
#[derive(Default)]
struct Undo {
    files: Vec<PathBuf>,
    directories: Vec<PathBuf>,
}

impl Undo {
    fn make_directories(&mut self, directory: Option<&Path>) -> anyhow::Result<()> {
        let Some(directory) = directory.filter(|it| !it.as_os_str().is_empty() && !it.is_dir()) else {
            return Ok(());
        };
        self.make_directories(directory.parent())?;
        match fs::create_dir(directory) {
            Ok(()) => self.directories.push(directory.to_owned()),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && directory.is_dir() => {}
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("cannot make the directory {}", directory.display()));
            }
        }
        Ok(())
    }

    fn done(mut self) {
        self.files.clear();
        self.directories.clear();
    }
}

impl Drop for Undo {
    /// Removes what was made, as far as that can be done.
    fn drop(&mut self) {
        for file in self.files.iter().rev() {
            let _ = fs::remove_file(file);
        }
        for directory in self.directories.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: PathBuf, text: &str) -> NewFile {
        NewFile {
            path,
            text: text.to_owned(),
            held: HeldValues::Own,
        }
    }

    #[test]
    fn files_are_written_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let files = [
            file(path("a/b/one.yaml"), "1\n2\n"),
            file(path("two.yaml"), "2\n"),
        ];
        let outcome =
            |written: Vec<(PathBuf, WriteOutcome)>| written.into_iter().map(|it| it.1).collect::<Vec<_>>();
        assert_eq!(differing(&files).unwrap(), [""; 0]);
        assert_eq!(outcome(write(&files, false).unwrap()), [WriteOutcome::New; 2]);
        assert_eq!(
            outcome(write(&files, false).unwrap()),
            [WriteOutcome::Unchanged; 2]
        );
        fs::write(path("a/b/one.yaml"), "1\nmine\n").unwrap();
        let differing = differing(&files).unwrap();
        assert_eq!(differing.len(), 1);
        assert!(
            differing[0].ends_with("one.yaml exists already, and line 2 is not `2`"),
            "{differing:?}"
        );
    }

    #[test]
    fn nothing_is_left_where_one_file_cannot_be_written() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("taken"), "").unwrap();
        fs::write(path("mine.yaml"), "mine").unwrap();
        for bad in [path("taken/two.yaml"), path("mine.yaml")] {
            let files = [file(path("new/deep/one.yaml"), "1"), file(bad, "2")];
            write(&files, false).unwrap_err();
            assert!(!path("new").exists());
        }
        assert_eq!(fs::read(path("mine.yaml")).unwrap(), b"mine");
    }
}
