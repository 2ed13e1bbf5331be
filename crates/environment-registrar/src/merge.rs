//! All files together, and what others have registered: which environments are to be in etcd. A name, prefix or header
//! belongs to one environment only; who is registered keeps it, and of new rivals the first by
//! [`mayfly_core::claims::precedence`] gets it. Together they keep to a [`Quota`].
//!
//! An environment that loses, or has a fault, keeps its last good version: the one of the merge before, or of etcd. One
//! that has ended is no candidate and claims nothing, until its file asks for something else. A protected one, and one that
//! `mayfly keep` brought back, stays although no file names it.
//!
//! A copy of what somebody else has registered is no candidate; once a person has changed it, it takes that over
//! ([`crate::write_back`]).
//!
//! [`update`] takes a change that touches no rival, at a cost that follows the change; anything else goes through
//! [`merge`], which looks at everything. A property test holds the two together.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::SystemTime;

use mayfly_core::claims::precedence;
use mayfly_core::file::Subject;
use mayfly_core::names::{DnsPrefix, EnvironmentName, HeaderValue};
use mayfly_core::records::Environment;
use mayfly_core::yaml::Mark;

mod quota;
mod refusal;
mod update;

pub use quota::Quota;
use quota::{Account, Beyond, bytes};
pub use refusal::{Cause, Refusal};
pub use update::{Changes, update};

use crate::library::{Entry, Library};
use crate::mirror::Mirror;
use crate::write_back;

/// What a merge and a plan depend on besides files and etcd.
#[derive(Debug, Clone, Copy)]
pub struct Terms {
    /// The time of the clock.
    pub now: SystemTime,
    /// Whether a protected environment is deleted when no file names it.
    pub force: bool,
    /// How much the accepted environments may take of etcd.
    pub quota: Quota,
}

/// How often a merge looks again at what it has refused.
const ROUNDS: usize = 8;

/// The outcome of a merge.
#[derive(Debug, Clone, Default)]
pub struct Merged {
    /// What is to be in etcd, by name.
    pub accepted: BTreeMap<EnvironmentName, Arc<Environment>>,
    /// What is not, although a file says it, and why; in the order of the files.
    pub refused: Vec<Refusal>,
    /// Whose each accepted prefix and header is.
    prefixes: HashMap<DnsPrefix, EnvironmentName>,
    headers: HashMap<HeaderValue, EnvironmentName>,
    /// The accepted environments by file, in the order of their names. Most files have one, for which a set would be large.
    files: HashMap<String, Vec<EnvironmentName>>,
    /// The accepted environments that somebody else has registered, and that are taken over.
    takeovers: BTreeSet<EnvironmentName>,
    /// The accepted environments that no file names.
    unnamed: BTreeSet<EnvironmentName>,
    /// Why the newest version of an accepted environment is refused, where its last good one stays.
    outdated: BTreeMap<EnvironmentName, String>,
    /// Every name, prefix and header that a refused environment wants.
    wanted: HashSet<String>,
    /// What the accepted environments take of etcd, in bytes.
    bytes: usize,
    /// Whether one was refused because of the quota: it waits for any that goes.
    is_full: bool,
}

impl Merged {
    /// Whether an accepted environment stays although no file names it.
    pub fn is_unnamed(&self, name: &EnvironmentName) -> bool {
        self.unnamed.contains(name)
    }

    /// Why the newest version of an accepted environment is refused, if that is not what is accepted.
    pub fn outdated(&self, name: &EnvironmentName) -> Option<&String> {
        self.outdated.get(name)
    }

    /// The accepted environments that are taken over from somebody else: a person has changed the copy that
    /// `--write-back` made.
    pub fn takeovers(&self) -> &BTreeSet<EnvironmentName> {
        &self.takeovers
    }

