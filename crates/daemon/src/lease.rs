//! Keeps a set of keys alive in etcd under one lease, whatever happens to the lease, the keys or
//! etcd: renews the lease also while many keys are written, grants again when it is lost, and looks
//! as often as it renews whether its keys are still there. The latest value of a key wins; values
//! in between may never be written.
//!
//! A record of a running daemon always has a lease. So a key of ours with a record of another lease
//! belongs to a second daemon of the same name: the newer one has it, and the older one waits until
//! it ends. A record without a lease comes from a tool or from an attacker, and is overwritten.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{anyhow, bail};
use mayfly_core::keys::Key;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{debug, info, warn};

use crate::retry::Backoff;
use crate::store::{Guard, Lease, LeaseId, Store, StoreError, Write};
use crate::tasks::Tasks;

/// The shortest time between two writes of changed values, at most about 5 a second: status records
/// change with everything.
const WRITE_GAP: Duration = Duration::from_millis(200);

/// Advertises keys. Cheap to clone; all clones advertise under the same lease.
#[derive(Debug, Clone)]
pub struct Advertiser {
    wanted: Arc<Mutex<WantedKeys>>,
    /// Grows with every change of `wanted`.
    changed: watch::Sender<u64>,
    /// The change up to which everything is in etcd; goes back to 0 when that is in doubt.
    written: watch::Receiver<u64>,
    taken_over: watch::Receiver<BTreeSet<Key>>,
}

#[derive(Debug, Default)]
struct WantedKeys {
    values: BTreeMap<Key, Vec<u8>>,
    /// The last values of keys that are to go.
    farewells: BTreeMap<Key, Vec<u8>>,
    ending: bool,
}

impl Advertiser {
    /// Starts advertising, with nothing to advertise yet; the first lease is granted with the first
    /// key. A key that is not renewed for `ttl` (at least 2 s, etcd's own minimum) vanishes by
    /// itself. Changes are written five times a second at most.
    pub fn start(tasks: &Tasks, store: &Store, ttl: Duration) -> Self {
        Self::start_as(tasks, store, ttl, false)
    }

    /// As [`Advertiser::start`], for keys that somebody waits for: the lease is granted at once,
    /// and each change is written as soon as it comes.
    pub fn start_eager(tasks: &Tasks, store: &Store, ttl: Duration) -> Self {
        Self::start_as(tasks, store, ttl, true)
    }

    fn start_as(tasks: &Tasks, store: &Store, ttl: Duration, eager: bool) -> Self {
        let wanted = Arc::<Mutex<WantedKeys>>::default();
        let (changed, changes) = watch::channel(0);
        let (written_sender, written) = watch::channel(0);
        let (foreign, taken_over) = watch::channel(BTreeSet::new());
        let keeper = Keeper {
            store: store.clone(),
            ttl,
            eager,
            wanted: wanted.clone(),
            changes,
            written: written_sender,
            held: BTreeMap::new(),
            foreign,
            unleased: BTreeSet::new(),
            losses: 0,
        };
        tasks.spawn("advertiser", keeper.run());
        Self {
            wanted,
            changed,
            written,
            taken_over,
        }
    }

    /// The keys that another writer has taken over, as far as is known by now, and every change of
    /// that. Of two that advertise the same key only one finds it here: the one that came first.
    pub fn taken_over(&self) -> watch::Receiver<BTreeSet<Key>> {
        self.taken_over.clone()
    }

    /// Wants `key` to have this value, or with `None` to be gone. Returns at once; see
    /// [`Advertiser::flush`].
    pub fn set(&self, key: Key, value: Option<Vec<u8>>) {
        self.set_all([(key, value)]);
    }

    /// As [`Advertiser::set`] for several keys at once. A new key and one that is to be gone change
    /// in one step.
    pub fn set_all(&self, changes: impl IntoIterator<Item = (Key, Option<Vec<u8>>)>) {
        let mut changed = false;
        {
            let mut wanted = lock(&self.wanted);
            for (key, value) in changes {
                if wanted.ending || wanted.values.get(&key) == value.as_ref() {
                    continue;
                }
                changed = true;
                match value {
                    Some(value) => {
                        wanted.farewells.remove(&key);
                        wanted.values.insert(key, value)
                    }
                    None => wanted.values.remove(&key),
                };
            }
        }
        if changed {
            self.changed.send_modify(|change| *change += 1);
        }
    }

    /// Wants `key` to be gone, and to have this value right before, so that whoever watches it
    /// knows that its end is meant. Nobody hears of a key that is not in etcd.
    pub fn leave(&self, key: Key, farewell: Vec<u8>) {
        lock(&self.wanted).farewells.insert(key.clone(), farewell);
        self.set(key, None);
    }

