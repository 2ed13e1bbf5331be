//! Host names of a test's own: a program that is started with them sees another /etc/hosts than the rest of the machine,
//! in a mount namespace of its own. Nothing outside of the program changes, and names can be changed while it runs.

use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use rustix::process::geteuid;

#[derive(Debug, Clone)]
pub struct Names {
    path: PathBuf,
}

impl Names {
    /// Without names, in a file in `directory`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn new(directory: &Path) -> Result<Self> {
        let names = Self {
            path: directory.join("names"),
        };
        names.set(&[])?;
        Ok(names)
    }

    /// Says what each name leads to; names that are left out lead nowhere.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, names: &[(&str, IpAddr)]) -> Result<()> {
        let lines = names.iter().map(|(name, ip)| format!("{ip} {name}\n"));
        let text: String = std::iter::once("127.0.0.1 localhost\n".to_owned())
            .chain(lines)
            .collect();
        // In place: a file that is renamed over it would not be the one that was mounted. And in one write, with the
        // length set after it, so that a reader sees no empty file.
        let mut file = std::fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.path)
            .context("open the names")?;
        file.write_all(text.as_bytes()).context("write the names")?;
        file.set_len(text.len() as u64).context("cut the names")
    }

    /// The command that starts `command` with these names.
    pub fn wrap(&self, command: &Command) -> Command {
        let mut wrapped = Command::new("unshare");
        // Who is not root becomes so in a user namespace, where mounting is allowed.
        wrapped.arg(if geteuid().is_root() { "-m" } else { "-rm" });
        wrapped
            .args(["sh", "-c", r#"mount --bind "$0" /etc/hosts && exec "$@""#])
            .arg(&self.path)
            .arg(command.get_program())
            .args(command.get_args());
        wrapped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_sees_the_names_and_nobody_else_does() {
        let directory = tempfile::tempdir().unwrap();
        let names = Names::new(directory.path()).unwrap();
        names
            .set(&[("mayfly.test", "127.9.8.7".parse().unwrap())])
            .unwrap();
        let mut look = Command::new("getent");
        look.args(["hosts", "mayfly.test"]);
        let limit = std::time::Duration::from_secs(10);
        let found = crate::process::run(&names.wrap(&look), limit).await.unwrap();
        assert!(found.stdout.starts_with("127.9.8.7 "), "{found:?}");
        let hosts = std::fs::read_to_string("/etc/hosts").unwrap();
        assert!(!hosts.contains("mayfly.test"), "{hosts}");
    }
}
