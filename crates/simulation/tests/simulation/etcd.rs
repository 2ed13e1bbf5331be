//! An etcd that is a value of the test: revisions, transactions with guards, leases, paged lists,
//! compaction, watches with progress. It has what the store needs of etcd 3.4 and 3.5, and the
//! faults of a network and of etcd itself ([`network`]). Nothing compares it with a real etcd: the
//! tests in `crates/daemon/tests/etcd` show what that does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mayfly_daemon::store::{
    Cause, Entry, Event, Guard, LeaseId, LeaseLife, LeaseState, Page, Question, StreamMessage, TextWrite,
};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::random::Random;
use crate::trace::Trace;

mod client;
pub mod network;

use network::Network;

/// The shortest lease that etcd grants.
const LEAST_LEASE: i64 = 2;
/// The first revision. After a loss of all data etcd begins at half of where it began before, or so
/// little below the last revision that its revisions soon overtake the lost ones.
const FIRST_REVISION: i64 = 16_384;
/// How little that is.
const SOON_OVERTAKEN: i64 = 30;
/// Entries of an answer, however many are asked for: so that a few keys make several pages.
const PAGE: usize = 4;

/// Who sends a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub usize);

/// What was changed in one step.
#[derive(Debug, Clone)]
pub struct Commit {
    /// Who changed it; `None` for etcd itself, at the end of a lease.
    pub client: Option<ClientId>,
    /// The entries before, in the order of the events.
    pub before: Vec<Option<Entry>>,
    /// The changes.
    pub events: Vec<Event>,
}

/// Sees each change as it happens.
pub trait Monitor: Send {
    /// Takes a change.
    fn committed(&mut self, commit: &Commit);
}

/// The etcd. Cheap to clone.
#[derive(Clone)]
pub struct SimulatedEtcd {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for SimulatedEtcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SimulatedEtcd")
    }
}

struct Shared {
    state: Mutex<State>,
    /// A lease was granted or kept, or etcd is back.
    leases: Notify,
    /// The network or etcd has changed.
    changed: Notify,
    trace: Trace,
}

#[derive(Debug, Clone)]
struct HeldLease {
    granted: i64,
    ends: Instant,
}

/// What survives in a snapshot.
#[derive(Debug, Clone)]
struct Data {
    /// The revision at which it began.
    first: i64,
    revision: i64,
    compacted: i64,
    keys: BTreeMap<String, Entry>,
    leases: BTreeMap<i64, HeldLease>,
    /// The keys at earlier revisions, since the compaction.
    past: BTreeMap<i64, Arc<BTreeMap<String, Entry>>>,
    /// The changes since then.
    history: Vec<(i64, Vec<Event>)>,
}

struct State {
    data: Data,
    next_lease: i64,
    full: bool,
    network: Network,
    streams: BTreeMap<u64, StreamState>,
    next_stream: u64,
    monitor: Option<Box<dyn Monitor>>,
}

/// The end of a watch at etcd, with what is on its way.
struct StreamState {
    client: ClientId,
    start: String,
    end: String,
    /// Events before this revision are not asked for.
    from: i64,
    sent: VecDeque<(Instant, Result<StreamMessage, Cause>)>,
    /// Nothing arrives any more, and nobody says so.
    silent: bool,
    arrived: Arc<Notify>,
}

impl Data {
    fn new(first: i64) -> Self {
        Self {
            first,
            revision: first,
            compacted: 0,
            keys: BTreeMap::new(),
            leases: BTreeMap::new(),
            past: BTreeMap::from([(first, Arc::default())]),
            history: Vec::new(),
        }
    }

    fn holds(&self, key: &str, guard: Guard) -> bool {
        let entry = self.keys.get(key);
        match guard {
            Guard::Absent => entry.is_none(),
            Guard::ModRevision(revision) => entry.map_or(0, |entry| entry.mod_revision) == revision,
            Guard::OwnedBy(lease) => entry.is_some_and(|entry| entry.lease == Some(lease)),
        }
    }

