//! The watch: in sync with etcd through its death, a freeze, a compaction and the loss of its data.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::records::Record;
use mayfly_core::trust::Policy;
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::tasks::Tasks;
use mayfly_daemon::watch::{Change, Stored, Watch, WatchOptions, watch};
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::poll::throughout;
use tokio::time::timeout;

use super::{SOON, record, store_of, text};

/// What a consumer knows that applies every batch.
struct View {
    watch: Watch,
    entries: BTreeMap<String, String>,
    revision: i64,
}

impl View {
    async fn start(etcd: &Etcd, options: WatchOptions) -> Self {
        let watch = watch(&store_of(&[etcd]), KeySpace::default().environments(), options);
        let mut view = Self {
            watch,
            entries: BTreeMap::new(),
            revision: 0,
        };
        assert!(view.step(SOON).await, "the first batch is the full first sync");
        view
    }

    /// Applies the next batch; says whether it came from a listing.
    async fn step(&mut self, limit: Duration) -> bool {
        let batch = timeout(limit, self.watch.next()).await.expect("a batch");
        for change in batch.changes {
            match change {
                Change::Put(Stored {
                    record: Record::Environment(environment),
                    ..
                }) => {
                    let (name, note) = (environment.name.to_string(), environment.description);
                    self.entries.insert(name, note.unwrap());
                }
                Change::Gone(Key::Environment(name)) => {
                    assert!(
                        self.entries.remove(name.as_str()).is_some(),
                        "{name} is gone without having been there"
                    );
                }
                other => panic!("{other:?}"),
            }
        }
        self.revision = batch.revision;
        batch.listed
    }

    async fn until(&mut self, limit: Duration, entries: &[(&str, &str)]) {
        let wanted: BTreeMap<String, String> = entries
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        let start = Instant::now();
        while self.entries != wanted {
            let left = limit.saturating_sub(start.elapsed());
            if timeout(left, self.step(limit)).await.is_err() {
                panic!("not within {limit:?}: {:?} instead of {wanted:?}", self.entries);
            }
        }
    }
}

#[tokio::test]
async fn follows_puts_and_deletes_and_starts_before_etcd() {
    let mut etcd = Etcd::reserve().unwrap();
    let early = watch(
        &store_of(&[&etcd]),
        KeySpace::default().environments(),
        WatchOptions::default(),
    );
    etcd.restart().await.unwrap();
    etcd.put(&text("a"), &record("a", "1")).await.unwrap();
    let mut view = View {
        watch: early,
        entries: BTreeMap::new(),
        revision: 0,
    };
    view.until(SOON, &[("a", "1")]).await;
    etcd.put(&text("b"), &record("b", "1")).await.unwrap();
    etcd.put("/mayfly/status/dns-updater/n", "not in the range")
        .await
        .unwrap();
    etcd.put(&text("a"), &record("a", "2")).await.unwrap();
    view.until(SOON, &[("a", "2"), ("b", "1")]).await;
    assert_eq!(view.revision, etcd.revision().await.unwrap());
    etcd.delete(&text("a")).await.unwrap();
    view.until(SOON, &[("b", "1")]).await;
}

#[tokio::test]
async fn survives_the_death_of_etcd_and_tells_what_it_missed() {
    let mut etcd = Etcd::start().await.unwrap();
    for name in ["a", "b"] {
        etcd.put(&text(name), &record(name, "1")).await.unwrap();
    }
    let mut view = View::start(&etcd, WatchOptions::default()).await;
    etcd.kill9().await.unwrap();
    etcd.restart().await.unwrap();
    etcd.delete(&text("a")).await.unwrap();
    etcd.put(&text("c"), &record("c", "1")).await.unwrap();
    view.until(SOON, &[("b", "1"), ("c", "1")]).await;
    etcd.put(&text("d"), &record("d", "1")).await.unwrap();
    view.until(SOON, &[("b", "1"), ("c", "1"), ("d", "1")]).await;
}

#[tokio::test]
async fn notices_a_frozen_etcd_and_is_in_sync_again_soon_after() {
    let mut etcd = Etcd::start().await.unwrap();
    etcd.put(&text("a"), &record("a", "1")).await.unwrap();
    let mut view = View::start(&etcd, WatchOptions::default()).await;
    let metrics = view.watch.metrics();
    mayfly_e2e::eventually(SOON, "in sync", async || metrics.in_sync.get() == 1).await;
    let start = Instant::now();
    etcd.freeze().unwrap();
    mayfly_e2e::eventually(SOON, "the doubt", async || metrics.in_sync.get() == 0).await;
    let noticed = start.elapsed();
    assert!(
        noticed < Duration::from_secs(6),
        "a frozen etcd was noticed after {noticed:?}"
    );
    etcd.thaw().unwrap();
    etcd.put(&text("a"), &record("a", "2")).await.unwrap();
    view.until(SOON, &[("a", "2")]).await;
}

