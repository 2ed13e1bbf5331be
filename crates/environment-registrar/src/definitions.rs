//! The service definitions of a directory of their own, kept in step with etcd beside the environments and by none of
//! their code but what looks at directories: they are few and simple, so every change goes through all of them.
//!
//! The chain: [`crate::observe`] and [`crate::scan`] -> [`library`] (what each file says) -> [`plan`] (all files together
//! against the [`mirror`] of etcd: puts, deletes, and what is refused) -> [`watch`] (runs it, and does the conditional
//! writes). The outcome goes into the one status record of the registrar.
//!
//! A definition is not short-lived: it has no lease, no history and no archive, and goes with its file only. For the rest
//! what holds for environments holds here: the last good version stays while its file is faulty, what somebody else
//! registered is never touched, of two files the one that was registered first has it, and nothing is deleted while the
//! directory can't be read.

pub mod library;
pub mod mirror;
pub mod plan;
pub mod watch;

pub use watch::{Report, start};