    /// Waits until everything that was set is in etcd.
    ///
    /// # Errors
    /// When that takes longer than `limit` (trying goes on in the background), or everything was
    /// taken back meanwhile.
    pub async fn flush(&self, limit: Duration) -> anyhow::Result<()> {
        self.written(limit).await?;
        if lock(&self.wanted).ending {
            bail!("the daemon is deregistering everything");
        }
        Ok(())
    }

    async fn written(&self, limit: Duration) -> anyhow::Result<()> {
        let target = *self.changed.borrow();
        let mut written = self.written.clone();
        let reached = timeout(limit, written.wait_for(|written| *written >= target)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => bail!("the task that writes this daemon's records to etcd has ended"),
            Err(_) => bail!("etcd did not confirm all changes within {limit:?}"),
        }
    }

    /// Takes everything back: deletes its keys by revoking the lease. Nothing can be advertised
    /// afterwards.
    ///
    /// # Errors
    /// When that takes longer than `limit`; the keys then vanish with their lease.
    pub async fn shutdown(&self, limit: Duration) -> anyhow::Result<()> {
        {
            let mut wanted = lock(&self.wanted);
            wanted.values.clear();
            if !std::mem::replace(&mut wanted.ending, true) {
                self.changed.send_modify(|change| *change += 1);
            }
        }
        self.written(limit).await.map_err(|error| {
            anyhow!(
                "cannot delete this daemon's records from etcd: {error}; the records expire with \
                 their lease"
            )
        })
    }
}

fn lock(wanted: &Mutex<WantedKeys>) -> MutexGuard<'_, WantedKeys> {
    wanted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The background half.
struct Keeper {
    store: Store,
    ttl: Duration,
    /// Whether to have a lease before there is a key, and to write without a gap.
    eager: bool,
    wanted: Arc<Mutex<WantedKeys>>,
    changes: watch::Receiver<u64>,
    written: watch::Sender<u64>,
    /// What it has put under the present lease.
    held: BTreeMap<Key, Vec<u8>>,
    /// Keys that another writer has taken over.
    foreign: watch::Sender<BTreeSet<Key>>,
    /// Those of them that had a record without a lease when they were looked at last.
    unleased: BTreeSet<Key>,
    /// How many leases were lost since everything was in etcd.
    losses: u32,
}

/// Why one step of the keeper did not work out.
enum LeaseTrouble {
    /// The lease is gone, and all keys with it.
    LeaseLost,
    /// etcd is out of reach, or refuses.
    Store(StoreError),
}

impl From<StoreError> for LeaseTrouble {
    fn from(error: StoreError) -> Self {
        if error.is_lease_lost() {
            Self::LeaseLost
        } else {
            Self::Store(error)
        }
    }
}

impl Keeper {
    async fn run(mut self) -> anyhow::Result<()> {
        let mut backoff = Backoff::default();
        let mut lease: Option<Lease> = None;
        let mut reported = None;
        loop {
            match self.keep(&mut lease, &mut backoff).await {
                Ok(()) => return std::future::pending().await,
                Err(LeaseTrouble::LeaseLost) => {
                    self.report_loss();
                    lease = None;
                    self.held.clear();
                    self.written.send_replace(0);
                }
                Err(LeaseTrouble::Store(error)) => {
                    // Once, and again when it is about something else.
                    if reported.replace(error.topic()) != Some(error.topic()) || backoff.failures() == 0 {
                        warn!("{}", error.retrying());
                    } else {
                        debug!("{}", error.retrying());
                    }
                }
            }
            backoff.rest().await;
        }
    }

    /// Of several losses without a complete sync between, the cause is mostly the same.
    fn report_loss(&mut self) {
        self.losses = self.losses.saturating_add(1);
        match self.losses {
            1 => info!("etcd no longer has this daemon's lease: registering all of its records again"),
            losses => warn!(
                "etcd has dropped {losses} leases of this daemon before all of its records were \
                 registered: etcd is slow, and a lease lasts only {:?}; registering all records \
                 again. Raise --ttl if this daemon has that flag, or give etcd a faster disk",
                self.ttl
            ),
        }
    }

