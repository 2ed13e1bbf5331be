//! What etcd holds below `environments/`, as the watch and our own writes tell it, and which of it is ours.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::names::{DnsPrefix, EnvironmentName, HeaderValue, NodeName};
use mayfly_core::records::{self, Environment, SetAside, Source};
use mayfly_daemon::store::Entry;
use mayfly_daemon::watch::{Batch, Change};

/// A record in etcd.
#[derive(Debug, Clone)]
pub struct Held {
    /// The revision at which it was last put.
    pub mod_revision: i64,
    /// The revision at which its key was created.
    pub create_revision: i64,
    /// The environment, or why the value is none.
    pub record: Result<Arc<Environment>, String>,
    /// Whose it is.
    pub owner: Owner,
}

/// Whose a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// It says that it came from this registrar, or stands where this registrar created the key: then somebody has
    /// overwritten it by hand.
    Us,
    /// Somebody else registered it: `registrar of node x`, or `somebody by hand`.
    Other(String),
    /// The value is nothing that anybody could use.
    Nobody,
}

/// All records in etcd.
#[derive(Debug)]
pub struct Mirror {
    keyspace: KeySpace,
    node: NodeName,
    listed: bool,
    revision: i64,
    environments: BTreeMap<EnvironmentName, Held>,
    /// The keys that we have created, by the revision of their creation.
    created: BTreeMap<EnvironmentName, i64>,
    unknown: BTreeMap<String, String>,
    /// The records that are no environments.
    broken: BTreeSet<EnvironmentName>,
    /// Who else has a prefix or header.
    prefixes: HashMap<DnsPrefix, BTreeSet<EnvironmentName>>,
    headers: HashMap<HeaderValue, BTreeSet<EnvironmentName>>,
}

/// What is new in etcd.
#[derive(Debug, Default)]
pub struct News {
    /// Whether everything may be.
    pub all: bool,
    /// The environments whose records are new or gone.
    pub names: BTreeSet<EnvironmentName>,
    /// The records of others that came or went.
    pub others: Vec<Arc<Environment>>,
}

impl Mirror {
    /// An empty mirror for the registrar of this node.
    pub fn new(keyspace: KeySpace, node: NodeName) -> Self {
        Self {
            keyspace,
            node,
            listed: false,
            revision: 0,
            environments: BTreeMap::new(),
            created: BTreeMap::new(),
            unknown: BTreeMap::new(),
            broken: BTreeSet::new(),
            prefixes: HashMap::new(),
            headers: HashMap::new(),
        }
    }

    /// Whether everything in etcd is known: before that, nothing may be written.
    pub fn is_listed(&self) -> bool {
        self.listed
    }

    /// The newest revision that the mirror shows.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// All records by name.
    pub fn environments(&self) -> &BTreeMap<EnvironmentName, Held> {
        &self.environments
    }

    /// The record of an environment, if it is ours.
    pub fn ours(&self, name: &EnvironmentName) -> Option<&Arc<Environment>> {
        let held = self.environments.get(name)?;
        held.record.as_ref().ok().filter(|_| held.owner == Owner::Us)
    }

    /// The environments of others that have a prefix.
    pub fn others_with_prefix(&self, prefix: &DnsPrefix) -> impl Iterator<Item = &EnvironmentName> {
        self.prefixes.get(prefix).into_iter().flatten()
    }

    /// The environments of others that have a header.
    pub fn others_with_header(&self, header: &HeaderValue) -> impl Iterator<Item = &EnvironmentName> {
        self.headers.get(header).into_iter().flatten()
    }

    /// Whose an environment is, if it is somebody else's.
    pub fn other(&self, name: &EnvironmentName) -> Option<&str> {
        match &self.environments.get(name)?.owner {
            Owner::Other(owner) => Some(owner),
            Owner::Us | Owner::Nobody => None,
        }
    }

    /// Entries that are no environments, with the reason.
    pub fn set_aside(&self) -> Vec<SetAside> {
        let unknown = self.unknown.iter().map(|(key, reason)| SetAside {
            key: key.clone(),
            reason: reason.clone(),
        });
        let broken = self.broken.iter().filter_map(|name| {
            let key = self.keyspace.text(&Key::Environment(name.clone()));
            Some(SetAside {
                key,
                reason: self.environments.get(name)?.record.as_ref().err()?.clone(),
            })
        });
        unknown.chain(broken).collect()
    }

