//! A record as etcd holds it: what it says, whose it is, and when it ends.

use std::time::{Duration, SystemTime};

use mayfly_core::index::Revision;
use mayfly_core::records::Source;
use mayfly_core::records::lifetime::Moment;
use mayfly_daemon::store::LeaseId;

use crate::environments::Environments;
use crate::resource::{Resource, SharedRecord};

#[derive(Debug, Clone)]
pub struct Held<K: Resource = Environments> {
    /// The revision at which it was last put.
    pub mod_revision: i64,
    /// The revision at which its key was created.
    pub create_revision: i64,
    /// The record without its life, or why the value is none.
    pub record: Result<SharedRecord<K>, String>,
    /// What became of it since it was first registered.
    pub life: Option<K::Life>,
    /// The lease that it hangs on, as far as it is known.
    pub lease: Option<LeaseId>,
    /// Whether that is as it should be: we have seen to it ourselves.
    pub lease_is_checked: bool,
    /// The revision at which its history was put, if that says the same.
    pub history: Option<i64>,
    pub owner: Owner,
    /// When it ends, whatever its use.
    pub(super) ends: Option<Moment>,
}

/// The value of a key, as the watch reports it.
pub(super) struct WatchedValue<K: Resource> {
    /// The record without its life, or why the value is none.
    pub record: Result<SharedRecord<K>, String>,
    pub life: Option<K::Life>,
    /// Where it comes from, also if it is no good: a newer registrar may write what this one cannot
    /// read.
    pub source: Option<Source>,
    pub revision: Revision,
    pub lease: Option<LeaseId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// It says that it came from this registrar, or stands where this registrar created the key and
    /// does not say that it came from another one: then somebody has overwritten it by hand.
    Us,
    /// Another writer registered it: `registrar of node x`, or `somebody by hand`.
    Other(String),
    /// The value is nothing that anybody could use.
    Nobody,
}

impl Owner {
    /// The owner of a record of this source, in a key that is ours or not; `good` says whether the
    /// value can be used.
    pub(super) fn of(is_ours: bool, source: Option<Source>, good: bool) -> Self {
        match source {
            _ if is_ours => Self::Us,
            Some(source) => Self::Other(format!("the registrar of node {}", source.registrar)),
            None if good => Self::Other("a program other than a registrar".to_owned()),
            None => Self::Nobody,
        }
    }
}

impl<K: Resource> Held<K> {
    pub fn is_ours(&self) -> bool {
        self.owner == Owner::Us
    }

    /// The record, if it is another writer's.
    pub(super) fn of_others(&self) -> Option<&SharedRecord<K>> {
        self.record
            .as_ref()
            .ok()
            .filter(|_| matches!(self.owner, Owner::Other(_)))
    }

    /// How long its lease should let it live from `now` on, if it was used just now; `None` if
    /// nothing ends it.
    pub fn time_to_live(&self, now: SystemTime) -> Option<Duration> {
        K::time_to_live(self.record.as_ref().ok()?, self.life.as_ref(), now)
    }
}
