//! Earlier contents of environments: `<archive>/<environment>/<UTC time>.yaml`. The newest of them
//! is the content that is in force, and the number of contents is limited. The names of the files
//! are in the order of the contents, whatever the clock does.

use std::fmt;
use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::Context as _;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::lifetime::Moment;
use mayfly_daemon::file::{real_path, write_atomically};

use crate::files_in::scan::KeptFile;

/// The name of an archived content: `2026-11-22T23-15-00Z.yaml`, and `2026-11-22T23-15-00Z-2.yaml`
/// for the second one within that second. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArchiveStamp {
    second: Moment,
    number: u32,
}

impl ArchiveStamp {
    /// The stamp that a file has; `None` for a file that is none of ours.
    pub fn parse(file: &str) -> Option<Self> {
        let stem = file.strip_suffix(".yaml")?;
        let (time, rest) = stem.split_at_checked(stem.find('Z')? + 1)?;
        let (day, clock) = time.split_once('T')?;
        let second = format!("{day}T{}", clock.replace('-', ":")).parse().ok()?;
        let number = match rest.strip_prefix('-') {
            Some(number) => number.parse().ok()?,
            None if rest.is_empty() => 1,
            None => return None,
        };
        let stamp = Self { second, number };
        (stamp.to_string() == file).then_some(stamp)
    }

    /// The stamp for a content of this moment that comes after all of `earlier`, even when the
    /// clock went back.
    pub fn next(earlier: &[Self], now: SystemTime) -> Self {
        let first = Self {
            second: Moment::of(now),
            number: 1,
        };
        match earlier.iter().max() {
            Some(newest) if newest.second >= first.second => Self {
                second: newest.second,
                number: newest.number.saturating_add(1),
            },
            _ => first,
        }
    }
}

impl fmt::Display for ArchiveStamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Colons are trouble for other file systems, and for scp.
        let second = self.second.to_string().replace(':', "-");
        match self.number {
            1 => write!(f, "{second}.yaml"),
            number => write!(f, "{second}-{number}.yaml"),
        }
    }
}

/// All but the newest `keep`.
fn surplus(mut stamps: Vec<ArchiveStamp>, keep: usize) -> Vec<ArchiveStamp> {
    stamps.sort();
    stamps.truncate(stamps.len().saturating_sub(keep));
    stamps
}

/// The directory of earlier contents.
#[derive(Debug, Clone)]
pub struct Archive {
    root: PathBuf,
    keep: usize,
}

impl Archive {
    /// The archive at `root`, which need not exist, with the newest `keep` contents of each
    /// environment. By default it lies beside the directory that is watched.
    ///
    /// # Errors
    /// When it would lie in that directory, or that in it: an environment may have the name of the
    /// directory.
    pub fn new(root: Option<&Path>, watched: &Path, keep: usize) -> anyhow::Result<Self> {
        let watched = real_path(watched);
        let root = match root {
            Some(root) => real_path(root),
            None => watched.parent().unwrap_or(&watched).join("archive"),
        };
        anyhow::ensure!(
            !root.starts_with(&watched) && !watched.starts_with(&root),
            "the archive {} and the watched directory {} contain each other; choose another \
             place with --archive",
            root.display(),
            watched.display()
        );
        Ok(Self { root, keep })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn is_on(&self) -> bool {
        self.keep > 0
    }

    /// The most contents of one environment.
    pub fn keep(&self) -> usize {
        self.keep
    }

    /// The newest content of an environment; `None` when there is none.
    ///
    /// # Errors
    /// When the archive can't be read.
    pub fn newest(&self, name: &EnvironmentName) -> anyhow::Result<Option<KeptFile>> {
        let directory = self.directory(name);
        match stamps(&directory)?.into_iter().max() {
            Some(stamp) => read(&directory.join(stamp.to_string())).map(Some),
            None => Ok(None),
        }
    }

    /// Adds a content, unless it is the newest already, and deletes those that are too many. Says
    /// whether it added it.
    ///
    /// # Errors
    /// When the archive can't be read or written.
    pub fn add(&self, name: &EnvironmentName, content: &KeptFile, now: SystemTime) -> anyhow::Result<bool> {
        let directory = self.directory(name);
        let mut stamps = stamps(&directory)?;
        let newest = stamps.iter().max().map(|stamp| directory.join(stamp.to_string()));
        let is_new = match newest {
            Some(newest) => {
                let before = read(&newest)?;
                let is_new = before.bytes != content.bytes;
                if !is_new && before.mode != content.mode {
                    fs::set_permissions(&newest, Permissions::from_mode(content.mode))
                        .with_context(|| format!("cannot set the mode of {}", newest.display()))?;
                }
                is_new
            }
            None => true,
        };
        if is_new {
            fs::create_dir_all(&directory)
                .with_context(|| format!("cannot create the directory {}", directory.display()))?;
            let stamp = ArchiveStamp::next(&stamps, now);
            write_atomically(&directory.join(stamp.to_string()), &content.bytes, content.mode)?;
            stamps.push(stamp);
        }
        for stamp in surplus(stamps, self.keep) {
            let path = directory.join(stamp.to_string());
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot delete {}", path.display()));
                }
                _ => {}
            }
        }
        Ok(is_new)
    }

    /// The name of an environment is a DNS label: it can't lead anywhere else.
    fn directory(&self, name: &EnvironmentName) -> PathBuf {
        self.root.join(name.as_str())
    }
}

