//! The way to an engine: made when it is first needed and again after every doubt, since an engine
//! may come later than the launcher or come back as another version.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mayfly_daemon::docker::{self, EngineUrl, failed};

use super::{QUESTION, WORK, log};

/// The way to one engine.
#[derive(Debug)]
pub(super) struct EngineConnection {
    url: EngineUrl,
    client: Mutex<Option<bollard::Docker>>,
    /// What its logs need, once it was asked. It is not asked for each container: an engine starts
    /// programs to answer.
    log: Mutex<Option<Option<log::LogDriver>>>,
}

impl EngineConnection {
    /// The way to the engine at an address. Nothing is asked yet.
    pub(super) fn new(url: &EngineUrl) -> Self {
        Self {
            url: url.clone(),
            client: Mutex::new(None),
            log: Mutex::new(None),
        }
    }

    /// A client that speaks a version of the API that the engine understands.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn client(&self) -> anyhow::Result<bollard::Docker> {
        let known = self.known().clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let client = docker::connect(&self.url, QUESTION, WORK).await;
        let client = client.map_err(failed(format!("reach the engine at {}", self.url)))?;
        *self.known() = Some(client.clone());
        Ok(client)
    }

    /// What the logs of this engine's containers need: [`log::limited`].
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn log(&self, client: &bollard::Docker) -> anyhow::Result<Option<log::LogDriver>> {
        let known = locked(&self.log).clone();
        if let Some(log) = known {
            return Ok(log);
        }
        let log = log::limited(client).await?;
        *locked(&self.log) = Some(log.clone());
        Ok(log)
    }

    /// The engine may be another one now: its version is asked for again.
    pub(super) fn forget(&self) {
        *self.known() = None;
        *locked(&self.log) = None;
    }

    fn known(&self) -> MutexGuard<'_, Option<bollard::Docker>> {
        locked(&self.client)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