#[tokio::test]
async fn a_compaction_while_it_was_away_does_no_harm() {
    let mut etcd = Etcd::start().await.unwrap();
    etcd.put(&text("a"), &record("a", "1")).await.unwrap();
    let mut view = View::start(&etcd, WatchOptions::default()).await;
    etcd.kill9().await.unwrap();
    etcd.restart().await.unwrap();
    for n in 0..20 {
        etcd.put(&text("a"), &record("a", &n.to_string())).await.unwrap();
        etcd.put(&text("b"), &record("b", &n.to_string())).await.unwrap();
        etcd.delete(&text("b")).await.unwrap();
        etcd.compact().await.unwrap();
    }
    view.until(SOON, &[("a", "19")]).await;
    etcd.put(&text("b"), &record("b", "1")).await.unwrap();
    view.until(SOON, &[("a", "19"), ("b", "1")]).await;
}

#[tokio::test]
async fn an_etcd_that_lost_its_data_empties_nothing_within_the_grace() {
    let mut etcd = Etcd::start().await.unwrap();
    for name in ["a", "b"] {
        etcd.put(&text(name), &record(name, "1")).await.unwrap();
    }
    let grace = Duration::from_secs(5);
    let mut view = View::start(
        &etcd,
        WatchOptions::default().with_policy(Policy::launching(grace)),
    )
    .await;
    etcd.restart_emptied().await.unwrap();
    let emptied = Instant::now();
    assert!(view.step(SOON).await, "a listing that finds nothing");
    assert_eq!((view.entries.len(), view.watch.held()), (2, 2));
    // `a` comes back, another one is new; `b` stays in force until the grace ends.
    etcd.put(&text("a"), &record("a", "1")).await.unwrap();
    etcd.put(&text("c"), &record("c", "1")).await.unwrap();
    view.until(grace, &[("a", "1"), ("b", "1"), ("c", "1")]).await;
    assert_eq!(view.watch.held(), 1);
    view.until(SOON, &[("a", "1"), ("c", "1")]).await;
    let kept = emptied.elapsed();
    assert!(kept >= Duration::from_secs(4), "'b' was given up after {kept:?}");
    assert_eq!(view.watch.held(), 0);
}

#[tokio::test]
async fn without_a_grace_a_lost_registry_is_believed() {
    let mut etcd = Etcd::start().await.unwrap();
    etcd.put(&text("a"), &record("a", "1")).await.unwrap();
    let mut view = View::start(&etcd, WatchOptions::default()).await;
    etcd.restart_emptied().await.unwrap();
    view.until(SOON, &[]).await;
}

#[tokio::test]
async fn deletes_of_everything_by_an_operator_are_applied_at_once() {
    let etcd = Etcd::start().await.unwrap();
    for name in ["a", "b"] {
        etcd.put(&text(name), &record(name, "1")).await.unwrap();
    }
    let options = WatchOptions::default().with_policy(Policy::launching(Duration::from_secs(3600)));
    let mut view = View::start(&etcd, options).await;
    let metrics = view.watch.metrics();
    mayfly_e2e::eventually(SOON, "in sync", async || metrics.in_sync.get() == 1).await;
    etcd.delete_all("/mayfly/environments/").await.unwrap();
    view.until(SOON, &[]).await;
}

#[tokio::test]
async fn etcd_leaves_a_quiet_connection_alone() {
    // etcd closes a connection that is pinged more often than every 5 s, or pinged while nothing is under way.
    let etcd = Etcd::start().await.unwrap();
    etcd.put(&text("a"), &record("a", "1")).await.unwrap();
    let mut view = View::start(&etcd, WatchOptions::default()).await;
    let metrics = view.watch.metrics();
    mayfly_e2e::eventually(SOON, "in sync", async || metrics.in_sync.get() == 1).await;
    let (quiet, tasks) = (store_of(&[&etcd]), Tasks::new());
    let advertiser = Advertiser::start(&tasks, &quiet, Duration::from_secs(45));
    advertiser.set(super::environment("b"), Some(record("b", "1").into_bytes()));
    view.until(SOON, &[("a", "1"), ("b", "1")]).await;
    throughout(Duration::from_secs(17), "both are undisturbed", async || {
        metrics.in_sync.get() == 1 && metrics.relists.get() == 0 && quiet.connected()
    })
    .await;
}
