//! Many keys in an etcd that is slow, in virtual time.

use std::fs::File;
use std::io::{Read as _, Seek as _};

use mayfly_core::keys::KeySpace;
use prometheus_client::metrics::gauge::Gauge;

use super::*;
use crate::store::{
    Answer, Cause, Endpoint, Entry, Etcd, EventStream, LeaseLife, LeaseState, Page, Question, TextWrite,
};

/// The time to live of leases, in seconds.
const TTL: u64 = 2;
/// So many keys that putting them takes twice as long as a lease lives.
const KEYS: usize = 40;
const ENOUGH: Duration = Duration::from_secs(30);

/// An etcd that takes its time for each call.
#[derive(Debug)]
struct SlowEtcd {
    connected: Gauge,
    content: Arc<Mutex<Content>>,
}

#[derive(Debug)]
struct Content {
    /// How long a keep-alive takes, and how long any other call.
    keep_alive: Duration,
    call: Duration,
    /// How many leases were granted so far.
    granted: i64,
    /// When the leases expire.
    leases: BTreeMap<LeaseId, Instant>,
    /// The leases of the keys.
    keys: BTreeMap<String, LeaseId>,
}

impl Content {
    /// Renews a lease that is there, or grants it.
    fn renew(&mut self, lease: LeaseId) {
        let expires = Instant::now() + Duration::from_secs(TTL);
        self.leases.insert(lease, expires);
    }

    fn expire(&mut self) {
        self.leases.retain(|_, expires| *expires > Instant::now());
        self.keys.retain(|_, lease| self.leases.contains_key(&*lease));
    }

    fn ensure_lease(&self, lease: LeaseId) -> Result<(), Cause> {
        match self.leases.contains_key(&lease) {
            true => Ok(()),
            false => Err(Cause::LeaseLost),
        }
    }

    fn keys_of(&self, lease: LeaseId) -> BTreeSet<String> {
        let keys = self.keys.iter().filter(|(_, of)| **of == lease);
        keys.map(|(key, _)| key.clone()).collect()
    }
}

impl SlowEtcd {
    fn start() -> Self {
        let content = Content {
            keep_alive: Duration::from_millis(100),
            call: Duration::from_millis(100),
            granted: 0,
            leases: BTreeMap::new(),
            keys: BTreeMap::new(),
        };
        Self {
            connected: Gauge::default(),
            content: Arc::new(Mutex::new(content)),
        }
    }

    fn store(&self) -> Store {
        Store::over(Arc::new(self.share()), KeySpace::default())
    }

    fn share(&self) -> Self {
        Self {
            connected: self.connected.clone(),
            content: self.content.clone(),
        }
    }

    /// The content as it is now.
    fn content(&self) -> MutexGuard<'_, Content> {
        let mut content = self.content.lock().unwrap();
        content.expire();
        content
    }

    /// Does one call, at its end.
    fn call<'a, T: Send + 'a>(
        &'a self,
        takes: Duration,
        work: impl FnOnce(&mut Content) -> Result<T, Cause> + Send + 'a,
    ) -> Answer<'a, T> {
        Box::pin(async move {
            sleep(takes).await;
            work(&mut self.content())
        })
    }
}

/// That no test here needs a call.
fn unused<'a, T: Send + 'a>() -> Answer<'a, T> {
    Box::pin(async { Err(Cause::Refused("this etcd cannot do that".to_owned())) })
}

impl Etcd for SlowEtcd {
    fn endpoints(&self) -> &[Endpoint] {
        &[]
    }

    fn connected(&self) -> &Gauge {
        &self.connected
    }

    fn with_limit(&self, _limit: Duration) -> Arc<dyn Etcd> {
        Arc::new(self.share())
    }

