//! Text that came out of a container or an engine, made fit for a log, a terminal and a status record.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::query_parameters::{LogsOptions, LogsOptionsBuilder};
use futures_util::{Stream, StreamExt as _};
use mayfly_core::printable::is_hidden;

/// Longest line, in characters.
const LIMIT: usize = 300;
/// How long printed lines may take to come: they are told beside something that has failed, and hold it up.
const TIME: Duration = Duration::from_secs(10);

/// Text as one line of at most 300 characters, hidden characters and line feeds replaced by blanks.
pub(super) fn line(text: &str) -> String {
    let plain: String = text
        .chars()
        .map(|letter| if is_hidden(letter) { ' ' } else { letter })
        .collect();
    let mut short: String = plain.trim().chars().take(LIMIT + 1).collect();
    if let Some((at, _)) = short.char_indices().nth(LIMIT) {
        // The last place is that of the mark.
        short.truncate(at);
        short.pop();
        short.push('…');
    }
    short
}

/// What to ask for the last `lines`.
pub(super) fn options(lines: usize) -> LogsOptions {
    LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .tail(&lines.to_string())
        .build()
}

/// The last lines of what a container printed, at most `lines`; those that came before an error or within 10 s.
pub(super) async fn last(lines: usize, stream: impl Stream<Item = Result<LogOutput, Error>>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    let mut stream = std::pin::pin!(stream);
    let read = async {
        while let Some(Ok(output)) = stream.next().await {
            let text = String::from_utf8_lossy(output.as_ref()).into_owned();
            all.extend(text.lines().map(line).filter(|line| !line.is_empty()));
            let surplus = all.len().saturating_sub(lines);
            all.drain(..surplus);
        }
    };
    // What came in time is told.
    let _ = tokio::time::timeout(TIME, read).await;
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
        assert_eq!(line(&"ü".repeat(LIMIT)), "ü".repeat(LIMIT));
        let long = line(&"ü".repeat(LIMIT + 1));
        assert_eq!((long.chars().count(), long.chars().last()), (LIMIT, Some('…')));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_lines_come_in_order_and_a_stream_that_hangs_does_not_matter() {
        let message = |text: &'static str| Ok(LogOutput::StdOut { message: text.into() });
        let pieces = vec![message("a\nb\n"), message("\n"), message("c\n"), message("d")];
        let hanging = futures_util::stream::iter(pieces).chain(futures_util::stream::pending());
        assert_eq!(last(3, hanging).await, ["b", "c", "d"]);
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_short_harmless_line(text in "[ -~\n\r\t\u{1b}\u{85}\u{2028}\u{202e}\u{2066}é\u{0}]{0,700}|\\PC{0,40}") {
            let line = line(&text);
            prop_assert!(line.chars().count() <= LIMIT && line.lines().count() <= 1);
            prop_assert!(!line.contains(|letter: char| is_hidden(letter)), "{line:?}");
        }
    }
}
