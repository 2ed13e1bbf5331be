//! Lines of the log wait here for a thread that writes them, so that nothing else waits for whoever
//! reads the log. A pipe that nobody reads, a disk that is full or a terminal that was stopped
//! costs lines, and never a lease.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use mayfly_core::shorten::counted;
use tracing::warn;

use crate::output::complain;

/// Most bytes that wait: some thousand lines, and next to nothing of a daemon's memory.
const LIMIT: usize = 1 << 20;

/// Lines that are to be written.
#[derive(Debug, Default)]
pub(super) struct LineQueue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether a thread writes them.
    has_writer: bool,
    /// Whether lines that were taken are being written.
    is_writing: bool,
    /// Lines that found no room or could not be written, since the log last said so.
    lost: u64,
}

impl LineQueue {
    /// Adds a line, or counts it as lost where too many wait.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut waiting = self.lock();
        if waiting.bytes + line.len() > LIMIT {
            waiting.lost += 1;
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        drop(waiting);
        self.changed.notify_all();
    }

    /// Waits until everything is written, but no longer than that.
    pub(super) fn flush(&self, limit: Duration) {
        let is_busy = |waiting: &mut Waiting| waiting.is_writing || !waiting.lines.is_empty();
        drop(self.changed.wait_timeout_while(self.lock(), limit, is_busy));
    }

    /// Whether what is pushed will be written.
    pub(super) fn has_writer(&self) -> bool {
        self.lock().has_writer
    }

    /// Writes lines as they come, in a thread that ends with the process.
    pub(super) fn write_to(&'static self, mut output: impl Write + Send + 'static) {
        let started = thread::Builder::new().name("log".to_owned()).spawn(move || {
            loop {
                self.write_next(&mut output);
            }
        });
        match started {
            Ok(_) => self.lock().has_writer = true,
            Err(error) => complain(&format!(
                "error: cannot start the thread that writes the log: {error}"
            )),
        }
    }

    /// Waits for lines and writes them. What was lost before is reported once a line could be
    /// written again.
    fn write_next(&self, output: &mut impl Write) {
        let is_idle = |waiting: &mut Waiting| waiting.lines.is_empty();
        let waited = self.changed.wait_while(self.lock(), is_idle);
        let mut waiting = waited.unwrap_or_else(PoisonError::into_inner);
        let lines = std::mem::take(&mut waiting.lines);
        (waiting.bytes, waiting.is_writing) = (0, true);
        drop(waiting);
        let written = lines.iter().filter(|line| output.write_all(line).is_ok()).count();
        let mut waiting = self.lock();
        waiting.is_writing = false;
        waiting.lost += (lines.len() - written) as u64;
        let lost = match written {
            0 => 0,
            _ => std::mem::take(&mut waiting.lost),
        };
        drop(waiting);
        if lost > 0 {
            warn!(
                "lost {}: writing the log failed or was too slow",
                counted(usize::try_from(lost).unwrap_or(usize::MAX), "log line")
            );
        }
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::mpsc;

    use super::*;

    /// Takes a line only when it is told to, and then with this outcome.
    struct Slow {
        may: mpsc::Receiver<bool>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            match self.may.recv() {
                Ok(true) => {
                    self.taken.send(line.to_vec()).map_err(io::Error::other)?;
                    Ok(line.len())
                }
                _ => Err(io::ErrorKind::BrokenPipe.into()),
            }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow() -> (&'static LineQueue, mpsc::Sender<bool>, mpsc::Receiver<Vec<u8>>) {
        let queue: &'static LineQueue = Box::leak(Box::default());
        let (go, may) = mpsc::channel();
        let (taken, lines) = mpsc::channel();
        queue.write_to(Slow { may, taken });
        (queue, go, lines)
    }

    const NOW: Duration = Duration::ZERO;
    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn lines_come_in_their_order_and_are_waited_for() {
        let (queue, go, lines) = slow();
        for line in ["one\n", "two\n", "three\n"] {
            queue.push(line.into());
            go.send(true).unwrap();
        }
        queue.flush(SOON);
        let written: Vec<_> = lines.try_iter().collect();
        assert_eq!(written, [&b"one\n"[..], b"two\n", b"three\n"]);
    }

    #[test]
    fn a_reader_that_does_not_read_holds_up_nobody() {
        let (queue, go, lines) = slow();
        for _ in 0..3 * LIMIT / 1_000 {
            queue.push(vec![b'x'; 1_000]);
        }
        queue.flush(NOW);
        let lost = queue.lock().lost;
        let kept = 3 * LIMIT / 1_000 - usize::try_from(lost).unwrap();
        assert!((LIMIT / 1_000..=2 * LIMIT / 1_000).contains(&kept), "{kept}");
        for _ in 0..kept {
            go.send(true).unwrap();
        }
        queue.flush(SOON);
        assert_eq!(lines.try_iter().count(), kept);
        assert_eq!(queue.lock().lost, 0, "it is told");
    }

    #[test]
    fn an_output_that_fails_is_tried_again_with_the_next_line() {
        let (queue, go, lines) = slow();
        for may in [false, true] {
            queue.push(b"a line\n".into());
            go.send(may).unwrap();
            queue.flush(SOON);
        }
        assert_eq!(lines.try_iter().count(), 1);
        assert_eq!(queue.lock().lost, 0, "it is told");
    }
}
