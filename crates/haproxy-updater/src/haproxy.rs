//! HAProxy itself: commands, answers, and the files that it starts from.
//!
//! Text reaches HAProxy only through the types of [`tokens`]. [`render`] and [`files`] keep its
//! files current, and [`stamp`] sees whether another program has changed them. [`sockets`] sends
//! [`commands`], [`answers`] parses the answers, [`master`] reloads. [`rows`] writes the rows of
//! its [`maps`], and [`slots`] gives each of Mayfly's backends one of HAProxy's. [`tls`] adds,
//! replaces and removes its certificates. [`calls`] reads how many calls without an environment it
//! has counted, and [`counters`] all else that it counts. [`traces`] is how the environment travels
//! with a trace. [`simulated`] is for the simulation.

pub mod answers;
pub mod calls;
pub mod commands;
pub mod counters;
pub mod files;
pub mod maps;
pub mod master;
pub mod render;
pub mod rows;
pub mod servers;
pub mod simulated;
pub mod slots;
pub mod sockets;
pub mod stamp;
pub mod tls;
pub mod tokens;
pub mod traces;
pub mod wanted;
