//! The etcd store, typed: keys go in as [`Key`], every call has a limit, and every failure says
//! which action on what failed. Only this module and those below it know etcd-client, and only
//! [`calls`], [`connection`] and [`connect`] of these talk to it: a store stands on an [`Etcd`],
//! which may be another one.

mod access;
mod calls;
mod certificate;
mod connect;
mod connection;
mod endpoint;
mod error;
mod etcd;
mod stream;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mayfly_core::index::Revision;
use mayfly_core::keys::{Key, KeyRange, KeySpace};
use prometheus_client::metrics::gauge::Gauge;

pub use access::{EtcdAccess, Identity, Password, Tls, User};
use connection::Connection;
pub use endpoint::{Endpoint, EndpointError};
pub(crate) use error::Topic;
pub use error::{Cause, FULL, StoreError};
pub use etcd::{Answer, Etcd, Event, EventStream, LeaseState, Page, Question, StreamMessage, TextWrite};
pub(crate) use stream::RangeStream;

/// Keys that one answer of etcd holds at most when listing: far from any limit of gRPC, few round
/// trips.
const PAGE: i64 = 1000;
/// Keys that are looked through at most for [`Store::prefixes_in_use`].
const MOST_KEYS: i64 = 50_000;

/// A lease of etcd; the default is none that etcd could grant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(i64);

impl LeaseId {
    /// The lease of this number.
    pub fn new(number: i64) -> Self {
        Self(number)
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A lease that has been granted, with the time to live that etcd chose (it has a minimum of about
/// 2 s).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its identity.
    pub id: LeaseId,
    /// How long it lives without being kept alive.
    pub ttl: Duration,
}

/// A key with its value, as etcd has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The text of the key; it may be none of Mayfly's.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision at which the key was created.
    pub create_revision: i64,
    /// The revision at which the value was last put.
    pub mod_revision: i64,
    /// The lease that it will vanish with.
    pub lease: Option<LeaseId>,
}

impl Entry {
    /// When it came into etcd.
    pub fn revision(&self) -> Revision {
        Revision {
            created: self.create_revision,
            changed: self.mod_revision,
        }
    }
}

/// All entries of a range at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The revision of the store that the entries were read at.
    pub revision: i64,
    /// The entries, in the order of their keys.
    pub entries: Vec<Entry>,
}

/// What must hold for a conditional write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Absent,
    /// The value was last put at this revision: nobody has changed it since it was read.
    ModRevision(i64),
    /// The key hangs on this lease.
    OwnedBy(LeaseId),
}

/// One write of several that happen together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Puts a value.
    Put(Key, Vec<u8>, Option<LeaseId>),
    /// Deletes a key, if it is there.
    Delete(Key),
}

/// What is left of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseLife {
    /// How long it lives with each keep-alive.
    pub granted: Duration,
    /// How long it lives from now on without one.
    pub left: Duration,
}

/// The store. Cheap to clone; connects with the first call, so it may be made while etcd is down.
#[derive(Debug, Clone)]
pub struct Store {
    etcd: Arc<dyn Etcd>,
    keyspace: KeySpace,
}

impl Store {
    /// The limit of one call, unless [`Store::with_limit`] says otherwise.
    pub const DEFAULT_LIMIT: Duration = Duration::from_secs(5);
    /// The same where there are other endpoints to ask. What is written while a cluster has no
    /// leader is lost without a word, and has to be in effect 5 s after the election.
    pub const LIMIT_OF_SEVERAL: Duration = Duration::from_secs(3);

    /// A store of the keys in `keyspace`, at whichever of the endpoints answers, without TLS or
    /// user.
    pub fn new(endpoints: Vec<Endpoint>, keyspace: KeySpace) -> Self {
        Self::with_access(endpoints, keyspace, EtcdAccess::default())
    }

