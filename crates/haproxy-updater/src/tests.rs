//! Tests with a real HAProxy, and of the files that are made for it.

// Helpers and strategies of a test are outside of its `#[test]` functions.
#![allow(clippy::unwrap_used)]

mod access;
mod clients;
mod decide;
mod explain;
mod front;
mod golden;
mod hostile;
mod leaving;
mod links;
mod lost;
mod outside;
mod routing;
mod runtime;
mod support;
mod taken;
mod traces;
mod traffic;
mod updater;
mod uses;
