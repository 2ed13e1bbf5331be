//! The daemons' common parts against a real etcd: killed, frozen, compacted, emptied, its leases lost.

// The lint's exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used)]

mod election;
mod environments;
mod instances;
mod lease;
mod store;
mod watch;

use std::time::Duration;

use mayfly_core::keys::{Key, KeySpace};
use mayfly_daemon::store::Store;
use mayfly_e2e::etcd::Etcd;

/// For what takes milliseconds unless the machine is busy.
const SOON: Duration = Duration::from_secs(20);

fn store_of(etcds: &[&Etcd]) -> Store {
    let endpoints = etcds
        .iter()
        .map(|etcd| etcd.endpoint().parse().unwrap())
        .collect();
    Store::new(endpoints, KeySpace::default())
}

fn environment(name: &str) -> Key {
    Key::Environment(name.parse().unwrap())
}

fn text(name: &str) -> String {
    KeySpace::default().text(&environment(name))
}

/// The value of an environment with a note, as JSON.
fn record(name: &str, note: &str) -> String {
    format!(r#"{{"name": "{name}", "prefix": "{name}", "header": "{name}", "description": "{note}"}}"#)
}