    /// Keeps everything as wanted until there is trouble, or returns when it has been shut down.
    async fn keep(&mut self, lease: &mut Option<Lease>, backoff: &mut Backoff) -> Result<(), LeaseTrouble> {
        let store = self.store.clone();
        loop {
            let is_new = lease.is_none();
            if is_new && !self.needs_lease().await {
                return Ok(());
            }
            let granted = match *lease {
                Some(granted) => {
                    // After trouble nothing is taken for granted.
                    store.keep_alive(granted.id).await?;
                    granted
                }
                None => {
                    let granted = store.grant(self.ttl).await?;
                    debug!("granted lease {} for {:?}", granted.id, granted.ttl);
                    *lease.insert(granted)
                }
            };
            tokio::select! {
                biased;
                trouble = renew(&store, granted) => return Err(trouble),
                ended = self.sync(granted, is_new, backoff) => ended?,
            }
            store.revoke(granted.id).await?;
            *lease = None;
            self.held.clear();
        }
    }

    /// Waits until a lease is needed; says whether one is, or everything is to end.
    async fn needs_lease(&mut self) -> bool {
        loop {
            let change = *self.changes.borrow();
            let (has_work, ending) = {
                let wanted = lock(&self.wanted);
                (!wanted.values.is_empty(), wanted.ending)
            };
            if has_work || (self.eager && !ending) {
                return true;
            }
            // Nothing to advertise: leave etcd alone.
            self.written.send_replace(change);
            if ending {
                return false;
            }
            self.wait_for_change().await;
        }
    }

    /// Keeps etcd in sync with what is wanted, under a lease that is renewed meanwhile; returns
    /// when everything is to end.
    async fn sync(&mut self, lease: Lease, is_new: bool, backoff: &mut Backoff) -> Result<(), LeaseTrouble> {
        if !is_new {
            self.verify(lease.id).await?;
        }
        let mut verify_at = Instant::now() + period(lease.ttl);
        // Whether there may be something to write, and when that may happen at the earliest.
        let (mut changed, mut write_at) = (true, Instant::now());
        loop {
            tokio::select! {
                biased;
                // First, so that no stream of changes can starve it.
                () = sleep_until(verify_at) => {
                    self.verify(lease.id).await?;
                    verify_at = Instant::now() + period(lease.ttl);
                    changed = true;
                }
                () = sleep_until(write_at), if changed => {
                    changed = false;
                    if self.reconcile(lease.id).await? {
                        return Ok(());
                    }
                    backoff.reset();
                    write_at = Instant::now() + if self.eager { Duration::ZERO } else { WRITE_GAP };
                }
                () = self.wait_for_change(), if !changed => changed = true,
            }
        }
    }

    fn is_foreign(&self, key: &Key) -> bool {
        self.foreign.borrow().contains(key)
    }

    /// Notes whether a key is another writer's; says whether that is new.
    fn note_foreign(&self, key: &Key, foreign: bool) -> bool {
        self.foreign.send_if_modified(|keys| {
            if foreign {
                keys.insert(key.clone())
            } else {
                keys.remove(key)
            }
        })
    }

    async fn wait_for_change(&mut self) {
        if self.changes.changed().await.is_err() {
            // All handles are dropped: what is advertised stays so until the process ends.
            std::future::pending::<()>().await;
        }
    }

    /// Brings etcd in sync with what is wanted; says whether everything is to end.
    async fn reconcile(&mut self, lease: LeaseId) -> Result<bool, LeaseTrouble> {
        let change = *self.changes.borrow_and_update();
        let (values, mut farewells, ending) = {
            let wanted = lock(&self.wanted);
            (wanted.values.clone(), wanted.farewells.clone(), wanted.ending)
        };
        if ending {
            return Ok(true);
        }
        let gone = self.held.keys().filter(|key| !values.contains_key(*key));
        let (leaving, mut replaced): (Vec<Key>, Vec<Key>) =
            gone.cloned().partition(|key| farewells.contains_key(key));
        // A new key replaces one that is to be gone. The others are deleted first.
        let new = |key: &&Key| !self.held.contains_key(*key) && !self.is_foreign(key);
        let others = replaced.split_off(values.keys().filter(new).count().min(replaced.len()));
        for key in leaving.into_iter().chain(others) {
            let guard = Guard::OwnedBy(lease);
            if let Some(farewell) = farewells.remove(&key) {
                // Until the answer, nobody knows which value etcd has.
                self.held.insert(key.clone(), Vec::new());
                self.store.put_if(&key, farewell, Some(lease), guard).await?;
            }
            self.store.delete_if(&key, guard).await?;
            self.held.remove(&key);
        }
        let held = &self.held;
        lock(&self.wanted)
            .farewells
            .retain(|key, _| held.contains_key(key));
        for (key, value) in values {
            if self.held.get(&key) == Some(&value) || self.is_foreign(&key) {
                continue;
            }
            // The first put takes over what a predecessor left behind; later ones must not take it
            // back from a successor.
            let mut missing = !self.held.contains_key(&key);
            if !missing {
                self.held.insert(key.clone(), Vec::new());
                let guard = Guard::OwnedBy(lease);
                missing = self
                    .store
                    .put_if(&key, value.clone(), Some(lease), guard)
                    .await?
                    .is_none();
                if missing {
                    self.look_after(&key, lease).await?;
                    if self.is_foreign(&key) {
                        continue;
                    }
                }
            }
            if missing {
                self.put(&key, &value, lease, replaced.pop()).await?;
            }
            self.held.insert(key, value);
        }
        self.losses = 0;
        self.written.send_replace(change);
        Ok(false)
    }

