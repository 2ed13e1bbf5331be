//! What starts and stops containers for the launcher: an interface with an implementation for each kind of engine. It
//! knows nothing of etcd, environments or time; what is to be done, and when, is decided elsewhere.
//!
//! A *unit* is one instance of a backend that a launcher has made: a container of a Docker engine, or a Swarm service with
//! one task. (Not one service with several replicas: Swarm chooses by itself which replica it stops, and so nobody could
//! drain that one first.) A unit carries labels that say what it is, and a name that follows from the backend and a number:
//! so two launchers, or one that died half way, can never make the same unit twice.

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

use mayfly_core::definition::{Definition, ImageReference};
use mayfly_core::version::BackendId;

pub use docker::Docker;
pub use swarm::Swarm;

/// Something that runs containers.
pub trait Engine: Send + Sync + 'static {
    /// Everything that concerns the launcher, at this moment.
    ///
    /// # Errors
    /// When the engine does not answer in time.
    fn inventory(&self) -> impl Future<Output = anyhow::Result<Inventory>> + Send;

    /// Makes a unit and starts it; what is done is told while it happens. One of that name that was made before and is
    /// whole is left as it is. Waits until it is started, not until it answers.
    ///
    /// # Errors
    /// Why it could not be made or started, in words for a status record. Something of it may be there all the same: the
    /// next inventory says so.
    fn start(
        &self,
        launch: &Launch,
        told: impl Fn(Progress) + Send + Sync,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// Stops a unit of a backend, after which it has `grace` to end by itself, and removes it. One that is not there is
    /// no error; one that does not carry the labels of this launcher, or is another backend's, is never touched. (Swarm
    /// goes by the grace that it was told when the unit was made: [`Swarm::new`].)
    ///
    /// # Errors
    /// When the engine refuses or does not answer in time, and for one of that name that is not ours.
    fn remove(
        &self,
        name: &str,
        backend: &BackendId,
        grace: Duration,
    ) -> impl Future<Output = anyhow::Result<()>> + Send;

    /// The last lines that a unit printed, at most `lines`, the newest last, each shortened and without control
    /// characters. Nothing, where there is nothing to be had.
    fn output(&self, name: &str, lines: usize) -> impl Future<Output = Vec<String>> + Send;

    /// Waits until something may be different from the last inventory. Returns also when nobody can say.
    fn changed(&self) -> impl Future<Output = ()> + Send;
}

/// What an engine has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inventory {
    /// What this launcher, or another one with the same key prefix, has made.
    pub units: Vec<Unit>,
    /// How many containers run that somebody else has started and labelled as instances of a backend, whether or not
    /// they are registered yet.
    pub others: BTreeMap<BackendId, usize>,
}

/// One instance that a launcher has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Its name in the engine.
    pub name: String,
    /// The backend.
    pub backend: BackendId,
    /// What its definition came to when it was made: [`Launch::digest`].
    pub digest: String,
    /// How it is.
    pub state: UnitState,
    /// The ids of its containers, by which its instances are known in etcd: one, or none while there is none.
    pub containers: Vec<String>,
}

/// How a unit is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnitState {
    /// It was made and not started: whoever made it died in between, or is about to start it.
    Created,
    /// The engine is bringing it up.
    Starting,
    /// Its process runs.
    Running,
    /// The engine is removing it.
    Leaving,
    /// It does not run, and the engine does not bring it up again, or has tried in vain: why.
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
    /// When the engine does not have it.
    #[default]
    Missing,
    /// Each time a container is started.
    Always,
    /// Never: what the engine does not have fails.
    Never,
}

/// A unit to be started, all of it checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Its name.
    pub name: String,
    /// The backend.
    pub backend: BackendId,
    /// All its labels: what a container-registrar reads, and what tells that it is ours.
    pub labels: BTreeMap<String, String>,
    /// What its definition came to, also one of the labels.
    pub digest: String,
    /// The image.
    pub image: ImageReference,
    /// When to pull it.
    pub pull: Pull,
    /// Command, variables, networks, limits and volumes: all of it as it is to be, with nothing left to a default of the
    /// engine.
    pub definition: Arc<Definition>,
    /// How many processes and threads it may have.
    pub processes: u32,
    /// The name servers that it asks; those of the engine, where there is none.
    pub dns: Vec<IpAddr>,
}
