//! Files that another program reads: a reader sees the old bytes or the new ones, never a part, and
//! the file survives a power cut. Written beside its place under a name that begins with a dot,
//! then renamed.

use std::fs::{File, Metadata, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Puts `bytes` at `path` with the permission bits `mode` (such as `0o644`), whatever stood there
/// before.
///
/// The directory must exist. The temporary file lies in the same directory and begins with a dot,
/// which dnsmasq (`--hostsdir`) and most others leave alone; it is removed when anything fails.
///
/// # Errors
/// When the directory or the file cannot be written; the old file is then untouched.
pub fn write_atomically(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    put(path, bytes, mode, Before::Anything).map(drop)
}

/// What must stand in the place of a file so that it is written.
#[derive(Clone, Copy)]
enum Before<'a> {
    Anything,
    Nothing,
    Exactly(&'a [u8]),
}

fn put(path: &Path, bytes: &[u8], mode: u32, before: Before<'_>) -> anyhow::Result<bool> {
    let directory = directory_of(path);
    let name = path
        .file_name()
        .with_context(|| format!("cannot write {}: it does not name a file", path.display()))?;
    let mut prefix = std::ffi::OsString::from(".");
    prefix.push(name);
    prefix.push(".");

    let mut temporary = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".tmp")
        .tempfile_in(directory)
        .map_err(without_path)
        .with_context(|| format!("cannot create a temporary file in {}", directory.display()))?;
    let write = |temporary: &mut tempfile::NamedTempFile| -> std::io::Result<()> {
        temporary.write_all(bytes)?;
        // Set after creation, so the umask of whoever started us does not decide what dnsmasq may
        // read.
        temporary
            .as_file()
            .set_permissions(Permissions::from_mode(mode))?;
        temporary.as_file().sync_all()
    };
    write(&mut temporary)
        .map_err(without_path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let persisted = match before {
        Before::Anything => temporary.persist(path),
        Before::Nothing => temporary.persist_noclobber(path),
        // Only now: the disk may have taken its time.
        Before::Exactly(before) => match std::fs::read(path) {
            Ok(present) if present == before => temporary.persist(path),
            _ => return Ok(false),
        },
    };
    match persisted {
        Err(error) if matches!(before, Before::Nothing) && error.error.kind() == ErrorKind::AlreadyExists => {
            return Ok(false);
        }
        persisted => persisted
            .map_err(|error| error.error)
            .with_context(|| format!("cannot rename the new file to {}", path.display()))?,
    };
    sync_directory(directory).map(|()| true)
}

/// An error of `tempfile` without the path that it repeats.
fn without_path(error: std::io::Error) -> std::io::Error {
    let text = error.to_string();
    match text.split_once(" at path ") {
        Some((reason, _)) => std::io::Error::new(error.kind(), reason),
        None => error,
    }
}

/// As [`write_atomically`], but leaves whatever stands at `path` alone. Says whether it wrote.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<bool> {
    put(path, bytes, mode, Before::Nothing)
}

/// As [`write_atomically`], but only over a file that still holds exactly `before` when the new one
/// is ready to take its place. Says whether it wrote.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_over(path: &Path, before: &[u8], bytes: &[u8], mode: u32) -> anyhow::Result<bool> {
    put(path, bytes, mode, Before::Exactly(before))
}

/// As [`write_atomically`], but leaves a file alone that already has these bytes and this mode. One
/// that cannot be read, such as with its mode taken away, is replaced. Where the file system
/// decides on the modes, as vfat and CIFS do, only the bytes count. Says whether it wrote.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_if_different(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<bool> {
    let set = |permissions| std::fs::set_permissions(path, permissions);
    if is_as(path, bytes, mode) || keeps_its_mode(path, bytes, mode, set) {
        return Ok(false);
    }
    write_atomically(path, bytes, mode).map(|()| true)
}

/// The path without links and `..`, as far as it exists and may be looked into.
pub fn real_path(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    let mut missing = Vec::new();
    for ancestor in path.ancestors() {
        if let Ok(real) = ancestor.canonicalize() {
            return missing.iter().rev().fold(real, |path, part| path.join(part));
        }
        missing.extend(ancestor.file_name());
    }
    path
}

/// Whether a file has exactly these bytes and this mode.
pub fn is_as(path: &Path, bytes: &[u8], mode: u32) -> bool {
    let has = |metadata: Metadata| {
        metadata.permissions().mode() & 0o7777 == mode && metadata.len() == bytes.len() as u64
    };
    std::fs::metadata(path).is_ok_and(has) && std::fs::read(path).is_ok_and(|present| present == bytes)
}

