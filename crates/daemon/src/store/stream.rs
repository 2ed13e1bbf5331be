//! One watch stream of a range. It ends with an error when it can no longer be trusted;
//! [`crate::watch`] then lists again.

use std::time::Duration;

use mayfly_core::keys::KeyRange;

use super::StoreError;
use super::etcd::{Etcd, EventStream, StreamMessage};

/// A watch stream of one range.
#[derive(Debug)]
pub(crate) struct RangeStream {
    range_start: String,
    inner: Box<dyn EventStream>,
}

impl RangeStream {
    pub(super) async fn open(etcd: &dyn Etcd, range: &KeyRange, from: i64) -> Result<Self, StoreError> {
        let range_start = range.start.clone();
        let opened = etcd.watch(range_start.clone(), range.end.clone(), from).await;
        match opened {
            Ok(inner) => Ok(Self { range_start, inner }),
            Err(cause) => Err(StoreError::new(format!("watch {range_start}"), cause)),
        }
    }

    /// Waits for the next message. Safe in `select!`: no message is lost.
    ///
    /// # Errors
    /// When the stream failed, ended, was cancelled by etcd, or reached back before a compaction.
    pub(crate) async fn next(&mut self) -> Result<StreamMessage, StoreError> {
        let Self { range_start, inner } = self;
        let message = inner.next().await;
        message.map_err(|cause| StoreError::new(format!("watch {range_start}"), cause))
    }

    /// Gives the stream up because it was silent for `limit` although asked: the next call looks
    /// for another connection.
    pub(crate) async fn give_up(self, limit: Duration) -> StoreError {
        let cause = self.inner.give_up(limit).await;
        StoreError::new(format!("watch {}", self.range_start), cause)
    }

    /// Asks etcd to say that the stream is alive; the answer comes as [`StreamMessage::Alive`].
    pub(crate) async fn ask(&mut self) -> Result<(), StoreError> {
        let Self { range_start, inner } = self;
        let asked = inner.ask().await;
        asked.map_err(|cause| StoreError::new(format!("watch {range_start}"), cause))
    }
}

#[cfg(test)]
mod tests {
    use mayfly_core::keys::KeySpace;
    use mayfly_e2e::etcd::Etcd;

    use super::*;
    use crate::store::{Cause, Event, Store};

    /// The next message that is not a mere sign of life.
    async fn next(stream: &mut RangeStream) -> Result<StreamMessage, StoreError> {
        let received = async {
            loop {
                match stream.next().await {
                    Ok(StreamMessage::Alive) => {}
                    other => return other,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(20), received)
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
        let Ok(StreamMessage::Events { revision, events }) = next(&mut stream).await else {
            panic!("no changes");
        };
        assert_eq!((revision, events.len()), (4, 3));
        assert_eq!(events[1], Event::Delete(key.to_owned()));
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
