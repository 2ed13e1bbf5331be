//! One watch stream of etcd, turned into plain messages. It knows when it must not be trusted any more and ends
//! with an error then; listing again is the business of [`crate::watch`].

use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchStream};
use mayfly_core::keys::KeyRange;

use super::connection::Connection;
use super::error::{Cause, StoreError};
use super::{entry, text_of};
use crate::args::Endpoint;
use crate::watch::Change;

/// What a watch stream says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum StreamMessage {
    /// Changes up to a revision, in order.
    Changes {
        /// The newest revision among them.
        revision: i64,
        /// The changes.
        changes: Vec<Change>,
    },
    /// It is alive, and there is nothing to tell.
    Alive,
}

/// A watch stream of one range.
#[derive(Debug)]
pub(crate) struct RangeStream {
    connection: Connection,
    generation: u64,
    endpoint: Endpoint,
    range_start: String,
    inner: WatchStream,
}

impl RangeStream {
    pub(super) async fn open(
        connection: &Connection,
        range: &KeyRange,
        from: i64,
    ) -> Result<Self, StoreError> {
        let action = || format!("watch {}", range.start);
        let options = WatchOptions::new()
            .with_range(range.end.as_str())
            .with_start_revision(from);
        let start = range.start.as_str();
        let (inner, generation, endpoint) = connection
            .call(action, |clients| {
                let options = options.clone();
                async move {
                    let stream = clients.watch.clone().watch(start, Some(options)).await?;
                    Ok((stream, clients.generation(), clients.endpoint().clone()))
                }
            })
            .await?;
        Ok(Self {
            connection: connection.clone(),
            generation,
            endpoint,
            range_start: range.start.clone(),
            inner,
        })
    }

    /// Waits for the next message. Safe in `select!`: no message is lost.
    ///
    /// # Errors
    /// When the stream failed, ended, was cancelled by etcd, or reached back before a compaction.
    pub(crate) async fn next(&mut self) -> Result<StreamMessage, StoreError> {
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
        self.connection.note(Some(self.generation), Some(&cause)).await;
        Err(StoreError::new(format!("watch {}", self.range_start), cause))
    }

    /// Gives the stream up because it was silent for `limit` although asked: the next call looks for another connection.
    pub(crate) async fn give_up(self, limit: Duration) -> StoreError {
        let cause = Cause::Late {
            at: self.endpoint.host_and_port().to_owned(),
            limit,
        };
        self.connection.note(Some(self.generation), Some(&cause)).await;
        StoreError::new(format!("watch {}", self.range_start), cause)
    }

    /// Asks etcd to say that the stream is alive; the answer comes as [`StreamMessage::Alive`].
    pub(crate) async fn ask(&mut self) -> Result<(), StoreError> {
        let asked = self.inner.request_progress().await;
        asked.map_err(|error| {
            StoreError::new(
                format!("watch {}", self.range_start),
                self.connection.cause(&error, &self.endpoint),
            )
        })
    }
}

fn plain(events: &[etcd_client::Event]) -> StreamMessage {
    let mut revision = 0;
    let mut changes = Vec::with_capacity(events.len());
    for event in events {
        let Some(pair) = event.kv() else { continue };
        revision = revision.max(pair.mod_revision());
        changes.push(match event.event_type() {
            EventType::Put => Change::Put(entry(pair.clone())),
            EventType::Delete => Change::Delete {
                key: text_of(pair.key()),
            },
        });
    }
    if changes.is_empty() {
        StreamMessage::Alive
    } else {
        StreamMessage::Changes { revision, changes }
    }
}

#[cfg(test)]
mod tests {
    use mayfly_core::keys::KeySpace;
    use mayfly_e2e::etcd::Etcd;

    use super::*;
    use crate::store::Store;

    /// The next message that is not a mere sign of life.
    async fn next(stream: &mut RangeStream) -> Result<StreamMessage, StoreError> {
        let told = async {
            loop {
                match stream.next().await {
                    Ok(StreamMessage::Alive) => {}
                    other => return other,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), told)
            .await
            .expect("a message")
    }

    #[tokio::test]
    async fn a_stream_tells_changes_answers_questions_and_ends_at_a_compaction() {
        let etcd = Etcd::start().await.unwrap();
        let store = Store::new(vec![etcd.endpoint().parse().unwrap()], KeySpace::default());
        let range = KeySpace::default().environments();
        let key = "/mayfly/environments/dev";
        etcd.put(key, "1").await.unwrap();
        etcd.delete(key).await.unwrap();
        etcd.put(key, "2").await.unwrap();

        let mut stream = store.stream(&range, 2).await.unwrap();
        let Ok(StreamMessage::Changes { revision, changes }) = next(&mut stream).await else {
            panic!("no changes");
        };
        assert_eq!((revision, changes.len()), (4, 3));
        assert_eq!(changes[1], Change::Delete { key: key.to_owned() });
        stream.ask().await.unwrap();
        assert_eq!(stream.next().await.unwrap(), StreamMessage::Alive);

        etcd.compact().await.unwrap();
        let mut late = store.stream(&range, 2).await.unwrap();
        let error = next(&mut late).await.unwrap_err();
        assert_eq!(*error.cause(), Cause::Compacted);
        assert!(
            error.to_string().contains("cannot watch /mayfly/environments/"),
            "{error}"
        );
        assert!(store.connected());
    }
}
