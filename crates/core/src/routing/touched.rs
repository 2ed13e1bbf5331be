//! What has changed in a routing since it was last asked: the only places that need a look.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{EnvironmentRows, Routing, Row, Table};
use crate::names::{DnsPrefix, EnvironmentName};
use crate::records::ended::Ended;
use crate::upstream::Upstream;
use crate::version::BackendId;

/// Places that have changed, each with what was there before.
#[derive(Debug, Clone, Default)]
pub struct Touched {
    environments: BTreeMap<EnvironmentName, Option<Arc<EnvironmentRows>>>,
    hosts: BTreeMap<BackendId, Option<Upstream>>,
    ended: BTreeMap<DnsPrefix, Option<(EnvironmentName, Ended)>>,
    ended_names: BTreeMap<EnvironmentName, Option<Ended>>,
    /// Backends whose servers changed, or that no environment leads to any more.
    pub backends: BTreeSet<BackendId>,
}

/// Rows that were and are no more, and rows that are and were not; one that has another value now
/// is among both.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ChangedRows<'a> {
    /// As they were.
    pub before: Vec<Row<'a>>,
    /// As they are.
    pub now: Vec<Row<'a>>,
}

impl<'a> ChangedRows<'a> {
    /// Adds the rows of one place, unless they are the same.
    fn add(&mut self, before: Option<Row<'a>>, now: Option<Row<'a>>) {
        if before != now {
            self.before.extend(before);
            self.now.extend(now);
        }
    }
}

impl Touched {
    pub(super) fn note_environment(&mut self, name: &EnvironmentName, before: Option<Arc<EnvironmentRows>>) {
        self.environments.entry(name.clone()).or_insert(before);
    }

    pub(super) fn note_host(&mut self, backend: &BackendId, before: Option<Upstream>) {
        self.hosts.entry(backend.clone()).or_insert(before);
    }

    pub(super) fn note_ended(&mut self, prefix: &DnsPrefix, before: Option<(EnvironmentName, Ended)>) {
        self.ended.entry(prefix.clone()).or_insert(before);
    }

    pub(super) fn note_ended_name(&mut self, name: &EnvironmentName, before: Option<Ended>) {
        self.ended_names.entry(name.clone()).or_insert(before);
    }

    /// Whether nothing has changed.
    pub fn is_empty(&self) -> bool {
        self.environments.is_empty()
            && self.hosts.is_empty()
            && self.ended.is_empty()
            && self.ended_names.is_empty()
            && self.backends.is_empty()
    }

    /// Adds what `other` holds, which came later.
    pub fn extend(&mut self, other: Self) {
        for (name, before) in other.environments {
            self.environments.entry(name).or_insert(before);
        }
        for (backend, before) in other.hosts {
            self.hosts.entry(backend).or_insert(before);
        }
        for (prefix, before) in other.ended {
            self.ended.entry(prefix).or_insert(before);
        }
        for (name, before) in other.ended_names {
            self.ended_names.entry(name).or_insert(before);
        }
        self.backends.extend(other.backends);
    }

    /// The tables that differ, given the routing as it is now.
    pub fn tables(&self, routing: &Routing) -> BTreeSet<Table> {
        let differs = |table: &Table| match table {
            Table::Ended | Table::EndedNames | Table::Hosts => {
                self.rows(*table, routing) != ChangedRows::default()
            }
            Table::Versions => self.differs(routing, |rows| rows.map_or(&[][..], |rows| &rows.choices)),
            Table::Parents => self.differs(routing, |rows| rows?.parent.as_ref()),
            Table::Routes => self.differs(routing, |rows| rows.map_or(&[][..], |rows| &rows.routes)),
            Table::Users => self.differs(routing, |rows| rows.map_or(&[][..], |rows| &rows.users)),
            Table::Networks => self.differs(routing, |rows| rows.map_or(&[][..], |rows| &rows.networks)),
            Table::Access => self.differs(routing, |rows| rows?.admission.as_ref()),
            Table::Headers | Table::Links => self.differs(routing, |rows| Some(&rows?.header)),
            Table::Protected => self.differs(routing, |rows| {
                rows.filter(|rows| rows.protected).map(|rows| &rows.prefix)
            }),
            Table::Edge => self.differs(routing, |rows| Some((&rows?.prefix, &rows?.header))),
        };
        Table::ALL.into_iter().filter(differs).collect()
    }

