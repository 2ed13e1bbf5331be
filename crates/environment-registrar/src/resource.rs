//! What differs between environments and service definitions. All else is one stack, generic over a
//! [`Resource`].

use std::fmt::{Debug, Display};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mayfly_core::claims::Claim;
use mayfly_core::file::Parsed;
use mayfly_core::keys::{Key, KeyRange, KeySpace};
use mayfly_core::records::lifetime::Moment;
use mayfly_core::records::{self, Source};
use mayfly_daemon::environments::Written;
use mayfly_daemon::store::{Guard, LeaseId, Store, StoreError};

use crate::files_in::origin::Origin;

/// The name of a record.
pub type Name<K> = <K as Resource>::Name;
/// A record, shared between files and etcd where they say the same.
pub type SharedRecord<K> = Arc<<K as Resource>::Record>;

/// Which record of a name a key is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Record,
    /// What was in force last, for the time after its end.
    History,
}

/// A record of a file.
#[derive(Debug, Clone)]
pub struct FileRecord<K: Resource> {
    /// The record that would stand in etcd, with its source. The same allocation as long as the
    /// file says the same.
    pub record: SharedRecord<K>,
    pub marks: K::Marks,
    /// Whether the file was a copy of this record, and a person changed it.
    pub edits_copy: bool,
}

/// One kind of record that files describe and etcd holds.
pub trait Resource: Clone + Debug + Default + Send + 'static {
    /// The name of a record: unique over all files and all of etcd.
    type Name: Clone + Ord + Hash + Debug + Display + Send + Sync;
    /// What etcd holds under that name.
    type Record: Clone + PartialEq + Debug + Send + Sync;
    /// What became of a record since it was first registered: kept apart from what the files say.
    type Life: Clone + PartialEq + Debug + Send + Sync;
    /// A record as a file says it, with the places in the file.
    type Found: Clone + PartialEq + Debug + Send + Sync;
    /// The places in the file of what must be unique.
    type Marks: Clone + Debug + Send + Sync;

    /// What many of them are called.
    const NOUN: &'static str;
    /// What one is called in the names of metrics.
    const METRIC: &'static str;
    /// What the keys of the status record begin with where they name a file.
    const FOLDER: &'static str;
    /// Whether etcd keeps a history of each.
    const HAS_HISTORY: bool = false;
    /// Whether it is nothing to speak of that the directory has never been there.
    const IS_OPTIONAL: bool = false;

    /// Reads the content of a file.
    fn parse(content: &[u8]) -> Parsed<Self::Name, Self::Found>;

    /// The record as it would stand in etcd, and its places in the file.
    fn split(found: Self::Found, source: Source) -> (Self::Record, Self::Marks);

    /// The name of a record.
    fn name(record: &Self::Record) -> &Self::Name;

    /// Where a record comes from.
    fn source(record: &Self::Record) -> Option<&Source>;

    /// What a record of this name is called in a message.
    fn title(name: &Self::Name) -> String;

    /// The name of the record that a file of this origin is a copy of.
    fn copy_of(_origin: &Origin) -> Option<&Self::Name> {
        None
    }

    /// Whether a file of this origin was a copy of a record, and a person changed it.
    fn edits_copy(_record: &Self::Record, _origin: &Origin) -> bool {
        false
    }

    fn range(keyspace: &KeySpace) -> KeyRange;

    /// The key of a record.
    fn key(name: Self::Name, part: Part) -> Key;

    /// What a key is of; `None` for one of another kind.
    fn of_key(key: Key) -> Option<(Self::Name, Part)>;

    /// A record of etcd without its life, and that. `None` for one of another kind.
    fn of_record(record: records::Record) -> Option<(SharedRecord<Self>, Option<Self::Life>)>;

    /// What a record claims besides its name.
    fn claims(_record: &Self::Record) -> Vec<Claim> {
        Vec::new()
    }

    /// Whether a record has what it had before, until what it chooses has answered.
    fn is_switching(_life: &Self::Life) -> bool {
        false
    }

    /// When a record ends by itself, whatever its use.
    fn ends(_record: &Self::Record, _life: Option<&Self::Life>) -> Option<Moment> {
        None
    }

    /// How long a record lives from `now` on, if it was used just now; `None` if nothing ends it.
    fn time_to_live(
        _record: &Self::Record,
        _life: Option<&Self::Life>,
        _now: SystemTime,
    ) -> Option<Duration> {
        None
    }

    /// Whether each use lets a record live on, so that its lease may have less time left than a new
    /// one has.
    fn is_idle(_record: &Self::Record) -> bool {
        false
    }

    /// Why the newest version of a record was refused, as its life tells.
    fn refused(_life: &Self::Life) -> Option<&str> {
        None
    }

    /// Whether a record stays in etcd whatever its file says.
    fn is_protected(_record: &Self::Record) -> bool {
        false
    }

    /// Puts a record if its key, which hung on this lease, is unchanged; `None` where it is not.
    fn put(
        store: &Store,
        record: &Self::Record,
        life: &Self::Life,
        of_key: (Guard, Option<LeaseId>),
    ) -> impl Future<Output = Result<Option<Written>, StoreError>> + Send;

    /// Deletes a record if nobody has changed it, with its history if that is to be forgotten; says
    /// whether it did.
    fn delete(
        store: &Store,
        name: &Self::Name,
        guard: Guard,
        forget: bool,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;
}
