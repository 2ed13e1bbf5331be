//! The metadata of a file right after it was written. A comparison shows whether another program
//! has changed the file since, without reading it: the maps of a large router have tens of
//! megabytes.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

/// The metadata in which a change by another program shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    mode: u32,
}

impl Stamp {
    /// Of the file at a path; `None` where there is none that can be looked at.
    pub fn of(path: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(path).ok()?;
        Some(Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            mode: metadata.mode() & 0o7777,
        })
    }

    /// What differs now, in words; `None` when nothing does.
    pub fn difference(&self, now: Option<&Self>) -> Option<String> {
        let Some(now) = now else {
            return Some("it was missing".to_owned());
        };
        if now == self {
            return None;
        }
        Some(if now.bytes != self.bytes {
            format!("it had {} bytes instead of {}", now.bytes, self.bytes)
        } else if now.mode != self.mode {
            format!("its mode was {:o} instead of {:o}", now.mode, self.mode)
        } else {
            "its content was different".to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn every_kind_of_change_is_seen_and_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("edge.map");
        let then = || {
            let _ = fs::remove_file(&path);
            fs::write(&path, "www prod\n").expect("written");
            fs::set_permissions(&path, Permissions::from_mode(0o644)).expect("a mode");
            // Long ago: the clock of a file system ticks slowly.
            let file = fs::File::options().append(true).open(&path).expect("a file");
            file.set_modified(std::time::UNIX_EPOCH).expect("a time");
            Stamp::of(&path).expect("a file")
        };
        let difference = |stamp: Stamp| stamp.difference(Stamp::of(&path).as_ref());
        assert_eq!(difference(then()), None);

        let stamp = then();
        fs::write(&path, "").expect("emptied");
        assert_eq!(difference(stamp).as_deref(), Some("it had 0 bytes instead of 9"));
        let stamp = then();
        fs::write(&path, "www evil\n").expect("written");
        assert_eq!(difference(stamp).as_deref(), Some("its content was different"));
        let stamp = then();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
        assert_eq!(
            difference(stamp).as_deref(),
            Some("its mode was 600 instead of 644")
        );
        let stamp = then();
        fs::remove_file(&path).expect("removed");
        assert_eq!(difference(stamp).as_deref(), Some("it was missing"));
    }
}