    /// Carries out writes in one step: what they changed, with what was there before.
    fn write(&mut self, writes: Vec<TextWrite>) -> Result<Vec<(Option<Entry>, Event)>, Cause> {
        let known = |lease: &Option<LeaseId>| {
            lease.is_none_or(|lease| self.leases.keys().any(|known| LeaseId::new(*known) == lease))
        };
        let leased = |write: &TextWrite| match write {
            TextWrite::Put(_, _, lease) => known(lease),
            TextWrite::Delete(_) => true,
        };
        if !writes.iter().all(leased) {
            return Err(Cause::LeaseLost);
        }
        let revision = self.revision + 1;
        let mut changed = Vec::new();
        for write in writes {
            match write {
                TextWrite::Put(key, value, lease) => {
                    let before = self.keys.get(&key).cloned();
                    let entry = Entry {
                        key: key.clone(),
                        value,
                        create_revision: before.as_ref().map_or(revision, |entry| entry.create_revision),
                        mod_revision: revision,
                        lease,
                    };
                    self.keys.insert(key, entry.clone());
                    changed.push((before, Event::Put(entry)));
                }
                TextWrite::Delete(key) => {
                    if let Some(before) = self.keys.remove(&key) {
                        changed.push((Some(before), Event::Delete(key)));
                    }
                }
            }
        }
        if !changed.is_empty() {
            self.revision = revision;
            self.past.insert(revision, Arc::new(self.keys.clone()));
            let events = changed.iter().map(|(_, event)| event.clone()).collect();
            self.history.push((revision, events));
        }
        Ok(changed)
    }

    fn read(&self, question: &Question) -> Result<Page, Cause> {
        let past;
        let keys = match question.revision {
            0 => &self.keys,
            revision if revision < self.compacted => return Err(Cause::Compacted),
            revision if revision > self.revision => {
                return Err(Cause::Refused(
                    "required revision is a future revision".to_owned(),
                ));
            }
            revision => {
                let at = self.past.range(..=revision).next_back();
                past = at.map(|(_, keys)| keys.clone()).unwrap_or_default();
                &*past
            }
        };
        let start = String::from_utf8_lossy(&question.start).into_owned();
        let in_range = |key: &String| match &question.end {
            Some(end) => key < end,
            None => *key == start,
        };
        let mut entries = keys.range(start.clone()..).take_while(|(key, _)| in_range(key));
        let most = match usize::try_from(question.limit) {
            Ok(limit) if limit > 0 => limit.min(PAGE),
            _ => usize::MAX,
        };
        let found: Vec<Entry> = entries
            .by_ref()
            .take(most)
            .map(|(_, entry)| entry.clone())
            .collect();
        let next = entries.next().and(found.last());
        let next = next.map(|last| [last.key.as_bytes(), b"\0"].concat());
        let bare = |entry: Entry| Entry {
            value: Vec::new(),
            ..entry
        };
        Ok(Page {
            revision: self.revision,
            next,
            entries: match question.keys_only {
                true => found.into_iter().map(bare).collect(),
                false => found,
            },
        })
    }

    fn keys_of(&self, lease: i64) -> BTreeSet<String> {
        let of = self.keys.values();
        let of = of.filter(|entry| entry.lease == Some(LeaseId::new(lease)));
        of.map(|entry| entry.key.clone()).collect()
    }

    fn state_of(&self, lease: i64) -> Option<LeaseState> {
        let held = self.leases.get(&lease)?;
        Some(LeaseState {
            life: LeaseLife {
                granted: seconds(held.granted),
                left: held
                    .ends
                    .saturating_duration_since(Instant::now())
                    .max(seconds(1)),
            },
            keys: self.keys_of(lease),
        })
    }

