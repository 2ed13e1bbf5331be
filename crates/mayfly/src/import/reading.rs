//! What the keys of a service are read with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::around::ImportCommand;
use super::faults::{ComposeFaults, Spot};
use super::project;
use super::variables::{Interpolation, Variables};

/// What a service is read with.
pub(super) struct ReadWith<'a> {
    /// The directories that relative paths are seen from, by the position of the file.
    pub(super) bases: &'a BTreeMap<usize, PathBuf>,
    pub(super) read: &'a project::ReadText<'a>,
    pub(super) command: ImportCommand,
    /// The directory that the directories of the files are seen from, as an absolute path.
    pub(super) root: &'a Path,
    /// Paths of the host that no launched container may have.
    pub(super) closed: &'a [PathBuf],
    pub(super) variables: &'a Variables,
    pub(super) interpolation: &'a mut Interpolation,
    pub(super) faults: &'a mut ComposeFaults,
}

impl ReadWith<'_> {
    /// The directory that relative paths are seen from at a place.
    pub(super) fn base(&self, spot: Spot) -> PathBuf {
        self.bases.get(&spot.file).cloned().unwrap_or_default()
    }
}
