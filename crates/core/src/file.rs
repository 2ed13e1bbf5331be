//! What the files of environments and of service definitions have in common: the text of a file
//! becomes entries, one from each mapping at its top, and every fault a [`Fault`] with its place
//! and what would be right. Faults are all collected, and each harms only the entry that it is in:
//! of a list of five with one bad entry, four come through.
//!
//! The chain: bytes, text, [`crate::yaml`] tree, and for each entry whoever knows its kind
//! ([`crate::environment_file`], [`crate::definition_file`]) with `fields` and `decode`. Decoding
//! is by hand, because plain deserialisation stops at the first fault and reads `version: 1.10` as
//! a number.

use std::collections::BTreeSet;

pub(crate) mod decode;
mod entries;
mod fault;
pub(crate) mod fields;

pub use entries::{FOLDER, LINK, NO_FILE, is_hidden, is_like_yaml, is_yaml_file, shown, why_not_taken};
pub use fault::{Fault, Subject};
pub(crate) use fault::{Faults, Place};

use crate::yaml::{self, Limits, Mark, Node, Value};

/// Longest file that is read, in bytes (1 MiB). Who reads a file checks its length before its
/// content.
pub const SIZE_LIMIT: u64 = 1 << 20;
/// Longest record of one entry of a file, in bytes of JSON without its source and life. 50 services
/// take some 3,000; this is room for 1,000, and for as many arguments and variables of a
/// definition. etcd keeps an environment twice, with its history, and each change of it once more
/// until it is compacted.
pub(crate) const RECORD_LIMIT: usize = 100_000;

/// What a file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parsed<Name, Found> {
    /// The entries without a fault, in the order of the file.
    pub entries: Vec<Found>,
    /// What is wrong with the others, in the order of the file; after a few hundred the rest is
    /// only counted.
    pub faults: Vec<Fault>,
    refused: BTreeSet<Name>,
    nameless: bool,
}

impl<Name, Found> Default for Parsed<Name, Found> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            faults: Vec::new(),
            refused: BTreeSet::new(),
            nameless: false,
        }
    }
}

impl<Name: Ord, Found> Parsed<Name, Found> {
    /// Whether a refused part of the file is, or may be, about what has this name: then its last
    /// good version stays.
    pub fn may_hold(&self, name: &Name) -> bool {
        self.nameless || self.refused.contains(name)
    }

    /// A file that has not been read yet: it may hold anything.
    pub fn unread() -> Self {
        Self {
            nameless: true,
            ..Self::default()
        }
    }

    /// A file of which nothing can be read, for the given reason.
    pub fn unreadable(mark: Mark, message: impl Into<String>) -> Self {
        let fault = Fault {
            mark,
            field: String::new(),
            message: message.into(),
            subject: None,
        };
        Self {
            faults: vec![fault],
            nameless: true,
            ..Self::default()
        }
    }
}

/// What one entry of a file is.
pub(crate) enum Taken<Name, Found> {
    /// A good one.
    Good(Found),
    /// One with a fault.
    Refused(Name),
    /// One with a fault, whose name can't be read.
    Nameless,
}

/// Reads the content of a file; `take` is given each entry. A file without any value but with
/// comments holds no entries and has no fault. One without anything is what a writer leaves that
/// died before its first byte, or a disk after a power failure: it may hold anything.
pub(crate) fn parse<Name: Ord, Found>(
    content: &[u8],
    mut take: impl FnMut(&Node, Place<'_>, &mut Faults) -> Taken<Name, Found>,
) -> Parsed<Name, Found> {
    let text = match text(content) {
        Ok(text) => text,
        Err((mark, message)) => return Parsed::unreadable(mark, message),
    };
    // An editor that saves with a byte order mark writes it alone into an empty file.
    let is_blank = |letter: char| letter.is_whitespace() || letter == '\u{feff}';
    if text.chars().all(is_blank) {
        let message = "the file is empty, perhaps because it was not written completely: to end \
             what it described, delete the file";
        return Parsed::unreadable(Mark::START, message);
    }
    let stream = yaml::read(text, Limits::default());
    let (mut parsed, mut faults) = (Parsed::default(), Faults::default());
    let mut take = |node: &Node, place: Place<'_>| match take(node, place, &mut faults) {
        Taken::Good(found) => parsed.entries.push(found),
        Taken::Refused(name) => {
            parsed.refused.insert(name);
        }
        Taken::Nameless => parsed.nameless = true,
    };
    for document in &stream.documents {
        match &document.value {
            Value::Sequence(items) => {
                for (index, item) in items.iter().enumerate() {
                    take(item, Place::Root.index(index));
                }
            }
            _ => take(document, Place::Root),
        }
    }
    for error in stream.errors {
        parsed.nameless = true;
        faults.add(error.mark, Place::Root, error.message);
    }
    parsed.faults = faults.in_order();
    parsed
}

/// The content as a text; else where it is none, and why.
fn text(content: &[u8]) -> Result<&str, (Mark, String)> {
    if content.len() as u64 > SIZE_LIMIT {
        return Err((Mark::START, too_long(content.len() as u64)));
    }
    std::str::from_utf8(content).map_err(|error| {
        let valid = String::from_utf8_lossy(&content[..error.valid_up_to()]);
        let last_line = valid.rsplit('\n').next().unwrap_or_default();
        let mark = Mark {
            line: valid.matches('\n').count() + 1,
            column: last_line.chars().count() + 1,
        };
        (mark, "the file is not UTF-8: save it as UTF-8".to_owned())
    })
}

/// What to say of a file that is longer than [`SIZE_LIMIT`].
pub fn too_long(bytes: u64) -> String {
    format!("the file has {bytes} bytes, more than the limit of {SIZE_LIMIT}: split it")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_anything_may_hold_anything_and_one_with_a_comment_holds_nothing() {
        let parse = |text: &str| parse::<String, ()>(text.as_bytes(), |_, _, _| Taken::Nameless);
        for empty in ["", "\n", " \n\n", "\u{feff}", "\u{feff}\r\n"] {
            let parsed = parse(empty);
            assert!(parsed.may_hold(&"a".to_owned()), "{empty:?}");
            assert_eq!(parsed.faults.len(), 1, "{empty:?}");
        }
        for none in ["# none yet\n", "---\n"] {
            assert_eq!(parse(none), Parsed::default(), "{none:?}");
        }
    }
}
