//! The directory as it is now: which of its entries are files of environments or definitions,
//! whether they have changed, and their contents. A file's size and kind are checked before it is
//! read, so that a huge one, or one that is no regular file, costs nothing.
//!
//! Symbolic links are followed only if they end in the directory itself, as those of config maps
//! do. Otherwise anyone who may push a link into a work tree could make the registrar read, and
//! report, any file that its account may read.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

pub use mayfly_core::file::is_yaml_file;
use mayfly_core::file::{SIZE_LIMIT, too_long};
use mayfly_daemon::file::FileFingerprint;
use mayfly_daemon::input::{Aside, OUTSIDE, aside, target};

/// A file that has not changed for this long is whole. Not less: the clock of a file server may be
/// another one.
const OLD: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Bytes(Vec<u8>),
    /// It can't be read, or is too long: why.
    Unreadable(String),
}

/// A content with the permission bits of its file: what only some may read is not for everybody in
/// the archive either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptFile {
    pub bytes: Vec<u8>,
    /// Who may read and write it.
    pub mode: u32,
}

/// Who may read a file of ours that comes from no other file: everybody.
pub const MODE: u32 = 0o644;

/// A file as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFile {
    /// What tells this state from later ones; `None` for a link that leads nowhere, or out of the
    /// directory.
    pub fingerprint: Option<FileFingerprint>,
    pub content: Content,
}

impl FoundFile {
    /// One whose content nobody knows.
    fn unread(content: Content) -> Self {
        Self {
            fingerprint: None,
            content,
        }
    }
}

/// Reads one entry of the directory; `None` when it is not there or no file.
pub fn look(directory: &Path, name: &str) -> Option<FoundFile> {
    let entry = directory.join(name);
    let itself = fs::symlink_metadata(&entry);
    judge(directory, entry, itself)
}

/// The same of an entry whose own metadata, not those of a link's target, are these. Only an entry
/// that is not there is gone: of one that cannot be looked at (a directory that may be listed and
/// not entered, a file server in trouble) nobody can tell what it says, and its records stay.
fn judge(directory: &Path, entry: PathBuf, itself: io::Result<Metadata>) -> Option<FoundFile> {
    let (path, metadata) = match itself {
        Ok(metadata) if metadata.is_symlink() => match followed(directory, &entry) {
            Ok(path) => {
                let metadata = fs::metadata(&path);
                (path, metadata)
            }
            Err(content) => return Some(FoundFile::unread(content)),
        },
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        metadata => (entry, metadata),
    };
    match metadata {
        Ok(metadata) if metadata.is_file() => Some(FoundFile {
            fingerprint: Some(FileFingerprint::of(&metadata)),
            content: read(&path, metadata.len()),
        }),
        Ok(_) => None,
        Err(error) => Some(FoundFile::unread(unreadable(&error))),
    }
}

/// Where a link of the directory leads, if that is in the directory. Else why it is not read.
fn followed(directory: &Path, link: &Path) -> Result<PathBuf, Content> {
    match target(directory, link) {
        Ok(Some(target)) => Ok(target),
        Ok(None) => Err(Content::Unreadable(OUTSIDE.to_owned())),
        Err(error) => Err(unreadable(&error)),
    }
}

/// Reads a file that has `bytes` bytes.
fn read(path: &Path, bytes: u64) -> Content {
    if bytes > SIZE_LIMIT {
        return Content::Unreadable(too_long(bytes));
    }
    let mut content = Vec::with_capacity(usize::try_from(bytes).unwrap_or_default());
    // It may have grown since it was looked at.
    let outcome = File::open(path).and_then(|file| file.take(SIZE_LIMIT + 1).read_to_end(&mut content));
    match outcome {
        Ok(_) if content.len() as u64 > SIZE_LIMIT => Content::Unreadable(too_long(content.len() as u64)),
        Ok(_) => Content::Bytes(content),
        Err(error) => unreadable(&error),
    }
}

fn unreadable(error: &io::Error) -> Content {
    let advice = match error.kind() {
        ErrorKind::PermissionDenied => {
            "; let the user of environment-registrar read it and the directories on the way to it \
             (chmod, chown); the registrar retries by itself"
        }
        _ => "",
    };
    Content::Unreadable(format!("cannot be read: {error}{advice}"))
}

/// What is known already, so that a scan reads only what is new.
#[derive(Debug, Clone, Default)]
pub struct KnownFiles {
    /// The files that have been read.
    pub read: BTreeMap<String, FileFingerprint>,
    /// The files that were found too fresh to be read, as they were then, and when they are read if
    /// they stay so.
    pub fresh: BTreeMap<String, (FileFingerprint, Instant)>,
    /// The files that are being written at this moment.
    pub writing: BTreeSet<String>,
    /// Directories that are read elsewhere.
    pub elsewhere: BTreeSet<PathBuf>,
}

