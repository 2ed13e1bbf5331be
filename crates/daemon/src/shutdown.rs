//! SIGTERM, SIGINT and SIGHUP become a [`Shutdown`] that is passed into everything that runs, so a
//! test can end a daemon the same way. A second signal aborts the process: whoever asks twice does
//! not want to wait. SIGHUP means that the terminal was closed; files are followed without it.

use std::fs;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::logs;

/// Tells every part of a daemon that it has to come to an end. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
}

impl Shutdown {
    /// A shutdown that only [`Shutdown::begin`] begins; for tests and for parts of a daemon.
    pub fn new() -> Self {
        Self::default()
    }

    /// A shutdown that begins with the first SIGTERM, SIGINT or SIGHUP. The second one ends the
    /// process with 128 + the signal's number (130 for SIGINT, 143 for SIGTERM). A SIGHUP that the
    /// process was told to ignore when it was started, as by `nohup`, stays ignored. Needs a
    /// running tokio runtime.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals() -> anyhow::Result<Self> {
        let shutdown = Self::new();
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let mut hang_up = match ignores_hang_up() {
            true => None,
            false => Some(signal(SignalKind::hangup()).context("cannot listen for SIGHUP")?),
        };
        let begun = shutdown.clone();
        tokio::spawn(async move {
            loop {
                let (name, number) = tokio::select! {
                    _ = terminate.recv() => ("SIGTERM", 15),
                    _ = interrupt.recv() => ("SIGINT", 2),
                    _ = async { hang_up.as_mut()?.recv().await }, if hang_up.is_some() => ("SIGHUP", 1),
                };
                if begun.has_begun() {
                    warn!("received {name} during the shutdown: aborting");
                    logs::flush();
                    std::process::exit(128 + number);
                }
                info!("received {name}: shutting down (a second signal aborts)");
                begun.begin();
            }
        });
        Ok(shutdown)
    }

    /// Begins the shutdown. Doing it again changes nothing.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Whether the shutdown has begun.
    pub fn has_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the shutdown begins; returns at once if it has. Safe in `select!`.
    pub async fn begun(&self) {
        self.token.cancelled().await;
    }
}

/// Whether whoever started this process wants it to outlive its terminal.
fn ignores_hang_up() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // A set of bits, that of signal 1 the lowest.
    ignored.is_some_and(|bits| u64::from_str_radix(bits.trim(), 16).is_ok_and(|bits| bits & 1 == 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_learns_of_it() {
        let shutdown = Shutdown::new();
        let clone = shutdown.clone();
        assert!(!clone.has_begun());
        shutdown.begin();
        clone.begun().await;
        assert!(clone.has_begun());
    }
}
