//! What can break, broken under a steady load whose every answer is checked: the cases of docs/reliability.md. `scripts/faults.sh`
//! runs them in full length, and `crates/e2e/tests/e2e/faults.rs` each of them in a short form.
//!
//! - [`loaded`]: a whole Mayfly with the load on it, and what a case has seen;
//! - one module for each thing that breaks.

mod clock;
mod cluster;
mod disk;
mod etcd;
mod git;
mod haproxy;
mod host;
mod instance;
mod launcher;
pub mod loaded;
mod names;
mod refusing;
mod registrar;
mod registry;
mod two_routers;
mod updater;
mod upgrade;
mod whole;

use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Result;

use loaded::Outcome;

/// How long the faults last, and how much load there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Length {
    /// Some seconds and a modest load, beside other tests.
    Short,
    /// As the promise says, alone on the machine.
    Full,
}

impl Length {
    /// `short` or `full`, whichever it is.
    pub fn pick<T>(self, short: T, full: T) -> T {
        match self {
            Self::Short => short,
            Self::Full => full,
        }
    }

    /// [`Length::pick`] in seconds.
    pub fn seconds(self, short: u64, full: u64) -> Duration {
        Duration::from_secs(self.pick(short, full))
    }
}

type Run = Pin<Box<dyn Future<Output = Result<Outcome>>>>;

/// One fault, and how to make it.
pub struct Fault {
    /// The name of its test.
    pub name: &'static str,
    /// What breaks, for the table.
    pub what: &'static str,
    run: Box<dyn Fn(Length) -> Run>,
}

impl Fault {
    fn new<F: Future<Output = Result<Outcome>> + 'static>(
        name: &'static str,
        what: &'static str,
        run: impl Fn(Length) -> F + 'static,
    ) -> Self {
        let run = Box::new(move |length| -> Run { Box::pin(run(length)) });
        Self { name, what, run }
    }

    /// Makes it, and returns what was seen.
    ///
    /// # Errors
    /// When the case could not be staged.
    ///
    /// # Panics
    /// When something does not come to pass that the case waits for.
    pub async fn run(&self, length: Length) -> Result<Outcome> {
        (self.run)(length).await
    }
}

/// Every fault, in the order of docs/reliability.md.
pub fn all() -> Vec<Fault> {
    vec![
        Fault::new("etcd_killed", "etcd killed for 60 s, started again", etcd::killed),
        Fault::new("etcd_frozen", "etcd frozen for 30 s", etcd::frozen),
        Fault::new(
            "etcd_compacted",
            "etcd compacted while a daemon is cut off",
            etcd::compacted,
        ),
        Fault::new("etcd_emptied", "etcd's data lost", etcd::emptied),
        Fault::new(
            "cluster_killed",
            "the leader of three etcd members killed",
            cluster::killed,
        ),
        Fault::new(
            "cluster_partitioned",
            "the etcd member in use cut off, from all or from the other two",
            cluster::partitioned,
        ),
        Fault::new(
            "cluster_rolling",
            "three etcd members restarted one after the other",
            cluster::rolling,
        ),
        Fault::new(
            "haproxy_killed",
            "HAProxy killed and restarted, three times",
            haproxy::killed,
        ),
        Fault::new(
            "haproxy_changed",
            "HAProxy reloaded and changed behind the updater's back",
            haproxy::changed,
        ),
        Fault::new(
            "refusing_address_comes_and_goes",
            "addresses that refuse connections come and go",
            refusing::comes_and_goes,
        ),
        Fault::new(
            "updater_killed",
            "haproxy-updater killed at 20 random points of applying",
            updater::killed,
        ),
        Fault::new(
            "registrar_killed",
            "environment-registrar killed at 20 random points of a storm of changes",
            registrar::killed,
        ),
        Fault::new(
            "git_half",
            "git killed at 12 random points of a checkout, files left half written",
            git::half,
        ),
        Fault::new(
            "container_registrar_killed",
            "container-registrar killed, the instance lives",
            instance::registrar_killed,
        ),
        Fault::new(
            "instance_killed",
            "an instance killed, another one frozen, their registrars live",
            instance::killed,
        ),
        Fault::new(
            "registry_emptied",
            "all instances and environments vanish from etcd",
            registry::emptied,
        ),
        Fault::new(
            "launcher_broken",
            "launcher, engine and etcd killed while containers are started and retired",
            launcher::broken,
        ),
        Fault::new(
            "two_routers",
            "one of two haproxy-updaters cut off from etcd",
            two_routers::cut,
        ),
        Fault::new(
            "host_partitioned",
            "the host of an instance cut off",
            host::partitioned,
        ),
        Fault::new("disk_full", "every disk full, then read-only", disk::unwritable),
        Fault::new(
            "names_restarted",
            "dns-updater and dnsmasq killed and restarted",
            names::restarted,
        ),
        Fault::new(
            "clock_jumps",
            "the clock jumps an hour forward and back",
            clock::jumps,
        ),
    ]
}

/// Daemons replaced by those of another version and back, which is planned, but must cost as little.
/// The programs of the earlier version are in `before`.
pub fn upgrades(before: &Path) -> Vec<Fault> {
    let case = |name, what, order: upgrade::Order| {
        let before = before.to_path_buf();
        Fault::new(name, what, move |length| {
            upgrade::there_and_back(before.clone(), order, length)
        })
    };
    vec![
        case(
            "upgrade_registrars_first",
            "registrars, then router and names, replaced by this version and back",
            upgrade::Order::RegistrarsFirst,
        ),
        case(
            "upgrade_routers_first",
            "names and router, then registrars, replaced by this version and back",
            upgrade::Order::RoutersFirst,
        ),
    ]
}

/// Runs one fault in its short form and checks what was seen.
///
/// # Panics
/// When there is none of this name, or a promise was not kept.
pub async fn check(name: &str) {
    check_of(&all(), name).await;
}

/// As [`check`], for one of these.
///
/// # Panics
/// As [`check`].
pub async fn check_of(all: &[Fault], name: &str) {
    let fault = all.iter().find(|fault| fault.name == name);
    let fault = fault.expect("a fault of this name");
    let outcome = fault
        .run(Length::Short)
        .await
        .expect("a fault that can be staged");
    let broken = outcome.broken(Length::Short);
    assert!(broken.is_empty(), "{broken:#?}");
}
