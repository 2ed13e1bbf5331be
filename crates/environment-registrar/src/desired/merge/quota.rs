//! How much of etcd the environments of this registrar may take together, so that a file that
//! anybody may push does not fill it: nobody could register anything then until an operator frees
//! space.
//!
//! What is registered stays, even beyond the quota. What is new, or grows, is refused if there is
//! no room. Registered environments count first, so a restart refuses the same ones.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use mayfly_core::claims::Seniority;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;

use super::affected::Affected;
use super::refusal::{Refusal, RefusalCause};
use super::{Merge, Merged, RankedEntry, file_of, is_named};
use crate::desired::files::Files;
use crate::desired::{Quota, SourceLimit};
use crate::environments::EnvironmentEntry;

/// How much an environment takes of etcd: its record, and its history, which says the same.
pub(super) fn bytes(environment: &Environment) -> usize {
    2 * environment.bytes()
}

/// How many environments a source has.
#[derive(Debug, Default)]
struct SourceCounts {
    /// Of those that were counted one by one.
    here: usize,
    /// Of all others. They are many, so they are counted only where that matters.
    others: Option<usize>,
}

/// What is taken of a quota.
#[derive(Debug)]
pub(super) struct Account<'a> {
    quota: Quota,
    environments: usize,
    bytes: usize,
    /// How many environments each source has, by its limit and name.
    sources: HashMap<(usize, String), SourceCounts>,
    /// The merge whose environments count, too, but for those affected.
    others: Option<(&'a Merged, &'a Affected)>,
}

impl<'a> Account<'a> {
    /// With what the environments take that are not affected.
    pub(super) fn of_others(merged: &'a Merged, affected: Option<&'a Affected>, quota: Quota) -> Self {
        let mut account = Self {
            quota,
            environments: 0,
            bytes: 0,
            sources: HashMap::new(),
            others: affected.map(|affected| (merged, affected)),
        };
        if let Some(affected) = affected {
            let within = affected.names.iter().filter_map(|name| merged.bytes_of(name));
            let within: Vec<_> = within.collect();
            account.environments = merged.accepted.len() + merged.idle.len() - within.len();
            let all = merged.bytes + merged.idle.values().sum::<usize>();
            account.bytes = all - within.iter().sum::<usize>();
        }
        account
    }

    /// Counts an environment that stays in any case.
    pub(super) fn keep(&mut self, environment: &Environment) {
        self.environments += 1;
        self.bytes += bytes(environment);
        self.count_source(&environment.name);
    }

    fn count_source(&mut self, name: &EnvironmentName) {
        if let Some((limit, source)) = self.quota.source_of(name) {
            let counts = self.sources.entry((limit, source.to_owned()));
            counts.or_default().here += 1;
        }
    }

    /// How many environments the source of one has, and what its limit is; `None` where no limit
    /// means the environment.
    fn of_source(&mut self, name: &EnvironmentName) -> Option<(usize, &'static SourceLimit)> {
        let (limit, source) = self.quota.source_of(name)?;
        let counts = self.sources.entry((limit, source.to_owned())).or_default();
        let others = counts.others.get_or_insert_with(|| {
            let is_of_it = |name: &EnvironmentName| self.quota.source_of(name) == Some((limit, source));
            let others = self.others.iter().flat_map(|(merged, affected)| {
                let all = merged.accepted.keys().chain(merged.idle.keys());
                all.filter(move |name| !affected.names.contains(*name))
            });
            others.filter(|name| is_of_it(name)).count()
        });
        Some((counts.here + *others, self.quota.sources.get(limit)?))
    }

