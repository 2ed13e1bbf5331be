//! The values of the etcd keys, as JSON. Every field is a checked type, so a record that parses is
//! safe to use; one that does not is set aside with its key and the reason. Unknown fields are
//! ignored: a newer writer may add some.

pub mod access;
mod decode;
pub mod definition;
pub mod ended;
pub mod lifetime;
mod set_aside;
pub mod switching;
pub mod traffic;

pub use decode::{Record, RecordError, VALUE_LIMIT, amended, parse, source_of, to_json};
pub use set_aside::{SetAside, SetAsides};

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::names::{DnsPrefix, EnvironmentName, HeaderValue, NameError, NodeName, RoutePath, ServiceName};
use crate::records::access::Access;
use crate::records::lifetime::{Expiry, Idle, Life};
use crate::records::switching::Switch;
use crate::upstream::Upstream;
use crate::version::Selector;

/// How many environments one may stand below by `extends`. The router's configuration writes as
/// many steps out.
pub const EXTENDS_LIMIT: usize = 3;

/// A named choice of service versions, with all defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Its name, the same as in the key.
    pub name: EnvironmentName,
    /// The environment from which it takes every service and route that it does not name itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub extends: Option<EnvironmentName>,
    /// The first DNS label that leads to it from outside.
    pub prefix: DnsPrefix,
    /// The value of `x-mayfly` that marks its requests.
    pub header: HeaderValue,
    /// When it is to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Expiry>,
    /// How long it may go without a request before it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// Whether it stays when its file is missing, and can only be deleted by force.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub protected: bool,
    /// Who may use it from outside; everybody where nothing is said, here and where it inherits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// When it changes to a new version.
    #[serde(default, skip_serializing_if = "Switch::is_default")]
    pub switch: Switch,
    /// A note for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its services, in the order of the file.
    #[serde(default)]
    pub services: Vec<ServiceChoice>,
    /// Where it comes from; absent when nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// What became of it since it was first registered; absent before, and in records that were
    /// written by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub life: Option<Life>,
}

impl Environment {
    /// Gives back the room that its lists have grown beyond what they hold, for who keeps many.
    pub fn shrink(&mut self) {
        self.services.shrink_to_fit();
        for service in &mut self.services {
            service.routes.shrink_to_fit();
        }
    }

    /// About how many bytes its record takes: counted rather than written, since whoever keeps to a
    /// quota asks of all of them again and again.
    pub fn bytes(&self) -> usize {
        /// The names of its fields, and what became of it.
        const FRAME: usize = 200;
        /// The names of the fields of a service.
        const SERVICE: usize = 24;
        let texts = [
            self.name.as_str().len(),
            self.prefix.as_str().len(),
            self.header.as_str().len(),
            self.extends.as_ref().map_or(0, |extends| extends.as_str().len()),
            self.description.as_ref().map_or(0, String::len),
        ];
        let source = |source: &Source| source.registrar.as_str().len() + source.file.len();
        let service = |service: &ServiceChoice| {
            let routes: usize = service.routes.iter().map(|route| route.as_str().len() + 3).sum();
            let list = if service.routes.is_empty() { 0 } else { 12 };
            SERVICE + service.name.as_str().len() + service.version.text().len() + list + routes
        };
        FRAME
            + texts.iter().sum::<usize>()
            + self.source.as_ref().map_or(0, source)
            + self.access.as_ref().map_or(0, Access::bytes)
            + self.services.iter().map(service).sum::<usize>()
    }

    /// The file that it comes from.
    pub fn file(&self) -> Option<&str> {
        self.source.as_ref().map(|source| source.file.as_str())
    }

    /// Whether two records ask for the same, wherever they come from and whatever became of them.
    pub fn asks_for_the_same(&self, other: &Self) -> bool {
        let Self {
            name,
            extends,
            prefix,
            header,
            expires,
            idle,
            protected,
            access,
            switch,
            description,
            services,
            source: _,
            life: _,
        } = self;
        *name == other.name
            && *extends == other.extends
            && *prefix == other.prefix
            && *header == other.header
            && *expires == other.expires
            && *idle == other.idle
            && *protected == other.protected
            && *access == other.access
            && *switch == other.switch
            && *description == other.description
            && *services == other.services
    }
}

