//! Carries out the tasks of [`crate::files_out::queue`], one file after the other. It looks at each
//! file again before it touches it, since a person may have changed it. Every task can be done
//! twice.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use mayfly_core::environment_file::{FoundEnvironment, parse, to_yaml};
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;
use mayfly_daemon::file::{write_new, write_over};

use crate::files_in::origin::{Origin, home, without_mark};
use crate::files_in::scan::{self, Content, KeptFile, MODE, is_yaml_file};
use crate::files_out::archive::Archive;
use crate::files_out::copies::copy;

#[derive(Debug, Clone)]
pub enum Task {
    /// Archive a content that took effect at this moment: this one, if it is known.
    Archive(Arc<Environment>, SystemTime, Option<Arc<KeptFile>>),
    /// Archive and delete a file whose only environment has ended.
    MoveAway(String, Arc<Environment>),
    /// Write the file of an environment again.
    Restore(Arc<Environment>),
    /// Write a copy, or write it again.
    Copy(Arc<Environment>),
    /// Archive and delete a copy.
    DeleteCopy(EnvironmentName),
}

impl Task {
    /// The environment that it is about.
    pub fn name(&self) -> &EnvironmentName {
        match self {
            Self::Archive(environment, ..)
            | Self::MoveAway(_, environment)
            | Self::Restore(environment)
            | Self::Copy(environment) => &environment.name,
            Self::DeleteCopy(name) => name,
        }
    }
}

/// Why a task could not be done, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteFault {
    /// The archive can't be written.
    Archive(String),
    File(String),
}

/// The directory that is watched, and the archive.
#[derive(Debug)]
pub struct Writer {
    pub directory: PathBuf,
    pub archive: Archive,
}

impl Writer {
    /// The key under which a fault of a task is reported.
    pub fn key(&self, task: &Task) -> String {
        match task {
            Task::Archive(..) => self.archive_key(),
            Task::MoveAway(file, _) => file.clone(),
            Task::Restore(environment) => {
                let source = environment.source.as_ref();
                let file = source.map_or_else(|| home(&environment.name), |source| source.file.clone());
                format!("{file}:{}", environment.name)
            }
            Task::Copy(environment) => home(&environment.name),
            Task::DeleteCopy(name) => home(name),
        }
    }

    /// The key under which a fault of the archive is reported.
    pub fn archive_key(&self) -> String {
        self.archive.root().display().to_string()
    }

    /// Does it; says what it did, if anything. Blocks.
    ///
    /// # Errors
    /// When a file or the archive can't be read or written. What was there before is there still.
    pub fn carry_out(&self, task: &Task) -> Result<Option<String>, WriteFault> {
        match task {
            Task::Archive(environment, at, known) => {
                let read = || self.file_of(environment);
                let known = known.as_ref().map(|known| unmarked(known));
                let content = match known.or_else(read) {
                    Some(content) => content,
                    // It came from no file of its own; another content with the same meaning tells
                    // nothing new.
                    None if self.newest(environment).is_some() => return Ok(None),
                    None => KeptFile {
                        bytes: as_etcd_had(environment),
                        mode: self.mode_of(environment),
                    },
                };
                self.archive(&environment.name, &content, *at).map(|_| None)
            }
            Task::MoveAway(file, environment) => self.move_away(file, environment),
            Task::Restore(environment) => self.restore(environment),
            Task::Copy(environment) => self.copy(environment),
            Task::DeleteCopy(name) => self.delete_copy(name),
        }
    }

    fn archive(
        &self,
        name: &EnvironmentName,
        content: &KeptFile,
        now: SystemTime,
    ) -> Result<bool, WriteFault> {
        if !self.archive.is_on() {
            return Ok(false);
        }
        self.archive.add(name, content, now).map_err(|error| {
            WriteFault::Archive(format!(
                "{error:#}; retrying. Until this works, nothing is archived and the files of ended \
                 environments stay. Let the registrar write to the archive, or choose another \
                 directory with --archive"
            ))
        })
    }

