//! What each file of the directory says: its environments, as they would stand in etcd, and its faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mayfly_core::environment_file::{self, Parsed};
use mayfly_core::file::Fault;
use mayfly_core::names::{EnvironmentName, NodeName};
use mayfly_core::records::{Environment, Source};
use mayfly_core::yaml::Mark;

use crate::archive::Kept;
use crate::cabinet::MODE;
use crate::scan::{Content, Fingerprint, Found, Known, Scan};
use crate::write_back::{self, Origin};

/// An environment of a file, and where the file says what must be unique.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The record that would stand in etcd, with its source. The same allocation as long as the file says the same.
    pub environment: Arc<Environment>,
    /// The places of its name, prefix and header.
    pub name: Mark,
    /// The place of its prefix.
    pub prefix: Mark,
    /// The place of its header.
    pub header: Mark,
    /// Whether the file was a copy of this environment, and a person changed it.
    pub edits_copy: bool,
}

/// One file.
#[derive(Debug, Clone)]
pub struct Document {
    fingerprint: Option<Fingerprint>,
    readable: bool,
    /// The environments without a fault, in the order of the file.
    pub entries: Vec<Entry>,
    /// The numbers of the entries in the order of their names.
    by_name: Vec<usize>,
    parsed: Parsed,
    origin: Origin,
    /// What the file holds, if that is not much.
    content: Option<Arc<Kept>>,
}

/// Most octets of a file that are kept, so that what it said can be archived after it has changed again.
const KEPT: usize = 1 << 16;

impl Document {
    /// What the file holds, if it is one good environment, and that asks for this. Not for large files.
    pub fn content_of(&self, environment: &Environment) -> Option<&Arc<Kept>> {
        let [entry] = self.entries.as_slice() else {
            return None;
        };
        let same = self.is_faultless() && entry.environment.asks_for_the_same(environment);
        self.content.as_ref().filter(|_| same)
    }

    /// Where the file comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The faults of the file.
    pub fn faults(&self) -> &[Fault] {
        &self.parsed.faults
    }

    /// The entry for an environment.
    pub fn entry(&self, name: &EnvironmentName) -> Option<&Entry> {
        let name_of = |number: &usize| &self.entries[*number].environment.name;
        let found = self.by_name.binary_search_by_key(&name, name_of).ok()?;
        Some(&self.entries[self.by_name[found]])
    }

    /// Whether everything the file says is in its entries: no fault, and it has been read.
    pub fn is_faultless(&self) -> bool {
        self.readable && self.parsed.faults.is_empty()
    }

    /// Whether the file has an entry for this environment, or may hold it.
    pub fn is_about(&self, name: &EnvironmentName) -> bool {
        self.may_hold(name) || self.entry(name).is_some()
    }

    /// Whether the file is, or may be, about this environment although it has no entry for it: because of a fault, or
    /// because the file was not read yet.
    pub fn may_hold(&self, name: &EnvironmentName) -> bool {
        self.parsed.may_hold(name)
    }
}

/// All files of the directory by name.
#[derive(Debug)]
pub struct Library {
    node: NodeName,
    files: BTreeMap<String, Document>,
    /// The files that have a fault, and those that are not read yet: few, so that a round need not look at all.
    faulty: BTreeSet<String>,
    unread: BTreeSet<String>,
}

