//! The part of the engine's API that is read: containers, one container, events. Every request has
//! a limit.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use bollard::Docker;
use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, EventMessage, Service};
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, ListContainersOptions, ListServicesOptions,
};
use futures_util::{Stream, StreamExt as _};
use mayfly_core::labels;
use mayfly_daemon::docker::{self, EngineUrl, reason, within};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// The events that may change what is registered.
const EVENTS: [&str; 10] = [
    "start",
    "kill",
    "die",
    "pause",
    "unpause",
    "health_status",
    "rename",
    "destroy",
    "connect",
    "disconnect",
];

#[derive(Debug, Default)]
pub struct ListedContainers {
    /// The ids of the containers whose labels concern us.
    pub ids: Vec<String>,
    /// Whether some are tasks of a swarm.
    pub tasks: bool,
}

/// Whether labels of these names are those of a task of a swarm.
pub fn is_task<'a>(mut names: impl Iterator<Item = &'a str>) -> bool {
    names.any(|name| name == "com.docker.swarm.service.id")
}

/// An engine that has answered.
#[derive(Debug, Clone)]
pub struct EngineClient(Docker);

/// Why there is no answer.
#[derive(Debug)]
pub enum EngineError {
    /// The engine is out of reach, or does not answer in time.
    Gone(String),
    /// It has answered with an error, or with something that cannot be parsed.
    Refused(String),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Gone(reason) | Self::Refused(reason)) = self;
        f.write_str(reason)
    }
}

impl EngineClient {
    /// Connects, and finds out which version of the API both sides know.
    pub async fn connect(url: &EngineUrl) -> Result<Self, EngineError> {
        let docker = docker::connect(url, LIMIT, LIMIT).await;
        docker.map(Self).map_err(|error| trouble(&error))
    }

    /// The version of the API that is spoken.
    pub fn version(&self) -> String {
        let version = self.0.client_version();
        format!("{}.{}", version.major_version, version.minor_version)
    }

    /// Whether it answers at all.
    pub async fn ping(&self) -> Result<(), EngineError> {
        limited(self.0.ping()).await.map(drop)
    }

    /// The containers that run, or would but for a pause. The engine could filter by labels, but
    /// knows no misspelt ones.
    pub async fn list(&self) -> Result<ListedContainers, EngineError> {
        let mut found = ListedContainers::default();
        for container in limited(self.0.list_containers(None::<ListContainersOptions>)).await? {
            let labels = container.labels.unwrap_or_default();
            let names = || labels.keys().map(String::as_str);
            found.tasks |= is_task(names());
            if labels::concern(names()) {
                found.ids.extend(container.id);
            }
        }
        Ok(found)
    }

    /// The services of the swarm; `None` where the engine does not list them: it is no manager, or
    /// behind a proxy.
    pub async fn services(&self) -> Result<Option<Vec<Service>>, EngineError> {
        match within(LIMIT, self.0.list_services(None::<ListServicesOptions>)).await {
            Err(error) if docker::status(&error).is_some() => Ok(None),
            outcome => outcome.map(Some).map_err(|error| trouble(&error)),
        }
    }

    /// All about one container; `None` where there is no such one.
    pub async fn inspect(&self, id: &str) -> Result<Option<Box<ContainerInspectResponse>>, EngineError> {
        let asked = self.0.inspect_container(id, None::<InspectContainerOptions>);
        let inspected = docker::found(within(LIMIT, asked).await);
        inspected
            .map(|found| found.map(Box::new))
            .map_err(|error| trouble(&error))
    }

    /// The events from a moment on, in seconds since 1970 with a fraction; the engine remembers
    /// some of the past.
    pub fn events(&self, since: &str) -> impl Stream<Item = Result<EventMessage, EngineError>> + use<> {
        let filters = HashMap::from([("type", vec!["container", "network"]), ("event", EVENTS.to_vec())]);
        let options = EventsOptionsBuilder::default()
            .since(since)
            .filters(&filters)
            .build();
        let docker = self.0.clone();
        docker
            .events(Some(options))
            .map(|event| event.map_err(|error| trouble(&error)))
    }
}

async fn limited<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, EngineError> {
    within(LIMIT, work).await.map_err(|error| trouble(&error))
}

fn trouble(error: &Error) -> EngineError {
    match error {
        // What a proxy answers when the engine behind it does not.
        Error::DockerResponseServerError {
            status_code: 502..=504,
            ..
        } => EngineError::Gone(reason(error)),
        Error::DockerResponseServerError { .. }
        | Error::JsonDataError { .. }
        | Error::JsonSerdeError { .. }
        | Error::APIVersionParseError {} => EngineError::Refused(reason(error)),
        _ => EngineError::Gone(reason(error)),
    }
}
