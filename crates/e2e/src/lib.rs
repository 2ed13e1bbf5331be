//! Harness for tests against real etcd, HAProxy and dnsmasq processes on loopback, driven through Mayfly's
//! real binaries. Each part starts one kind of process on an address of the test's own, watches it with limits
//! and ends it with the test, also when the test panics.
//!
//! - [`process`], [`port`], [`poll`]: processes, loopback addresses, waiting for a condition;
//! - [`etcd`], [`haproxy`], [`dnsmasq`], [`docker`], [`registry`], [`instance`]: what Mayfly works with;
//! - [`names`], [`network`], [`disk`], [`clock`], [`tls`], [`user`]: host names, hosts, disks, clocks, certificates and users of
//!   a test's own;
//! - [`http`], [`load`]: requests one by one and under load;
//! - [`mayfly`], [`world`]: the daemons, and all of it together;
//! - [`faults`]: each part of it broken under load.

pub mod clock;
pub mod disk;
pub mod dnsmasq;
pub mod docker;
pub mod etcd;
pub mod faults;
pub mod haproxy;
pub mod http;
pub mod instance;
pub mod launching;
pub mod load;
pub mod mayfly;
pub mod metrics;
pub mod names;
pub mod network;
pub mod poll;
pub mod port;
pub mod process;
pub mod registry;
pub mod tls;
pub mod user;
pub mod world;

pub use poll::eventually;
