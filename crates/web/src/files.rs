//! Files that are read again when they change: a failed read is tried again until one succeeds.

use std::fs;
use std::path::Path;

use mayfly_daemon::file::FileFingerprint;
use tracing::warn;

/// The files that were read last, and what went wrong since.
#[derive(Debug)]
pub struct WatchedFiles<const N: usize> {
    read: [Option<FileFingerprint>; N],
    /// What was logged already.
    warned: Option<String>,
}

impl<const N: usize> WatchedFiles<N> {
    /// Files that are about to be read for the first time.
    pub fn of(paths: [&Path; N]) -> Self {
        Self {
            read: paths.map(fingerprint),
            warned: None,
        }
    }

    /// Reads the files if they are not those of the last good read; `None` where there is nothing
    /// new. The same error is logged once, together with what stays in use.
    pub fn again<T>(
        &mut self,
        paths: [&Path; N],
        read: impl FnOnce() -> anyhow::Result<T>,
        former: &str,
    ) -> Option<T> {
        // Before the content: what changes in between is read the next time.
        let now = paths.map(fingerprint);
        if now == self.read {
            self.warned = None;
            return None;
        }
        match read() {
            Ok(content) => {
                (self.read, self.warned) = (now, None);
                Some(content)
            }
            Err(error) => {
                let told = format!("{error:#}; {former}");
                if self.warned.as_ref() != Some(&told) {
                    warn!("{told}");
                    self.warned = Some(told);
                }
                None
            }
        }
    }
}

fn fingerprint(path: &Path) -> Option<FileFingerprint> {
    fs::metadata(path).ok().as_ref().map(FileFingerprint::of)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;
    use std::time::SystemTime;

    /// Another file at the path, with the same time as all others.
    fn replace(path: &Path, content: &str) {
        let new = path.with_extension("new");
        fs::write(&new, content).unwrap();
        let file = fs::File::options().write(true).open(&new).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::rename(&new, path).unwrap();
    }

    #[test]
    fn a_failed_read_is_tried_again_until_one_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        replace(&path, "1");
        let mut reading = WatchedFiles::of([&path]);
        let mut again = |is_good: bool| {
            let read = || match is_good {
                true => Ok(fs::read_to_string(&path)?),
                false => bail!("no permission"),
            };
            reading.again([&path], read, "the former one stays")
        };
        assert_eq!(again(true), None, "it has not changed");
        replace(&path, "2");
        assert_eq!((again(false), again(false)), (None, None));
        // Nothing of the file has changed since, as when a directory above has become readable.
        assert_eq!(again(true).as_deref(), Some("2"));
        assert_eq!(again(true), None);
    }
}
