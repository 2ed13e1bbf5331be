//! The outcome of a merge, and how a part of one that was merged again is taken into it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mayfly_core::claims::{Claim, Queues};
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;

use super::affected::Affected;
use super::file_of;
use super::quota::bytes;
use super::refusal::{Refusal, RefusalCause};
use crate::desired::Quota;

/// The outcome of a merge.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    /// What should be in etcd, by name.
    pub accepted: BTreeMap<EnvironmentName, Arc<Environment>>,
    /// What is not, although a file says it, and why; in the order of the files.
    pub refused: Vec<Refusal>,
    /// The owner of each accepted prefix and header, and behind it those that wait for it.
    pub(super) claims: Queues<EnvironmentName, ()>,
    /// What is not accepted and may be, once another writer gives up what it claims.
    pub(super) waiting: BTreeMap<EnvironmentName, Vec<Arc<Environment>>>,
    /// The accepted environments by file, in the order of their names. Most files have one, for
    /// which a set would be large.
    pub(super) files: HashMap<String, Vec<EnvironmentName>>,
    /// The accepted environments that another writer has registered, and that are taken over.
    pub(super) takeovers: BTreeSet<EnvironmentName>,
    /// The accepted environments that no file names.
    pub(super) unnamed: BTreeSet<EnvironmentName>,
    /// Why the newest version of an accepted environment is refused, where its last good one stays.
    pub(super) outdated: BTreeMap<EnvironmentName, String>,
    /// Environments of others that claim what one of ours had before them, and what.
    pub(super) latecomers: BTreeMap<EnvironmentName, String>,
    /// What the accepted environments take of etcd, in bytes.
    pub(super) bytes: usize,
    /// What environments take of etcd that are not accepted, and count as long as they are there.
    pub(super) idle: BTreeMap<EnvironmentName, usize>,
    /// The new environments that wait for room in the quota.
    pub(super) beyond: BTreeSet<EnvironmentName>,
}

impl Merged {
    /// Whether an accepted environment stays although no file names it.
    pub fn is_unnamed(&self, name: &EnvironmentName) -> bool {
        self.unnamed.contains(name)
    }

    /// Why the newest version of an accepted environment is refused, if that is not what is
    /// accepted.
    pub fn outdated(&self, name: &EnvironmentName) -> Option<&String> {
        self.outdated.get(name)
    }

    /// Environments of others that claim a prefix or header which one of ours had before them, with
    /// a word about that.
    pub fn latecomers(&self) -> &BTreeMap<EnvironmentName, String> {
        &self.latecomers
    }

    /// The accepted environments that are taken over from another writer: a person has changed the
    /// copy that `--write-back` made.
    pub fn takeovers(&self) -> &BTreeSet<EnvironmentName> {
        &self.takeovers
    }

    /// The accepted environments that have the prefix or header of this one.
    pub fn holders(&self, environment: &Environment) -> impl Iterator<Item = &EnvironmentName> {
        let claims = Claim::keys_of(environment).into_iter();
        claims.filter_map(|claim| self.holder(&claim))
    }

    /// The accepted environment that has this.
    pub(super) fn holder(&self, claim: &Claim) -> Option<&EnvironmentName> {
        let (is_waiting, (), name) = self.claims.of(claim).first()?;
        (!is_waiting).then_some(name)
    }

    pub(crate) fn accept(&mut self, environment: &Arc<Environment>) {
        let name = &environment.name;
        self.drop(name);
        for claim in Claim::keys_of(environment) {
            self.claims.enter(claim, (false, (), name.clone()));
        }
        let file = file_of(environment).unwrap_or_default();
        let names = self.files.entry(file.to_owned()).or_default();
        if let Err(place) = names.binary_search(name) {
            names.reserve_exact(usize::from(names.is_empty()));
            names.insert(place, name.clone());
        }
        self.bytes += bytes(environment);
        self.accepted.insert(name.clone(), environment.clone());
    }

    pub(super) fn drop(&mut self, name: &EnvironmentName) {
        self.unnamed.remove(name);
        self.takeovers.remove(name);
        self.outdated.remove(name);
        let Some(environment) = self.accepted.remove(name) else {
            return;
        };
        self.bytes -= bytes(&environment);
        for claim in Claim::keys_of(&environment) {
            self.claims.leave(&claim, &(false, (), name.clone()));
        }
        let file = file_of(&environment).unwrap_or_default();
        if let Some(names) = self.files.get_mut(file) {
            if let Ok(place) = names.binary_search(name) {
                names.remove(place);
            }
            if names.is_empty() {
                self.files.remove(file);
            }
        }
    }

