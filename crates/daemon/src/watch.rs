//! List, then watch, as an explicit state machine: on any doubt (an error, the end of the stream, a
//! cancelled or compacted watch, silence) it lists again, and once in a while without one. The
//! consumer gets only real differences, including keys that vanished, and never learns how they
//! came about. Keys and values are read here, once for all consumers. What cannot be read is set
//! aside and changes nothing. Which deletions reach the consumer at once is a matter of trust,
//! decided at its end ([`handle`]).

mod change;
mod handle;
mod known;

use std::future::Future;
use std::time::Duration;

use mayfly_core::keys::{Key, KeyRange, KeySpace, Kind};
use mayfly_core::trust::{Policy, Trust};
use tokio::sync::{mpsc, watch as channel};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

pub use change::{Batch, Change, Stored, Unreadable};
use handle::{Heard, Told};
pub use handle::{Watch, WatchMetrics};

use crate::retry::{Backoff, between};
use crate::store::{Listing, RangeStream, Store, StoreError, StreamMessage, Topic};
use known::KnownKeys;

/// Batches that wait for a slow consumer before the stream itself is held up.
const QUEUE: usize = 256;
/// A stream that lived this long has worked; a failure after it is tried again at once.
const SETTLED: Duration = Duration::from_secs(5);

/// How to watch.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// Which ends of keys are withheld from the consumer at first.
    pub policy: Policy,
    /// List again after about this time even without any doubt.
    pub relist: Duration,
    /// Ask whether the stream is alive when it was silent this long.
    pub silence: Duration,
    /// How long the answer to that may take.
    pub answer: Duration,
}

impl Default for WatchOptions {
    /// Believe everything; list again every 5 minutes; ask after 2 s of silence and wait 2.5 s for
    /// the answer, so that a frozen etcd is noticed within 5 s.
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            relist: Duration::from_secs(300),
            silence: Duration::from_secs(2),
            answer: Duration::from_millis(2_500),
        }
    }
}

impl WatchOptions {
    /// With ends that are withheld.
    pub fn with_policy(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }
}

/// Watches a range of keys until it is dropped. Needs a running tokio runtime; etcd may be down.
pub fn watch(store: &Store, range: KeyRange, options: WatchOptions) -> Watch {
    let (space, kinds) = (store.keyspace().clone(), range.kinds);
    let source = StoreSource {
        store: store.clone(),
        range,
    };
    start(source, space, kinds, options)
}

/// Looks at a range of keys once: the first batch that a watch of it would yield.
///
/// # Errors
/// When etcd does not answer within the limit.
pub async fn look(store: &Store, range: &KeyRange) -> Result<Batch, StoreError> {
    Ok(read(store.keyspace(), range, store.list(range).await?))
}

/// What a listing of a range means: the pure half of [`look`].
pub fn read(keyspace: &KeySpace, range: &KeyRange, listing: Listing) -> Batch {
    let mut known = KnownKeys::new(keyspace.clone(), range.kinds);
    let revision = listing.revision;
    let changes = known.list(listing);
    Batch {
        revision,
        listed: true,
        changes,
        set_aside: known.set_aside(),
    }
}

/// Looks at one key.
///
/// # Errors
/// When etcd does not answer within the limit.
pub async fn look_up(store: &Store, key: Key) -> Result<Option<Change>, StoreError> {
    let entry = store.get(&key).await?;
    Ok(entry.map(|entry| Change::of(key, &entry)))
}

fn start<S: WatchSource>(source: S, space: KeySpace, kinds: &'static [Kind], options: WatchOptions) -> Watch {
    let (sender, heard) = mpsc::channel(QUEUE);
    let (in_sync_sender, in_sync) = channel::channel(false);
    let (last_heard_sender, last_heard) = channel::channel(None);
    let (metrics, trust) = (WatchMetrics::default(), Trust::new(options.policy));
    let watcher = Watcher {
        source,
        options,
        known: KnownKeys::new(space.clone(), kinds),
        revision: 0,
        sender,
        in_sync: in_sync_sender,
        last_heard: last_heard_sender,
        metrics: metrics.clone(),
        doubted: None,
        was_in_sync: false,
    };
    let told = Told {
        heard,
        in_sync,
        last_heard,
    };
    Watch::new(told, tokio::spawn(watcher.run()), metrics, trust, space)
}

/// Where listings and events come from: etcd, or a test.
trait WatchSource: Send + Sync + 'static {
    type Stream: Stream;
    fn list(&self) -> impl Future<Output = Result<Listing, StoreError>> + Send;
    fn watch(&self, from: i64) -> impl Future<Output = Result<Self::Stream, StoreError>> + Send;
}

trait Stream: Send {
    fn next(&mut self) -> impl Future<Output = Result<StreamMessage, StoreError>> + Send;
    fn ask(&mut self) -> impl Future<Output = Result<(), StoreError>> + Send;
    fn give_up(self, limit: Duration) -> impl Future<Output = StoreError> + Send;
}

struct StoreSource {
    store: Store,
    range: KeyRange,
}

impl WatchSource for StoreSource {
    type Stream = RangeStream;

    async fn list(&self) -> Result<Listing, StoreError> {
        self.store.list(&self.range).await
    }

    async fn watch(&self, from: i64) -> Result<RangeStream, StoreError> {
        self.store.stream(&self.range, from).await
    }
}

impl Stream for RangeStream {
    async fn next(&mut self) -> Result<StreamMessage, StoreError> {
        RangeStream::next(self).await
    }

    async fn ask(&mut self) -> Result<(), StoreError> {
        RangeStream::ask(self).await
    }

    async fn give_up(self, limit: Duration) -> StoreError {
        RangeStream::give_up(self, limit).await
    }
}

