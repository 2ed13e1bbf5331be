//! List, then watch, as an explicit state machine: on any doubt (an error, the end of the stream, a cancelled or
//! compacted watch, silence) it lists again, and once in a while without any doubt. The consumer gets only real
//! differences, what has vanished included, and never learns how they came about.

use std::future::Future;
use std::time::Duration;

use mayfly_core::keys::KeyRange;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use rand::Rng as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use crate::known::{Known, Vanished};
use crate::retry::Backoff;
use crate::store::{Entry, Listing, RangeStream, Store, StoreError, StreamMessage, Topic};

/// Batches that wait for a slow consumer before the stream itself is held up.
const QUEUE: usize = 256;
/// A stream that lived this long has worked; a failure after it is tried again at once.
const SETTLED: Duration = Duration::from_secs(5);

/// One change of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The key has this value now. It may be the same as before: etcd was written to, or lost its data and got it back.
    Put(Entry),
    /// The key is gone, by a delete, by the end of its lease, or unseen while the watch was interrupted.
    Delete {
        /// The text of the key.
        key: String,
    },
}

/// Changes that belong together: those of one listing, or of one message of etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// After applying the batch, the consumer is in step with the store at this revision.
    pub revision: i64,
    /// Whether the batch comes from a listing. The first one always does, and is the full first sync; `changes` is empty
    /// when a later listing found no difference.
    pub listed: bool,
    /// The changes, in order; a key may occur several times.
    pub changes: Vec<Change>,
}

/// How to watch.
#[derive(Debug, Clone)]
pub struct WatchOptions {
    /// How long to go on with environments, backends or routers when a listing suddenly lacks all of them; `None`
    /// believes it at once. Deletes that come as events hold at once.
    pub vanish_grace: Option<Duration>,
    /// Not to believe deletes of backends and routers in the 20 s after an outage, in which nobody could renew a lease.
    pub doubt_leases: bool,
    /// List again after about this time even without any doubt.
    pub relist: Duration,
    /// Ask whether the stream is alive when it was silent this long.
    pub silence: Duration,
    /// How long the answer to that may take.
    pub answer: Duration,
}

impl Default for WatchOptions {
    /// No grace and no doubt; list again every 5 minutes; ask after 2 s of silence and wait 2.5 s for the answer, so that a frozen etcd is
    /// noticed within 5 s.
    fn default() -> Self {
        Self {
            vanish_grace: None,
            doubt_leases: false,
            relist: Duration::from_secs(300),
            silence: Duration::from_secs(2),
            answer: Duration::from_millis(2_500),
        }
    }
}

impl WatchOptions {
    /// With a grace before a kind of keys that vanished as a whole, or with the data of etcd, is believed to be gone; and
    /// with doubt of leases that ended in an outage.
    pub fn with_vanish_grace(self, grace: Duration) -> Self {
        Self {
            vanish_grace: (!grace.is_zero()).then_some(grace),
            doubt_leases: !grace.is_zero(),
            ..self
        }
    }
}

/// Watches a range of keys until it is dropped. Needs a running tokio runtime; etcd may be down.
pub fn watch(store: &Store, range: KeyRange, options: WatchOptions) -> Watch {
    let keyspace = store.keyspace().clone();
    start(
        StoreSource {
            store: store.clone(),
            range,
        },
        keyspace,
        options,
    )
}

fn start<S: Source>(source: S, keyspace: mayfly_core::keys::KeySpace, options: WatchOptions) -> Watch {
    let (sender, batches) = mpsc::channel(QUEUE);
    let metrics = WatchMetrics::default();
    let known = Known::new(keyspace, options.vanish_grace, options.doubt_leases);
    let watcher = Watcher {
        source,
        options,
        known,
        revision: 0,
        sender,
        metrics: metrics.clone(),
        doubted: None,
    };
    Watch {
        batches,
        task: tokio::spawn(watcher.run()),
        metrics,
    }
}

/// What a watch tells of itself. Cheap to clone; the values follow the watch.
#[derive(Debug, Clone, Default)]
pub struct WatchMetrics {
    /// How often everything was listed again.
    pub relists: Counter,
    /// How many deletes are held back by the grace.
    pub held: Gauge,
    /// Whether changes arrive: 1 between a listing and the next doubt.
    pub in_step: Gauge,
}

/// A running watch: yields batches, the first one being the full first sync.
#[derive(Debug)]
pub struct Watch {
    batches: mpsc::Receiver<Batch>,
    task: JoinHandle<()>,
    metrics: WatchMetrics,
}

impl Watch {
    /// Waits for the next batch, without limit: with etcd gone there is none. Safe in `select!`.
    pub async fn next(&mut self) -> Batch {
        if let Some(batch) = self.batches.recv().await {
            return batch;
        }
        // The task ends only with its receiver, so this is a panic in it, or the end of the runtime.
        match (&mut self.task).await {
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            _ => std::future::pending().await,
        }
    }

    /// As [`Watch::next`], and takes along all that has queued up since: the changes in order, the newest revision,
    /// `listed` if any of them was.
    pub async fn next_batch_coalesced(&mut self) -> Batch {
        let mut batch = self.next().await;
        while let Ok(more) = self.batches.try_recv() {
            batch.revision = more.revision;
            batch.listed |= more.listed;
            batch.changes.extend(more.changes);
        }
        batch
    }

