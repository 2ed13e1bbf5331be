//! Logs go to stderr: stdout belongs to the output of commands such as `list`. Colours only on a terminal.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write};

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line an event.
    #[default]
    Text,
    /// One JSON object an event, for log collectors.
    Json,
}

/// Starts logging with a filter such as `info` or `info,mayfly_daemon=debug`. A second call changes nothing,
/// so tests may call it freely.
///
/// # Errors
/// When the filter cannot be read.
pub fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter).with_context(|| {
        format!("cannot read the log filter '{filter}': try `info` or `info,mayfly_daemon=debug`")
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| OneLine(io::stderr()))
        .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none());
    let started = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging has been started before");
    }
    Ok(())
}

/// Makes each event one line, whatever stands in it: names of files, and what HAProxy, an engine or etcd says, can have line
/// feeds, and what comes after one would pass for an event. (Other control characters are escaped by the formatter.)
struct OneLine<Inner>(Inner);

impl<Inner: Write> Write for OneLine<Inner> {
    /// Takes a whole event, as the formatter gives it.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.write_all(&one_line(event))?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn one_line(event: &[u8]) -> Cow<'_, [u8]> {
    let (text, end) = event
        .strip_suffix(b"\n")
        .map_or((event, &b""[..]), |text| (text, b"\n"));
    if !text.iter().any(|octet| b"\n\r".contains(octet)) {
        return Cow::Borrowed(event);
    }
    let escaped = text.iter().flat_map(|octet| match octet {
        b'\n' => b"\\n",
        b'\r' => b"\\r",
        octet => std::slice::from_ref(octet),
    });
    Cow::Owned(escaped.chain(end).copied().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let mut log = Vec::new();
        for event in ["one\n", "t\nw\r\no\n", "three"] {
            OneLine(&mut log).write_all(event.as_bytes()).unwrap();
        }
        assert_eq!(String::from_utf8(log).unwrap(), "one\nt\\nw\\r\\no\nthree");
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let error = start("info,=,=", LogFormat::Text).unwrap_err();
        assert!(error.to_string().contains("'info,=,='"), "{error}");
    }
}