/// The version that an environment chooses for one service, and the public paths that lead there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceChoice {
    /// The service.
    pub name: ServiceName,
    /// Which version; for an external service, its URL.
    pub version: Selector,
    /// The public paths that lead to it; none for a service that is only called by others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<RoutePath>,
}

/// The registrar of an environment, and the file that it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The node of the registrar.
    pub registrar: NodeName,
    /// The file's name in the directory that it watches.
    pub file: String,
}

/// One running copy of a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Instance {
    /// Where it listens.
    pub address: Upstream,
    /// Whether it takes new requests.
    #[serde(default)]
    pub state: InstanceState,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// Its share of the requests relative to its siblings, 0 to 256.
    #[serde(default)]
    pub weight: Weight,
    /// Whether other backends may be at the same address. Else who registers an address later has
    /// it alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shared: bool,
    /// Notes for people and tools; routing does not look at them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
}

impl Instance {
    /// The value that says that it takes no new requests: what stands there right before the key is
    /// deleted on purpose, since a router goes on with what only vanishes.
    pub fn farewell(self) -> Vec<u8> {
        to_json(&Self {
            state: InstanceState::Draining,
            ..self
        })
    }
}

/// Whether an instance takes new requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InstanceState {
    /// It does.
    #[default]
    Up,
    /// It finishes those it has, and takes no new ones.
    Draining,
}

/// What an instance speaks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http,
    /// HTTP/2 in clear text with prior knowledge, as gRPC uses it.
    H2c,
}

impl FromStr for Protocol {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text {
            "http" => Ok(Self::Http),
            "h2c" => Ok(Self::H2c),
            _ => Err(NameError::new(
                text,
                "a protocol",
                "`http`, or `h2c` for HTTP/2 in clear text",
            )),
        }
    }
}

/// A share of requests, from 0 (none) to 256, as HAProxy counts it; 100 by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Weight(u16);

impl Default for Weight {
    fn default() -> Self {
        Self(100)
    }
}

impl TryFrom<u16> for Weight {
    type Error = NameError;

    fn try_from(weight: u16) -> Result<Self, NameError> {
        if weight <= 256 {
            return Ok(Self(weight));
        }
        Err(NameError::new(
            &weight.to_string(),
            "a weight",
            "a number from 0 to 256",
        ))
    }
}

impl FromStr for Weight {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let number: Result<u16, _> = text.parse();
        number
            .ok()
            .and_then(|number| Self::try_from(number).ok())
            .ok_or_else(|| NameError::new(text, "a weight", "a number from 0 to 256"))
    }
}

impl From<Weight> for u16 {
    fn from(weight: Weight) -> u16 {
        weight.0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Whether a field says nothing that its absence would not say.
pub fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One HAProxy that routes for Mayfly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Router {
    /// The address of its internal side, where the names of services lead.
    pub address: IpAddr,
    /// The version of HAProxy, as it says it.
    #[serde(default)]
    pub haproxy_version: String,
}

/// A static DNS record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DnsRecord {
    /// The addresses that the host name leads to, at least one.
    pub addresses: Vec<IpAddr>,
}

/// What a daemon says of itself.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The newest revision of etcd whose every change has been applied; 0 before the first.
    pub applied_revision: i64,
    /// When that was (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied_at: Option<String>,
    /// Whether it has been in sync with etcd since it started.
    #[serde(default)]
    pub ready: bool,
    /// Entries that are left out, in the order of their keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub set_aside: Vec<SetAside>,
    /// Why the newest state is not in force, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What only this daemon has to tell: reloads, slots, version of HAProxy.
    #[serde(default, skip_serializing_if = "serde_json::Map::is_empty")]
    pub detail: serde_json::Map<String, serde_json::Value>,
}
