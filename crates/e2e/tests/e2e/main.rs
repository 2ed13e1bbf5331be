//! End-to-end tests of Mayfly: real etcd, HAProxy and dnsmasq processes on loopback, Mayfly's real binaries. One
//! program, so that it is linked once; one module for each theme.
//!
//! `cargo build --workspace` comes first: the tests start the programs that lie in the target directory.

// Clippy knows of #[test] functions only; what they share is test code too.
#![allow(clippy::unwrap_used)]

mod archive;
mod bad_files;
mod bad_records;
mod chain;
mod definitions;
mod deployment;
mod dns;
mod edge;
mod environment_files;
mod etcd_auth;
mod etcd_tls;
mod explain;
mod extends;
mod faults;
mod git;
mod guard;
mod hostile;
mod idle;
mod instances;
mod internal;
mod launch_tool;
mod launcher;
mod lifetimes;
mod moving_versions;
mod no_reload;
mod outages;
mod outside;
mod protocols;
mod refused;
mod registrar_docker;
mod robustness;
mod status;
mod switching;
mod tool;
mod two_users;
mod updater;
mod variables;
mod wait;
mod write_back;
