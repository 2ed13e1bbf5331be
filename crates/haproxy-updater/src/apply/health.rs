//! The results of HAProxy's checks: of instances that are kept although etcd has lost them, and of
//! external services.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_core::keys::Key;
use mayfly_core::routing::{Routing, ServerId};
use mayfly_core::trust::Health;
use mayfly_core::version::BackendId;

use super::Applier;
use crate::haproxy::sockets::Trouble;
use crate::haproxy::tokens::{ServerName, Slot};

impl Applier {
    /// The external services of which every server was found dead.
    ///
    /// # Errors
    /// As [`Applier::health`].
    pub async fn unanswered_outside(&self, routing: &Routing) -> Result<BTreeSet<BackendId>, Trouble> {
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

    /// What the checks say of the instances of these keys, given the servers of each.
    ///
    /// # Errors
    /// When HAProxy is away or cannot be understood: then nothing is known of any.
    pub async fn health<'a>(
        &self,
        keys: impl Iterator<Item = &'a Key>,
        servers: impl Fn(&Key) -> Option<(BackendId, Vec<ServerId>)>,
    ) -> Result<BTreeMap<Key, Health>, Trouble> {
        let found = self.parts.runtime.found_dead().await?;
        let health = |key: &Key| {
            let Some((slot, ids)) =
                servers(key).and_then(|(backend, ids)| Some((self.pool.slot(&backend)?, ids)))
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
        Ok(keys.map(|key| (key.clone(), health(key))).collect())
    }
}
