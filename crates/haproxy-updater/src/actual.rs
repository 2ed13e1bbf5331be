//! What HAProxy has: the rows of its maps and the servers in its slots. It is read from HAProxy
//! once; then each command that HAProxy accepted is played on it, so that a change needs no
//! reading.

use std::collections::{BTreeMap, BTreeSet};

use crate::haproxy::commands::Command;
use crate::haproxy::maps::{Map, Rows};
use crate::haproxy::servers::{ActualServer, ActualServers, Admin};
use crate::haproxy::sockets::{Runtime, Trouble};
use crate::haproxy::tokens::{ServerName, Slot};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ActualRouting {
    /// Rows by map; a key with several rows of different values has an empty value. Those of the
    /// tables are known only until HAProxy is in sync.
    pub rows: BTreeMap<Map, Rows>,
    /// Servers by slot; slots without servers are left out.
    pub servers: BTreeMap<Slot, ActualServers>,
    /// Maps that have rows which no command can name; only a swap of the whole map removes them.
    pub foreign: BTreeSet<Map>,
    /// Optional maps that its configuration does not look into: it does not know them.
    pub absent: BTreeSet<Map>,
    /// The files with authorities that it has loaded: no command can make it load another.
    pub ca_files: BTreeSet<String>,
}

impl ActualRouting {
    /// Reads all that HAProxy has.
    ///
    /// # Errors
    /// When HAProxy is away, or its answers cannot be understood.
    pub async fn read(runtime: &Runtime) -> Result<Self, Trouble> {
        let mut actual = Self {
            servers: runtime.servers().await?,
            ca_files: runtime.ca_files().await?,
            ..Self::default()
        };
        // What HAProxy notes by itself is not ours to repair.
        for map in Map::ALL.into_iter().filter(|map| *map != Map::Uses) {
            let Some(rows) = runtime.map(map).await? else {
                actual.absent.insert(map);
                continue;
            };
            if rows.foreign {
                actual.foreign.insert(map);
            }
            if !rows.rows.is_empty() {
                actual.rows.insert(map, rows.rows);
            }
        }
        Ok(actual)
    }

    /// The value of a row.
    pub fn row(&self, map: Map, key: &str) -> Option<&str> {
        self.rows.get(&map)?.get(key).map(smol_str::SmolStr::as_str)
    }

    /// Forgets the rows of the tables once HAProxy is in sync: what is wanted says the same, and
    /// each later change carries its old value.
    pub fn forget_tables(&mut self) {
        self.rows.retain(|map, _| !matches!(map, Map::Table(_)));
    }

    /// Plays a command that HAProxy took.
    pub fn play(&mut self, command: &Command) {
        match command {
            Command::AddRow { map, key, value } | Command::SetRow { map, key, value } => {
                self.rows
                    .entry(*map)
                    .or_default()
                    .insert(key.as_str().into(), value.as_str().into());
            }
            Command::DeleteRow { map, key } => {
                if let Some(rows) = self.rows.get_mut(map) {
                    rows.remove(key.as_str());
                }
            }
            Command::ReplaceMap { map, rows } => {
                let rows = rows
                    .iter()
                    .map(|(key, value)| (key.as_str().into(), value.as_str().into()));
                self.rows.insert(*map, rows.collect());
                self.foreign.remove(map);
            }
            Command::AddServer {
                slot,
                name,
                id,
                weight,
                ..
            } => {
                let server = ActualServer {
                    address: id.address.to_string(),
                    admin: Admin::Maint,
                    weight: u16::from(*weight),
                    checked: false,
                };
                self.servers
                    .entry(*slot)
                    .or_default()
                    .insert(name.clone(), server);
            }
            Command::EnableHealth { slot, name } => self.change(*slot, name, |server| server.checked = true),
            Command::SetState { slot, name, admin } => {
                self.change(*slot, name, |server| server.admin = *admin)
            }
            Command::SetWeight { slot, name, weight } => {
                self.change(*slot, name, |server| server.weight = u16::from(*weight));
            }
            Command::SetAddress { slot, name, address } => {
                self.change(*slot, name, |server| server.address = address.to_string());
            }
            Command::DeleteServer { slot, name } => {
                if let Some(servers) = self.servers.get_mut(slot) {
                    servers.remove(name);
                    if servers.is_empty() {
                        self.servers.remove(slot);
                    }
                }
            }
            Command::ShutdownSessions { .. } | Command::SetHealthy { .. } => {}
        }
    }

    fn change(&mut self, slot: Slot, name: &ServerName, change: impl FnOnce(&mut ActualServer)) {
        if let Some(server) = self
            .servers
            .get_mut(&slot)
            .and_then(|servers| servers.get_mut(name))
        {
            change(server);
        }
    }
}
