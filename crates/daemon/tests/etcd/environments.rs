//! Environments with an end: registered under a lease, and let live on by use.

use std::time::{Duration, SystemTime};

use mayfly_core::names::EnvironmentName;
use mayfly_core::records::{self, Environment};
use mayfly_daemon::environments::{register, touch};
use mayfly_daemon::store::{Entry, Guard, Store};
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::eventually;
use serde_json::json;

use super::{SOON, environment, store_of};

/// Registers `dev`, which says this of its end.
async fn dev(store: &Store, mut record: serde_json::Value, now: SystemTime) -> (Environment, Entry) {
    for field in ["name", "prefix", "header"] {
        record[field] = json!("dev");
    }
    let name: EnvironmentName = "dev".parse().unwrap();
    let record = records::parse_environment(&name, record.to_string().as_bytes()).unwrap();
    register(store, &record, Guard::Absent, None, now)
        .await
        .unwrap()
        .unwrap();
    (record, store.get(&environment("dev")).await.unwrap().unwrap())
}

async fn left(store: &Store, entry: &Entry) -> u64 {
    store
        .lease_life(entry.lease.unwrap())
        .await
        .unwrap()
        .unwrap()
        .left
        .as_secs()
}

#[tokio::test]
async fn use_gives_an_idle_time_anew_without_a_write_and_brings_nothing_back() {
    let etcd = Etcd::start().await.unwrap();
    let store = store_of(&[&etcd]);
    let now = SystemTime::now();
    let (record, entry) = dev(&store, json!({"idle": "8s"}), now).await;
    eventually(SOON, "time goes by", async || left(&store, &entry).await <= 6).await;
    let before = etcd.revision().await.unwrap();
    assert!(touch(&store, &record, &entry, now).await.unwrap());
    assert!(left(&store, &entry).await >= 7);
    assert_eq!(etcd.revision().await.unwrap(), before, "nobody is woken by it");

    store.revoke(entry.lease.unwrap()).await.unwrap();
    assert!(!touch(&store, &record, &entry, now).await.unwrap());
    assert_eq!(store.get(&environment("dev")).await.unwrap(), None);
}

#[tokio::test]
async fn use_does_not_move_the_moment_at_which_it_expires() {
    let etcd = Etcd::start().await.unwrap();
    let store = store_of(&[&etcd]);
    let now = SystemTime::now();
    let end = humantime::format_rfc3339_seconds(now + Duration::from_secs(150)).to_string();
    let (record, entry) = dev(&store, json!({"idle": "100s", "expires": end}), now).await;
    // Its idle time begins anew a minute later, but it expires before.
    let later = now + Duration::from_secs(60);
    assert!(touch(&store, &record, &entry, later).await.unwrap());
    let entry = store.get(&environment("dev")).await.unwrap().unwrap();
    assert!((87..=91).contains(&left(&store, &entry).await));
    // From then on its lease ends with it, and there is nothing to do.
    let revision = etcd.revision().await.unwrap();
    assert!(touch(&store, &record, &entry, later).await.unwrap());
    assert_eq!(etcd.revision().await.unwrap(), revision);
    // Whoever has changed it meanwhile has done the same.
    store
        .put(&environment("dev"), b"{}".to_vec(), entry.lease)
        .await
        .unwrap();
    assert!(!touch(&store, &record, &entry, now).await.unwrap());
}
