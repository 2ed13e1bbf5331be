//! The etcd store, typed: keys go in as [`Key`], every call has a limit, and every failure says which action on
//! what failed. Only this module and those below it know etcd-client.

mod access;
mod certificate;
mod connection;
mod error;
mod stream;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, LeaseTimeToLiveOptions, PutOptions,
    ResponseHeader, Txn, TxnOp,
};
use mayfly_core::index::Revision;
use mayfly_core::keys::{Key, KeyRange, KeySpace};
use prometheus_client::metrics::gauge::Gauge;

use crate::args::Endpoint;
pub use access::{Access, Identity, Password, Tls, User};
use connection::Connection;
pub(crate) use error::Topic;
pub use error::{Cause, FULL, StoreError};
pub(crate) use stream::{RangeStream, StreamMessage};

/// Keys that one answer of etcd holds at most when listing: far from any limit of gRPC, few round trips.
const PAGE: i64 = 1000;

/// A lease of etcd; the default is none that etcd could grant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(i64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// A lease that has been granted, with the time to live that etcd chose (it has a minimum of about 2 s).
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
    /// The text of the key; it may be none of Mayfly's, so parse it with [`KeySpace::parse`].
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
    /// When it came into etcd, for an index.
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
    connection: Connection,
    keyspace: KeySpace,
}

impl Store {
    /// The limit of one call, unless [`Store::with_limit`] says otherwise.
    pub const DEFAULT_LIMIT: Duration = Duration::from_secs(5);
    /// The same where there are other endpoints to ask. What is written while a cluster has no leader is lost without a
    /// word, and has to be in effect 5 s after the election.
    pub const LIMIT_OF_SEVERAL: Duration = Duration::from_secs(3);

    /// A store of the keys in `keyspace`, at whichever of the endpoints answers, without TLS or user.
    pub fn new(endpoints: Vec<Endpoint>, keyspace: KeySpace) -> Self {
        let limit = match endpoints.len() {
            0 | 1 => Self::DEFAULT_LIMIT,
            _ => Self::LIMIT_OF_SEVERAL,
        };
        Self {
            connection: Connection::new(endpoints, Access::default(), limit),
            keyspace,
        }
    }

    /// The same with TLS, or with a user.
    pub fn with_access(self, access: Access) -> Self {
        Self {
            connection: self.connection.with_access(access),
            keyspace: self.keyspace,
        }
    }

    /// The same endpoints with another limit for every call, on a connection of its own.
    pub fn with_limit(&self, limit: Duration) -> Self {
        Self {
            connection: self.connection.with_limit(limit),
            keyspace: self.keyspace.clone(),
        }
    }

    /// The keys that this store is about.
    pub fn keyspace(&self) -> &KeySpace {
        &self.keyspace
    }

    /// Where etcd is looked for.
    pub fn endpoints(&self) -> &[Endpoint] {
        self.connection.endpoints()
    }

    /// Whether the last call was answered.
    pub fn connected(&self) -> bool {
        self.connection.connected().get() == 1
    }

    /// 1 while etcd answers, else 0; for the metrics.
    pub fn connected_gauge(&self) -> Gauge {
        self.connection.connected().clone()
    }

    /// Reads all entries of a range, all at one revision.
    ///
    /// # Errors
    /// When etcd does not answer within the limit (which holds for every thousand entries), or the revision is
    /// compacted between two pages.
    pub async fn list(&self, range: &KeyRange) -> Result<Listing, StoreError> {
        let action = || format!("list {}", range.start);
        let mut listing = Listing {
            revision: 0,
            entries: Vec::new(),
        };
        let mut from = range.start.clone().into_bytes();
        loop {
            let mut options = GetOptions::new().with_range(range.end.as_str()).with_limit(PAGE);
            if listing.revision != 0 {
                options = options.with_revision(listing.revision);
            }
            let start = from.clone();
            let mut page = self
                .connection
                .call(action, |client| {
                    let (start, options) = (start.clone(), options.clone());
                    async move { client.kv.clone().get(start, Some(options)).await }
                })
                .await?;
            if listing.revision == 0 {
                listing.revision = revision(page.header());
            }
            let more = page.more();
            let entries = page.take_kvs();
            if let Some(last) = entries.last() {
                from = last.key().to_vec();
                from.push(0);
            }
            let ended = !more || entries.is_empty();
            listing.entries.extend(entries.into_iter().map(entry));
            if ended {
                return Ok(listing);
            }
        }
    }

