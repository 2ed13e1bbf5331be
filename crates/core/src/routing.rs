//! The routing that a router should have: the rows of its lookup tables and the servers of its backends. Rows are
//! built from checked names only, in this module, so whatever a row says can stand in a map file or a command.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::address::Address;
use crate::index::EXTENDS_LIMIT;
use crate::names::{DnsPrefix, EnvironmentName, HeaderValue, RoutePath, ServiceName};
use crate::records::{InstanceState, Protocol, Weight};
use crate::upstream::{Upstream, UpstreamHost};
use crate::version::{BackendId, Selector};

/// A lookup table of the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `<service>@<version>` -> the Host that its servers expect, for those that are not reached by the name of the
    /// service: services outside.
    Hosts,
    /// `<environment>/<service>` -> `<service>@<version>`.
    Versions,
    /// Environment -> the environment that it extends.
    Parents,
    /// `<environment>/<path>/` -> three digits of length, a colon, service. The length is that of `/<path>/`; with it
    /// a router that follows `parents` can tell the longest route among own and inherited ones.
    Routes,
    /// Header value -> environment.
    Headers,
    /// First label of the host -> header value.
    Edge,
}

impl Table {
    /// All tables, each after those that its values lead to: who adds rows in this order and removes them in the
    /// opposite one never leaves a row that leads nowhere.
    pub const ALL: [Self; 6] = [
        Self::Hosts,
        Self::Versions,
        Self::Parents,
        Self::Routes,
        Self::Headers,
        Self::Edge,
    ];

    /// Its name, as in the name of its map file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Versions => "versions",
            Self::Parents => "parents",
            Self::Routes => "routes",
            Self::Headers => "headers",
            Self::Edge => "edge",
        }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Where a row stands: its table and its key. The key has no blank, quote, `;`, `\` or control character and does not
/// begin with `#`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey {
    table: Table,
    text: String,
}

impl RowKey {
    pub(crate) fn host(backend: &BackendId) -> Self {
        Self {
            table: Table::Hosts,
            text: backend.to_string(),
        }
    }

    /// The table.
    pub fn table(&self) -> Table {
        self.table
    }

    /// The key within the table.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// A row with its value, which is as free of syntax as the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Where it stands.
    pub key: RowKey,
    /// Its value.
    pub value: String,
}

impl Row {
    fn new(table: Table, key: String, value: String) -> Self {
        Self {
            key: RowKey { table, text: key },
            value,
        }
    }

    pub(crate) fn host(backend: &BackendId, upstream: &Upstream) -> Self {
        Self {
            key: RowKey::host(backend),
            value: upstream.authority(),
        }
    }

    pub(crate) fn edge(prefix: &DnsPrefix, header: &HeaderValue) -> Self {
        Self::new(Table::Edge, prefix.to_string(), header.to_string())
    }

    pub(crate) fn header(header: &HeaderValue, environment: &EnvironmentName) -> Self {
        Self::new(Table::Headers, header.to_string(), environment.to_string())
    }

    pub(crate) fn parent(environment: &EnvironmentName, parent: &EnvironmentName) -> Self {
        Self::new(Table::Parents, environment.to_string(), parent.to_string())
    }

    pub(crate) fn route(environment: &EnvironmentName, path: &RoutePath, service: &ServiceName) -> Self {
        let path = path.with_slash();
        Self::new(
            Table::Routes,
            format!("{environment}{path}"),
            format!("{:03}:{service}", path.len()),
        )
    }

    pub(crate) fn version(environment: &EnvironmentName, backend: &BackendId) -> Self {
        Self::new(
            Table::Versions,
            format!("{environment}/{}", backend.service),
            backend.to_string(),
        )
    }

    /// The row of a service of which no live version fits: it names the selector, which is never a backend in use, so
    /// that the router's answer can say what is missing.
    pub(crate) fn nothing_fits(
        environment: &EnvironmentName,
        service: &ServiceName,
        selector: &Selector,
    ) -> Self {
        Self::new(
            Table::Versions,
            format!("{environment}/{service}"),
            format!("{service}@{selector}"),
        )
    }
}

/// Names a server within a backend. Another address or protocol is another server: neither can be changed in place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId {
    /// Where it listens.
    pub address: Address,
    /// What it speaks.
    pub protocol: Protocol,
    /// For a server behind TLS, the host that its certificate has to be made out to.
    pub tls: Option<UpstreamHost>,
}

/// What can change about a server while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerState {
    /// Whether it takes new requests.
    pub state: InstanceState,
    /// Its share of the requests.
    pub weight: Weight,
}

/// The servers of one backend.
pub type Servers = BTreeMap<ServerId, ServerState>;

