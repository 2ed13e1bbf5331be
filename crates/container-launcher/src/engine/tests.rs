//! The engines of the launcher against real ones: a Docker engine of each test's own, and a swarm of one node on it.

// The lint's exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used)]

mod changes;
mod faults;
mod halfway;
mod launches;
mod others;
mod pulls;
mod support;
mod swarm;