    /// The same with TLS, or with a user.
    pub fn with_access(endpoints: Vec<Endpoint>, keyspace: KeySpace, access: EtcdAccess) -> Self {
        let limit = match endpoints.len() {
            0 | 1 => Self::DEFAULT_LIMIT,
            _ => Self::LIMIT_OF_SEVERAL,
        };
        Self::over(Arc::new(Connection::new(endpoints, access, limit)), keyspace)
    }

    /// A store of the keys in `keyspace`, in this etcd.
    pub fn over(etcd: Arc<dyn Etcd>, keyspace: KeySpace) -> Self {
        Self { etcd, keyspace }
    }

    /// The same endpoints with another limit for every call, on a connection of its own.
    pub fn with_limit(&self, limit: Duration) -> Self {
        Self::over(self.etcd.with_limit(limit), self.keyspace.clone())
    }

    /// The keys that this store is about.
    pub fn keyspace(&self) -> &KeySpace {
        &self.keyspace
    }

    /// Where etcd is looked for.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.etcd.endpoints()
    }

    /// Whether the last call was answered.
    pub fn connected(&self) -> bool {
        self.etcd.connected().get() == 1
    }

    /// 1 while etcd answers, else 0; for the metrics.
    pub fn connected_gauge(&self) -> Gauge {
        self.etcd.connected().clone()
    }

    /// Reads all entries of a range, all at one revision.
    ///
    /// # Errors
    /// When etcd does not answer within the limit (which holds for every thousand entries), or the
    /// revision is compacted between two pages.
    pub async fn list(&self, range: &KeyRange) -> Result<Listing, StoreError> {
        let mut listing = Listing {
            revision: 0,
            entries: Vec::new(),
        };
        let mut start = range.start.clone().into_bytes();
        loop {
            let question = Question {
                start,
                end: Some(range.end.clone()),
                limit: PAGE,
                revision: listing.revision,
                keys_only: false,
            };
            let page = self.etcd.range(question).await;
            let page = page.map_err(|cause| error(format!("list {}", range.start), cause))?;
            if listing.revision == 0 {
                listing.revision = page.revision;
            }
            listing.entries.extend(page.entries);
            match page.next {
                Some(next) => start = next,
                None => return Ok(listing),
            }
        }
    }

    /// Fails when nothing of Mayfly is in etcd below the prefix: then a command that finds nothing
    /// is more likely to have the wrong one. Everything that a daemon does leaves something there.
    ///
    /// # Errors
    /// When there is nothing, or etcd does not answer. One that does not permit the question is
    /// taken for used.
    pub async fn ensure_used(&self) -> anyhow::Result<()> {
        let range = self.keyspace.everything();
        let question = Question {
            start: range.start.clone().into_bytes(),
            end: Some(range.end),
            limit: 1,
            revision: 0,
            keys_only: true,
        };
        let answer = self.etcd.range(question).await;
        match answer.map_err(|cause| error(format!("list {}", range.start), cause)) {
            Ok(page) if page.entries.is_empty() => Err(self.unused()),
            Err(error) if !error.is_refusal() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// That nothing of Mayfly is below the prefix.
    pub fn unused(&self) -> anyhow::Error {
        let prefix = &self.keyspace;
        anyhow::anyhow!(
            "etcd has no keys below {prefix}: no daemon runs there and nothing is registered; \
             check --prefix and --etcd"
        )
    }

    /// The key prefixes below which daemons report, in all of etcd: for an operator who gave
    /// another one.
    ///
    /// # Errors
    /// When etcd does not answer within the limit, or the user may not read everything.
    pub async fn prefixes_in_use(&self) -> Result<BTreeSet<String>, StoreError> {
        /// As etcd has it, from the first key to the last.
        const EVERYTHING: &str = "\0";
        let question = Question {
            start: EVERYTHING.into(),
            end: Some(EVERYTHING.to_owned()),
            limit: MOST_KEYS,
            revision: 0,
            keys_only: true,
        };
        let page = self.etcd.range(question).await;
        let page = page.map_err(|cause| error("look for other prefixes".to_owned(), cause))?;
        let keys = page.entries.iter().map(|entry| entry.key.as_str());
        let prefix = |key: &str| {
            let (prefix, _) = key.split_once("/status/")?;
            let space: KeySpace = prefix.parse().ok()?;
            space.parse(key).is_ok().then(|| prefix.to_owned())
        };
        Ok(keys.filter_map(prefix).collect())
    }

    /// Reads one entry.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let text = self.keyspace.text(key);
        let question = Question {
            start: text.clone().into_bytes(),
            end: None,
            limit: 0,
            revision: 0,
            keys_only: false,
        };
        let page = self.etcd.range(question).await;
        let mut page = page.map_err(|cause| error(format!("read {text}"), cause))?;
        Ok(page.entries.pop())
    }

    /// Puts a value, whatever was there, and gives the revision of the change.
    ///
    /// # Errors
    /// When etcd does not answer within the limit, or the lease is lost.
    pub async fn put(&self, key: &Key, value: Vec<u8>, lease: Option<LeaseId>) -> Result<i64, StoreError> {
        let text = self.keyspace.text(key);
        let done = self.etcd.put(text.clone(), value, lease).await;
        done.map_err(|cause| error(format!("put {text}"), cause))
    }

    /// Puts a value if `guard` holds, and gives the revision of the change; `None` when it does not
    /// hold.
    ///
    /// # Errors
    /// As [`Store::put`]. After an error the value may have been put all the same: read before
    /// trying again.
    pub async fn put_if(
        &self,
        key: &Key,
        value: Vec<u8>,
        lease: Option<LeaseId>,
        guard: Guard,
    ) -> Result<Option<i64>, StoreError> {
        let text = self.keyspace.text(key);
        let put = TextWrite::Put(text, value, lease);
        self.conditional("put", &[(key.clone(), guard)], vec![put]).await
    }

    /// Carries out all writes in one step if `guard` holds for `key`, and gives the revision of the
    /// change; `None` when it does not hold. No two writes may be of one key.
    ///
    /// # Errors
    /// As [`Store::put`]. After an error they may have been carried out all the same.
    pub async fn write_if(
        &self,
        key: &Key,
        guard: Guard,
        writes: Vec<Write>,
    ) -> Result<Option<i64>, StoreError> {
        self.write_if_all(&[(key.clone(), guard)], writes).await
    }

    /// As [`Store::write_if`], if every guard holds for its key. etcd takes 128 guards and as many
    /// writes, unless it was started with another limit.
    ///
    /// # Errors
    /// As [`Store::write_if`].
    pub async fn write_if_all(
        &self,
        guards: &[(Key, Guard)],
        writes: Vec<Write>,
    ) -> Result<Option<i64>, StoreError> {
        let writes = writes.into_iter().map(|write| match write {
            Write::Put(key, value, lease) => TextWrite::Put(self.keyspace.text(&key), value, lease),
            Write::Delete(key) => TextWrite::Delete(self.keyspace.text(&key)),
        });
        self.conditional("write", guards, writes.collect()).await
    }

    /// Deletes a key; says whether it existed.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn delete(&self, key: &Key) -> Result<bool, StoreError> {
        let text = self.keyspace.text(key);
        let done = self.etcd.delete(text.clone(), None).await;
        let deleted = done.map_err(|cause| error(format!("delete {text}"), cause))?;
        Ok(deleted > 0)
    }

    /// Deletes every key of a range in one step, those that are none of Mayfly's too, and says how
    /// many there were.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn delete_all(&self, range: &KeyRange) -> Result<i64, StoreError> {
        let done = self
            .etcd
            .delete(range.start.clone(), Some(range.end.clone()))
            .await;
        done.map_err(|cause| error(format!("delete all keys below {}", range.start), cause))
    }

    /// Deletes a key if `guard` holds; says whether it did.
    ///
    /// # Errors
    /// As [`Store::delete`]. After an error the key may be deleted all the same.
    pub async fn delete_if(&self, key: &Key, guard: Guard) -> Result<bool, StoreError> {
        let delete = TextWrite::Delete(self.keyspace.text(key));
        let guards = [(key.clone(), guard)];
        let done = self.conditional("delete", &guards, vec![delete]).await?;
        Ok(done.is_some())
    }

    async fn conditional(
        &self,
        verb: &str,
        guards: &[(Key, Guard)],
        writes: Vec<TextWrite>,
    ) -> Result<Option<i64>, StoreError> {
        let guards = guards
            .iter()
            .map(|(key, guard)| (self.keyspace.text(key), *guard));
        let guards: Vec<(String, Guard)> = guards.collect();
        let what = match guards.as_slice() {
            [] => verb.to_owned(),
            [(key, _)] => format!("{verb} {key}"),
            [(key, _), others @ ..] => format!("{verb} {key} and {} other keys", others.len()),
        };
        let done = self.etcd.write(guards, writes).await;
        done.map_err(|cause| error(what, cause))
    }

    /// Whether etcd has raised the alarm NOSPACE.
    ///
    /// # Errors
    /// When etcd does not answer within the limit, or does not tell.
    pub async fn is_full(&self) -> Result<bool, StoreError> {
        let answer = self.etcd.is_full().await;
        answer.map_err(|cause| error("read etcd's status".to_owned(), cause))
    }

    /// Asks for a lease. `ttl` is rounded up to whole seconds, at least one; etcd may give a longer
    /// one.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000))
            .unwrap_or(i64::MAX)
            .max(1);
        let answer = self.etcd.grant(seconds).await;
        answer.map_err(|cause| error("grant a lease".to_owned(), cause))
    }

    /// Lets a lease live for its whole time again.
    ///
    /// # Errors
    /// [`Cause::LeaseLost`] when etcd does not know it any more; when etcd does not answer within
    /// the limit.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let answer = self.etcd.keep_alive(lease).await;
        answer.map_err(|cause| error(format!("keep lease {lease} alive"), cause))
    }

    /// What is left of a lease; `None` when etcd does not know it any more.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn lease_life(&self, lease: LeaseId) -> Result<Option<LeaseLife>, StoreError> {
        let answer = self.etcd.lease(lease, false).await;
        let state =
            answer.map_err(|cause| error(format!("read the remaining time of lease {lease}"), cause))?;
        Ok(state.map(|state| state.life))
    }

    /// The texts of the keys that hang on a lease.
    ///
    /// # Errors
    /// [`Cause::LeaseLost`] when etcd does not know it any more; when etcd does not answer within
    /// the limit.
    pub async fn keys_of(&self, lease: LeaseId) -> Result<BTreeSet<String>, StoreError> {
        let answer = self.etcd.lease(lease, true).await;
        let state = answer.and_then(|state| state.ok_or(Cause::LeaseLost));
        let state = state.map_err(|cause| error(format!("read the keys of lease {lease}"), cause))?;
        Ok(state.keys)
    }

    /// Ends a lease and deletes every key that hangs on it, in one step. One that is lost already
    /// is no error.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self.etcd.revoke(lease).await {
            Ok(()) | Err(Cause::LeaseLost) => Ok(()),
            Err(cause) => Err(error(format!("revoke lease {lease}"), cause)),
        }
    }

    /// Revokes a lease if it holds no key: one that was put by hand may hold several.
    ///
    /// # Errors
    /// As [`Store::keys_of`]. The lease then runs out, which costs nothing but its time.
    pub async fn revoke_unused(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self.keys_of(lease).await?.is_empty() {
            true => self.revoke(lease).await,
            false => Ok(()),
        }
    }

    /// Watches a range from a revision on (that one included). Meant for [`crate::watch`], which
    /// minds the traps.
    pub(crate) async fn stream(&self, range: &KeyRange, from: i64) -> Result<RangeStream, StoreError> {
        RangeStream::open(&*self.etcd, range, from).await
    }
}

fn error(action: String, cause: Cause) -> StoreError {
    StoreError::new(action, cause)
}
