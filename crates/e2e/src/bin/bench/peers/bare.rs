//! HAProxy alone, with one server and nothing to decide: what any router with HAProxy could reach at best.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use mayfly_e2e::port;
use mayfly_e2e::process::Process;

use crate::peers::ready;

/// A running HAProxy.
pub struct Bare {
    /// Where clients connect.
    pub address: SocketAddr,
    _process: Process,
}

impl Bare {
    /// Starts it before one instance. Its files go into `directory`.
    ///
    /// # Errors
    /// When it does not start.
    pub fn start(directory: &Path, instance: SocketAddr) -> Result<Self> {
        let address = port::free();
        let config = directory.join("bare.cfg");
        let text = format!(
            "defaults\n  mode http\n  timeout connect 2s\n  timeout client 1m\n  timeout server 1m\n\
             frontend edge\n  bind {address}\n  default_backend one\n\
             backend one\n  server one {instance} check inter 2s\n"
        );
        std::fs::write(&config, text).context("write the configuration of bare HAProxy")?;
        let mut command = Command::new("haproxy");
        command.args(["-W", "-db", "-f"]).arg(&config);
        let process = Process::spawn("bare haproxy", &command, &directory.join("bare.log"))?;
        ready(address, &process)?;
        Ok(Self {
            address,
            _process: process,
        })
    }
}
