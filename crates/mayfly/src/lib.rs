//! The operator's tool. It reads and writes etcd, as the daemons do, and talks to none of them.
//!
//! One module for each command, with its own arguments: [`status`], [`explain`] and [`wait`] only ask, and [`state`] is what
//! they read from etcd.

pub mod args;
pub mod explain;
pub mod state;
pub mod status;
pub mod wait;
