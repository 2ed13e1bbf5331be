//! Whose `access` counts for an environment: its own, else that of the nearest environment that it
//! extends. Where what it extends is not there, nobody knows, and nobody is let in: it must not
//! open because another environment has ended.

use std::collections::BTreeSet;

use serde::Serialize;

use super::Index;
use crate::names::EnvironmentName;
use crate::outside::Network;
use crate::records::access::{Access, UserName};
use crate::records::{EXTENDS_LIMIT, Environment};
use crate::routing::{AccessKind, Admission};

/// Who may use an environment from outside, for people; hashes are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct AccessView {
    /// The environment whose `access` it is; where it is unknown, the one that it would be.
    pub of: EnvironmentName,
    /// Whether nobody knows, since what it extends is not there.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unknown: bool,
    /// The users.
    pub users: Vec<UserName>,
    /// The networks.
    pub from: Vec<Network>,
}

impl AccessView {
    /// The same in words.
    pub fn in_words(&self) -> String {
        if self.unknown {
            return format!("nobody, since {} cannot be extended", self.of);
        }
        let list =
            |what: &str, all: Vec<String>| (!all.is_empty()).then(|| format!("{what} {}", all.join(", ")));
        let users = list("users", self.users.iter().map(ToString::to_string).collect());
        let networks = list("networks", self.from.iter().map(ToString::to_string).collect());
        let both: Vec<String> = users.into_iter().chain(networks).collect();
        match both.is_empty() {
            true => "nobody".to_owned(),
            false => both.join("; "),
        }
    }
}

impl Index {
    /// Whose `access` counts for an environment; `None` where it is open to all.
    pub(super) fn admission(&self, record: &Environment) -> Option<Admission> {
        let mut record = record;
        for _ in 0..=EXTENDS_LIMIT {
            if let Some(access) = &record.access {
                let (owner, kind) = (record.name.clone(), kind(access));
                return Some(Admission { owner, kind });
            }
            let parent = match self.valid_parent(record) {
                Ok(None) => return None,
                Ok(Some(parent)) => self.environments.get(parent),
                Err(_) => None,
            };
            let Some(parent) = parent else {
                break;
            };
            record = &parent.record;
        }
        let owner = record.extends.as_ref().unwrap_or(&record.name).clone();
        let kind = AccessKind::Unknown;
        Some(Admission { owner, kind })
    }

    /// Who may use an environment from outside; `None` where it is open to all.
    pub fn access(&self, name: &EnvironmentName) -> Option<AccessView> {
        let Admission { owner, kind } = self.admission(&self.environments.get(name)?.record)?;
        let access = self.environment(&owner).and_then(|record| record.access.as_ref());
        let access = access.filter(|_| kind != AccessKind::Unknown);
        Some(AccessView {
            of: owner,
            unknown: kind == AccessKind::Unknown,
            users: access
                .map(|access| access.users.keys().cloned().collect())
                .unwrap_or_default(),
            from: access.map(|access| access.from.clone()).unwrap_or_default(),
        })
    }
}

fn kind(access: &Access) -> AccessKind {
    match (access.users.is_empty(), access.from.is_empty()) {
        (true, _) => AccessKind::Networks,
        (false, true) => AccessKind::Users,
        (false, false) => AccessKind::Both,
    }
}

/// Networks as routers look them up, by hexadecimal digits.
pub(super) fn by_digits(from: &[Network]) -> Box<[Network]> {
    let all: BTreeSet<Network> = from.iter().flat_map(Network::by_digits).collect();
    all.into_iter().collect()
}
