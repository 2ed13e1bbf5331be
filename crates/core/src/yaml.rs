//! YAML text becomes a small tree in which every node knows its line and column and every scalar
//! keeps its text as written, so that `version: 1.10` stays `1.10`. Limits on length, depth and
//! number of nodes bound what any text can cost; a document that breaks one or does not parse is a
//! fault of that document alone.
//!
//! The tree is built in one pass over the events of saphyr-parser. Plain serde deserialisation was
//! not enough: it stops at the first fault, and the untagged forms that the schema needs would turn
//! `1.10` into a number.

mod mistakes;
mod reader;

use reader::{Budget, ReadFailure, Reader};

/// A place in a text; lines and columns count from 1, columns in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct Mark {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

impl Mark {
    /// The very beginning of a text.
    pub const START: Self = Self { line: 1, column: 1 };
}

/// One node of the tree and the place where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Where it begins.
    pub mark: Mark,
    /// What it is.
    pub value: Value,
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text; `plain` when it stands without quotes and is no block.
    Scalar {
        /// The text as written, without quotes and with escapes resolved.
        text: String,
        /// Whether it stands without quotes, so that it can mean "nothing".
        plain: bool,
    },
    /// A list.
    Sequence(Vec<Node>),
    /// Pairs of key and value in the order of the text, repeated keys included: who decodes them
    /// refuses the second.
    Mapping(Vec<(Node, Node)>),
    /// Something that is not taken, with the reason; its neighbours are not affected.
    Refused(String),
}

impl Node {
    /// Whether the node says nothing: an empty value, `~` or a plain `null`.
    pub fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain } => {
                *plain && matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }
}

/// What a text may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest text in bytes, and the most that aliases may add to it.
    pub bytes: usize,
    /// Deepest nesting of lists and mappings.
    pub depth: usize,
    /// Most nodes, those that aliases stand for included.
    pub nodes: usize,
}

impl Default for Limits {
    /// 1 MiB, 32 levels, 250,000 nodes.
    fn default() -> Self {
        Self {
            bytes: 1 << 20,
            depth: 32,
            nodes: 250_000,
        }
    }
}

/// Why a document, or the rest of the text, is not a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {}, column {}: {message}", mark.line, mark.column)]
pub struct YamlError {
    /// Where.
    pub mark: Mark,
    /// What is wrong there and what would be right.
    pub message: String,
}

/// What a text holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct YamlStream {
    /// The documents that could be read, without those that are empty.
    pub documents: Vec<Node>,
    /// What is wrong with the others.
    pub errors: Vec<YamlError>,
}

/// Reads a text of any number of documents. A document that does not parse is left out and
/// reported; reading goes on with the next line that begins with `---`, which no document can
/// contain.
pub fn read(text: &str, limits: Limits) -> YamlStream {
    let mut stream = YamlStream::default();
    if text.len() > limits.bytes {
        let message = format!("{} bytes, more than the limit of {}", text.len(), limits.bytes);
        stream.errors.push(YamlError {
            mark: Mark::START,
            message,
        });
        return stream;
    }
    let mut rest = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut budget = Budget::of(limits);
    let mut lines_before = 0;
    loop {
        let mut reader = Reader::new(rest, lines_before);
        let Err(failure) = reader.read_all(&mut budget, &mut stream.documents) else {
            return stream;
        };
        let (error, fatal) = match failure {
            ReadFailure::Document(error) => (error, false),
            ReadFailure::Text(error) => (error, true),
        };
        let line_in_rest = error.mark.line - lines_before;
        // A document that was cut short by `---` is reported there, and once more from there on.
        if stream.errors.last() != Some(&error) {
            stream.errors.push(error);
        }
        match next_document(rest, line_in_rest) {
            Some((bytes, lines)) if !fatal => {
                rest = &rest[bytes..];
                lines_before += lines;
            }
            _ => return stream,
        }
    }
}

/// The next line from `line` on (but not the first of all) that begins a document: its offset, and
/// the lines before it.
fn next_document(text: &str, line: usize) -> Option<(usize, usize)> {
    let mut offset = 0;
    for (index, content) in text.split_inclusive('\n').enumerate() {
        let begins = content
            .strip_prefix("---")
            .is_some_and(|after| after.trim_start() != after || after.is_empty());
        if begins && index > 0 && index + 1 >= line {
            return Some((offset, index));
        }
        offset += content.len();
    }
    None
}

#[cfg(test)]
mod tests;
