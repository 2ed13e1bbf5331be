//! Instances that are deregistered: marked as draining first, and only if they are as they were
//! read.

use std::time::Duration;

use mayfly_core::keys::Key;
use mayfly_core::records::{self, Instance, InstanceState, Record};
use mayfly_core::version::BackendId;
use mayfly_daemon::instances::deregister;
use mayfly_daemon::watch::{Change, Stored, WatchOptions, look_up, watch};
use mayfly_e2e::etcd::Etcd;
use tokio::time::timeout;

use super::{SOON, store_of};

const BACKEND: (&str, &str) = ("backend", "0.0.2");

fn key() -> Key {
    let (service, version) = (BACKEND.0.parse().unwrap(), BACKEND.1.parse().unwrap());
    Key::Instance(BackendId { service, version }, "10.0.0.5:80".parse().unwrap())
}

fn instance(stored: &Stored) -> Instance {
    match &stored.record {
        Record::Instance(_, _, instance) => instance.clone(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn one_that_was_put_again_stays_and_another_leaves_with_its_farewell() {
    let etcd = Etcd::start().await.unwrap();
    let store = store_of(&[&etcd]);
    let lease = store.grant(Duration::from_secs(60)).await.unwrap().id;
    let record: Instance = records::parse(br#"{"address": "10.0.0.5:80"}"#).unwrap();
    let value = records::to_json(&record);
    let mut read = Vec::new();
    for _ in 0..2 {
        store.put(&key(), value.clone(), Some(lease)).await.unwrap();
        match look_up(&store, key()).await.unwrap() {
            Some(Change::Put(stored)) => read.push(stored),
            other => panic!("{other:?}"),
        }
    }
    let options = WatchOptions::default();
    let mut watch = watch(&store, store.keyspace().instances(None), options);
    assert!(timeout(SOON, watch.next()).await.unwrap().listed);

    let [before, now] = &read[..] else {
        panic!("{read:?}")
    };
    let (revision, lease) = (before.revision, before.lease);
    let is_gone = deregister(&store, &key(), instance(before), revision, lease).await;
    assert!(!is_gone.unwrap());
    assert_eq!(store.get(&key()).await.unwrap().unwrap().value, value);

    let is_gone = deregister(&store, &key(), instance(now), now.revision, now.lease).await;
    assert!(is_gone.unwrap());
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(timeout(SOON, watch.next()).await.unwrap().changes);
    }
    let [Change::Put(farewell), gone] = &seen[..] else {
        panic!("{seen:?}")
    };
    assert_eq!(instance(farewell).state, InstanceState::Draining);
    assert_eq!(farewell.lease, lease);
    assert_eq!(gone, &Change::Gone(key()));
}
