//! A clock of a test's own, which can jump: programs that are started with it see it in place of the machine's, by Debian's
//! libfaketime. The monotonic clock goes on as it is, as it does when a machine's clock is set.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

#[derive(Debug, Clone)]
pub struct Clock {
    file: PathBuf,
    library: PathBuf,
    haproxy: PathBuf,
}

/// Runs HAProxy by the machine's clock: that of Debian 13 has jemalloc, which hangs below
/// libfaketime.
const HAPROXY: &str = "#!/bin/sh\nunset LD_PRELOAD\nexec haproxy \"$@\"\n";

impl Clock {
    /// A clock that is right, whose file is in `directory`.
    ///
    /// # Errors
    /// When libfaketime is missing.
    pub fn new(directory: &Path) -> Result<Self> {
        let multiarch = fs::read_dir("/usr/lib").context("list /usr/lib")?;
        let library = multiarch
            .flatten()
            .map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"))
            .find(|path| path.exists());
        let library = library.context(
            "libfaketime is not there: install Debian's package libfaketime (scripts/test.sh does)",
        )?;
        let clock = Self {
            file: directory.join("clock"),
            library,
            haproxy: directory.join("haproxy-with-real-time"),
        };
        fs::write(&clock.haproxy, HAPROXY).context("write a script")?;
        fs::set_permissions(&clock.haproxy, Permissions::from_mode(0o755)).context("make a script run")?;
        clock.set(0)?;
        Ok(clock)
    }

    /// Lets it differ from the machine's by so many seconds from now on; programs see that within a second.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, seconds: i64) -> Result<()> {
        let beside = self.file.with_extension("new");
        fs::write(&beside, format!("{seconds:+}")).context("set a clock")?;
        fs::rename(&beside, &self.file).context("set a clock")
    }

    /// Lets a program see it.
    pub fn show(&self, command: &mut Command) {
        command.env("LD_PRELOAD", &self.library);
        command.env("FAKETIME_TIMESTAMP_FILE", &self.file);
        command.env("FAKETIME_CACHE_DURATION", "1");
        command.env("DONT_FAKE_MONOTONIC", "1").env("NO_FAKE_STAT", "1");
        // With which haproxy-updater checks its configurations.
        command.env("MAYFLY_HAPROXY", &self.haproxy);
    }
}
