//! Notes on environments that extend one that no file has.

use std::collections::BTreeSet;

use super::Note;
use crate::environment_file::ParsedEnvironments;
use crate::nearest::nearest;

/// Notes on environments that extend one that no file has, where the name of another one is so
/// similar that it may be meant. An unknown one alone is no reason: it may come later, or by another
/// registrar.
pub(super) fn unknown_parents(all: &[&(String, ParsedEnvironments)], beside: usize) -> Vec<Note> {
    let entries = || all.iter().flat_map(|(_, parsed)| &parsed.entries);
    let names: BTreeSet<&str> = entries().map(|found| found.environment.name.as_str()).collect();
    let mut notes = Vec::new();
    for (file, parsed) in all.iter().skip(beside) {
        for environment in parsed.entries.iter().map(|found| &found.environment) {
            let Some(parent) = &environment.extends else {
                continue;
            };
            if names.contains(parent.as_str()) {
                continue;
            }
            let others = names
                .iter()
                .copied()
                .filter(|name| *name != environment.name.as_str());
            let others: Vec<&str> = others.collect();
            if let Some(meant) = nearest(parent.as_str(), &others) {
                notes.push(Note {
                    file: file.clone(),
                    message: format!(
                        "{} extends `{parent}`, which no file has: did you mean `{meant}`?",
                        environment.name
                    ),
                });
            }
        }
    }
    notes
}