    /// Leases have their whole time again, as after a restart of etcd.
    fn renew_leases(&mut self) {
        let now = Instant::now();
        for lease in self.leases.values_mut() {
            lease.ends = now + seconds(lease.granted);
        }
    }
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(number.max(0).unsigned_abs())
}

impl SimulatedEtcd {
    /// An empty one, whose network has the faults that follow from the seed.
    pub fn start(seed: u64, trace: Trace) -> Self {
        let state = State {
            data: Data::new(FIRST_REVISION),
            next_lease: 0x1000,
            full: false,
            network: Network::new(Random::new(seed, 2)),
            streams: BTreeMap::new(),
            next_stream: 0,
            monitor: None,
        };
        let shared = Shared {
            state: Mutex::new(state),
            leases: Notify::new(),
            changed: Notify::new(),
            trace,
        };
        let etcd = Self {
            shared: Arc::new(shared),
        };
        tokio::spawn(etcd.clone().expire());
        etcd
    }

    /// Shows each change to a monitor, from now on.
    pub fn set_monitor(&self, monitor: Box<dyn Monitor>) {
        self.lock().monitor = Some(monitor);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All entries, as they are now.
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().data.keys.values().cloned().collect()
    }

    /// Forgets what was before now.
    pub fn compact(&self) {
        let data = &mut self.lock().data;
        data.compacted = data.revision;
        data.past = data.past.split_off(&data.revision);
        let compacted = data.compacted;
        data.history.retain(|(revision, _)| *revision > compacted);
    }

    /// Raises the alarm NOSPACE, or disarms it.
    pub fn set_full(&self, full: bool) {
        self.lock().full = full;
    }

    /// Ends all connections, with etcd going on at once: a restart. All leases have their whole
    /// time again.
    pub fn restart(&self) {
        let mut state = self.lock();
        state.data.renew_leases();
        state.end_streams();
        drop(state);
        self.wake();
    }

    /// Loses everything.
    pub fn wipe(&self) {
        let mut state = self.lock();
        let Data { first, revision, .. } = state.data;
        let begins_at = match revision % 2 {
            0 => first / 2,
            _ => revision - SOON_OVERTAKEN,
        };
        state.data = Data::new(begins_at.max(1));
        drop(state);
        self.restart();
    }

    /// What etcd has now, to be restored later.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.lock().data.clone())
    }

    /// Has what it had then, and nothing newer.
    pub fn restore(&self, snapshot: Snapshot) {
        self.lock().data = snapshot.0;
        self.restart();
    }

    /// Changes the network.
    pub fn network<T>(&self, change: impl FnOnce(&mut Network) -> T) -> T {
        let changed = change(&mut self.lock().network);
        self.wake();
        changed
    }

    /// Ends the connections of one client, or lets them fall silent.
    pub fn break_streams(&self, client: ClientId, silently: bool) {
        let mut state = self.lock();
        for stream in state
            .streams
            .values_mut()
            .filter(|stream| stream.client == client)
        {
            if silently {
                stream.silent = true;
            } else {
                stream.end("the connection was reset");
            }
        }
    }

    fn wake(&self) {
        self.shared.leases.notify_one();
        self.shared.changed.notify_waiters();
        for stream in self.lock().streams.values() {
            stream.arrived.notify_one();
        }
    }

    /// Ends leases when their time is over.
    async fn expire(self) {
        loop {
            let (next, up) = {
                let state = self.lock();
                let next = state.data.leases.values().map(|lease| lease.ends).min();
                (next, state.network.is_up())
            };
            let now = Instant::now();
            if let Some(ends) = next.filter(|_| up) {
                if ends > now {
                    tokio::select! {
                        biased;
                        () = self.shared.leases.notified() => {}
                        () = sleep_until(ends) => {}
                    }
                    continue;
                }
                let mut state = self.lock();
                let over = state.data.leases.iter().find(|(_, lease)| lease.ends <= now);
                if let Some(lease) = over.map(|(lease, _)| *lease) {
                    self.shared.trace.note(|| format!("etcd: lease {lease:x} ends"));
                    state.revoke(None, lease);
                }
            } else {
                self.shared.leases.notified().await;
            }
        }
    }
}

