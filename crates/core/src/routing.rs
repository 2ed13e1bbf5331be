//! The routing that a router should have: the rows of its lookup tables and the servers of its backends. Rows are
//! built from checked names only, in this module, so whatever a row says can stand in a map file or a command.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::address::Address;
use crate::index::EXTENDS_LIMIT;
use crate::names::{DnsPrefix, EnvironmentName, HeaderValue, RoutePath, ServiceName};
use crate::records::{InstanceState, Protocol, Weight};
use crate::symbols::{Symbol, Symbols};
use crate::upstream::{Upstream, UpstreamHost};
use crate::version::BackendId;

/// A lookup table of the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// `<service>@<version>` -> the Host that its servers expect, for those that are not reached by the name of the
    /// service: services outside.
    Hosts,
    /// `<environment>/<service>` -> `<service>@<version>`. Where no live version fits, the value names the selector, which is
    /// never a backend in use, so that the router's answer can say what is missing.
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

    fn version(environment: &str, service: &str) -> Self {
        Self {
            table: Table::Versions,
            text: format!("{environment}/{service}"),
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

/// What an environment chooses, in the order of the services: the service, and the value of its row in `versions`.
/// Shared with whoever writes them to files.
pub(crate) type Choices = Arc<[(Symbol, Symbol)]>;

/// The routing that a router should have.
#[derive(Debug, Clone, Default)]
pub struct Routing {
    /// The rows of all tables but `versions`.
    rows: BTreeMap<RowKey, String>,
    /// The rows of `versions`, which are by far the most, by the name of the environment.
    choices: BTreeMap<Arc<str>, Choices>,
    /// How many these are.
    chosen: usize,
    pub(crate) symbols: Symbols,
    backends: BTreeMap<BackendId, Servers>,
    /// How many environments choose a backend.
    named: BTreeMap<BackendId, usize>,
}

impl PartialEq for Routing {
    fn eq(&self, other: &Self) -> bool {
        // The numbers of symbols depend on the order of events.
        self.rows().eq(other.rows()) && self.backends == other.backends && self.named == other.named
    }
}

impl Routing {
    /// How many rows there are in all tables.
    pub fn len(&self) -> usize {
        self.rows.len() + self.chosen
    }

    /// How many rows a table has.
    pub fn count(&self, table: Table) -> usize {
        match table {
            Table::Versions => self.chosen,
            _ => self.range(table, "").count(),
        }
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a row, if there should be one.
    pub fn row(&self, key: &RowKey) -> Option<&str> {
        match key.table {
            Table::Versions => self.choice(&key.text),
            _ => self.rows.get(key).map(String::as_str),
        }
    }

    /// The value of the row of `versions` with this key.
    fn choice(&self, key: &str) -> Option<&str> {
        let (environment, service) = key.split_once('/')?;
        let choices = self.choices.get(environment)?;
        let place = choices.binary_search_by(|(chosen, _)| self.symbols.text(*chosen).cmp(service));
        Some(self.symbols.text(choices[place.ok()?].1))
    }

    /// All rows in the order of tables and keys; those of `versions` by environment, then by service.
    pub fn rows(&self) -> impl Iterator<Item = (RowKey, &str)> {
        Table::ALL.into_iter().flat_map(|table| self.table(table))
    }

    /// The rows of one table, in the same order.
    pub fn table(&self, table: Table) -> impl Iterator<Item = (RowKey, &str)> {
        let all = (table == Table::Versions).then_some(&self.choices);
        let chosen = all
            .into_iter()
            .flatten()
            .flat_map(|(name, choices)| self.rows_of(name, choices));
        chosen.chain(self.beginning_elsewhere(table, ""))
    }

    fn rows_of<'a>(
        &'a self,
        environment: &'a str,
        choices: &'a Choices,
    ) -> impl Iterator<Item = (RowKey, &'a str)> {
        choices.iter().map(move |(service, value)| {
            let key = RowKey::version(environment, self.symbols.text(*service));
            (key, self.symbols.text(*value))
        })
    }

    /// Shows each row of a table, in the same order, without a copy of its key.
    pub fn each(&self, table: Table, mut show: impl FnMut(&str, &str)) {
        if table != Table::Versions {
            for (key, value) in self.range(table, "") {
                show(key.as_str(), value);
            }
            return;
        }
        let mut key = String::new();
        for (environment, choices) in &self.choices {
            key.clear();
            key.push_str(environment);
            key.push('/');
            let length = key.len();
            for (service, value) in choices.iter() {
                key.truncate(length);
                key.push_str(self.symbols.text(*service));
                show(&key, self.symbols.text(*value));
            }
        }
    }

    /// The rows of one table alone, as they are now: for who shows them elsewhere and must not hold up what comes next. Copies
    /// next to nothing where there are many.
    pub fn only(&self, table: Table) -> Self {
        let mut only = Self::default();
        if table == Table::Versions {
            only.choices = self.choices.clone();
            only.chosen = self.chosen;
            only.symbols = self.symbols.clone();
        } else {
            let rows = self.range(table, "");
            only.rows = rows.map(|(key, value)| (key.clone(), value.to_owned())).collect();
        }
        only
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

    /// The backends that some environment leads to.
    pub fn named(&self) -> impl Iterator<Item = &BackendId> {
        self.named.keys()
    }

    /// The environments that choose the backend themselves. Looks at every environment once.
    pub fn choosers(&self, backend: &BackendId) -> impl Iterator<Item = EnvironmentName> {
        let (service, value) = (backend.service.as_str(), backend.to_string());
        self.choices
            .iter()
            .filter(move |(_, choices)| {
                let place = choices.binary_search_by(|(chosen, _)| self.symbols.text(*chosen).cmp(service));
                place.is_ok_and(|place| self.symbols.text(choices[place].1) == value)
            })
            // The keys were names.
            .filter_map(|(name, _)| name.parse().ok())
    }

    /// What a table leads to from a key, as the router looks it up.
    pub fn look_up(&self, table: Table, key: &str) -> Option<&str> {
        if table == Table::Versions {
            return self.choice(key);
        }
        self.row(&RowKey {
            table,
            text: key.to_owned(),
        })
    }

    /// The rows of a table whose keys begin so, in their order; in `versions` the beginning has to be an environment and a
    /// slash at least.
    pub fn beginning<'a>(
        &'a self,
        table: Table,
        text: &str,
    ) -> impl Iterator<Item = (RowKey, &'a str)> + use<'a> {
        let split = text.split_once('/').filter(|_| table == Table::Versions);
        let chosen = split.and_then(|(environment, _)| self.choices.get_key_value(environment));
        let text = text.to_owned();
        let begins = text.clone();
        let chosen = chosen
            .into_iter()
            .flat_map(|(name, choices)| self.rows_of(name, choices));
        chosen
            .filter(move |(key, _)| key.text.starts_with(&begins))
            .chain(self.beginning_elsewhere(table, &text))
    }

    fn beginning_elsewhere<'a>(
        &'a self,
        table: Table,
        text: &str,
    ) -> impl Iterator<Item = (RowKey, &'a str)> + use<'a> {
        self.range(table, text).map(|(key, value)| (key.clone(), value))
    }

    fn range<'a>(
        &'a self,
        table: Table,
        text: &str,
    ) -> impl Iterator<Item = (&'a RowKey, &'a str)> + use<'a> {
        let start = RowKey {
            table,
            text: text.to_owned(),
        };
        let begin = text.to_owned();
        self.rows
            .range(start..)
            .take_while(move |(key, _)| key.table == table && key.text.starts_with(&begin))
            .map(|(key, value)| (key, value.as_str()))
    }

    /// An environment and those that it extends, the nearest first, as the router follows them.
    pub fn chain<'a>(&'a self, environment: &'a str) -> impl Iterator<Item = &'a str> {
        let parent = |name: &&'a str| self.look_up(Table::Parents, name);
        std::iter::successors(Some(environment), parent).take(EXTENDS_LIMIT + 1)
    }

    pub(crate) fn set_row(&mut self, row: Row, touched: &mut Touched) {
        if self.rows.get(&row.key) != Some(&row.value) {
            let before = self.rows.insert(row.key.clone(), row.value);
            touched.rows.entry(row.key).or_insert(before);
        }
    }

    pub(crate) fn remove_row(&mut self, key: &RowKey, touched: &mut Touched) {
        if let Some(before) = self.rows.remove(key) {
            touched.rows.entry(key.clone()).or_insert(Some(before));
        }
    }

    /// Gives symbols to choices, and puts them in order. Where a service stands there twice, the first counts.
    pub(crate) fn choices_of(&mut self, chosen: &[(&ServiceName, String)]) -> Choices {
        let mut choices: Vec<(&ServiceName, &str)> = chosen
            .iter()
            .map(|(service, value)| (*service, value.as_str()))
            .collect();
        choices.sort_by_key(|(service, _)| *service);
        choices.dedup_by_key(|(service, _)| *service);
        let symbols = &mut self.symbols;
        let numbers = choices
            .into_iter()
            .map(|(service, value)| (symbols.number(service.as_str()), symbols.number(value)));
        numbers.collect()
    }

    /// Puts the choices of an environment in the place of those that it had. Backends that it chooses for the first time are
    /// named from now on; those that it chooses no more are returned, and have to be unnamed when all environments have
    /// their new ones.
    pub(crate) fn choose(
        &mut self,
        environment: &EnvironmentName,
        choices: Choices,
        touched: &mut Touched,
    ) -> Vec<BackendId> {
        let (name, before) = match self.choices.get_key_value(environment.as_str()) {
            Some((name, before)) => (name.clone(), &before[..]),
            None => (environment.as_str().into(), &[][..]),
        };
        if *before == *choices {
            return Vec::new();
        }
        let backends = |choices: &[(Symbol, Symbol)], others: &[(Symbol, Symbol)]| {
            let all = choices.iter().filter(|choice| !others.contains(choice));
            // A selector that nothing fits is no backend.
            all.filter_map(|(_, value)| self.symbols.text(*value).parse().ok())
                .collect::<Vec<BackendId>>()
        };
        let (new, old) = (backends(&choices, before), backends(before, &choices));
        for backend in new {
            *self.named.entry(backend).or_default() += 1;
        }
        self.chosen += choices.len();
        let before = match choices.is_empty() {
            true => self.choices.remove(&name),
            false => self.choices.insert(name.clone(), choices),
        };
        let before = before.unwrap_or_default();
        self.chosen -= before.len();
        touched.choices.entry(name).or_insert(before);
        old
    }

    /// Notes that an environment chooses a backend no more; says whether it was the last one.
    pub(crate) fn unname_backend(&mut self, backend: &BackendId, touched: &mut Touched) {
        if let Some(choosers) = self.named.get_mut(backend) {
            *choosers -= 1;
            if *choosers == 0 {
                self.named.remove(backend);
                touched.backends.insert(backend.clone());
            }
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
}

/// What has changed in a [`Routing`] since it was last asked: the only places that need a look.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    /// Rows of other tables than `versions` that were set or removed, each with the value that it had before.
    rows: BTreeMap<RowKey, Option<String>>,
    /// The environments whose rows in `versions` changed, each with the choices that it had before.
    choices: BTreeMap<Arc<str>, Choices>,
    /// Backends whose servers changed, or that no environment leads to any more.
    pub backends: BTreeSet<BackendId>,
}

/// A row that was set or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change<'a> {
    /// Where it stands.
    pub key: RowKey,
    /// The value that it had.
    pub before: Option<&'a str>,
    /// The value that it has now.
    pub now: Option<&'a str>,
}

impl Touched {
    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.choices.is_empty() && self.backends.is_empty()
    }

    /// Adds what `other` holds, which came later.
    pub fn extend(&mut self, other: Self) {
        for (key, before) in other.rows {
            self.rows.entry(key).or_insert(before);
        }
        for (environment, before) in other.choices {
            self.choices.entry(environment).or_insert(before);
        }
        self.backends.extend(other.backends);
    }

    /// The tables that rows were set in or removed from.
    pub fn tables(&self) -> BTreeSet<Table> {
        let chosen = (!self.choices.is_empty()).then_some(Table::Versions);
        self.rows.keys().map(RowKey::table).chain(chosen).collect()
    }

    /// The rows of one table that were set or removed, given the routing as it is now. One that was set back is left out.
    pub fn rows<'a>(
        &'a self,
        table: Table,
        routing: &'a Routing,
    ) -> Box<dyn Iterator<Item = Change<'a>> + 'a> {
        if table == Table::Versions {
            let all = self.choices.iter();
            return Box::new(all.flat_map(|(name, before)| changed_choices(name, before, routing)));
        }
        let start = RowKey {
            table,
            text: String::new(),
        };
        let all = self
            .rows
            .range(start..)
            .take_while(move |(key, _)| key.table == table);
        let changes = all.map(|(key, before)| Change {
            key: key.clone(),
            before: before.as_deref(),
            now: routing.row(key),
        });
        Box::new(changes.filter(|change| change.before != change.now))
    }
}

/// Where the choices of an environment differ, in the order of the services.
fn changed_choices<'a>(
    environment: &'a str,
    before: &'a Choices,
    routing: &'a Routing,
) -> impl Iterator<Item = Change<'a>> + 'a {
    let text = |symbol: Symbol| routing.symbols.text(symbol);
    let now = routing.choices.get(environment).map_or(&[][..], |now| now);
    let mut values: BTreeMap<&str, (Option<Symbol>, Option<Symbol>)> = BTreeMap::new();
    for (service, value) in before.iter() {
        values.entry(text(*service)).or_default().0 = Some(*value);
    }
    for (service, value) in now {
        values.entry(text(*service)).or_default().1 = Some(*value);
    }
    values
        .into_iter()
        .filter(|(_, (before, now))| before != now)
        .map(move |(service, (before, now))| Change {
            key: RowKey::version(environment, service),
            before: before.map(text),
            now: now.map(text),
        })
}
