//! The routing that a router should have: the rows of its lookup tables and the servers of its
//! backends. Rows are made of checked names only, so whatever a router writes of them can stand in
//! a map file or a command.

mod rows;
mod touched;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use rows::{AccessKind, Admission, Choice, EnvironmentRows, Row, Table};
pub use touched::{ChangedRows, Touched};

use crate::address::Address;
use crate::names::{DnsPrefix, EnvironmentName, HeaderValue, ServiceName};
use crate::records::ended::Ended;
use crate::records::{EXTENDS_LIMIT, InstanceState, Protocol, Weight};
use crate::upstream::{Upstream, UpstreamHost};
use crate::version::BackendId;

/// Names a server within a backend. Another address or protocol is another server: neither can be
/// changed in place.
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

/// Servers of one backend that are known by their host names alone, where nobody resolves these.
pub type NamedServers = BTreeMap<(Upstream, Protocol), ServerState>;

/// The routing that a router should have.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Routing {
    ended: BTreeMap<DnsPrefix, (EnvironmentName, Ended)>,
    ended_names: BTreeMap<EnvironmentName, Ended>,
    hosts: BTreeMap<BackendId, Upstream>,
    /// What each environment brings into the other tables.
    environments: BTreeMap<EnvironmentName, Arc<EnvironmentRows>>,
    headers: BTreeMap<HeaderValue, EnvironmentName>,
    prefixes: BTreeMap<DnsPrefix, EnvironmentName>,
    /// How many choices all environments have.
    choices: usize,
    backends: BTreeMap<BackendId, Servers>,
    unresolved: BTreeMap<BackendId, NamedServers>,
    /// How many environments choose a backend.
    named: BTreeMap<BackendId, usize>,
}

impl Routing {
    /// How many rows there are in all tables.
    pub fn len(&self) -> usize {
        Table::ALL.into_iter().map(|table| self.count(table)).sum()
    }

