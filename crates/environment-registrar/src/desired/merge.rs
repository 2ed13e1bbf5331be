//! All files, merged with what others have registered: which environments should be in etcd. A
//! name, prefix or header belongs to one environment only. The one that is registered keeps it;
//! among new rivals the first by [`mayfly_core::claims::rank`] gets it. Together they keep to a
//! [`Quota`].
//!
//! An environment that loses, or has a fault, keeps its last good version: that of the merge
//! before, or of etcd. One that has ended claims nothing until its file asks for something else. A
//! protected one, and one that `mayfly keep` brought back, stays although no file names it.
//!
//! A copy of what another writer has registered is no candidate. Once a person has changed it, it
//! takes over ([`crate::desired::copies`]).
//!
//! [`merge`] looks at everything or, after a change, only at what it affects ([`Affected`]). A
//! property test holds the two together.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mayfly_core::claims::{Claim, Seniority, rank};
use mayfly_core::file::Subject;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;

mod affected;
mod conflict;
mod merged;
mod outcome;
mod quota;
mod refusal;

use affected::Affected;
use conflict::Conflict;
pub use merged::Merged;
use quota::{Account, Beyond};
pub use refusal::{Refusal, RefusalCause};

use crate::actual::Actual;
use crate::changes::Changes;
use crate::desired::files::Files;
use crate::desired::{Scope, Terms, copies};
use crate::environments::EnvironmentEntry;

/// How often a merge looks again at what it has refused.
const ROUNDS: usize = 8;

/// Brings the merge of the files with what etcd holds in sync with changes; says what to plan
/// again.
pub fn merge(
    merged: &mut Merged,
    files: &Files,
    actual: &Actual,
    changes: &Changes,
    terms: Terms,
) -> Scope<EnvironmentName> {
    if !changes.all {
        let affected = Affected::of(changes, merged, files, actual);
        let is_narrow = affected.names.is_disjoint(&merged.beyond);
        if is_narrow && settle(merged, files, actual, Some(&affected), terms) {
            return Scope::Only(affected.names);
        }
    }
    settle(merged, files, actual, None, terms);
    Scope::Everything
}

/// Merges those affected, or all, until nothing changes any more: who has lost may have what
/// another writer gives up only now. Not where others are concerned, because of the quota.
fn settle(
    merged: &mut Merged,
    files: &Files,
    actual: &Actual,
    affected: Option<&Affected>,
    terms: Terms,
) -> bool {
    for round in 0..=ROUNDS {
        let part = once(merged, files, actual, affected, terms);
        if affected.is_some_and(|affected| !merged.is_within(&part, affected, terms.quota)) {
            return false;
        }
        let is_settled =
            (part.refused.is_empty() && part.idle.is_empty()) || (round > 0 && merged.says(&part, affected));
        merged.take(part, affected);
        if is_settled {
            break;
        }
    }
    true
}

fn once(
    before: &Merged,
    files: &Files,
    actual: &Actual,
    affected: Option<&Affected>,
    terms: Terms,
) -> Merged {
    let names: BTreeSet<&EnvironmentName> = match affected {
        Some(affected) => affected.names.iter().collect(),
        None => actual
            .environments()
            .keys()
            .chain(before.accepted.keys())
            .collect(),
    };
    let last_good = names.into_iter().filter_map(|name| {
        let good = last_good(name, files, actual, before, terms)?;
        Some((name.clone(), good.clone()))
    });
    let last_good = last_good.collect();
    let mut pinned = BTreeMap::new();
    loop {
        let merge = Merge {
            actual,
            before,
            terms,
            last_good: &last_good,
            pinned: &pinned,
            keepers: HashMap::new(),
            kept: BTreeSet::new(),
            account: Account::of_others(before, affected, terms.quota),
            beyond: Beyond::default(),
            merged: Merged::default(),
        };
        match merge.run(files, affected) {
            Ok(merged) => return merged,
            // A change was refused, and meanwhile another environment was given what its last good
            // version holds: that one has to yield. Each time one more environment is pinned, so
            // this ends.
            Err(refusal) => pinned.insert(refusal.environment.clone(), refusal),
        };
    }
}

