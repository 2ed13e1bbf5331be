//! Lets a haproxy program read a configuration without starting, where there is such a program.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::Command;
use tokio::time::timeout;

use crate::haproxy::answers;

const CHECK_LIMIT: Duration = Duration::from_secs(60);

/// Runs `haproxy -c` on a file.
///
/// # Errors
/// When it finds a fault (the message has it), or does not end in time.
pub async fn run_check(haproxy: &Path, config: &Path) -> anyhow::Result<()> {
    let check = Command::new(haproxy)
        .arg("-c")
        .arg("-f")
        .arg(config)
        // A configuration can read variables, and this one is secret.
        .env_remove("MAYFLY_ETCD_PASSWORD")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let Ok(output) = timeout(CHECK_LIMIT, check).await else {
        bail!("`haproxy -c` did not finish within {CHECK_LIMIT:?}");
    };
    let output = output.with_context(|| format!("cannot run `{}`", haproxy.display()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    bail!(
        "`haproxy -c` rejects the configuration: {}",
        answers::alerts(&said)
    )
}

/// The program at a path, or of a name in PATH.
pub(super) fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    // A daemon's PATH often lacks sbin, where Debian has haproxy.
    let more = [PathBuf::from("/usr/sbin"), PathBuf::from("/usr/local/sbin")];
    let mut directories = std::env::split_paths(&path).chain(more);
    directories.find_map(|directory| Some(directory.join(program)).filter(|path| path.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_path_or_name() {
        assert_eq!(find("/bin/sh".as_ref()), Some("/bin/sh".into()));
        assert!(find("sh".as_ref()).is_some());
        assert_eq!(find("/bin/no-such-program".as_ref()), None);
        assert_eq!(find("no-such-program".as_ref()), None);
    }
}
