//! The advertiser: its keys are in etcd whatever happens to lease, keys and etcd, and gone after its shutdown.

use std::time::{Duration, Instant};

use mayfly_core::keys::Daemon;
use mayfly_core::records::Record;
use mayfly_daemon::admin::CommonMetrics;
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::status::StatusReporter;
use mayfly_daemon::tasks::Tasks;
use mayfly_daemon::watch::{self, Change, Stored, WatchOptions};
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::{eventually, poll::throughout};
use tokio::time::timeout;

use super::{SOON, environment, store_of, text};

const TTL: Duration = Duration::from_secs(3);

async fn value(etcd: &Etcd, name: &str) -> Option<String> {
    etcd.get(&text(name)).await.ok().flatten()
}

async fn advertise(etcd: &Etcd, tasks: &Tasks) -> Advertiser {
    let advertiser = Advertiser::start(tasks, &store_of(&[etcd]), TTL);
    advertiser.set(environment("dev"), Some(b"1".to_vec()));
    advertiser.flush(SOON).await.unwrap();
    advertiser
}

#[tokio::test]
async fn keys_live_as_long_as_wanted_and_go_at_once() {
    let (etcd, tasks) = (Etcd::start().await.unwrap(), Tasks::new());
    let advertiser = advertise(&etcd, &tasks).await;
    advertiser.set(environment("qa"), Some(b"1".to_vec()));
    advertiser.flush(SOON).await.unwrap();
    assert_eq!(value(&etcd, "qa").await.as_deref(), Some("1"));
    assert_eq!(
        etcd.lease_of(&text("dev")).await.unwrap(),
        etcd.lease_of(&text("qa")).await.unwrap()
    );
    advertiser.set(environment("qa"), None);
    advertiser.set(environment("dev"), Some(b"2".to_vec()));
    advertiser.flush(SOON).await.unwrap();
    assert_eq!(
        (value(&etcd, "qa").await, value(&etcd, "dev").await.as_deref()),
        (None, Some("2"))
    );

    throughout(
        TTL + Duration::from_secs(2),
        "the lease is kept alive",
        async || value(&etcd, "dev").await.is_some(),
    )
    .await;
    advertiser.shutdown(SOON).await.unwrap();
    assert_eq!(value(&etcd, "dev").await, None);
}

#[tokio::test]
async fn a_new_key_replaces_one_that_goes_in_one_step() {
    let (etcd, tasks) = (Etcd::start().await.unwrap(), Tasks::new());
    // So long that no look at the lease finds the other writer first.
    let advertiser = Advertiser::start(&tasks, &store_of(&[&etcd]), TTL * 100);
    advertiser.set(environment("dev"), Some(b"1".to_vec()));
    advertiser.flush(SOON).await.unwrap();
    let replace = async |old: &str, new: &str| {
        let before = etcd.revision().await.unwrap();
        advertiser.set_all([(environment(old), None), (environment(new), Some(b"1".to_vec()))]);
        advertiser.flush(SOON).await.unwrap();
        etcd.revision().await.unwrap() - before
    };
    assert_eq!(replace("dev", "qa").await, 1);
    assert_eq!(
        (value(&etcd, "dev").await, value(&etcd, "qa").await.as_deref()),
        (None, Some("1"))
    );
    // One that is another writer's by now stays, and the new key comes all the same.
    etcd.put(&text("qa"), "another's").await.unwrap();
    assert_eq!(replace("qa", "dev").await, 1);
    assert_eq!(
        (
            value(&etcd, "qa").await.as_deref(),
            value(&etcd, "dev").await.as_deref()
        ),
        (Some("another's"), Some("1"))
    );
    // Of two that go, one is replaced.
    advertiser.set(environment("qa"), Some(b"1".to_vec()));
    advertiser.flush(SOON).await.unwrap();
    advertiser.set_all([
        (environment("dev"), None),
        (environment("qa"), None),
        (environment("prod"), Some(b"1".to_vec())),
    ]);
    advertiser.flush(SOON).await.unwrap();
    let left = (
        value(&etcd, "dev").await,
        value(&etcd, "qa").await,
        value(&etcd, "prod").await,
    );
    assert_eq!(left, (None, None, Some("1".to_owned())));
}