    /// Fails when nothing of Mayfly is in etcd below the prefix: then a command that finds nothing is more likely to
    /// have the wrong one. Everything that a daemon does leaves something there.
    ///
    /// # Errors
    /// When there is nothing, or etcd does not answer. One that does not permit the question is taken for used.
    pub async fn ensure_used(&self) -> anyhow::Result<()> {
        let range = self.keyspace.everything();
        let options = GetOptions::new()
            .with_range(range.end.as_str())
            .with_keys_only()
            .with_limit(1);
        let ask = |client: connection::Clients| {
            let (start, options) = (range.start.clone(), options.clone());
            async move { client.kv.clone().get(start, Some(options)).await }
        };
        match self
            .connection
            .call(|| format!("list {}", range.start), ask)
            .await
        {
            Ok(answer) if answer.kvs().is_empty() => Err(self.unused()),
            Err(error) if !error.is_refusal() => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// That nothing of Mayfly is below the prefix.
    pub fn unused(&self) -> anyhow::Error {
        let prefix = &self.keyspace;
        anyhow::anyhow!(
            "etcd has nothing of Mayfly below {prefix}: check --prefix and --etcd; no daemon runs there, and nothing is \
             registered"
        )
    }

    /// Reads one entry.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn get(&self, key: &Key) -> Result<Option<Entry>, StoreError> {
        let text = self.keyspace.text(key);
        let action = || format!("read {text}");
        let name = text.as_str();
        let mut answer = self
            .connection
            .call(
                action,
                |client| async move { client.kv.clone().get(name, None).await },
            )
            .await?;
        Ok(answer.take_kvs().pop().map(entry))
    }

    /// Puts a value, whatever was there, and gives the revision of the change.
    ///
    /// # Errors
    /// When etcd does not answer within the limit, or the lease is lost.
    pub async fn put(&self, key: &Key, value: Vec<u8>, lease: Option<LeaseId>) -> Result<i64, StoreError> {
        let text = self.keyspace.text(key);
        let action = || format!("put {text}");
        let name = text.as_str();
        let put = |client: connection::Clients| {
            let value = value.clone();
            async move { client.kv.clone().put(name, value, put_options(lease)).await }
        };
        let answer = self.connection.call(action, put).await?;
        Ok(revision(answer.header()))
    }

    /// Puts a value if `guard` holds, and gives the revision of the change; `None` when it does not hold.
    ///
    /// # Errors
    /// As [`Store::put`]. After an error the value may have been put all the same: read before trying again.
    pub async fn put_if(
        &self,
        key: &Key,
        value: Vec<u8>,
        lease: Option<LeaseId>,
        guard: Guard,
    ) -> Result<Option<i64>, StoreError> {
        let text = self.keyspace.text(key);
        let put = TxnOp::put(text.as_str(), value, put_options(lease));
        self.conditional(
            || format!("put {text}"),
            Txn::new().when([compare(&text, guard)]).and_then([put]),
        )
        .await
    }

    /// Carries out all writes in one step if `guard` holds for `key`, and gives the revision of the change; `None` when
    /// it does not hold. No two writes may be of one key.
    ///
    /// # Errors
    /// As [`Store::put`]. After an error they may have been carried out all the same.
    pub async fn write_if(
        &self,
        key: &Key,
        guard: Guard,
        writes: Vec<Write>,
    ) -> Result<Option<i64>, StoreError> {
        let text = self.keyspace.text(key);
        let operations: Vec<TxnOp> = writes
            .into_iter()
            .map(|write| match write {
                Write::Put(key, value, lease) => {
                    TxnOp::put(self.keyspace.text(&key), value, put_options(lease))
                }
                Write::Delete(key) => TxnOp::delete(self.keyspace.text(&key), None),
            })
            .collect();
        let txn = Txn::new().when([compare(&text, guard)]).and_then(operations);
        self.conditional(|| format!("write {text}"), txn).await
    }

    /// Deletes a key; says whether it existed.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn delete(&self, key: &Key) -> Result<bool, StoreError> {
        let text = self.keyspace.text(key);
        let action = || format!("delete {text}");
        let name = text.as_str();
        let answer = self
            .connection
            .call(action, |client| async move {
                client.kv.clone().delete(name, None).await
            })
            .await?;
        Ok(answer.deleted() > 0)
    }

