//! The engine's API, as far as it is read: containers, one container, events. Every question has a limit.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::{ContainerInspectResponse, EventMessage};
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::{Stream, StreamExt as _};
use mayfly_core::labels;
use tokio::time::timeout;

use crate::args::docker::EngineUrl;

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

/// An engine that has answered.
#[derive(Debug, Clone)]
pub struct Engine(Docker);

/// Why there is no answer.
#[derive(Debug)]
pub enum Trouble {
    /// The engine is out of reach, or does not answer in time.
    Gone(String),
    /// It has answered, and the answer is an error or makes no sense.
    Refused(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Gone(reason) | Self::Refused(reason)) = self;
        f.write_str(reason)
    }
}

impl Engine {
    /// Connects, and finds out which version of the API both sides know.
    pub async fn connect(url: &EngineUrl) -> Result<Self, Trouble> {
        let seconds = LIMIT.as_secs();
        let docker = match url {
            EngineUrl::Unix(path) => Docker::connect_with_unix(path, seconds, API_DEFAULT_VERSION),
            EngineUrl::Tcp(place) => {
                Docker::connect_with_http(&format!("tcp://{place}"), seconds, API_DEFAULT_VERSION)
            }
        };
        let docker = docker.map_err(|error| Trouble::Gone(words(&error)))?;
        limited(docker.negotiate_version()).await.map(Self)
    }

    /// The version of the API that is spoken.
    pub fn version(&self) -> String {
        let version = self.0.client_version();
        format!("{}.{}", version.major_version, version.minor_version)
    }

    /// Whether it answers at all.
    pub async fn ping(&self) -> Result<(), Trouble> {
        limited(self.0.ping()).await.map(drop)
    }

    /// The ids of the labelled containers that run, or would but for a pause.
    pub async fn list(&self) -> Result<Vec<String>, Trouble> {
        let filters = HashMap::from([("label", vec![labels::SERVICE])]);
        let options = ListContainersOptionsBuilder::default().filters(&filters).build();
        let listed = limited(self.0.list_containers(Some(options))).await?;
        Ok(listed.into_iter().filter_map(|container| container.id).collect())
    }

    /// All about one container; `None` where there is no such one.
    pub async fn inspect(&self, id: &str) -> Result<Option<Box<ContainerInspectResponse>>, Trouble> {
        let asked = self.0.inspect_container(id, None::<InspectContainerOptions>);
        match timeout(LIMIT, asked).await {
            Ok(Err(Error::DockerResponseServerError { status_code: 404, .. })) => Ok(None),
            outcome => flattened(outcome).map(|found| Some(Box::new(found))),
        }
    }

    /// The events from a moment on, in seconds since 1970 with a fraction; the engine remembers some of the past.
    pub fn events(&self, since: &str) -> impl Stream<Item = Result<EventMessage, Trouble>> + use<> {
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

async fn limited<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Trouble> {
    flattened(timeout(LIMIT, work).await)
}

fn flattened<T>(outcome: Result<Result<T, Error>, tokio::time::error::Elapsed>) -> Result<T, Trouble> {
    match outcome {
        Ok(answer) => answer.map_err(|error| trouble(&error)),
        Err(_) => Err(Trouble::Gone(format!("no answer within {LIMIT:?}"))),
    }
}

fn trouble(error: &Error) -> Trouble {
    match error {
        // What a proxy says when nobody answers behind it.
        Error::DockerResponseServerError {
            status_code: 502..=504,
            ..
        } => Trouble::Gone(words(error)),
        Error::DockerResponseServerError { .. }
        | Error::JsonDataError { .. }
        | Error::JsonSerdeError { .. }
        | Error::APIVersionParseError {} => Trouble::Refused(words(error)),
        _ => Trouble::Gone(words(error)),
    }
}

/// The chain of causes on one line, each said once.
fn words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = next.source();
    }
    text
}
