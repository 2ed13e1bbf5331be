//! The directory as it is now: which of its entries are files of environments or definitions, whether they have changed, and their
//! contents. A file is looked at before it is read, so that a huge one or one that is no file costs nothing.
//!
//! Of symbolic links only those are followed that end in the directory itself, as those of config maps do. Whoever may push
//! a link into a work tree could else have the registrar read, and tell of, any file of the host that its account may read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub use mayfly_core::file::is_yaml_file;
use mayfly_core::file::{SIZE_LIMIT, too_long};

/// Changes whenever a file is written, replaced or gets other permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    mode: u32,
}

impl Fingerprint {
    fn of(metadata: &Metadata) -> Self {
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

/// What a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Its octets, within [`SIZE_LIMIT`].
    Octets(Vec<u8>),
    /// It can't be read, or is too long: why.
    Unreadable(String),
}

/// A file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What tells this state from later ones; `None` for a link that leads nowhere, or out of the directory.
    pub fingerprint: Option<Fingerprint>,
    /// What it holds.
    pub content: Content,
}

/// Reads one entry of the directory; `None` when it is not there or no file.
pub fn look(directory: &Path, name: &str) -> Option<Found> {
    let entry = directory.join(name);
    let path = match followed(directory, &entry) {
        Ok(path) => path,
        Err(content) => {
            return Some(Found {
                fingerprint: None,
                content,
            });
        }
    };
    match fs::metadata(&path) {
        Ok(metadata) if metadata.is_file() => Some(Found {
            fingerprint: Some(Fingerprint::of(&metadata)),
            content: read(&path, metadata.len()),
        }),
        Ok(_) => None,
        Err(error) if fs::symlink_metadata(&path).is_ok() => {
            let content = unreadable(&error);
            Some(Found {
                fingerprint: None,
                content,
            })
        }
        Err(_) => None,
    }
}

/// Where an entry of the directory really lies: itself, or what a link leads to, if that is in the directory. Else why it
/// is not read.
fn followed(directory: &Path, entry: &Path) -> Result<PathBuf, Content> {
    if !entry.is_symlink() {
        return Ok(entry.to_path_buf());
    }
    let real = |path: &Path| path.canonicalize().map_err(|error| unreadable(&error));
    let target = real(entry)?;
    if target.starts_with(real(directory)?) {
        return Ok(target);
    }
    Err(Content::Unreadable(
        "a link to a place outside of the directory is not followed: put the file itself here".to_owned(),
    ))
}

/// Reads a file that has `octets` octets.
fn read(path: &Path, octets: u64) -> Content {
    if octets > SIZE_LIMIT {
        return Content::Unreadable(too_long(octets));
    }
    let mut content = Vec::with_capacity(usize::try_from(octets).unwrap_or_default());
    // It may have grown since it was looked at.
    let outcome = File::open(path).and_then(|file| file.take(SIZE_LIMIT + 1).read_to_end(&mut content));
    match outcome {
        Ok(_) if content.len() as u64 > SIZE_LIMIT => Content::Unreadable(too_long(content.len() as u64)),
        Ok(_) => Content::Octets(content),
        Err(error) => unreadable(&error),
    }
}

fn unreadable(error: &io::Error) -> Content {
    let advice = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; let the user of environment-registrar read it (chmod, chown), also the directories on the way to it: it is \
             tried again by itself"
        }
        _ => "",
    };
    Content::Unreadable(format!("cannot be read: {error}{advice}"))
}

/// What is known already, so that a scan reads only what is new.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The files that have been read.
    pub read: BTreeMap<String, Fingerprint>,
    /// The files that were found too fresh to be read, as they were then.
    pub fresh: BTreeMap<String, Fingerprint>,
    /// The files that somebody is writing at this moment.
    pub writing: BTreeSet<String>,
}

/// What a scan of the whole directory found.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// All files by name; `None` for one that need not or must not be read now.
    pub files: BTreeMap<String, Option<Found>>,
    /// Those among them that were written a moment ago, perhaps not to their end: to be looked at again.
    pub fresh: BTreeMap<String, Fingerprint>,
    /// The directories in which the targets of symbolic links lie.
    pub targets: BTreeSet<PathBuf>,
}

/// Looks through the directory. A file that changed less than `quiet` ago, and has changed since the last look, may be
/// half written: it is left for the next look.
///
/// # Errors
/// When the directory is not there or cannot be read.
pub fn all(directory: &Path, known: &Known, quiet: Duration) -> io::Result<Scan> {
    let now = SystemTime::now();
    let mut scan = Scan::default();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if !is_yaml_file(&name) {
            continue;
        }
        if entry.file_type()?.is_symlink() {
            match followed(directory, &entry.path()) {
                Ok(target) => scan.targets.extend(target.parent().map(Path::to_path_buf)),
                Err(content) => {
                    let fingerprint = None;
                    scan.files.insert(name, Some(Found { fingerprint, content }));
                    continue;
                }
            }
        }
        if known.writing.contains(&name) {
            scan.files.insert(name, None);
            continue;
        }
        if let Ok(metadata) = fs::metadata(entry.path()) {
            let fingerprint = Fingerprint::of(&metadata);
            if metadata.is_file() && known.read.get(&name) == Some(&fingerprint) {
                scan.files.insert(name, None);
                continue;
            }
            let age = metadata
                .modified()
                .ok()
                .and_then(|modified| now.duration_since(modified).ok());
            let old = age.is_some_and(|age| age >= quiet);
            if metadata.is_file() && !old && known.fresh.get(&name) != Some(&fingerprint) {
                scan.fresh.insert(name.clone(), fingerprint);
                scan.files.insert(name, None);
                continue;
            }
        }
        if let Some(found) = look(directory, &name) {
            scan.files.insert(name, Some(found));
        }
    }
    Ok(scan)
}

