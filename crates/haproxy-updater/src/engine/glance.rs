//! A cheap look for what somebody else has changed in HAProxy: all servers, and how many rows its maps have. What it cannot
//! see, a row that leads elsewhere now, [`Engine::verify`] finds.

use std::collections::BTreeMap;

use super::Engine;
use crate::model::{ActualServer, ActualServers, Map};
use crate::text::{ServerName, Slot};

/// What a process shows at a glance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glance {
    /// How many rows each map has that Mayfly fills.
    pub rows: BTreeMap<Map, u64>,
    /// Servers by slot.
    pub servers: BTreeMap<Slot, ActualServers>,
}

impl Engine {
    /// Looks at the servers and the number of rows, and reads and repairs everything where they are not as they should be. Says
    /// whether it came to that.
    ///
    /// # Errors
    /// As [`Engine::verify`].
    pub async fn glance(&mut self) -> anyhow::Result<bool> {
        let glance = match self.parts.runtime.glance().await {
            Ok(glance) => glance,
            Err(trouble) => {
                self.known = false;
                return Err(trouble.into());
            }
        };
        if self.looks_right(&glance) {
            return Ok(false);
        }
        let repairs = self.parts.metrics.drift_repairs.get();
        self.verify().await?;
        if self.parts.metrics.drift_repairs.get() == repairs {
            // Nothing was wrong, as with a row that stands there twice: no reason to read everything again and again.
            self.surplus = self.surplus(&self.parts.runtime.glance().await?);
        }
        Ok(true)
    }

    fn looks_right(&self, glance: &Glance) -> bool {
        self.surplus(glance) == self.surplus
            && self.settled(&self.actual.servers) == self.settled(&glance.servers)
    }

    /// How many rows there are in each map beyond those that there should be.
    fn surplus(&self, glance: &Glance) -> BTreeMap<Map, i64> {
        let wanted = |map| match map {
            Map::Table(table) => self.index.routing().count(table),
            _ => self.actual.rows.get(&map).map_or(0, BTreeMap::len),
        };
        let surplus = glance
            .rows
            .iter()
            .map(|(map, rows)| (*map, *rows as i64 - wanted(*map) as i64));
        surplus.filter(|(_, rows)| *rows != 0).collect()
    }

    /// The servers that are to stay: what is going changes by itself.
    fn settled<'a>(
        &self,
        servers: &'a BTreeMap<Slot, ActualServers>,
    ) -> Vec<(Slot, &'a ServerName, &'a ActualServer)> {
        let all = servers
            .iter()
            .flat_map(|(slot, servers)| servers.iter().map(|(name, server)| (*slot, name, server)));
        all.filter(|(slot, name, _)| !self.leaving.contains_key(&(*slot, (*name).clone())))
            .collect()
    }
}
