//! What HAProxy's checks say of instances, for the guard.

use std::collections::BTreeMap;

use super::Engine;
use crate::guard::Health;
use crate::runtime::Trouble;
use crate::text::ServerName;

impl Engine {
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
