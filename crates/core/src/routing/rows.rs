//! The router's lookup tables and their rows. What they are as text, only a router says.

use std::fmt;
use std::sync::Arc;

use crate::names::{DnsPrefix, EnvironmentName, HeaderValue, RoutePath, ServiceName};
use crate::outside::Network;
use crate::records::access::{PasswordHash, UserName};
use crate::records::ended::Ended;
use crate::upstream::Upstream;
use crate::version::{BackendId, Range};

/// A lookup table of the router.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// First label of the host -> the environment that had it and has ended, when and why. It is
    /// asked only where `edge` knows nothing.
    Ended,
    /// Environment that has ended -> the same. It is asked for links only, which name an
    /// environment.
    EndedNames,
    /// Backend -> the Host that its servers expect, for those that are not reached by the name of
    /// the service: external services.
    Hosts,
    /// Environment and user -> hash of the password.
    Users,
    /// Environment and network -> 1.
    Networks,
    /// Environment that is not open to all -> whose users and networks count.
    Access,
    /// Environment and service -> what it has of it.
    Versions,
    /// Environment -> the environment that it extends.
    Parents,
    /// Environment and path -> service.
    Routes,
    /// Header value -> environment.
    Headers,
    /// First label of the host -> the environment, of those that are protected.
    Protected,
    /// Environment -> its header value, for links, which name an environment.
    Links,
    /// First label of the host -> header value.
    Edge,
}

impl Table {
    /// All tables, each after those that its values lead to: who adds rows in this order and
    /// removes them in the opposite one never leaves a row that leads nowhere. Who may use an
    /// environment comes before what there is to use.
    pub const ALL: [Self; 13] = [
        Self::Ended,
        Self::EndedNames,
        Self::Hosts,
        Self::Users,
        Self::Networks,
        Self::Access,
        Self::Versions,
        Self::Parents,
        Self::Routes,
        Self::Headers,
        Self::Protected,
        Self::Links,
        Self::Edge,
    ];
}

/// Who may use an environment from outside.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Admission {
    /// The environment whose `access` counts; where that is unknown, the one that cannot be
    /// extended.
    pub owner: EnvironmentName,
    /// What it has.
    pub kind: AccessKind,
}

/// What there is of an `access`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Users only.
    Users,
    /// Networks only.
    Networks,
    /// Both, one of which is enough.
    Both,
    /// Nobody knows.
    Unknown,
}

impl AccessKind {
    /// Its name in the router's table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::Networks => "networks",
            Self::Both => "both",
            Self::Unknown => "unknown",
        }
    }
}

/// What an environment has of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Choice {
    /// A version, whether or not it has a live instance. Where nothing is live for `latest`, it is
    /// the version of that name.
    Backend(BackendId),
    /// Nothing, since no live version fits.
    Missing(ServiceName, Range),
}

impl Choice {
    /// The service.
    pub fn service(&self) -> &ServiceName {
        match self {
            Self::Backend(backend) => &backend.service,
            Self::Missing(service, _) => service,
        }
    }

    /// The backend, unless it is missing.
    pub fn backend(&self) -> Option<&BackendId> {
        match self {
            Self::Backend(backend) => Some(backend),
            Self::Missing(..) => None,
        }
    }

    /// The version, or the range that nothing fits.
    pub fn version(&self) -> &str {
        match self {
            Self::Backend(backend) => backend.version.as_str(),
            Self::Missing(_, range) => range.text(),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.service(), self.version())
    }
}