    pub(super) fn wait(&mut self, environment: &Arc<Environment>) {
        let name = &environment.name;
        for claim in Claim::keys_of(environment) {
            self.claims.enter(claim, (true, (), name.clone()));
        }
        let waiting = self.waiting.entry(name.clone()).or_default();
        waiting.push(environment.clone());
    }

    /// Takes what came of the environments that are affected in the place of what came of them
    /// before.
    pub(super) fn take(&mut self, mut part: Self, affected: Option<&Affected>) {
        let Some(Affected { names, .. }) = affected else {
            *self = part;
            return;
        };
        for name in names {
            self.drop(name);
            for environment in self.waiting.remove(name).into_iter().flatten() {
                for claim in Claim::keys_of(&environment) {
                    self.claims.leave(&claim, &(true, (), name.clone()));
                }
            }
            self.latecomers.remove(name);
            self.idle.remove(name);
        }
        part.accepted
            .values()
            .for_each(|environment| self.accept(environment));
        part.waiting
            .values()
            .flatten()
            .for_each(|environment| self.wait(environment));
        self.latecomers.append(&mut part.latecomers);
        self.idle.append(&mut part.idle);
        self.takeovers.append(&mut part.takeovers);
        self.unnamed.append(&mut part.unnamed);
        self.outdated.append(&mut part.outdated);
        self.refused
            .retain(|refusal| !names.contains(&refusal.environment));
        self.refused.append(&mut part.refused);
        self.refused.sort_by(Refusal::by_place);
    }

    /// Whether that says the same of the environments that are affected.
    pub(super) fn says(&self, part: &Self, affected: Option<&Affected>) -> bool {
        let Some(Affected { names, .. }) = affected else {
            return self.accepted == part.accepted && self.refused == part.refused;
        };
        let mut refused = self
            .refused
            .iter()
            .filter(|refusal| names.contains(&refusal.environment));
        names
            .iter()
            .all(|name| self.accepted.get(name) == part.accepted.get(name))
            && part.refused.iter().all(|refusal| refused.next() == Some(refusal))
            && refused.next().is_none()
    }

    /// Whether the outcome for those affected changes nothing for others through the quota: there
    /// is room for them and for what waits for something else, and nobody waits for the room that
    /// it leaves.
    pub(super) fn is_within(&self, part: &Self, affected: &Affected, quota: Quota) -> bool {
        let names = || affected.names.iter();
        let sum = |merged: &Self| names().filter_map(|name| merged.bytes_of(name)).sum::<usize>();
        let total = self.bytes + self.idle.values().sum::<usize>() - sum(self) + sum(part);
        let shrinks = |name| part.bytes_of(name) < self.bytes_of(name);
        let grows = |name| part.bytes_of(name) > self.bytes_of(name);
        let others = self
            .waiting
            .iter()
            .filter(|(name, _)| !affected.names.contains(*name));
        let sources: BTreeSet<_> = names().filter_map(|name| quota.source_of(name)).collect();
        let of_sources =
            |name: &EnvironmentName| quota.source_of(name).is_some_and(|it| sources.contains(&it));
        let is_rival = others.clone().any(|(name, _)| of_sources(name));
        let most = others
            .flat_map(|(_, versions)| versions)
            .map(|version| bytes(version))
            .max();
        let is_tight = || {
            let count = self.accepted.len() + self.idle.len() + affected.names.len();
            is_rival || most.is_some_and(|most| count >= quota.environments || total + most > quota.bytes)
        };
        part.refused
            .iter()
            .all(|refusal| refusal.cause != RefusalCause::Quota)
            && !(self.is_full() && names().any(shrinks))
            && !(names().any(grows) && is_tight())
    }

    /// What an environment takes of etcd, accepted or not.
    pub(super) fn bytes_of(&self, name: &EnvironmentName) -> Option<usize> {
        let accepted = self.accepted.get(name).map(|environment| bytes(environment));
        accepted.or_else(|| self.idle.get(name).copied())
    }

    /// Whether one was refused because of the quota: it waits for any that goes.
    pub(super) fn is_full(&self) -> bool {
        self.refused
            .iter()
            .any(|refusal| refusal.cause == RefusalCause::Quota)
    }
}