/// Where the machine stands.
enum WatcherState<Stream> {
    /// In doubt: everything has to be listed.
    List,
    /// Listed at the revision before this one: a stream has to be opened there.
    Open(i64),
    /// In sync.
    Follow(Following<Stream>),
    /// Something failed: rest before listing.
    Rest,
}

struct Following<Stream> {
    stream: Stream,
    since: Instant,
    relist_at: Instant,
    /// When the stream was last heard, and whether it has been asked since.
    heard: Instant,
    asked: bool,
}

/// The consumer has gone.
struct Gone;

struct Watcher<S> {
    source: S,
    options: WatchOptions,
    known: KnownKeys,
    revision: i64,
    sender: mpsc::Sender<Heard>,
    in_sync: channel::Sender<bool>,
    last_heard: channel::Sender<Option<Instant>>,
    metrics: WatchMetrics,
    /// What was told last of the present doubt.
    doubted: Option<Topic>,
    was_in_sync: bool,
}

impl<S: WatchSource> Watcher<S> {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut state = WatcherState::List;
        loop {
            let next = match state {
                WatcherState::List => self.list().await,
                WatcherState::Open(from) => self.open(from).await,
                WatcherState::Follow(following) => self.follow(following, &mut backoff).await,
                WatcherState::Rest => {
                    backoff.rest().await;
                    Ok(WatcherState::List)
                }
            };
            match next {
                Ok(next) => state = next,
                Err(Gone) => return,
            }
        }
    }

    async fn list(&mut self) -> Result<WatcherState<S::Stream>, Gone> {
        let listing = match self.source.list().await {
            Ok(listing) => listing,
            Err(error) => return Ok(self.doubt(&error)),
        };
        self.hear();
        if self.revision != 0 {
            self.metrics.relists.inc();
        }
        let (told, revision) = (self.revision, listing.revision);
        let is_overtaken = revision >= told && self.known.contradicts(&listing, told);
        let changes = self.known.list(listing);
        if is_overtaken {
            // etcd lost its data, and has counted beyond what was told. Consumers notice a loss by
            // a revision that goes back.
            debug!("etcd has other data at revision {revision} than before: its earlier data is lost");
            self.revision = told - 1;
            self.send(true, changes).await?;
            self.revision = revision;
            self.send(false, Vec::new()).await?;
        } else {
            self.revision = revision;
            self.send(true, changes).await?;
        }
        Ok(WatcherState::Open(revision + 1))
    }

    async fn open(&mut self, from: i64) -> Result<WatcherState<S::Stream>, Gone> {
        match self.source.watch(from).await {
            Ok(stream) => {
                let now = Instant::now();
                // Spread over a tenth, so that many daemons do not list at the same moment for
                // ever.
                let relist = self.options.relist.mul_f64(between(0.9, 1.0));
                self.set_in_sync(true);
                if self.doubted.take().is_some() {
                    info!(
                        "in sync with etcd{}",
                        if self.was_in_sync { " again" } else { "" }
                    );
                }
                self.was_in_sync = true;
                let following = Following {
                    stream,
                    since: now,
                    relist_at: now + relist,
                    heard: now,
                    asked: false,
                };
                Ok(WatcherState::Follow(following))
            }
            Err(error) => Ok(self.doubt(&error)),
        }
    }

    async fn follow(
        &mut self,
        mut following: Following<S::Stream>,
        backoff: &mut Backoff,
    ) -> Result<WatcherState<S::Stream>, Gone> {
        let patience = if following.asked {
            self.options.answer
        } else {
            self.options.silence
        };
        tokio::select! {
            biased;
            message = following.stream.next() => match message {
                Ok(message) => {
                    self.hear();
                    (following.heard, following.asked) = (Instant::now(), false);
                    if let StreamMessage::Events { revision, events } = message {
                        // Not for every message: a watch that is refused says `created` first.
                        backoff.reset();
                        let changes = self.known.events(events);
                        self.revision = revision;
                        self.send(false, changes).await?;
                    }
                }
                Err(error) => {
                    if following.since.elapsed() >= SETTLED {
                        backoff.reset();
                    }
                    return Ok(self.doubt(&error));
                }
            },
            () = sleep_until(following.heard + patience) => {
                if following.asked {
                    let error = following.stream.give_up(self.options.answer).await;
                    return Ok(self.doubt(&error));
                }
                following.asked = true;
                following.heard = Instant::now();
                if let Err(error) = following.stream.ask().await {
                    return Ok(self.doubt(&error));
                }
            }
            () = sleep_until(following.relist_at) => {
                debug!("listing everything again, as a routine check");
                return Ok(WatcherState::List);
            }
        }
        Ok(WatcherState::Follow(following))
    }

    /// Says what is wrong, once for every time that it was in sync; and again when it is about
    /// something else.
    fn doubt(&mut self, error: &StoreError) -> WatcherState<S::Stream> {
        self.set_in_sync(false);
        if self.doubted.replace(error.topic()) == Some(error.topic()) {
            debug!("{}", error.retrying());
        } else {
            warn!("{}", error.retrying());
        }
        WatcherState::Rest
    }

    fn hear(&self) {
        self.last_heard.send_replace(Some(Instant::now()));
    }

    fn set_in_sync(&self, in_sync: bool) {
        self.metrics.in_sync.set(in_sync.into());
        self.in_sync.send_replace(in_sync);
    }

    async fn send(&mut self, listed: bool, changes: Vec<Change>) -> Result<(), Gone> {
        let batch = Batch {
            revision: self.revision,
            listed,
            changes,
            set_aside: self.known.set_aside(),
        };
        let after_outage = listed && self.doubted.is_some();
        let heard = Heard { batch, after_outage };
        self.sender.send(heard).await.map_err(|_| Gone)
    }
}

#[cfg(test)]
mod tests;
