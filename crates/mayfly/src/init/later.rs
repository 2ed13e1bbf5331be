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
    let inside = fs::canonicalize(inside).ok()?;
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
        let mut names = Vec::new();
        for (file, is_definition) in files {
            let whole = fs::canonicalize(file).with_context(|| format!("cannot find {}", file.display()))?;
            let name = file.file_name().unwrap_or_default().to_string_lossy();
            let below = whole.strip_prefix(&self.directory).ok();
            names.extend(below.map(|below| below.display().to_string()));
            if *is_definition {
                names.push(format!("services/{name}"));
            }
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
        let shown: Vec<String> = files.iter().map(|(file, _)| file.display().to_string()).collect();
        Ok(not_for_git(
            &shown,
            &format!("{} names these files", path.display()),
        ))
    }
}
