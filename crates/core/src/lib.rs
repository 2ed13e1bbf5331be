//! Everything of Mayfly that is pure: names, the environment file, etcd keys and records, and the
//! resolving of environments into routing tables. Nothing here reads a clock, a file or a socket;
//! the daemons do that around it.
//!
//! The chain: text from outside becomes a checked type ([`names`], [`version`], [`address`]); YAML
//! becomes environments and service definitions ([`yaml`], [`mod@file`], [`environment_file`],
//! [`definition_file`]; [`lint`] tells what is wrong with several files together, and [`claims`]
//! whose fault that is); etcd keys and values become typed records ([`keys`], [`records`]); records
//! become routing tables ([`index`], which keeps [`routing`] in sync with each change; [`outside`]
//! says which addresses of external services it may lead to, and [`locality`] which addresses are of
//! no use to others). [`trust`] decides which deletions are believed.
//! [`haproxy_faults`] lists what is known to be wrong with a version of HAProxy.

#![deny(missing_docs)]

pub mod address;
pub mod check;
pub mod claims;
pub mod definition_file;
pub mod environment_file;
pub mod explain;
pub mod failing;
pub mod file;
pub mod haproxy_faults;
pub mod index;
pub mod keys;
pub mod labels;
pub mod launching;
pub mod lint;
pub mod locality;
pub mod lost;
pub mod names;
pub mod nearest;
pub mod outside;
pub mod pattern;
pub mod printable;
pub mod records;
pub mod router_status;
pub mod routing;
mod shared;
pub mod shorten;
pub mod trust;
pub mod upstream;
pub mod version;
pub mod yaml;
