//! A small disk of a test's own that can be full or read-only: a tmpfs over a directory. Needs root.

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Names a disk among the mounts of the machine, with the test that has it.
const NAME: &str = "mayfly-disk";
/// A disk; gone when dropped, though what has files open there keeps those.
#[derive(Debug)]
pub struct Disk {
    path: PathBuf,
}

impl Disk {
    /// The file that fills it.
    pub const FILLER: &str = "filler";

    /// An empty disk of so many megabytes over a directory.
    ///
    /// # Errors
    /// When not run as root.
    pub fn over(path: &Path, megabytes: u32) -> Result<Self> {
        sweep()?;
        let name = format!("{NAME}-{}", std::process::id());
        let size = format!("size={megabytes}m,mode=755");
        let mut command = Command::new("mount");
        run(command.args(["-t", "tmpfs", "-o", &size, &name]).arg(path))?;
        Ok(Self { path: path.into() })
    }

    /// Leaves no room.
    ///
    /// # Errors
    /// When it fails for another reason than that there is none.
    pub fn fill(&self) -> Result<()> {
        let mut file = File::create(self.path.join(Self::FILLER)).context("fill a disk")?;
        for size in [1 << 16, 1] {
            let octets = vec![0; size];
            loop {
                match file.write_all(&octets) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error).context("fill a disk"),
                }
            }
        }
        Ok(())
    }

    /// Ends [`Disk::fill`].
    ///
    /// # Errors
    /// When it was not filled.
    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.path.join(Self::FILLER)).context("free a disk")
    }

    /// Lets nobody write, or lets everybody write again.
    ///
    /// # Errors
    /// When somebody is just writing.
    pub fn read_only(&self, is: bool) -> Result<()> {
        let options = if is { "remount,ro" } else { "remount,rw" };
        run(Command::new("mount").args(["-o", options]).arg(&self.path))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = unmount(&self.path) {
            eprintln!("{error:#}");
        }
    }
}

/// Takes away the disks of tests that were killed.
fn sweep() -> Result<()> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("list the mounts")?;
    for mount in mounts.lines() {
        let mut words = mount.split_whitespace();
        let (name, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let test = name.strip_prefix(NAME).and_then(|rest| rest.strip_prefix('-'));
        if test.is_some_and(|test| !Path::new("/proc").join(test).exists()) {
            // Another test may have been quicker.
            let _ = unmount(Path::new(path));
        }
    }
    Ok(())
}

fn unmount(path: &Path) -> Result<()> {
    run(Command::new("umount").arg("-l").arg(path))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_full_or_read_only_for_a_while() {
        let directory = tempfile::tempdir().unwrap();
        let disk = Disk::over(directory.path(), 1).unwrap();
        // A file that is there already has room of its own.
        let write = || {
            let _ = std::fs::remove_file(directory.path().join("file"));
            std::fs::write(directory.path().join("file"), "text")
        };
        disk.fill().unwrap();
        assert_eq!(write().unwrap_err().kind(), ErrorKind::StorageFull);
        disk.free().unwrap();
        write().unwrap();
        disk.read_only(true).unwrap();
        assert_eq!(write().unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        disk.read_only(false).unwrap();
        write().unwrap();
        drop(disk);
        assert!(!directory.path().join("file").exists());
    }
}
