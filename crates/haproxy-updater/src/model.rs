//! What HAProxy has: the rows of its maps and the servers in its slots. It is read from HAProxy ([`crate::read`]) and
//! kept in step by playing each command that HAProxy took on it too, so that a change needs no reading.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use mayfly_core::routing::Table;
use smol_str::SmolStr;

use crate::command::Command;
use crate::text::{ConfigPath, ServerName, Slot};

/// A map of the configuration. The order is that in which rows are set: each after those that it leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Map {
    /// Backend -> slot.
    Slots,
    /// A table of core.
    Table(Table),
    /// The default environment -> its header value; at most one row.
    Default,
    /// Has a row exactly in processes that haproxy-updater knows.
    Witness,
    /// Environment -> 1, set by HAProxy itself with the first request since [`crate::uses`] took the row away.
    Uses,
}

impl Map {
    /// All maps, in the order in which rows are set.
    pub const ALL: [Self; 10] = [
        Self::Slots,
        Self::Table(Table::Hosts),
        Self::Table(Table::Versions),
        Self::Table(Table::Parents),
        Self::Table(Table::Routes),
        Self::Table(Table::Headers),
        Self::Table(Table::Edge),
        Self::Default,
        Self::Witness,
        Self::Uses,
    ];

    /// The name of its file without the ending.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Table(table) => table.as_str(),
            Self::Default => "default",
            Self::Witness => "witness",
            Self::Uses => "uses",
        }
    }

    /// Its file, which is also its name at run time.
    pub fn path(self, maps: &ConfigPath) -> String {
        format!("{maps}/{}.map", self.as_str())
    }

    /// Whether a configuration may do without it.
    pub fn is_optional(self) -> bool {
        matches!(self, Self::Default | Self::Uses)
    }
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Whether a server takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    /// It does.
    Ready,
    /// It keeps its connections and takes no new requests; its health is still checked.
    Drain,
    /// It keeps its connections, takes no new requests and is not checked: the state before removal.
    Maint,
}

impl Admin {
    /// The word of `set server ... state`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

/// A server as HAProxy has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActualServer {
    /// Its address as `ip:port`, IPv6 in brackets.
    pub address: String,
    /// Whether it takes requests.
    pub admin: Admin,
    /// Its present weight.
    pub weight: u16,
    /// Whether its health is checked.
    pub checked: bool,
}

/// The servers of one slot.
pub type ActualServers = BTreeMap<ServerName, ActualServer>;

/// The rows of a map, key -> value: short texts, half a million of them where there are many environments.
pub type Rows = BTreeMap<SmolStr, SmolStr>;

/// What HAProxy has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Actual {
    /// Rows by map; a key that stands there several times with different values has an empty value. Those of the tables are
    /// known only until HAProxy is in step.
    pub rows: BTreeMap<Map, Rows>,
    /// Servers by slot; slots without servers are left out.
    pub servers: BTreeMap<Slot, ActualServers>,
    /// Maps that have rows which no command can name; only a swap of the whole map removes them.
    pub foreign: BTreeSet<Map>,
    /// The files with authorities that it has loaded: no command can make it load another.
    pub ca_files: BTreeSet<String>,
}

impl Actual {
    /// The value of a row.
    pub fn row(&self, map: Map, key: &str) -> Option<&str> {
        self.rows.get(&map)?.get(key).map(SmolStr::as_str)
    }

    /// Forgets the rows of the tables, once HAProxy has them as they should be: what is wanted says the same, and what changes
    /// after that tells its old value.
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
