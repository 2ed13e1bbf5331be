//! The page and the read API: it follows etcd with a role that can only read, and answers from what
//! it has.
//!
//! The chain: [`live`] follows etcd into one state; [`render`] makes the JSON of it, deflated once
//! for all clients ([`pieces`]), and [`decisions`] the versions of one service; [`feeds`] passes on
//! what has changed, and [`stream`] is one client that follows it. [`answers`] has the answer to
//! each call, with what [`query`] reads of a request, and [`problem`] for what is refused.
//! [`guard`] decides who may ask, and [`serve`] has the connections, with [`tls`] where that is
//! wanted; [`files`] reads their files again when they change. [`page`] has the files of the page.
//! [`run`] starts them all.

mod answers;
pub mod args;
mod decisions;
mod feeds;
mod files;
mod guard;
mod live;
mod metrics;
mod page;
mod pieces;
mod problem;
mod query;
mod render;
mod run;
mod serve;
mod stream;
mod tls;

pub use run::run;
