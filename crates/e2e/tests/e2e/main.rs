//! End-to-end tests of Mayfly: real etcd, HAProxy and dnsmasq processes on loopback, Mayfly's real binaries. One
//! program, so that it is linked once; one module for each theme.
//!
//! `cargo build --workspace` comes first: the tests start the programs that lie in the target directory.

// Clippy knows of #[test] functions only; what they share is test code too.
#![allow(clippy::unwrap_used)]

mod access;
mod archive;
mod auto;
mod backup;
mod bad_files;
mod bad_records;
mod chain;
mod chromium;
mod definitions;
mod deployment;
mod diff;
mod dns;
mod doctor;
mod documents;
mod edge;
mod ended;
mod environment_files;
mod etcd_auth;
mod etcd_tls;
mod explain;
mod extends;
mod faults;
mod git;
mod guard;
mod haproxy_upgrade;
mod hostile;
mod idle;
mod init;
mod instances;
mod internal;
mod launch_tool;
mod launcher;
mod lifetimes;
mod links;
mod local;
mod lost;
mod mcp;
mod monitoring;
mod moving_versions;
mod no_reload;
mod outages;
mod outside;
mod page;
mod previews;
mod protocols;
mod queues;
mod refused;
mod registrar_docker;
mod restarted;
mod robustness;
mod signals;
mod status;
mod switching;
mod terminal;
mod tls;
mod tool;
mod traffic;
mod two_users;
mod updater;
mod variables;
mod wait;
mod web;
mod write_back;
