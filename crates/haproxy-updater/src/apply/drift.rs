//! A cheap look for changes by other programs in HAProxy: all servers, and how many rows its maps
//! have. It cannot see a row whose value has changed; [`Applier::verify`] can.

use std::collections::BTreeMap;

use mayfly_core::routing::Routing;

use super::Applier;
use crate::haproxy::maps::Map;
use crate::haproxy::servers::{ActualServer, ActualServers};
use crate::haproxy::sockets::Sample;
use crate::haproxy::tokens::{ServerName, Slot};

impl Applier {
    /// Looks at the servers and the number of rows; if they differ from what they should be, reads
    /// and repairs everything. Returns whether it did.
    ///
    /// # Errors
    /// As [`Applier::verify`].
    pub async fn check_drift(&mut self, routing: &Routing) -> anyhow::Result<bool> {
        let sample = match self.parts.runtime.sample().await {
            Ok(sample) => sample,
            Err(trouble) => {
                self.doubt();
                return Err(trouble.into());
            }
        };
        let servers = self.settled(&self.actual.servers) == self.settled(&sample.servers);
        if servers && self.surplus(&sample, routing) == self.surplus {
            return Ok(false);
        }
        let repairs = self.parts.metrics.drift_repairs.get();
        self.verify(routing).await?;
        if self.parts.metrics.drift_repairs.get() == repairs {
            // Nothing was wrong, as with a duplicate row: no reason to read everything again and
            // again.
            self.surplus = self.surplus(&self.parts.runtime.sample().await?, routing);
        }
        Ok(true)
    }

    /// How many rows there are in each map beyond those that there should be.
    fn surplus(&self, sample: &Sample, routing: &Routing) -> BTreeMap<Map, i64> {
        let wanted = |map| match map {
            Map::Table(table) => routing.count(table),
            _ => self.actual.rows.get(&map).map_or(0, BTreeMap::len),
        };
        let surplus = sample
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
