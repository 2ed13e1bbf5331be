//! Reports what in the directory to look at: a file as soon as its writer has closed or renamed it,
//! the whole directory after any doubt (lost events, an exchanged directory, a link swapped as
//! config maps do), and once in a while without one. Without events it scans more often, and it
//! returns to events as soon as they are available.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mayfly_daemon::input::Aside;
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::time::sleep_until;
use tracing::{debug, info, warn};

use crate::files_in::scan::{self, Content, FileIdentity, FoundFile, KnownFiles, Scan};

mod events;
mod git;
mod pending;

use events::Layout;
use pending::Pending;

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
/// How often to try again to read a file that could not be read: what was in the way may go without
/// an event.
const REREAD: Duration = Duration::from_secs(5);
/// Most bytes of several files that are read before what they say is registered.
const AT_ONCE: u64 = 1 << 20;
/// How long a file has to stay the same that was changed in the last minute and whose writer is not
/// known to have closed it: it may be half written. With less, a copy over a network that stalls
/// for a second would be taken for whole.
const SETTLE: Duration = Duration::from_secs(2);

/// What has to be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScanScope {
    Files(BTreeSet<String>),
    All,
}

#[derive(Debug)]
pub struct Observer {
    directory: PathBuf,
    /// The interval of polling, where the operator wants that.
    poll: Option<Duration>,
    /// When to try again to get events, where that has failed.
    retry: Option<Instant>,
    pending: Pending,
    watcher: Option<RecommendedWatcher>,
    /// The directory that is watched, by identity.
    watched: Option<FileIdentity>,
    targets: BTreeSet<PathBuf>,
    known_fresh: KnownFiles,
    /// What only looks like a file of the directory, as of the last look at everything.
    asides: Vec<Aside>,
    next_scan: Instant,
    next_check: Instant,
    missing: bool,
    /// Why a missing file means nothing at the moment, when somebody asked last.
    doubt: Option<String>,
    /// Whether it is nothing to speak of when the directory is not there. Not once it was.
    may_be_missing: bool,
}