    /// How many rows a table has.
    pub fn count(&self, table: Table) -> usize {
        match table {
            Table::Versions => self.choices,
            _ => self.rows(table).count(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The rows of a table in the order of their keys, those of `versions` and `routes` by
    /// environment first.
    pub fn rows(&self, table: Table) -> Box<dyn Iterator<Item = Row<'_>> + '_> {
        let environments = self.environments.iter();
        match table {
            Table::Ended => Box::new(self.ended.values().map(|(name, ended)| Row::Ended(name, ended))),
            Table::EndedNames => Box::new(
                self.ended_names
                    .iter()
                    .map(|(name, ended)| Row::EndedName(name, ended)),
            ),
            Table::Hosts => Box::new(
                self.hosts
                    .iter()
                    .map(|(backend, upstream)| Row::Host(backend, upstream)),
            ),
            Table::Versions
            | Table::Parents
            | Table::Users
            | Table::Networks
            | Table::Access
            | Table::Routes
            | Table::Links => Box::new(environments.flat_map(move |(name, rows)| rows.of(table, name))),
            Table::Headers => Box::new(
                self.headers
                    .iter()
                    .map(|(header, name)| Row::Header(header, name)),
            ),
            Table::Protected | Table::Edge => {
                let names = self.prefixes.values();
                let rows = names.filter_map(|name| Some((name, self.environments.get(name)?)));
                Box::new(rows.flat_map(move |(name, rows)| rows.of(table, name)))
            }
        }
    }

    /// The rows of one table alone, as they are now: for who writes them elsewhere and must not
    /// hold up what comes next. What environments bring is shared, not copied.
    #[must_use]
    pub fn only(&self, table: Table) -> Self {
        let mut only = Self::default();
        match table {
            Table::Ended => only.ended = self.ended.clone(),
            Table::EndedNames => only.ended_names = self.ended_names.clone(),
            Table::Hosts => only.hosts = self.hosts.clone(),
            Table::Versions
            | Table::Parents
            | Table::Users
            | Table::Networks
            | Table::Access
            | Table::Routes
            | Table::Links => {
                only.environments = self.environments.clone();
                only.choices = self.choices;
            }
            Table::Headers => only.headers = self.headers.clone(),
            Table::Protected | Table::Edge => {
                only.environments = self.environments.clone();
                only.prefixes = self.prefixes.clone();
            }
        }
        only
    }

    /// All environments that are routed, with what they bring into the tables.
    pub fn environments(&self) -> impl Iterator<Item = (&EnvironmentName, &EnvironmentRows)> {
        self.environments.iter().map(|(name, rows)| (name, &**rows))
    }

    /// What an environment brings into the tables, if it is routed.
    pub fn environment(&self, name: &EnvironmentName) -> Option<&EnvironmentRows> {
        self.environments.get(name).map(|rows| &**rows)
    }

    /// What an environment chooses of a service itself.
    pub fn choice(&self, environment: &EnvironmentName, service: &ServiceName) -> Option<&Choice> {
        self.environment(environment)?.choice(service)
    }

    /// The environment that a header value leads to.
    pub fn environment_of(&self, header: &HeaderValue) -> Option<&EnvironmentName> {
        self.headers.get(header)
    }

    /// The header value that the first label of a host stands for.
    pub fn header_of(&self, prefix: &DnsPrefix) -> Option<&HeaderValue> {
        let environment = self.environments.get(self.prefixes.get(prefix)?)?;
        Some(&environment.header)
    }

    /// The environment that a prefix leads to, if it is protected.
    pub fn protected(&self, prefix: &DnsPrefix) -> Option<&EnvironmentName> {
        let name = self.prefixes.get(prefix)?;
        self.environment(name)?.protected.then_some(name)
    }

    /// How the environment of this name ended.
    pub fn ended_name(&self, name: &EnvironmentName) -> Option<&Ended> {
        self.ended_names.get(name)
    }

    /// The environment that had a prefix and has ended.
    pub fn ended(&self, prefix: &DnsPrefix) -> Option<(&EnvironmentName, &Ended)> {
        self.ended.get(prefix).map(|(name, ended)| (name, ended))
    }

    /// The server whose Host all servers of a backend expect, where that is not the name of the
    /// service.
    pub fn host(&self, backend: &BackendId) -> Option<&Upstream> {
        self.hosts.get(backend)
    }

    /// The servers of a backend; `None` when it has no instance.
    pub fn servers(&self, backend: &BackendId) -> Option<&Servers> {
        self.backends.get(backend)
    }

    /// The servers of a backend that are known by their host names alone.
    pub fn unresolved(&self, backend: &BackendId) -> Option<&NamedServers> {
        self.unresolved.get(backend)
    }

    /// All backends that have an instance, with their servers.
    pub fn backends(&self) -> impl Iterator<Item = (&BackendId, &Servers)> {
        self.backends.iter()
    }

    /// Whether some environment leads to the backend.
    pub fn is_named(&self, backend: &BackendId) -> bool {
        self.named.contains_key(backend)
    }

    /// The backends that some environment leads to.
    pub fn named(&self) -> impl Iterator<Item = &BackendId> {
        self.named.keys()
    }

    /// The environments that choose the backend themselves. Looks at every environment once.
    pub fn choosers(&self, backend: &BackendId) -> impl Iterator<Item = &EnvironmentName> {
        let chooses = |rows: &EnvironmentRows| {
            let choice = rows.choice(&backend.service).and_then(Choice::backend);
            choice == Some(backend)
        };
        let all = self.environments.iter();
        all.filter(move |(_, rows)| chooses(rows)).map(|(name, _)| name)
    }

    /// An environment and those that it extends, the nearest first, as the router follows them.
    pub fn chain<'a>(
        &'a self,
        environment: &'a EnvironmentName,
    ) -> impl Iterator<Item = &'a EnvironmentName> {
        let parent = |name: &&'a EnvironmentName| self.environments.get(*name)?.parent.as_ref();
        std::iter::successors(Some(environment), parent).take(EXTENDS_LIMIT + 1)
    }

    /// Puts what an environment brings, nothing where it is not routed, in the place of what it
    /// brought. Backends that it chooses for the first time are named from now on; those that it
    /// chooses no more are returned, and have to be unnamed when all environments have their new
    /// choices.
    pub(crate) fn set_environment(
        &mut self,
        name: &EnvironmentName,
        new: Option<EnvironmentRows>,
        touched: &mut Touched,
    ) -> Vec<BackendId> {
        let before = self.environments.get(name).cloned();
        if before.as_deref() == new.as_ref() {
            return Vec::new();
        }
        if let Some(before) = &before {
            // Another environment may have them by now.
            remove_own(&mut self.prefixes, &before.prefix, name);
            remove_own(&mut self.headers, &before.header, name);
            self.choices -= before.choices.len();
        }
        let chosen = |rows: &Option<&EnvironmentRows>, other: &Option<&EnvironmentRows>| {
            let new = rows.map(|rows| rows.not_chosen_in(*other));
            let backends = new.into_iter().flatten().filter_map(Choice::backend);
            backends.cloned().collect::<Vec<BackendId>>()
        };
        let (old, now) = (before.as_deref(), new.as_ref());
        let left = chosen(&old, &now);
        for backend in chosen(&now, &old) {
            *self.named.entry(backend).or_default() += 1;
        }
        match new {
            Some(rows) => {
                self.prefixes.insert(rows.prefix.clone(), name.clone());
                self.headers.insert(rows.header.clone(), name.clone());
                self.choices += rows.choices.len();
                self.environments.insert(name.clone(), Arc::new(rows));
            }
            None => drop(self.environments.remove(name)),
        }
        touched.note_environment(name, before);
        left
    }

    /// Notes that an environment chooses a backend no more.
    pub(crate) fn unname_backend(&mut self, backend: &BackendId, touched: &mut Touched) {
        if let Some(choosers) = self.named.get_mut(backend) {
            *choosers -= 1;
            if *choosers == 0 {
                self.named.remove(backend);
                touched.backends.insert(backend.clone());
            }
        }
    }

    pub(crate) fn set_host(&mut self, backend: &BackendId, host: Option<&Upstream>, touched: &mut Touched) {
        if self.hosts.get(backend) != host {
            let before = replace(&mut self.hosts, backend, host.cloned());
            touched.note_host(backend, before);
        }
    }

    pub(crate) fn set_ended(
        &mut self,
        prefix: &DnsPrefix,
        ended: Option<(EnvironmentName, Ended)>,
        touched: &mut Touched,
    ) {
        if self.ended.get(prefix) != ended.as_ref() {
            let before = replace(&mut self.ended, prefix, ended);
            touched.note_ended(prefix, before);
        }
    }

    pub(crate) fn set_ended_name(
        &mut self,
        name: &EnvironmentName,
        ended: Option<&Ended>,
        touched: &mut Touched,
    ) {
        if self.ended_names.get(name) != ended {
            let before = replace(&mut self.ended_names, name, ended.cloned());
            touched.note_ended_name(name, before);
        }
    }

    pub(crate) fn set_servers(
        &mut self,
        backend: &BackendId,
        (servers, unresolved): (Servers, NamedServers),
        touched: &mut Touched,
    ) {
        let servers = Some(servers).filter(|servers| !servers.is_empty());
        let unresolved = Some(unresolved).filter(|servers| !servers.is_empty());
        if self.servers(backend) != servers.as_ref() || self.unresolved(backend) != unresolved.as_ref() {
            replace(&mut self.backends, backend, servers);
            replace(&mut self.unresolved, backend, unresolved);
            touched.backends.insert(backend.clone());
        }
    }
}

fn replace<K: Ord + Clone, V>(rows: &mut BTreeMap<K, V>, key: &K, value: Option<V>) -> Option<V> {
    match value {
        Some(value) => rows.insert(key.clone(), value),
        None => rows.remove(key),
    }
}

fn remove_own<K: Ord>(owners: &mut BTreeMap<K, EnvironmentName>, key: &K, name: &EnvironmentName) {
    if owners.get(key) == Some(name) {
        owners.remove(key);
    }
}