    /// Deletes every key of a range in one step, those that are none of Mayfly's too, and says how many there were.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn delete_all(&self, range: &KeyRange) -> Result<i64, StoreError> {
        let action = || format!("delete all of {}", range.start);
        let options = Some(DeleteOptions::new().with_range(range.end.as_str()));
        let start = range.start.as_str();
        let answer = self
            .connection
            .call(action, |client| {
                let options = options.clone();
                async move { client.kv.clone().delete(start, options).await }
            })
            .await?;
        Ok(answer.deleted())
    }

    /// Deletes a key if `guard` holds; says whether it did.
    ///
    /// # Errors
    /// As [`Store::delete`]. After an error the key may be deleted all the same.
    pub async fn delete_if(&self, key: &Key, guard: Guard) -> Result<bool, StoreError> {
        let text = self.keyspace.text(key);
        let delete = TxnOp::delete(text.as_str(), None);
        let txn = Txn::new().when([compare(&text, guard)]).and_then([delete]);
        Ok(self
            .conditional(|| format!("delete {text}"), txn)
            .await?
            .is_some())
    }

    async fn conditional(&self, action: impl Fn() -> String, txn: Txn) -> Result<Option<i64>, StoreError> {
        let answer = self
            .connection
            .call(action, |client| {
                let txn = txn.clone();
                async move { client.kv.clone().txn(txn).await }
            })
            .await?;
        Ok(answer.succeeded().then(|| revision(answer.header())))
    }

    /// Whether etcd has raised the alarm NOSPACE.
    ///
    /// # Errors
    /// When etcd does not answer within the limit, or does not tell.
    pub async fn is_full(&self) -> Result<bool, StoreError> {
        let ask = |client: connection::Clients| async move { client.maintenance.clone().status().await };
        let status = self
            .connection
            .call(|| "read etcd's status".to_owned(), ask)
            .await?;
        Ok(status.errors().iter().any(|error| error.contains("NOSPACE")))
    }

    /// Asks for a lease. `ttl` is rounded up to whole seconds, at least one; etcd may give a longer one.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000))
            .unwrap_or(i64::MAX)
            .max(1);
        let grant =
            |client: connection::Clients| async move { client.lease.clone().grant(seconds, None).await };
        let answer = self.connection.call(|| "grant a lease".to_owned(), grant).await?;
        Ok(Lease {
            id: LeaseId(answer.id()),
            ttl: seconds_of(answer.ttl()),
        })
    }

    /// Lets a lease live for its whole time again.
    ///
    /// # Errors
    /// [`Cause::LeaseLost`] when etcd does not know it any more; when etcd does not answer within the limit.
    pub async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let action = || format!("keep lease {lease} alive");
        self.connection
            .call(action, |client| async move {
                client.lease.clone().keep_alive(lease.0).await.map(drop)
            })
            .await
    }

    /// What is left of a lease; `None` when etcd does not know it any more.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn lease_life(&self, lease: LeaseId) -> Result<Option<LeaseLife>, StoreError> {
        let action = || format!("read what is left of lease {lease}");
        let ask = |client: connection::Clients| async move {
            client.lease.clone().time_to_live(lease.0, None).await
        };
        let answer = self.connection.call(action, ask).await?;
        Ok((answer.ttl() > 0).then(|| LeaseLife {
            granted: seconds_of(answer.granted_ttl()),
            left: seconds_of(answer.ttl()),
        }))
    }

    /// The texts of the keys that hang on a lease.
    ///
    /// # Errors
    /// [`Cause::LeaseLost`] when etcd does not know it any more; when etcd does not answer within the limit.
    pub async fn keys_of(&self, lease: LeaseId) -> Result<BTreeSet<String>, StoreError> {
        let action = || format!("read the keys of lease {lease}");
        let options = Some(LeaseTimeToLiveOptions::new().with_keys());
        let answer = self
            .connection
            .call(action, |client| {
                let options = options.clone();
                async move { client.lease.clone().time_to_live(lease.0, options).await }
            })
            .await?;
        if answer.ttl() <= 0 {
            return Err(StoreError::new(action(), Cause::LeaseLost));
        }
        Ok(answer.keys().iter().map(|key| text_of(key)).collect())
    }

    /// Ends a lease and deletes every key that hangs on it, in one step. One that is lost already is no error.
    ///
    /// # Errors
    /// When etcd does not answer within the limit.
    pub async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let action = || format!("revoke lease {lease}");
        let revoke =
            |client: connection::Clients| async move { client.lease.clone().revoke(lease.0).await.map(drop) };
        match self.connection.call(action, revoke).await {
            Err(error) if error.is_lease_lost() => Ok(()),
            other => other,
        }
    }

    /// Watches a range from a revision on (that one included). Meant for [`crate::watch`], which minds the traps.
    pub(crate) async fn stream(&self, range: &KeyRange, from: i64) -> Result<RangeStream, StoreError> {
        RangeStream::open(&self.connection, range, from).await
    }
}

fn put_options(lease: Option<LeaseId>) -> Option<PutOptions> {
    lease.map(|lease| PutOptions::new().with_lease(lease.0))
}

fn compare(text: &str, guard: Guard) -> Compare {
    match guard {
        Guard::Absent => Compare::mod_revision(text, CompareOp::Equal, 0),
        Guard::ModRevision(revision) => Compare::mod_revision(text, CompareOp::Equal, revision),
        Guard::OwnedBy(lease) => Compare::lease(text, CompareOp::Equal, lease.0),
    }
}

fn revision(header: Option<&ResponseHeader>) -> i64 {
    header.map_or(0, ResponseHeader::revision)
}

fn seconds_of(ttl: i64) -> Duration {
    Duration::from_secs(ttl.max(1).unsigned_abs())
}

/// Keys that are not UTF-8 are none of Mayfly's; they only have to be named in a message.
fn text_of(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn entry(pair: KeyValue) -> Entry {
    let (create_revision, mod_revision) = (pair.create_revision(), pair.mod_revision());
    let lease = (pair.lease() != 0).then(|| LeaseId(pair.lease()));
    let (key, value) = pair.into_key_value();
    Entry {
        key: text_of(&key),
        value,
        create_revision,
        mod_revision,
        lease,
    }
}
