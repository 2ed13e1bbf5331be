//! Files that another program reads: a reader sees the old bytes or the new ones, never a part, and the
//! file survives a power cut. Written beside its place under a name that begins with a dot, then renamed.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::Context as _;

/// Puts `bytes` at `path` with the permission bits `mode` (such as `0o644`), whatever stood there before.
///
/// The directory must exist. The temporary file lies in the same directory and begins with a dot, which
/// dnsmasq (`--hostsdir`) and most others leave alone; it is removed when anything fails.
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
        .with_context(|| format!("cannot make a temporary file in {}", directory.display()))?;
    let write = |temporary: &mut tempfile::NamedTempFile| -> std::io::Result<()> {
        temporary.write_all(bytes)?;
        // Set after creation, so the umask of whoever started us does not decide what dnsmasq may read.
        temporary
            .as_file()
            .set_permissions(Permissions::from_mode(mode))?;
        temporary.as_file().sync_all()
    };
    write(&mut temporary).with_context(|| format!("cannot write {}", temporary.path().display()))?;
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

/// As [`write_atomically`], but leaves whatever stands at `path` alone. Says whether it wrote.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<bool> {
    put(path, bytes, mode, Before::Nothing)
}

/// As [`write_atomically`], but only over a file that still holds exactly `before` when the new one is ready to take its
/// place. Says whether it wrote.
///
/// # Errors
/// As [`write_atomically`].
pub fn write_over(path: &Path, before: &[u8], bytes: &[u8], mode: u32) -> anyhow::Result<bool> {
    put(path, bytes, mode, Before::Exactly(before))
}

/// As [`write_atomically`], but leaves a file that already holds exactly `bytes` alone. Says whether it wrote.
///
/// # Errors
/// When the file cannot be read (other than by being absent) or written.
pub fn write_if_different(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<bool> {
    match std::fs::read(path) {
        Ok(present) if present == bytes => return Ok(false),
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
    write_atomically(path, bytes, mode).map(|()| true)
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
}
