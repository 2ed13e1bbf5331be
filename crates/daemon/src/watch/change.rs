//! What a watch yields: the changes of etcd, read once for all consumers.

use mayfly_core::index::Revision;
use mayfly_core::keys::Key;
use mayfly_core::records::{InstanceState, Record, SetAsides, Source, source_of};
use mayfly_core::trust::{self, KeyEvent, KeyState};

use crate::store::{Entry, LeaseId};

/// One change of a key.
// Nearly every change is a put, so a box would cost an allocation each and save nothing.
#[allow(clippy::large_enum_variant)]
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// The key has this record now. It may be the same as before: etcd was written to, or lost its
    /// data and got it back.
    Put(Stored),
    /// The key has a value that is no record: its last good one stays in force. Only who writes the
    /// key minds.
    Unreadable(Unreadable),
    /// The key is gone, by a delete, by the end of its lease, or unseen while the watch was
    /// interrupted.
    Gone(Key),
}

/// A record as etcd has it.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The record.
    pub record: Record,
    /// When it came into etcd.
    pub revision: Revision,
    /// The lease that it will vanish with.
    pub lease: Option<LeaseId>,
}

/// A value that is no record, as etcd has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its key.
    pub key: Key,
    /// Why it is none.
    pub reason: String,
    /// Where it comes from, if it says that in spite of all.
    pub source: Option<Source>,
    /// When it came into etcd.
    pub revision: Revision,
    /// The lease that it will vanish with.
    pub lease: Option<LeaseId>,
}

impl Change {
    /// Reads the entry of a key.
    pub fn of(key: Key, entry: &Entry) -> Self {
        let (revision, lease) = (entry.revision(), entry.lease);
        match Record::decode(&key, &entry.value) {
            Ok(record) => Self::Put(Stored {
                record,
                revision,
                lease,
            }),
            Err(error) => Self::Unreadable(Unreadable {
                key,
                reason: error.to_string(),
                source: source_of(&entry.value),
                revision,
                lease,
            }),
        }
    }

    /// The key that changed.
    pub fn key(&self) -> Key {
        match self {
            Self::Put(stored) => stored.record.key(),
            Self::Unreadable(unreadable) => unreadable.key.clone(),
            Self::Gone(key) => key.clone(),
        }
    }
}

impl trust::TrustChange for Change {
    fn event(&self) -> KeyEvent {
        match self {
            Self::Put(stored) => {
                let draining = match &stored.record {
                    Record::Instance(_, _, instance) => instance.state == InstanceState::Draining,
                    _ => false,
                };
                let why = match &stored.record {
                    Record::Ended(_, ended) => Some(ended.why),
                    _ => None,
                };
                let state = KeyState {
                    leased: stored.lease.is_some(),
                    draining,
                    why,
                    changed: stored.revision.changed,
                };
                KeyEvent::Put(stored.record.key(), state)
            }
            Self::Unreadable(unreadable) => KeyEvent::Unreadable(unreadable.key.clone()),
            Self::Gone(key) => KeyEvent::Gone(key.clone()),
        }
    }

    fn end(key: Key) -> Self {
        Self::Gone(key)
    }
}

/// Changes that belong together: those of one listing, or of one message of etcd.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// After applying the batch, the consumer is in sync with the store at this revision.
    pub revision: i64,
    /// Whether the batch comes from a listing. The first one always does, and is the full first
    /// sync; `changes` is empty when a later listing found no difference.
    pub listed: bool,
    /// The changes, in order; a key may occur several times.
    pub changes: Vec<Change>,
    /// All that cannot be read after these changes: values, and keys that are none of Mayfly's.
    pub set_aside: SetAsides,
}

impl Batch {
    /// Whether there is nothing at all, for one that was looked up.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.set_aside.iter().next().is_none()
    }

    /// Its records.
    pub fn records(self) -> impl Iterator<Item = Stored> {
        self.changes.into_iter().filter_map(|change| match change {
            Change::Put(stored) => Some(stored),
            Change::Unreadable(_) | Change::Gone(_) => None,
        })
    }
}
