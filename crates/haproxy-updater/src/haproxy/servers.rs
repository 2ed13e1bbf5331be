//! A server as HAProxy says that it has it.

use std::collections::BTreeMap;

use crate::haproxy::tokens::ServerName;

/// Whether a server takes requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admin {
    Ready,
    /// It keeps its connections and takes no new requests; its health is still checked.
    Drain,
    /// It keeps its connections, takes no new requests and is not checked: the state before
    /// removal.
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
    pub admin: Admin,
    pub weight: u16,
    /// Whether its health is checked.
    pub checked: bool,
}

/// The servers of one slot.
pub type ActualServers = BTreeMap<ServerName, ActualServer>;
