//! What each file of a directory says: its records, as they would stand in etcd, and its faults.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mayfly_core::file::{Fault, Parsed};
use mayfly_core::names::NodeName;
use mayfly_core::records::{Environment, Source};
use mayfly_core::yaml::Mark;
use mayfly_daemon::file::FileFingerprint;

use crate::environments::Environments;
use crate::files_in::origin::Origin;
use crate::files_in::scan::{Content, FoundFile, KeptFile, KnownFiles, MODE, Scan};
use crate::resource::{FileRecord, Resource};

#[derive(Debug, Clone)]
pub struct Document<K: Resource = Environments> {
    fingerprint: Option<FileFingerprint>,
    readable: bool,
    /// The entries without a fault, in the order of the file.
    pub entries: Vec<FileRecord<K>>,
    /// The numbers of the entries in the order of their names.
    by_name: Vec<usize>,
    parsed: Parsed<K::Name, K::Found>,
    origin: Origin,
    /// What the file holds, if that is not much, until what it says takes effect and is archived.
    content: Option<Arc<KeptFile>>,
}

/// Most bytes of a file that are kept, so that what it said can be archived after it has changed
/// again.
const KEPT: usize = 1 << 16;

impl Files {
    /// What the file of an environment holds, if it is one good environment, and that asks for
    /// this. Not for large files. It is given once: of many environments these contents are most of
    /// what would be kept.
    pub fn take_content(&mut self, environment: &Environment) -> Option<Arc<KeptFile>> {
        let document = self.files.get_mut(&environment.source.as_ref()?.file)?;
        let [entry] = document.entries.as_slice() else {
            return None;
        };
        let same = document.is_faultless() && entry.record.asks_for_the_same(environment);
        document.content.take_if(|_| same)
    }
}

impl<K: Resource> Document<K> {
    /// Where the file comes from.
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// The faults of the file.
    pub fn faults(&self) -> &[Fault] {
        &self.parsed.faults
    }

    /// The entry of this name.
    pub fn entry(&self, name: &K::Name) -> Option<&FileRecord<K>> {
        let name_of = |number: &usize| K::name(&self.entries[*number].record);
        let found = self.by_name.binary_search_by_key(&name, name_of).ok()?;
        Some(&self.entries[self.by_name[found]])
    }

    /// Whether everything the file says is in its entries: no fault, and it has been read.
    pub fn is_faultless(&self) -> bool {
        self.readable && self.parsed.faults.is_empty()
    }

    /// Whether the file has an entry of this name, or may hold one.
    pub fn is_about(&self, name: &K::Name) -> bool {
        self.may_hold(name) || self.entry(name).is_some()
    }

    /// Whether the file is, or may be, about this name although it has no entry of it: because of a
    /// fault, or because the file was not read yet.
    pub fn may_hold(&self, name: &K::Name) -> bool {
        self.parsed.may_hold(name)
    }
}

/// All files of the directory by name.
#[derive(Debug)]
pub struct Files<K: Resource = Environments> {
    node: NodeName,
    /// In boxes: half of a map's room is free where its keys came in their order.
    files: BTreeMap<String, Box<Document<K>>>,
    /// The files that have a fault, and those that are not read yet: few, so that a round need not
    /// look at all.
    faulty: BTreeSet<String>,
    unread: BTreeSet<String>,
}

