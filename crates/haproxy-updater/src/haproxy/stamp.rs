//! The metadata of a file right after it was written. A comparison shows whether another program
//! has changed the file since, without reading it: the maps of a large router have tens of
//! megabytes.

use std::fs::Metadata;
use std::io::ErrorKind;
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
        std::fs::metadata(path).ok().as_ref().map(Self::of_metadata)
    }

    /// Of a file with this metadata.
    pub fn of_metadata(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            mode: metadata.mode() & 0o7777,
        }
    }

    /// What another program has done to the file at a path since, in words; `None` when nothing.
    pub fn difference(&self, path: &Path) -> Option<String> {
        let file = path.display();
        let now = match std::fs::metadata(path) {
            Ok(metadata) => Self::of_metadata(&metadata),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Some(format!("another program deleted `{file}`"));
            }
            Err(error) => return Some(format!("cannot look at `{file}`: {error}")),
        };
        if now == *self {
            return None;
        }
        Some(if now.bytes != self.bytes {
            let (bytes, before) = (now.bytes, self.bytes);
            format!("another program changed `{file}` ({bytes} bytes instead of {before})")
        } else if now.mode != self.mode {
            let (mode, before) = (now.mode, self.mode);
            format!("another program changed the mode of `{file}` from {before:o} to {mode:o}")
        } else {
            format!("another program changed the content of `{file}`")
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
        let name = path.display().to_string();
        let difference = |stamp: Stamp| stamp.difference(&path).map(|what| what.replace(&name, "F"));
        assert_eq!(difference(then()), None);

        let stamp = then();
        fs::write(&path, "").expect("emptied");
        assert_eq!(
            difference(stamp).as_deref(),
            Some("another program changed `F` (0 bytes instead of 9)")
        );
        let stamp = then();
        fs::write(&path, "www evil\n").expect("written");
        assert_eq!(
            difference(stamp).as_deref(),
            Some("another program changed the content of `F`")
        );
        let stamp = then();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a mode");
        assert_eq!(
            difference(stamp).as_deref(),
            Some("another program changed the mode of `F` from 644 to 600")
        );
        let stamp = then();
        fs::remove_file(&path).expect("removed");
        assert_eq!(difference(stamp).as_deref(), Some("another program deleted `F`"));
    }
}
