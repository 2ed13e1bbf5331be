//! Which environments a change affects: those that it is about, and all that claim the same prefix
//! or header, since the one that gets it decides about the others. Merging these alone gives the
//! same as merging all.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mayfly_core::claims::Claim;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;

use super::{Merged, Refusal, RefusalCause, file_of};
use crate::actual::Actual;
use crate::changes::Changes;
use crate::desired::files::{Document, Files};
use crate::environments::EnvironmentEntry;
use crate::files_in::origin::Origin;

/// The environments that a change affects, and the files that may have them.
#[derive(Debug, Default)]
pub(super) struct Affected {
    pub(super) names: BTreeSet<EnvironmentName>,
    files: BTreeSet<String>,
}

impl Affected {
    pub(super) fn of(changes: &Changes, merged: &Merged, files: &Files, actual: &Actual) -> Self {
        let mut refused: BTreeMap<&EnvironmentName, Vec<&str>> = BTreeMap::new();
        for refusal in &merged.refused {
            let files = refused.entry(&refusal.environment).or_default();
            files.push(&refusal.file);
        }
        let found = Self {
            files: changes.files.clone(),
            ..Self::default()
        };
        let mut search = Search {
            merged,
            files,
            actual,
            refused,
            open: Vec::new(),
            found,
        };
        changes.names.iter().for_each(|name| search.add(name));
        for other in &changes.others {
            search.add(&other.name);
            search.add_claimants(other);
        }
        changes.files.iter().for_each(|file| search.add_file(file));
        search.add_failed(&changes.files);
        while let Some(name) = search.open.pop() {
            search.follow(&name);
        }
        search.found
    }
}

/// The files that may have them, or all, in the order of their names.
pub(super) fn files<'a>(
    files: &'a Files,
    affected: Option<&'a Affected>,
) -> Box<dyn Iterator<Item = (&'a str, &'a Document)> + 'a> {
    match affected {
        None => Box::new(files.iter()),
        Some(affected) => {
            let names = affected.files.iter();
            Box::new(names.filter_map(|name| Some((name.as_str(), files.get(name)?))))
        }
    }
}

/// The entries of a file for them, in its order.
pub(super) fn entries<'a>(document: &'a Document, affected: Option<&Affected>) -> Vec<&'a EnvironmentEntry> {
    match affected {
        Some(Affected { names, .. }) if names.len() < document.entries.len() => {
            let mut entries: Vec<_> = names.iter().filter_map(|name| document.entry(name)).collect();
            entries.sort_by_key(|entry| entry.marks.name);
            entries
        }
        Some(Affected { names, .. }) => {
            let entries = document.entries.iter();
            entries
                .filter(|entry| names.contains(&entry.record.name))
                .collect()
        }
        None => document.entries.iter().collect(),
    }
}

struct Search<'a> {
    merged: &'a Merged,
    files: &'a Files,
    actual: &'a Actual,
    /// The files from which environments are refused.
    refused: BTreeMap<&'a EnvironmentName, Vec<&'a str>>,
    /// Those whose rivals are not looked for yet.
    open: Vec<EnvironmentName>,
    found: Affected,
}

impl Search<'_> {
    fn add(&mut self, name: &EnvironmentName) {
        if self.found.names.insert(name.clone()) {
            self.open.push(name.clone());
        }
    }

    /// Adds the environments that a file is, was or may be about, but for those that stay as they
    /// are.
    fn add_file(&mut self, file: &str) {
        let (merged, actual) = (self.merged, self.actual);
        let document = self.files.get(file);
        let is_of_person = document.is_some_and(|document| *document.origin() == Origin::Person);
        let stays = |entry: Option<&EnvironmentEntry>| {
            entry.is_some_and(
                |EnvironmentEntry {
                     record: environment, ..
                 }| {
                    let accepted = merged.accepted.get(&environment.name);
                    is_of_person
                        && accepted.is_some_and(|accepted| Arc::ptr_eq(accepted, environment))
                        && actual.other(&environment.name).is_none()
                },
            )
        };
        for name in merged.files.get(file).into_iter().flatten() {
            if !stays(document.and_then(|document| document.entry(name))) {
                self.add(name);
            }
        }
        for entry in document.into_iter().flat_map(|document| &document.entries) {
            if !stays(Some(entry)) {
                self.add(&entry.record.name);
                self.add_claimants(&entry.record);
            }
        }
    }

    /// Adds the environments that have had no success with these files, and those that a faulty one
    /// may mean.
    fn add_failed(&mut self, files: &BTreeSet<String>) {
        let (merged, actual) = (self.merged, self.actual);
        for Refusal {
            file,
            environment,
            cause,
            ..
        } in &merged.refused
        {
            // What is accepted beside a rival of another writer may be the first of the two once it
            // is registered.
            let is_borne = || {
                let entry = self
                    .files
                    .get(file)
                    .and_then(|document| document.entry(environment));
                let accepted = merged.accepted.get(environment).zip(entry);
                *cause == RefusalCause::Rival
                    && accepted.is_some_and(|(it, entry)| Arc::ptr_eq(it, &entry.record))
            };
            if files.contains(file) || is_borne() {
                self.add(environment);
            }
        }
        let waiting = merged.waiting.values().flatten();
        let waiting = waiting.filter(|version| file_of(version).is_some_and(|file| files.contains(file)));
        waiting.for_each(|environment| self.add(&environment.name));
        let is_faulty = |file: &&str| self.files.get(file).is_some_and(|it| !it.is_faultless());
        let faulty: BTreeSet<_> = files.iter().map(String::as_str).filter(is_faulty).collect();
        if !faulty.is_empty() {
            let ours = actual.environments().keys().filter_map(|name| actual.ours(name));
            let ours = ours.filter(|ours| file_of(ours).is_some_and(|file| faulty.contains(file)));
            let unexpected = ours.filter(|ours| !merged.accepted.contains_key(&ours.name));
            unexpected.for_each(|ours| self.add(&ours.name));
        }
    }

    /// Adds the rivals of an environment, and the files that may have it.
    fn follow(&mut self, name: &EnvironmentName) {
        let (merged, files) = (self.merged, self.files);
        let registered = self.actual.environments().get(name);
        let registered = registered.and_then(|held| held.record.as_ref().ok());
        let versions = [merged.accepted.get(name), registered].into_iter().flatten();
        let mut names: BTreeSet<&str> = self.refused.get(name).into_iter().flatten().copied().collect();
        for version in versions.chain(merged.waiting.get(name).into_iter().flatten()) {
            self.add_claimants(version);
            names.extend(file_of(version));
        }
        for file in names {
            let Some(document) = files.get(file) else {
                continue;
            };
            self.found.files.insert(file.to_owned());
            if let Some(entry) = document.entry(name) {
                self.add_claimants(&entry.record);
            }
            // Whether a copy follows etcd depends on what it is a copy of.
            if matches!(document.origin(), Origin::Copy(of) if of == name) {
                for entry in &document.entries {
                    self.add(&entry.record.name);
                }
            }
        }
    }

    /// Adds all that claim what this one claims.
    fn add_claimants(&mut self, environment: &Environment) {
        let (merged, actual) = (self.merged, self.actual);
        for claim in Claim::keys_of(environment) {
            let ours = merged.claims.of(&claim).iter().map(|(_, (), name)| name);
            ours.chain(actual.others_with(&claim))
                .for_each(|name| self.add(name));
        }
    }
}
