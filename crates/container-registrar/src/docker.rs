//! `docker`: registers every labelled container of an engine, all under one lease. The modules
//! follow the spine:
//!
//! 1. [`actual`]: follows the engine (its API, reading only, is in [`engine`]) by its events, and
//!    lists all containers after each doubt.
//! 2. [`container`] reads what the engine says about a container: what is to be registered, or why
//!    it is not (pure). [`desired`] checks it, and decides in which state it is to be registered.
//! 3. [`apply`]: brings etcd in sync with that.
//! 4. [`report`]: the status record.
//!
//! [`run`](mod@run) is the loop. Beside it: the address of the [`host`], services of a [`swarm`]
//! whose labels are in the wrong place, and what an earlier registrar left ([`leftover`]).

mod actual;
mod apply;
mod container;
mod desired;
mod engine;
mod host;
mod leftover;
mod report;
mod run;
mod swarm;

pub use run::run;
