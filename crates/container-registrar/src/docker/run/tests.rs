//! What the loop keeps when the engine, or etcd, has trouble.

use super::*;
use mayfly_e2e::etcd::Etcd;
use serde_json::json;
use tokio::time::{advance, timeout};

const TTL: Duration = Duration::from_secs(15);

/// The loop on its own, with what runs in its background.
fn registrar(etcd: &str) -> (DockerRegistrar, Tasks) {
    let tasks = Tasks::new();
    let store = Store::new(vec![etcd.parse().unwrap()], KeySpace::default());
    let advertiser = Advertiser::start(&tasks, &store, TTL);
    let origin = RecordOrigin {
        node: "n".parse().unwrap(),
        engine: "unix:///e".to_owned(),
    };
    let status = StatusReporter::new(
        &advertiser,
        Daemon::ContainerRegistrar,
        origin.node.clone(),
        &CommonMetrics::default(),
    );
    let registrar = DockerRegistrar {
        origin,
        prefix: KeySpace::default(),
        leftover: Some(store),
        running: watch::Sender::new(Running::new()),
        reached: Reached::Directly,
        keeping: Keeping {
            ttl: TTL,
            check_interval: Duration::from_secs(2),
            check_timeout: Duration::from_secs(1),
            fall: 3,
            rise: 2,
        },
        advertiser,
        status,
        readiness: Readiness::new(),
        registered: Gauge::default(),
        connected: Gauge::default(),
        host: watch::channel(None).1,
        verdicts: mpsc::unbounded_channel().0,
        probes: 0,
        containers: BTreeMap::new(),
        set_aside: BTreeMap::new(),
        undescribed: BTreeMap::new(),
        misplaced: Vec::new(),
        signals: BTreeMap::new(),
        advertised: BTreeMap::new(),
        failing: Vec::new(),
        lost_at: None,
        error: None,
    };
    (registrar, tasks)
}

/// A container `0a` that runs, as the engine describes it.
fn described() -> Observation {
    let container = json!({
        "Id": "0a", "Name": "/b-1",
        "State": { "Running": true, "StartedAt": "2030-01-31T18:00:00Z" },
        "Config": { "Image": "backend:1", "Labels": { "mayfly.service": "backend", "mayfly.port": "80" } },
        "NetworkSettings": { "Networks": { "a": { "IPAddress": "10.0.0.2" } } },
    });
    let inspected = Inspected {
        container: serde_json::from_value(container).unwrap(),
        owners: Vec::new(),
    };
    Observation::Container("0a".to_owned(), Ok(Box::new(inspected)))
}

fn refused(id: &str) -> Observation {
    Observation::Container(id.to_owned(), Err("500".to_owned()))
}

#[tokio::test]
async fn what_is_registered_after_the_start_is_not_taken_for_left() {
    let etcd = Etcd::start().await.unwrap();
    let (mut registrar, _tasks) = registrar(&etcd.endpoint());
    let (gone, started) = (("0f", "10.0.0.9:80"), ("0a", "10.0.0.2:80"));
    let key = |address: &str| format!("/mayfly/backends/backend/1/{address}");
    for (container, address) in [gone, started] {
        let metadata = json!({ "container": container, "node": "n", "engine": "unix:///e" });
        let record = json!({ "address": address, "metadata": metadata }).to_string();
        etcd.put(&key(address), &record).await.unwrap();
    }
    // The correction begins while one of them is not known yet, as during an outage of etcd.
    registrar.take(Observation::InSync);
    registrar.take(described());
    let done = registrar.running.closed();
    timeout(Duration::from_secs(20), done).await.unwrap();
    assert_eq!(etcd.get(&key(gone.1)).await.unwrap(), None);
    assert!(etcd.get(&key(started.1)).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_container_stays_registered_unless_the_engine_refuses_to_describe_it_for_long() {
    let (mut registrar, _tasks) = registrar("127.0.0.1:1");
    let mut check = |observed: Observation, registered: usize, aside: Option<&str>| {
        registrar.take(observed);
        registrar.apply();
        assert_eq!(registrar.advertised.len(), registered);
        let found = registrar.set_aside.values().next();
        let found = found.map(|(name, reason)| format!("{name}: {reason}"));
        assert_eq!(found.as_deref(), aside);
    };
    let second = Duration::from_secs(1);
    check(described(), 1, None);
    check(refused("0a"), 1, None);
    advance(TTL - second).await;
    check(refused("0a"), 1, None);
    // It begins again with an answer, and with a new connection.
    check(described(), 1, None);
    advance(second).await;
    check(refused("0a"), 1, None);
    advance(TTL).await;
    check(Observation::Connected("1.41".to_owned()), 1, None);
    check(refused("0a"), 1, None);
    advance(TTL).await;
    let aside = "b-1: the engine cannot describe this container: 500";
    for _ in 0..2 {
        check(refused("0a"), 0, Some(aside));
    }
    check(described(), 1, None);
    check(Observation::Gone("0a".to_owned()), 0, None);
}

#[tokio::test]
async fn a_container_that_was_never_described_is_not_taken_for_gone() {
    let (mut registrar, _tasks) = registrar("127.0.0.1:1");
    registrar.take(refused("0a"));
    registrar.take(Observation::InSync);
    assert_eq!(
        *registrar.running.borrow(),
        Running::from([("0a".to_owned(), None)])
    );
    assert!(registrar.set_aside.is_empty());
}
