//! Logs go to stderr: stdout belongs to the output of commands such as `list`. Colours only on a
//! terminal. Nothing waits for a line to be written.

use std::io::{self, IsTerminal as _, Write};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::Context as _;
use mayfly_core::printable::{printable, printable_json, printable_lines};
use tracing_subscriber::EnvFilter;

mod queue;

use crate::output::complain;
use queue::LineQueue;

/// How long the end of a process waits for its last lines.
const LAST_LINES: Duration = Duration::from_millis(500);

/// One for the process, as what logs into it is.
static LINES: LazyLock<LineQueue> = LazyLock::new(LineQueue::default);

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line for each event.
    #[default]
    Text,
    /// One JSON object for each event, for log collectors.
    Json,
}

/// Starts logging with a filter such as `info` or `info,mayfly_daemon=debug`. A second call changes
/// nothing, so tests may call it freely. [`flush`] belongs before the end of the process.
///
/// # Errors
/// When the filter cannot be read.
pub fn start(filter: &str, format: LogFormat) -> anyhow::Result<()> {
    let filter = self::filter(filter)?;
    let is_coloured = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || OneLine { format, is_coloured })
        // It would write to stderr itself, and panic where that cannot be written to.
        .log_internal_errors(false)
        .with_ansi(is_coloured);
    let started = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .try_init(),
    };
    match started {
        Ok(()) => LINES.write_to(io::stderr()),
        Err(_) => tracing::debug!("logging has been started before"),
    }
    Ok(())
}

/// Prints why a process ends, as [`complain`], and waits for that no longer than [`flush`] does.
pub fn last_words(text: &str) {
    if LINES.has_writer() {
        LINES.push((printable_lines(text.trim_end()) + "\n").into_bytes());
        flush();
    } else {
        complain(text);
    }
}

/// Waits until the lines of the log are written, for half a second at most.
pub fn flush() {
    LINES.flush(LAST_LINES);
}

/// Reads a filter.
pub(crate) fn filter(text: &str) -> anyhow::Result<EnvFilter> {
    EnvFilter::try_new(text).with_context(|| {
        format!("cannot read the log filter '{text}': try `info` or `info,mayfly_daemon=debug`")
    })
}

/// Makes each event one line, whatever stands in it: names of files, and what HAProxy, an engine or
/// etcd says, can have line feeds, and what comes after one would pass for an event. Other hidden
/// characters are escaped as well.
struct OneLine {
    format: LogFormat,
    /// Whether the formatter writes colours, by sequences that begin with ESC. It escapes those of
    /// an event itself.
    is_coloured: bool,
}

impl OneLine {
    fn line(&self, event: &[u8]) -> Vec<u8> {
        let text = event.strip_suffix(b"\n").unwrap_or(event);
        if text.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            return event.to_vec();
        }
        let text = String::from_utf8_lossy(text);
        let mut line = match self.format {
            LogFormat::Json => printable_json(&text),
            LogFormat::Text if self.is_coloured => {
                let pieces: Vec<_> = text.split('\x1b').map(printable).collect();
                pieces.join("\x1b")
            }
            LogFormat::Text => printable(&text),
        };
        line.extend(event.ends_with(b"\n").then_some('\n'));
        line.into_bytes()
    }
}

impl Write for OneLine {
    /// Takes a whole event, as the formatter gives it.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        LINES.push(self.line(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(format: LogFormat, is_coloured: bool, events: &[&str]) -> String {
        let writer = OneLine { format, is_coloured };
        let lines = events.iter().flat_map(|event| writer.line(event.as_bytes()));
        String::from_utf8(lines.collect()).unwrap()
    }

    #[test]
    fn an_event_is_a_line() {
        let events = ["one\n", "t\nw\r\no\n", "a\u{202e}b\u{2028}ü\n", "three"];
        assert_eq!(
            written(LogFormat::Text, false, &events),
            "one\nt\\nw\\r\\no\na\\u{202e}b\\u{2028}ü\nthree"
        );
        let coloured = ["\x1b[32m INFO\x1b[0m a\u{202e}\n"];
        assert_eq!(
            written(LogFormat::Text, true, &coloured),
            "\x1b[32m INFO\x1b[0m a\\u{202e}\n"
        );
        assert_eq!(
            written(LogFormat::Text, false, &coloured),
            "\\u{1b}[32m INFO\\u{1b}[0m a\\u{202e}\n"
        );
    }

    #[test]
    fn an_event_of_json_means_the_same() {
        let event = serde_json::json!({"message": "a\u{202e}b\n\u{e0041}\u{9b}"});
        let line = written(LogFormat::Json, false, &[&format!("{event}\n")]);
        assert!(line.is_ascii() && line.lines().count() == 1, "{line}");
        let read: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(read, event);
    }

    #[test]
    fn a_filter_that_cannot_be_read_is_named() {
        let error = start("info,=,=", LogFormat::Text).unwrap_err();
        assert!(error.to_string().contains("'info,=,='"), "{error}");
    }
}
