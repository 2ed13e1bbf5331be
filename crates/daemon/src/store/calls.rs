//! The calls of a store to a real etcd, by etcd-client.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Compare, CompareOp, DeleteOptions, EventType, GetOptions, KeyValue, LeaseTimeToLiveOptions, PutOptions,
    ResponseHeader, Txn, TxnOp, WatchOptions, WatchStream,
};
use prometheus_client::metrics::gauge::Gauge;

use super::connection::{Clients, Connection};
use super::etcd::{Answer, Etcd, Event, EventStream, LeaseState, Page, Question, StreamMessage, TextWrite};
use super::{Cause, Endpoint, Entry, Guard, Lease, LeaseId, LeaseLife};

impl Etcd for Connection {
    fn endpoints(&self) -> &[Endpoint] {
        Self::endpoints(self)
    }

    fn connected(&self) -> &Gauge {
        Self::connected(self)
    }

    fn with_limit(&self, limit: Duration) -> Arc<dyn Etcd> {
        Arc::new(Self::with_limit(self, limit))
    }

    fn range(&self, question: Question) -> Answer<'_, Page> {
        Box::pin(async move {
            let mut options = GetOptions::new();
            if let Some(end) = question.end {
                options = options.with_range(end);
            }
            if question.limit != 0 {
                options = options.with_limit(question.limit);
            }
            if question.revision != 0 {
                options = options.with_revision(question.revision);
            }
            if question.keys_only {
                options = options.with_keys_only();
            }
            let read = |client: Clients| {
                let (start, options) = (question.start.clone(), options.clone());
                async move { client.kv.clone().get(start, Some(options)).await }
            };
            let mut page = self.call(read).await?;
            let more = page.more();
            let entries = page.take_kvs();
            let last = entries.last().filter(|_| more);
            Ok(Page {
                revision: revision(page.header()),
                next: last.map(|last| [last.key(), b"\0"].concat()),
                entries: entries.into_iter().map(entry).collect(),
            })
        })
    }

    fn put(&self, key: String, value: Vec<u8>, lease: Option<LeaseId>) -> Answer<'_, i64> {
        Box::pin(async move {
            let put = |client: Clients| {
                let (key, value) = (key.clone(), value.clone());
                async move { client.kv.clone().put(key, value, put_options(lease)).await }
            };
            let answer = self.call(put).await?;
            Ok(revision(answer.header()))
        })
    }

    fn delete(&self, start: String, end: Option<String>) -> Answer<'_, i64> {
        Box::pin(async move {
            let options = end.map(|end| DeleteOptions::new().with_range(end));
            let delete = |client: Clients| {
                let (start, options) = (start.clone(), options.clone());
                async move { client.kv.clone().delete(start, options).await }
            };
            Ok(self.call(delete).await?.deleted())
        })
    }

    fn write(&self, guards: Vec<(String, Guard)>, writes: Vec<TextWrite>) -> Answer<'_, Option<i64>> {
        let operations = writes.into_iter().map(|write| match write {
            TextWrite::Put(key, value, lease) => TxnOp::put(key, value, put_options(lease)),
            TextWrite::Delete(key) => TxnOp::delete(key, None),
        });
        let operations: Vec<TxnOp> = operations.collect();
        let compares: Vec<Compare> = guards.iter().map(|(key, guard)| compare(key, *guard)).collect();
        let txn = Txn::new().when(compares).and_then(operations);
        Box::pin(async move {
            let write = |client: Clients| {
                let txn = txn.clone();
                async move { client.kv.clone().txn(txn).await }
            };
            let answer = self.call(write).await?;
            Ok(answer.succeeded().then(|| revision(answer.header())))
        })
    }

    fn is_full(&self) -> Answer<'_, bool> {
        Box::pin(async move {
            let ask = |client: Clients| async move { client.maintenance.clone().status().await };
            let status = self.call(ask).await?;
            Ok(status.errors().iter().any(|error| error.contains("NOSPACE")))
        })
    }

    fn grant(&self, seconds: i64) -> Answer<'_, Lease> {
        Box::pin(async move {
            let grant = |client: Clients| async move { client.lease.clone().grant(seconds, None).await };
            let answer = self.call(grant).await?;
            Ok(Lease {
                id: LeaseId(answer.id()),
                ttl: seconds_of(answer.ttl()),
            })
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        Box::pin(async move {
            let keep =
                |client: Clients| async move { client.lease.clone().keep_alive(lease.0).await.map(drop) };
            self.call(keep).await
        })
    }

    fn lease(&self, lease: LeaseId, with_keys: bool) -> Answer<'_, Option<LeaseState>> {
        Box::pin(async move {
            let options = with_keys.then(|| LeaseTimeToLiveOptions::new().with_keys());
            let ask = |client: Clients| {
                let options = options.clone();
                async move { client.lease.clone().time_to_live(lease.0, options).await }
            };
            let answer = self.call(ask).await?;
            Ok((answer.ttl() > 0).then(|| LeaseState {
                life: LeaseLife {
                    granted: seconds_of(answer.granted_ttl()),
                    left: seconds_of(answer.ttl()),
                },
                keys: answer.keys().iter().map(|key| text_of(key)).collect(),
            }))
        })
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        Box::pin(async move {
            let revoke =
                |client: Clients| async move { client.lease.clone().revoke(lease.0).await.map(drop) };
            self.call(revoke).await
        })
    }

    fn watch(&self, start: String, end: String, from: i64) -> Answer<'_, Box<dyn EventStream>> {
        Box::pin(async move {
            let options = WatchOptions::new().with_range(end).with_start_revision(from);
            let open = |clients: Clients| {
                let (start, options) = (start.clone(), options.clone());
                async move {
                    let stream = clients.watch.clone().watch(start, Some(options)).await?;
                    Ok((stream, clients.generation(), clients.endpoint().clone()))
                }
            };
            let (inner, generation, endpoint) = self.call(open).await?;
            let stream = ConnectedStream {
                connection: self.clone(),
                generation,
                endpoint,
                inner,
            };
            Ok(Box::new(stream) as Box<dyn EventStream>)
        })
    }
}

