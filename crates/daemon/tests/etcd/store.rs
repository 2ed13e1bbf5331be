//! The store: conditional writes, large listings, leases, several endpoints, and messages of failures.

use std::time::{Duration, Instant};

use mayfly_core::keys::KeySpace;
use mayfly_daemon::store::{Cause, Guard, Store};
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::{eventually, port};

use super::{SOON, environment, store_of, text};

#[tokio::test]
async fn conditional_writes_take_hold_only_when_their_guard_does() {
    let etcd = Etcd::start().await.unwrap();
    let store = store_of(&[&etcd]);
    let key = environment("dev");
    let first = store
        .put_if(&key, b"1".to_vec(), None, Guard::Absent)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        store
            .put_if(&key, b"2".to_vec(), None, Guard::Absent)
            .await
            .unwrap(),
        None
    );
    let entry = store.get(&key).await.unwrap().unwrap();
    assert_eq!(
        (entry.value.as_slice(), entry.mod_revision, entry.lease),
        (&b"1"[..], first, None)
    );

    let lease = store.grant(Duration::from_secs(60)).await.unwrap();
    let guard = Guard::ModRevision(first);
    let second = store
        .put_if(&key, b"2".to_vec(), Some(lease.id), guard)
        .await
        .unwrap()
        .unwrap();
    assert!(second > first);
    assert!(!store.delete_if(&key, guard).await.unwrap());
    let other = store.grant(Duration::from_secs(60)).await.unwrap();
    assert!(!store.delete_if(&key, Guard::OwnedBy(other.id)).await.unwrap());
    assert!(store.delete_if(&key, Guard::OwnedBy(lease.id)).await.unwrap());
    assert_eq!(store.get(&key).await.unwrap(), None);
    assert!(!store.delete(&key).await.unwrap());
}