/// The last good version of an environment whose file is still there, or that stays without.
fn last_good<'a>(
    name: &EnvironmentName,
    files: &Files,
    actual: &'a Actual,
    before: &'a Merged,
    terms: Terms,
) -> Option<&'a Arc<Environment>> {
    let document = |environment: &Environment| files.get(file_of(environment)?);
    let claimed = |environment: &Arc<Environment>| {
        document(environment).is_some_and(|document| document.is_about(name))
    };
    // What was accepted last can be newer than etcd, which may be out of reach.
    let versions = [actual.ours(name), before.accepted.get(name)];
    let mut versions = versions
        .into_iter()
        .flatten()
        .filter(|version| refusal::barred(version, actual, terms.now).is_none());
    // The older version counts only where its file still means it, and that of the newer one does
    // not; and where no file means it: then what is registered stays, or nothing does.
    let is_good = |older: Option<&Arc<Environment>>, version: &Arc<Environment>| {
        if claimed(version) {
            true
        } else if older.is_some_and(claimed) {
            false
        } else if stays(name, actual, before) {
            older.is_none()
        } else {
            document(version).is_some()
        }
    };
    let older = versions.next().filter(|version| is_good(None, version));
    versions
        .next()
        .filter(|version| is_good(older, version))
        .or(older)
}

/// Whether an environment stays when no file names it, unless that is forced.
fn stays(name: &EnvironmentName, actual: &Actual, before: &Merged) -> bool {
    match actual.ours(name) {
        Some(ours) => ours.protected || actual.is_revived(name),
        // What etcd has lost, rather than an operator removed, is put again.
        None => {
            let protected = |environment: &Arc<Environment>| environment.protected;
            before.unnamed.contains(name)
                && before.accepted.get(name).is_some_and(protected)
                && !actual.environments().contains_key(name)
                && actual.past(name).is_none()
        }
    }
}

/// The file that a record of ours comes from.
fn file_of(environment: &Environment) -> Option<&str> {
    environment.source.as_ref().map(|source| source.file.as_str())
}

/// Whether the file of a last good version is, or may be, about it.
fn is_named(name: &EnvironmentName, good: &Environment, files: &Files) -> bool {
    let document = file_of(good).and_then(|file| files.get(file));
    document.is_some_and(|document| document.is_about(name))
}

/// An environment of a file, in the order in which they are considered.
type RankedEntry<'a> = ((Seniority, bool, &'a str), &'a EnvironmentEntry);

struct Merge<'a> {
    actual: &'a Actual,
    before: &'a Merged,
    terms: Terms,
    last_good: &'a BTreeMap<EnvironmentName, Arc<Environment>>,
    pinned: &'a BTreeMap<EnvironmentName, Refusal>,
    /// The environments that had a prefix or header before and still claim it: no other one gets
    /// it.
    keepers: HashMap<Claim, EnvironmentName>,
    /// The environments of which an older version was accepted.
    kept: BTreeSet<EnvironmentName>,
    /// What is taken of the quota.
    account: Account<'a>,
    /// The new environments that it has no room for.
    beyond: Beyond,
    merged: Merged,
}

