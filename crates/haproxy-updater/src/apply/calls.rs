//! The calls without an environment, as HAProxy has counted them, also in the processes that were
//! replaced ([`super::replaced`]).

use super::Applier;
use crate::haproxy::answers::Process;
use crate::haproxy::calls::{self, CallTable};
use crate::haproxy::sockets::Trouble;

/// Replaced processes that are remembered.
const MOST: usize = 16;

/// What is known of the counters of replaced processes.
#[derive(Debug, Default)]
pub(super) struct SavedCalls {
    /// The processes that were asked, the newest last.
    asked: Vec<Process>,
    /// What one had counted when it was replaced, until that is given.
    saved: Vec<(Process, CallTable)>,
}

impl SavedCalls {
    fn remember(&mut self, process: Process) {
        if !self.asked.contains(&process) {
            self.asked.push(process);
            let surplus = self.asked.len().saturating_sub(MOST);
            self.asked.drain(..surplus);
        }
    }

    /// The process of a number, the newest where several had it.
    fn process(&self, pid: u32) -> Process {
        let known = self.asked.iter().rev().find(|process| process.pid == pid);
        // One that was replaced before it was asked has counted nothing that is known.
        known.copied().unwrap_or(Process { pid, started: 0 })
    }
}

impl Applier {
    /// The counters of HAProxy and of the processes that were just replaced, oldest first. `None`
    /// when the template counts nothing.
    ///
    /// # Errors
    /// When HAProxy is away or cannot be understood.
    pub async fn lost_calls(&mut self) -> Result<Option<Vec<(Process, CallTable)>>, Trouble> {
        let Some((process, counted)) = self.parts.runtime.lost_calls().await? else {
            return Ok(None);
        };
        self.lost.remember(process);
        let mut all = std::mem::take(&mut self.lost.saved);
        let replaced = self.ask_replaced(calls::SHOW).await;
        all.extend(replaced.iter().filter_map(|(pid, answer)| {
            let counted = calls::table(answer).ok().flatten()?;
            Some((self.lost.process(*pid), counted))
        }));
        all.push((process, counted));
        Ok(Some(all))
    }

    /// Reads the counters of a process that is about to be replaced.
    pub(super) async fn save_lost_calls(&mut self) {
        if let Ok(Some((process, counted))) = self.parts.runtime.lost_calls().await {
            self.lost.remember(process);
            self.lost.saved.push((process, counted));
        }
    }
}
