//! What HAProxy should have.

use mayfly_core::names::EnvironmentName;
use mayfly_core::routing::Routing;

use crate::haproxy::slots::Pool;
use crate::haproxy::tokens::CaFile;

#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    pub routing: &'a Routing,
    /// Which backend has which slot.
    pub pool: &'a Pool,
    /// The environment of internal requests that name none.
    pub default_environment: Option<&'a EnvironmentName>,
    /// The authorities that certificates of servers behind TLS are verified with.
    pub ca_file: &'a CaFile,
}