/// A row of a table: its key, then its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Row<'a> {
    /// The environment that had a prefix, and its end.
    Ended(&'a EnvironmentName, &'a Ended),
    /// An environment, and its end.
    EndedName(&'a EnvironmentName, &'a Ended),
    /// A backend, and the server whose Host is expected.
    Host(&'a BackendId, &'a Upstream),
    /// An environment, and what it has of a service.
    Version(&'a EnvironmentName, &'a Choice),
    /// An environment, and the one that it extends.
    Parent(&'a EnvironmentName, &'a EnvironmentName),
    /// An environment, a user of it, and the hash of the password.
    User(&'a EnvironmentName, &'a UserName, &'a PasswordHash),
    /// An environment, and a network of whole hexadecimal digits that may use it.
    Network(&'a EnvironmentName, &'a Network),
    /// An environment, and whose users and networks count.
    Access(&'a EnvironmentName, &'a Admission),
    /// An environment and a path, and the service.
    Route(&'a EnvironmentName, &'a RoutePath, &'a ServiceName),
    /// A header value, and its environment.
    Header(&'a HeaderValue, &'a EnvironmentName),
    /// The prefix of a protected environment, and the environment.
    Protected(&'a DnsPrefix, &'a EnvironmentName),
    /// An environment, and its header value.
    Link(&'a EnvironmentName, &'a HeaderValue),
    /// A prefix, and its header value.
    Edge(&'a DnsPrefix, &'a HeaderValue),
}

/// What one environment brings into the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentRows {
    /// The first label of the hosts that lead to it.
    pub prefix: DnsPrefix,
    /// Its header value.
    pub header: HeaderValue,
    /// Whether links leave its hosts alone.
    pub protected: bool,
    /// The environment that it extends.
    pub parent: Option<EnvironmentName>,
    /// Who may use it from outside; everybody where there is nothing.
    pub admission: Option<Admission>,
    /// Its own users.
    pub users: Box<[(UserName, PasswordHash)]>,
    /// Its own networks, each of whole hexadecimal digits.
    pub networks: Box<[Network]>,
    /// Its own routes, in the order of the paths.
    pub routes: Box<[(RoutePath, ServiceName)]>,
    /// What it chooses itself, in the order of the services. These rows are by far the most: each
    /// is shared with all environments that choose the same.
    pub choices: Box<[Arc<Choice>]>,
}

impl EnvironmentRows {
    /// What it chooses of a service itself.
    pub fn choice(&self, service: &ServiceName) -> Option<&Choice> {
        let place = self
            .choices
            .binary_search_by(|choice| choice.service().cmp(service));
        Some(&self.choices[place.ok()?])
    }

    /// What it chooses and another does not.
    pub(crate) fn not_chosen_in<'a>(&'a self, other: Option<&'a Self>) -> impl Iterator<Item = &'a Choice> {
        let mut others = other.map_or(&[][..], |other| &other.choices).iter().peekable();
        // Both are in the order of the services.
        let new = self.choices.iter().filter(move |choice| {
            while others
                .next_if(|other| other.service() < choice.service())
                .is_some()
            {}
            others.peek().is_none_or(|other| *other != *choice)
        });
        new.map(|choice| &**choice)
    }

    /// Its routes that another has not, or that lead elsewhere there.
    pub(super) fn not_routed_in<'a>(
        &'a self,
        other: Option<&'a Self>,
    ) -> impl Iterator<Item = &'a (RoutePath, ServiceName)> {
        let mut others = other.map_or(&[][..], |other| &other.routes).iter().peekable();
        // Both are in the order of the paths.
        self.routes.iter().filter(move |route| {
            while others.next_if(|other| other.0 < route.0).is_some() {}
            others.peek().is_none_or(|other| *other != *route)
        })
    }

    /// Its rows in a table that it is in alone.
    pub(super) fn of<'a>(
        &'a self,
        table: Table,
        name: &'a EnvironmentName,
    ) -> impl Iterator<Item = Row<'a>> + use<'a> {
        let choices = if table == Table::Versions {
            &self.choices[..]
        } else {
            &[]
        };
        let choices = choices.iter().map(move |choice| Row::Version(name, choice));
        let parent = self.parent.as_ref().filter(|_| table == Table::Parents);
        let parent = parent.map(|parent| Row::Parent(name, parent));
        let routes = if table == Table::Routes {
            &self.routes[..]
        } else {
            &[]
        };
        let routes = routes
            .iter()
            .map(move |(path, service)| Row::Route(name, path, service));
        let header = (table == Table::Headers).then_some(Row::Header(&self.header, name));
        let protected = self.protected && table == Table::Protected;
        let protected = protected.then_some(Row::Protected(&self.prefix, name));
        let link = (table == Table::Links).then_some(Row::Link(name, &self.header));
        let edge = (table == Table::Edge).then_some(Row::Edge(&self.prefix, &self.header));
        let single = parent
            .into_iter()
            .chain(header)
            .chain(protected)
            .chain(link)
            .chain(edge);
        let admission = self.admission.as_ref().filter(|_| table == Table::Access);
        let admission = admission.map(|admission| Row::Access(name, admission));
        let users = if table == Table::Users {
            &self.users[..]
        } else {
            &[]
        };
        let users = users.iter().map(move |(user, hash)| Row::User(name, user, hash));
        let networks = if table == Table::Networks {
            &self.networks[..]
        } else {
            &[]
        };
        let networks = networks.iter().map(move |network| Row::Network(name, network));
        let of_access = users.chain(networks).chain(admission);
        choices.chain(routes).chain(single).chain(of_access)
    }
}
