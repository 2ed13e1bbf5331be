//! Which environments HAProxy has noted as used, also in the processes that were replaced
//! ([`super::replaced`]).

use std::collections::BTreeSet;

use mayfly_core::names::EnvironmentName;

use super::Applier;
use crate::haproxy::answers;
use crate::haproxy::counters::ProcessCounters;
use crate::haproxy::sockets::Trouble;

/// What is known of the notes of replaced processes.
#[derive(Debug, Default)]
pub(super) struct SavedUses {
    /// What was read of them and not given yet.
    pending: BTreeSet<EnvironmentName>,
    /// What was given already: their rows are not deleted.
    given: BTreeSet<EnvironmentName>,
    /// What the process had counted.
    counters: Option<ProcessCounters>,
}

impl SavedUses {
    /// A process has been replaced.
    pub(super) fn replaced(&mut self) {
        self.given.clear();
    }
}

impl Applier {
    /// The environments that requests came for since they were last forgotten, as far as HAProxy
    /// and the processes that were just replaced have noted it. `None` when the template does not
    /// note it.
    ///
    /// # Errors
    /// When HAProxy is away or cannot be understood.
    pub async fn uses(&mut self) -> Result<Option<BTreeSet<EnvironmentName>>, Trouble> {
        let Some(mut uses) = self.parts.runtime.uses().await? else {
            return Ok(None);
        };
        let replaced = self.ask_replaced(&self.parts.runtime.uses_request()).await;
        let noted = replaced.iter().filter_map(|(_, answer)| answers::uses(answer));
        for name in noted.flatten() {
            if self.uses.given.insert(name.clone()) {
                self.uses.pending.insert(name);
            }
        }
        uses.append(&mut self.uses.pending);
        Ok(Some(uses))
    }

    /// Forgets that requests came for these environments.
    ///
    /// # Errors
    /// When HAProxy is away.
    pub async fn forget_uses(&self, names: &BTreeSet<EnvironmentName>) -> Result<(), Trouble> {
        self.parts.runtime.forget_uses(names).await
    }

    /// What a process had counted right before it was replaced; once.
    pub fn take_saved_counters(&mut self) -> Option<ProcessCounters> {
        self.uses.counters.take()
    }

    /// Reads the notes and the counters of a process that is about to be replaced.
    pub(super) async fn save_uses(&mut self) {
        self.uses.counters = self.parts.runtime.counters().await.ok();
        if let Ok(Some(uses)) = self.parts.runtime.uses().await {
            self.uses.pending.extend(uses);
        }
    }
}
