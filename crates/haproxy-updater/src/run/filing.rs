//! When the files that HAProxy starts from are written: shortly after a change, again after a
//! failure, and when another program has changed them. One task at a time looks at them or writes
//! them, so that no slow disk holds up the loop.

use std::time::Duration;

use mayfly_core::routing::Routing;
use mayfly_daemon::failure::retrying;
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::tasks::blocking;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::apply::{Applier, write};
use crate::haproxy::files::Stale;

/// The files are written when nothing has changed for this long,
const QUIET: Duration = Duration::from_millis(200);
/// or when the first change that they lack is this old. A HAProxy that is killed meanwhile starts
/// without it.
const STALE: Duration = Duration::from_secs(5);
/// Where writing is fast they lack it for less: so many times as long as the last write took. Then
/// it takes a tenth of the time while changes never rest.
const TIMES_THE_WRITE: u32 = 10;

/// What is to be done to the files.
pub(super) struct Filing {
    /// When the files began to lack something, and when they last began to lack more.
    stale: Option<(Instant, Instant)>,
    work: Option<FilingWork>,
    /// How long the last write took, with the check of the configuration.
    took: Duration,
    backoff: Backoff,
    /// Not before: writing has failed just now.
    next_write: Instant,
    failure: Option<String>,
}

/// What is being done to them; its outcome are those that are damaged.
struct FilingWork {
    kind: FilingKind,
    begun: Instant,
    handle: JoinHandle<anyhow::Result<Stale>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FilingKind {
    Look,
    Write,
}

/// What is to be done next.
pub(super) enum FileTurn {
    Write,
    Conclude(Done),
}

/// What has been done to them, and what came of it.
pub(super) struct Done {
    kind: FilingKind,
    damage: anyhow::Result<Stale>,
}

impl Filing {
    /// Nothing is to be done yet.
    pub(super) fn new() -> Self {
        Self {
            stale: None,
            work: None,
            took: Duration::ZERO,
            // Where there is room again, the files are current soon.
            backoff: Backoff::new(Duration::from_millis(200), Duration::from_secs(5)),
            next_write: Instant::now(),
            failure: None,
        }
    }

    /// The files lack something that has changed just now.
    pub(super) fn mark_stale(&mut self) {
        let now = Instant::now();
        let first = self.stale.map_or(now, |(first, _)| first);
        self.stale = Some((first, now));
    }

    /// Waits for what is to be done next, forever where nothing is. Safe in `select!`.
    pub(super) async fn next(&mut self) -> FileTurn {
        if self.work.is_some() {
            return FileTurn::Conclude(self.done().await);
        }
        let Some((first, last)) = self.stale else {
            return std::future::pending().await;
        };
        sleep_until(due(first, last, self.took).max(self.next_write)).await;
        FileTurn::Write
    }

    /// Does it. Says whether the status record has something new to say.
    pub(super) fn turn(&mut self, turn: FileTurn, applier: &mut Applier, routing: &Routing) -> bool {
        match turn {
            FileTurn::Write => self.write(applier, routing),
            FileTurn::Conclude(done) => self.conclude(done, applier, routing),
        }
    }

    /// Whether the files hold what they should.
    pub(super) fn is_current(&self) -> bool {
        self.stale.is_none() && self.work.is_none() && self.failure.is_none()
    }

    /// Why the files could not be written the last time.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Begins to look whether another program has changed the files. Each write looks, too.
    pub(super) fn look(&mut self, applier: &Applier) {
        if self.work.is_none() {
            let files = applier.files().clone();
            self.work = Some(FilingWork {
                kind: FilingKind::Look,
                begun: Instant::now(),
                handle: blocking(move || Ok(files.damage())),
            });
        }
    }

    /// Begins to write. Says whether the status record has something new to say.
    fn write(&mut self, applier: &mut Applier, routing: &Routing) -> bool {
        let begun = Instant::now();
        self.stale = None;
        match applier.state(routing) {
            Ok(Some(state)) => {
                let files = applier.files().clone();
                self.work = Some(FilingWork {
                    kind: FilingKind::Write,
                    begun,
                    handle: tokio::spawn(async move { write(&files, state).await }),
                });
                false
            }
            Ok(None) => false,
            Err(error) => self.written(Err(error), applier),
        }
    }

    /// Waits for the end of what is being done, forever where nothing is.
    async fn done(&mut self) -> Done {
        let Some(work) = &mut self.work else {
            return std::future::pending().await;
        };
        let damage = (&mut work.handle).await.unwrap_or_else(|error| Err(error.into()));
        let kind = work.kind;
        if kind == FilingKind::Write {
            self.took = work.begun.elapsed();
        }
        self.work = None;
        Done { kind, damage }
    }

    /// Draws the conclusion. Says whether the status record has something new to say.
    fn conclude(&mut self, done: Done, applier: &mut Applier, routing: &Routing) -> bool {
        match (done.kind, done.damage) {
            (FilingKind::Look, Ok(damage)) if damage.is_empty() => false,
            (FilingKind::Look, Ok(damage)) => {
                applier.note_damage(damage);
                self.write(applier, routing)
            }
            (FilingKind::Look, Err(_)) => false,
            (FilingKind::Write, written) => self.written(written, applier),
        }
    }

    fn written(&mut self, written: anyhow::Result<Stale>, applier: &mut Applier) -> bool {
        let failure = match written {
            // What this write did not bring, the next one does, at the latest after the next look.
            Ok(damage) => {
                applier.note_damage(damage);
                self.backoff.reset();
                None
            }
            Err(error) => {
                let error = error.context("cannot write HAProxy's files");
                let text = format!("{error:#}");
                if self.failure.as_ref() != Some(&text) {
                    warn!("{}", retrying(&error));
                }
                applier.distrust_files();
                self.mark_stale();
                self.next_write = Instant::now() + self.backoff.next_delay();
                Some(text)
            }
        };
        let changed = failure != self.failure;
        self.failure = failure;
        changed
    }

    pub(super) async fn end(&mut self, applier: &mut Applier, routing: &Routing) {
        if self.work.is_some() {
            let done = self.done().await;
            self.conclude(done, applier, routing);
        }
        if self.stale.is_some() {
            self.write(applier, routing);
        }
        if self.work.is_some() {
            let done = self.done().await;
            self.conclude(done, applier, routing);
        }
    }
}

/// When the files are written that lack changes since `first`, and the last one since `last`.
fn due(first: Instant, last: Instant, took: Duration) -> Instant {
    let patience = took.saturating_mul(TIMES_THE_WRITE).clamp(QUIET, STALE);
    (first + patience).min(last + QUIET)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many milliseconds the files are written, for changes so long after the first one
    /// and a last write that took so long.
    fn check(changes: &[u64], took: u64, expected: u64) {
        let first = Instant::now();
        let millis = |millis| first + Duration::from_millis(millis);
        // A change that comes after the write is none for it.
        let due = changes.iter().fold(millis(200), |at, change| {
            if millis(*change) < at {
                due(first, millis(*change), Duration::from_millis(took))
            } else {
                at
            }
        });
        assert_eq!(
            (due - first).as_millis(),
            u128::from(expected),
            "{changes:?}, {took}"
        );
    }

    #[test]
    fn changes_that_never_rest_are_on_disk_soon_where_writing_is_fast() {
        let restless: Vec<u64> = (0..100).map(|number| number * 150).collect();
        check(&[0], 0, 200);
        check(&[0, 100], 60, 300);
        check(&[0, 300], 60, 200);
        check(&restless, 1, 200);
        check(&restless, 60, 600);
        check(&restless, 2_000, 5_000);
    }
}