    /// How many deletes are held back because all keys of a kind vanished at once.
    pub fn held(&self) -> usize {
        usize::try_from(self.metrics.held.get()).unwrap_or(0)
    }

    /// Numbers for the metrics and the status record; they go on following the watch.
    pub fn metrics(&self) -> WatchMetrics {
        self.metrics.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where listings and events come from: etcd, or a test.
trait Source: Send + Sync + 'static {
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

impl Source for StoreSource {
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
enum State<Stream> {
    /// In doubt: everything has to be listed.
    List,
    /// Listed at the revision before this one: a stream has to be opened there.
    Open(i64),
    /// In step.
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
    known: Known,
    revision: i64,
    sender: mpsc::Sender<Batch>,
    metrics: WatchMetrics,
    /// What was told last of the present doubt.
    doubted: Option<Topic>,
}

impl<S: Source> Watcher<S> {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut state = State::List;
        loop {
            let next = match state {
                State::List => self.list().await,
                State::Open(from) => self.open(from).await,
                State::Follow(following) => self.follow(following, &mut backoff).await,
                State::Rest => {
                    // A grace that ends meanwhile waits for the next listing: with etcd gone, nothing is taken away.
                    backoff.rest().await;
                    Ok(State::List)
                }
            };
            match next {
                Ok(next) => state = next,
                Err(Gone) => return,
            }
        }
    }

    async fn list(&mut self) -> Result<State<S::Stream>, Gone> {
        let listing = match self.source.list().await {
            Ok(listing) => listing,
            Err(error) => return Ok(self.doubt(&error)),
        };
        if self.revision != 0 {
            self.metrics.relists.inc();
        }
        let revision = listing.revision;
        let now = Instant::now();
        if self.doubted.is_some() {
            self.known.outage_ended(now);
        }
        let (changes, vanished) = self.known.list(listing, now);
        for Vanished { kind, keys, partly } in vanished {
            let grace = self.options.vanish_grace.unwrap_or_default();
            let what = match partly {
                true => "etcd has lost its data:",
                false => "all",
            };
            warn!(
                "{what} {keys} {kind} vanished from etcd at once: going on with them for {grace:?} in case they come back"
            );
        }
        self.revision = revision;
        self.send(true, changes).await?;
        Ok(State::Open(revision + 1))
    }

    async fn open(&mut self, from: i64) -> Result<State<S::Stream>, Gone> {
        match self.source.watch(from).await {
            Ok(stream) => {
                let now = Instant::now();
                // Spread over a tenth, so that many daemons do not list at the same moment for ever.
                let relist = self.options.relist.mul_f64(rand::rng().random_range(0.9..=1.0));
                self.metrics.in_step.set(1);
                if self.doubted.take().is_some() {
                    info!("in step with etcd again");
                }
                let following = Following {
                    stream,
                    since: now,
                    relist_at: now + relist,
                    heard: now,
                    asked: false,
                };
                Ok(State::Follow(following))
            }
            Err(error) => Ok(self.doubt(&error)),
        }
    }

    async fn follow(
        &mut self,
        mut following: Following<S::Stream>,
        backoff: &mut Backoff,
    ) -> Result<State<S::Stream>, Gone> {
        let patience = if following.asked {
            self.options.answer
        } else {
            self.options.silence
        };
        tokio::select! {
            biased;
            message = following.stream.next() => match message {
                Ok(message) => {
                    (following.heard, following.asked) = (Instant::now(), false);
                    if let StreamMessage::Changes { revision, changes } = message {
                        // Not for every message: a watch that is refused says `created` first.
                        backoff.reset();
                        let changes = self.known.events(changes, Instant::now());
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
            () = sleep_until(self.known.next_expiry().unwrap_or_else(far_away)) => self.release().await?,
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
                debug!("listing again without any doubt");
                return Ok(State::List);
            }
        }
        Ok(State::Follow(following))
    }

    /// Says what is wrong, once for every time that it was in step; and again when it is about something else.
    fn doubt(&mut self, error: &StoreError) -> State<S::Stream> {
        self.metrics.in_step.set(0);
        if self.doubted.replace(error.topic()) == Some(error.topic()) {
            debug!("{error}; trying again");
        } else {
            warn!("{error}; trying again");
        }
        State::Rest
    }

    async fn release(&mut self) -> Result<(), Gone> {
        let changes = self.known.expire(Instant::now());
        warn!(
            "{} keys that vanished from etcd did not come back: they are gone",
            changes.len()
        );
        self.send(false, changes).await
    }

    async fn send(&mut self, listed: bool, changes: Vec<Change>) -> Result<(), Gone> {
        self.metrics
            .held
            .set(i64::try_from(self.known.held()).unwrap_or(i64::MAX));
        let batch = Batch {
            revision: self.revision,
            listed,
            changes,
        };
        self.sender.send(batch).await.map_err(|_| Gone)
    }
}

/// A moment that does not come.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(365 * 24 * 3600)
}

#[cfg(test)]
mod tests;