impl Observer {
    /// An observer of a directory, which need not exist. `poll` is how often to look instead of
    /// waiting for events; with events it looks at everything as often as costs next to nothing.
    pub fn new(directory: &Path, poll: Option<Duration>) -> Self {
        let now = Instant::now();
        Self {
            // Events carry the path as it was given to the watch.
            directory: std::path::absolute(directory).unwrap_or_else(|_| directory.to_path_buf()),
            poll,
            retry: None,
            pending: Pending::default(),
            watcher: None,
            watched: None,
            targets: BTreeSet::new(),
            known_fresh: KnownFiles::default(),
            asides: Vec::new(),
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

    /// The same, where these directories are read elsewhere.
    pub fn beside(mut self, elsewhere: &[&Path]) -> Self {
        self.known_fresh.elsewhere = elsewhere.iter().map(|path| path.to_path_buf()).collect();
        self
    }

    /// What only looks like a file of the directory, for the status record.
    pub fn asides(&self) -> &[Aside] {
        &self.asides
    }

    /// Waits until something has to be looked at. Safe in `select!`: what it has not told yet, it
    /// tells next time.
    pub async fn next(&mut self) -> ScanScope {
        loop {
            let now = Instant::now();
            if now >= self.next_check {
                self.next_check = now + if self.missing { CHECK_MISSING } else { CHECK };
                if scan::identity(&self.directory) != self.watched {
                    return ScanScope::All;
                }
            }
            if now >= self.next_scan || self.pending.take_doubt() {
                return ScanScope::All;
            }
            let files = self.pending.take_settled(now);
            if !files.is_empty() {
                return ScanScope::Files(files);
            }
            let due = self
                .pending
                .next_settled()
                .into_iter()
                .chain([self.next_scan, self.next_check])
                .min();
            tokio::select! {
                () = self.pending.changed() => {}
                () = sleep_until(due.unwrap_or(self.next_check).into()) => {}
            }
        }
    }

    /// Looks through the whole directory, given what is known of it. Watches it again first where
    /// that is needed, so that nothing is missed in between.
    ///
    /// # Errors
    /// When the directory is not there or can't be read.
    pub async fn scan(&mut self, mut known: KnownFiles) -> io::Result<Scan> {
        if self.pending.take_exchanged() {
            // Another one of the same name may have got the same number.
            self.watched = None;
        }
        let identity = scan::identity(&self.directory);
        if identity != self.watched {
            self.pending.forget_writing();
        }
        if identity != self.watched || self.retry.is_some_and(|at| at <= Instant::now()) {
            self.watch_anew();
            self.watched = identity;
        }
        let polling = self.polling();
        let start = Instant::now();
        self.next_scan = start + polling.unwrap_or(OFTEN);
        known.writing = self.pending.writing();
        known.fresh = std::mem::take(&mut self.known_fresh.fresh);
        known.elsewhere.clone_from(&self.known_fresh.elsewhere);
        let directory = self.directory.clone();
        let outcome = mayfly_daemon::tasks::blocking(move || scan::all(&directory, &known, SETTLE)).await;
        match outcome.unwrap_or_else(|error| Err(io::Error::other(error))) {
            Ok(scan) => {
                if polling.is_none() {
                    // A look that reads files says nothing of how long one takes that finds them as
                    // they were.
                    let read = scan.files.values().any(Option::is_some);
                    self.next_scan = start + if read { OFTEN } else { pause(start.elapsed()) };
                }
                self.may_be_missing = false;
                if std::mem::take(&mut self.missing) {
                    info!("the directory {} can be read again", self.directory.display());
                }
                self.known_fresh.fresh.clone_from(&scan.fresh);
                if let Some(due) = scan.fresh.values().map(|(_, due)| *due).min() {
                    self.next_scan = self.next_scan.min(due);
                }
                self.asides.clone_from(&scan.asides);
                let names = scan.asides.iter().map(|aside| aside.name.trim_end_matches('/'));
                self.pending.set_asides(names.map(str::to_owned).collect());
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
                self.asides.clear();
                if self.may_be_missing && error.kind() == io::ErrorKind::NotFound {
                    debug!("there is no directory {} yet", self.directory.display());
                } else if !std::mem::replace(&mut self.missing, true) {
                    warn!(
                        "cannot read the directory {}: {error}; nothing is deleted from etcd until it \
                         can be read",
                        self.directory.display()
                    );
                }
                Err(error)
            }
        }
    }

    /// Reads some files, the smallest first, and leaves what is too much for once to the next time:
    /// many large ones take seconds to decode, and a small one is not to wait for them.
    pub async fn look(&mut self, names: BTreeSet<String>) -> Vec<(String, Option<scan::FoundFile>)> {
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
            let looked: Vec<(String, Option<FoundFile>)> = looked.collect();
            (looked, later)
        };
        let (mut looked, later) = mayfly_daemon::tasks::blocking(read).await.unwrap_or_default();
        // A file that a writer has opened meanwhile may have been read half: its close
        // is still to come.
        let writing = self.pending.writing();
        looked.retain(|(name, _)| !writing.contains(name));
        later.iter().for_each(|(_, name)| self.pending.touched(name));
        self.note_unreadable(looked.iter().filter_map(|(_, found)| found.as_ref()));
        looked
    }

    fn note_unreadable<'a>(&mut self, mut found: impl Iterator<Item = &'a FoundFile>) {
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

    /// Whether a file that is missing is meant to be: not when the directory is gone or another
    /// one, nor while git is at work in it, which is reported once. The first time after that it is
    /// not either: the files may have to be looked at again.
    pub fn is_believed(&mut self) -> bool {
        let directory = self.directory.display();
        let doubt = match git::lock(&self.directory) {
            Ok(None) => None,
            Ok(Some(lock)) => Some(format!(
                "{} exists: git is changing files, or git was killed. While the file exists, nothing \
                 from {directory} is deleted from etcd. If no git is running, delete index.lock and \
                 let git complete its work (git status, git checkout)",
                lock.display()
            )),
            Err(reason) => Some(format!(
                "cannot tell whether git is changing files: {reason}. Until that can be told, nothing \
                 from {directory} is deleted from etcd; the registrar retries by itself"
            )),
        };
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
        let outcome = self.watch();
        if outcome.is_err() {
            self.watcher = None;
            // Of those who write now, nobody sees who closes a file.
            self.pending.forget_writing();
        }
        match outcome {
            Ok(watcher) => {
                self.watcher = Some(watcher);
                if self.retry.take().is_some() {
                    info!("receiving events of {} again", self.directory.display());
                }
            }
            // The directory may have gone since; then the next check finds out.
            Err(mut error) if scan::identity(&self.directory).is_some() => {
                if self.retry.replace(Instant::now() + RETRY).is_none() {
                    // The message names the directory itself.
                    error.paths.clear();
                    let reason = error.to_string();
                    let reason = reason.trim_end_matches('.');
                    warn!(
                        "cannot get events of {} from the kernel: {reason}; scanning the directory \
                         every {FALLBACK:?} instead, and retrying every {RETRY:?}{}",
                        self.directory.display(),
                        advice(&error)
                    );
                }
            }
            Err(error) => {
                debug!("cannot watch {}: {error}", self.directory.display());
            }
        }
    }

    fn watch(&self) -> notify::Result<RecommendedWatcher> {
        let layout = Layout::of(&self.directory, &self.targets);
        let others = layout.others();
        let pending = self.pending.clone();
        let mut watcher = notify::recommended_watcher(move |event| layout.note(event, &pending))?;
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
        ". Raise the sysctls fs.inotify.max_user_instances and fs.inotify.max_user_watches"
    } else {
        ""
    }
}

#[cfg(test)]
mod tests;