#[tokio::test]
async fn a_listing_of_many_pages_is_one_revision() {
    let etcd = Etcd::start().await.unwrap();
    let store = store_of(&[&etcd]);
    let value = vec![b'x'; 6000];
    let mut writes = tokio::task::JoinSet::new();
    for n in 0..2100 {
        let (store, value) = (store.clone(), value.clone());
        writes.spawn(async move {
            store
                .put(&environment(&format!("e-{n:04}")), value, None)
                .await
                .unwrap()
        });
        if n % 100 == 99 {
            while writes.join_next().await.is_some() {}
        }
    }
    let newest = etcd.revision().await.unwrap();
    let listing = store.list(&KeySpace::default().environments()).await.unwrap();
    assert_eq!((listing.entries.len(), listing.revision), (2100, newest));
    assert!(listing.entries.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(listing.entries[2099].key, text("e-2099"));
}

#[tokio::test]
async fn leases_end_and_take_their_keys_along() {
    let etcd = Etcd::start().await.unwrap();
    let store = store_of(&[&etcd]);
    let lease = store.grant(Duration::from_secs(30)).await.unwrap();
    assert_eq!(lease.ttl, Duration::from_secs(30));
    store
        .put(&environment("dev"), b"1".to_vec(), Some(lease.id))
        .await
        .unwrap();
    store.keep_alive(lease.id).await.unwrap();
    store.revoke_unused(lease.id).await.unwrap();
    assert!(store.keys_of(lease.id).await.unwrap().contains(&text("dev")));
    let unused = store.grant(Duration::from_secs(30)).await.unwrap().id;
    store.revoke_unused(unused).await.unwrap();
    assert_eq!(store.lease_life(unused).await.unwrap(), None);
    store.revoke(lease.id).await.unwrap();
    assert_eq!(store.get(&environment("dev")).await.unwrap(), None);
    store.revoke(lease.id).await.unwrap();
    assert!(store.keep_alive(lease.id).await.unwrap_err().is_lease_lost());
    assert!(store.keys_of(lease.id).await.unwrap_err().is_lease_lost());
    let put = store
        .put(&environment("dev"), b"1".to_vec(), Some(lease.id))
        .await
        .unwrap_err();
    assert!(put.is_lease_lost(), "{put}");
    assert!(
        store.connected(),
        "an answer of etcd is an answer, also a refusal"
    );
}

#[tokio::test]
async fn the_endpoint_that_answers_is_taken() {
    let mut first = Etcd::start().await.unwrap();
    let second = Etcd::start().await.unwrap();
    let reserved = Etcd::reserve().unwrap();
    // Not one cluster: what counts is who answers.
    let store = store_of(&[&reserved, &first, &second]);
    store.put(&environment("dev"), b"1".to_vec(), None).await.unwrap();
    assert!(first.get(&text("dev")).await.unwrap().is_some());
    first.kill9().await.unwrap();
    assert!(store.put(&environment("dev"), b"2".to_vec(), None).await.is_err());
    store.put(&environment("dev"), b"2".to_vec(), None).await.unwrap();
    assert_eq!(second.get(&text("dev")).await.unwrap().as_deref(), Some("2"));
}

#[tokio::test]
async fn a_frozen_endpoint_is_left() {
    let mut first = Etcd::start().await.unwrap();
    let second = Etcd::start().await.unwrap();
    let store = store_of(&[&first, &second]);
    store.get(&environment("dev")).await.unwrap();
    first.freeze().unwrap();
    let start = Instant::now();
    // A thread of etcd may still be answering while the others have stopped.
    eventually(SOON, "no answer", async || {
        store.get(&environment("dev")).await.err()
    })
    .await;
    store.put(&environment("dev"), b"2".to_vec(), None).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    assert!(second.get(&text("dev")).await.unwrap().is_some());
}

#[tokio::test]
async fn failures_say_what_and_where_and_take_no_longer_than_the_limit() {
    let mut etcd = Etcd::reserve().unwrap();
    let store = store_of(&[&etcd]).with_limit(Duration::from_millis(400));
    let at = etcd.address();
    let error = store.get(&environment("dev")).await.unwrap_err();
    let wanted = format!("cannot read {}: etcd at {at} does not answer: ", text("dev"));
    assert!(error.to_string().starts_with(&wanted), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    assert!(!store.connected());

    etcd.restart().await.unwrap();
    eventually(SOON, "the store connects", async || {
        store.get(&environment("dev")).await
    })
    .await;
    assert!(store.connected());
    etcd.freeze().unwrap();
    // A thread of etcd may still be answering while the others have stopped.
    let error = eventually(SOON, "no answer", async || {
        store.get(&environment("dev")).await.err()
    })
    .await;
    let (at, limit) = (at.to_string(), Duration::from_millis(400));
    assert_eq!(*error.cause(), Cause::Late { at, limit });
    let start = Instant::now();
    assert!(store.get(&environment("dev")).await.is_err());
    assert!(start.elapsed() < Duration::from_secs(5));
}

/// A call that is given up while a silent endpoint is waited for does not make the next one wait for the same.
#[tokio::test]
async fn silent_endpoints_do_not_hide_one_that_answers() {
    let etcd = Etcd::start().await.unwrap();
    // The kernel takes connections, and nobody answers on them: what a frozen member looks like.
    let silent: Vec<_> = (0..4)
        .map(|_| std::net::TcpListener::bind(port::free()).unwrap())
        .collect();
    let mut endpoints: Vec<_> = silent
        .iter()
        .map(|listener| format!("http://{}", listener.local_addr().unwrap()))
        .collect();
    endpoints.push(etcd.endpoint());
    let endpoints = endpoints
        .iter()
        .map(|endpoint| endpoint.parse().unwrap())
        .collect();
    let store = Store::new(endpoints, KeySpace::default());
    assert!(
        store.get(&environment("a")).await.is_err(),
        "the silent ones take longer than a call may"
    );
    store.get(&environment("a")).await.unwrap();
}