    /// Takes what the watch tells, and says what of it is new. What our own writes did is known already.
    pub fn take(&mut self, batch: Batch) -> News {
        let mut news = News {
            all: batch.listed && !self.listed,
            ..News::default()
        };
        self.listed |= batch.listed;
        if batch.listed && batch.revision < self.revision {
            // Another etcd, or one that lost its data: its revisions begin anew, and every write of ours is gone.
            self.created.clear();
            for held in self.environments.values_mut() {
                held.mod_revision = 0;
            }
            news.all = true;
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
                    self.put(entry, until, &mut news);
                }
                Change::Delete { key } => self.delete(&key, batch.revision, &mut news),
            }
        }
        self.revision = if batch.listed {
            batch.revision
        } else {
            self.revision.max(batch.revision)
        };
        news
    }

    /// Takes a record as it was just read; `None` when there is none.
    pub fn refresh(&mut self, name: &EnvironmentName, entry: Option<Entry>) {
        match entry {
            Some(entry) => self.put(entry, i64::MAX, &mut News::default()),
            None => self.deleted(name),
        }
    }

    /// Notes our own put.
    pub fn published(&mut self, environment: &Arc<Environment>, revision: i64) {
        let name = &environment.name;
        let create_revision = self
            .environments
            .get(name)
            .map_or(revision, |held| held.create_revision);
        let record = Ok(environment.clone());
        let held = Held {
            mod_revision: revision,
            create_revision,
            record,
            owner: Owner::Us,
        };
        self.created.insert(name.clone(), create_revision);
        self.replace(name, Some(held));
        self.revision = self.revision.max(revision);
    }

    /// Notes our own delete.
    pub fn deleted(&mut self, name: &EnvironmentName) {
        self.replace(name, None);
        self.created.remove(name);
    }

    /// Notes that a record in etcd says the same as the one in memory: the next comparison is one of pointers.
    pub fn same(&mut self, environment: &Arc<Environment>) {
        if let Some(held) = self.environments.get_mut(&environment.name) {
            held.record = Ok(environment.clone());
        }
    }

    /// Puts a record in the place of another, and gives that one.
    fn replace(&mut self, name: &EnvironmentName, held: Option<Held>) -> Option<Held> {
        let added = held.as_ref().and_then(Held::of_others).cloned();
        if held.as_ref().is_some_and(|held| held.record.is_err()) {
            self.broken.insert(name.clone());
        } else {
            self.broken.remove(name);
        }
        let before = match held {
            Some(held) => self.environments.insert(name.clone(), held),
            None => self.environments.remove(name),
        };
        if let Some(removed) = before.as_ref().and_then(Held::of_others) {
            take_out(&mut self.prefixes, &removed.prefix, name);
            take_out(&mut self.headers, &removed.header, name);
        }
        if let Some(added) = added {
            self.prefixes
                .entry(added.prefix.clone())
                .or_default()
                .insert(name.clone());
            self.headers
                .entry(added.header.clone())
                .or_default()
                .insert(name.clone());
        }
        before
    }

    /// Takes a record, unless we know one that was put after this revision.
    fn put(&mut self, entry: Entry, until: i64, news: &mut News) {
        let name = match self.keyspace.parse(&entry.key) {
            Ok(Key::Environment(name)) => name,
            Ok(_) => return,
            Err(error) => {
                self.unknown.insert(entry.key, error.to_string());
                return;
            }
        };
        if self
            .environments
            .get(&name)
            .is_some_and(|held| held.mod_revision > until)
        {
            return;
        }
        let record = records::parse_environment(&name, &entry.value);
        let source = match &record {
            Ok(environment) => environment.source.clone(),
            Err(_) => source_of(&entry.value),
        };
        if source
            .as_ref()
            .is_some_and(|source| source.registrar == self.node)
        {
            self.created.insert(name.clone(), entry.create_revision);
        }
        let owner = if self.created.get(&name) == Some(&entry.create_revision) {
            Owner::Us
        } else {
            match (source, &record) {
                (Some(source), _) => Owner::Other(format!("the registrar of node {}", source.registrar)),
                (None, Ok(_)) => Owner::Other("somebody else than a registrar".to_owned()),
                (None, Err(_)) => Owner::Nobody,
            }
        };
        let record = record.map(Arc::new).map_err(|error| error.to_string());
        let held = Held {
            mod_revision: entry.mod_revision,
            create_revision: entry.create_revision,
            record,
            owner,
        };
        news.others.extend(held.of_others().cloned());
        let before = self.replace(&name, Some(held));
        news.others
            .extend(before.as_ref().and_then(Held::of_others).cloned());
        news.names.insert(name);
    }

    fn delete(&mut self, key: &str, revision: i64, news: &mut News) {
        let Ok(Key::Environment(name)) = self.keyspace.parse(key) else {
            self.unknown.remove(key);
            return;
        };
        if self
            .environments
            .get(&name)
            .is_some_and(|held| held.mod_revision <= revision)
        {
            let before = self.replace(&name, None);
            self.created.remove(&name);
            news.others
                .extend(before.as_ref().and_then(Held::of_others).cloned());
            news.names.insert(name);
        }
    }
}

impl Held {
    /// The environment, if it is somebody else's.
    fn of_others(&self) -> Option<&Arc<Environment>> {
        self.record
            .as_ref()
            .ok()
            .filter(|_| matches!(self.owner, Owner::Other(_)))
    }
}

fn take_out<Text: std::hash::Hash + Eq>(
    claims: &mut HashMap<Text, BTreeSet<EnvironmentName>>,
    text: &Text,
    name: &EnvironmentName,
) {
    if let Some(names) = claims.get_mut(text) {
        names.remove(name);
        if names.is_empty() {
            claims.remove(text);
        }
    }
}

