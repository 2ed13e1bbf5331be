//! What etcd holds below `services/`, as the watch and our own writes tell it, and which of it is ours.

use std::collections::BTreeMap;

use mayfly_core::definition::Definition;
use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::names::{NodeName, ServiceName};
use mayfly_core::records::{self, SetAside};
use mayfly_daemon::store::Entry;
use mayfly_daemon::watch::{Batch, Change};

use crate::mirror::{Owner, source_of};

/// A record in etcd.
#[derive(Debug, Clone)]
pub struct Held {
    /// The revision at which it was last put.
    pub mod_revision: i64,
    /// The definition, or why the value is none.
    pub record: Result<Definition, String>,
    /// Whether it hangs on a lease, which none of ours does.
    pub leased: bool,
    /// Whose it is.
    pub owner: Owner,
}

/// All records in etcd.
#[derive(Debug)]
pub struct Mirror {
    keyspace: KeySpace,
    node: NodeName,
    listed: bool,
    revision: i64,
    definitions: BTreeMap<ServiceName, Held>,
    /// The keys that we have created, by the revision of their creation.
    created: BTreeMap<ServiceName, i64>,
    unknown: BTreeMap<String, String>,
}

impl Mirror {
    /// An empty mirror for the registrar of this node.
    pub fn new(keyspace: KeySpace, node: NodeName) -> Self {
        Self {
            keyspace,
            node,
            listed: false,
            revision: 0,
            definitions: BTreeMap::new(),
            created: BTreeMap::new(),
            unknown: BTreeMap::new(),
        }
    }

    /// Whether everything in etcd is known: before that, nothing may be written.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// All records by service.
    pub fn definitions(&self) -> &BTreeMap<ServiceName, Held> {
        &self.definitions
    }

    /// The records that are ours.
    pub fn ours(&self) -> impl Iterator<Item = (&ServiceName, &Held)> {
        self.definitions
            .iter()
            .filter(|(_, held)| held.owner == Owner::Us)
    }

    /// Whose the definition of a service is, if it is somebody else's.
    pub fn other(&self, service: &ServiceName) -> Option<&str> {
        match &self.definitions.get(service)?.owner {
            Owner::Other(owner) => Some(owner),
            Owner::Us | Owner::Nobody => None,
        }
    }

    /// Entries that are no definitions, with the reason.
    pub fn set_aside(&self) -> impl Iterator<Item = SetAside> {
        let broken = self.definitions.iter().filter_map(|(name, held)| {
            let key = self.keyspace.text(&Key::Definition(name.clone()));
            Some((key, held.record.as_ref().err()?.clone()))
        });
        let unknown = self.unknown.clone().into_iter();
        unknown
            .chain(broken)
            .map(|(key, reason)| SetAside { key, reason })
    }

    /// Takes what the watch tells. What our own writes did is known already.
    pub fn take(&mut self, batch: Batch) {
        self.listed |= batch.listed;
        if batch.listed && batch.revision < self.revision {
            // Another etcd, or one that lost its data: its revisions begin anew, and every write of ours is gone.
            self.created.clear();
            for held in self.definitions.values_mut() {
                held.mod_revision = 0;
            }
        }
        for change in batch.changes {
            match change {
                // A listing shows what is; of single events some can be older than our own writes.
                Change::Put(entry) => {
                    let until = if batch.listed {
                        batch.revision
                    } else {
                        entry.mod_revision - 1
                    };
                    self.put(entry, until);
                }
                Change::Delete { key } => self.delete(&key, batch.revision),
            }
        }
        self.revision = if batch.listed {
            batch.revision
        } else {
            self.revision.max(batch.revision)
        };
    }

    /// Takes a record as it was just read; `None` where there is none.
    pub fn refresh(&mut self, service: &ServiceName, entry: Option<Entry>) {
        match entry {
            Some(entry) => self.put(entry, i64::MAX),
            None => self.deleted(service),
        }
    }

    /// Notes our own put.
    pub fn published(&mut self, definition: Definition, revision: i64) {
        let name = definition.name.clone();
        if !self.definitions.contains_key(&name) {
            self.created.insert(name.clone(), revision);
        }
        let held = Held {
            mod_revision: revision,
            record: Ok(definition),
            leased: false,
            owner: Owner::Us,
        };
        self.definitions.insert(name, held);
        self.revision = self.revision.max(revision);
    }

    /// Notes that a record is gone.
    pub fn deleted(&mut self, service: &ServiceName) {
        self.definitions.remove(service);
        self.created.remove(service);
    }

