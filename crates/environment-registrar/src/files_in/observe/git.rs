//! Whether git is changing the files of a directory. Git changes them one by one: it deletes a file
//! and then writes it again, and an entry that moves from one file to another is gone in between.
//! If git is killed half way, it stays like that.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The lock that git holds while it changes the work tree that a directory is in, and leaves behind
/// when it is killed. One that we may not see counts as none: `/etc/.git` of etckeeper is for root
/// alone, and must not prevent every deletion below `/etc`.
///
/// # Errors
/// Where it cannot be told whether there is one, and why.
pub(super) fn lock(directory: &Path) -> Result<Option<PathBuf>, String> {
    let real = match directory.canonicalize() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        real => real.map_err(|error| format!("cannot look at {}: {error}", directory.display()))?,
    };
    for work_tree in real.ancestors() {
        let git = work_tree.join(".git");
        if is_there(&git)? {
            let lock = directory_of(work_tree, git)?.map(|git| git.join("index.lock"));
            let is_held = lock.as_deref().map_or(Ok(false), is_there)?;
            return Ok(lock.filter(|_| is_held));
        }
    }
    Ok(None)
}

/// The directory of git behind the `.git` of a work tree. In a submodule or a further work tree
/// that is a file that says where the directory is; `None` if it says nothing of the kind.
fn directory_of(work_tree: &Path, git: PathBuf) -> Result<Option<PathBuf>, String> {
    if git.is_dir() {
        return Ok(Some(git));
    }
    let text = seen(&git, fs::read_to_string(&git))?.unwrap_or_default();
    let named = text.trim().strip_prefix("gitdir: ");
    Ok(named.map(|path| work_tree.join(path)))
}

/// Whether there is something at a path that we may see.
fn is_there(path: &Path) -> Result<bool, String> {
    Ok(seen(path, path.try_exists())?.unwrap_or_default())
}

/// What a look at a path has found; `None` if we may not look. Else why it failed.
fn seen<T>(path: &Path, found: io::Result<T>) -> Result<Option<T>, String> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(None),
        Err(error) => Err(format!("cannot look at {}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_the_work_tree_around_is_found() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        let directory = top.join("work/environments");
        fs::create_dir_all(&directory).unwrap();
        assert_eq!(lock(&directory), Ok(None));
        assert_eq!(lock(&directory.join("none")), Ok(None));
        fs::create_dir(top.join("work/.git")).unwrap();
        assert_eq!(lock(&directory), Ok(None));
        let file = top.join("work/.git/index.lock");
        fs::write(&file, "").unwrap();
        assert_eq!(lock(&directory), Ok(Some(file)));
        // A submodule.
        fs::create_dir(top.join("elsewhere")).unwrap();
        fs::write(directory.join(".git"), "gitdir: ../../elsewhere\n").unwrap();
        assert_eq!(lock(&directory), Ok(None));
        fs::write(top.join("elsewhere/index.lock"), "").unwrap();
        assert_eq!(
            lock(&directory),
            Ok(Some(directory.join("../../elsewhere/index.lock")))
        );
    }

    #[test]
    fn a_lock_that_cannot_be_looked_at_is_no_missing_one() {
        let top = tempfile::tempdir().unwrap();
        let top = top.path().canonicalize().unwrap();
        fs::write(top.join("file"), "").unwrap();
        // An error of the system that root gets too.
        fs::write(top.join(".git"), "gitdir: file\n").unwrap();
        let reason = lock(&top).unwrap_err();
        assert!(reason.contains("file/index.lock: Not a directory"), "{reason}");
        let seen = |code: i32| seen::<()>(&top, Err(io::Error::from_raw_os_error(code)));
        // EIO and ESTALE of a file server, and EACCES.
        assert!(seen(5).is_err() && seen(116).is_err());
        assert_eq!(seen(13), Ok(None));
    }
}