/// The source of a record that is otherwise no good: a newer registrar may write what this one can't read.
fn source_of(value: &[u8]) -> Option<Source> {
    let mut record: serde_json::Value = records::parse(value).ok()?;
    serde_json::from_value(record.get_mut("source")?.take()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> Mirror {
        Mirror::new(KeySpace::default(), "us".parse().unwrap())
    }

    fn put(name: &str, value: &str, create_revision: i64, mod_revision: i64) -> Change {
        let (key, value) = (format!("/mayfly/environments/{name}"), value.as_bytes().to_vec());
        Change::Put(Entry {
            key,
            value,
            create_revision,
            mod_revision,
            lease: None,
        })
    }

    fn record(name: &str, registrar: &str) -> String {
        let source = format!(r#""source":{{"registrar":"{registrar}","file":"f.yaml"}}"#);
        format!(r#"{{"name":"{name}","prefix":"www-{name}","header":"{name}",{source}}}"#)
    }

    fn owner(mirror: &Mirror, name: &str) -> Owner {
        mirror.environments()[&name.parse::<EnvironmentName>().unwrap()]
            .owner
            .clone()
    }

    fn batch(revision: i64, changes: Vec<Change>) -> Batch {
        Batch {
            revision,
            listed: revision < 10,
            changes,
        }
    }

    #[test]
    fn whose_a_record_is() {
        let mut mirror = mirror();
        let hand = r#"{"name":"c","prefix":"c","header":"c"}"#;
        mirror.take(batch(
            9,
            vec![
                put("a", &record("a", "us"), 2, 2),
                put("b", &record("b", "them"), 3, 3),
                put("c", hand, 4, 4),
                put("d", "no JSON", 5, 5),
                put(
                    "e",
                    r#"{"name":"e","prefix":7,"source":{"registrar":"them","file":"f"}}"#,
                    6,
                    6,
                ),
            ],
        ));
        let them = Owner::Other("the registrar of node them".to_owned());
        assert_eq!(
            ["a", "b", "d", "e"].map(|name| owner(&mirror, name)),
            [Owner::Us, them.clone(), Owner::Nobody, them]
        );
        assert!(matches!(owner(&mirror, "c"), Owner::Other(_)));
        assert!(mirror.ours(&"a".parse().unwrap()).is_some() && mirror.ours(&"b".parse().unwrap()).is_none());
        let aside: Vec<_> = mirror.set_aside().into_iter().map(|entry| entry.key).collect();
        assert_eq!(aside, ["/mayfly/environments/d", "/mayfly/environments/e"]);
    }

    #[test]
    fn a_key_that_we_created_is_ours_whatever_is_written_over_it() {
        let mut mirror = mirror();
        mirror.take(batch(9, vec![put("a", &record("a", "us"), 2, 2)]));
        mirror.take(batch(10, vec![put("a", &record("a", "them"), 2, 10)]));
        assert_eq!(owner(&mirror, "a"), Owner::Us);
        mirror.take(batch(
            12,
            vec![
                Change::Delete {
                    key: "/mayfly/environments/a".to_owned(),
                },
                put("a", &record("a", "them"), 12, 12),
            ],
        ));
        assert!(
            matches!(owner(&mirror, "a"), Owner::Other(_)),
            "deleted, and created by somebody else"
        );
    }

    #[test]
    fn news_that_are_older_than_our_own_writes_change_nothing() {
        let mut mirror = mirror();
        mirror.take(batch(9, vec![put("a", &record("a", "us"), 2, 2)]));
        let ours: Arc<Environment> = mirror.ours(&"a".parse().unwrap()).unwrap().clone();
        mirror.published(&ours, 20);
        mirror.take(batch(
            15,
            vec![
                put("a", "older", 2, 15),
                Change::Delete {
                    key: "/mayfly/environments/a".to_owned(),
                },
            ],
        ));
        assert!(Arc::ptr_eq(mirror.ours(&ours.name).unwrap(), &ours));
        assert_eq!(mirror.revision(), 20);
        mirror.take(batch(
            21,
            vec![Change::Delete {
                key: "/mayfly/environments/a".to_owned(),
            }],
        ));
        assert!(mirror.environments().is_empty());
    }

    #[test]
    fn an_etcd_that_lost_its_data_is_believed() {
        let mut mirror = mirror();
        mirror.take(batch(
            9,
            vec![
                put("a", &record("a", "us"), 2, 9),
                put("b", &record("b", "us"), 3, 8),
            ],
        ));
        let gone = Change::Delete {
            key: "/mayfly/environments/a".to_owned(),
        };
        mirror.take(batch(2, vec![gone, put("b", "{}", 2, 2)]));
        assert_eq!(mirror.environments().len(), 1);
        assert_eq!((owner(&mirror, "b"), mirror.revision()), (Owner::Nobody, 2));
    }
}
