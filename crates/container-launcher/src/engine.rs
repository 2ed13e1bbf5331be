//! What starts and stops containers for the launcher: an interface with an implementation for each
//! kind of engine. It knows nothing of etcd, environments or time; other modules decide what to do,
//! and when.
//!
//! A *unit* is one instance of a backend that a launcher has made: a container of a Docker engine,
//! or a Swarm service with one task. (One service with several replicas would not do: Swarm itself
//! chooses which replica it stops, so that one could not be drained first.) A unit has labels that
//! say what it is, and a name that follows from the backend and a number: so two launchers, or one
//! that died half way, never make the same unit twice.

mod connect;
mod containers;
pub mod docker;
mod events;
mod labels;
mod log;
mod output;
mod parts;
mod pull;
pub mod swarm;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use mayfly_core::records::definition::{Definition, ImageReference};
use mayfly_core::version::BackendId;

pub use docker::Docker;
pub use swarm::Swarm;

/// How long a question to the engine may take.
const QUESTION: Duration = Duration::from_secs(20);
/// How long work on its disk may take, on an engine that does much of it at once.
const WORK: Duration = Duration::from_secs(120);

/// Why something with the name of a unit is none of ours.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NotOurs(String);

pub trait Engine: Send + Sync + 'static {
    /// Everything that concerns the launcher, at this moment.
    ///
    /// # Errors
    /// When the engine does not answer in time.
    fn inventory(&self) -> impl Future<Output = anyhow::Result<Inventory>> + Send;

    /// Makes a unit and starts it, and reports its progress. A unit of that name that was made
    /// before and is complete is left as it is. Waits until it is started, not until it answers.
    /// Returns why its image could not be pulled, where [`Pull::Newest`] took the engine's instead.
    ///
    /// # Errors
    /// Why it could not be made or started, in words for a status record. Parts of it may exist
    /// nevertheless: the next inventory shows them.
    fn start(
        &self,
        launch: &Launch,
        report: impl Fn(Progress) + Send + Sync,
    ) -> impl Future<Output = anyhow::Result<Option<String>>> + Send;

    /// Stops a unit of a backend, after which it has `grace` to end by itself, and removes it. One
    /// that is not there is no error; one that does not carry the labels of this launcher, or is
    /// another backend's, is never touched. (Swarm uses the grace that was given when the unit was
    /// made: [`Swarm::new`].)
    ///
    /// # Errors
    /// When the engine refuses or does not answer in time, and [`NotOurs`] for one of that name that
    /// is not ours. It says why, not what could not be removed.
    fn remove(
        &self,
        name: &str,
        backend: &BackendId,
        grace: Duration,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// The last lines that a unit printed, at most `lines`, the newest last, each shortened and
    /// without control characters. Empty if there are none.
    fn output(&self, name: &str, lines: usize) -> impl Future<Output = Vec<String>> + Send;

    /// Waits until something may differ from the last inventory. Returns also when that is not
    /// known.
    fn changed(&self) -> impl Future<Output = ()> + Send;
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// What this launcher, or another one with the same key prefix, has made.
    pub units: Vec<Unit>,
    /// How many containers run that are labelled as instances of a backend and that no launcher has
    /// started, whether or not they are registered yet.
    pub others: BTreeMap<BackendId, usize>,
}

/// One instance that a launcher has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name in the engine.
    pub name: String,
    pub backend: BackendId,
    /// What its definition came to when it was made: [`Launch::digest`].
    pub digest: String,
    pub state: UnitState,
    /// The ids of its containers, by which its instances are known in etcd: one, or none while
    /// there is none.
    pub containers: Vec<String>,
    /// The id of the image that it was made of, in twelve digits, where the engine says so.
    pub image: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitState {
    /// It was made and not started: its launcher died in between, or is about to start it.
    Created,
    /// The engine is bringing it up.
    Starting,
    /// Its process runs.
    Running,
    /// The engine is removing it.
    Leaving,
    /// It does not run, and the engine does not restart it, or has tried in vain: why.
    Ended(String),
}

/// What is done while a unit is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Its image is pulled; how many per cent of it are there, where that is known.
    Pulling(Option<u8>),
    /// It is created and started.
    Starting,
}

/// When to pull an image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Pull {
    /// If the engine does not have it
    #[default]
    Missing,
    /// Each time a container is started
    Always,
    /// Never; a start fails if the engine does not have the image
    Never,
    /// Each time; if that fails, the engine's own image is taken. For a relaunch: an image that was
    /// built on the host is in no registry, and a missing container must not wait for a pull.
    #[value(skip)]
    Newest,
}

/// A unit to be started, all of it checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    pub name: String,
    pub backend: BackendId,
    /// All its labels: what a container-registrar reads, and what marks it as ours.
    pub labels: BTreeMap<String, String>,
    /// What its definition came to, also one of the labels.
    pub digest: String,
    pub image: ImageReference,
    pub pull: Pull,
    /// Command, variables, networks, limits and volumes: all of it as it is to be, with nothing
    /// left to a default of the engine.
    pub definition: Arc<Definition>,
    /// How many processes and threads it may have.
    pub processes: u32,
    /// The name servers that it asks; those of the engine, where there is none.
    pub dns: Vec<IpAddr>,
}

#[cfg(test)]
mod tests;
