//! The maps that its configuration looks into.

use std::collections::BTreeMap;
use std::fmt;

use mayfly_core::routing::Table;
use smol_str::SmolStr;

use crate::haproxy::tokens::ConfigPath;

/// A map of the configuration. The order is that in which rows are set: each after those that it
/// refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Map {
    /// Backend -> slot.
    Slots,
    Table(Table),
    /// The default environment -> its header value; at most one row.
    Default,
    /// Has a row exactly in processes that haproxy-updater knows.
    Witness,
    /// Environment -> 1, set by HAProxy itself with the first request since [`crate::usage`] took
    /// the row away.
    Uses,
}

impl Map {
    /// All maps, in the order in which rows are set.
    pub const ALL: [Self; 17] = [
        Self::Slots,
        Self::Table(Table::Ended),
        Self::Table(Table::EndedNames),
        Self::Table(Table::Hosts),
        Self::Table(Table::Users),
        Self::Table(Table::Networks),
        Self::Table(Table::Access),
        Self::Table(Table::Versions),
        Self::Table(Table::Parents),
        Self::Table(Table::Routes),
        Self::Table(Table::Headers),
        Self::Table(Table::Protected),
        Self::Table(Table::Links),
        Self::Table(Table::Edge),
        Self::Default,
        Self::Witness,
        Self::Uses,
    ];

    /// The name of its file without the ending.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Slots => "slots",
            Self::Table(Table::Ended) => "ended",
            Self::Table(Table::EndedNames) => "ended-names",
            Self::Table(Table::Hosts) => "hosts",
            Self::Table(Table::Versions) => "versions",
            Self::Table(Table::Parents) => "parents",
            Self::Table(Table::Users) => "users",
            Self::Table(Table::Networks) => "networks",
            Self::Table(Table::Access) => "access",
            Self::Table(Table::Routes) => "routes",
            Self::Table(Table::Headers) => "headers",
            Self::Table(Table::Protected) => "protected",
            Self::Table(Table::Links) => "links",
            Self::Table(Table::Edge) => "edge",
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
        use Table::{Ended, EndedNames, Links, Protected};
        matches!(
            self,
            Self::Default | Self::Uses | Self::Table(Ended | EndedNames | Protected | Links)
        )
    }
}

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The rows of a map, key -> value: short texts, half a million of them where there are many
/// environments.
pub type Rows = BTreeMap<SmolStr, SmolStr>;
