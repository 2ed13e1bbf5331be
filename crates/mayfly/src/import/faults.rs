//! What is wrong in a compose file, with its place.

use mayfly_core::printable::printable;
use mayfly_core::yaml::Mark;

/// Most faults that are kept: a file with more is no compose file.
const LIMIT: usize = 100;
/// Longest message, in characters: a hostile value can be long.
const MESSAGE_LIMIT: usize = 400;

/// A place in one of the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot {
    /// Its position in the list of files.
    pub(super) file: usize,
    pub(super) mark: Mark,
}

/// Something to say about a place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SpotMessage {
    pub(super) spot: Spot,
    /// The path of keys to it.
    pub(super) field: String,
    pub(super) message: String,
}

impl SpotMessage {
    pub(super) fn new(spot: Spot, field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            spot,
            field: cut(&field.into(), 200),
            message: cut(&message.into(), MESSAGE_LIMIT),
        }
    }

    /// As editors expect it: `file:line:column: field: message`.
    pub(super) fn line(&self, files: &[String]) -> String {
        let file = files.get(self.spot.file).map_or("?", String::as_str);
        let Mark { line, column } = self.spot.mark;
        let field = if self.field.is_empty() {
            String::new()
        } else {
            format!("{}: ", self.field)
        };
        printable(&format!("{file}:{line}:{column}: {field}{}", self.message))
    }
}

fn cut(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// The faults found so far.
#[derive(Debug, Default)]
pub(super) struct ComposeFaults {
    kept: Vec<SpotMessage>,
    dropped: usize,
}

impl ComposeFaults {
    pub(super) fn add(&mut self, spot: Spot, field: impl Into<String>, message: impl Into<String>) {
        if self.kept.len() < LIMIT {
            self.kept.push(SpotMessage::new(spot, field, message));
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn count(&self) -> usize {
        self.kept.len() + self.dropped
    }

    /// The faults by place, a line for each.
    pub(super) fn lines(mut self, files: &[String]) -> Vec<String> {
        self.kept.sort();
        // A service that several others extend is read with each of them.
        self.kept.dedup();
        let mut lines: Vec<String> = self.kept.iter().map(|fault| fault.line(files)).collect();
        if self.dropped > 0 {
            lines.push(format!("{} more faults", self.dropped));
        }
        lines
    }
}
