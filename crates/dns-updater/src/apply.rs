//! The hosts file on disk: replaced as a whole, only when its bytes differ, and repaired when
//! another program changed or removed it. Notices when its directory is another one than before.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use mayfly_daemon::file::write_if_different;

use crate::render::routers_of;

/// dnsmasq runs as a user of its own and has to read it.
const MODE: u32 = 0o644;

/// The file, and what it should hold.
#[derive(Debug)]
pub struct HostsFile {
    path: PathBuf,
    wanted: Option<String>,
    /// The directory that the file was last written to. It is held open, so that no directory that
    /// takes its place gets its inode.
    directory: Option<Arc<File>>,
    /// Whether the directory was replaced, which [`HostsFile::take_replaced`] is yet to say.
    replaced: bool,
}

impl HostsFile {
    /// A file that is not touched before [`HostsFile::set`]. Creates its directory if that is
    /// missing.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn new(path: PathBuf) -> anyhow::Result<Self> {
        make_directory_of(&path)?;
        let directory = open_directory_of(&path).map(Arc::new);
        Ok(Self {
            path,
            wanted: None,
            directory,
            replaced: false,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The routers that names in the file on disk resolve to; none when there is no such file.
    pub fn last_routers(&self) -> BTreeSet<IpAddr> {
        // A file that cannot be read has no routers; writing it will report what is wrong.
        std::fs::read_to_string(&self.path)
            .map(|text| routers_of(&text))
            .unwrap_or_default()
    }

    /// Wants the file to hold this text, and writes it if it does not. Returns whether it wrote.
    ///
    /// # Errors
    /// When the file cannot be written; [`HostsFile::repair`] retries.
    pub async fn set(&mut self, text: String) -> anyhow::Result<bool> {
        self.wanted = Some(text);
        self.repair().await
    }

    /// Writes the file again if it is not as wanted. Returns whether it wrote.
    ///
    /// # Errors
    /// As [`HostsFile::set`].
    pub async fn repair(&mut self) -> anyhow::Result<bool> {
        let Some(text) = self.wanted.clone() else {
            return Ok(false);
        };
        let (path, before) = (self.path.clone(), self.directory.clone());
        // Syncing to disk takes milliseconds, on a bad day seconds.
        let written = mayfly_daemon::tasks::blocking(move || -> anyhow::Result<(bool, Option<File>)> {
            // It may have been removed together with the file.
            make_directory_of(&path)?;
            let wrote = write_if_different(&path, text.as_bytes(), MODE)?;
            Ok((wrote, another_directory(&path, before.as_deref())))
        });
        let (wrote, another) = written
            .await
            .context("the task that writes the hosts file failed")??;
        if let Some(another) = another {
            self.replaced |= self.directory.replace(Arc::new(another)).is_some();
        }
        Ok(wrote)
    }

    /// The directory of the file, if it was replaced since the start or the last call. dnsmasq
    /// watches a directory itself, not its path: it notices nothing in another one.
    pub fn take_replaced(&mut self) -> Option<&Path> {
        let replaced = std::mem::take(&mut self.replaced);
        directory_of(&self.path).filter(|_| replaced)
    }
}

/// The directory of a path that names one: others are in the working directory.
fn directory_of(path: &Path) -> Option<&Path> {
    path.parent()
        .filter(|directory| !directory.as_os_str().is_empty())
}

fn make_directory_of(path: &Path) -> anyhow::Result<()> {
    let Some(directory) = directory_of(path) else {
        return Ok(());
    };
    std::fs::create_dir_all(directory)
        .with_context(|| format!("cannot create the directory `{}`", directory.display()))
}

fn open_directory_of(path: &Path) -> Option<File> {
    File::open(directory_of(path)?).ok()
}

/// The directory of a path, if it is another one than `before`.
fn another_directory(path: &Path, before: Option<&File>) -> Option<File> {
    let now = open_directory_of(path)?;
    (before.and_then(identity) != identity(&now)).then_some(now)
}

/// The device and the inode.
fn identity(file: &File) -> Option<(u64, u64)> {
    let metadata = file.metadata().ok()?;
    Some((metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn is_written_only_when_different_and_repaired_when_changed_or_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/directory/mayfly.hosts");
        let mut file = HostsFile::new(path.clone()).unwrap();
        assert!(
            !file.repair().await.unwrap() && !path.exists(),
            "nothing is wanted yet"
        );
        assert!(file.set("10.0.0.1 a\n".to_owned()).await.unwrap());
        let inode = std::fs::metadata(&path).unwrap().ino();
        assert!(!file.set("10.0.0.1 a\n".to_owned()).await.unwrap());
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);

        std::fs::write(&path, "10.6.6.6 a\n").unwrap();
        assert!(file.repair().await.unwrap());
        std::fs::remove_file(&path).unwrap();
        assert!(file.repair().await.unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "10.0.0.1 a\n");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(file.repair().await.unwrap(), "dnsmasq could not read it");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
        assert!(file.repair().await.unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "10.0.0.1 a\n");
        assert!(!file.repair().await.unwrap());
    }

    #[tokio::test]
    async fn says_once_that_its_directory_was_replaced() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("hosts");
        let path = directory.join("mayfly.hosts");
        let mut file = HostsFile::new(path.clone()).unwrap();
        assert!(file.set("10.0.0.1 a\n".to_owned()).await.unwrap());
        assert_eq!(file.take_replaced(), None, "the first start makes it");
        std::fs::remove_file(&path).unwrap();
        assert!(file.repair().await.unwrap());
        assert_eq!(file.take_replaced(), None, "only the file was removed");

        std::fs::remove_dir_all(&directory).unwrap();
        assert!(file.repair().await.unwrap());
        assert_eq!(file.take_replaced(), Some(directory.as_path()));
        assert!(!file.repair().await.unwrap());
        assert_eq!(file.take_replaced(), None, "it was said");

        // Another program makes it again, here with the same file.
        std::fs::rename(&directory, parent.path().join("before")).unwrap();
        std::fs::create_dir(&directory).unwrap();
        std::fs::copy(parent.path().join("before/mayfly.hosts"), &path).unwrap();
        assert!(!file.repair().await.unwrap());
        assert_eq!(file.take_replaced(), Some(directory.as_path()));

        // As long as nobody can write there, it is not said.
        std::fs::remove_dir_all(&directory).unwrap();
        std::fs::write(&directory, "").unwrap();
        assert!(file.repair().await.is_err());
        assert_eq!(file.take_replaced(), None);
        std::fs::remove_file(&directory).unwrap();
        std::fs::create_dir(&directory).unwrap();
        assert!(file.repair().await.unwrap());
        assert_eq!(file.take_replaced(), Some(directory.as_path()));
    }

    #[tokio::test]
    async fn a_directory_that_was_there_at_the_start_is_not_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let mut file = HostsFile::new(directory.path().join("mayfly.hosts")).unwrap();
        assert!(file.set("10.0.0.1 a\n".to_owned()).await.unwrap());
        assert_eq!(file.take_replaced(), None);
    }

    #[tokio::test]
    async fn knows_the_routers_of_the_file_before() {
        let directory = tempfile::tempdir().unwrap();
        let file = HostsFile::new(directory.path().join("mayfly.hosts")).unwrap();
        assert!(file.last_routers().is_empty());
        std::fs::write(
            file.path(),
            "# x\n# routers: 10.0.0.1 fd00::1\n10.0.0.1 a.service\n",
        )
        .unwrap();
        assert_eq!(file.last_routers().len(), 2);
    }
}