#[tokio::test]
async fn who_leaves_says_so_first() {
    let (etcd, tasks) = (Etcd::start().await.unwrap(), Tasks::new());
    let advertiser = advertise(&etcd, &tasks).await;
    let store = store_of(&[&etcd]);
    let mut watch = watch::watch(&store, store.keyspace().environments(), WatchOptions::default());
    assert_eq!(watch.next().await.changes.len(), 1);
    let farewell = super::record("dev", "farewell");
    advertiser.leave(environment("dev"), farewell.clone().into_bytes());
    // One that was never there says nothing.
    advertiser.leave(environment("qa"), b"farewell".to_vec());
    advertiser.flush(SOON).await.unwrap();
    let mut reported = Vec::new();
    while reported.len() < 2 {
        let batch = timeout(SOON, watch.next()).await.unwrap();
        reported.extend(batch.changes.into_iter().map(|change| match change {
            Change::Put(Stored {
                record: Record::Environment(environment),
                ..
            }) => environment.description,
            gone => {
                assert_eq!(gone, Change::Gone(environment("dev")));
                None
            }
        }));
    }
    assert_eq!(reported, [Some("farewell".to_owned()), None]);
    // And once it is wanted again, it is back.
    advertiser.leave(environment("dev"), b"farewell".to_vec());
    advertiser.set(environment("dev"), Some(b"2".to_vec()));
    advertiser.flush(SOON).await.unwrap();
    assert_eq!(value(&etcd, "dev").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn an_eager_one_has_a_lease_before_a_key_and_gives_it_back() {
    let (etcd, tasks) = (Etcd::start().await.unwrap(), Tasks::new());
    let advertiser = Advertiser::start_eager(&tasks, &store_of(&[&etcd]), TTL);
    let leases = async |count: usize| {
        eventually(SOON, "the number of leases", async || {
            etcd.leases().await.is_ok_and(|found| found == count)
        })
        .await;
    };
    leases(1).await;
    advertiser.set(environment("dev"), Some(b"1".to_vec()));
    advertiser.flush(SOON).await.unwrap();
    advertiser.set(environment("dev"), None);
    advertiser.flush(SOON).await.unwrap();
    assert_eq!(
        (value(&etcd, "dev").await, etcd.leases().await.unwrap()),
        (None, 1)
    );
    advertiser.shutdown(SOON).await.unwrap();
    leases(0).await;
}

#[tokio::test]
async fn many_changes_are_few_writes_and_the_last_one_wins() {
    let (etcd, tasks) = (Etcd::start().await.unwrap(), Tasks::new());
    let advertiser = advertise(&etcd, &tasks).await;
    let (before, start) = (etcd.revision().await.unwrap(), Instant::now());
    for n in 0..500 {
        advertiser.set(environment("dev"), Some(n.to_string().into_bytes()));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    advertiser.flush(SOON).await.unwrap();
    assert_eq!(value(&etcd, "dev").await.as_deref(), Some("499"));
    let (writes, most) = (
        etcd.revision().await.unwrap() - before,
        start.elapsed().as_millis() / 200 + 2,
    );
    assert!(writes as u128 <= most, "{writes} writes in {:?}", start.elapsed());
    let settled = etcd.revision().await.unwrap();
    advertiser.set(environment("dev"), Some(b"499".to_vec()));
    advertiser.flush(SOON).await.unwrap();
    assert_eq!(
        etcd.revision().await.unwrap(),
        settled,
        "an equal value is not written"
    );
}

#[tokio::test]
async fn a_lost_lease_a_deleted_key_and_an_emptied_etcd_are_mended() {
    let (mut etcd, tasks) = (Etcd::start().await.unwrap(), Tasks::new());
    let advertiser = advertise(&etcd, &tasks).await;

    let lease = etcd.lease_of(&text("dev")).await.unwrap().unwrap();
    etcd.revoke(&lease).await.unwrap();
    assert_eq!(value(&etcd, "dev").await, None);
    eventually(SOON, "registered again", async || value(&etcd, "dev").await).await;
    assert_ne!(etcd.lease_of(&text("dev")).await.unwrap().unwrap(), lease);

    etcd.delete(&text("dev")).await.unwrap();
    eventually(SOON, "put again", async || value(&etcd, "dev").await).await;

    etcd.restart_emptied().await.unwrap();
    eventually(SOON, "there in an empty etcd", async || value(&etcd, "dev").await).await;

    etcd.kill9().await.unwrap();
    advertiser.set(environment("dev"), Some(b"2".to_vec()));
    assert!(advertiser.flush(Duration::from_millis(300)).await.is_err());
    etcd.restart().await.unwrap();
    eventually(SOON, "the new value", async || {
        value(&etcd, "dev").await.as_deref() == Some("2")
    })
    .await;

    etcd.freeze().unwrap();
    let start = Instant::now();
    let error = advertiser.shutdown(Duration::from_millis(300)).await.unwrap_err();
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "a shutdown takes no longer than its limit"
    );
    assert!(
        format!("{error:#}").contains("expire with their lease"),
        "{error:#}"
    );
    etcd.thaw().unwrap();
}

#[tokio::test]
async fn a_key_that_another_writer_took_over_is_left_to_it() {
    let (etcd, tasks) = (Etcd::start().await.unwrap(), Tasks::new());
    let first = advertise(&etcd, &tasks).await;
    let second = Advertiser::start(&tasks, &store_of(&[&etcd]), TTL);
    second.set(environment("dev"), Some(b"of the second".to_vec()));
    second.flush(SOON).await.unwrap();
    // A change by the first one does not take it back.
    first.set(environment("dev"), Some(b"1".to_vec()));
    first.set(environment("dev"), Some(b"draining".to_vec()));
    throughout(TTL, "the second one's value stays", async || {
        value(&etcd, "dev").await.as_deref() == Some("of the second")
    })
    .await;
    let taken_over = |advertiser: &Advertiser| advertiser.taken_over().borrow().contains(&environment("dev"));
    assert!(taken_over(&first) && !taken_over(&second));
    second.shutdown(SOON).await.unwrap();
    eventually(SOON, "the first one has it again", async || {
        value(&etcd, "dev").await.as_deref() == Some("draining")
    })
    .await;
    assert!(!taken_over(&first));
    second.shutdown(SOON).await.unwrap();
    first.shutdown(SOON).await.unwrap();
    assert_eq!(value(&etcd, "dev").await, None);
}

#[tokio::test]
async fn a_record_without_a_lease_does_not_take_a_key_over() {
    let (etcd, tasks) = (Etcd::start().await.unwrap(), Tasks::new());
    let advertiser = advertise(&etcd, &tasks).await;
    let is_ours = async |expected: &str| {
        let lease = etcd.lease_of(&text("dev")).await.ok().flatten();
        lease.is_some() && value(&etcd, "dev").await.as_deref() == Some(expected)
    };
    etcd.put(&text("dev"), "forged").await.unwrap();
    eventually(TTL, "overwritten by a keep-alive", async || is_ours("1").await).await;
    etcd.put(&text("dev"), "forged").await.unwrap();
    advertiser.set(environment("dev"), Some(b"2".to_vec()));
    advertiser.flush(SOON).await.unwrap();
    assert!(is_ours("2").await, "overwritten by a change");
    assert!(advertiser.taken_over().borrow().is_empty());

    // A lease of another writer takes the key over. It comes back when that lease ends, or is taken off.
    for ends in [true, false] {
        let lease = etcd.grant(600).await.unwrap();
        etcd.put_leased(&text("dev"), "forged", &lease).await.unwrap();
        let mut taken_over = advertiser.taken_over();
        let reported = taken_over.wait_for(|keys| !keys.is_empty());
        timeout(SOON, reported).await.unwrap().unwrap();
        assert_eq!(value(&etcd, "dev").await.as_deref(), Some("forged"));
        match ends {
            true => etcd.revoke(&lease).await.unwrap(),
            false => etcd.put(&text("dev"), "forged").await.unwrap(),
        }
        eventually(SOON, "it comes back", async || is_ours("2").await).await;
        assert!(advertiser.taken_over().borrow().is_empty());
    }
    advertiser.shutdown(SOON).await.unwrap();
    assert_eq!(value(&etcd, "dev").await, None);
}

#[tokio::test]
async fn of_two_the_newer_one_overwrites_a_record_without_a_lease() {
    let (etcd, tasks) = (Etcd::start().await.unwrap(), Tasks::new());
    let first = advertise(&etcd, &tasks).await;
    let second = Advertiser::start(&tasks, &store_of(&[&etcd]), TTL);
    second.set(environment("dev"), Some(b"of the second".to_vec()));
    second.flush(SOON).await.unwrap();
    let mut taken_over = first.taken_over();
    let reported = taken_over.wait_for(|keys| !keys.is_empty());
    timeout(SOON, reported).await.unwrap().unwrap();
    etcd.put(&text("dev"), "forged").await.unwrap();
    throughout(2 * TTL, "the first one waits", async || {
        value(&etcd, "dev").await.as_deref() != Some("1") && !first.taken_over().borrow().is_empty()
    })
    .await;
    assert_eq!(value(&etcd, "dev").await.as_deref(), Some("of the second"));
    assert!(second.taken_over().borrow().is_empty());
}

#[tokio::test]
async fn the_status_record_says_what_is_applied_and_vanishes_with_its_daemon() {
    let (etcd, tasks) = (Etcd::start().await.unwrap(), Tasks::new());
    let advertiser = Advertiser::start(&tasks, &store_of(&[&etcd]), TTL);
    let metrics = CommonMetrics::default();
    let status = StatusReporter::new(
        &advertiser,
        Daemon::DnsUpdater,
        "node-1".parse().unwrap(),
        &metrics,
    );
    let fault = mayfly_core::records::SetAside {
        key: "/mayfly/dns/x".to_owned(),
        reason: "no".to_owned(),
    };
    status.applied(42, vec![fault]);
    advertiser.flush(SOON).await.unwrap();
    let record = etcd.get_json("/mayfly/status/dns-updater/node-1").await.unwrap();
    assert_eq!(
        (&record["applied_revision"], &record["ready"]),
        (&42.into(), &true.into())
    );
    assert_eq!(record["set_aside"][0]["key"], "/mayfly/dns/x");
    assert!(record["applied_at"].as_str().unwrap().ends_with('Z'), "{record}");
    assert_eq!((metrics.applied_revision.get(), metrics.set_aside.get()), (42, 1));

    status.failed(&anyhow::anyhow!("disk full"));
    advertiser.flush(SOON).await.unwrap();
    let record = etcd.get_json("/mayfly/status/dns-updater/node-1").await.unwrap();
    assert_eq!(record["error"], "disk full");
    status.applied(43, vec![]);
    assert_eq!(status.current().error, None);
    advertiser.shutdown(SOON).await.unwrap();
    assert_eq!(etcd.get("/mayfly/status/dns-updater/node-1").await.unwrap(), None);
}
