//! The election: one leads, another follows when the leader dies, resigns or loses etcd, and never do two lead at once.

use std::time::Duration;

use mayfly_core::keys::{Daemon, Key, KeySpace};
use mayfly_daemon::election::{Election, Leadership};
use mayfly_daemon::tasks::Tasks;
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::{eventually, poll::throughout};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{SOON, store_of};

const TTL: Duration = Duration::from_secs(3);

fn stand(etcd: &Etcd, tasks: &Tasks, node: &str) -> Election {
    let store = store_of(&[etcd]);
    Election::start(
        tasks,
        &store,
        Daemon::ContainerLauncher,
        node.parse().unwrap(),
        TTL,
    )
}

async fn becomes(leadership: &mut watch::Receiver<Leadership>, wanted: Leadership) {
    let reached = timeout(SOON, leadership.wait_for(|leadership| *leadership == wanted)).await;
    assert!(reached.is_ok(), "{wanted:?} was not reached");
}

#[tokio::test]
async fn one_leads_and_another_follows_its_death_and_its_resignation() {
    let etcd = Etcd::start().await.unwrap();
    let [first, second, third] = [Tasks::new(), Tasks::new(), Tasks::new()];
    let a = stand(&etcd, &first, "a");
    becomes(&mut a.leadership(), Leadership::Leading).await;
    let b = stand(&etcd, &second, "b");
    becomes(&mut b.leadership(), Leadership::Following("a".to_owned())).await;

    drop(first);
    becomes(&mut b.leadership(), Leadership::Leading).await;

    let c = stand(&etcd, &third, "c");
    becomes(&mut c.leadership(), Leadership::Following("b".to_owned())).await;
    b.resign(SOON).await.unwrap();
    becomes(&mut c.leadership(), Leadership::Leading).await;
}

#[tokio::test]
async fn a_leader_without_etcd_gives_up_before_its_lease_can_end() {
    let mut etcd = Etcd::start().await.unwrap();
    let tasks = Tasks::new();
    let a = stand(&etcd, &tasks, "a");
    becomes(&mut a.leadership(), Leadership::Leading).await;
    let start = tokio::time::Instant::now();
    etcd.freeze().unwrap();
    becomes(&mut a.leadership(), Leadership::Unknown).await;
    assert!(start.elapsed() <= TTL, "gave up after {:?}", start.elapsed());
    etcd.thaw().unwrap();
    becomes(&mut a.leadership(), Leadership::Leading).await;
}

#[tokio::test]
async fn a_leader_whose_etcd_refuses_at_once_gives_up_as_early() {
    let mut etcd = Etcd::start().await.unwrap();
    let tasks = Tasks::new();
    let a = stand(&etcd, &tasks, "a");
    becomes(&mut a.leadership(), Leadership::Leading).await;
    let start = tokio::time::Instant::now();
    etcd.kill9().await.unwrap();
    becomes(&mut a.leadership(), Leadership::Unknown).await;
    assert!(start.elapsed() <= TTL, "gave up after {:?}", start.elapsed());
}

#[tokio::test]
async fn a_leader_whose_key_is_gone_notices() {
    let etcd = Etcd::start().await.unwrap();
    let tasks = Tasks::new();
    let a = stand(&etcd, &tasks, "a");
    let mut leadership = a.leadership();
    becomes(&mut leadership, Leadership::Leading).await;
    let key = KeySpace::default().text(&Key::Leader(Daemon::ContainerLauncher));
    let lease = etcd.grant(600).await.unwrap();
    etcd.put_leased(&key, "b", &lease).await.unwrap();
    becomes(&mut leadership, Leadership::Following("b".to_owned())).await;
    etcd.delete(&key).await.unwrap();
    becomes(&mut leadership, Leadership::Leading).await;
}

#[tokio::test]
async fn a_record_without_a_lease_is_no_leader() {
    let etcd = Etcd::start().await.unwrap();
    let [first, second] = [Tasks::new(), Tasks::new()];
    let key = KeySpace::default().text(&Key::Leader(Daemon::ContainerLauncher));
    let is_overwritten = async |by: &str| {
        let (value, lease) = (etcd.get(&key).await, etcd.lease_of(&key).await);
        value.is_ok_and(|value| value.as_deref() == Some(by)) && lease.is_ok_and(|lease| lease.is_some())
    };
    // Without a leader it is waited for, for the life of a lease.
    etcd.put(&key, "forged").await.unwrap();
    let a = stand(&etcd, &first, "a");
    becomes(&mut a.leadership(), Leadership::Following("forged".to_owned())).await;
    becomes(&mut a.leadership(), Leadership::Leading).await;
    // A leader overwrites it and leads on; no other one leads at the same time.
    let b = stand(&etcd, &second, "b");
    becomes(&mut b.leadership(), Leadership::Following("a".to_owned())).await;
    let mut changes = a.leadership();
    changes.mark_unchanged();
    etcd.put(&key, "forged").await.unwrap();
    eventually(SOON, "the leader overwrites it", async || {
        is_overwritten("a").await
    })
    .await;
    throughout(TTL, "it leads on, alone", async || {
        *b.leadership().borrow() != Leadership::Leading && !changes.has_changed().unwrap_or(true)
    })
    .await;
}
