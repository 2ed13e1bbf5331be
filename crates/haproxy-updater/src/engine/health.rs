//! What HAProxy's checks say: of instances, for the guard; of services outside, for whoever asks what is missing.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_core::version::BackendId;

use super::Engine;
use crate::guard::Health;
use crate::runtime::Trouble;
use crate::text::{ServerName, Slot};

impl Engine {
    /// The services outside of which every server was found dead.
    ///
    /// # Errors
    /// As [`Engine::health`].
    pub async fn unanswered_outside(&self) -> Result<BTreeSet<BackendId>, Trouble> {
        let routing = self.index.routing();
        let outside = routing.named().filter(|backend| backend.version.is_outside());
        let outside: Vec<(Slot, &BackendId)> = outside
            .filter_map(|backend| Some((self.pool.slot(backend)?, backend)))
            .collect();
        let slots: BTreeSet<Slot> = outside.iter().map(|(slot, _)| *slot).collect();
        let found = self.parts.runtime.found_dead_in(&slots).await?;
        let is_dead = |(slot, backend): &(Slot, &BackendId)| {
            let servers = routing.servers(backend).into_iter().flatten();
            let found: Option<Vec<bool>> = servers
                .map(|(id, _)| found.get(&(*slot, ServerName::from(id))).copied())
                .collect();
            // One that HAProxy does not have yet was not asked.
            found.is_some_and(|found| !found.is_empty() && found.into_iter().all(|dead| dead))
        };
        let dead = outside.iter().filter(|place| is_dead(place));
        Ok(dead.map(|(_, backend)| (*backend).clone()).collect())
    }

    /// What the checks say of the instances of these keys.
    ///
    /// # Errors
    /// When HAProxy is away or cannot be understood: then nothing is known of any.
    pub async fn health<'a>(
        &self,
        keys: impl Iterator<Item = &'a str>,
    ) -> Result<BTreeMap<String, Health>, Trouble> {
        let found = self.parts.runtime.found_dead().await?;
        let health = |key: &str| {
            let Some((slot, ids)) = self
                .index
                .servers_of_key(key)
                .and_then(|(backend, ids)| Some((self.pool.slot(&backend)?, ids)))
            else {
                return Health::Unchecked;
            };
            let checked = ids
                .iter()
                .filter_map(|id| found.get(&(slot, ServerName::from(id))));
            match checked.copied().reduce(|all, dead| all && dead) {
                None => Health::Unchecked,
                Some(true) => Health::Fails,
                Some(false) => Health::Answers,
            }
        };
        Ok(keys.map(|key| (key.to_owned(), health(key))).collect())
    }
}
