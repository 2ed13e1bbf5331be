//! How much of etcd the environments of this registrar may take together, so that a file that anybody may push does not
//! fill it: then nobody could register anything until an operator mends etcd.
//!
//! What is registered stays, also where the quota is smaller than that. What is new, or grows, is refused where there is no
//! room: as what is registered counts first, a restart refuses the same.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;

use super::refusal::{Cause, Refusal};
use super::{Merge, file_of, is_named};
use crate::library::{Entry, Library};

/// How much they may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// How many there may be.
    pub environments: usize,
    /// How many bytes of etcd they may take.
    pub bytes: usize,
}

impl Default for Quota {
    /// 20,000 environments and 256 MiB. 10,000 of 50 services take some 50 MB, and etcd stops at 2 GiB by default.
    fn default() -> Self {
        Self {
            environments: 20_000,
            bytes: 256 << 20,
        }
    }
}

/// How much an environment takes of etcd: its record, and its history, which says the same.
pub(super) fn bytes(environment: &Environment) -> usize {
    2 * environment.bytes()
}

/// What is taken of a quota.
#[derive(Debug)]
pub(super) struct Account {
    quota: Quota,
    environments: usize,
    bytes: usize,
}

impl Account {
    pub(super) fn new(quota: Quota) -> Self {
        Self {
            quota,
            environments: 0,
            bytes: 0,
        }
    }

    /// Counts an environment that stays in any case.
    pub(super) fn keep(&mut self, environment: &Environment) {
        self.environments += 1;
        self.bytes += bytes(environment);
    }

    /// Whether there is room for what an environment needs beyond its version that is counted already; else why not.
    pub(super) fn room_for(
        &self,
        environment: &Environment,
        good: Option<&Environment>,
    ) -> Result<(), String> {
        let (needed, had) = (bytes(environment), good.map_or(0, bytes));
        let Quota { environments, bytes } = self.quota;
        let name = &environment.name;
        if good.is_none() && self.environments >= environments {
            return Err(format!(
                "there is no room for environment {name}: this registrar may have {environments} environments \
                 (--max-environments) and has them: delete what is not needed, or let the operator raise that"
            ));
        }
        if needed > had && self.bytes - had + needed > bytes {
            return Err(format!(
                "there is no room for environment {name}: it takes {needed} bytes of etcd with its history, and all of \
                 this registrar may take {bytes} (--max-bytes): delete what is not needed, or let the operator raise that"
            ));
        }
        Ok(())
    }

    /// Takes that room.
    pub(super) fn take(&mut self, environment: &Environment, good: Option<&Environment>) {
        self.environments += usize::from(good.is_none());
        self.bytes = self.bytes - good.map_or(0, bytes) + bytes(environment);
    }
}

impl Merge<'_> {
    /// Counts what stays in any case: every last good version whose environment is still meant, wherever. Those that are
    /// named no more make room for others.
    pub(super) fn open_account(&mut self, library: &Library, others: &[Vec<(&str, &Entry)>; 3]) {
        let [_, moved, new] = others;
        let elsewhere = moved.iter().chain(new).map(|(_, entry)| &entry.environment.name);
        let elsewhere: HashSet<&EnvironmentName> = elsewhere.collect();
        for (name, good) in self.last_good {
            if !elsewhere.contains(name) && (is_named(name, good, library) || self.may_stay(good)) {
                self.account.keep(good);
            }
        }
        for name in elsewhere {
            if let Some(good) = self.registered(name).cloned() {
                self.account.keep(&good);
            }
        }
    }

    /// The version of an environment that is registered, or that was to be.
    pub(super) fn registered(&self, name: &EnvironmentName) -> Option<&Arc<Environment>> {
        self.last_good.get(name).or_else(|| self.mirror.ours(name))
    }

    /// Refuses what the quota has no room for. What was there before stays, also where it comes from another file now.
    pub(super) fn leave_out(&mut self, file: &str, entry: &Entry, reason: String) -> Result<(), Refusal> {
        let environment = &entry.environment;
        let Some(good) = self.registered(&environment.name) else {
            self.beyond.add(file, entry, reason);
            return Ok(());
        };
        let refusal = Refusal::new(file, entry, Cause::Quota, reason);
        if file_of(good) != Some(file) {
            let mut moved = Environment::clone(good);
            moved.source.clone_from(&environment.source);
            if self.conflicts(&moved, None).is_empty() {
                self.merged.accept(&Arc::new(moved));
                self.kept.insert(environment.name.clone());
            }
        } else if !self.keep(&environment.name) {
            return Err(refusal);
        }
        self.merged.refused.push(refusal);
        Ok(())
    }
}

/// The new environments that there is no room for, with the refusal of the first of each file and the number of the
/// others. A file can have tens of thousands, and each round tells of all.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    files: BTreeMap<String, (Refusal, usize)>,
    pub(super) names: Vec<EnvironmentName>,
}

impl Beyond {
    fn add(&mut self, file: &str, entry: &Entry, reason: String) {
        self.names.push(entry.environment.name.clone());
        if let Some((_, more)) = self.files.get_mut(file) {
            *more += 1;
            return;
        }
        let first = Refusal::new(file, entry, Cause::Quota, reason);
        self.files.insert(file.to_owned(), (first, 0));
    }

    pub(super) fn refusals(self) -> impl Iterator<Item = Refusal> {
        self.files.into_values().map(|(mut refusal, more)| {
            if more > 0 {
                refusal.reason += &format!("; {more} more of this file are left out with it");
            }
            refusal
        })
    }
}
