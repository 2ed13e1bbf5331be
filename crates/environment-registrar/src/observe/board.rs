//! What events have told and nobody has looked at yet: merged by file, so that any number of events stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a file that was written to and not closed has to be quiet before it is read all the same: it may have been
/// changed in a way that has no closing event.
const PATIENCE: Duration = Duration::from_secs(2);

/// The board. Cheap to clone; the watcher's thread writes, the observer reads.
#[derive(Debug, Clone, Default)]
pub(super) struct Board {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    notes: Mutex<Notes>,
    told: Notify,
}

#[derive(Debug, Default)]
struct Notes {
    /// Files to look at now.
    settled: BTreeSet<String>,
    /// Files that somebody is writing, and when that was last seen.
    writing: BTreeMap<String, Instant>,
    /// Whether everything has to be looked at.
    doubt: bool,
    /// Whether the directory, or a part of the way to it, was exchanged.
    exchanged: bool,
}

impl Board {
    /// The file is whole: it was closed, renamed or removed.
    pub(super) fn settled(&self, name: &str) {
        let mut notes = self.lock();
        notes.writing.remove(name);
        notes.settled.insert(name.to_owned());
        self.inner.told.notify_one();
    }

    /// Somebody is writing the file.
    pub(super) fn writing(&self) -> BTreeSet<String> {
        self.lock().writing.keys().cloned().collect()
    }

    /// The file was written to, and is not closed.
    pub(super) fn written(&self, name: &str, now: Instant) {
        let mut notes = self.lock();
        // What it held before is gone.
        notes.settled.remove(name);
        notes.writing.insert(name.to_owned(), now);
        self.inner.told.notify_one();
    }

    /// Owner, permissions or times have changed; that alone does not make a file whole that is being written.
    pub(super) fn touched(&self, name: &str) {
        let mut notes = self.lock();
        if !notes.writing.contains_key(name) {
            notes.settled.insert(name.to_owned());
            self.inner.told.notify_one();
        }
    }

    /// Everything has to be looked at.
    pub(super) fn doubt(&self) {
        self.lock().doubt = true;
        self.inner.told.notify_one();
    }

    /// The directory itself, or a part of the way to it, is another one now, or gone: what watches it may be dead.
    pub(super) fn exchanged(&self) {
        self.lock().exchanged = true;
        self.doubt();
    }

    pub(super) fn take_exchanged(&self) -> bool {
        std::mem::take(&mut self.lock().exchanged)
    }

    pub(super) fn take_doubt(&self) -> bool {
        std::mem::take(&mut self.lock().doubt)
    }

    /// The files to look at, those included that were written long enough ago.
    pub(super) fn take_settled(&self, now: Instant) -> BTreeSet<String> {
        let mut notes = self.lock();
        let mut settled = std::mem::take(&mut notes.settled);
        notes.writing.retain(|name, last| {
            let quiet = now.duration_since(*last) >= PATIENCE;
            if quiet {
                settled.insert(name.clone());
            }
            !quiet
        });
        settled
    }

    /// When a file that is being written will have been quiet long enough.
    pub(super) fn next_settled(&self) -> Option<Instant> {
        self.lock().writing.values().min().map(|last| *last + PATIENCE)
    }

    /// Waits until something was noted. Safe in `select!`.
    pub(super) async fn told(&self) {
        self.inner.told.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.inner.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_that_is_being_written_waits_for_its_close() {
        let (board, now) = (Board::default(), Instant::now());
        board.settled("other.yaml");
        board.written("a.yaml", now);
        board.touched("a.yaml");
        assert_eq!(
            (board.take_settled(now), board.writing()),
            (names(&["other.yaml"]), names(&["a.yaml"]))
        );
        board.settled("a.yaml");
        assert_eq!(
            (board.take_settled(now), board.writing()),
            (names(&["a.yaml"]), names(&[]))
        );
        assert_eq!(board.take_settled(now), names(&[]));
        // A second writer begins before the file was looked at.
        board.settled("a.yaml");
        board.written("a.yaml", now);
        assert_eq!(board.take_settled(now), names(&[]));
    }

    #[test]
    fn a_writer_that_never_closes_is_waited_for_in_vain_only_so_long() {
        let (board, start) = (Board::default(), Instant::now());
        board.written("a.yaml", start);
        board.written("a.yaml", start + PATIENCE / 2);
        assert_eq!(board.next_settled(), Some(start + PATIENCE / 2 + PATIENCE));
        assert_eq!(board.take_settled(start + PATIENCE), names(&[]));
        assert_eq!(
            board.take_settled(start + PATIENCE / 2 + PATIENCE),
            names(&["a.yaml"])
        );
        assert_eq!(board.next_settled(), None);
    }

    #[tokio::test]
    async fn notes_made_before_anybody_waits_are_not_lost() {
        let board = Board::default();
        board.doubt();
        board.told().await;
        assert!(board.take_doubt());
        assert!(!board.take_doubt());
    }
}
