//! Further routers of one Mayfly, each with flags or a program of its own: an updater and an
//! HAProxy beside the first ones, on the same etcd, so that they can be loaded in turns.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use mayfly_e2e::haproxy::Haproxy;
use mayfly_e2e::port;
use mayfly_e2e::process::Process;

use crate::fleet;
use crate::probe::Probe;
use crate::scaled::ScaledMayfly;

/// Limit for a router to route everything.
const READY: Duration = Duration::from_secs(60);

pub struct Variant {
    /// Where clients connect in clear text.
    pub edge: SocketAddr,
    /// Where services connect.
    pub internal: SocketAddr,
    _haproxy: Haproxy,
    _updater: Process,
}

impl Variant {
    /// Starts one of this name, by this haproxy-updater, with further flags.
    ///
    /// # Errors
    /// When it does not start, or does not come to route every environment.
    pub async fn start(scaled: &ScaledMayfly, name: &str, program: &Path, flags: &[&str]) -> Result<Self> {
        let (mayfly, state) = (&scaled.mayfly, scaled.mayfly.directory().join(name));
        std::fs::create_dir_all(state.join("run")).context("make a directory")?;
        let (edge, internal) = (port::free(), port::free());
        let mut command = Command::new(program);
        command.args(["--node", name, "--etcd", &mayfly.etcd.endpoint()]);
        command.arg("--dir").arg(&state);
        command.args(["--edge", &edge.to_string(), "--internal", &internal.to_string()]);
        command
            .args(["--advertise", &internal.ip().to_string()])
            .args(flags);
        let updater = mayfly.spawn(&format!("haproxy-updater-{name}"), &command)?;
        let (master, socket) = (state.join("run/master.sock"), state.join("run/haproxy.sock"));
        let mut haproxy = Haproxy::new(&state.join("haproxy.cfg"), &master, &socket, &state);
        haproxy.start().await?;
        for environment in 0..scaled.scale.environments {
            Probe::new(edge, &fleet::host(environment), &[])
                .until(READY, |answer| answer.status == 200)
                .with_context(|| format!("environment {environment} at the router {name}"))?;
        }
        Ok(Self {
            edge,
            internal,
            _haproxy: haproxy,
            _updater: updater,
        })
    }
}