impl<K: Resource> Files<K> {
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
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Document<K>)> {
        self.files
            .iter()
            .map(|(name, document)| (name.as_str(), &**document))
    }

    pub fn get(&self, file: &str) -> Option<&Document<K>> {
        self.files.get(file).map(|document| &**document)
    }

    /// How many files there are.
    pub fn count(&self) -> usize {
        self.files.len()
    }

    /// The files that have a fault, in the order of their names.
    pub fn faulty(&self) -> impl Iterator<Item = (&str, &Document<K>)> {
        self.faulty
            .iter()
            .filter_map(|name| Some((name.as_str(), self.get(name)?)))
    }

    /// Whether every file has been read, or it is known why it can't be.
    pub fn is_complete(&self) -> bool {
        self.unread.is_empty()
    }

    /// The files that a scan need not read again unless they have changed. Those that could not be
    /// read are not among them: what was in the way may be gone without a trace on the file.
    pub fn known(&self) -> KnownFiles {
        let read = self.files.iter().filter(|(_, document)| document.readable);
        let read = read.filter_map(|(name, document)| Some((name.clone(), document.fingerprint?)));
        KnownFiles {
            read: read.collect(),
            ..KnownFiles::default()
        }
    }

    /// Takes what a scan of the whole directory found; gives the files that have changed.
    pub fn update_all(&mut self, scan: Scan) -> Vec<String> {
        let gone: Vec<String> = self
            .files
            .keys()
            .filter(|name| !scan.files.contains_key(*name))
            .cloned()
            .collect();
        let mut changed = Vec::new();
        for name in gone {
            if self.update(&name, None) {
                changed.push(name);
            }
        }
        for (name, found) in scan.files {
            let is_new = match found {
                Some(found) => self.update(&name, Some(found)),
                // A file that can't be read yet still stands for the records that came from it.
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
    pub fn update(&mut self, name: &str, found: Option<FoundFile>) -> bool {
        match found {
            None => {
                self.faulty.remove(name);
                self.unread.remove(name);
                self.files.remove(name).is_some()
            }
            Some(found) => {
                let bytes = match found.content {
                    Content::Bytes(bytes) => bytes,
                    Content::Unreadable(reason) => {
                        let parsed = Parsed::unreadable(Mark::START, reason);
                        return self.put(name, found.fingerprint, false, parsed, Origin::Person);
                    }
                };
                let parsed = K::parse(&bytes);
                let waits = self.get(name).is_some_and(|before| before.content.is_some());
                let changed = self.put(name, found.fingerprint, true, parsed, Origin::of(&bytes));
                // What says the same as before is not going to take effect again.
                let is_kept = (changed || waits) && bytes.len() <= KEPT;
                if let Some(document) = self.files.get_mut(name).filter(|_| is_kept) {
                    let mode = found.fingerprint.map_or(MODE, |fingerprint| fingerprint.mode());
                    document.content = Some(Arc::new(KeptFile { bytes, mode }));
                }
                changed
            }
        }
    }

    fn put(
        &mut self,
        name: &str,
        fingerprint: Option<FileFingerprint>,
        readable: bool,
        mut parsed: Parsed<K::Name, K::Found>,
        origin: Origin,
    ) -> bool {
        let found = std::mem::take(&mut parsed.entries);
        let before = self.files.get(name);
        let mut changed = before.is_none_or(|before| {
            before.parsed != parsed || before.entries.len() != found.len() || before.origin != origin
        });
        let mut entries = Vec::with_capacity(found.len());
        for found in found {
            let source = Source {
                registrar: self.node.clone(),
                file: name.to_owned(),
            };
            let (record, marks) = K::split(found, source);
            let edits_copy = K::edits_copy(&record, &origin);
            let before = before.and_then(|before| before.entry(K::name(&record)));
            let same = before.filter(|before| *before.record == record);
            changed |= same.is_none();
            entries.push(FileRecord {
                record: same.map_or_else(|| Arc::new(record), |same| same.record.clone()),
                marks,
                edits_copy,
            });
        }
        let mut by_name: Vec<usize> = (0..entries.len()).collect();
        by_name.sort_unstable_by_key(|number| K::name(&entries[*number].record));
        note(&mut self.faulty, name, !parsed.faults.is_empty());
        note(&mut self.unread, name, parsed == Parsed::unread());
        self.files.insert(
            name.to_owned(),
            Box::new(Document {
                fingerprint,
                readable,
                entries,
                by_name,
                parsed,
                origin,
                content: None,
            }),
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

    fn all_files() -> Files {
        Files::new("node".parse().unwrap())
    }

    fn found(text: &str) -> Option<FoundFile> {
        Some(FoundFile {
            fingerprint: None,
            content: Content::Bytes(text.as_bytes().to_vec()),
        })
    }

    fn names(all_files: &Files, file: &str) -> Vec<String> {
        all_files
            .get(file)
            .unwrap()
            .entries
            .iter()
            .map(|entry| entry.record.name.to_string())
            .collect()
    }

    #[test]
    fn records_say_where_they_come_from_and_stay_the_same_allocation() {
        let mut all_files = all_files();
        assert!(all_files.update("a.yaml", found("- name: x\n- name: y\n")));
        let first = all_files.get("a.yaml").unwrap().entries[1].record.clone();
        let source = first.source.clone().unwrap();
        assert_eq!(
            (source.registrar.as_str(), source.file.as_str()),
            ("node", "a.yaml")
        );
        assert!(
            !all_files.update("a.yaml", found("- name: x\n- name: y\n")),
            "nothing new"
        );
        assert!(all_files.update("a.yaml", found("- name: y\n")));
        assert!(Arc::ptr_eq(
            &first,
            &all_files.get("a.yaml").unwrap().entries[0].record
        ));
        assert!(all_files.update("a.yaml", None));
        assert!(!all_files.update("a.yaml", None));
    }

    #[test]
    fn a_content_is_kept_until_it_takes_effect() {
        let mut all_files = all_files();
        // The content that is given first, and whether there is a second.
        let mut taken = |text: &str| {
            all_files.update("x.yaml", found(text));
            let record = all_files.get("x.yaml").unwrap().entries[0].record.clone();
            let other = Environment {
                protected: true,
                ..record.as_ref().clone()
            };
            assert_eq!(all_files.take_content(&other), None);
            let first = all_files.take_content(&record);
            let text = first.map(|kept| String::from_utf8(kept.bytes.clone()).unwrap());
            (text, all_files.take_content(&record).is_some())
        };
        let once = |text: &str| (Some(text.to_owned()), false);
        assert_eq!(taken("name: x"), once("name: x"));
        assert_eq!(taken("name: x # the same"), (None, false));
        assert_eq!(taken("{name: x, idle: 2d}"), once("{name: x, idle: 2d}"));
        // One that has not taken effect yet is kept as it was written last.
        all_files.update("x.yaml", found("name: x"));
        all_files.update("x.yaml", found("name: x # in the end"));
        let record = all_files.get("x.yaml").unwrap().entries[0].record.clone();
        let content = all_files.take_content(&record).unwrap();
        assert_eq!(content.bytes, b"name: x # in the end");
    }

    #[test]
    fn a_fault_leaves_the_others_and_says_what_may_be_meant() {
        let mut all_files = all_files();
        all_files.update("a.yaml", found("- name: x\n- {name: y, owner: me}\n"));
        assert_eq!(names(&all_files, "a.yaml"), ["x"]);
        let document = all_files.get("a.yaml").unwrap();
        assert_eq!(document.faults().len(), 1);
        assert!(document.may_hold(&"y".parse().unwrap()) && !document.may_hold(&"z".parse().unwrap()));
        all_files.update(
            "a.yaml",
            Some(FoundFile {
                fingerprint: None,
                content: Content::Unreadable("no".to_owned()),
            }),
        );
        assert!(all_files.get("a.yaml").unwrap().may_hold(&"z".parse().unwrap()));
    }

    #[test]
    fn a_scan_says_what_is_gone_and_what_is_not_read_yet() {
        let mut all_files = all_files();
        all_files.update("old.yaml", found("name: old"));
        let files = BTreeMap::from([
            ("new.yaml".to_owned(), found("name: new")),
            ("later.yaml".to_owned(), None),
        ]);
        let changed = all_files.update_all(Scan {
            files: files.clone(),
            ..Scan::default()
        });
        assert_eq!(changed, ["old.yaml", "later.yaml", "new.yaml"]);
        let later = all_files.get("later.yaml").unwrap();
        assert!(later.may_hold(&"x".parse().unwrap()) && later.faults().is_empty());
        assert!(!all_files.is_complete());
        assert!(
            all_files
                .update_all(Scan {
                    files,
                    ..Scan::default()
                })
                .is_empty()
        );
        all_files.update("later.yaml", found("name: later"));
        assert!(all_files.is_complete());
    }
}
