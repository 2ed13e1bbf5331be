//! Environments that came from elsewhere as files, so that the directory shows all that etcd has: which files are such
//! copies, and what is to be done about each. Pure.
//!
//! A copy begins with a line that carries the digest of the rest. As long as that fits, nobody has changed the file: it
//! follows etcd and is never registered from here. As soon as it does not fit, the file is a person's: it is published, and
//! never overwritten or deleted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mayfly_core::environment_file::{parse, to_yaml};
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;
use sha2::{Digest as _, Sha256};

use crate::library::{Document, Entry, Library};
use crate::mirror::{Mirror, Owner};

const MARK: &str = "# mayfly write-back of ";
const DIGEST: &str = ", follows etcd until you change this file: sha256 ";

/// Where a file comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origin {
    /// A person wrote it.
    #[default]
    Person,
    /// It is a copy of this environment, as we wrote it.
    Copy(EnvironmentName),
    /// It was a copy, and a person changed it.
    Edited {
        /// The environment.
        of: EnvironmentName,
        /// The digest of the copy.
        base: String,
    },
}

impl Origin {
    /// Where the content of a file comes from.
    pub fn of(content: &[u8]) -> Self {
        let Some((of, base, rest)) = split(content) else {
            return Self::Person;
        };
        if digest(rest) == base {
            Self::Copy(of)
        } else {
            Self::Edited { of, base }
        }
    }
}

/// The content of a file without the line that marks it as a copy.
pub fn without_mark(content: &[u8]) -> &[u8] {
    split(content).map_or(content, |(_, _, rest)| rest)
}

fn split(content: &[u8]) -> Option<(EnvironmentName, String, &[u8])> {
    let end = content.iter().position(|octet| *octet == b'\n')?;
    let line = std::str::from_utf8(&content[..end]).ok()?;
    let (name, digest) = line.strip_prefix(MARK)?.split_once(DIGEST)?;
    Some((
        name.parse().ok()?,
        digest.trim_end().to_owned(),
        &content[end + 1..],
    ))
}

fn digest(rest: &[u8]) -> String {
    Sha256::digest(rest)
        .iter()
        .map(|octet| format!("{octet:02x}"))
        .collect()
}

/// The digest that the copy of an environment has.
pub fn digest_of(environment: &Environment) -> String {
    digest(to_yaml(environment).as_bytes())
}

/// The file name of the copy of an environment.
pub fn home(name: &EnvironmentName) -> String {
    format!("{name}.yaml")
}

/// The content of the copy of an environment: the same on every node.
///
/// # Errors
/// With the reason, when no file can say what the record says: somebody wrote it by hand.
pub fn copy(environment: &Environment) -> Result<Vec<u8>, String> {
    let rest = to_yaml(environment);
    let parsed = parse(rest.as_bytes());
    if let Some(fault) = parsed.faults.first() {
        return Err(format!("no environment file can say what it says: {fault}"));
    }
    let [found] = parsed.entries.as_slice() else {
        return Err("it is too long for an environment file".to_owned());
    };
    if !found.environment.asks_for_the_same(environment) {
        return Err("no environment file can say what it says".to_owned());
    }
    let name = &environment.name;
    Ok(format!("{MARK}{name}{DIGEST}{}\n{rest}", digest(rest.as_bytes())).into_bytes())
}

/// Whether a file follows etcd rather than the other way round. One that a person changed and changed back stays the
/// person's: the record is registered from it.
pub fn follows(
    file: &str,
    document: &Document,
    mirror: &Mirror,
    accepted: &BTreeMap<EnvironmentName, Arc<Environment>>,
) -> bool {
    let Origin::Copy(name) = document.origin() else {
        return false;
    };
    let from_here = |environment: &Arc<Environment>| {
        environment
            .source
            .as_ref()
            .is_some_and(|source| source.file == file)
    };
    !(mirror.ours(name).is_some_and(from_here) || accepted.get(name).is_some_and(from_here))
}

/// Whether an entry may be registered although somebody else has registered its environment: a person has changed the copy
/// of that. Once another registrar has taken it over in the same way, only a further change counts: else the two would take
/// it from each other for ever.
pub fn takes_over(entry: &Entry, mirror: &Mirror) -> bool {
    let environment = &entry.environment;
    entry.edits_copy
        && mirror.other(&environment.name).is_some()
        && !mirror
            .ceded(&environment.name)
            .is_some_and(|ceded| ceded.asks_for_the_same(environment))
}

/// What etcd has of an environment.
#[derive(Debug, Clone, Copy)]
pub enum InEtcd<'a> {
    /// A record from elsewhere.
    Elsewhere(&'a Arc<Environment>),
    /// A record of this registrar.
    Ours,
    /// Nothing: it has ended, or was deleted.
    Nothing,
    /// Nothing, since etcd lost its data.
    Lost,
    /// Something that is no environment.
    Unreadable,
}

/// What stands in the place of a copy.
#[derive(Debug, Clone, Copy)]
pub enum OnDisk<'a> {
    /// No file.
    Nothing,
    /// A copy that says this.
    Copy(&'a Environment),
    /// A file of a person that is about the environment.
    About,
    /// A file of a person that is about something else.
    Other,
}