/// Whether a file has these bytes and, whatever is set, another mode than this one. Where `set`
/// does change it, the file still has to be written: who waits for a new file does not see that an
/// old one can be read again.
fn keeps_its_mode(
    path: &Path,
    bytes: &[u8],
    mode: u32,
    set: impl FnOnce(Permissions) -> std::io::Result<()>,
) -> bool {
    // A link may lead to a file of another user.
    let present = || {
        let metadata = std::fs::symlink_metadata(path).ok()?;
        metadata.is_file().then(|| metadata.permissions().mode() & 0o7777)
    };
    let Some(before) = present() else { return false };
    is_as(path, bytes, before) && set(Permissions::from_mode(mode)).is_ok() && present() == Some(before)
}

/// Changes whenever a file is written, replaced or gets other permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileFingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    mode: u32,
}

impl FileFingerprint {
    /// Of a file with this metadata.
    pub fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            mode: metadata.mode(),
        }
    }

    /// Who may read and write the file. Its owner always may: that is us, where we write it again.
    pub fn mode(&self) -> u32 {
        self.mode & 0o777 | 0o600
    }
}

fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Makes the rename itself durable.
fn sync_directory(directory: &Path) -> anyhow::Result<()> {
    File::open(directory)
        .and_then(|handle| handle.sync_all())
        .with_context(|| format!("cannot sync directory {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    #[test]
    fn replaces_the_file_with_its_mode_and_leaves_nothing_beside_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("edge.map");
        write_atomically(&path, b"one\n", 0o600).unwrap();
        write_atomically(&path, b"two\n", 0o644).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two\n");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o644
        );
        assert_eq!(names(directory.path()), ["edge.map"]);
    }

    #[test]
    fn a_message_names_each_place_once() {
        let path = Path::new("/no-such-directory/edge.map");
        let error = format!("{:#}", write_atomically(path, b"", 0o644).unwrap_err());
        assert_eq!(
            error,
            "cannot create a temporary file in /no-such-directory: No such file or directory (os \
             error 2)"
        );
    }

    #[test]
    fn a_new_file_takes_nobodys_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        assert!(write_new(&path, b"one\n", 0o644).unwrap());
        assert!(!write_new(&path, b"two\n", 0o644).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"one\n");
        assert_eq!(names(directory.path()), ["a.yaml"]);
    }

    #[test]
    fn only_what_was_expected_is_written_over() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        assert!(
            !write_over(&path, b"", b"new\n", 0o644).unwrap(),
            "nothing is not an empty file"
        );
        std::fs::write(&path, "of a person\n").unwrap();
        assert!(!write_over(&path, b"old\n", b"new\n", 0o644).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"of a person\n");
        assert!(write_over(&path, b"of a person\n", b"new\n", 0o644).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"new\n");
        assert_eq!(names(directory.path()), ["a.yaml"]);
    }

    #[test]
    fn a_failure_says_which_file_and_removes_the_temporary_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("taken");
        std::fs::create_dir(&path).unwrap();
        let error = write_atomically(&path, b"x", 0o644).unwrap_err();
        assert!(format!("{error:#}").contains("taken"), "{error:#}");
        assert_eq!(names(directory.path()), ["taken"]);

        let error = write_atomically(&directory.path().join("no/such/file"), b"x", 0o644).unwrap_err();
        assert!(format!("{error:#}").contains("no/such"), "{error:#}");
    }

    #[test]
    fn equal_bytes_are_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        assert!(write_if_different(&path, b"a", 0o644).unwrap());
        assert!(!write_if_different(&path, b"a", 0o644).unwrap());
        assert!(write_if_different(&path, b"b", 0o644).unwrap());
    }

    #[test]
    fn another_mode_is_a_difference_even_one_that_forbids_reading() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        write_atomically(&path, b"a", 0o644).unwrap();
        for mode in [0o600, 0o000] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            assert!(write_if_different(&path, b"a", 0o644).unwrap(), "{mode:o}");
            assert!(is_as(&path, b"a", 0o644), "{mode:o}");
        }
    }

    #[test]
    fn a_mode_that_the_file_system_decides_on_is_no_difference() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        write_atomically(&path, b"a", 0o700).unwrap();
        let keeps = |bytes: &[u8]| keeps_its_mode(&path, bytes, 0o644, |_| Ok(()));
        assert!(keeps(b"a"));
        assert!(!keeps(b"b"));
        let forbidden = |_: Permissions| Err(std::io::Error::from(ErrorKind::PermissionDenied));
        assert!(!keeps_its_mode(&path, b"a", 0o644, forbidden));
        let set = |permissions| std::fs::set_permissions(&path, permissions);
        assert!(!keeps_its_mode(&path, b"a", 0o644, set));
    }
}