/// Everything that etcd had at some time.
#[derive(Debug)]
pub struct Snapshot(Data);

impl State {
    /// Writes, and tells everybody who watches.
    fn write(&mut self, client: Option<ClientId>, writes: Vec<TextWrite>) -> Result<Option<i64>, Cause> {
        let puts = writes.iter().any(|write| matches!(write, TextWrite::Put(..)));
        if self.full && puts {
            return Err(Cause::Full);
        }
        let changed = self.data.write(writes)?;
        if changed.is_empty() {
            return Ok(None);
        }
        let revision = self.data.revision;
        let (before, events): (Vec<_>, Vec<_>) = changed.into_iter().unzip();
        for stream in self.streams.values_mut() {
            let events: Vec<Event> = events
                .iter()
                .filter(|event| stream.wants(event))
                .cloned()
                .collect();
            if revision >= stream.from && !events.is_empty() {
                let at = self.network.event_arrives(stream.client);
                stream.send(at, Ok(StreamMessage::Events { revision, events }));
            }
        }
        let commit = Commit {
            client,
            before,
            events,
        };
        if let Some(monitor) = &mut self.monitor {
            monitor.committed(&commit);
        }
        Ok(Some(revision))
    }

    fn revoke(&mut self, client: Option<ClientId>, lease: i64) -> bool {
        let known = self.data.leases.remove(&lease).is_some();
        let keys = self.data.keys_of(lease);
        if known && !keys.is_empty() {
            let deletes = keys.into_iter().map(TextWrite::Delete).collect();
            // Deletes are never refused.
            let _ = self.write(client, deletes);
        }
        known
    }

    fn end_streams(&mut self) {
        for stream in self.streams.values_mut() {
            stream.end("the connection was reset");
        }
    }

    fn open(&mut self, client: ClientId, start: String, end: String, from: i64) -> (u64, Arc<Notify>) {
        let mut stream = StreamState {
            client,
            start,
            end,
            from,
            sent: VecDeque::new(),
            silent: self.network.opens_silently(client),
            arrived: Arc::default(),
        };
        let at = self.network.event_arrives(client);
        stream.send(at, Ok(StreamMessage::Alive));
        if from < self.data.compacted {
            stream.send(at, Err(Cause::Compacted));
        } else {
            for (revision, events) in self.data.history.iter().filter(|(revision, _)| *revision >= from) {
                let events: Vec<Event> = events
                    .iter()
                    .filter(|event| stream.wants(event))
                    .cloned()
                    .collect();
                if !events.is_empty() {
                    let revision = *revision;
                    stream.send(at, Ok(StreamMessage::Events { revision, events }));
                }
            }
        }
        let number = self.next_stream;
        self.next_stream += 1;
        let arrived = stream.arrived.clone();
        self.streams.insert(number, stream);
        (number, arrived)
    }
}

impl StreamState {
    fn wants(&self, event: &Event) -> bool {
        let key = match event {
            Event::Put(entry) => &entry.key,
            Event::Delete(key) => key,
        };
        (self.start.as_str()..self.end.as_str()).contains(&key.as_str())
    }

    /// Sends a message that arrives at this time, and not before those that were sent earlier.
    fn send(&mut self, at: Instant, message: Result<StreamMessage, Cause>) {
        let at = self.sent.back().map_or(at, |(before, _)| at.max(*before));
        self.sent.push_back((at, message));
        self.arrived.notify_one();
    }

    fn end(&mut self, reason: &str) {
        let cause = Cause::Unreachable {
            at: "etcd".to_owned(),
            reason: reason.to_owned(),
        };
        self.send(Instant::now(), Err(cause));
    }
}
