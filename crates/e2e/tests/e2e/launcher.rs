//! The container launcher with a Docker engine, or a Swarm, of the test's own: what environments need is started, routed and
//! retired; faults harm nobody else; whoever leads, nothing is made twice.

mod again;
mod faults;
mod lead;
mod limits;
mod retire;
mod start;
mod swarm;
mod with_engine;