    /// A file, if it can be read.
    fn look(&self, file: &str) -> Option<KeptFile> {
        let found = scan::look(&self.directory, file)?;
        let mode = found.fingerprint?.mode();
        match found.content {
            Content::Bytes(bytes) => Some(KeptFile { bytes, mode }),
            Content::Unreadable(_) => None,
        }
    }

    /// The bytes of a file, if it can be read.
    fn read(&self, file: &str) -> Option<Vec<u8>> {
        self.look(file).map(|kept| kept.bytes)
    }

    /// Who may read a file of an environment that is made of its record: who might read its file,
    /// if it had one.
    fn mode(&self, name: &EnvironmentName) -> u32 {
        let newest = self.archive.newest(name).ok().flatten();
        newest.map_or(MODE, |newest| newest.mode)
    }

    /// The same of an environment whose file may hold others too: who may read that file.
    fn mode_of(&self, environment: &Environment) -> u32 {
        let source = environment
            .source
            .as_ref()
            .filter(|source| is_plain(&source.file));
        let file = source.and_then(|source| self.look(&source.file));
        file.map_or_else(|| self.mode(&environment.name), |file| file.mode)
    }

    /// The file of an environment as it is, comments included, if that holds nothing else.
    fn file_of(&self, environment: &Environment) -> Option<KeptFile> {
        let file = &environment.source.as_ref()?.file;
        let kept = self.look(file).filter(|_| is_plain(file))?;
        holds_only(&kept.bytes, environment).then(|| unmarked(&kept))
    }

    /// The newest archived content of an environment, if that says the same.
    fn newest(&self, environment: &Environment) -> Option<KeptFile> {
        let newest = self.archive.newest(&environment.name).ok().flatten();
        newest.filter(|content| holds_only(&content.bytes, environment))
    }

