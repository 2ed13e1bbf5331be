//! A registry of images of a test's own: Debian's `docker-registry`, at an address that an engine of a test reaches. The
//! engine has to be told that it speaks clear text: [`Registry::trust`].

use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::Process;
use crate::{eventually, port};

/// Limit for its start.
const LIMIT: Duration = Duration::from_secs(30);

/// A running registry. Dropped, it is gone with all its images.
#[derive(Debug)]
pub struct Registry {
    /// The process, to be killed or frozen.
    pub process: Process,
    address: SocketAddr,
    _directory: TempDir,
}

impl Registry {
    /// Options of an engine ([`crate::docker::DockerEngine::start_with`]) that takes images from registries of tests.
    pub fn trust() -> Value {
        json!({ "insecure-registries": ["0.0.0.0/0"] })
    }

    /// Starts a registry at an address, such as the one at which containers reach the test's host.
    ///
    /// # Errors
    /// When docker-registry is not installed, or does not start.
    pub async fn start(ip: IpAddr) -> Result<Self> {
        let directory = tempfile::tempdir().context("make a directory")?;
        let address = port::free_at(ip);
        let path = |name: &str| directory.path().join(name);
        // JSON is YAML, and quotes what has to be quoted.
        let config = json!({
            "version": "0.1",
            "log": { "level": "warn" },
            "storage": { "filesystem": { "rootdirectory": path("images") } },
            "http": { "addr": address },
        });
        std::fs::write(path("config.yml"), config.to_string()).context("write its configuration")?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path("config.yml"));
        let mut process = Process::spawn("docker-registry", &command, &path("log"))
            .context("start a registry (Debian's docker-registry)")?;
        eventually(LIMIT, "the registry listens", async || {
            ensure!(process.is_running(), "it has ended: {}", process.output());
            tokio::net::TcpStream::connect(address).await.context("connect")
        })
        .await;
        Ok(Self {
            process,
            address,
            _directory: directory,
        })
    }

    /// The name under which it has an image: `team/backend:7` is `100.64.0.1:20000/team/backend:7`.
    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}
