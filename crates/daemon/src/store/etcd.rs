//! What a store asks of etcd, in etcd's own terms. [`super::calls`] answers by a real one; the
//! simulation of `crates/simulation` puts another in its place.

use std::collections::BTreeSet;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;

use super::{Cause, Endpoint, Entry, Guard, Lease, LeaseId, LeaseLife};

/// What a call comes to.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Cause>> + Send + 'a>>;

/// An etcd. Every call has a limit.
pub trait Etcd: fmt::Debug + Send + Sync {
    /// Where it is looked for.
    fn endpoints(&self) -> &[Endpoint];

    /// 1 while it answers, else 0.
    fn connected(&self) -> &Gauge;

    /// The same with another limit for every call.
    fn with_limit(&self, limit: Duration) -> Arc<dyn Etcd>;

    /// Reads entries.
    fn range(&self, question: Question) -> Answer<'_, Page>;

    /// Puts a value, and gives the revision of the change.
    fn put(&self, key: String, value: Vec<u8>, lease: Option<LeaseId>) -> Answer<'_, i64>;

    /// Deletes one key, or those from one up to but not including another, and says how many there
    /// were.
    fn delete(&self, start: String, end: Option<String>) -> Answer<'_, i64>;

    /// Carries out all writes in one step if every guard holds for its key, and gives the revision
    /// of the change.
    fn write(&self, guards: Vec<(String, Guard)>, writes: Vec<TextWrite>) -> Answer<'_, Option<i64>>;

    /// Whether the alarm NOSPACE is raised.
    fn is_full(&self) -> Answer<'_, bool>;

    /// Grants a lease of so many seconds at least.
    fn grant(&self, seconds: i64) -> Answer<'_, Lease>;

    /// Lets a lease live for its whole time again.
    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()>;

    /// What is known of a lease; with its keys, where that is asked for.
    fn lease(&self, lease: LeaseId, with_keys: bool) -> Answer<'_, Option<LeaseState>>;

    /// Ends a lease and deletes every key that hangs on it.
    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()>;

    /// Watches a range of keys from a revision on (that one included).
    fn watch(&self, start: String, end: String, from: i64) -> Answer<'_, Box<dyn EventStream>>;
}

/// The stream of one watch.
pub trait EventStream: fmt::Debug + Send {
    /// Waits for the next message. Safe in `select!`: no message is lost.
    fn next(&mut self) -> Answer<'_, StreamMessage>;

    /// Asks etcd to say that the stream is alive.
    fn ask(&mut self) -> Answer<'_, ()>;

    /// Gives the stream up because it was silent for `limit` although asked, and says so.
    fn give_up(self: Box<Self>, limit: Duration) -> Pin<Box<dyn Future<Output = Cause> + Send>>;
}

/// Which entries to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The first key; one that is none of Mayfly's need not be UTF-8.
    pub start: Vec<u8>,
    /// The first key after the range; `None` for `start` alone.
    pub end: Option<String>,
    /// How many entries at most; 0 for all.
    pub limit: i64,
    /// At which revision; 0 for the newest.
    pub revision: i64,
    /// Whether the values are left out.
    pub keys_only: bool,
}

/// Entries, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The revision of the store when they were read.
    pub revision: i64,
    /// The entries.
    pub entries: Vec<Entry>,
    /// Where the next page begins, if there are more in the range.
    pub next: Option<Vec<u8>>,
}

/// One write of several that happen together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextWrite {
    /// Puts a value.
    Put(String, Vec<u8>, Option<LeaseId>),
    /// Deletes a key, if it is there.
    Delete(String),
}

/// What is known of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseState {
    /// What is left of it.
    pub life: LeaseLife,
    /// The texts of its keys, where they were asked for.
    pub keys: BTreeSet<String>,
}

/// One change of a key, as etcd reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key has this value now.
    Put(Entry),
    /// The key of this text is gone.
    Delete(String),
}

/// What a watch stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamMessage {
    /// Changes up to a revision.
    Events {
        /// The newest revision among them.
        revision: i64,
        /// The changes, in order.
        events: Vec<Event>,
    },
    /// It is alive, and there is nothing to tell.
    Alive,
}
