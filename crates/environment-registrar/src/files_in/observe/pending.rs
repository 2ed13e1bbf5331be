//! Events that nobody has looked at yet, merged by file, so that any number of events stays small.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

/// How long a file that was written to and not closed has to be quiet before it is read all the
/// same. A writer that stalls (a copy over a slow network) must not have its half taken; a change
/// without a closing event is rare: `truncate` by path, or a file system that tells less than
/// others do.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for a file that has appeared and was not written to: it may be a further name of one
/// that was there before, and then nobody closes it.
const APPEARANCE: Duration = Duration::from_secs(2);

/// The pending. Cheap to clone; the watcher's thread writes, the observer reads.
#[derive(Debug, Clone, Default)]
pub(super) struct Pending {
    inner: Arc<PendingState>,
}

#[derive(Debug, Default)]
struct PendingState {
    notes: Mutex<Notes>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Notes {
    /// Files to look at now.
    settled: BTreeSet<String>,
    /// Files that are being written, and when each is read although nobody has closed it.
    writing: BTreeMap<String, Instant>,
    /// Whether everything has to be looked at.
    doubt: bool,
    /// Whether the directory, or a part of the way to it, was exchanged.
    exchanged: bool,
    /// The entries of the directory that are reported, although they are none of its files.
    asides: BTreeSet<String>,
}

impl Pending {
    /// The file is whole: it was closed, renamed or removed.
    pub(super) fn settled(&self, name: &str) {
        let mut notes = self.lock();
        notes.writing.remove(name);
        notes.settled.insert(name.to_owned());
        self.inner.changed.notify_one();
    }

    /// The file is being written.
    pub(super) fn writing(&self) -> BTreeSet<String> {
        self.lock().writing.keys().cloned().collect()
    }

    /// The file was written to, and is not closed.
    pub(super) fn written(&self, name: &str, now: Instant) {
        self.begun(name, now + PATIENCE);
    }

    /// The file has appeared, and is not closed.
    pub(super) fn created(&self, name: &str, now: Instant) {
        self.begun(name, now + APPEARANCE);
    }

    fn begun(&self, name: &str, due: Instant) {
        let mut notes = self.lock();
        // What it held before is gone.
        notes.settled.remove(name);
        notes.writing.insert(name.to_owned(), due);
        self.inner.changed.notify_one();
    }

    /// Owner, permissions or times have changed; that alone does not make a file whole that is
    /// being written.
    pub(super) fn touched(&self, name: &str) {
        let mut notes = self.lock();
        if !notes.writing.contains_key(name) {
            notes.settled.insert(name.to_owned());
            self.inner.changed.notify_one();
        }
    }

    /// Everything has to be looked at.
    pub(super) fn doubt(&self) {
        self.lock().doubt = true;
        self.inner.changed.notify_one();
    }

    /// Events are lost, perhaps those of files that were closed meanwhile: everything has to be
    /// looked at, and whether a file is whole shows only in its staying as it is.
    pub(super) fn lost(&self) {
        self.lock().writing.clear();
        self.doubt();
    }

    /// The directory itself, or a part of the way to it, is another one now, or gone: what watches
    /// it may be dead.
    pub(super) fn exchanged(&self) {
        self.lock().exchanged = true;
        self.doubt();
    }

    pub(super) fn take_exchanged(&self) -> bool {
        std::mem::take(&mut self.lock().exchanged)
    }

    /// Forgets who is writing: those were files of another directory, or nobody sees who closes
    /// one.
    pub(super) fn forget_writing(&self) {
        self.lock().writing.clear();
    }

    /// What is reported now, although it is none of the files.
    pub(super) fn set_asides(&self, names: BTreeSet<String>) {
        self.lock().asides = names;
    }

    /// Whether an entry of this name is reported.
    pub(super) fn is_aside(&self, name: &str) -> bool {
        self.lock().asides.contains(name)
    }

    pub(super) fn take_doubt(&self) -> bool {
        std::mem::take(&mut self.lock().doubt)
    }

    /// The files to look at, those included that have waited long enough for their close.
    pub(super) fn take_settled(&self, now: Instant) -> BTreeSet<String> {
        let mut notes = self.lock();
        let mut settled = std::mem::take(&mut notes.settled);
        notes.writing.retain(|name, due| {
            let over = *due <= now;
            if over {
                settled.insert(name.clone());
            }
            !over
        });
        settled
    }

    /// When a file that is being written will have waited long enough.
    pub(super) fn next_settled(&self) -> Option<Instant> {
        self.lock().writing.values().min().copied()
    }

    /// Waits until something was noted. Safe in `select!`.
    pub(super) async fn changed(&self) {
        self.inner.changed.notified().await;
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
        let (pending, now) = (Pending::default(), Instant::now());
        pending.settled("other.yaml");
        pending.written("a.yaml", now);
        pending.touched("a.yaml");
        assert_eq!(
            (pending.take_settled(now), pending.writing()),
            (names(&["other.yaml"]), names(&["a.yaml"]))
        );
        pending.settled("a.yaml");
        assert_eq!(
            (pending.take_settled(now), pending.writing()),
            (names(&["a.yaml"]), names(&[]))
        );
        assert_eq!(pending.take_settled(now), names(&[]));
        // A second writer begins before the file was looked at.
        pending.settled("a.yaml");
        pending.written("a.yaml", now);
        assert_eq!(pending.take_settled(now), names(&[]));
    }

    #[test]
    fn a_writer_that_never_closes_is_waited_for_in_vain_only_so_long() {
        let (pending, start) = (Pending::default(), Instant::now());
        pending.written("a.yaml", start);
        pending.written("a.yaml", start + PATIENCE / 2);
        assert_eq!(pending.next_settled(), Some(start + PATIENCE / 2 + PATIENCE));
        assert_eq!(pending.take_settled(start + PATIENCE), names(&[]));
        assert_eq!(
            pending.take_settled(start + PATIENCE / 2 + PATIENCE),
            names(&["a.yaml"])
        );
        assert_eq!(pending.next_settled(), None);
    }

    #[test]
    fn a_writer_that_stalls_for_seconds_is_waited_for() {
        let (pending, start) = (Pending::default(), Instant::now());
        pending.created("a.yaml", start);
        pending.written("a.yaml", start);
        assert_eq!(pending.take_settled(start + Duration::from_secs(20)), names(&[]));
        assert_eq!(pending.writing(), names(&["a.yaml"]));
        // What nobody has written to is the further name of a file.
        pending.created("b.yaml", start);
        assert_eq!(pending.next_settled(), Some(start + APPEARANCE));
        assert_eq!(pending.take_settled(start + APPEARANCE), names(&["b.yaml"]));
    }

    #[test]
    fn where_events_are_lost_nobody_waits_for_a_close() {
        let pending = Pending::default();
        pending.written("a.yaml", Instant::now());
        pending.lost();
        assert!(pending.writing().is_empty() && pending.take_doubt());
    }

    #[tokio::test]
    async fn notes_made_before_anybody_waits_are_not_lost() {
        let pending = Pending::default();
        pending.doubt();
        pending.changed().await;
        assert!(pending.take_doubt());
        assert!(!pending.take_doubt());
    }
}
