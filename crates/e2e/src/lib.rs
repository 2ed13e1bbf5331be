//! Harness for tests against real etcd, HAProxy and dnsmasq processes on loopback, driven through Mayfly's
//! real binaries. Each part starts one kind of process on an address of the test's own, watches it with limits
//! and ends it with the test, also when the test panics.
//!
//! - [`process`], [`port`], [`poll`]: processes, loopback addresses, waiting for a condition;
//! - [`etcd`], [`haproxy`], [`dnsmasq`], [`docker`], [`registry`], [`instance`]: what Mayfly works with;
//! - [`names`], [`network`], [`sshd`], [`disk`], [`clock`], [`tls`], [`user`]: host names, hosts, ways between them, disks,
//!   clocks, certificates and users of a test's own;
//! - [`http`], [`load`], [`browser`]: requests one by one, under load, and from a real Chromium;
//! - [`mayfly`]: all of Mayfly together;
//! - [`faults`]: each part of it broken under load;
//! - [`del_server`]: HAProxy alone, whose servers come and go;
//! - [`soak`]: all of Mayfly for a long time, under random faults;
//! - [`documents`]: the pages for people, and their shell blocks run.

pub mod browser;
pub mod clock;
pub mod del_server;
pub mod disk;
pub mod dnsmasq;
pub mod docker;
pub mod documents;
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
pub mod soak;
pub mod sshd;
pub mod tls;
pub mod user;

pub use poll::eventually;
