//! Which environments were used, and when to tell etcd: pure decisions, with the time as an argument. HAProxy notes the
//! first request for an environment in a map; its row stays until the use was reported, so that neither a restart of
//! this program nor an outage of etcd loses it. Whoever uses an environment uses those that it extends, too.

pub mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use mayfly_core::index::EXTENDS_LIMIT;
use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::lifetime::Idle;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::{self, Environment};
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::store::Entry;
use mayfly_daemon::watch::Change;
use serde::Deserialize;
use tokio::time::Instant;

/// Uses are reported four times in an idle time,
const SHARE: u32 = 4;
/// but not more often than this: the lease of the shortest idle time lives for two seconds.
const SHORTEST: Duration = Duration::from_millis(500);
/// How often to read what HAProxy has noted. A process that somebody else ends takes with it what was not read.
const READ: Duration = Duration::from_secs(1);

/// What matters here of the record of an environment that is new; to read all of each would hold up a start with thousands.
#[derive(Debug, Deserialize)]
struct Glimpse {
    extends: Option<EnvironmentName>,
    idle: Option<Idle>,
}

/// An environment that ends when nobody uses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idler {
    /// Its record.
    pub environment: Environment,
    /// Its key, as last seen.
    pub entry: Entry,
}

/// What is to be told to etcd at once.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// The environments that requests came for.
    pub used: BTreeSet<EnvironmentName>,
    /// Those to let live on: of the used ones and of those that they extend, the ones with an idle time.
    pub touch: Vec<Idler>,
}

/// What is known of the use of environments.
#[derive(Debug)]
pub struct Uses {
    keyspace: KeySpace,
    longest: Duration,
    /// Every environment, with the one that it extends.
    parents: BTreeMap<EnvironmentName, Option<EnvironmentName>>,
    idlers: BTreeMap<EnvironmentName, Idler>,
    /// Used, and not reported yet.
    pending: BTreeSet<EnvironmentName>,
    /// When the next use may be reported.
    not_before: BTreeMap<EnvironmentName, Instant>,
    backoff: Backoff,
}

impl Uses {
    /// Nothing is known. A use is reported at most once in `longest`, or in a part of the idle time if that is shorter.
    pub fn new(keyspace: KeySpace, longest: Duration) -> Self {
        Self {
            keyspace,
            longest,
            parents: BTreeMap::new(),
            idlers: BTreeMap::new(),
            pending: BTreeSet::new(),
            not_before: BTreeMap::new(),
            backoff: Backoff::default(),
        }
    }

    /// Takes a change of etcd. Of a record that cannot be read nothing is known, so nobody lets it live on.
    pub fn take(&mut self, change: &Change) {
        let text = match change {
            Change::Put(entry) => &entry.key,
            Change::Delete { key } => key,
        };
        let Ok(Key::Environment(name)) = self.keyspace.parse(text) else {
            return;
        };
        match change {
            Change::Put(entry) => {
                self.idlers.remove(&name);
                let Ok(glimpse) = records::parse::<Glimpse>(&entry.value) else {
                    return;
                };
                // What is known already is routed by its last good record, so a new one counts only if all of it is good.
                if glimpse.idle.is_some() || self.parents.contains_key(&name) {
                    let Ok(environment) = records::parse_environment(&name, &entry.value) else {
                        return;
                    };
                    if environment.idle.is_some() {
                        // The value stands in the record.
                        let entry = Entry {
                            value: Vec::new(),
                            ..entry.clone()
                        };
                        self.idlers.insert(name.clone(), Idler { environment, entry });
                    }
                }
                self.parents.insert(name, glimpse.extends);
            }
            Change::Delete { .. } => {
                self.idlers.remove(&name);
                self.parents.remove(&name);
                self.pending.remove(&name);
                self.not_before.remove(&name);
            }
        }
    }

    /// How long to wait until HAProxy is to be asked again.
    pub fn pause(&self) -> Duration {
        let shortest = self.idlers.keys().filter_map(|name| self.idle(name)).min();
        // Without idle times there is nothing to read, but for rows of environments that are gone.
        shortest.map_or(self.longest, |idle| {
            (idle / SHARE / 2).clamp(SHORTEST / 2, READ).min(self.longest)
        })
    }

    /// Takes what HAProxy has noted, and gives the rows that are good for nothing: their environments are gone.
    pub fn note(&mut self, noted: &BTreeSet<EnvironmentName>) -> BTreeSet<EnvironmentName> {
        let mut gone = BTreeSet::new();
        for name in noted {
            if !self.parents.contains_key(name) {
                gone.insert(name.clone());
            } else if self.line(name).any(|name| self.idlers.contains_key(name)) {
                self.pending.insert(name.clone());
            }
        }
        gone
    }

    /// What is to be reported now; `None` when nothing is.
    pub fn due(&self, now: Instant) -> Option<Round> {
        let is_due = |name: &&EnvironmentName| self.not_before.get(*name).is_none_or(|at| *at <= now);
        let used: BTreeSet<EnvironmentName> = self.pending.iter().filter(is_due).cloned().collect();
        let names: BTreeSet<&EnvironmentName> = used.iter().flat_map(|name| self.line(name)).collect();
        let touch = names.into_iter().filter_map(|name| self.idlers.get(name));
        let touch = touch.cloned().collect();
        (!used.is_empty()).then_some(Round { used, touch })
    }

    /// The round that began at `begun` came to its end.
    pub fn reported(&mut self, round: &Round, begun: Instant) {
        self.backoff.reset();
        for name in &round.used {
            self.pending.remove(name);
            if self.parents.contains_key(name) {
                self.not_before.insert(name.clone(), begun + self.period(name));
            }
        }
    }

    /// The round failed: it is tried again. Gives the time until then.
    pub fn failed(&mut self, round: &Round, now: Instant) -> Duration {
        let delay = self.backoff.next_delay();
        for name in round.used.iter().filter(|name| self.pending.contains(*name)) {
            self.not_before.insert(name.clone(), now + delay);
        }
        delay
    }

    /// An environment and those that it extends.
    fn line<'a>(&'a self, name: &'a EnvironmentName) -> impl Iterator<Item = &'a EnvironmentName> {
        std::iter::successors(Some(name), |name| self.parents.get(*name)?.as_ref()).take(EXTENDS_LIMIT + 1)
    }

    fn idle(&self, name: &EnvironmentName) -> Option<Duration> {
        Some(self.idlers.get(name)?.environment.idle?.span())
    }

    /// How often the use of an environment is reported.
    fn period(&self, name: &EnvironmentName) -> Duration {
        let shortest = self.line(name).filter_map(|name| self.idle(name)).min();
        shortest.map_or(self.longest, |idle| {
            (idle / SHARE).max(SHORTEST).min(self.longest)
        })
    }
}

#[cfg(test)]
mod tests;
