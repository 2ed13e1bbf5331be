//! Says what in the directory has to be looked at: a file as soon as its writer has closed or renamed it, the whole
//! directory after any doubt (events lost, the directory exchanged, a link swapped as config maps do) and once in a
//! while without one. Where events can't be had it looks more often, and goes back to events as soon as they can.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use crate::scan::{self, Content, Found, Identity, Known, Scan};

mod board;
mod events;
mod git;

use board::Board;
use events::Layout;

/// How often to check that the directory is still the one that is watched.
const CHECK: Duration = Duration::from_secs(1);
/// The same while it is missed.
const CHECK_MISSING: Duration = Duration::from_millis(250);
/// How often to look where events should work and do not.
const FALLBACK: Duration = Duration::from_secs(1);
/// How often to try again to get events there.
const RETRY: Duration = Duration::from_secs(5);
/// How often to look at everything with events, where the operator does not say.
const OFTEN: Duration = Duration::from_secs(30);
/// The same where a look takes long.
const SELDOM: Duration = Duration::from_secs(600);
/// Looks without a reason take no more than this part of the time, as far as the other two allow.
const SHARE: u32 = 5_000;
/// How often to try again to read a file that could not be read: what was in the way may go without an event.
const REREAD: Duration = Duration::from_secs(5);
/// Most bytes of several files that are read before what they say is registered.
const AT_ONCE: u64 = 1 << 20;
/// A file that changed less than this ago may be half written, unless its writer is known to have closed it.
const QUIET: Duration = Duration::from_millis(200);

/// What has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// These files.
    Files(BTreeSet<String>),
    /// The whole directory.
    All,
}

/// Watches a directory.
#[derive(Debug)]
pub struct Observer {
    directory: PathBuf,
    /// The interval of polling, where the operator wants that.
    poll: Option<Duration>,
    /// When to try again to get events, where that has failed.
    retry: Option<Instant>,
    /// How often to look at everything with events, where the operator says.
    rescan: Option<Duration>,
    board: Board,
    watcher: Option<RecommendedWatcher>,
    /// The directory that is watched, by identity.
    watched: Option<Identity>,
    targets: BTreeSet<PathBuf>,
    known_fresh: Known,
    next_scan: Instant,
    next_check: Instant,
    missing: bool,
    /// Why a missing file means nothing at the moment, when somebody asked last.
    doubt: Option<String>,
    /// Whether it is nothing to speak of when the directory is not there. Not once it was.
    may_be_missing: bool,
}

