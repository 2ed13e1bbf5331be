//! What `mayfly import` writes into a project later becomes as an init leaves it: the registrar can
//! read definitions with secrets, and Git ignores them.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use crate::import::around::ProjectAround;
use crate::import::not_for_git;

use super::directory::{self, Gift, PlaceFound};
use super::files::{IGNORED, ProjectSettings};

/// A project that an init has made.
#[derive(Debug)]
struct InitProject {
    directory: PathBuf,
    settings: ProjectSettings,
}

/// The project that a directory is in, if it is in one.
pub fn project_around(inside: &Path) -> Option<Box<dyn ProjectAround>> {
    // The import makes the directories that are missing.
    let inside = std::path::absolute(inside).ok()?;
    let inside = inside
        .ancestors()
        .find_map(|place| fs::canonicalize(place).ok())?;
    let is_project = |place: &&Path| matches!(directory::look(place), Ok(PlaceFound::Ours));
    let directory = inside.ancestors().find(is_project)?.to_owned();
    let settings = ProjectSettings::read(&directory).ok()?;
    Some(Box::new(InitProject { directory, settings }))
}

impl ProjectAround for InitProject {
    fn close(&self, file: &Path, is_definition: bool) -> anyhow::Result<()> {
        let mode = if is_definition { 0o640 } else { 0o600 };
        fs::set_permissions(file, Permissions::from_mode(mode))
            .with_context(|| format!("cannot change the mode of {}", file.display()))?;
        match is_definition {
            true => directory::give(file, Gift::Group, &self.settings),
            false => Ok(()),
        }
    }

    fn ignore(&self, files: &[(&Path, bool)]) -> anyhow::Result<String> {
        let (mut names, mut inside, mut outside) = (Vec::new(), Vec::new(), Vec::new());
        for (file, is_definition) in files {
            let whole = fs::canonicalize(file).with_context(|| format!("cannot find {}", file.display()))?;
            let shown = file.display().to_string();
            match whole.strip_prefix(&self.directory) {
                Ok(below) => {
                    names.push(below.display().to_string());
                    inside.push(shown);
                }
                Err(_) => outside.push(shown),
            }
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            names.push(match is_definition {
                true => format!("services/{name}"),
                false => name.into_owned(),
            });
        }
        let path = self.directory.join(IGNORED);
        let cannot = || format!("cannot write {}", path.display());
        let present = match fs::read_to_string(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            read => read.with_context(cannot)?,
        };
        let mut more = super::files::ignored(&names, &present);
        if !more.is_empty() {
            if !present.is_empty() && !present.ends_with('\n') {
                more.insert(0, '\n');
            }
            let opened = OpenOptions::new().append(true).create(true).open(&path);
            opened
                .and_then(|mut opened| opened.write_all(more.as_bytes()))
                .with_context(cannot)?;
        }
        let named = not_for_git(&inside, &format!("{} names these files", path.display()));
        Ok(named + &not_for_git(&outside, "name these files in .gitignore"))
    }
}