/// What is to be done about the copy of an environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing.
    Leave,
    /// It is to be written, or written anew.
    Write,
    /// It is to be deleted.
    Delete,
    /// Nothing, for this reason.
    Tell(String),
}

/// Decides what is to be done. `elsewhere` is whether another file of the directory is about the environment: then a copy
/// would only say it twice.
pub fn decide(name: &EnvironmentName, etcd: InEtcd<'_>, disk: OnDisk<'_>, elsewhere: bool) -> Decision {
    match (etcd, disk) {
        (InEtcd::Elsewhere(_), OnDisk::Nothing) if elsewhere => Decision::Leave,
        (InEtcd::Elsewhere(_), OnDisk::Nothing) => Decision::Write,
        (InEtcd::Elsewhere(record), OnDisk::Copy(copy)) if copy.asks_for_the_same(record) => Decision::Leave,
        (InEtcd::Elsewhere(_), OnDisk::Copy(_)) => Decision::Write,
        (InEtcd::Elsewhere(_), OnDisk::Other) if elsewhere => Decision::Leave,
        (InEtcd::Elsewhere(_), OnDisk::Other) => Decision::Tell(format!(
            "environment {name} of etcd is not written back: this file has its place and is about something else; rename the file"
        )),
        (InEtcd::Ours | InEtcd::Nothing, OnDisk::Copy(_)) => Decision::Delete,
        (InEtcd::Lost, OnDisk::Copy(_)) => Decision::Tell(format!(
            "etcd lost its data, and environment {name} with it; this copy stays: register it again, for instance by a change of this file, or delete it"
        )),
        // What a person's file says about it is the merge's business.
        (InEtcd::Elsewhere(_), OnDisk::About)
        | (InEtcd::Ours | InEtcd::Nothing | InEtcd::Lost, OnDisk::Nothing | OnDisk::About | OnDisk::Other)
        | (InEtcd::Unreadable, _) => Decision::Leave,
    }
}

/// What is to be done about the copies of all environments, and what stands in the way, by file.
#[derive(Debug, Default)]
pub struct Copies {
    /// The records of which a copy is to be written.
    pub writes: Vec<Arc<Environment>>,
    /// The environments whose copies are to be deleted.
    pub deletes: Vec<EnvironmentName>,
    /// What is to be told, by file.
    pub told: BTreeMap<String, String>,
}

/// Plans the copies.
pub fn plan(
    library: &Library,
    mirror: &Mirror,
    accepted: &BTreeMap<EnvironmentName, Arc<Environment>>,
) -> Copies {
    let mut copies = Copies::default();
    let (mut names, mut stated) = (BTreeSet::new(), BTreeSet::new());
    for (file, document) in library.files() {
        if follows(file, document, mirror, accepted) {
            if let Origin::Copy(name) = document.origin() {
                if home(name) == file {
                    names.insert(name);
                } else {
                    copies.told.insert(file.to_owned(), stray(name));
                }
            }
        } else {
            stated.extend(document.entries.iter().map(|entry| &entry.environment.name));
        }
    }
    names.extend(mirror.environments().keys());
    for name in names {
        let etcd = match mirror.environments().get(name) {
            None if mirror.is_lost(name) => InEtcd::Lost,
            None => InEtcd::Nothing,
            Some(held) => match (&held.owner, &held.record) {
                (Owner::Other(_), Ok(record)) => InEtcd::Elsewhere(record),
                (Owner::Us, _) => InEtcd::Ours,
                _ => InEtcd::Unreadable,
            },
        };
        let home = home(name);
        let disk = match library.get(&home) {
            None => OnDisk::Nothing,
            Some(document) if follows(&home, document, mirror, accepted) => match document.entry(name) {
                Some(entry) => OnDisk::Copy(&entry.environment),
                None => OnDisk::About,
            },
            Some(document) if document.is_about(name) || *document.origin() != Origin::Person => {
                OnDisk::About
            }
            Some(_) => OnDisk::Other,
        };
        match (decide(name, etcd, disk, stated.contains(name)), etcd) {
            (Decision::Write, InEtcd::Elsewhere(record)) => match copy(record) {
                Ok(_) => copies.writes.push(record.clone()),
                Err(reason) => {
                    let reason = format!("environment {name} of etcd is not written back: {reason}");
                    copies.told.insert(home, reason);
                }
            },
            (Decision::Delete, _) => copies.deletes.push(name.clone()),
            (Decision::Tell(reason), _) => {
                copies.told.insert(home, reason);
            }
            (Decision::Leave | Decision::Write, _) => {}
        }
    }
    copies
}

/// What to tell of copies while nothing is written back.
pub fn left_over(
    library: &Library,
    mirror: &Mirror,
    accepted: &BTreeMap<EnvironmentName, Arc<Environment>>,
) -> BTreeMap<String, String> {
    let left = library
        .files()
        .filter_map(|(file, document)| match document.origin() {
            Origin::Copy(name) if follows(file, document, mirror, accepted) => {
                Some((file.to_owned(), stray(name)))
            }
            _ => None,
        });
    left.collect()
}

fn stray(name: &EnvironmentName) -> String {
    format!(
        "a copy of environment {name} that --write-back wrote and that does not follow etcd now: it is not registered; \
         delete its first line to make it yours, or the file"
    )
}

#[cfg(test)]
mod tests;