    /// The accepted environments that have the prefix or header of this one.
    pub fn holders<'a>(&'a self, environment: &Environment) -> impl Iterator<Item = &'a EnvironmentName> {
        let prefix = self.prefixes.get(&environment.prefix);
        prefix.into_iter().chain(self.headers.get(&environment.header))
    }

    /// Whether an accepted environment has this prefix or header.
    pub fn has_keys_of(&self, environment: &Environment) -> bool {
        self.prefixes.contains_key(&environment.prefix) || self.headers.contains_key(&environment.header)
    }

    pub(crate) fn accept(&mut self, environment: &Arc<Environment>) {
        let name = &environment.name;
        self.drop(name);
        self.prefixes.insert(environment.prefix.clone(), name.clone());
        self.headers.insert(environment.header.clone(), name.clone());
        let file = file_of(environment).unwrap_or_default();
        let names = self.files.entry(file.to_owned()).or_default();
        if let Err(place) = names.binary_search(name) {
            names.reserve_exact(usize::from(names.is_empty()));
            names.insert(place, name.clone());
        }
        self.bytes += bytes(environment);
        self.accepted.insert(name.clone(), environment.clone());
    }

    fn drop(&mut self, name: &EnvironmentName) {
        self.unnamed.remove(name);
        self.takeovers.remove(name);
        self.outdated.remove(name);
        let Some(environment) = self.accepted.remove(name) else {
            return;
        };
        self.bytes -= bytes(&environment);
        // The key may belong to its successor already.
        if self.prefixes.get(&environment.prefix) == Some(name) {
            self.prefixes.remove(&environment.prefix);
        }
        if self.headers.get(&environment.header) == Some(name) {
            self.headers.remove(&environment.header);
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

    fn wants(&self, environment: &Environment) -> bool {
        let keys = [
            environment.name.as_str(),
            environment.prefix.as_str(),
            environment.header.as_str(),
        ];
        keys.iter().any(|key| self.wanted.contains(*key))
    }
}

/// Merges the library with what etcd holds; `before` is the outcome of the last merge.
pub fn merge(library: &Library, mirror: &Mirror, before: &Merged, terms: Terms) -> Merged {
    let mut merged = once(library, mirror, before, terms);
    // Who has lost may have what somebody else gives up only now.
    for _ in 0..ROUNDS {
        if merged.refused.is_empty() {
            break;
        }
        let next = once(library, mirror, &merged, terms);
        let is_settled = next.accepted == merged.accepted && next.refused == merged.refused;
        merged = next;
        if is_settled {
            break;
        }
    }
    merged
}

fn once(library: &Library, mirror: &Mirror, before: &Merged, terms: Terms) -> Merged {
    let last_good = last_good(library, mirror, before, terms);
    let mut pinned = BTreeMap::new();
    loop {
        let merge = Merge {
            mirror,
            before,
            terms,
            last_good: &last_good,
            pinned: &pinned,
            kept: BTreeSet::new(),
            account: Account::new(terms.quota),
            beyond: Beyond::default(),
            merged: Merged::default(),
        };
        match merge.run(library) {
            Ok(merged) => return merged,
            // A change was refused, and meanwhile another environment was given what its last good version holds: that
            // one has to yield. Each time one more environment is pinned, so this ends.
            Err(refusal) => pinned.insert(refusal.environment.clone(), refusal),
        };
    }
}

/// The last good version of each environment, by name: of those whose file is still there, and of those that stay without.
fn last_good(
    library: &Library,
    mirror: &Mirror,
    before: &Merged,
    terms: Terms,
) -> BTreeMap<EnvironmentName, Arc<Environment>> {
    let mut last_good: BTreeMap<EnvironmentName, Arc<Environment>> = BTreeMap::new();
    let registered = mirror.environments().keys().filter_map(|name| mirror.ours(name));
    // What was accepted last can be newer than etcd, which may be out of reach.
    for environment in registered.chain(before.accepted.values()) {
        if refusal::barred(environment, mirror, terms.now).is_some() {
            continue;
        }
        let document = |environment: &Environment| library.get(file_of(environment)?);
        let claimed = |environment: &Environment| {
            document(environment).is_some_and(|it| it.is_about(&environment.name))
        };
        let older = last_good.get(&environment.name);
        // The older version counts only where its file still means it, and that of the newer one does not; and where no
        // file means it: then what is registered stays, or nothing does.
        let is_newer = if claimed(environment) {
            true
        } else if older.is_some_and(|older| claimed(older)) {
            false
        } else if stays(&environment.name, mirror, before) {
            older.is_none()
        } else {
            document(environment).is_some()
        };
        if is_newer {
            last_good.insert(environment.name.clone(), environment.clone());
        }
    }
    last_good
}

/// Whether an environment stays when no file names it, unless that is forced.
fn stays(name: &EnvironmentName, mirror: &Mirror, before: &Merged) -> bool {
    match mirror.ours(name) {
        Some(ours) => ours.protected || mirror.is_revived(name),
        // What etcd has lost, rather than somebody removed, is put again.
        None => {
            let protected = |environment: &Arc<Environment>| environment.protected;
            before.unnamed.contains(name)
                && before.accepted.get(name).is_some_and(protected)
                && !mirror.environments().contains_key(name)
                && mirror.past(name).is_none()
        }
    }
}

/// The file that a record of ours comes from.
fn file_of(environment: &Environment) -> Option<&str> {
    environment.source.as_ref().map(|source| source.file.as_str())
}

/// Whether the file of a last good version is, or may be, about it.
fn is_named(name: &EnvironmentName, good: &Environment, library: &Library) -> bool {
    let document = file_of(good).and_then(|file| library.get(file));
    document.is_some_and(|document| document.is_about(name))
}

/// Why a candidate can't be accepted.
struct Conflict {
    mark: Mark,
    reason: String,
    /// Whether the rival is somebody else's, rather than of our own files.
    foreign: bool,
}

struct Merge<'a> {
    mirror: &'a Mirror,
    before: &'a Merged,
    terms: Terms,
    last_good: &'a BTreeMap<EnvironmentName, Arc<Environment>>,
    pinned: &'a BTreeMap<EnvironmentName, Refusal>,
    /// The environments of which an older version was accepted.
    kept: BTreeSet<EnvironmentName>,
    /// What is taken of the quota.
    account: Account,
    /// The new environments that it has no room for.
    beyond: Beyond,
    merged: Merged,
}