/// The routing that a router should have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routing {
    rows: BTreeMap<RowKey, String>,
    backends: BTreeMap<BackendId, Servers>,
    /// Who chooses a backend.
    named: BTreeMap<BackendId, BTreeSet<EnvironmentName>>,
}

impl Routing {
    /// How many rows there are in all tables.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The value of a row, if there should be one.
    pub fn row(&self, key: &RowKey) -> Option<&str> {
        self.rows.get(key).map(String::as_str)
    }

    /// All rows in the order of tables and keys.
    pub fn rows(&self) -> impl Iterator<Item = (&RowKey, &str)> {
        self.rows.iter().map(|(key, value)| (key, value.as_str()))
    }

    /// The rows of one table in the order of their keys.
    pub fn table(&self, table: Table) -> impl Iterator<Item = (&RowKey, &str)> {
        let start = RowKey {
            table,
            text: String::new(),
        };
        self.rows
            .range(start..)
            .take_while(move |(key, _)| key.table == table)
            .map(|(key, value)| (key, value.as_str()))
    }

    /// The servers of a backend; `None` when it has no instance.
    pub fn servers(&self, backend: &BackendId) -> Option<&Servers> {
        self.backends.get(backend)
    }

    /// All backends that have an instance, with their servers.
    pub fn backends(&self) -> impl Iterator<Item = (&BackendId, &Servers)> {
        self.backends.iter()
    }

    /// Whether some environment leads to the backend.
    pub fn is_named(&self, backend: &BackendId) -> bool {
        self.named.contains_key(backend)
    }

    /// The environments that choose the backend themselves.
    pub fn choosers(&self, backend: &BackendId) -> impl Iterator<Item = &EnvironmentName> {
        self.named.get(backend).into_iter().flatten()
    }

    /// What a table leads to from a key, as the router looks it up.
    pub fn look_up(&self, table: Table, key: &str) -> Option<&str> {
        self.row(&RowKey {
            table,
            text: key.to_owned(),
        })
    }

    /// The rows of a table whose keys begin so, in their order.
    pub fn beginning<'a>(
        &'a self,
        table: Table,
        text: &str,
    ) -> impl Iterator<Item = (&'a RowKey, &'a str)> + use<'a> {
        let start = RowKey {
            table,
            text: text.to_owned(),
        };
        let end = start.clone();
        self.rows
            .range(start..)
            .take_while(move |(key, _)| key.table == table && key.text.starts_with(&end.text))
            .map(|(key, value)| (key, value.as_str()))
    }

    /// An environment and those that it extends, the nearest first, as the router follows them.
    pub fn chain<'a>(&'a self, environment: &'a str) -> impl Iterator<Item = &'a str> {
        let parent = |name: &&'a str| self.look_up(Table::Parents, name);
        std::iter::successors(Some(environment), parent).take(EXTENDS_LIMIT + 1)
    }

    pub(crate) fn set_row(&mut self, row: Row, touched: &mut Touched) {
        if self.rows.get(&row.key) != Some(&row.value) {
            touched.rows.insert(row.key.clone());
            self.rows.insert(row.key, row.value);
        }
    }

    pub(crate) fn remove_row(&mut self, key: &RowKey, touched: &mut Touched) {
        if self.rows.remove(key).is_some() {
            touched.rows.insert(key.clone());
        }
    }

    pub(crate) fn set_servers(&mut self, backend: &BackendId, servers: Servers, touched: &mut Touched) {
        if self.backends.get(backend).unwrap_or(&Servers::new()) == &servers {
            return;
        }
        touched.backends.insert(backend.clone());
        if servers.is_empty() {
            self.backends.remove(backend);
        } else {
            self.backends.insert(backend.clone(), servers);
        }
    }

    pub(crate) fn name_backend(&mut self, backend: &BackendId, environment: &EnvironmentName) {
        self.named
            .entry(backend.clone())
            .or_default()
            .insert(environment.clone());
    }

    pub(crate) fn unname_backend(
        &mut self,
        backend: &BackendId,
        environment: &EnvironmentName,
        touched: &mut Touched,
    ) {
        if let Some(choosers) = self.named.get_mut(backend) {
            choosers.remove(environment);
            if choosers.is_empty() {
                self.named.remove(backend);
                touched.backends.insert(backend.clone());
            }
        }
    }
}

/// What has changed in a [`Routing`] since it was last asked: the only places that need a look.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Touched {
    /// Rows that were set or removed.
    pub rows: BTreeSet<RowKey>,
    /// Backends whose servers changed, or that no environment leads to any more.
    pub backends: BTreeSet<BackendId>,
}

impl Touched {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.backends.is_empty()
    }

    /// Adds what `other` holds.
    pub fn extend(&mut self, other: Self) {
        self.rows.extend(other.rows);
        self.backends.extend(other.backends);
    }
}
