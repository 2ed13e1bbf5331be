//! Text that came out of a container or an engine, made fit for a log, a terminal and a status
//! record.

use std::time::Duration;

use bollard::container::LogOutput;
use bollard::errors::Error;
use bollard::query_parameters::{LogsOptions, LogsOptionsBuilder};
use futures_util::{Stream, StreamExt as _};
use mayfly_daemon::docker::line;

/// How long printed lines may take to come: the report of a failure waits for them.
const TIME: Duration = Duration::from_secs(10);

/// What to ask for the last `lines`.
pub(super) fn options(lines: usize) -> LogsOptions {
    LogsOptionsBuilder::default()
        .stdout(true)
        .stderr(true)
        .tail(&lines.to_string())
        .build()
}

/// The last lines of what a container printed, at most `lines`; those that came before an error or
/// within 10 s.
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
    // What came in time is used.
    let _ = tokio::time::timeout(TIME, read).await;
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_last_lines_come_in_order_and_a_stream_that_hangs_does_not_matter() {
        let message = |text: &'static str| Ok(LogOutput::StdOut { message: text.into() });
        let pieces = vec![message("a\nb\n"), message("\n"), message("c\n"), message("d")];
        let hanging = futures_util::stream::iter(pieces).chain(futures_util::stream::pending());
        assert_eq!(last(3, hanging).await, ["b", "c", "d"]);
    }
}