    fn differs<'a, T: PartialEq>(
        &'a self,
        routing: &'a Routing,
        part: impl Fn(Option<&'a EnvironmentRows>) -> T,
    ) -> bool {
        let mut all = self.environments(routing);
        all.any(|(_, before, now)| part(before) != part(now))
    }

    /// The environments that were touched, each with what it brought before and what it brings now.
    pub(crate) fn environments<'a>(
        &'a self,
        routing: &'a Routing,
    ) -> impl Iterator<
        Item = (
            &'a EnvironmentName,
            Option<&'a EnvironmentRows>,
            Option<&'a EnvironmentRows>,
        ),
    > {
        self.environments
            .iter()
            .map(|(name, before)| (name, before.as_deref(), routing.environment(name)))
    }

    /// The rows of one table that differ, given the routing as it is now.
    pub fn rows<'a>(&'a self, table: Table, routing: &'a Routing) -> ChangedRows<'a> {
        let mut changed = ChangedRows::default();
        match table {
            Table::Ended => {
                let row = |(name, ended): &'a (EnvironmentName, Ended)| Row::Ended(name, ended);
                for (prefix, before) in &self.ended {
                    changed.add(before.as_ref().map(row), routing.ended.get(prefix).map(row));
                }
            }
            Table::EndedNames => {
                for (name, before) in &self.ended_names {
                    let row = |ended: &'a Ended| Row::EndedName(name, ended);
                    changed.add(before.as_ref().map(row), routing.ended_names.get(name).map(row));
                }
            }
            Table::Hosts => {
                for (backend, before) in &self.hosts {
                    let row = |upstream: &'a Upstream| Row::Host(backend, upstream);
                    changed.add(before.as_ref().map(row), routing.hosts.get(backend).map(row));
                }
            }
            Table::Versions => {
                for (name, before, now) in self.environments(routing) {
                    let rows = |of: Option<&'a EnvironmentRows>, others: Option<&'a EnvironmentRows>| {
                        let choices = of.into_iter().flat_map(move |rows| rows.not_chosen_in(others));
                        choices.map(move |choice| Row::Version(name, choice))
                    };
                    changed.before.extend(rows(before, now));
                    changed.now.extend(rows(now, before));
                }
            }
            Table::Routes => {
                for (name, before, now) in self.environments(routing) {
                    let rows = |of: Option<&'a EnvironmentRows>, others: Option<&'a EnvironmentRows>| {
                        let routes = of.into_iter().flat_map(move |rows| rows.not_routed_in(others));
                        routes.map(move |(path, service)| Row::Route(name, path, service))
                    };
                    changed.before.extend(rows(before, now));
                    changed.now.extend(rows(now, before));
                }
            }
            // Few rows for each environment.
            Table::Parents
            | Table::Users
            | Table::Networks
            | Table::Access
            | Table::Headers
            | Table::Protected
            | Table::Links
            | Table::Edge => {
                for (name, before, now) in self.environments(routing) {
                    let rows = |of: Option<&'a EnvironmentRows>| -> Vec<Row<'a>> {
                        of.into_iter().flat_map(|rows| rows.of(table, name)).collect()
                    };
                    let (before, now) = (rows(before), rows(now));
                    changed
                        .before
                        .extend(before.iter().filter(|row| !now.contains(row)));
                    changed.now.extend(now.iter().filter(|row| !before.contains(row)));
                }
            }
        }
        changed
    }
}
