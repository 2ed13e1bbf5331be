//! Which ends of environments were meant: a registrar or `mayfly delete` notes each such end with
//! its reason.
//!
//! Only a note that is newer than the last change of the environment counts. So a note of an
//! earlier environment of the same name says nothing, and nor do the notes of an older copy of
//! etcd's data, in which environments are missing that were registered later.

use std::collections::BTreeMap;

use crate::names::EnvironmentName;
use crate::records::ended::Why;

/// The notes of ends that were meant, and the revision of each.
#[derive(Debug, Default)]
pub struct MeantEnds(BTreeMap<EnvironmentName, i64>);

impl MeantEnds {
    /// Takes a note. That an environment was removed through etcd says nothing about the intention.
    pub fn put(&mut self, name: &EnvironmentName, why: Why, revision: i64) {
        match why {
            Why::Expired | Why::Idle | Why::Deleted | Why::File => {
                self.0.insert(name.clone(), revision);
            }
            Why::Removed => self.gone(name),
        }
    }

    /// Takes the end of a note.
    pub fn gone(&mut self, name: &EnvironmentName) {
        self.0.remove(name);
    }

    /// Whether the end of an environment was meant that was changed last at this revision.
    pub fn has(&self, name: &EnvironmentName, changed: i64) -> bool {
        self.0.get(name).is_some_and(|noted| *noted > changed)
    }
}