impl Observer {
    /// An observer of a directory, which need not exist. `poll` is how often to look instead of waiting for events,
    /// `rescan` how often to look at everything with events, by default as often as costs next to nothing.
    pub fn new(directory: &Path, poll: Option<Duration>, rescan: Option<Duration>) -> Self {
        let now = Instant::now();
        Self {
            // Events carry the path as it was given to the watch.
            directory: std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf()),
            poll,
            retry: None,
            rescan,
            board: Board::default(),
            watcher: None,
            watched: None,
            targets: BTreeSet::new(),
            known_fresh: Known::default(),
            next_scan: now,
            next_check: now,
            missing: false,
            doubt: None,
            may_be_missing: false,
        }
    }

    /// The same of a directory that is not missed before it was there once.
    pub fn that_may_be_missing(self) -> Self {
        Self {
            may_be_missing: true,
            ..self
        }
    }

    /// Waits until something has to be looked at. Safe in `select!`: what it has not told yet, it tells next time.
    pub async fn next(&mut self) -> Look {
        loop {
            let now = Instant::now();
            if now >= self.next_check {
                self.next_check = now + if self.missing { CHECK_MISSING } else { CHECK };
                if scan::identity(&self.directory) != self.watched {
                    return Look::All;
                }
            }
            if now >= self.next_scan || self.board.take_doubt() {
                return Look::All;
            }
            let files = self.board.take_settled(now);
            if !files.is_empty() {
                return Look::Files(files);
            }
            let due = self
                .board
                .next_settled()
                .into_iter()
                .chain([self.next_scan, self.next_check])
                .min();
            tokio::select! {
                () = self.board.told() => {}
                () = sleep_until(due.unwrap_or(self.next_check).into()) => {}
            }
        }
    }

    /// Looks through the whole directory, given what is known of it. Watches it anew first where that is needed, so
    /// that nothing is missed in between.
    ///
    /// # Errors
    /// When the directory is not there or can't be read.
    pub async fn scan(&mut self, mut known: Known) -> io::Result<Scan> {
        if self.board.take_exchanged() {
            // Another one of the same name may have got the same number.
            self.watched = None;
        }
        let identity = scan::identity(&self.directory);
        if identity != self.watched || self.retry.is_some_and(|at| at <= Instant::now()) {
            self.watch_anew();
            self.watched = identity;
        }
        let polling = self.polling();
        let start = Instant::now();
        self.next_scan = start + polling.or(self.rescan).unwrap_or(OFTEN);
        known.writing = self.board.writing();
        known.fresh = std::mem::take(&mut self.known_fresh.fresh);
        let (directory, quiet) = (self.directory.clone(), polling.unwrap_or(QUIET));
        let outcome = tokio::task::spawn_blocking(move || scan::all(&directory, &known, quiet)).await;
        match outcome.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(scan) => {
                if polling.or(self.rescan).is_none() {
                    // A look that reads files says nothing of how long one takes that finds them as they were.
                    let read = scan.files.values().any(Option::is_some);
                    self.next_scan = start + if read { OFTEN } else { pause(start.elapsed()) };
                }
                self.may_be_missing = false;
                if std::mem::take(&mut self.missing) {
                    info!("{} is there again", self.directory.display());
                }
                self.known_fresh.fresh.clone_from(&scan.fresh);
                if !scan.fresh.is_empty() {
                    self.next_scan = self.next_scan.min(Instant::now() + quiet);
                }
                self.note_unreadable(scan.files.values().flatten());
                if polling.is_none() && self.targets != scan.targets {
                    // What changed there before the watch began shows in one more look.
                    self.targets.clone_from(&scan.targets);
                    self.watch_anew();
                    self.next_scan = Instant::now();
                }
                Ok(scan)
            }
            Err(error) => {
                (self.watched, self.watcher) = (None, None);
                if self.may_be_missing && error.kind() == io::ErrorKind::NotFound {
                    debug!("there is no directory {} yet", self.directory.display());
                } else if !std::mem::replace(&mut self.missing, true) {
                    warn!(
                        "cannot read the directory {}: {error}; waiting for it, and deleting nothing",
                        self.directory.display()
                    );
                }
                Err(error)
            }
        }
    }

    /// Reads some files, the smallest first, and leaves what is too much for once to the next time: many large ones take
    /// seconds to decode, and a small one is not to wait for them.
    pub async fn look(&mut self, names: BTreeSet<String>) -> Vec<(String, Option<scan::Found>)> {
        let directory = self.directory.clone();
        let read = move || {
            let size = |name: &String| std::fs::metadata(directory.join(name)).map_or(0, |it| it.len());
            let mut names: Vec<_> = names.into_iter().map(|name| (size(&name), name)).collect();
            names.sort_unstable();
            let mut total = 0;
            let later = names.iter().position(|(size, _)| {
                total += size;
                total > AT_ONCE
            });
            // At least one.
            let later = names.split_off(later.map_or(names.len(), |later| later.max(1)));
            let looked = names.into_iter().map(|(_, name)| {
                let found = scan::look(&directory, &name);
                (name, found)
            });
            let looked: Vec<(String, Option<Found>)> = looked.collect();
            (looked, later)
        };
        let (looked, later) = tokio::task::spawn_blocking(read).await.unwrap_or_default();
        later.iter().for_each(|(_, name)| self.board.touched(name));
        self.note_unreadable(looked.iter().filter_map(|(_, found)| found.as_ref()));
        looked
    }

    fn note_unreadable<'a>(&mut self, mut found: impl Iterator<Item = &'a Found>) {
        if found.any(|found| matches!(found.content, Content::Unreadable(_))) {
            self.next_scan = self.next_scan.min(Instant::now() + REREAD);
        }
    }

    /// How often to look instead of waiting for events; `None` with events.
    fn polling(&self) -> Option<Duration> {
        self.poll.or(self.retry.map(|_| FALLBACK))
    }

    /// Whether the directory is there and is the one that has been looked through.
    pub fn is_there(&self) -> bool {
        self.watched.is_some() && scan::identity(&self.directory) == self.watched
    }

    /// Whether a file that is missing is meant to be: not when the directory is gone or another one, nor while git is at work
    /// in it, which is told once. The first time after that it is not either: the files may have to be looked at again.
    pub fn is_believed(&mut self) -> bool {
        let doubt = git::lock(&self.directory).map(|lock| {
            format!(
                "git is changing files of {} or was killed while it did: nothing of it is deleted while there is {}; if no \
                 git runs there any more, delete that file and let git complete its work (git status, git checkout)",
                self.directory.display(),
                lock.display()
            )
        });
        if let Some(doubt) = doubt.as_ref().filter(|_| self.doubt.is_none()) {
            warn!("{doubt}");
        }
        let doubted = std::mem::replace(&mut self.doubt, doubt).is_some();
        !doubted && self.doubt.is_none() && self.is_there()
    }

    /// Why a missing file means nothing at the moment, as of the last [`Self::is_believed`].
    pub fn doubt(&self) -> Option<&str> {
        self.doubt.as_deref()
    }

    fn watch_anew(&mut self) {
        if self.poll.is_some() {
            return;
        }
        match self.watch() {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                if self.retry.take().is_some() {
                    info!("events of {} come again", self.directory.display());
                }
            }
            // The directory may have gone since; then the next check finds out.
            Err(error) if scan::identity(&self.directory).is_some() => {
                self.watcher = None;
                if self.retry.replace(Instant::now() + RETRY).is_none() {
                    warn!(
                        "cannot get events of {}: {error}; looking every {FALLBACK:?} instead, and trying again every \
                         {RETRY:?}{}",
                        self.directory.display(),
                        advice(&error)
                    );
                }
            }
            Err(error) => {
                debug!("cannot watch {}: {error}", self.directory.display());
                self.watcher = None;
            }
        }
    }

    fn watch(&self) -> notify::Result<RecommendedWatcher> {
        let layout = Layout::of(&self.directory, &self.targets);
        let others = layout.others();
        let board = self.board.clone();
        let mut watcher = notify::recommended_watcher(move |event| layout.note(event, &board))?;
        for other in &others {
            // Only a shorter way to what the regular check and look find too.
            if let Err(error) = watcher.watch(other, RecursiveMode::NonRecursive) {
                debug!("cannot watch {}: {error}", other.display());
            }
        }
        watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
        Ok(watcher)
    }
}

/// How long after a look that took so long the next one comes without a reason.
fn pause(took: Duration) -> Duration {
    took.saturating_mul(SHARE).clamp(OFTEN, SELDOM)
}

/// What an operator can do where the kernel has no events left to give.
fn advice(error: &notify::Error) -> &'static str {
    /// The limits of inotify have been reached.
    const LIMITS: [i32; 2] = [EMFILE, ENOSPC];
    const EMFILE: i32 = 24;
    const ENOSPC: i32 = 28;
    let reached = match &error.kind {
        notify::ErrorKind::MaxFilesWatch => true,
        notify::ErrorKind::Io(error) => error.raw_os_error().is_some_and(|code| LIMITS.contains(&code)),
        _ => false,
    };
    if reached {
        " (raise sysctl fs.inotify.max_user_instances and fs.inotify.max_user_watches)"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests;
