//! What `mayfly` and `mayfly-web` have in common: everything that etcd says, and what follows from
//! it. Nothing here prints, and nothing writes to etcd.
//!
//! The chain: [`state`] follows etcd; [`launchers`] is what the container-launchers report in it;
//! [`report`] is what `mayfly status` shows, and [`attention`] its last line; [`explain`] answers
//! how a request is routed; [`diff`] compares two environments; [`wait`] decides whether an
//! environment is in force everywhere, and [`markdown`] is the comment that says so.

pub mod attention;
pub mod diff;
pub mod explain;
pub mod launchers;
pub mod markdown;
pub mod report;
pub mod state;
pub mod wait;