    fn move_away(&self, file: &str, environment: &Environment) -> Result<Option<String>, WriteFault> {
        let path = self.directory.join(file);
        // A link would be deleted, and its target archived again and again.
        if !fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            return Ok(None);
        }
        let kept = self.look(file);
        let Some(kept) = kept.filter(|kept| holds_only(&kept.bytes, environment)) else {
            return Ok(None);
        };
        let name = &environment.name;
        self.archive(name, &unmarked(&kept), SystemTime::now())?;
        if !self.delete(&path, file, &kept.bytes)? {
            return Ok(None);
        }
        let archive = self.archive.root().join(name.as_str());
        Ok(Some(format!(
            "environment {name} has ended: moved its file {file} to {}",
            archive.display()
        )))
    }

    /// Deletes a file that still holds exactly this; says whether it did.
    fn delete(&self, path: &Path, file: &str, bytes: &[u8]) -> Result<bool, WriteFault> {
        if self.read(file).as_deref() != Some(bytes) {
            return Ok(false);
        }
        fs::remove_file(path).map(|()| true).map_err(|error| {
            WriteFault::File(format!(
                "cannot delete the file: {error}; delete it, or let the registrar write to {}",
                self.directory.display()
            ))
        })
    }

    /// Where the file of an environment of ours is written again: its own place, if a file can have
    /// that name.
    fn place(&self, environment: &Environment) -> String {
        let source = environment.source.as_ref().map(|source| &source.file);
        let free =
            |file: &&String| is_plain(file) && fs::symlink_metadata(self.directory.join(file)).is_err();
        source
            .filter(free)
            .cloned()
            .unwrap_or_else(|| home(&environment.name))
    }

    fn restore(&self, environment: &Environment) -> Result<Option<String>, WriteFault> {
        let (name, place) = (&environment.name, self.place(environment));
        let places = environment.source.iter().map(|source| source.file.clone());
        let mut there = places.chain([home(name)]).filter(|file| is_plain(file));
        if there.any(|file| self.read(&file).is_some_and(|bytes| may_name(&bytes, name))) {
            return Ok(None);
        }
        let content = self.newest(environment);
        let content = content.unwrap_or_else(|| KeptFile {
            bytes: to_yaml(environment).into_bytes(),
            mode: self.mode(name),
        });
        match write_new(&self.directory.join(&place), &content.bytes, content.mode) {
            Ok(true) => Ok(Some(format!(
                "`mayfly keep` has brought environment {name} back: wrote its file {place} again"
            ))),
            Ok(false) => Err(WriteFault::File(format!(
                "`mayfly keep` has brought environment {name} back, but its file cannot be written \
                 again: {place} exists and describes something else; describe {name} in another \
                 file"
            ))),
            Err(error) => Err(self.unwritable(&error)),
        }
    }

    fn unwritable(&self, error: &anyhow::Error) -> WriteFault {
        WriteFault::File(format!(
            "{error:#}; retrying. Let the registrar write to {}",
            self.directory.display()
        ))
    }

    fn copy(&self, environment: &Environment) -> Result<Option<String>, WriteFault> {
        let (name, file) = (&environment.name, home(&environment.name));
        let path = self.directory.join(&file);
        let content = copy(environment).map_err(WriteFault::File)?;
        if fs::symlink_metadata(&path).is_err() {
            return match write_new(&path, &content, self.mode(name)) {
                Ok(true) => Ok(Some(format!(
                    "wrote environment {name} from etcd to {file}; to delete the environment, run \
                     `mayfly delete {name}`"
                ))),
                // A person was faster: what that says comes next.
                Ok(false) => Ok(None),
                Err(error) => Err(self.unwritable(&error)),
            };
        }
        let before = self.look(&file);
        let Some(before) = before.filter(|before| is_copy(&before.bytes, name)) else {
            return Ok(None);
        };
        if before.bytes == content {
            return Ok(None);
        }
        self.archive(name, &unmarked(&before), SystemTime::now())?;
        match write_over(&path, &before.bytes, &content, before.mode) {
            Ok(true) => Ok(Some(format!(
                "environment {name} has changed in etcd: updated its copy {file}"
            ))),
            // A person was faster here, too.
            Ok(false) => Ok(None),
            Err(error) => Err(self.unwritable(&error)),
        }
    }

    fn delete_copy(&self, name: &EnvironmentName) -> Result<Option<String>, WriteFault> {
        let file = home(name);
        let kept = self.look(&file);
        let Some(kept) = kept.filter(|kept| is_copy(&kept.bytes, name)) else {
            return Ok(None);
        };
        self.archive(name, &unmarked(&kept), SystemTime::now())?;
        let deleted = self.delete(&self.directory.join(&file), &file, &kept.bytes)?;
        Ok(deleted.then(|| {
            format!(
                "deleted {file}, the copy of environment {name}: the environment has ended, or \
                 another file describes it now"
            )
        }))
    }
}

/// Whether this may be the name of an environment file: the source of a record is text from etcd.
fn is_plain(file: &str) -> bool {
    is_yaml_file(file) && !file.contains(['/', '\0'])
}

/// A content without the mark of a copy.
fn unmarked(kept: &KeptFile) -> KeptFile {
    KeptFile {
        bytes: without_mark(&kept.bytes).to_vec(),
        mode: kept.mode,
    }
}

/// What to archive of an environment that has no file of its own.
fn as_etcd_had(environment: &Environment) -> Vec<u8> {
    let from = environment.source.as_ref().map_or_else(
        || "a program other than a registrar".to_owned(),
        |source| format!("registrar {}, file {:?}", source.registrar, source.file),
    );
    format!("# as etcd had it: {from}\n{}", to_yaml(environment)).into_bytes()
}

fn holds_only(bytes: &[u8], environment: &Environment) -> bool {
    let parsed = parse(bytes);
    let same = |found: &Environment| found.asks_for_the_same(environment);
    parsed.faults.is_empty() && matches!(parsed.entries.as_slice(), [found] if same(&found.environment))
}

fn may_name(bytes: &[u8], name: &EnvironmentName) -> bool {
    let parsed = parse(bytes);
    let named = |found: &FoundEnvironment| found.environment.name == *name;
    parsed.may_hold(name) || parsed.entries.iter().any(named)
}

fn is_copy(bytes: &[u8], name: &EnvironmentName) -> bool {
    matches!(Origin::of(bytes), Origin::Copy(of) if of == *name)
}

#[cfg(test)]
mod tests;