    /// Puts a key, and deletes the one that it replaces with the same message: when a thousand
    /// daemons change at once, etcd gets a thousand messages and not two thousand.
    async fn put(
        &mut self,
        key: &Key,
        value: &[u8],
        lease: LeaseId,
        replaced: Option<Key>,
    ) -> Result<(), LeaseTrouble> {
        let mut is_put = false;
        if let Some(old) = replaced {
            let put = Write::Put(key.clone(), value.to_vec(), Some(lease));
            let writes = vec![Write::Delete(old.clone()), put];
            let guard = Guard::OwnedBy(lease);
            is_put = self.store.write_if(&old, guard, writes).await?.is_some();
            // If it is not put, the old key is another writer's by now, and stays.
            self.held.remove(&old);
        }
        if !is_put {
            self.store.put(key, value.to_vec(), Some(lease)).await?;
        }
        Ok(())
    }

    /// Looks which keys still hang on the lease, and finds out about the others.
    async fn verify(&mut self, lease: LeaseId) -> Result<(), LeaseTrouble> {
        let present = self.store.keys_of(lease).await?;
        let wanted: Vec<Key> = lock(&self.wanted).values.keys().cloned().collect();
        // A put whose answer was lost was carried out all the same. What is wanted no more is
        // deleted, as everything that is held.
        let keys = present
            .iter()
            .filter_map(|text| self.store.keyspace().parse(text).ok());
        for key in keys.filter(|key| !wanted.contains(key)) {
            self.held.entry(key).or_default();
        }
        for key in wanted {
            if present.contains(&self.store.keyspace().text(&key)) {
                self.note_foreign(&key, false);
            } else if self.held.contains_key(&key) || self.is_foreign(&key) {
                // A key that was never put has no successor: what stands there is from a
                // predecessor.
                self.look_after(&key, lease).await?;
            }
        }
        Ok(())
    }

    /// Finds out what became of a key that may not be ours any more. One that is missing, or that
    /// has a record without a lease, is forgotten, so that it is put again; one that another writer
    /// took over is left to it.
    ///
    /// Two writers cannot loop here without a pause: this runs as often as a keep-alive, or with a
    /// changed value of ours.
    async fn look_after(&mut self, key: &Key, lease: LeaseId) -> Result<(), LeaseTrouble> {
        let found = self.store.get(key).await?.map(|entry| entry.lease);
        if found == Some(Some(lease)) {
            self.note_foreign(key, false);
            return Ok(());
        }
        let text = self.store.keyspace().text(key);
        let was_held = self.held.remove(key).is_some();
        // The daemon that took the key over puts it again within the same time. If this one did so
        // too, both would work until the next look; so it waits for a second look.
        let is_unleased = found == Some(None);
        let is_left_to_the_other = is_unleased && self.is_foreign(key) && self.unleased.insert(key.clone());
        if is_left_to_the_other {
            return Ok(());
        }
        self.unleased.remove(key);
        let is_foreign = found.is_some() && !is_unleased;
        let is_news = self.note_foreign(key, is_foreign);
        if is_foreign && is_news {
            match key {
                Key::Instance(..) => warn!(
                    "another registrar registers the same instance and has taken over {text}; \
                     waiting until that registrar ends. Register each instance with one registrar \
                     only"
                ),
                _ => warn!(
                    "another daemon with the same --node has taken over {text}; waiting until that \
                     daemon ends. Give each daemon its own --node"
                ),
            }
        } else if is_unleased {
            warn!(
                "another program has overwritten {text} with a record without a lease; \
                 writing this daemon's record again"
            );
        } else if found.is_none() && was_held {
            warn!("{text} is missing in etcd; writing it again");
        }
        Ok(())
    }
}

/// Renews a lease again and again until that fails, however long it takes meanwhile to bring etcd
/// in sync.
async fn renew(store: &Store, lease: Lease) -> LeaseTrouble {
    loop {
        sleep(period(lease.ttl)).await;
        if let Err(error) = store.keep_alive(lease.id).await {
            return error.into();
        }
    }
}

/// Three tries in the life of a lease.
fn period(ttl: Duration) -> Duration {
    ttl / 3
}

#[cfg(test)]
mod tests;
