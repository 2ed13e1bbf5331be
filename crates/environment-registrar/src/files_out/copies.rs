//! Copies of environments that were registered elsewhere, so that the directory shows all that etcd
//! has: which files are such copies ([`crate::files_in::origin`]), and what to do about each. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mayfly_core::environment_file::{parse, to_yaml};
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;

use crate::actual::{Actual, Owner};
use crate::desired::copies::follows;
use crate::desired::files::Files;
use crate::files_in::origin::{Origin, home, marked};

/// The content of the copy of an environment: the same on every node.
///
/// # Errors
/// With the reason, when no file can say what the record says: it was written by hand.
pub fn copy(environment: &Environment) -> Result<Vec<u8>, String> {
    let rest = to_yaml(environment);
    let parsed = parse(rest.as_bytes());
    if let Some(fault) = parsed.faults.first() {
        return Err(format!("an environment file cannot express it: {fault}"));
    }
    let [found] = parsed.entries.as_slice() else {
        return Err("it is too long for an environment file".to_owned());
    };
    if !found.environment.asks_for_the_same(environment) {
        return Err("an environment file cannot express it".to_owned());
    }
    let name = &environment.name;
    Ok(marked(name, &rest).into_bytes())
}

/// What etcd has of an environment.
enum InEtcd<'a> {
    Elsewhere(&'a Arc<Environment>),
    Ours,
    /// It has ended, or was deleted.
    Nothing,
    /// Nothing, since etcd lost its data.
    Lost,
    Unreadable,
}

/// What stands in the place of a copy.
enum OnDisk<'a> {
    Nothing,
    Copy(&'a Environment),
    /// A file of a person that is about the environment.
    About,
    /// A file of a person that is about something else.
    Other,
}

/// What to do about the copies of all environments, and what prevents it, by file.
#[derive(Debug, Default)]
pub struct Copies {
    /// The records of which a copy is to be written.
    pub writes: Vec<Arc<Environment>>,
    /// The environments whose copies are to be deleted.
    pub deletes: Vec<EnvironmentName>,
    /// What to report, by file.
    pub reports: BTreeMap<String, String>,
}

pub fn plan(
    files: &Files,
    actual: &Actual,
    accepted: &BTreeMap<EnvironmentName, Arc<Environment>>,
) -> Copies {
    let mut copies = Copies::default();
    let (mut names, mut stated) = (BTreeSet::new(), BTreeSet::new());
    for (file, document) in files.iter() {
        if follows(file, document, actual, accepted) {
            if let Origin::Copy(name) = document.origin() {
                if home(name) == file {
                    names.insert(name);
                } else {
                    copies.reports.insert(file.to_owned(), stray(name));
                }
            }
        } else {
            stated.extend(document.entries.iter().map(|entry| &entry.record.name));
        }
    }
    names.extend(actual.environments().keys());
    for name in names {
        let etcd = match actual.environments().get(name) {
            None if actual.is_lost(name) => InEtcd::Lost,
            None => InEtcd::Nothing,
            Some(held) => match (&held.owner, &held.record) {
                (Owner::Other(_), Ok(record)) => InEtcd::Elsewhere(record),
                (Owner::Us, _) => InEtcd::Ours,
                _ => InEtcd::Unreadable,
            },
        };
        let home = home(name);
        let disk = match files.get(&home) {
            None => OnDisk::Nothing,
            Some(document) if follows(&home, document, actual, accepted) => match document.entry(name) {
                Some(entry) => OnDisk::Copy(&entry.record),
                None => OnDisk::About,
            },
            Some(document) if document.is_about(name) || *document.origin() != Origin::Person => {
                OnDisk::About
            }
            Some(_) => OnDisk::Other,
        };
        match (etcd, disk) {
            // Another file is about it: a copy would only say it twice.
            (InEtcd::Elsewhere(_), OnDisk::Nothing | OnDisk::Other) if stated.contains(name) => {}
            (InEtcd::Elsewhere(record), OnDisk::Copy(copy)) if copy.asks_for_the_same(record) => {}
            (InEtcd::Elsewhere(record), OnDisk::Nothing | OnDisk::Copy(_)) => match copy(record) {
                Ok(_) => copies.writes.push(record.clone()),
                Err(reason) => {
                    let reason = format!("environment {name} of etcd is not written back: {reason}");
                    copies.reports.insert(home, reason);
                }
            },
            (InEtcd::Elsewhere(_), OnDisk::Other) => {
                let reason = format!(
                    "environment {name} of etcd is not written back: this file has the name of its \
                     copy, but describes something else; rename this file"
                );
                copies.reports.insert(home, reason);
            }
            (InEtcd::Ours | InEtcd::Nothing, OnDisk::Copy(_)) => copies.deletes.push(name.clone()),
            (InEtcd::Lost, OnDisk::Copy(_)) => {
                let reason = format!(
                    "etcd lost its data, and environment {name} with it; this copy is not deleted: \
                     change the copy to register the environment again, or delete it"
                );
                copies.reports.insert(home, reason);
            }
            // What a person's file says about it is the merge's business.
            (InEtcd::Elsewhere(_), OnDisk::About)
            | (
                InEtcd::Ours | InEtcd::Nothing | InEtcd::Lost,
                OnDisk::Nothing | OnDisk::About | OnDisk::Other,
            )
            | (InEtcd::Unreadable, _) => {}
        }
    }
    copies
}

/// What to tell of copies while nothing is written back.
pub fn left_over(
    files: &Files,
    actual: &Actual,
    accepted: &BTreeMap<EnvironmentName, Arc<Environment>>,
) -> BTreeMap<String, String> {
    let left = files
        .iter()
        .filter_map(|(file, document)| match document.origin() {
            Origin::Copy(name) if follows(file, document, actual, accepted) => {
                Some((file.to_owned(), stray(name)))
            }
            _ => None,
        });
    left.collect()
}

fn stray(name: &EnvironmentName) -> String {
    format!(
        "this copy of environment {name} (--write-back) no longer follows etcd and is not \
         registered. To make the file your own, delete its first line; otherwise delete the file"
    )
}

#[cfg(test)]
mod tests;
