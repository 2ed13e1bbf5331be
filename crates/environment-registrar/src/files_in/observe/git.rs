//! Whether git is changing the files of a directory. Git changes them one by one: it deletes a file
//! and then writes it again, and an entry that moves from one file to another is gone in between.
//! If git is killed half way, it stays like that.

use std::fs;
use std::path::{Path, PathBuf};

/// The lock that git holds while it changes the work tree that a directory is in, and leaves behind
/// when it is killed.
pub(super) fn lock(directory: &Path) -> Option<PathBuf> {
    let real = directory.canonicalize().ok()?;
    let work_tree = real.ancestors().find(|above| above.join(".git").exists())?;
    let git = work_tree.join(".git");
    // In a submodule or a further work tree it is a file that says where the directory is.
    let git = match fs::read_to_string(&git) {
        Ok(text) => work_tree.join(text.trim().strip_prefix("gitdir: ")?),
        Err(_) => git,
    };
    let lock = git.join("index.lock");
    lock.exists().then_some(lock)
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
        assert_eq!(lock(&directory), None);
        fs::create_dir(top.join("work/.git")).unwrap();
        assert_eq!(lock(&directory), None);
        let file = top.join("work/.git/index.lock");
        fs::write(&file, "").unwrap();
        assert_eq!(lock(&directory), Some(file));
        // A submodule.
        fs::create_dir(top.join("elsewhere")).unwrap();
        fs::write(directory.join(".git"), "gitdir: ../../elsewhere\n").unwrap();
        assert_eq!(lock(&directory), None);
        fs::write(top.join("elsewhere/index.lock"), "").unwrap();
        assert_eq!(
            lock(&directory),
            Some(directory.join("../../elsewhere/index.lock"))
        );
    }
}
