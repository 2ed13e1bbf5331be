//! One client that follows a topic by server-sent events. It is served as it reads: what it does
//! not read waits nowhere else than in the feed, which all clients share.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;
use mayfly_daemon::shutdown::Shutdown;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::sleep;

use crate::feeds::{FeedTopic, Feeds, Subscription};
use crate::guard::Admission;
use crate::pieces::{Inflating, Piece, gzip_head};
use crate::problem::Problem;

/// After how much silence a comment is sent: it keeps proxies from closing the connection, and
/// shows a client that has gone.
const BEAT: Duration = Duration::from_secs(15);

pub struct Client {
    feeds: Arc<Feeds>,
    topic: FeedTopic,
    subscription: Subscription,
    waiting: VecDeque<Piece>,
    inflating: Option<Inflating>,
    gzip: bool,
    begun: bool,
    admission: Admission,
    shutdown: Shutdown,
    _counted: CountedStream,
}

/// One of the streams that there may be.
pub struct CountedStream {
    gauge: Gauge,
    _permit: OwnedSemaphorePermit,
}

impl CountedStream {
    /// Counts it until it is dropped.
    pub fn new(gauge: &Gauge, permit: OwnedSemaphorePermit) -> Self {
        gauge.inc();
        Self {
            gauge: gauge.clone(),
            _permit: permit,
        }
    }
}

impl Drop for CountedStream {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl Client {
    /// A client that begins to follow.
    ///
    /// # Errors
    /// When there is nothing to follow yet.
    pub async fn new(
        feeds: &Arc<Feeds>,
        topic: FeedTopic,
        gzip: bool,
        admission: Admission,
        shutdown: &Shutdown,
        counted: CountedStream,
    ) -> Result<Self, Problem> {
        let mut subscription = feeds.subscribe(&topic).await?;
        Ok(Self {
            feeds: feeds.clone(),
            topic,
            waiting: std::mem::take(&mut subscription.first).into(),
            subscription,
            inflating: None,
            gzip,
            begun: false,
            admission,
            shutdown: shutdown.clone(),
            _counted: counted,
        })
    }

    /// The body of its answer.
    pub fn into_body(self) -> Body {
        Body::from_stream(stream::unfold(self, |mut client| async move {
            let chunk = client.next().await?;
            Some((Ok::<Bytes, Infallible>(chunk), client))
        }))
    }

    /// What is sent next; `None` ends the stream.
    async fn next(&mut self) -> Option<Bytes> {
        if self.gzip && !std::mem::replace(&mut self.begun, true) {
            return Some(gzip_head());
        }
        loop {
            if let Some(chunk) = self.inflating.as_mut().and_then(Iterator::next) {
                return Some(chunk);
            }
            self.inflating = None;
            let piece = match self.waiting.pop_front() {
                Some(piece) => piece,
                None => self.wait().await?,
            };
            match self.gzip {
                true if piece.length() > 0 => return Some(piece.deflated()),
                true => {}
                false => self.inflating = Some(piece.inflate()),
            }
        }
    }

    async fn wait(&mut self) -> Option<Piece> {
        tokio::select! {
            () = self.shutdown.begun() => None,
            () = self.admission.ended() => None,
            () = sleep(BEAT) => Some(Piece::of(":\n\n")),
            change = self.subscription.changes.recv() => match change {
                Ok(change) => Some(change),
                Err(RecvError::Lagged(_)) => {
                    self.subscription = self.feeds.subscribe(&self.topic).await.ok()?;
                    self.waiting = std::mem::take(&mut self.subscription.first).into();
                    self.waiting.pop_front()
                }
                Err(RecvError::Closed) => None,
            },
        }
    }
}
