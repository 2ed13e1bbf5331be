//! The hosts file on disk: replaced as a whole, only when its bytes differ, and repaired when
//! another program changed or removed it.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

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
}

impl HostsFile {
    /// A file that is not touched before [`HostsFile::set`]. Creates its directory if that is
    /// missing.
    ///
    /// # Errors
    /// When the directory cannot be created.
    pub fn new(path: PathBuf) -> anyhow::Result<Self> {
        make_directory_of(&path)?;
        Ok(Self { path, wanted: None })
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
        if self.wanted.as_ref() == Some(&text) {
            return self.repair().await;
        }
        self.wanted = Some(text);
        self.write().await
    }

    /// Writes the file again if it is not as wanted. Returns whether it wrote.
    ///
    /// # Errors
    /// As [`HostsFile::set`].
    pub async fn repair(&self) -> anyhow::Result<bool> {
        self.write().await
    }

    async fn write(&self) -> anyhow::Result<bool> {
        let Some(text) = self.wanted.clone() else {
            return Ok(false);
        };
        let path = self.path.clone();
        // Syncing to disk takes milliseconds, on a bad day seconds.
        let written = mayfly_daemon::tasks::blocking(move || {
            // It may have been removed together with the file.
            make_directory_of(&path)?;
            write_if_different(&path, text.as_bytes(), MODE)
        });
        written
            .await
            .context("the task that writes the hosts file failed")?
    }
}

fn make_directory_of(path: &Path) -> anyhow::Result<()> {
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => std::fs::create_dir_all(directory)
            .with_context(|| format!("cannot create the directory `{}`", directory.display())),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

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
