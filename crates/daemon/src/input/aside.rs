//! Entries of a directory that look like its files and are not read. The registrar and `mayfly
//! lint` report them in the same words.

use std::fs::DirEntry;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use mayfly_core::file::{FOLDER, LINK, NO_FILE, is_hidden, is_like_yaml, shown, why_not_taken};

/// Entries of a directory within the directory that are looked at for one that looks like a file.
const MOST: usize = 1000;
/// What to say of a link that leads out of its directory.
pub const OUTSIDE: &str = "a link to a file outside this directory is not followed: put the file itself \
    into the directory";

/// An entry that is not read, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Aside {
    /// Its name as it can be shown; that of a directory ends in a slash.
    pub name: String,
    /// What is wrong and what would be right.
    pub reason: &'static str,
    /// Whether it is a directory with files: perhaps meant to be there.
    pub is_folder: bool,
}

/// What is to be said of an entry of a directory, if it is none of its files and a person may think
/// that it is.
pub fn aside(directory: &Path, entry: &DirEntry) -> Option<Aside> {
    let name = entry.file_name();
    let text = name.to_string_lossy();
    if is_hidden(&text) {
        return None;
    }
    let path = entry.path();
    let file_type = entry.file_type().ok()?;
    let is_directory = path.is_dir();
    let named = |end: &str| shown(name.as_bytes()) + end;
    if is_directory && !is_like_yaml(&text) {
        let reason = if !file_type.is_symlink() || is_within(directory, &path) {
            holds_files(&path).then_some(FOLDER)?
        } else {
            LINK
        };
        return Some(Aside {
            name: named("/"),
            reason,
            is_folder: true,
        });
    }
    let is_none = is_directory || !(file_type.is_file() || file_type.is_symlink());
    let reason = match why_not_taken(name.as_bytes()) {
        None if is_like_yaml(&text) && is_none => NO_FILE,
        reason => reason?,
    };
    Some(Aside {
        name: named(""),
        reason,
        is_folder: false,
    })
}

/// Where a link of a directory ends; `None` if that is not in the directory. Such a link is not
/// followed: else whoever may push one into a work tree could make the registrar read, and report,
/// any file that its account may read.
///
/// # Errors
/// When the link leads nowhere, or cannot be followed to its end.
pub fn target(directory: &Path, link: &Path) -> io::Result<Option<PathBuf>> {
    let target = link.canonicalize()?;
    let is_within = target.starts_with(directory.canonicalize()?);
    Ok(is_within.then_some(target))
}

/// Whether a link ends in the directory: nothing else is looked at.
fn is_within(directory: &Path, link: &Path) -> bool {
    target(directory, link).is_ok_and(|target| target.is_some())
}

fn holds_files(directory: &Path) -> bool {
    let Ok(entries) = directory.read_dir() else {
        return false;
    };
    entries
        .flatten()
        .take(MOST)
        .any(|entry| is_like_yaml(&entry.file_name().to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::OsStr;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn what_looks_like_a_file_is_reported_and_what_is_hidden_is_not() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("envs");
        for folder in [
            "team-a",
            "docs",
            ".git",
            ".mayfly-push.x",
            "..2030",
            "mounted.yaml",
            "lost+found",
        ] {
            fs::create_dir_all(path.join(folder)).unwrap();
        }
        fs::create_dir(root.path().join("far")).unwrap();
        for file in [
            "team-a/shop.yaml",
            ".git/x.yaml",
            ".mayfly-push.x/x.yaml",
            "..2030/x.yaml",
            "docs/README.md",
        ] {
            fs::write(path.join(file), "name: x").unwrap();
        }
        for file in ["good.yaml", "UPPER.YAML", ".a.yaml.swp", "b.yaml~", "notes.txt"] {
            fs::write(path.join(file), "name: x").unwrap();
        }
        fs::write(path.join(OsStr::from_bytes(b"caf\xe9.yaml")), "name: x").unwrap();
        symlink("..2030", path.join("..data")).unwrap();
        symlink("..data", path.join("team-b")).unwrap();
        symlink("../far", path.join("far")).unwrap();
        symlink("nowhere", path.join("dangling.yaml")).unwrap();
        let entries = fs::read_dir(&path).unwrap().map(Result::unwrap);
        let mut reported: Vec<_> = entries.filter_map(|entry| aside(&path, &entry)).collect();
        reported.sort();
        let reported: Vec<_> = reported
            .iter()
            .map(|it| (it.name.as_str(), it.reason, it.is_folder))
            .collect();
        let small = why_not_taken(b"UPPER.YAML").unwrap();
        let latin = why_not_taken(b"caf\xe9.yaml").unwrap();
        assert_eq!(
            reported,
            [
                ("UPPER.YAML", small, false),
                ("caf\\xE9.yaml", latin, false),
                ("far/", LINK, true),
                ("mounted.yaml", NO_FILE, false),
                ("team-a/", FOLDER, true),
                ("team-b/", FOLDER, true),
            ]
        );
    }
}
