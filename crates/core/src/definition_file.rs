//! The text of a file of service definitions becomes [`Definition`]s: see [`mod@crate::file`] for
//! what holds for every file.
//!
//! The chain: an entry of the file, `decode` (one definition from one mapping; `denied` says of
//! what may not be had why), and here what concerns the whole file: a service may be defined in it
//! once.

use std::collections::BTreeMap;

mod decode;
mod denied;

use crate::file::{self, Faults, Place, RECORD_LIMIT, Subject, Taken};
use crate::names::ServiceName;
use crate::records;
use crate::records::definition::Definition;
use crate::yaml::{Mark, Node};

/// A definition of a file, without a source, and where the file says what must be unique over all
/// definitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundDefinition {
    /// The definition, with all defaults filled in.
    pub definition: Definition,
    /// The place of its name.
    pub name: Mark,
}

/// What a file of definitions says.
pub type ParsedDefinitions = file::Parsed<ServiceName, FoundDefinition>;

/// Reads the content of a file of definitions.
pub fn parse(content: &[u8]) -> ParsedDefinitions {
    // Where each name stands, also those of refused definitions: mending one of two faults must not
    // change which of two rivals is meant.
    let mut names = BTreeMap::new();
    file::parse(content, |node, place, faults| {
        take(node, place, &mut names, faults)
    })
}

fn take(
    node: &Node,
    place: Place<'_>,
    names: &mut BTreeMap<String, usize>,
    faults: &mut Faults,
) -> Taken<ServiceName, FoundDefinition> {
    let before = faults.count();
    let draft = decode::definition(node, place, faults);
    let Some((name, mark)) = draft.name.clone() else {
        return Taken::Nameless;
    };
    faults.claim(mark, place.field("name"), "service", name.as_str(), names);
    let definition = draft.finish();
    let bytes = definition.as_ref().map_or(0, |it| records::to_json(it).len());
    if bytes > RECORD_LIMIT {
        let message = format!(
            "the definition takes {bytes} bytes in etcd, more than the limit of {RECORD_LIMIT}: \
             let the service read large settings from a file"
        );
        faults.add(mark, place, message);
    }
    faults.belong_to(&Subject::Service(name.clone()), before);
    match definition {
        Some(definition) if faults.count() == before => Taken::Good(FoundDefinition {
            definition,
            name: mark,
        }),
        _ => Taken::Refused(name),
    }
}
