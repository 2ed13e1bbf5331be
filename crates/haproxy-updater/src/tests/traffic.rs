//! What a real HAProxy counts, before and after a reload.

use std::time::Duration;

use mayfly_e2e::eventually;
use mayfly_e2e::instance::Service;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::Router;
use crate::haproxy::counters::{self, Counters, ProcessCounters};
use crate::haproxy::master::ask_old_workers;
use crate::haproxy::tokens::Slot;

const LIMIT: Duration = Duration::from_secs(20);

/// What was read of the backend `s0@1`.
fn of_s0(router: &Router, reading: &ProcessCounters) -> (Slot, Counters) {
    let slot = router.applier.pool().slot(&"s0@1".parse().unwrap()).unwrap();
    (slot, reading.slots[&slot])
}

#[tokio::test]
async fn requests_errors_and_times_are_counted_through_a_reload() {
    let mut router = Router::new(&["--slots", "4"]);
    let service = Service::start("s0", "1").await.unwrap();
    router.instance("s0@1", service.address());
    router.environment("a", None, &["s0@1/"]);
    router.run().await;
    for number in 0..10 {
        let path = if number == 3 { "/?status=500" } else { "/?delay=20" };
        router.outside("www-a.x", path).await;
    }
    // HAProxy counts a request a moment after its answer has arrived.
    let before = eventually(LIMIT, "all requests are counted", async || {
        let read = router.applier.runtime().counters().await.unwrap();
        (of_s0(&router, &read).1.requests == 10).then_some(read)
    })
    .await;
    let (slot, counted) = of_s0(&router, &before);
    assert_eq!((counted.requests, counted.errors), (10, 1));
    assert_eq!(counted.connection_errors, 0);
    assert!((15..1_000).contains(&counted.mean_ms), "{counted:?}");
    let means = router.applier.runtime().means_of_servers(&[slot, Slot(4)]).await;
    let means = means.unwrap();
    assert!(
        (15..1_000).contains(&means[&slot]) && means.len() == 1,
        "{means:?}"
    );

    // Two requests that have begun; the second one keeps the process alive that is replaced.
    let mut late = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(router.edge).await.unwrap();
        let head = b"GET / HTTP/1.1\r\nHost: www-a.x\r\n";
        stream.write_all(head).await.unwrap();
        late.push(stream);
    }
    for version in 2..8 {
        router.instance(&format!("s0@{version}"), service.address());
        router.environment(&format!("e{version}"), None, &[&format!("s0@{version}/")]);
        router.apply().await;
        if router.reloads() > 0 {
            break;
        }
    }
    assert!(router.reloads() > 0 && router.applier.replaced_at().is_some());
    let saved = router.applier.take_saved_counters().unwrap();
    assert_eq!(
        (saved.process, of_s0(&router, &saved).1.requests),
        (before.process, 10)
    );
    assert_eq!(router.applier.take_saved_counters(), None);
    let after = router.applier.runtime().counters().await.unwrap();
    assert_ne!(after.process, before.process);
    assert_eq!(of_s0(&router, &after).1.requests, 0);

    late[0].write_all(b"\r\n").await.unwrap();
    let mut answer = String::new();
    late[0].read_to_string(&mut answer).await.unwrap();
    let is_in_time = answer.starts_with("HTTP/1.1 200");
    assert!(is_in_time || answer.starts_with("HTTP/1.1 408"), "{answer}");
    let old = ask_old_workers(router.applier.master(), counters::ALL_OF_OLD).await;
    // On a busy machine the request comes too late, and the process is gone.
    if is_in_time {
        let (pid, answer) = &old.unwrap()[0];
        assert_eq!(*pid, before.process.pid);
        let slots = counters::slots(answer).unwrap();
        assert_eq!(slots[&slot].requests, 11, "{slots:?}");
    }
}