/// What a scan of the whole directory found.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// All files by name; `None` for one that need not or must not be read now.
    pub files: BTreeMap<String, Option<FoundFile>>,
    /// Those among them that were written a moment ago, perhaps not to their end: to be looked at
    /// again at that time.
    pub fresh: BTreeMap<String, (FileFingerprint, Instant)>,
    /// The directories in which the targets of symbolic links lie.
    pub targets: BTreeSet<PathBuf>,
    /// What only looks like a file of the directory.
    pub asides: Vec<Aside>,
}

/// Looks through the directory. A file that has changed in the last minute may be half written: it
/// is read once it has stayed the same for `quiet`, from the first look at it on, however often
/// somebody looks meanwhile.
///
/// # Errors
/// When the directory is not there or cannot be read.
pub fn all(directory: &Path, known: &KnownFiles, quiet: Duration) -> io::Result<Scan> {
    let (now, clock) = (Instant::now(), SystemTime::now());
    let mut scan = Scan::default();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        scan.asides.extend(aside(directory, &entry));
        let Some(name) = entry
            .file_name()
            .into_string()
            .ok()
            .filter(|name| is_yaml_file(name))
        else {
            continue;
        };
        if entry.file_type()?.is_symlink() {
            match followed(directory, &entry.path()) {
                Ok(target) => scan.targets.extend(target.parent().map(Path::to_path_buf)),
                Err(content) => {
                    scan.files.insert(name, Some(FoundFile::unread(content)));
                    continue;
                }
            }
        }
        if known.writing.contains(&name) {
            scan.files.insert(name, None);
            continue;
        }
        if let Ok(metadata) = fs::metadata(entry.path()) {
            let fingerprint = FileFingerprint::of(&metadata);
            if metadata.is_file() && known.read.get(&name) == Some(&fingerprint) {
                scan.files.insert(name, None);
                continue;
            }
            let age = metadata
                .modified()
                .ok()
                .and_then(|modified| clock.duration_since(modified).ok());
            let old = age.is_some_and(|age| age >= OLD);
            let seen = known.fresh.get(&name).filter(|(seen, _)| *seen == fingerprint);
            let due = seen.map_or(now + quiet, |(_, due)| *due);
            if metadata.is_file() && !old && due > now {
                scan.fresh.insert(name.clone(), (fingerprint, due));
                scan.files.insert(name, None);
                continue;
            }
        }
        if let Some(found) = look(directory, &name) {
            scan.files.insert(name, Some(found));
        }
    }
    scan.asides.retain(|aside| {
        // What links lead to is read, and so is what is read elsewhere.
        let folder = aside
            .is_folder
            .then(|| directory.join(&aside.name).canonicalize().ok());
        let is_read = |folder: PathBuf| {
            let elsewhere = known.elsewhere.iter().filter_map(|path| path.canonicalize().ok());
            scan.targets
                .iter()
                .cloned()
                .chain(elsewhere)
                .any(|read| read.starts_with(&folder))
        };
        !folder.flatten().is_some_and(is_read)
    });
    scan.asides.sort();
    Ok(scan)
}

/// What tells a directory from another one of the same name: device, inode and, where the file
/// system knows it, the time of its birth, since a directory that is removed and made again often
/// gets the same inode.
pub type FileIdentity = (u64, u64, Option<SystemTime>);

