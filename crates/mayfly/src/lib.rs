//! The operator's tool. It reads and writes etcd, as the daemons do, and talks to none of them.
//!
//! One module for each command, with its own arguments: [`status`], [`explain`] and [`wait`] only ask, and [`state`] is what
//! they read from etcd, [`launchers`] what of it the container-launchers say; [`lint`] and [`schema`] are about files alone; [`apply`],
//! [`delete`] and [`keep`] change what is registered; [`confirm`] gives a daemon an operator's word; [`completions`] and [`man`] describe the tool itself. [`registry`]
//! is what they read from etcd first, [`clash`] what an environment can't be registered beside.

pub mod apply;
pub mod args;
pub mod clash;
pub mod completions;
pub mod confirm;
pub mod delete;
pub mod explain;
pub mod keep;
pub mod launchers;
pub mod lint;
pub mod man;
pub mod registry;
pub mod schema;
pub mod state;
pub mod status;
pub mod wait;
