//! Which environments HAProxy has noted as used. A reload begins with empty notes: those of the process that it replaces
//! are read before, and for a while after, since that one still answers the last requests on its connections.

use std::collections::BTreeSet;
use std::time::Duration;

use mayfly_core::names::EnvironmentName;
use tokio::time::Instant;
use tracing::debug;

use super::Engine;
use crate::master::ask_old_workers;
use crate::read;
use crate::runtime::Trouble;

/// How long a replaced process is asked: it takes one more request on each connection, and closes idle ones within 2 s.
const WHILE: Duration = Duration::from_secs(15);

/// What is known of the notes of replaced processes.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    since: Option<Instant>,
    /// What was read of them and not told yet.
    untold: BTreeSet<EnvironmentName>,
    /// What was told already: nobody takes their rows away.
    told: BTreeSet<EnvironmentName>,
}

impl Replaced {
    /// A process has been replaced.
    pub(super) fn begin(&mut self) {
        self.since = Some(Instant::now());
        self.told.clear();
    }
}

impl Engine {
    /// The environments that requests came for since they were last forgotten, as far as HAProxy and the processes that
    /// were just replaced have noted it. `None` when the template lets nobody know.
    ///
    /// # Errors
    /// When HAProxy is away or cannot be understood.
    pub async fn uses(&mut self) -> Result<Option<BTreeSet<EnvironmentName>>, Trouble> {
        let Some(mut uses) = self.parts.runtime.uses().await? else {
            return Ok(None);
        };
        if self.replaced.since.is_some_and(|since| since.elapsed() <= WHILE) {
            let request = self.parts.runtime.uses_request();
            match ask_old_workers(&self.parts.master, &request).await {
                Ok(answers) => {
                    let noted = answers.iter().filter_map(|answer| read::uses(answer)).flatten();
                    for name in noted {
                        if self.replaced.told.insert(name.clone()) {
                            self.replaced.untold.insert(name);
                        }
                    }
                }
                Err(trouble) => debug!("{trouble}"),
            }
        }
        uses.append(&mut self.replaced.untold);
        Ok(Some(uses))
    }

    /// Forgets that requests came for these environments.
    ///
    /// # Errors
    /// When HAProxy is away.
    pub async fn forget_uses(&self, names: &BTreeSet<EnvironmentName>) -> Result<(), Trouble> {
        self.parts.runtime.forget_uses(names).await
    }

    /// Reads the notes of a process that is about to be replaced.
    pub(super) async fn save_uses(&mut self) {
        if let Ok(Some(uses)) = self.parts.runtime.uses().await {
            self.replaced.untold.extend(uses);
        }
    }
}
