//! Environments with an end: registered under a lease, and let live on by use.

use std::time::{Duration, SystemTime};

use mayfly_core::records::{self, Environment};
use mayfly_daemon::environments::{register, touch};
use mayfly_daemon::store::{Entry, EtcdAccess, Guard, Password, Store, User};
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::eventually;
use mayfly_e2e::process::run;
use serde_json::json;

use super::{SOON, environment, store_of};

/// Registers `dev`, which says this of its end.
async fn dev(store: &Store, mut record: serde_json::Value, now: SystemTime) -> (Environment, Entry) {
    for field in ["name", "prefix", "header"] {
        record[field] = json!("dev");
    }
    let record = records::parse(record.to_string().as_bytes()).unwrap();
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
    assert!(
        touch(&store, &record, entry.mod_revision, entry.lease, now)
            .await
            .unwrap()
    );
    assert!(left(&store, &entry).await >= 7);
    assert_eq!(etcd.revision().await.unwrap(), before, "nobody is woken by it");

    store.revoke(entry.lease.unwrap()).await.unwrap();
    assert!(
        !touch(&store, &record, entry.mod_revision, entry.lease, now)
            .await
            .unwrap()
    );
    assert_eq!(store.get(&environment("dev")).await.unwrap(), None);
}

#[tokio::test]
async fn use_does_not_move_the_moment_at_which_it_expires() {
    let etcd = Etcd::start().await.unwrap();
    let store = store_of(&[&etcd]);
    let now = SystemTime::now();
    let end = humantime::format_rfc3339_seconds(now + Duration::from_secs(150)).to_string();
    let (record, entry) = dev(&store, json!({"idle": "100s", "expires": end}), now).await;
    // Its idle time begins again a minute later, but it expires before.
    let later = now + Duration::from_secs(60);
    assert!(
        touch(&store, &record, entry.mod_revision, entry.lease, later)
            .await
            .unwrap()
    );
    let entry = store.get(&environment("dev")).await.unwrap().unwrap();
    assert!((87..=91).contains(&left(&store, &entry).await));
    // From then on its lease ends with it, and there is nothing to do.
    let revision = etcd.revision().await.unwrap();
    assert!(
        touch(&store, &record, entry.mod_revision, entry.lease, later)
            .await
            .unwrap()
    );
    assert_eq!(etcd.revision().await.unwrap(), revision);
    // Whoever has changed it meanwhile has done the same.
    store
        .put(&environment("dev"), b"{}".to_vec(), entry.lease)
        .await
        .unwrap();
    assert!(
        !touch(&store, &record, entry.mod_revision, entry.lease, now)
            .await
            .unwrap()
    );
}

/// A store of a user who may read everything and write nothing, as a router's role has it for
/// environments. From now on etcd refuses whoever does not log in.
async fn reader_of(etcd: &Etcd) -> Store {
    for line in [
        "role add reader",
        "role grant-permission --prefix reader read /mayfly/",
        "user add reader:secret",
        "user grant-role reader reader",
        "user add root:secret",
        "user grant-role root root",
        "auth enable",
    ] {
        let mut command = std::process::Command::new("etcdctl");
        command.args(["--endpoints", &etcd.plain()]).args(line.split(' '));
        let finished = run(&command, SOON).await.unwrap();
        assert_eq!(finished.code, Some(0), "{line}: {}", finished.stderr);
    }
    let access = EtcdAccess {
        user: Some(User {
            name: "reader".to_owned(),
            password: Password::of_text("secret".to_owned()),
        }),
        ..EtcdAccess::default()
    };
    let store = store_of(&[etcd]);
    Store::with_access(store.endpoints().to_vec(), store.keyspace().clone(), access)
}

#[tokio::test]
async fn a_router_that_may_not_write_environments_renews_their_leases() {
    let mut etcd = Etcd::start_with(&["--bcrypt-cost", "4"]).await.unwrap();
    let now = SystemTime::now();
    let (record, entry) = dev(&store_of(&[&etcd]), json!({"idle": "20s"}), now).await;
    let router = reader_of(&etcd).await;
    etcd.log_in("secret");
    let before = (etcd.revision().await.unwrap(), etcd.leases().await.unwrap());
    eventually(SOON, "time goes by", async || left(&router, &entry).await <= 17).await;
    // Another lease would be right, as when the time of `mayfly keep` is over, and etcd refuses it.
    for (idle, least) in [("60s", 19), ("4s", 18)] {
        let mut asked = record.clone();
        asked.idle = Some(idle.parse().unwrap());
        let alive = touch(&router, &asked, entry.mod_revision, entry.lease, now).await;
        assert!(alive.unwrap(), "{idle}");
        assert!(left(&router, &entry).await >= least, "{idle}");
    }
    let after = (etcd.revision().await.unwrap(), etcd.leases().await.unwrap());
    assert_eq!(after, before, "nothing is written, and no lease stays behind");
}
