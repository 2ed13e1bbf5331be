//! Keeps the environments of etcd in step with a directory of YAML files, and service definitions with another.
//!
//! The chain of `watch`: [`observe`] (what has changed in the directory) -> [`scan`] (the contents of files) ->
//! [`library`] (what each file says, by the environment file of `mayfly-core`) -> [`merge`] (all files together, and
//! what others have registered: which environments are to be in etcd) -> [`plan`] (that against the [`mirror`] of
//! etcd: puts and deletes) -> [`backlog`] (what of it waits for the next round) -> [`publish`] (conditional writes). [`watch`] runs it, and [`report`] tells the outcome.
//! [`check`] and [`list`] are commands of their own.
//!
//! [`definitions`] is the same for the definitions of services, shorter, with chain and directory of their own.
//!
//! The way back, beside the chain and after it: [`filing`] (what is to be done to files: contents that took effect and
//! files of ended environments to the [`archive`], copies of what others registered by [`write_back`]) -> [`cabinet`]
//! (does it, and looks again before it touches a file).
//!
//! Invariants: nothing of a refused environment is published, and its last good version stays; a record that somebody
//! else registered is never touched, unless a person changed the copy of it that we wrote; nothing is deleted while the
//! directory cannot be read; no file is overwritten, and none deleted, that says anything but what we know it to say.

pub mod answered;
pub mod archive;
pub mod args;
pub mod backlog;
pub mod cabinet;
pub mod check;
pub mod definitions;
pub mod filing;
pub mod library;
pub mod list;
pub mod merge;
pub mod mirror;
pub mod observe;
pub mod plan;
pub mod publish;
pub mod report;
pub mod scan;
pub mod watch;
pub mod write_back;
