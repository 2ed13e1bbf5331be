//! An sshd of a test's own, at an address and port of its own, with keys that are made for it. It
//! lets this user in and forwards ports. Needs root.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::port;
use crate::process::{self, Process};

/// sshd wants to be called by its whole path.
const SSHD: &str = "/usr/sbin/sshd";
/// Where sshd locks in the part of it that talks to strangers.
const LOCKED_IN: &str = "/run/sshd";

/// A running sshd, and how its clients are configured.
#[derive(Debug)]
pub struct Sshd {
    _process: Process,
    address: SocketAddr,
    directory: PathBuf,
}

impl Sshd {
    /// Starts one; its files go into `directory`. It drops a client that is silent for 2 s.
    ///
    /// # Errors
    /// When it is not installed, not run as root, or does not listen.
    pub async fn start(ip: IpAddr, directory: &Path) -> Result<Self> {
        let directory = directory.join("sshd");
        std::fs::create_dir_all(&directory).context("make a directory")?;
        std::fs::create_dir_all(LOCKED_IN).with_context(|| format!("make {LOCKED_IN}"))?;
        for name in ["host", "client", "stranger"] {
            make_key(&directory.join(name)).await?;
        }
        let public = |name: &str| std::fs::read_to_string(directory.join(format!("{name}.pub")));
        let address = port::free_at(ip);
        let place = directory.display();
        let write = |name: &str, text: String| {
            std::fs::write(directory.join(name), text).with_context(|| format!("write {name}"))
        };
        write("authorized_keys", public("client").context("read a key")?)?;
        let known = public("host").context("read a key")?;
        write("known_hosts", format!("[{ip}]:{} {known}", address.port()))?;
        write("nobody_known", String::new())?;
        let (host, port) = (address.ip(), address.port());
        write(
            "sshd_config",
            format!(
                "ListenAddress {host}\nPort {port}\nHostKey {place}/host\nPidFile none\nUsePAM no\nStrictModes no\n\
                 AuthorizedKeysFile {place}/authorized_keys\nPasswordAuthentication no\nPermitRootLogin yes\n\
                 AllowTcpForwarding yes\nClientAliveInterval 1\nClientAliveCountMax 2\n"
            ),
        )?;
        for (name, key, hosts) in [
            ("client_config", "client", "known_hosts"),
            ("stranger_config", "stranger", "known_hosts"),
            ("unknown_config", "client", "nobody_known"),
        ] {
            write(
                name,
                format!(
                    "Host *\n  IdentityFile {place}/{key}\n  IdentitiesOnly yes\n  \
                     UserKnownHostsFile {place}/{hosts}\n  GlobalKnownHostsFile /dev/null\n"
                ),
            )?;
        }
        let mut command = Command::new(SSHD);
        command
            .args(["-D", "-e", "-f"])
            .arg(directory.join("sshd_config"));
        let mut process = Process::spawn("sshd", &command, &directory.join("log"))?;
        for _ in 0..1000 {
            if tokio::net::TcpStream::connect(address).await.is_ok() {
                return Ok(Self {
                    _process: process,
                    address,
                    directory,
                });
            }
            if !process.is_running() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!("sshd does not listen: {}", process.output())
    }

    /// `ssh://root@host:port`.
    pub fn url(&self) -> String {
        format!("ssh://root@{}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A configuration of the client: `client` is let in, `stranger` has another key, and `unknown`
    /// does not know the host's key.
    ///
    /// # Panics
    /// When the path is not UTF-8.
    pub fn config(&self, who: &str) -> String {
        let path = self.directory.join(format!("{who}_config"));
        path.to_str().expect("a path in UTF-8").to_owned()
    }
}

async fn make_key(path: &Path) -> Result<()> {
    let mut command = Command::new("ssh-keygen");
    command.args(["-q", "-t", "ed25519", "-N", "", "-C", "test", "-f"]);
    command.arg(path);
    let made = process::run(&command, Duration::from_secs(30)).await;
    made.and_then(process::Finished::ok)
        .map(drop)
        .context("make a key by ssh-keygen (of openssh-client)")
}
