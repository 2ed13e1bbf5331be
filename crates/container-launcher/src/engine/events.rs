//! Waits for an event of an engine. The stream of events stays open from one wait to the next, so
//! that nothing that happens in between is lost. After every doubt it is opened again, and then
//! anything may have happened.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::{FutureExt as _, Stream, StreamExt as _};
use mayfly_daemon::retry::Backoff;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tracing::debug;

use mayfly_daemon::docker::reason;

use super::connect::EngineConnection;

/// The limits of the first waits after an event, and after a stream was opened. An engine sends an
/// event before its lists show the change, and does not send what happened while the stream was
/// being opened.
const AFTERMATH: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
];

type Messages = Pin<Box<dyn Stream<Item = Result<EventMessage, Error>> + Send>>;

/// The events of an engine that mean that something may be different.
pub(super) struct Events {
    filters: HashMap<&'static str, Vec<&'static str>>,
    open: Mutex<Open>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("filters", &self.filters)
            .finish_non_exhaustive()
    }
}

#[derive(Default)]
struct Open {
    messages: Option<Messages>,
    /// How many waits there were since the last event.
    waits: usize,
    backoff: Backoff,
}

impl Events {
    /// Those that the engine's own filters let through.
    pub(super) fn new<const N: usize>(filters: [(&'static str, &[&'static str]); N]) -> Self {
        let filters = filters.map(|(name, values)| (name, values.to_vec()));
        Self {
            filters: filters.into(),
            open: Mutex::default(),
        }
    }

    /// Waits for the next event, at most for `limit`, and some times after an event for less.
    /// Returns also when the stream breaks; an engine that is gone makes it wait a growing while,
    /// up to 1 s, so that it is no busy loop. May be dropped at any moment.
    pub(super) async fn next(&self, connection: &EngineConnection, limit: Duration) {
        let open = &mut *self.open.lock().await;
        let messages = match &mut open.messages {
            Some(messages) => messages,
            none => match connection.client().await {
                Ok(client) => {
                    open.waits = 0;
                    let options = EventsOptionsBuilder::default().filters(&self.filters).build();
                    none.insert(Box::pin(client.events(Some(options))))
                }
                Err(error) => {
                    debug!("{error:#}; retrying");
                    return open.backoff.rest().await;
                }
            },
        };
        let limit = AFTERMATH.get(open.waits).map_or(limit, |after| limit.min(*after));
        let mut next = timeout(limit, messages.next()).await;
        // What has happened together is one change.
        while let Ok(Some(Ok(_))) = next {
            open.waits = 0;
            open.backoff.reset();
            match messages.next().now_or_never() {
                Some(more) => next = Ok(more),
                None => return,
            }
        }
        let why = match next {
            Err(_) => {
                open.waits += 1;
                return open.backoff.reset();
            }
            Ok(Some(Err(error))) => reason(&error),
            Ok(_) => "it has ended".to_owned(),
        };
        debug!("the engine's stream of events is broken: {why}; opening it again");
        open.messages = None;
        connection.forget();
        open.backoff.rest().await;
    }
}
