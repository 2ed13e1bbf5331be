//! What becomes of a key whose put etcd has carried out, and whose answer is lost.

use std::time::Duration;

use mayfly_core::keys::{Daemon, Key};
use mayfly_daemon::lease::Advertiser;
use mayfly_daemon::tasks::Tasks;
use tokio::time::sleep;

use crate::etcd::network::Faults;
use crate::etcd::{ClientId, SimulatedEtcd};
use crate::trace::Trace;

#[tokio::test(start_paused = true)]
async fn a_key_that_is_wanted_no_more_goes_also_if_the_answer_to_its_put_was_lost() {
    let etcd = SimulatedEtcd::start(1, Trace::new(false));
    let (tasks, store) = (Tasks::new(), etcd.store(ClientId(1)));
    let advertiser = Advertiser::start(&tasks, &store, Duration::from_secs(6));
    let [stays, goes] = ["a", "b"].map(|node| Key::Status(Daemon::DnsUpdater, node.parse().unwrap()));
    let keys = || -> Vec<String> { etcd.entries().into_iter().map(|entry| entry.key).collect() };

    advertiser.set(stays.clone(), Some(b"{}".to_vec()));
    sleep(Duration::from_secs(1)).await;
    etcd.network(|network| {
        network.set_faults(Faults {
            answer_lost: 1000,
            ..Faults::default()
        });
    });
    advertiser.set(goes.clone(), Some(b"{}".to_vec()));
    sleep(Duration::from_millis(500)).await;
    assert_eq!(
        keys(),
        [store.keyspace().text(&stays), store.keyspace().text(&goes)]
    );
    advertiser.set(goes, None);
    etcd.network(|network| network.set_faults(Faults::default()));
    sleep(Duration::from_secs(30)).await;
    assert_eq!(keys(), [store.keyspace().text(&stays)]);
}
