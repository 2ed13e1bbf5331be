//! Stock proxies that are given the same routing and the same changes in the way that each is meant to take them.

pub mod caddy;
pub mod envoy;
pub mod haproxy;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use mayfly_e2e::process::Process;

/// Limit for a peer to start; reading half a million routes takes a while.
const START: Duration = Duration::from_secs(180);

/// Waits until a peer listens.
fn ready(address: SocketAddr, process: &Process) -> Result<()> {
    let start = Instant::now();
    while std::net::TcpStream::connect(address).is_err() {
        if start.elapsed() > START {
            bail!("{} does not listen: {}", process.name(), process.output());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