fn read(path: &Path) -> anyhow::Result<KeptFile> {
    let read = || -> std::io::Result<KeptFile> {
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        let bytes = fs::read(path)?;
        Ok(KeptFile { bytes, mode })
    };
    read().with_context(|| format!("cannot read {}", path.display()))
}

/// The contents that lie in a directory; other files there are not ours.
fn stamps(directory: &Path) -> anyhow::Result<Vec<ArchiveStamp>> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot read the directory {}", directory.display()))?,
    };
    let mut stamps = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read the directory {}", directory.display()))?;
        stamps.extend(entry.file_name().to_str().and_then(ArchiveStamp::parse));
    }
    Ok(stamps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn stamps_have_a_text() {
        let first = ArchiveStamp::next(&[], at(1_795_389_300));
        assert_eq!(first.to_string(), "2026-11-22T23-15-00Z.yaml");
        let second = ArchiveStamp::next(&[first], at(1_795_389_300));
        assert_eq!(second.to_string(), "2026-11-22T23-15-00Z-2.yaml");
        for stamp in [first, second] {
            assert_eq!(ArchiveStamp::parse(&stamp.to_string()), Some(stamp));
        }
        for other in [
            "notes.yaml",
            "2026-11-22T23-15-00Z.yml",
            "2026-11-22T23-15-00Z-1.yaml",
            "2026-11-22T23-15-00Z-02.yaml",
            "2026-11-22T23:15:00Z.yaml",
            "2026-11-22T23-15-00Z.yaml~",
            ".2026-11-22T23-15-00Z.yaml",
            "Zé.yaml",
        ] {
            assert_eq!(ArchiveStamp::parse(other), None, "{other}");
        }
    }

    #[test]
    fn contents_are_added_once_and_the_newest_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let archive = Archive::new(Some(&root.path().join("archive")), &root.path().join("envs"), 2).unwrap();
        let name: EnvironmentName = "a".parse().unwrap();
        assert_eq!(archive.newest(&name).unwrap(), None);
        let notes = root.path().join("archive/a/notes.yaml");
        for (content, is_new) in [("1", true), ("1", false), ("2", true), ("1", true)] {
            let kept = KeptFile {
                bytes: content.into(),
                mode: 0o640,
            };
            assert_eq!(archive.add(&name, &kept, at(5)).unwrap(), is_new, "{content}");
            fs::write(&notes, "of a person").unwrap();
        }
        let kept = |mode| KeptFile {
            bytes: b"1".to_vec(),
            mode,
        };
        assert_eq!(archive.newest(&name).unwrap(), Some(kept(0o640)));
        // Whoever takes the right to read a file from others takes that to its archived content
        // too.
        assert!(!archive.add(&name, &kept(0o600), at(5)).unwrap());
        assert_eq!(archive.newest(&name).unwrap(), Some(kept(0o600)));
        let mut files: Vec<_> = fs::read_dir(root.path().join("archive/a"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        assert_eq!(
            files,
            [
                "1970-01-01T00-00-05Z-2.yaml",
                "1970-01-01T00-00-05Z-3.yaml",
                "notes.yaml"
            ]
        );
    }

    #[test]
    fn it_does_not_lie_in_what_is_watched() {
        let root = tempfile::tempdir().unwrap();
        let watched = root.path().join("envs");
        fs::create_dir(&watched).unwrap();
        std::os::unix::fs::symlink(&watched, root.path().join("link")).unwrap();
        for inside in [
            "envs",
            "envs/archive",
            "link/a/b",
            "other/../envs/archive",
            "",
            "..",
        ] {
            let path = root.path().join(inside);
            // What does not exist can't be followed: `other` is there by the time that it is used.
            fs::create_dir_all(root.path().join("other")).unwrap();
            let error = Archive::new(Some(&path), &watched, 10).unwrap_err();
            assert!(error.to_string().contains("--archive"), "{inside}: {error}");
        }
        let beside = Archive::new(None, &watched, 10).unwrap();
        assert_eq!(beside.root(), root.path().canonicalize().unwrap().join("archive"));
        assert!(Archive::new(Some(&root.path().join("envs-archive")), &watched, 10).is_ok());
    }

    proptest! {
        #[test]
        fn any_name_of_a_file_is_a_stamp_or_none(name in "[0-9]{0,5}-[0-9]{2}-[0-9]{2}T[0-9:-]{0,9}Z(-[0-9]{0,12})?(\\.yaml)?|\\PC{0,30}|[0-9TZ.-]{0,30}\\.yaml") {
            if let Some(stamp) = ArchiveStamp::parse(&name) {
                prop_assert_eq!(stamp.to_string(), name);
            }
        }

        /// Whatever the clock does, the newest contents stay, in their order.
        #[test]
        fn later_contents_have_greater_stamps(clock in prop::collection::vec(0..4u64, 1..40), keep in 1..5usize) {
            let (mut stamps, mut all) = (Vec::new(), Vec::new());
            for second in clock {
                let stamp = ArchiveStamp::next(&stamps, at(second));
                stamps.push(stamp);
                all.push(stamp);
                for gone in surplus(stamps.clone(), keep) {
                    stamps.retain(|stamp| *stamp != gone);
                }
            }
            prop_assert_eq!(&stamps, &all[all.len().saturating_sub(keep)..]);
        }
    }
}
