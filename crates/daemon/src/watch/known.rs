//! What a watch has reported to its consumer so far, and what a new listing therefore changes: the
//! pure half of [`crate::watch`]. Keys and values are read here; for a value that is no record the
//! consumer keeps the last good one.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use mayfly_core::keys::{KeySpace, Kind};
use mayfly_core::records::SetAsides;

use super::Change;
use crate::store::{Entry, Event, Listing};

/// What was told of a key. The value counts too: after etcd lost its data, another value can have
/// an old revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SeenVersion {
    create_revision: i64,
    mod_revision: i64,
    value: u64,
}

impl SeenVersion {
    fn of(entry: &Entry) -> Self {
        let mut hasher = DefaultHasher::new();
        entry.value.hash(&mut hasher);
        Self {
            create_revision: entry.create_revision,
            mod_revision: entry.mod_revision,
            value: hasher.finish(),
        }
    }
}

/// Every key the consumer knows of.
#[derive(Debug)]
pub(crate) struct KnownKeys {
    keyspace: KeySpace,
    /// The kinds that the consumer asks for.
    kinds: &'static [Kind],
    keys: HashMap<String, SeenVersion>,
    /// Those of them that cannot be read.
    set_aside: SetAsides,
}

impl KnownKeys {
    pub(crate) fn new(keyspace: KeySpace, kinds: &'static [Kind]) -> Self {
        Self {
            keyspace,
            kinds,
            keys: HashMap::new(),
            set_aside: SetAsides::default(),
        }
    }

    /// Whether the consumer asks for a key. Of one that nobody knows everybody hears.
    fn is_wanted(&self, text: &str) -> bool {
        self.keyspace
            .kind(text)
            .is_none_or(|kind| self.kinds.contains(&kind))
    }

    /// What the value of a key means.
    fn read(&mut self, entry: &Entry) -> Option<Change> {
        let change = match self.keyspace.parse(&entry.key) {
            Ok(key) => Change::of(key, entry),
            Err(error) => {
                self.set_aside.insert(entry.key.clone(), error.to_string());
                return None;
            }
        };
        match &change {
            Change::Unreadable(unreadable) => {
                self.set_aside
                    .insert(entry.key.clone(), unreadable.reason.clone());
            }
            _ => self.set_aside.remove(&entry.key),
        }
        Some(change)
    }

    /// What the end of a key means. Where the same key is there in its other spelling, it is not
    /// gone.
    fn end(&mut self, text: &str) -> Option<Change> {
        self.set_aside.remove(text);
        let key = self.keyspace.parse(text).ok()?;
        let canonical = self.keyspace.text(&key);
        let other = match canonical == text {
            true => self.keyspace.text_with_suffix(&key),
            false => Some(canonical),
        };
        let Some(seen) = other.and_then(|other| self.keys.get_mut(&other)) else {
            return Some(Change::Gone(key));
        };
        // What was told last may be the value of the one that is gone: the next listing tells the
        // other's again.
        seen.mod_revision = 0;
        None
    }

    /// The keys that cannot be read.
    pub(crate) fn set_aside(&self) -> SetAsides {
        self.set_aside.clone()
    }

    /// Whether a listing has another history than what was told up to a revision: it has an entry
    /// from before that revision which was never told, or was told with other revisions.
    pub(crate) fn contradicts(&self, listing: &Listing, told: i64) -> bool {
        let is_other = |entry: &Entry| match self.keys.get(&entry.key) {
            // What is there of a key with two spellings was told of the other one: see `end`.
            Some(seen) if seen.mod_revision == 0 => false,
            Some(seen) => {
                (seen.create_revision, seen.mod_revision) != (entry.create_revision, entry.mod_revision)
            }
            None => true,
        };
        // Keys that are no UTF-8 may share one text, of which only the last is remembered.
        let is_text = |entry: &&Entry| !entry.key.contains(char::REPLACEMENT_CHARACTER);
        let older = listing.entries.iter().filter(|entry| entry.mod_revision < told);
        let mut older = older.filter(is_text);
        older.any(|entry| self.is_wanted(&entry.key) && is_other(entry))
    }

    /// Turns a listing into the differences from what was told.
    pub(crate) fn list(&mut self, listing: Listing) -> Vec<Change> {
        let mut present = HashMap::with_capacity(listing.entries.len());
        let mut changes = Vec::new();
        for entry in listing.entries {
            if !self.is_wanted(&entry.key) {
                continue;
            }
            let mark = SeenVersion::of(&entry);
            if self.keys.get(&entry.key) != Some(&mark) {
                changes.extend(self.read(&entry));
            }
            present.insert(entry.key, mark);
        }
        let before = std::mem::replace(&mut self.keys, present);
        let mut ended: Vec<String> = before.into_keys().collect();
        ended.retain(|key| !self.keys.contains_key(key));
        ended.sort_unstable();
        // Ends first, so that a name that moved from one key to another is free when it is taken.
        let mut all: Vec<Change> = ended.iter().filter_map(|key| self.end(key)).collect();
        all.append(&mut changes);
        all
    }

    /// Takes events, and gives what to pass on of them.
    pub(crate) fn events(&mut self, events: Vec<Event>) -> Vec<Change> {
        events.into_iter().filter_map(|event| self.event(event)).collect()
    }

    fn event(&mut self, event: Event) -> Option<Change> {
        match event {
            Event::Put(entry) => {
                if !self.is_wanted(&entry.key) {
                    return None;
                }
                let change = self.read(&entry);
                let mark = SeenVersion::of(&entry);
                self.keys.insert(entry.key, mark);
                change
            }
            Event::Delete(key) => {
                self.keys.remove(&key)?;
                self.end(&key)
            }
        }
    }
}

#[cfg(test)]
mod tests;