impl Merge<'_> {
    /// Goes through all candidates in the order of precedence; fails with the refusal of an environment whose last good
    /// version is displaced.
    fn run(mut self, library: &Library) -> Result<Merged, Refusal> {
        for (name, refusal) in self.pinned {
            self.merged.refused.push(refusal.clone());
            self.keep(name);
        }
        // What stays as it is, what is registered and changes, what moves from another file, what is new.
        let mut tiers: [Vec<(&str, &Entry)>; 4] = Default::default();
        let mut barred: BTreeMap<(&str, &EnvironmentName), (&Entry, Cause, String)> = BTreeMap::new();
        for (file, document) in library.files() {
            if write_back::follows(file, document, self.mirror, &self.before.accepted) {
                continue;
            }
            for entry in &document.entries {
                let environment = &entry.environment;
                if let Some((cause, reason)) = refusal::barred(environment, self.mirror, self.terms.now) {
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
                let tier = match self.last_good.get(&environment.name) {
                    None => 3,
                    Some(good) if file_of(good) != Some(file) => 2,
                    Some(good) if same_keys(good, environment) => 0,
                    Some(_) => 1,
                };
                tiers[tier].push((file, entry));
            }
        }
        tiers[3].sort_by_key(|(file, entry)| precedence(&entry.environment, file));
        let [unchanged, others @ ..] = tiers;
        self.open_account(library, &others);
        // What stays without a file is registered, and comes first; unless another file names it: then it is a candidate
        // there.
        let unnamed: Vec<_> = self
            .last_good
            .iter()
            .filter(|(name, good)| self.may_stay(good) && !is_named(name, good, library))
            .collect();
        let (moved, left): (Vec<_>, Vec<_>) = unnamed.into_iter().partition(|(name, _)| {
            let candidates = others.iter().flatten();
            candidates
                .clone()
                .any(|(_, entry)| entry.environment.name == **name)
        });
        left.into_iter().for_each(|(name, good)| self.stay(name, good));
        for (file, entry) in unchanged {
            self.consider(file, entry)?;
        }
        for (name, good) in self.last_good {
            let file = file_of(good).unwrap_or_default();
            let Some(document) = library.get(file) else {
                continue;
            };
            let would_be_over = barred
                .get(&(file, name))
                .is_some_and(|(_, cause, _)| *cause == Cause::Over);
            if would_be_over || (document.entry(name).is_none() && document.may_hold(name)) {
                self.keep(name);
            }
        }
        for (file, entry) in others.into_iter().flatten() {
            self.consider(file, entry)?;
        }
        for ((file, name), (entry, cause, reason)) in barred {
            let refusal = match self.conflicts(&entry.environment, Some(entry)).into_iter().next() {
                // Meanwhile the name is another file's.
                Some(conflict) if cause == Cause::Ended && self.merged.accepted.contains_key(name) => {
                    Refusal::new(file, entry, Cause::Rival, conflict.reason)
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
        let names = self.beyond.names.iter().map(ToString::to_string);
        self.merged.wanted.extend(names);
        self.merged
            .refused
            .extend(std::mem::take(&mut self.beyond).refusals());
        self.merged.is_full = self
            .merged
            .refused
            .iter()
            .any(|refusal| refusal.cause == Cause::Quota);
        self.merged
            .refused
            .sort_by(|a, b| (&a.file, a.mark).cmp(&(&b.file, b.mark)));
        for refusal in &self.merged.refused {
            if refusal.cause != Cause::Rival {
                // It waits for nobody, but for news of itself.
                self.merged.wanted.insert(refusal.environment.to_string());
                continue;
            }
            let document = library.get(&refusal.file);
            if let Some(entry) = document.and_then(|document| document.entry(&refusal.environment)) {
                let Environment {
                    name, prefix, header, ..
                } = &*entry.environment;
                self.merged
                    .wanted
                    .extend([name.to_string(), prefix.to_string(), header.to_string()]);
            }
        }
        self.merged.outdated = self.outdated(library);

        Ok(self.merged)
    }

    /// Why the newest versions of the environments that were kept are refused.
    fn outdated(&self, library: &Library) -> BTreeMap<EnvironmentName, String> {
        let refused = self.merged.refused.iter();
        let refused: HashMap<_, _> = refused
            .map(|refusal| ((refusal.file.as_str(), &refusal.environment), refusal))
            .collect();
        let why = |name: &EnvironmentName| {
            let accepted = self.merged.accepted.get(name)?;
            let file = file_of(self.last_good.get(name)?)?;
            let document = library.get(file)?;
            let is_newest = |entry: &Entry| entry.environment == *accepted;
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
                None => self.mirror.life(name)?.refused.clone(),
            }
        };
        let kept = self.kept.iter();
        kept.filter_map(|name| Some((name.clone(), why(name)?))).collect()
    }

    /// Accepts the last good version of an environment, unless its keys are given away; then the one that is registered.
    fn keep(&mut self, name: &EnvironmentName) -> bool {
        let Some(good) = self.last_good.get(name) else {
            return false;
        };
        let registered = self.mirror.ours(name);
        let registered =
            registered.filter(|registered| file_of(registered) == file_of(good) || self.may_stay(registered));
        let is_free = |version: &&Arc<Environment>| {
            let conflicts = self.conflicts(version, None);
            conflicts.iter().all(|conflict| conflict.foreign)
        };
        let versions = [Some(good), registered];
        let Some(version) = versions.into_iter().flatten().find(is_free) else {
            // Now it waits for what it had.
            for version in versions.into_iter().flatten() {
                let keys = [version.prefix.to_string(), version.header.to_string()];
                self.merged.wanted.extend(keys);
            }
            return false;
        };
        if self.mirror.other(name).is_none() {
            self.merged.accept(version);
            self.kept.insert(name.clone());
        }
        true
    }

    /// Whether an environment may stay although no file names it.
    fn may_stay(&self, good: &Environment) -> bool {
        let forced = self.terms.force && good.protected && !self.mirror.is_revived(&good.name);
        !forced && stays(&good.name, self.mirror, self.before)
    }

    /// Lets an environment stay that no file names.
    fn stay(&mut self, name: &EnvironmentName, good: &Environment) {
        if self.keep(name) {
            self.merged.unnamed.insert(name.clone());
        } else if self.mirror.ours(name).is_none() {
            return;
        }
        let refusal = Refusal::of_unnamed(name, file_of(good).unwrap_or_default(), good.protected);
        self.merged.refused.push(refusal);
    }

    fn consider(&mut self, file: &str, entry: &Entry) -> Result<(), Refusal> {
        let environment = &entry.environment;
        let good = self.registered(&environment.name).cloned();
        // Before anything else: what others claim meanwhile makes no difference to one that has no room.
        if !self.merged.accepted.contains_key(&environment.name) {
            if let Err(reason) = self.account.room_for(environment, good.as_deref()) {
                return self.leave_out(file, entry, reason);
            }
        }
        let refusal = |conflict: Conflict| Refusal {
            file: file.to_owned(),
            environment: environment.name.clone(),
            mark: Some(conflict.mark),
            cause: Cause::Rival,
            reason: conflict.reason,
        };
        let own = self
            .last_good
            .get(&environment.name)
            .filter(|good| file_of(good) == Some(file));
        let registered = own.is_some_and(|good| same_keys(good, environment));
        let conflicts = self.conflicts(environment, Some(entry));
        let taken = self.mirror.other(&environment.name).is_some();
        // Who is registered stays, even if somebody else has claimed the same since: that is only told.
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

    fn conflicts(&self, environment: &Environment, entry: Option<&Entry>) -> Vec<Conflict> {
        let mut conflicts = Vec::new();
        let name = &environment.name;
        let mark = |of: fn(&Entry) -> Mark| entry.map_or(Mark::START, of);
        let at_name = mark(|entry| entry.name);
        let takes_over = entry.is_some_and(|entry| write_back::takes_over(entry, self.mirror));
        if let Some(owner) = self.mirror.other(name).filter(|_| !takes_over) {
            let reason = format!("environment {name} is registered by {owner}: give this one another name");
            conflicts.push(Conflict {
                mark: at_name,
                reason,
                foreign: true,
            });
            return conflicts;
        }
        if let Some(rival) = self.merged.accepted.get(name) {
            let file = file_of(rival).unwrap_or_default();
            let reason = format!("environment {name} is registered from {file}: give this one another name");
            conflicts.push(Conflict {
                mark: at_name,
                reason,
                foreign: false,
            });
            return conflicts;
        }
        let mut claim = |mark, what: String, rival: &EnvironmentName, foreign: bool| {
            let place = if foreign {
                self.mirror.other(rival).unwrap_or_default()
            } else {
                self.merged
                    .accepted
                    .get(rival)
                    .and_then(|rival| file_of(rival))
                    .unwrap_or_default()
            };
            let reason = format!("{what} is taken by environment {rival} of {place}: choose another one");
            conflicts.push(Conflict {
                mark,
                reason,
                foreign,
            });
        };
        let (prefix, header) = (&environment.prefix, &environment.header);
        let at_prefix = mark(|entry| entry.prefix);
        if let Some(rival) = self.merged.prefixes.get(prefix) {
            claim(at_prefix, format!("prefix {prefix}"), rival, false);
        }
        let rivals = |rival: &&EnvironmentName| *rival != name;
        for rival in self.mirror.others_with_prefix(prefix).filter(rivals) {
            claim(at_prefix, format!("prefix {prefix}"), rival, true);
        }
        let at_header = mark(|entry| entry.header);
        if let Some(rival) = self.merged.headers.get(header) {
            claim(at_header, format!("header {header}"), rival, false);
        }
        for rival in self.mirror.others_with_header(header).filter(rivals) {
            claim(at_header, format!("header {header}"), rival, true);
        }
        conflicts
    }
}

fn same_keys(a: &Environment, b: &Environment) -> bool {
    a.prefix == b.prefix && a.header == b.header
}

#[cfg(test)]
mod tests;
