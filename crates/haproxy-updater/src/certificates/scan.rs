//! The directory of the operator: which of its files have changed, and what they hold. It is looked
//! at rather than watched: the files of certbot and of config maps are links into other
//! directories, of whose changes a watch says nothing, and a look costs one `stat` for each file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mayfly_core::printable::printable;
use rustix::fs::OFlags;

use crate::certificates::certificate::Certificate;
use crate::haproxy::stamp::Stamp;

/// The most bytes that are read of a file.
const MOST_BYTES: u64 = 256 << 10;

/// What a file holds, or why it is no certificate that can be served.
pub type CertificateContent = Result<Arc<Certificate>, String>;

/// The files of a directory, as of the last look.
#[derive(Debug, Default)]
pub struct Scanner {
    directory: PathBuf,
    /// What each was like at the last look; nothing of one that could not be looked at.
    seen: BTreeMap<String, Option<Stamp>>,
    /// What each was like when it was read; nothing of one that could not be read, so that it is
    /// tried again.
    read: BTreeMap<String, Option<Stamp>>,
    /// What each held.
    pub files: BTreeMap<String, CertificateContent>,
    has_looked: bool,
}

impl Scanner {
    /// Of a directory that need not exist.
    pub fn new(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
            ..Self::default()
        }
    }

    /// Looks at all files and reads those that have changed and were the same at two looks: another
    /// may be half written. One that is missed at two looks is gone. Blocks.
    ///
    /// # Errors
    /// When the directory, or a file in it, cannot be looked at; what was known of those stays.
    pub fn look(&mut self) -> Result<(), String> {
        let mut now = BTreeMap::new();
        // Whether these are there is not known, as in a directory that may be listed and not entered.
        let mut unknown = BTreeMap::new();
        let cannot = |error: std::io::Error| format!("the directory cannot be read: {error}");
        for entry in std::fs::read_dir(&self.directory).map_err(cannot)? {
            let entry = entry.map_err(cannot)?;
            let name = printable(&entry.file_name().to_string_lossy());
            if name.starts_with('.') || !name.ends_with(".pem") {
                continue;
            }
            // Through links. What is no file cannot be read to an end.
            let path = entry.path();
            match std::fs::metadata(&path) {
                Ok(metadata) if metadata.is_file() => {
                    now.insert(name, (path, Stamp::of_metadata(&metadata)));
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => {
                    unknown.insert(name, error);
                }
            }
        }
        for (name, (path, stamp)) in &now {
            let known = self
                .read
                .get(name)
                .is_some_and(|read| read.as_ref() == Some(stamp));
            let settled = !self.has_looked || self.seen.get(name) == Some(&Some(*stamp));
            if !known && settled {
                let content = read(path);
                let stamp = content.is_ok().then_some(*stamp);
                self.read.insert(name.clone(), stamp);
                let content = content.and_then(|bytes| Certificate::read(&bytes).map(Arc::new));
                self.files.insert(name.clone(), content);
            }
        }
        // One that is served already stays so, also after a restart of this program.
        for (name, error) in &unknown {
            let unread = || Err(format!("it cannot be read: {error}"));
            self.files.entry(name.clone()).or_insert_with(unread);
        }
        let is_there = |name: &String| now.contains_key(name) || unknown.contains_key(name);
        let gone = |name: &String| !is_there(name) && !self.seen.contains_key(name);
        self.files.retain(|name, _| !gone(name));
        self.read.retain(|name, _| !gone(name));
        let there = now.into_iter().map(|(name, (_, stamp))| (name, Some(stamp)));
        let unseen = unknown.keys().map(|name| (name.clone(), None));
        self.seen = there.chain(unseen).collect();
        self.has_looked = true;
        match unknown.pop_first() {
            Some((name, error)) => Err(format!("{name} cannot be read: {error}")),
            None => Ok(()),
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("it cannot be read: {error}");
    // What was a file a moment ago may be a pipe now, whose opening would wait for a writer.
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(|_| "it cannot be opened")?;
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    // The metadata may lie: a file can grow, and those of some file systems have no size.
    let mut reader = file.take(MOST_BYTES + 1);
    reader.read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(format!("it has more than {MOST_BYTES} bytes"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn states(scanner: &mut Scanner) -> String {
        let looked = scanner.look().err().unwrap_or_default();
        let files = scanner.files.iter().map(|(name, content)| match content {
            Ok(_) => format!("{name}: good"),
            Err(reason) => format!("{name}: {reason}"),
        });
        files
            .chain((!looked.is_empty()).then_some(looked))
            .collect::<Vec<_>>()
            .join("; ")
    }

    #[test]
    fn a_file_counts_once_it_is_the_same_twice_and_is_gone_once_it_is_missed_twice() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let mut scanner = Scanner::new(directory.path());
        fs::write(path("a.pem"), "").unwrap();
        fs::write(path(".hidden.pem"), "").unwrap();
        fs::write(path("a.key"), "").unwrap();
        fs::create_dir(path("b.pem")).unwrap();
        std::os::unix::fs::symlink("nowhere", path("c.pem")).unwrap();
        assert_eq!(states(&mut scanner), "a.pem: it is empty", "at the first look");

        fs::write(path("a.pem"), "half").unwrap();
        assert_eq!(
            states(&mut scanner),
            "a.pem: it is empty",
            "it may be half written"
        );
        assert_eq!(states(&mut scanner), "a.pem: it is not PEM");

        fs::rename(path("a.pem"), path("away")).unwrap();
        assert_eq!(states(&mut scanner), "a.pem: it is not PEM", "it may come back");
        assert_eq!(states(&mut scanner), "");

        // What cannot be looked at is not gone.
        fs::rename(path("away"), path("a.pem")).unwrap();
        states(&mut scanner);
        states(&mut scanner);
        fs::rename(path("a.pem"), path("away")).unwrap();
        std::os::unix::fs::symlink("a.pem", path("a.pem")).unwrap();
        for _ in 0..3 {
            let looked = states(&mut scanner);
            assert!(
                looked.starts_with("a.pem: it is not PEM; a.pem cannot be read: Too many levels"),
                "{looked}"
            );
        }
        fs::remove_file(path("a.pem")).unwrap();
        assert_eq!(states(&mut scanner), "a.pem: it is not PEM", "missed once");
        assert_eq!(states(&mut scanner), "");
        // After a restart, nobody has read it.
        std::os::unix::fs::symlink("a.pem", path("a.pem")).unwrap();
        let looked = states(&mut Scanner::new(directory.path()));
        assert!(
            looked.starts_with("a.pem: it cannot be read: Too many levels"),
            "{looked}"
        );
        fs::remove_file(path("a.pem")).unwrap();

        fs::rename(path("away"), path("a.pem")).unwrap();
        assert_eq!(
            (states(&mut scanner), states(&mut scanner)),
            (String::new(), "a.pem: it is not PEM".to_owned())
        );
        fs::rename(directory.path(), directory.path().with_extension("away")).unwrap();
        let found = (states(&mut scanner), states(&mut scanner));
        assert!(
            found
                .0
                .starts_with("a.pem: it is not PEM; the directory cannot be read: No such file")
                && found.0 == found.1,
            "{found:?}"
        );
        fs::rename(directory.path().with_extension("away"), directory.path()).unwrap();
        assert_eq!(states(&mut scanner), "a.pem: it is not PEM");
    }

    #[test]
    fn what_is_too_large_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(
            directory.path().join("a.pem"),
            vec![b'a'; MOST_BYTES as usize + 1],
        )
        .unwrap();
        let mut scanner = Scanner::new(directory.path());
        assert_eq!(states(&mut scanner), "a.pem: it has more than 262144 bytes");
    }

    #[test]
    fn what_is_no_file_or_has_no_end_is_not_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
        for path in [&pipe, Path::new("/dev/zero"), directory.path()] {
            assert_eq!(read(path), Err("it is not a regular file".to_owned()), "{path:?}");
        }
    }
}