/// The identity of a directory; `None` when there is none.
pub fn identity(directory: &Path) -> Option<FileIdentity> {
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
        let scan = all(path, &KnownFiles::default(), AT_ONCE).unwrap();
        assert_eq!(scan.files.keys().collect::<Vec<_>>(), ["a.yaml"]);
        let found = scan.files["a.yaml"].clone().unwrap();
        assert_eq!(found.content, Content::Bytes(b"name: a".to_vec()));

        let mut known = KnownFiles::default();
        known.read.insert("a.yaml".to_owned(), found.fingerprint.unwrap());
        assert_eq!(all(path, &known, AT_ONCE).unwrap().files["a.yaml"], None);
        fs::write(path.join("a.yaml"), "name: ab").unwrap();
        assert!(all(path, &known, AT_ONCE).unwrap().files["a.yaml"].is_some());
        known.writing.insert("a.yaml".to_owned());
        assert_eq!(all(path, &known, AT_ONCE).unwrap().files["a.yaml"], None);
    }

    #[test]
    fn a_fresh_file_is_read_when_it_has_stayed_the_same_for_long_enough() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.yaml");
        fs::write(&path, "name: a").unwrap();
        let hour = Duration::from_secs(3600);
        let scan = |fresh| {
            let known = KnownFiles {
                fresh,
                ..KnownFiles::default()
            };
            let scan = all(directory.path(), &known, hour).unwrap();
            (scan.files["a.yaml"].is_some(), scan.fresh)
        };
        let (read, mut fresh) = scan(BTreeMap::new());
        assert!(!read && fresh.len() == 1);
        // Looks that follow one another for the sake of other files prove nothing.
        let (read, again) = scan(fresh.clone());
        assert!(!read && again == fresh, "the time counts from the first look on");
        let over = |fresh: &mut BTreeMap<String, (FileFingerprint, Instant)>| {
            fresh.values_mut().for_each(|(_, due)| *due = Instant::now());
        };
        over(&mut fresh);
        assert!(scan(fresh.clone()).0);
        // It has grown since.
        fs::write(&path, "name: ab").unwrap();
        let (read, mut fresh) = scan(fresh);
        assert!(!read && fresh.len() == 1);
        over(&mut fresh);
        assert!(scan(fresh).0);
        // What is old was not written a moment ago.
        let old = SystemTime::now() - OLD;
        File::options()
            .append(true)
            .open(&path)
            .unwrap()
            .set_modified(old)
            .unwrap();
        assert!(scan(BTreeMap::new()).0);
    }

    #[test]
    fn what_only_looks_like_a_file_is_reported_unless_it_is_read_elsewhere() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        for file in ["team-a/x.yaml", "linked/x.yaml", "services/x.yaml"] {
            fs::create_dir(path.join(file).parent().unwrap()).unwrap();
            fs::write(path.join(file), "name: x").unwrap();
        }
        fs::write(path.join("UPPER.YAML"), "name: x").unwrap();
        symlink("linked/x.yaml", path.join("x.yaml")).unwrap();
        let known = KnownFiles {
            elsewhere: BTreeSet::from([path.join("services")]),
            ..KnownFiles::default()
        };
        let scan = all(&path, &known, AT_ONCE).unwrap();
        let names: Vec<_> = scan.asides.iter().map(|aside| aside.name.as_str()).collect();
        assert_eq!(names, ["UPPER.YAML", "team-a/"]);
        assert_eq!(scan.files.keys().collect::<Vec<_>>(), ["x.yaml"]);
    }

    #[test]
    fn what_cannot_be_read_is_reported_and_what_is_too_long_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        symlink("nowhere", path.join("dangling.yaml")).unwrap();
        File::create(path.join("huge.yaml"))
            .unwrap()
            .set_len(100 << 20)
            .unwrap();
        let reason = |name: &str| match look(path, name).unwrap().content {
            Content::Unreadable(reason) => reason,
            Content::Bytes(_) => panic!("{name} was read"),
        };
        assert!(reason("dangling.yaml").contains("No such file"));
        assert!(reason("huge.yaml").contains("104857600 bytes"));
        assert_eq!(look(path, "gone.yaml"), None);
        let scan = all(path, &KnownFiles::default(), AT_ONCE).unwrap();
        assert!(scan.files["dangling.yaml"].is_some());
    }

    #[test]
    fn only_an_entry_that_is_not_there_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::write(path.join("a.yaml"), "name: a").unwrap();
        let judged = |code: i32| {
            let itself = Err(io::Error::from_raw_os_error(code));
            judge(path, path.join("a.yaml"), itself)
        };
        // EACCES of a directory without `x`, ESTALE and EIO of a file server.
        for (code, part) in [(13, "Permission denied"), (116, "Stale"), (5, "Input/output")] {
            let Some(FoundFile {
                fingerprint: None,
                content: Content::Unreadable(reason),
            }) = judged(code)
            else {
                panic!("{part}: the file is taken for gone, or for read")
            };
            assert!(reason.contains(part), "{reason}");
        }
        assert_eq!(judged(2), None);
        // The same with an error of the system itself, for whoever runs this.
        assert!(look(path, "a.yaml/b.yaml").is_some());
        assert_eq!(look(path, "b.yaml"), None);
    }

    #[test]
    fn targets_of_links_are_known() {
        let directory = tempfile::tempdir().unwrap();
        let other = directory.path().join("other");
        fs::create_dir(&other).unwrap();
        fs::write(other.join("x"), "name: x").unwrap();
        symlink("other/x", directory.path().join("x.yaml")).unwrap();
        let scan = all(directory.path(), &KnownFiles::default(), AT_ONCE).unwrap();
        assert_eq!(scan.targets, BTreeSet::from([other.canonicalize().unwrap()]));
        assert_eq!(content(&scan, "x.yaml"), Content::Bytes(b"name: x".to_vec()));
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
        let scan = all(&root.path().join("current"), &KnownFiles::default(), AT_ONCE).unwrap();
        assert_eq!(content(&scan, "good.yaml"), Content::Bytes(b"secret: x".to_vec()));
        assert_eq!(
            scan.targets,
            BTreeSet::from([directory.join("own").canonicalize().unwrap()])
        );
        for name in scan.files.keys().filter(|name| *name != "good.yaml") {
            let Content::Unreadable(reason) = content(&scan, name) else {
                panic!("{name} was read")
            };
            assert!(
                reason.contains("a file outside this directory"),
                "{name}: {reason}"
            );
        }
        assert_eq!(scan.files.len(), 8);
    }

    #[test]
    fn a_missing_directory_is_an_error_and_has_no_identity() {
        let missing = Path::new("/nonexistent/environments");
        assert!(all(missing, &KnownFiles::default(), AT_ONCE).is_err());
        assert_eq!(identity(missing), None);
        let directory = tempfile::tempdir().unwrap();
        assert!(identity(directory.path()).is_some());
    }
}