/// What tells a directory from another one of the same name: device, inode and, where the file system knows it, the time
/// of its birth, since a directory that is removed and made again often gets the same inode.
pub type Identity = (u64, u64, Option<SystemTime>);

/// The identity of a directory; `None` when there is none.
pub fn identity(directory: &Path) -> Option<Identity> {
    let metadata = fs::metadata(directory).ok()?;
    metadata
        .is_dir()
        .then(|| (metadata.dev(), metadata.ino(), metadata.created().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    const AT_ONCE: Duration = Duration::ZERO;

    #[test]
    fn only_files_that_changed_are_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("a.yaml"), "name: a").unwrap();
        fs::write(path.join("notes.txt"), "x").unwrap();
        fs::create_dir(path.join("sub.yaml")).unwrap();
        let scan = all(path, &Known::default(), AT_ONCE).unwrap();
        assert_eq!(scan.files.keys().collect::<Vec<_>>(), ["a.yaml"]);
        let found = scan.files["a.yaml"].clone().unwrap();
        assert_eq!(found.content, Content::Octets(b"name: a".to_vec()));

        let mut known = Known::default();
        known.read.insert("a.yaml".to_owned(), found.fingerprint.unwrap());
        assert_eq!(all(path, &known, AT_ONCE).unwrap().files["a.yaml"], None);
        fs::write(path.join("a.yaml"), "name: ab").unwrap();
        assert!(all(path, &known, AT_ONCE).unwrap().files["a.yaml"].is_some());
        known.writing.insert("a.yaml".to_owned());
        assert_eq!(all(path, &known, AT_ONCE).unwrap().files["a.yaml"], None);
    }

    #[test]
    fn a_fresh_file_is_read_when_it_has_not_changed_since_the_last_look() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.yaml"), "name: a").unwrap();
        let hour = Duration::from_secs(3600);
        let scan = all(directory.path(), &Known::default(), hour).unwrap();
        assert_eq!((scan.files["a.yaml"].is_some(), scan.fresh.len()), (false, 1));
        let known = Known {
            fresh: scan.fresh,
            ..Known::default()
        };
        let scan = all(directory.path(), &known, hour).unwrap();
        assert_eq!((scan.files["a.yaml"].is_some(), scan.fresh.len()), (true, 0));
    }

    #[test]
    fn what_cannot_be_read_is_told_and_what_is_too_long_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        symlink("nowhere", path.join("dangling.yaml")).unwrap();
        File::create(path.join("huge.yaml"))
            .unwrap()
            .set_len(100 << 20)
            .unwrap();
        let reason = |name: &str| match look(path, name).unwrap().content {
            Content::Unreadable(reason) => reason,
            Content::Octets(_) => panic!("{name} was read"),
        };
        assert!(reason("dangling.yaml").contains("No such file"));
        assert!(reason("huge.yaml").contains("104857600 octets"));
        assert_eq!(look(path, "gone.yaml"), None);
        let scan = all(path, &Known::default(), AT_ONCE).unwrap();
        assert!(scan.files["dangling.yaml"].is_some());
    }

    #[test]
    fn targets_of_links_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let other = directory.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("x"), "name: x").unwrap();
        symlink("other/x", directory.path().join("x.yaml")).unwrap();
        let scan = all(directory.path(), &Known::default(), AT_ONCE).unwrap();
        assert_eq!(scan.targets, BTreeSet::from([other.canonicalize().unwrap()]));
        assert_eq!(content(&scan, "x.yaml"), Content::Octets(b"name: x".to_vec()));
    }

    fn content(scan: &Scan, name: &str) -> Content {
        scan.files[name].clone().unwrap().content
    }

    #[test]
    fn links_out_of_the_directory_are_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("envs");
        // What begins with the directory's path is not therefore in it.
        for path in ["envs/own", "private", "envs-too"] {
            fs::create_dir_all(root.path().join(path)).unwrap();
            fs::write(root.path().join(path).join("x"), "secret: x").unwrap();
        }
        for (name, target) in [
            ("beside.yaml", "../private/x"),
            ("sibling.yaml", "../envs-too/x"),
            ("round.yaml", "own/../../private/x"),
            ("proc.yaml", "/proc/self/environ"),
            ("directory.yaml", "../private"),
            ("twice.yaml", "beside.yaml"),
        ] {
            symlink(target, directory.join(name)).unwrap();
        }
        symlink("../private", directory.join("way")).unwrap();
        symlink("way/x", directory.join("way.yaml")).unwrap();
        // The directory itself may be reached by a link.
        symlink("envs", root.path().join("current")).unwrap();
        symlink(directory.join("own/x"), directory.join("good.yaml")).unwrap();
        let scan = all(&root.path().join("current"), &Known::default(), AT_ONCE).unwrap();
        assert_eq!(
            content(&scan, "good.yaml"),
            Content::Octets(b"secret: x".to_vec())
        );
        assert_eq!(
            scan.targets,
            BTreeSet::from([directory.join("own").canonicalize().unwrap()])
        );
        for name in scan.files.keys().filter(|name| *name != "good.yaml") {
            let Content::Unreadable(reason) = content(&scan, name) else {
                panic!("{name} was read")
            };
            assert!(reason.contains("outside of the directory"), "{name}: {reason}");
        }
        assert_eq!(scan.files.len(), 8);
    }

    #[test]
    fn a_missing_directory_is_an_error_and_has_no_identity() {
        let missing = Path::new("/nonexistent/environments");
        assert!(all(missing, &Known::default(), AT_ONCE).is_err());
        assert_eq!(identity(missing), None);
        let directory = tempfile::tempdir().unwrap();
        assert!(identity(directory.path()).is_some());
    }
}