impl Merge<'_> {
    /// Goes through all candidates in the order of precedence; fails with the refusal of an
    /// environment whose last good version is displaced.
    fn run(mut self, files: &Files, affected: Option<&Affected>) -> Result<Merged, Refusal> {
        for (name, refusal) in self.pinned {
            self.merged.refused.push(refusal.clone());
            self.keep(name);
        }
        let mut candidates: Vec<RankedEntry<'_>> = Vec::new();
        let mut barred: BTreeMap<(&str, &EnvironmentName), (&EnvironmentEntry, RefusalCause, String)> =
            BTreeMap::new();
        for (file, document) in affected::files(files, affected) {
            if copies::follows(file, document, self.actual, &self.before.accepted) {
                continue;
            }
            for entry in affected::entries(document, affected) {
                let environment = &entry.record;
                if let Some((cause, reason)) = refusal::barred(environment, self.actual, self.terms.now) {
                    barred.insert((file, &environment.name), (entry, cause, reason));
                    continue;
                }
                if self
                    .pinned
                    .get(&environment.name)
                    .is_some_and(|refusal| refusal.file == file)
                {
                    continue;
                }
                let good = self.last_good.get(&environment.name);
                let before = good.map(|good| (file_of(good).unwrap_or_default(), &**good));
                let seniority = Seniority::of(before, file, environment);
                candidates.push((rank(seniority, environment, file), entry));
            }
        }
        candidates.sort_by_key(|(rank, _)| *rank);
        for (_, entry) in &candidates {
            let environment = &entry.record;
            let good = self.last_good.get(&environment.name);
            let had = |claim: &Claim| good.is_some_and(|good| claim.is_of(good));
            for claim in Claim::keys_of(environment).into_iter().filter(had) {
                let keeper = self.keepers.entry(claim);
                keeper.or_insert_with(|| environment.name.clone());
            }
        }
        let kept = candidates.partition_point(|((seniority, ..), _)| *seniority == Seniority::Kept);
        let (unchanged, others) = candidates.split_at(kept);
        self.open_account(files, others);
        // What stays without a file is registered, and comes first; unless another file names it:
        // then it is a candidate there.
        let unnamed: Vec<_> = self
            .last_good
            .iter()
            .filter(|(name, good)| self.may_stay(good) && !is_named(name, good, files))
            .collect();
        let (moved, left): (Vec<_>, Vec<_>) = unnamed
            .into_iter()
            .partition(|(name, _)| others.iter().any(|(_, entry)| entry.record.name == **name));
        left.into_iter().for_each(|(name, good)| self.stay(name, good));
        for ((_, _, file), entry) in unchanged {
            self.consider(file, entry)?;
        }
        for (name, good) in self.last_good {
            let file = file_of(good).unwrap_or_default();
            let Some(document) = files.get(file) else {
                continue;
            };
            let would_be_over = barred
                .get(&(file, name))
                .is_some_and(|(_, cause, _)| *cause == RefusalCause::Over);
            if would_be_over || (document.entry(name).is_none() && document.may_hold(name)) {
                self.keep(name);
            }
        }
        for ((_, _, file), entry) in others {
            self.consider(file, entry)?;
        }
        for ((file, name), (entry, cause, reason)) in barred {
            let refusal = match self.conflicts(&entry.record, Some(entry)).into_iter().next() {
                // Meanwhile the name is another file's.
                Some(conflict) if cause == RefusalCause::Ended && self.merged.accepted.contains_key(name) => {
                    Refusal::new(file, entry, RefusalCause::Rival, conflict.reason)
                }
                _ => Refusal::new(file, entry, cause, reason),
            };
            self.merged.refused.push(refusal);
        }
        for (name, good) in moved {
            if !self.merged.accepted.contains_key(name) {
                self.stay(name, good);
            }
        }
        self.merged.beyond.extend(self.beyond.names.iter().cloned());
        self.merged
            .refused
            .extend(std::mem::take(&mut self.beyond).refusals());
        self.merged.refused.sort_by(Refusal::by_place);
        let rivals = self.merged.refused.iter();
        let rivals = rivals.filter(|refusal| refusal.cause == RefusalCause::Rival);
        let waiting: Vec<_> = rivals
            .filter_map(|refusal| files.get(&refusal.file)?.entry(&refusal.environment))
            .collect();
        waiting.iter().for_each(|entry| self.merged.wait(&entry.record));
        let Merged { idle, accepted, .. } = &mut self.merged;
        idle.retain(|name, _| !accepted.contains_key(name));
        self.merged.outdated = self.outdated(files);

        Ok(self.merged)
    }

    /// Why the newest versions of the environments that were kept are refused.
    fn outdated(&self, files: &Files) -> BTreeMap<EnvironmentName, String> {
        let refused = self.merged.refused.iter();
        let refused: HashMap<_, _> = refused
            .map(|refusal| ((refusal.file.as_str(), &refusal.environment), refusal))
            .collect();
        let why = |name: &EnvironmentName| {
            let accepted = self.merged.accepted.get(name)?;
            let file = file_of(self.last_good.get(name)?)?;
            let document = files.get(file)?;
            let is_newest = |entry: &EnvironmentEntry| entry.record == *accepted;
            if self.merged.unnamed.contains(name) || document.entry(name).is_some_and(is_newest) {
                return None;
            }
            if let Some(refusal) = refused.get(&(file, name)) {
                return Some(refusal.of_version());
            }
            let of = |subject: Option<&Subject>| {
                let mut faults = document.faults().iter();
                faults.find(|fault| fault.subject.as_ref() == subject)
            };
            match of(Some(&Subject::Environment(name.clone()))).or_else(|| of(None)) {
                Some(fault) => Some(refusal::of_version(file, fault)),
                // The file is not read yet: what was known of it before still holds.
                None => self.actual.life(name)?.refused.clone(),
            }
        };
        let kept = self.kept.iter();
        kept.filter_map(|name| Some((name.clone(), why(name)?))).collect()
    }

    /// Accepts the last good version of an environment, unless its keys are given away; then the
    /// one that is registered.
    fn keep(&mut self, name: &EnvironmentName) -> bool {
        let Some(good) = self.last_good.get(name) else {
            return false;
        };
        let registered = self.actual.ours(name);
        let registered =
            registered.filter(|registered| file_of(registered) == file_of(good) || self.may_stay(registered));
        let is_free = |version: &&Arc<Environment>| {
            let conflicts = self.conflicts(version, None);
            conflicts.iter().all(|conflict| conflict.foreign)
        };
        let versions = [Some(good), registered];
        let Some(version) = versions.into_iter().flatten().find(is_free) else {
            // Now it waits for what it had.
            versions
                .into_iter()
                .flatten()
                .for_each(|version| self.merged.wait(version));
            return false;
        };
        if self.actual.other(name).is_none() {
            self.merged.accept(version);
            self.kept.insert(name.clone());
        }
        true
    }

    /// Whether an environment may stay although no file names it.
    fn may_stay(&self, good: &Environment) -> bool {
        let forced = self.terms.force && good.protected && !self.actual.is_revived(&good.name);
        !forced && stays(&good.name, self.actual, self.before)
    }

    /// Lets an environment stay that no file names.
    fn stay(&mut self, name: &EnvironmentName, good: &Environment) {
        if self.keep(name) {
            self.merged.unnamed.insert(name.clone());
        } else if self.actual.ours(name).is_none() {
            return;
        }
        let refusal = Refusal::of_unnamed(name, file_of(good).unwrap_or_default(), good.protected);
        self.merged.refused.push(refusal);
    }

    fn consider(&mut self, file: &str, entry: &EnvironmentEntry) -> Result<(), Refusal> {
        let environment = &entry.record;
        let good = self.registered(&environment.name).cloned();
        // Before anything else: what others claim meanwhile makes no difference to one that has no
        // room.
        if !self.merged.accepted.contains_key(&environment.name) {
            if let Err(reason) = self.account.room_for(environment, good.as_deref()) {
                return self.leave_out(file, entry, reason);
            }
        }
        let refusal = |conflict: Conflict| Refusal {
            file: file.to_owned(),
            environment: environment.name.clone(),
            mark: Some(conflict.mark),
            cause: RefusalCause::Rival,
            reason: conflict.reason,
        };
        let own = self
            .last_good
            .get(&environment.name)
            .filter(|good| file_of(good) == Some(file));
        let registered = own.is_some_and(|good| same_keys(good, environment));
        let conflicts = self.conflicts(environment, Some(entry));
        let taken = self.actual.other(&environment.name).is_some();
        // A registered one stays, even if another writer claims the same. What a latecomer claims
        // is only told, at the latecomer; it is in nobody's way, whatever else changes.
        let (late, conflicts): (Vec<_>, Vec<_>) = conflicts
            .into_iter()
            .partition(|conflict| conflict.latecomer.is_some());
        for conflict in late {
            if let Some(latecomer) = conflict.latecomer {
                self.merged.latecomers.insert(latecomer, conflict.reason);
            }
        }
        let bearable = registered && !taken && conflicts.iter().all(|conflict| conflict.foreign);
        if conflicts.is_empty() || bearable {
            self.account.take(environment, good.as_deref());
            self.merged.refused.extend(conflicts.into_iter().map(refusal));
            self.merged.accept(environment);
            if taken {
                self.merged.takeovers.insert(environment.name.clone());
            }
            return Ok(());
        }
        let Some(refusal) = conflicts.into_iter().next().map(refusal) else {
            return Ok(());
        };
        if own.is_some() && !self.keep(&environment.name) && !registered {
            return Err(refusal);
        }
        self.merged.refused.push(refusal);
        Ok(())
    }
}

fn same_keys(a: &Environment, b: &Environment) -> bool {
    Claim::keys_of(a).iter().all(|claim| claim.is_of(b))
}

#[cfg(test)]
mod tests;