/// A watch stream of a connection.
#[derive(Debug)]
struct ConnectedStream {
    connection: Connection,
    generation: u64,
    endpoint: Endpoint,
    inner: WatchStream,
}

impl EventStream for ConnectedStream {
    fn next(&mut self) -> Answer<'_, StreamMessage> {
        Box::pin(async move {
            let cause = match self.inner.message().await {
                Ok(Some(message)) if message.compact_revision() != 0 => Cause::Compacted,
                Ok(Some(message)) if message.canceled() => self.connection.ended(message.cancel_reason()),
                Ok(Some(message)) => return Ok(plain(message.events())),
                Ok(None) => Cause::Unreachable {
                    at: self.endpoint.host_and_port().to_owned(),
                    reason: "the watch stream ended".to_owned(),
                },
                Err(error) => self.connection.cause(&error, &self.endpoint),
            };
            // Nothing is awaited from here on: the end of the stream comes once, and `select!` may
            // drop this at each await.
            self.connection.note(Some(self.generation), Some(&cause));
            Err(cause)
        })
    }

    fn ask(&mut self) -> Answer<'_, ()> {
        Box::pin(async move {
            let asked = self.inner.request_progress().await;
            asked.map_err(|error| self.connection.cause(&error, &self.endpoint))
        })
    }

    /// The next call looks for another connection.
    fn give_up(self: Box<Self>, limit: Duration) -> Pin<Box<dyn Future<Output = Cause> + Send>> {
        Box::pin(async move {
            let cause = Cause::Late {
                at: self.endpoint.host_and_port().to_owned(),
                limit,
            };
            self.connection.note(Some(self.generation), Some(&cause));
            cause
        })
    }
}

fn plain(received: &[etcd_client::Event]) -> StreamMessage {
    let mut revision = 0;
    let mut events = Vec::with_capacity(received.len());
    for event in received {
        let Some(pair) = event.kv() else { continue };
        revision = revision.max(pair.mod_revision());
        events.push(match event.event_type() {
            EventType::Put => Event::Put(entry(pair.clone())),
            EventType::Delete => Event::Delete(text_of(pair.key())),
        });
    }
    if events.is_empty() {
        StreamMessage::Alive
    } else {
        StreamMessage::Events { revision, events }
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
