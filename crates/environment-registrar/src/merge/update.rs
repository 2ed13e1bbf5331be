//! The short way: a change that touches no rival is taken into a merge at a cost that follows the change.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;

use super::quota::{Quota, bytes};
use super::refusal::barred;
use super::{Merged, Terms, file_of, stays};
use crate::library::{Entry, Library};
use crate::mirror::{Mirror, News};
use crate::write_back;

/// What has changed since the last merge.
#[derive(Debug, Default)]
pub struct Changes {
    /// Whether everything may have.
    pub all: bool,
    /// The files that have.
    pub files: BTreeSet<String>,
    /// What is new in etcd.
    pub names: BTreeSet<EnvironmentName>,
    /// The records of others in etcd that came or went.
    pub others: Vec<Arc<Environment>>,
}

impl Changes {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        !self.all && self.files.is_empty() && self.names.is_empty()
    }

    /// Adds what is new in etcd.
    pub fn add(&mut self, news: News) {
        self.all |= news.all;
        self.names.extend(news.names);
        self.others.extend(news.others);
    }
}

/// Takes changes into a merge, if they touch no rival; gives the environments to plan anew. `None` when only
/// [`super::merge`] can say what comes of them; nothing is taken then.
pub fn update(
    merged: &mut Merged,
    library: &Library,
    mirror: &Mirror,
    changes: &Changes,
    terms: Terms,
) -> Option<BTreeSet<EnvironmentName>> {
    let is_rival = |other: &Arc<Environment>| {
        merged.accepted.contains_key(&other.name) || merged.has_keys_of(other) || merged.wants(other)
    };
    if changes.all || changes.others.iter().any(is_rival) {
        return None;
    }
    let mut affected = BTreeSet::new();
    for name in &changes.names {
        let others = mirror.other(name).is_some();
        if merged.wanted.contains(name.as_str()) {
            return None;
        }
        if !others && !merged.accepted.contains_key(name) && mirror.ours(name).is_some() {
            // A record of ours that is not expected: it may be the last good version of something.
            return None;
        }
        if merged.accepted.get(name).is_some_and(|accepted| {
            let document = file_of(accepted).and_then(|file| library.get(file));
            let entry = document.and_then(|document| document.entry(name));
            // It has ended, or it is the last good version of something, which may have.
            entry.is_none_or(|entry| barred(&entry.environment, mirror, terms.now).is_some())
        }) {
            return None;
        }
        affected.insert(name.clone());
    }
    let mut entries: Vec<&Entry> = Vec::new();
    for file in &changes.files {
        if let Some(document) = library.get(file) {
            if !write_back::follows(file, document, mirror, &merged.accepted) {
                if !document.is_faultless() {
                    return None;
                }
                entries.extend(&document.entries);
            }
        }
        affected.extend(merged.files.get(file).into_iter().flatten().cloned());
    }
    if merged
        .refused
        .iter()
        .any(|refusal| changes.files.contains(&refusal.file))
    {
        return None;
    }
    let (mut prefixes, mut headers) = (HashSet::new(), HashSet::new());
    let mut stated = HashSet::new();
    for entry in &entries {
        let Environment {
            name, prefix, header, ..
        } = &*entry.environment;
        let own_file = file_of(&entry.environment);
        let free = |holder: Option<&EnvironmentName>| holder.is_none_or(|holder| holder == name);
        let alone = mirror.other(name).is_none()
            && merged
                .accepted
                .get(name)
                .is_none_or(|accepted| file_of(accepted) == own_file)
            && free(merged.prefixes.get(prefix))
            && free(merged.headers.get(header))
            && mirror.others_with_prefix(prefix).next().is_none()
            && mirror.others_with_header(header).next().is_none()
            && !merged.wants(&entry.environment)
            && barred(&entry.environment, mirror, terms.now).is_none();
        if !(alone && stated.insert(name) && prefixes.insert(prefix) && headers.insert(header)) {
            return None;
        }
    }
    // What is given up may be what somebody waits for, what stays without a file, or what another file may be about.
    let given_up = |environment: &Arc<Environment>| {
        let name = &environment.name;
        let document = || library.get(file_of(mirror.ours(name)?)?);
        let stays =
            || stays(name, mirror, merged) || document().is_some_and(|document| document.is_about(name));
        merged.wants(environment) || (!stated.contains(name) && stays())
    };
    if changes
        .files
        .iter()
        .filter_map(|file| merged.files.get(file))
        .flatten()
        .any(|name| given_up(&merged.accepted[name]))
    {
        return None;
    }

    let going = changes
        .files
        .iter()
        .filter_map(|file| merged.files.get(file))
        .flatten();
    let going: Vec<_> = going.filter(|name| !stated.contains(name)).collect();
    if !fits(merged, &entries, &going, terms.quota) {
        return None;
    }

    for file in &changes.files {
        for name in merged.files.get(file).cloned().unwrap_or_default() {
            if !stated.contains(&name) {
                merged.drop(&name);
            }
        }
    }
    for entry in entries {
        affected.insert(entry.environment.name.clone());
        merged.accept(&entry.environment);
    }
    Some(affected)
}

/// Whether the quota has room for these entries once others go, with nobody waiting for that room.
fn fits(merged: &Merged, entries: &[&Entry], going: &[&EnvironmentName], quota: Quota) -> bool {
    let accepted = |name: &EnvironmentName| merged.accepted.get(name).map(|it| bytes(it));
    let (mut environments, mut total) = (merged.accepted.len() - going.len(), merged.bytes);
    total -= going.iter().filter_map(|name| accepted(name)).sum::<usize>();
    let (mut grows, mut shrinks) = (false, !going.is_empty());
    for entry in entries {
        let (had, needed) = (accepted(&entry.environment.name), bytes(&entry.environment));
        environments += usize::from(had.is_none());
        total = total - had.unwrap_or_default() + needed;
        grows |= Some(needed) > had;
        shrinks |= Some(needed) < had;
    }
    let has_room = environments <= quota.environments && total <= quota.bytes;
    (!grows || has_room) && (!shrinks || !merged.is_full)
}