    /// Whether there is room for what an environment needs beyond its version that is counted
    /// already; else why not.
    pub(super) fn room_for(
        &mut self,
        environment: &Environment,
        good: Option<&Environment>,
    ) -> Result<(), String> {
        let (needed, had) = (bytes(environment), good.map_or(0, bytes));
        let Quota {
            environments, bytes, ..
        } = self.quota;
        let name = &environment.name;
        if good.is_none() && self.environments >= environments {
            return Err(format!(
                "there is no room for environment {name}: this registrar has reached its limit of \
                 {environments} environments (--max-environments); delete what is not needed, or \
                 ask the operator to raise the limit"
            ));
        }
        let source = good.is_none().then(|| self.of_source(name)).flatten();
        if let Some((_, limit)) = source.filter(|(count, limit)| *count >= limit.environments) {
            return Err(format!(
                "there is no room for environment {name}: its source has reached its limit \
                 of {} ({}, --max-environments-of); delete what is not needed, or ask the operator \
                 to raise the limit",
                limit.environments, limit.pattern
            ));
        }
        if needed > had && self.bytes - had + needed > bytes {
            return Err(format!(
                "there is no room for environment {name}: with its history it needs {needed} \
                 bytes of etcd, and less is left of the {bytes} bytes of this registrar \
                 (--max-bytes); delete what is not needed, or ask the operator to raise the limit"
            ));
        }
        Ok(())
    }

    pub(super) fn take(&mut self, environment: &Environment, good: Option<&Environment>) {
        if good.is_none() {
            self.environments += 1;
            self.count_source(&environment.name);
        }
        self.bytes = self.bytes - good.map_or(0, bytes) + bytes(environment);
    }
}

impl Merge<'_> {
    /// Counts what stays in any case: every last good version whose environment is still meant,
    /// wherever. Those that are named no more make room for others.
    pub(super) fn open_account(&mut self, files: &Files, others: &[RankedEntry<'_>]) {
        let elsewhere = others
            .iter()
            .filter(|((seniority, ..), _)| *seniority >= Seniority::Moved);
        let elsewhere = elsewhere.map(|(_, entry)| &entry.record.name);
        let elsewhere: HashSet<&EnvironmentName> = elsewhere.collect();
        for (name, good) in self.last_good {
            if !elsewhere.contains(name) && (is_named(name, good, files) || self.may_stay(good)) {
                self.count(good);
            }
        }
        for name in elsewhere {
            if let Some(good) = self.registered(name).cloned() {
                self.count(&good);
            }
        }
    }

    fn count(&mut self, good: &Environment) {
        self.account.keep(good);
        self.merged.idle.insert(good.name.clone(), bytes(good));
    }

    /// The version of an environment that is registered, or that was to be.
    pub(super) fn registered(&self, name: &EnvironmentName) -> Option<&Arc<Environment>> {
        self.last_good.get(name).or_else(|| self.actual.ours(name))
    }

    /// Refuses what the quota has no room for. What was there before stays, also where it comes
    /// from another file now.
    pub(super) fn leave_out(
        &mut self,
        file: &str,
        entry: &EnvironmentEntry,
        reason: String,
    ) -> Result<(), Refusal> {
        let environment = &entry.record;
        let Some(good) = self.registered(&environment.name) else {
            self.beyond.add(file, entry, reason);
            return Ok(());
        };
        let refusal = Refusal::new(file, entry, RefusalCause::Quota, reason);
        if file_of(good) != Some(file) {
            let mut moved = Environment::clone(good);
            moved.source.clone_from(&environment.source);
            let conflicts = self.conflicts(&moved, None);
            if conflicts.iter().all(|conflict| conflict.latecomer.is_some()) {
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

/// The new environments that there is no room for, with the refusal of the first of each file and
/// the number of the others. A file can have tens of thousands, and each round reports all.
#[derive(Debug, Default)]
pub(super) struct Beyond {
    files: BTreeMap<String, (Refusal, usize)>,
    pub(super) names: Vec<EnvironmentName>,
}

impl Beyond {
    fn add(&mut self, file: &str, entry: &EnvironmentEntry, reason: String) {
        self.names.push(entry.record.name.clone());
        if let Some((_, more)) = self.files.get_mut(file) {
            *more += 1;
            return;
        }
        let first = Refusal::new(file, entry, RefusalCause::Quota, reason);
        self.files.insert(file.to_owned(), (first, 0));
    }

    pub(super) fn refusals(self) -> impl Iterator<Item = Refusal> {
        self.files.into_values().map(|(mut refusal, more)| {
            if more > 0 {
                refusal.reason += &format!("; {more} more environments of this file are refused, too");
            }
            refusal
        })
    }
}