    /// Takes an entry, unless we know one that was put after this revision.
    fn put(&mut self, entry: Entry, until: i64) {
        let name = match self.keyspace.parse(&entry.key) {
            Ok(Key::Definition(name)) => name,
            Ok(_) => return,
            Err(error) => {
                self.unknown.insert(entry.key, error.to_string());
                return;
            }
        };
        let known = self.definitions.get(&name);
        if known.is_some_and(|held| held.mod_revision > until) {
            return;
        }
        let record = records::parse_definition(&name, &entry.value).map_err(|error| error.to_string());
        let source = match &record {
            Ok(definition) => definition.source.clone(),
            Err(_) => source_of(&entry.value),
        };
        if source.as_ref().is_some_and(|it| it.registrar == self.node) {
            self.created.insert(name.clone(), entry.create_revision);
        } else if source.is_some() && record.is_ok() {
            self.created.remove(&name);
        }
        let is_ours = self.created.get(&name) == Some(&entry.create_revision);
        let held = Held {
            mod_revision: entry.mod_revision,
            leased: entry.lease.is_some(),
            owner: Owner::of(is_ours, source, record.is_ok()),
            record,
        };
        self.definitions.insert(name, held);
    }

    fn delete(&mut self, key: &str, revision: i64) {
        self.unknown.remove(key);
        if let Ok(Key::Definition(name)) = self.keyspace.parse(key) {
            let known = self.definitions.get(&name);
            if known.is_some_and(|held| held.mod_revision <= revision) {
                self.deleted(&name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(source: &str) -> String {
        let source = match source {
            "" => String::new(),
            node => format!(r#", "source": {{"registrar": "{node}", "file": "a.yaml"}}"#),
        };
        format!(r#"{{"name": "a", "image": "a:{{{{ version }}}}", "port": 80{source}}}"#)
    }

    fn entry(key: &str, value: &str, create_revision: i64, mod_revision: i64) -> Change {
        Change::Put(Entry {
            key: format!("/mayfly/services/{key}"),
            value: value.as_bytes().to_vec(),
            create_revision,
            mod_revision,
            lease: None,
        })
    }

    fn batch(listed: bool, revision: i64, changes: Vec<Change>) -> Batch {
        Batch {
            revision,
            listed,
            changes,
        }
    }

    fn mirror() -> Mirror {
        Mirror::new(KeySpace::default(), "us".parse().unwrap())
    }

    #[test]
    fn whose_a_record_is() {
        for (value, owner) in [
            (definition("us"), Owner::Us),
            (
                definition("them"),
                Owner::Other("the registrar of node them".to_owned()),
            ),
            (
                definition(""),
                Owner::Other("somebody else than a registrar".to_owned()),
            ),
            ("no JSON".to_owned(), Owner::Nobody),
            (
                r#"{"source": {"registrar": "us", "file": "a.yaml"}, "newer": 1}"#.to_owned(),
                Owner::Us,
            ),
        ] {
            let mut mirror = mirror();
            mirror.take(batch(true, 7, vec![entry("a", &value, 5, 5)]));
            assert_eq!(
                mirror.definitions()[&"a".parse().unwrap()].owner,
                owner,
                "{value}"
            );
        }
    }

    #[test]
    fn what_is_put_over_ours_by_hand_is_ours_and_what_another_registrar_puts_is_not() {
        let mut mirror = mirror();
        mirror.take(batch(true, 7, vec![entry("a", &definition("us"), 5, 5)]));
        mirror.take(batch(false, 8, vec![entry("a", &definition(""), 5, 8)]));
        assert_eq!(mirror.ours().count(), 1);
        mirror.take(batch(false, 9, vec![entry("a", "x", 5, 9)]));
        assert_eq!((mirror.ours().count(), mirror.set_aside().count()), (1, 1));
        mirror.take(batch(false, 10, vec![entry("a", &definition("them"), 5, 10)]));
        assert_eq!(mirror.ours().count(), 0);
    }

    #[test]
    fn events_older_than_our_own_write_are_passed_over_and_a_new_etcd_is_not() {
        let mut mirror = mirror();
        let ours: Definition = serde_json::from_str(&definition("us")).unwrap();
        mirror.take(batch(true, 7, vec![]));
        mirror.published(ours.clone(), 9);
        mirror.take(batch(false, 8, vec![entry("a", &definition("them"), 8, 8)]));
        mirror.take(batch(
            false,
            8,
            vec![Change::Delete {
                key: "/mayfly/services/a".to_owned(),
            }],
        ));
        assert_eq!(mirror.ours().count(), 1);
        // It lost its data, and somebody else was faster to fill it again.
        mirror.take(batch(true, 3, vec![entry("a", &definition("them"), 3, 3)]));
        assert_eq!(
            mirror.other(&"a".parse().unwrap()),
            Some("the registrar of node them")
        );
    }

    #[test]
    fn a_key_that_is_none_is_set_aside_until_it_is_gone() {
        let mut mirror = mirror();
        mirror.take(batch(true, 7, vec![entry("A b", "x", 5, 5)]));
        let all: Vec<_> = mirror.set_aside().map(|it| it.key).collect();
        assert_eq!(all, ["/mayfly/services/A b"]);
        let key = "/mayfly/services/A b".to_owned();
        mirror.take(batch(false, 8, vec![Change::Delete { key }]));
        assert_eq!(mirror.set_aside().count(), 0);
    }
}