    fn range(&self, question: Question) -> Answer<'_, Page> {
        let takes = self.content().call;
        self.call(takes, move |content| {
            let key = String::from_utf8_lossy(&question.start).into_owned();
            let entry = content.keys.get(&key).map(|lease| Entry {
                key: key.clone(),
                value: Vec::new(),
                create_revision: 1,
                mod_revision: 1,
                lease: Some(*lease),
            });
            Ok(Page {
                revision: 1,
                entries: entry.into_iter().collect(),
                next: None,
            })
        })
    }

    fn put(&self, key: String, _value: Vec<u8>, lease: Option<LeaseId>) -> Answer<'_, i64> {
        let takes = self.content().call;
        self.call(takes, move |content| {
            let lease = lease.unwrap_or_default();
            content.ensure_lease(lease)?;
            content.keys.insert(key, lease);
            Ok(1)
        })
    }

    fn delete(&self, _start: String, _end: Option<String>) -> Answer<'_, i64> {
        unused()
    }

    fn write(&self, _guards: Vec<(String, Guard)>, _writes: Vec<TextWrite>) -> Answer<'_, Option<i64>> {
        unused()
    }

    fn is_full(&self) -> Answer<'_, bool> {
        unused()
    }

    fn grant(&self, _seconds: i64) -> Answer<'_, Lease> {
        let takes = self.content().call;
        self.call(takes, |content| {
            content.granted += 1;
            let id = LeaseId::new(content.granted);
            content.renew(id);
            let ttl = Duration::from_secs(TTL);
            Ok(Lease { id, ttl })
        })
    }

    fn keep_alive(&self, lease: LeaseId) -> Answer<'_, ()> {
        let takes = self.content().keep_alive;
        self.call(takes, move |content| {
            content.ensure_lease(lease)?;
            content.renew(lease);
            Ok(())
        })
    }

    fn lease(&self, lease: LeaseId, _with_keys: bool) -> Answer<'_, Option<LeaseState>> {
        let takes = self.content().call;
        self.call(takes, move |content| {
            let expires = content.leases.get(&lease);
            Ok(expires.map(|expires| LeaseState {
                life: LeaseLife {
                    granted: Duration::from_secs(TTL),
                    left: *expires - Instant::now(),
                },
                keys: content.keys_of(lease),
            }))
        })
    }

    fn revoke(&self, lease: LeaseId) -> Answer<'_, ()> {
        let takes = self.content().call;
        self.call(takes, move |content| {
            content.ensure_lease(lease)?;
            content.leases.remove(&lease);
            Ok(())
        })
    }

    fn watch(&self, _start: String, _end: String, _from: i64) -> Answer<'_, Box<dyn EventStream>> {
        unused()
    }
}

fn environment(name: &str) -> Key {
    Key::Environment(name.parse().unwrap())
}

/// Advertises so many keys that one lease does not live as long as their puts take.
fn advertise(tasks: &Tasks, etcd: &SlowEtcd) -> Advertiser {
    let advertiser = Advertiser::start(tasks, &etcd.store(), Duration::from_secs(TTL));
    let keys = (0..KEYS).map(|n| (environment(&format!("e{n}")), Some(b"1".to_vec())));
    advertiser.set_all(keys);
    advertiser
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_many_keys_are_put_slowly() {
    let (etcd, tasks) = (SlowEtcd::start(), Tasks::new());
    let advertiser = advertise(&tasks, &etcd);
    let begin = Instant::now();
    advertiser.flush(ENOUGH).await.unwrap();
    assert!(begin.elapsed() > Duration::from_secs(TTL), "it takes long");
    let has = || {
        let content = etcd.content();
        (content.granted, content.keys_of(LeaseId::new(1)).len())
    };
    assert_eq!(has(), (1, KEYS));
    sleep(ENOUGH).await;
    assert_eq!(has(), (1, KEYS));
    advertiser.shutdown(ENOUGH).await.unwrap();
    assert!(etcd.content().keys.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_while_many_keys_that_were_taken_over_are_looked_at() {
    let (etcd, tasks) = (SlowEtcd::start(), Tasks::new());
    let first = advertise(&tasks, &etcd);
    first.set(environment("own"), Some(b"1".to_vec()));
    first.flush(ENOUGH).await.unwrap();
    let second = advertise(&tasks, &etcd);
    second.flush(ENOUGH).await.unwrap();
    sleep(ENOUGH).await;
    assert_eq!(first.taken_over().borrow().len(), KEYS);
    let of = |lease| etcd.content().keys_of(LeaseId::new(lease)).len();
    assert_eq!((of(1), of(2)), (1, KEYS));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_never_lasts_for_all_keys_is_reported() {
    let log = Arc::new(tempfile::tempfile().unwrap());
    let subscriber = tracing_subscriber::fmt()
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let (etcd, tasks) = (SlowEtcd::start(), Tasks::new());
    etcd.content().keep_alive = Duration::from_secs(TTL + 1);
    let advertiser = advertise(&tasks, &etcd);
    advertiser.flush(3 * Duration::from_secs(TTL)).await.unwrap_err();
    let lost_again = "etcd has dropped 2 leases of this daemon before all of its records were registered";
    let text = text_of(&log);
    assert!(text.contains(lost_again), "{text}");
    assert!(text.contains("Raise --ttl"), "{text}");

    etcd.content().keep_alive = Duration::from_millis(100);
    advertiser.flush(ENOUGH).await.unwrap();
    // After that, a loss is the first one again.
    let before = text_of(&log).len();
    etcd.content().leases.clear();
    sleep(ENOUGH).await;
    let text = text_of(&log).split_off(before);
    assert!(
        text.contains("no longer has this daemon's lease") && !text.contains("etcd has dropped"),
        "{text}"
    );
}

fn text_of(file: &File) -> String {
    let (mut file, mut text) = (file, String::new());
    file.rewind().unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}
