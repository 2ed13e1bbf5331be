//! The processes of HAProxy that a reload has replaced. A new process begins with empty notes and
//! counters. What the one before it has noted is read right before the reload, and asked for a
//! while after it, since that one still answers the last requests on its connections.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::debug;

use super::Applier;
use crate::haproxy::master::ask_old_workers;
use crate::haproxy::tokens::ConfigPath;

/// How long a replaced process is asked: it takes one more request on each connection, and closes
/// idle ones within 2 s.
pub const WHILE: Duration = Duration::from_secs(15);
/// How long their answers may take. Changes of the routing wait meanwhile, and matter more than the
/// last notes of a process.
const LIMIT: Duration = Duration::from_secs(1);

impl Applier {
    /// When HAProxy's process was replaced last.
    pub fn replaced_at(&self) -> Option<Instant> {
        self.replaced_at
    }

    /// Notes that the process has been replaced.
    pub(super) fn replaced(&mut self) {
        self.replaced_at = Some(Instant::now());
        self.uses.replaced();
    }

    /// Reads what a process has noted and counted that is about to be replaced.
    pub(super) async fn save_notes(&mut self) {
        self.save_uses().await;
        self.save_lost_calls().await;
    }

    /// What the processes that were replaced a short while ago answer, by their numbers.
    pub(super) async fn ask_replaced(&self, request: &str) -> Vec<(u32, String)> {
        if self.replaced_at.is_none_or(|at| at.elapsed() > WHILE) {
            return Vec::new();
        }
        ask(&self.parts.master, request).await
    }
}

async fn ask(master: &ConfigPath, request: &str) -> Vec<(u32, String)> {
    match timeout(LIMIT, ask_old_workers(master, request)).await {
        Ok(Ok(answers)) => answers,
        Ok(Err(trouble)) => {
            debug!("{trouble}");
            Vec::new()
        }
        Err(_) => {
            debug!("HAProxy's master process does not answer within {LIMIT:?}");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn a_master_that_hangs_holds_up_changes_for_a_moment_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("master.sock");
        let _never_answers = UnixListener::bind(&path).unwrap();
        let master: ConfigPath = path.to_str().unwrap().parse().unwrap();
        let start = Instant::now();
        assert_eq!(ask(&master, "show table internal").await, []);
        assert!(start.elapsed() < 10 * LIMIT, "{:?}", start.elapsed());
    }
}
