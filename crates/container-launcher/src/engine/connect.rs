//! The way to an engine: made when it is first needed and again after every doubt, since an engine may come later than
//! the launcher or come back as another version. No call lasts without a limit, and what went wrong is one line.

use std::error::Error as _;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{anyhow, bail};
use bollard::errors::Error;

use super::log;
use super::output::line;

/// How long a question to the engine may take.
pub(super) const QUESTION: Duration = Duration::from_secs(20);
/// How long work on its disk may take, on an engine that does much of it at once.
pub(super) const WORK: Duration = Duration::from_secs(120);

/// The way to one engine.
#[derive(Debug)]
pub(super) struct Connection {
    url: String,
    client: Mutex<Option<bollard::Docker>>,
    /// What its logs need, once it was asked. It is not asked for each container: an engine starts programs to answer.
    log: Mutex<Option<Option<log::Limits>>>,
}

impl Connection {
    /// The way to the engine at an address: `unix:///run/docker.sock` or `tcp://host:port`. Nobody is asked yet.
    ///
    /// # Errors
    /// When it is no such address.
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        let rest = ["unix://", "tcp://", "http://"]
            .iter()
            .find_map(|scheme| url.strip_prefix(scheme));
        if rest.is_none_or(str::is_empty) {
            bail!("{url:?} is no address of an engine: unix:///run/docker.sock or tcp://host:port");
        }
        Ok(Self {
            url: url.to_owned(),
            client: Mutex::new(None),
            log: Mutex::new(None),
        })
    }

    /// A client that speaks a version of the API that the engine understands.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn client(&self) -> anyhow::Result<bollard::Docker> {
        let known = self.known().clone();
        if let Some(client) = known {
            return Ok(client);
        }
        let what = format!("reach the engine at {}", self.url);
        let client = bollard::Docker::connect_with_host(&self.url).map_err(failed(&what))?;
        let client = client.with_timeout(WORK);
        let client = within(QUESTION, client.negotiate_version())
            .await
            .map_err(failed(&what))?;
        *self.known() = Some(client.clone());
        Ok(client)
    }

    /// What the logs of this engine's containers need: [`log::limited`].
    ///
    /// # Errors
    /// When the engine does not answer.
    pub(super) async fn log(&self, client: &bollard::Docker) -> anyhow::Result<Option<log::Limits>> {
        let known = locked(&self.log).clone();
        if let Some(log) = known {
            return Ok(log);
        }
        let log = log::limited(client).await?;
        *locked(&self.log) = Some(log.clone());
        Ok(log)
    }

    /// The engine may be another one now: its version is asked for again.
    pub(super) fn forget(&self) {
        *self.known() = None;
        *locked(&self.log) = None;
    }

    fn known(&self) -> MutexGuard<'_, Option<bollard::Docker>> {
        locked(&self.client)
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The outcome of a call, if it comes within a limit.
pub(super) async fn within<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let outcome = tokio::time::timeout(limit, call).await;
    outcome.unwrap_or(Err(Error::RequestTimeoutError))
}

/// The HTTP status with which the engine refused.
pub(super) fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// What an engine has, or `None` where it says that there is no such thing.
pub(super) fn found<T>(outcome: Result<T, Error>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Turns an error into one that says what failed: `cannot <what>: <reason>`.
pub(super) fn failed(what: impl Display) -> impl FnOnce(Error) -> anyhow::Error {
    move |error| anyhow!("cannot {what}: {}", reason(&error))
}

/// Why a call failed, in one line.
pub(super) fn reason(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => line(message),
        Error::DockerStreamError { error } => line(error),
        Error::RequestTimeoutError => "it does not answer in time".to_owned(),
        // What the layers of an HTTP client say of it tells nobody anything.
        Error::HyperLegacyError { err } => {
            let mut cause: &dyn std::error::Error = err;
            while let Some(deeper) = cause.source() {
                cause = deeper;
            }
            line(&cause.to_string())
        }
        Error::HyperResponseError { err } => line(&err.source().map_or(err.to_string(), ToString::to_string)),
        other => line(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for good in ["unix:///run/docker.sock", "tcp://10.0.0.1:2375"] {
            assert!(Connection::new(good).is_ok(), "{good}");
        }
        for bad in ["", "/run/docker.sock", "unix://", "https://x:2376", "ssh://x"] {
            let error = Connection::new(bad).unwrap_err().to_string();
            assert!(error.contains("no address of an engine"), "{bad}: {error}");
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_told_in_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.sock");
        // Nobody listens at a port whose listener is gone.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        for (url, expected) in [
            (format!("unix://{}", missing.display()), "Socket not found"),
            (format!("tcp://{}", port.unwrap()), "Connection refused"),
        ] {
            let error = Connection::new(&url).unwrap().client().await.unwrap_err();
            let text = format!("{error:#}");
            assert!(
                text.starts_with(&format!("cannot reach the engine at {url}: ")),
                "{text}"
            );
            assert!(text.contains(expected) && !text.contains('\n'), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_has_a_limit() {
        let hanging = std::future::pending::<Result<(), Error>>();
        let error = within(QUESTION, hanging).await.unwrap_err();
        assert_eq!(reason(&error), "it does not answer in time");
    }
}
