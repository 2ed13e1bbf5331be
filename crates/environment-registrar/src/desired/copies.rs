//! Which files are copies that follow etcd, and when a copy that a person has changed takes over
//! its environment.

use std::collections::BTreeMap;
use std::sync::Arc;

use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;

use crate::actual::Actual;
use crate::desired::files::Document;
use crate::environments::EnvironmentEntry;
use crate::files_in::origin::Origin;

/// Whether a file follows etcd rather than the other way round. One that a person changed and
/// changed back stays the person's: the record is registered from it.
pub fn follows(
    file: &str,
    document: &Document,
    actual: &Actual,
    accepted: &BTreeMap<EnvironmentName, Arc<Environment>>,
) -> bool {
    let Origin::Copy(name) = document.origin() else {
        return false;
    };
    let from_here = |environment: &Arc<Environment>| {
        environment
            .source
            .as_ref()
            .is_some_and(|source| source.file == file)
    };
    !(actual.ours(name).is_some_and(from_here) || accepted.get(name).is_some_and(from_here))
}

/// Whether an entry may be registered although another writer has registered its environment: a
/// person has changed the copy of that. Once another registrar has taken it over in the same way,
/// only a further change counts: else the two would take it from each other for ever.
pub fn takes_over(entry: &EnvironmentEntry, actual: &Actual) -> bool {
    let environment = &entry.record;
    entry.edits_copy
        && actual.other(&environment.name).is_some()
        && !actual
            .ceded(&environment.name)
            .is_some_and(|ceded| ceded.asks_for_the_same(environment))
}
