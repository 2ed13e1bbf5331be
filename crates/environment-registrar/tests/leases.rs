//! Leases of environments: a record that hangs on none, or on one that lives too long or too short, is put again.

#![allow(clippy::unwrap_used)]

mod harness;

use std::time::Duration;

use harness::{LIMIT, World};
use mayfly_core::keys::Key;
use mayfly_core::records;
use mayfly_daemon::store::LeaseId;
use mayfly_e2e::eventually;

const HOUR: Duration = Duration::from_secs(3600);

/// What is left of the lease of an environment, if it hangs on one.
async fn left(world: &World, name: &str) -> Option<Duration> {
    let lease = world.entry(name).await?.lease?;
    Some(world.store.lease_life(lease).await.unwrap()?.left)
}

/// Waits until an environment has a lease of about this.
async fn hangs_on(world: &World, name: &str, expected: Duration) {
    eventually(LIMIT, "the lease", async || {
        let found = left(world, name).await;
        let slack = Duration::from_secs(20);
        let is_it = |found: &Duration| *found <= expected + slack && expected <= *found + slack;
        match found.filter(is_it) {
            Some(_) => Ok(()),
            None => Err(format!("{found:?}, not {expected:?}")),
        }
    })
    .await;
}

/// Writes the record of an environment as it stands there, on another lease.
async fn rewrite(world: &World, name: &str, lease: Option<LeaseId>) {
    let entry = world.entry(name).await.unwrap();
    let key = World::key(name);
    world.store.put(&key, entry.value, lease).await.unwrap();
}

#[tokio::test]
async fn a_record_on_a_wrong_lease_is_put_again() {
    let mut world = World::started(&[
        ("a.yaml", "{name: a, expires: 2h}"),
        ("b.yaml", "{name: b, expires: 9h, idle: 1h}"),
        ("c.yaml", "name: c"),
    ])
    .await;
    world.until(&["a", "b", "c"]).await;
    hangs_on(&world, "a", 2 * HOUR).await;
    hangs_on(&world, "b", HOUR).await;
    for name in ["a", "b"] {
        rewrite(&world, name, None).await;
    }
    hangs_on(&world, "a", 2 * HOUR).await;
    hangs_on(&world, "b", HOUR).await;
    for hours in [1, 48] {
        let lease = world.store.grant(hours * HOUR).await.unwrap().id;
        rewrite(&world, "a", Some(lease)).await;
        rewrite(&world, "c", Some(lease)).await;
        hangs_on(&world, "a", 2 * HOUR).await;
        eventually(LIMIT, "no lease", async || {
            world.entry("c").await.unwrap().lease.is_none()
        })
        .await;
    }
    // The same when it happened while the registrar was down; what is as it should be is not touched.
    world.settled().await;
    let lease = world.store.grant(48 * HOUR).await.unwrap().id;
    let untouched = world.entry("a").await.unwrap();
    world.kill().await;
    rewrite(&world, "b", Some(lease)).await;
    world.start(&[]).await;
    hangs_on(&world, "b", HOUR).await;
    assert_eq!(world.entry("a").await.unwrap(), untouched);
}

#[tokio::test]
async fn a_change_keeps_the_life_and_its_end() {
    let world = World::started(&[("a.yaml", "{name: a, expires: 2h}")]).await;
    world.until(&["a"]).await;
    // It was registered an hour ago.
    let mut record: serde_json::Value =
        serde_json::from_slice(&world.entry("a").await.unwrap().value).unwrap();
    let ago = std::time::SystemTime::now() - HOUR;
    let ago = mayfly_core::records::lifetime::Moment::of(ago).to_string();
    record["life"]["registered_at"] = ago.as_str().into();
    for key in [World::key("a"), Key::History("a".parse().unwrap())] {
        let put = world.store.put(&key, records::to_json(&record), None);
        put.await.unwrap();
    }
    hangs_on(&world, "a", HOUR).await;
    let first = world.entry("a").await.unwrap().lease.unwrap();
    world.write("a.yaml", "{name: a, expires: 3h}");
    hangs_on(&world, "a", 2 * HOUR).await;
    let record: serde_json::Value = serde_json::from_slice(&world.entry("a").await.unwrap().value).unwrap();
    assert_eq!(record["life"]["registered_at"], ago);
    eventually(LIMIT, "the lease before is let go", async || {
        world.store.lease_life(first).await.unwrap().is_none()
    })
    .await;
}

#[tokio::test]
async fn an_environment_whose_lease_lives_on_is_deleted_by_the_clock() {
    let world = World::started(&[("a.yaml", "{name: a, expires: 2s}")]).await;
    world.until(&["a"]).await;
    let lease = world.entry("a").await.unwrap().lease.unwrap();
    eventually(LIMIT, "the end", async || {
        // As a restart of etcd does, which gives it its whole time again.
        let _ = world.store.keep_alive(lease).await;
        world.entry("a").await.is_none()
    })
    .await;
    // The file follows, so that what it says is set aside for a moment only.
    eventually(LIMIT, "the file in the archive", async || {
        !world.path("a.yaml").exists()
    })
    .await;
}
