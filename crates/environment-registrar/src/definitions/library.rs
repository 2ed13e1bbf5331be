//! What each file of the directory says: its definitions, as they would stand in etcd, and its faults.

use std::collections::BTreeMap;

use mayfly_core::definition::Definition;
use mayfly_core::definition_file::{self, Parsed};
use mayfly_core::file::Fault;
use mayfly_core::names::{NodeName, ServiceName};
use mayfly_core::records::Source;
use mayfly_core::yaml::Mark;

use crate::scan::{Content, Fingerprint, Found, Known, Scan};

/// One file.
#[derive(Debug, Clone)]
pub struct Document {
    fingerprint: Option<Fingerprint>,
    /// Each with its source, and the place of its name.
    entries: BTreeMap<ServiceName, (Definition, Mark)>,
    parsed: Parsed,
}

impl Document {
    /// The definitions without a fault, by service; each with its source and the place of its name.
    pub fn entries(&self) -> &BTreeMap<ServiceName, (Definition, Mark)> {
        &self.entries
    }

    /// The faults of the file.
    pub fn faults(&self) -> &[Fault] {
        &self.parsed.faults
    }

    /// Whether the file is, or may be, about this service although it has no entry for it: because of a fault, or because
    /// the file was not read yet.
    pub fn may_hold(&self, service: &ServiceName) -> bool {
        self.parsed.may_hold(service)
    }
}

/// All files of the directory by name.
#[derive(Debug)]
pub struct Library {
    node: NodeName,
    files: BTreeMap<String, Document>,
}

impl Library {
    /// No files yet; records will say that this node has registered them.
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            files: BTreeMap::new(),
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

    /// Whether every file has been read, or it is known why it can't be.
    pub fn is_complete(&self) -> bool {
        self.files
            .values()
            .all(|document| document.parsed != Parsed::unread())
    }

    /// The files that a scan need not read again unless they have changed. Those that could not be read are not among
    /// them: what was in the way may be gone without a trace on the file.
    pub fn known(&self) -> Known {
        let read = self.files.iter();
        let read = read.filter_map(|(name, document)| Some((name.clone(), document.fingerprint?)));
        Known {
            read: read.collect(),
            ..Known::default()
        }
    }

    /// Takes what a scan of the whole directory found.
    pub fn take_scan(&mut self, scan: Scan) {
        self.files.retain(|name, _| scan.files.contains_key(name));
        for (name, found) in scan.files {
            match found {
                Some(found) => self.take(&name, Some(found)),
                // A file that can't be read yet still stands for the definitions that came from it.
                None if !self.files.contains_key(&name) => self.put(&name, None, Parsed::unread()),
                None => {}
            }
        }
    }

    /// Takes one file as it was found (`None`: it is gone).
    pub fn take(&mut self, name: &str, found: Option<Found>) {
        match found {
            None => {
                self.files.remove(name);
            }
            Some(Found {
                fingerprint,
                content: Content::Octets(octets),
            }) => self.put(name, fingerprint, definition_file::parse(&octets)),
            Some(Found {
                content: Content::Unreadable(reason),
                ..
            }) => self.put(name, None, Parsed::unreadable(Mark::START, reason)),
        }
    }

    fn put(&mut self, name: &str, fingerprint: Option<Fingerprint>, mut parsed: Parsed) {
        let found = std::mem::take(&mut parsed.entries).into_iter();
        let entries = found.map(|found| {
            let source = Source {
                registrar: self.node.clone(),
                file: name.to_owned(),
            };
            let definition = Definition {
                source: Some(source),
                ..found.definition
            };
            (definition.name.clone(), (definition, found.name))
        });
        let document = Document {
            fingerprint,
            entries: entries.collect(),
            parsed,
        };
        self.files.insert(name.to_owned(), document);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(content: Content) -> Option<Found> {
        Some(Found {
            fingerprint: None,
            content,
        })
    }

    fn text(text: &str) -> Option<Found> {
        found(Content::Octets(text.as_bytes().to_vec()))
    }

    #[test]
    fn a_file_says_what_it_defines_and_what_it_may_be_about() {
        let mut library = Library::new("us".parse().unwrap());
        let (a, b) = ("a".parse().unwrap(), "b".parse().unwrap());
        library.take(
            "f.yaml",
            text("- {name: a, image: 'a:{{ version }}', port: 80}\n- {name: b}\n"),
        );
        let document = library.get("f.yaml").unwrap();
        let (definition, mark) = &document.entries()[&a];
        let source = definition.source.as_ref().unwrap();
        assert_eq!(
            (source.registrar.as_str(), source.file.as_str()),
            ("us", "f.yaml")
        );
        assert_eq!((mark.line, document.faults().len()), (1, 2));
        assert!(document.may_hold(&b) && !document.may_hold(&a));
        library.take("f.yaml", found(Content::Unreadable("no".to_owned())));
        assert!(library.get("f.yaml").unwrap().may_hold(&a));
        library.take("f.yaml", None);
        assert!(library.get("f.yaml").is_none());
    }

    #[test]
    fn a_scan_takes_away_what_is_gone_and_waits_for_what_is_not_read_yet() {
        let mut library = Library::new("us".parse().unwrap());
        library.take("old.yaml", text(""));
        library.take("kept.yaml", text(""));
        let files = [("kept.yaml", None), ("later.yaml", None), ("new.yaml", text(""))];
        let files = files.map(|(name, found)| (name.to_owned(), found));
        library.take_scan(Scan {
            files: files.into(),
            ..Scan::default()
        });
        let names: Vec<_> = library.files().map(|(name, _)| name).collect();
        assert_eq!(names, ["kept.yaml", "later.yaml", "new.yaml"]);
        assert!(!library.is_complete());
        assert!(library.get("later.yaml").unwrap().may_hold(&"a".parse().unwrap()));
        library.take("later.yaml", text(""));
        assert!(library.is_complete());
    }
}