impl Library {
    /// No files yet; records will say that this node has registered them.
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            files: BTreeMap::new(),
            faulty: BTreeSet::new(),
            unread: BTreeSet::new(),
        }
    }

    /// The files in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Document)> {
        self.files
            .iter()
            .map(|(name, document)| (name.as_str(), document))
    }

    /// One file.
    pub fn get(&self, file: &str) -> Option<&Document> {
        self.files.get(file)
    }

    /// How many files there are.
    pub fn len(&self) -> usize {
        self.files.len()
    }

    /// Whether there are no files.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// The files that have a fault, in the order of their names.
    pub fn faulty(&self) -> impl Iterator<Item = (&str, &Document)> {
        self.faulty
            .iter()
            .filter_map(|name| Some((name.as_str(), self.files.get(name)?)))
    }

    /// Whether every file has been read, or it is known why it can't be.
    pub fn is_complete(&self) -> bool {
        self.unread.is_empty()
    }

    /// The files that a scan need not read again unless they have changed. Those that could not be read are not among
    /// them: what was in the way may be gone without a trace on the file.
    pub fn known(&self) -> Known {
        let read = self.files.iter().filter(|(_, document)| document.readable);
        let read = read.filter_map(|(name, document)| Some((name.clone(), document.fingerprint?)));
        Known {
            read: read.collect(),
            ..Known::default()
        }
    }

    /// Takes what a scan of the whole directory found; gives the files that have changed.
    pub fn take_scan(&mut self, scan: Scan) -> Vec<String> {
        let gone: Vec<String> = self
            .files
            .keys()
            .filter(|name| !scan.files.contains_key(*name))
            .cloned()
            .collect();
        let mut changed = Vec::new();
        for name in gone {
            if self.take(&name, None) {
                changed.push(name);
            }
        }
        for (name, found) in scan.files {
            let is_new = match found {
                Some(found) => self.take(&name, Some(found)),
                // A file that can't be read yet still stands for the environments that came from it.
                None if !self.files.contains_key(&name) => {
                    self.put(&name, None, false, Parsed::unread(), Origin::Person)
                }
                None => false,
            };
            if is_new {
                changed.push(name);
            }
        }
        changed
    }

    /// Takes one file as it was found (`None`: it is gone); says whether that changes anything.
    pub fn take(&mut self, name: &str, found: Option<Found>) -> bool {
        match found {
            None => {
                self.faulty.remove(name);
                self.unread.remove(name);
                self.files.remove(name).is_some()
            }
            Some(found) => {
                let octets = match found.content {
                    Content::Octets(octets) => octets,
                    Content::Unreadable(reason) => {
                        let parsed = Parsed::unreadable(Mark::START, reason);
                        return self.put(name, found.fingerprint, false, parsed, Origin::Person);
                    }
                };
                let parsed = environment_file::parse(&octets);
                let changed = self.put(name, found.fingerprint, true, parsed, Origin::of(&octets));
                if let Some(document) = self.files.get_mut(name).filter(|_| octets.len() <= KEPT) {
                    let mode = found.fingerprint.map_or(MODE, |fingerprint| fingerprint.mode());
                    document.content = Some(Arc::new(Kept { octets, mode }));
                }
                changed
            }
        }
    }

    fn put(
        &mut self,
        name: &str,
        fingerprint: Option<Fingerprint>,
        readable: bool,
        mut parsed: Parsed,
        origin: Origin,
    ) -> bool {
        let found = std::mem::take(&mut parsed.entries);
        let before = self.files.get(name);
        let mut changed = before.is_none_or(|before| {
            before.parsed != parsed || before.entries.len() != found.len() || before.origin != origin
        });
        let mut entries = Vec::with_capacity(found.len());
        for found in found {
            let mut environment = found.environment;
            environment.shrink();
            environment.source = Some(Source {
                registrar: self.node.clone(),
                file: name.to_owned(),
            });
            let same = before.and_then(|before| before.entry(&environment.name));
            let same = same.filter(|entry| *entry.environment == environment);
            changed |= same.is_none();
            let environment = same.map_or_else(|| Arc::new(environment), |entry| entry.environment.clone());
            let edits_copy = matches!(&origin, Origin::Edited { of, .. } if *of == environment.name)
                && write_back::home(&environment.name) == name;
            entries.push(Entry {
                environment,
                name: found.name,
                prefix: found.prefix,
                header: found.header,
                edits_copy,
            });
        }
        let mut by_name: Vec<usize> = (0..entries.len()).collect();
        by_name.sort_unstable_by_key(|number| &entries[*number].environment.name);
        note(&mut self.faulty, name, !parsed.faults.is_empty());
        note(&mut self.unread, name, parsed == Parsed::unread());
        self.files.insert(
            name.to_owned(),
            Document {
                fingerprint,
                readable,
                entries,
                by_name,
                parsed,
                origin,
                content: None,
            },
        );
        changed
    }
}

/// Puts a name into a set, or takes it out.
fn note(names: &mut BTreeSet<String>, name: &str, belongs: bool) {
    if belongs {
        names.insert(name.to_owned());
    } else {
        names.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn library() -> Library {
        Library::new("node".parse().unwrap())
    }

    fn found(text: &str) -> Option<Found> {
        Some(Found {
            fingerprint: None,
            content: Content::Octets(text.as_bytes().to_vec()),
        })
    }

    fn names(library: &Library, file: &str) -> Vec<String> {
        library
            .get(file)
            .unwrap()
            .entries
            .iter()
            .map(|entry| entry.environment.name.to_string())
            .collect()
    }

    #[test]
    fn records_say_where_they_come_from_and_stay_the_same_allocation() {
        let mut library = library();
        assert!(library.take("a.yaml", found("- name: x\n- name: y\n")));
        let first = library.get("a.yaml").unwrap().entries[1].environment.clone();
        let source = first.source.clone().unwrap();
        assert_eq!(
            (source.registrar.as_str(), source.file.as_str()),
            ("node", "a.yaml")
        );
        assert!(
            !library.take("a.yaml", found("- name: x\n- name: y\n")),
            "nothing new"
        );
        assert!(library.take("a.yaml", found("- name: y\n")));
        assert!(Arc::ptr_eq(
            &first,
            &library.get("a.yaml").unwrap().entries[0].environment
        ));
        assert!(library.take("a.yaml", None));
        assert!(!library.take("a.yaml", None));
    }

    #[test]
    fn a_fault_leaves_the_others_and_says_what_may_be_meant() {
        let mut library = library();
        library.take("a.yaml", found("- name: x\n- {name: y, owner: me}\n"));
        assert_eq!(names(&library, "a.yaml"), ["x"]);
        let document = library.get("a.yaml").unwrap();
        assert_eq!(document.faults().len(), 1);
        assert!(document.may_hold(&"y".parse().unwrap()) && !document.may_hold(&"z".parse().unwrap()));
        library.take(
            "a.yaml",
            Some(Found {
                fingerprint: None,
                content: Content::Unreadable("no".to_owned()),
            }),
        );
        assert!(library.get("a.yaml").unwrap().may_hold(&"z".parse().unwrap()));
    }

    #[test]
    fn a_scan_says_what_is_gone_and_what_is_not_read_yet() {
        let mut library = library();
        library.take("old.yaml", found("name: old"));
        let files = BTreeMap::from([
            ("new.yaml".to_owned(), found("name: new")),
            ("later.yaml".to_owned(), None),
        ]);
        let changed = library.take_scan(Scan {
            files: files.clone(),
            ..Scan::default()
        });
        assert_eq!(changed, ["old.yaml", "later.yaml", "new.yaml"]);
        let later = library.get("later.yaml").unwrap();
        assert!(later.may_hold(&"x".parse().unwrap()) && later.faults().is_empty());
        assert!(
            library
                .take_scan(Scan {
                    files,
                    ..Scan::default()
                })
                .is_empty()
        );
    }
}
