//! What an event of the file system means for the files of a directory.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mayfly_core::file::{is_hidden, is_like_yaml, is_yaml_file, shown};
use notify::event::{AccessKind, AccessMode, ModifyKind};
use notify::{Event, EventKind};
use tracing::debug;

use super::pending::Pending;
/// Most other directories that are watched because links lead there; beyond, the regular look has
/// to do.
const TARGETS: usize = 64;

/// The directories that are watched.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    /// The directory of the files, as an absolute path.
    directory: PathBuf,
    /// The directories in which the directory itself, or a link on the way to it, can be exchanged.
    anchors: BTreeSet<PathBuf>,
    /// The other directories into which links of the directory lead.
    targets: BTreeSet<PathBuf>,
}

/// What has happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Happened {
    Created,
    Written,
    Closed,
    Touched,
    Moved,
    Removed,
}

impl Layout {
    pub(super) fn of(directory: &Path, targets: &BTreeSet<PathBuf>) -> Self {
        let mut anchors: BTreeSet<PathBuf> = directory.parent().map(Path::to_path_buf).into_iter().collect();
        for part in directory.ancestors().filter(|part| part.is_symlink()) {
            anchors.extend(part.parent().map(Path::to_path_buf));
        }
        // One directory can be watched under one path only: events of both kinds then come with the
        // path of the anchor.
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        let own = real(directory);
        anchors.retain(|anchor| real(anchor) != own);
        let as_watched = |target: &PathBuf| {
            anchors
                .iter()
                .find(|anchor| real(anchor) == *target)
                .unwrap_or(target)
                .clone()
        };
        let targets = targets
            .iter()
            .filter(|target| **target != own)
            .map(as_watched)
            .collect();
        Self {
            directory: directory.to_path_buf(),
            anchors,
            targets,
        }
    }

    /// The other directories to watch besides the directory itself.
    pub(super) fn others(&self) -> BTreeSet<PathBuf> {
        self.anchors
            .iter()
            .chain(self.targets.iter().take(TARGETS))
            .cloned()
            .collect()
    }

    /// Notes on the pending what an event means.
    pub(super) fn note(&self, event: notify::Result<Event>, pending: &Pending) {
        let event = match event {
            Ok(event) if event.need_rescan() => return pending.lost(),
            Ok(event) => event,
            Err(error) => {
                debug!("events of {} may be lost: {error}", self.directory.display());
                return pending.lost();
            }
        };
        let happened = match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Happened::Closed,
            // Among them are those that reading the files makes.
            EventKind::Access(_) => return,
            EventKind::Create(_) => Happened::Created,
            EventKind::Modify(ModifyKind::Data(_)) => Happened::Written,
            EventKind::Modify(ModifyKind::Metadata(_)) => Happened::Touched,
            EventKind::Modify(ModifyKind::Name(_)) => Happened::Moved,
            EventKind::Remove(_) => Happened::Removed,
            EventKind::Modify(_) | EventKind::Any | EventKind::Other => return pending.doubt(),
        };
        for path in &event.paths {
            self.note_path(path, happened, pending);
        }
    }

    fn note_path(&self, path: &Path, happened: Happened, pending: &Pending) {
        if self.directory.starts_with(path) {
            // The directory itself, or a part of the way to it.
            return match happened {
                Happened::Created | Happened::Moved | Happened::Removed => pending.exchanged(),
                Happened::Written | Happened::Closed | Happened::Touched => pending.doubt(),
            };
        }
        let Some(parent) = path.parent() else { return };
        if parent != self.directory {
            if self.targets.contains(parent) && happened != Happened::Written {
                pending.doubt();
            }
            return;
        }
        let Some(name) = path.file_name() else { return };
        let may_have_gone = matches!(happened, Happened::Moved | Happened::Removed);
        if may_have_gone && pending.is_aside(&shown(name.as_bytes())) {
            // It is no longer to be reported. What it was, nobody can see any more.
            pending.doubt();
        }
        let Some(name) = name.to_str().filter(|name| is_yaml_file(name)) else {
            let name = name.to_string_lossy();
            // Config maps swap the link `..data`; any other entry can be what a link leads to.
            let linked = name.starts_with("..") || !self.targets.is_empty();
            // What looks like a file of the directory, or is a directory, is to be reported.
            let is_told = !is_hidden(&name) && (is_like_yaml(&name) || path.is_dir());
            let came_or_went = !matches!(happened, Happened::Written | Happened::Touched);
            if (linked || is_told) && came_or_went {
                pending.doubt();
            }
            return;
        };
        match happened {
            Happened::Closed | Happened::Moved | Happened::Removed => pending.settled(name),
            Happened::Touched => pending.touched(name),
            Happened::Written => pending.written(name, Instant::now()),
            // A link is whole as soon as it is there; a new file is whole when its writer closes
            // it.
            Happened::Created if is_link(path) => pending.settled(name),
            // One that has the name of a file is to be reported.
            Happened::Created if path.is_dir() => pending.doubt(),
            Happened::Created => pending.created(name, Instant::now()),
        }
    }
}

/// Whether an entry is a symbolic link, or a further name of a file that was there before.
fn is_link(path: &Path) -> bool {
    path.symlink_metadata()
        .is_ok_and(|metadata| metadata.is_symlink() || metadata.nlink() > 1)
}

#[cfg(test)]
mod tests {
    use notify::event::{RemoveKind, RenameMode};

    use super::*;

    #[test]
    fn what_was_reported_and_goes_is_looked_for() {
        let directory = Path::new("/nowhere/envs");
        let (layout, pending) = (Layout::of(directory, &BTreeSet::new()), Pending::default());
        pending.set_asides(["team", "x.yaml"].map(str::to_owned).into());
        for (name, kind, expected) in [
            ("team", EventKind::Remove(RemoveKind::Folder), true),
            (
                "team",
                EventKind::Modify(ModifyKind::Name(RenameMode::From)),
                true,
            ),
            ("x.yaml", EventKind::Remove(RemoveKind::Folder), true),
            ("other", EventKind::Remove(RemoveKind::Folder), false),
            ("y.yaml", EventKind::Remove(RemoveKind::File), false),
        ] {
            layout.note(Ok(Event::new(kind).add_path(directory.join(name))), &pending);
            assert_eq!(pending.take_doubt(), expected, "{name}: {kind:?}");
        }
    }
}
