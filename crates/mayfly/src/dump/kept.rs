//! Which keys belong into a dump: those whose loss no running daemon makes good. An environment
//! belongs into it whether or not it has a lease, since its record says when it ends.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_core::keys::{Key, KeySpace, Kind};
use mayfly_core::records::Record;
use mayfly_daemon::store::{Entry, Listing};
use mayfly_daemon::watch::Change;

/// What a listing of etcd means for a dump.
#[derive(Debug, Default)]
pub struct Contents {
    /// The revision of the listing.
    pub revision: i64,
    /// What belongs into a dump, in the order in which it has to be registered.
    pub kept: Vec<KeptEntry>,
    /// Where a running registrar has an instance of its own.
    pub running: BTreeSet<Key>,
    /// How many keys were left out, by their kind.
    pub left_out: BTreeMap<String, usize>,
    /// Keys that belong into it and cannot be read, and why.
    pub unreadable: Vec<(String, String)>,
}

/// A key with its value, which belongs into a dump.
#[derive(Debug, Clone, PartialEq)]
pub struct KeptEntry {
    pub key: Key,
    /// What the value says; nothing where it is no record.
    pub record: Option<Record>,
    /// The entry as etcd has it.
    pub entry: Entry,
}

impl Contents {
    /// Sorts out a listing of everything.
    pub fn of(space: &KeySpace, listing: Listing) -> Self {
        let mut contents = Self {
            revision: listing.revision,
            ..Self::default()
        };
        for entry in listing.entries {
            contents.add(space, entry);
        }
        contents.kept.sort_by_cached_key(rank);
        contents
    }

    fn add(&mut self, space: &KeySpace, entry: Entry) {
        let key = match space.parse(&entry.key) {
            Ok(key) => key,
            Err(error) => {
                // Another Mayfly may have a prefix that begins with this one's.
                if space.kind(&entry.key).is_some() {
                    self.set_aside(entry.key, error.to_string());
                }
                return;
            }
        };
        if !is_kept(key.kind(), entry.lease.is_some()) {
            if key.kind() == Kind::Instance {
                self.running.insert(key.clone());
            }
            *self.left_out.entry(key.kind().to_string()).or_default() += 1;
            return;
        }
        if space.text(&key) != entry.key {
            return self.set_aside(
                entry.key,
                "the service in the key has the suffix .service".to_owned(),
            );
        }
        let record = match Change::of(key.clone(), &entry) {
            Change::Put(stored) => Some(stored.record),
            Change::Unreadable(unreadable) => {
                self.set_aside(entry.key.clone(), unreadable.reason);
                None
            }
            Change::Gone(_) => None,
        };
        self.kept.push(KeptEntry { key, record, entry });
    }

    fn set_aside(&mut self, key: String, reason: String) {
        *self.left_out.entry("unreadable".to_owned()).or_default() += 1;
        self.unreadable.push((key, reason));
    }
}

/// Whether a key of this kind belongs into a dump.
pub fn is_kept(kind: Kind, leased: bool) -> bool {
    match kind {
        Kind::Environment | Kind::History | Kind::Ended | Kind::Definition | Kind::Dns => true,
        // Without a lease it was registered with --permanent.
        Kind::Instance => !leased,
        // A running daemon writes them again.
        Kind::Drain | Kind::Leader | Kind::Router | Kind::Status | Kind::Traffic => false,
        // Requests: they were meant for the moment at which they were made.
        Kind::Confirmation | Kind::Relaunch => false,
    }
}

/// What has to be there first comes first. Of two environments with one prefix the one that was
/// registered first has it, and of two instances at one address the one that was put last.
fn rank(kept: &KeptEntry) -> (usize, i64, Key) {
    let entry = &kept.entry;
    let (place, revision) = match kept.key.kind() {
        Kind::Definition => (0, 0),
        Kind::Dns => (1, 0),
        Kind::Instance => (2, entry.mod_revision),
        Kind::Environment => (3, entry.create_revision),
        Kind::History => (4, 0),
        _ => (5, 0),
    };
    (place, revision, kept.key.clone())
}
