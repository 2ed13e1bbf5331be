//! The text of an environment file becomes environments, and every fault in it a [`Fault`] with its place and what
//! would be right. Faults are all collected, and each harms only the environment that it is in: of a list of five with
//! one bad entry, four come through.
//!
//! The chain: text, [`crate::yaml`] tree, `decode` (one environment from one mapping), and here what concerns
//! the whole file: nothing may occur twice in it. Decoding is by hand, because plain deserialisation stops at the first
//! fault and reads `version: 1.10` as a number. The way back, from a record to the text of a file, is [`to_yaml`].

use std::collections::{BTreeMap, BTreeSet};

mod decode;
mod expiry;
mod fault;
mod fields;
mod write;

pub use fault::Fault;
pub use write::{list_to_yaml, to_yaml};

use crate::names::EnvironmentName;
use crate::records::{self, Environment};
use crate::yaml::{self, Limits, Mark, Node, Value};
use fault::{Faults, Place};

/// Longest environment file that is read, in octets (1 MiB). Who reads a file checks its length before its content.
pub const SIZE_LIMIT: u64 = 1 << 20;

/// Longest record of an environment, in octets of JSON without its source and life. etcd takes 1.5 MiB in one step, and an
/// environment is put together with its history, which says the same.
const RECORD_LIMIT: usize = 700_000;

/// An environment of a file, without a source, and where the file says what must be unique over all environments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The environment, with all defaults filled in.
    pub environment: Environment,
    /// The place of its name.
    pub name: Mark,
    /// The place of its prefix; of its name, if the prefix is the default.
    pub prefix: Mark,
    /// The place of its header; of its name, if the header is the default.
    pub header: Mark,
}

/// What an environment file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Parsed {
    /// The environments without a fault, in the order of the file.
    pub environments: Vec<Found>,
    /// What is wrong with the others, in the order of the file; after a few hundred the rest is only counted.
    pub faults: Vec<Fault>,
    refused: BTreeSet<EnvironmentName>,
    nameless: bool,
}

impl Parsed {
    /// Whether a refused part of the file is, or may be, about this environment: then its last good version stays.
    pub fn may_hold(&self, name: &EnvironmentName) -> bool {
        self.nameless || self.refused.contains(name)
    }

    /// A file that has not been read yet: it may hold any environment.
    pub fn unread() -> Self {
        Self {
            nameless: true,
            ..Self::default()
        }
    }

    /// A file of which nothing can be read, for the given reason.
    pub fn unreadable(mark: Mark, message: impl Into<String>) -> Self {
        let fault = Fault {
            mark,
            field: String::new(),
            message: message.into(),
            environment: None,
        };
        Self {
            faults: vec![fault],
            nameless: true,
            ..Self::default()
        }
    }
}

/// Reads the content of an environment file. A file without any value (empty, or only comments) holds no environments
/// and has no fault.
pub fn parse(content: &[u8]) -> Parsed {
    if content.len() as u64 > SIZE_LIMIT {
        return Parsed::unreadable(Mark::START, too_long(content.len() as u64));
    }
    match std::str::from_utf8(content) {
        Ok(text) => parse_text(text),
        Err(error) => {
            let valid = String::from_utf8_lossy(&content[..error.valid_up_to()]);
            let last_line = valid.rsplit('\n').next().unwrap_or_default();
            let mark = Mark {
                line: valid.matches('\n').count() + 1,
                column: last_line.chars().count() + 1,
            };
            Parsed::unreadable(mark, "not UTF-8: save the file in that encoding")
        }
    }
}

/// What to say of a file that is longer than [`SIZE_LIMIT`].
pub fn too_long(octets: u64) -> String {
    format!("the file has {octets} octets: at most {SIZE_LIMIT} are taken, so split it")
}

/// Whether an entry of this name is taken for an environment file: `*.yaml` or `*.yml`, not hidden. Backups and
/// temporary files of editors (`.dev.yaml.swp`, `dev.yaml~`, `4913`, `#dev.yaml#`) are not.
pub fn is_environment_file(name: &str) -> bool {
    let long_enough = |stem: &str| !stem.is_empty();
    let stem = name.strip_suffix(".yaml").or_else(|| name.strip_suffix(".yml"));
    stem.is_some_and(long_enough) && !name.starts_with(['.', '#'])
}

fn parse_text(text: &str) -> Parsed {
    let stream = yaml::read(text, Limits::default());
    let mut faults = Faults::default();
    let mut file = File::default();
    for document in &stream.documents {
        match &document.value {
            Value::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    file.take(item, Place::Root.index(index), &mut faults);
                }
            }
            _ => file.take(document, Place::Root, &mut faults),
        }
    }
    for error in stream.errors {
        file.nameless = true;
        faults.add(error.mark, Place::Root, error.message);
    }
    Parsed {
        environments: file.environments,
        faults: faults.in_order(),
        refused: file.refused,
        nameless: file.nameless,
    }
}

/// What has been read of a file so far.
#[derive(Default)]
struct File {
    environments: Vec<Found>,
    refused: BTreeSet<EnvironmentName>,
    nameless: bool,
    /// Where each name, prefix and header stands, also those of refused environments: mending one of two faults must
    /// not change which of two rivals is meant.
    names: BTreeMap<String, usize>,
    prefixes: BTreeMap<String, usize>,
    headers: BTreeMap<String, usize>,
}

impl File {
    fn take(&mut self, node: &Node, place: Place<'_>, faults: &mut Faults) {
        let before = faults.count();
        let draft = decode::environment(node, place, faults);
        let Some((name, mark)) = draft.name.clone() else {
            self.nameless = true;
            return;
        };
        // Of a repeated environment the defaults are repeated too: that need not be said.
        if faults.claim(
            mark,
            place.field("name"),
            "environment",
            name.as_str(),
            &mut self.names,
        ) {
            if let Some((prefix, mark)) = &draft.prefix {
                faults.claim(
                    *mark,
                    place.field("prefix"),
                    "prefix",
                    prefix.as_str(),
                    &mut self.prefixes,
                );
            }
            if let Some((header, mark)) = &draft.header {
                faults.claim(
                    *mark,
                    place.field("header"),
                    "header",
                    header.as_str(),
                    &mut self.headers,
                );
            }
        }
        let found = draft.finish();
        let octets = found
            .as_ref()
            .map_or(0, |found| records::to_json(&found.environment).len());
        if octets > RECORD_LIMIT {
            let message = format!(
                "the environment has {octets} octets as a record in etcd, at most {RECORD_LIMIT} fit: let it name fewer \
                 services, and inherit the others (`extends`)"
            );
            faults.add(mark, place, message);
        }
        faults.belong_to(&name, before);
        match found {
            Some(found) if faults.count() == before => self.environments.push(found),
            _ => {
                self.refused.insert(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_environment_files() {
        for name in ["dev.yaml", "dev.yml", "a b.yaml", "dev.yaml.yml"] {
            assert!(is_environment_file(name), "{name}");
        }
        for name in [
            ".dev.yaml.swp",
            "dev.yaml~",
            "4913",
            ".dev.yaml",
            "#dev.yaml#",
            ".#dev.yaml",
            "dev.yaml.bak",
            ".yaml",
            "..data",
            "README.md",
            "dev.YAML",
            "dev.yaml.tmp",
        ] {
            assert!(!is_environment_file(name), "{name}");
        }
    }
}
