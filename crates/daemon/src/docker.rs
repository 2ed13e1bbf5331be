//! The connection to a Docker engine, for the daemons that use one: its address, a client that
//! speaks a version of the API that the engine understands, limits of calls, and errors in one
//! line.

use std::error::Error as _;
use std::fmt::{self, Display};
use std::str::FromStr;
use std::time::Duration;

use anyhow::anyhow;
use bollard::Docker;
use bollard::errors::Error;
use mayfly_core::printable::is_hidden;

/// The most characters of a [`line`].
const LONGEST: usize = 300;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EngineUrl {
    /// The path of a socket.
    Unix(String),
    /// `host:port`.
    Tcp(String),
}

impl FromStr for EngineUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = |place: &str| {
            let (host, port) = place.rsplit_once(':')?;
            (!host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0)).then_some(())
        };
        match text.split_once("://") {
            Some(("unix", path)) if path.starts_with('/') => Ok(Self::Unix(path.to_owned())),
            Some(("tcp" | "http", place)) if !place.contains('/') && port(place).is_some() => {
                Ok(Self::Tcp(place.to_owned()))
            }
            _ => Err(
                "the URL of an engine is unix:// with an absolute path, or tcp:// with host and \
                 port; TLS \
                 and ssh are not supported"
                    .to_owned(),
            ),
        }
    }
}

impl fmt::Display for EngineUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Tcp(place) => write!(f, "tcp://{place}"),
        }
    }
}

/// A client of the engine at an address, which answers within one limit; `longest` is for the calls
/// of the client.
///
/// # Errors
/// When the engine does not answer.
pub async fn connect(url: &EngineUrl, limit: Duration, longest: Duration) -> Result<Docker, Error> {
    let client = Docker::connect_with_host(&url.to_string())?.with_timeout(longest);
    within(limit, client.negotiate_version()).await
}

/// The outcome of a call, if it comes within a limit.
pub async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let outcome = tokio::time::timeout(limit, call).await;
    outcome.unwrap_or(Err(Error::RequestTimeoutError))
}

/// The HTTP status with which the engine refused.
pub fn status(error: &Error) -> Option<u16> {
    match error {
        Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// What an engine has, or `None` where it says that there is no such thing.
pub fn found<T>(outcome: Result<T, Error>) -> Result<Option<T>, Error> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Turns an error into one that says what failed: `cannot <what>: <reason>`.
pub fn failed(what: impl Display) -> impl FnOnce(Error) -> anyhow::Error {
    move |error| anyhow!("cannot {what}: {}", reason(&error))
}

/// Why a call failed, in one line.
pub fn reason(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => line(message),
        Error::DockerStreamError { error } => line(error),
        Error::RequestTimeoutError => "the engine did not answer in time".to_owned(),
        // Its path is part of the engine's URL.
        Error::SocketNotFoundError(_) => "there is no such socket".to_owned(),
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

/// Text as one line of at most 300 characters, hidden characters and line feeds replaced by blanks.
pub fn line(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|letter| if is_hidden(letter) { ' ' } else { letter })
        .collect();
    let mut short: String = plain.trim().chars().take(LONGEST + 1).collect();
    if let Some((at, _)) = short.char_indices().nth(LONGEST) {
        // The last place is that of the mark.
        short.truncate(at);
        short.pop();
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn addresses() {
        for (good, text) in [
            ("unix:///run/docker.sock", "unix:///run/docker.sock"),
            ("tcp://10.0.0.1:2375", "tcp://10.0.0.1:2375"),
            ("http://[fd00::1]:2375", "tcp://[fd00::1]:2375"),
        ] {
            assert_eq!(good.parse::<EngineUrl>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "/run/docker.sock",
            "unix://",
            "tcp://x",
            "https://x:2376",
            "ssh://x",
        ] {
            assert!(bad.parse::<EngineUrl>().is_err(), "{bad}");
        }
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_reported_in_one_line() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing.sock");
        // Nobody listens at a port whose listener is gone.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr();
        for (url, expected) in [
            (format!("unix://{}", missing.display()), "there is no such socket"),
            (format!("tcp://{}", port.unwrap()), "Connection refused"),
        ] {
            let text = reason(&connect(&url.parse().unwrap(), LIMIT, LIMIT).await.unwrap_err());
            assert!(text.contains(expected) && !text.contains('\n'), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_has_a_limit() {
        let hanging = std::future::pending::<Result<(), Error>>();
        let error = within(LIMIT, hanging).await.unwrap_err();
        assert_eq!(reason(&error), "the engine did not answer in time");
    }

    #[test]
    fn a_line_is_short_and_harmless() {
        for (text, expected) in [
            ("", ""),
            (" plain\n", "plain"),
            ("two\nlines\tand\r\n", "two lines and"),
            ("\u{1b}[31mred\u{1b}[0m \u{202e}x", "[31mred [0m  x"),
        ] {
            assert_eq!(line(text), expected);
        }
        assert_eq!(line(&"ü".repeat(LONGEST)), "ü".repeat(LONGEST));
        let long = line(&"ü".repeat(LONGEST + 1));
        assert_eq!((long.chars().count(), long.chars().last()), (LONGEST, Some('…')));
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_short_harmless_line(text in "[ -~\n\r\t\u{1b}\u{85}\u{2028}\u{202e}\u{2066}é\u{0}]{0,700}|\\PC{0,40}") {
            let line = line(&text);
            prop_assert!(line.chars().count() <= LONGEST && line.lines().count() <= 1);
            prop_assert!(!line.contains(|letter: char| is_hidden(letter)), "{line:?}");
        }
    }
}
