//! Faults of a file, what each is about, and the path of fields that leads to it.

use std::collections::BTreeMap;
use std::fmt;

use crate::names::{EnvironmentName, ServiceName};
use crate::yaml::Mark;

/// Most faults of one file that are kept; a file with more is none of ours.
const LIMIT: usize = 200;

/// What is wrong at one place of a file, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Fault {
    /// The place.
    #[serde(flatten)]
    pub mark: Mark,
    /// The path of fields to it, as `services[1].version`; empty for a fault of the file or a whole
    /// entry.
    pub field: String,
    /// What is wrong and what would be right.
    pub message: String,
    /// What it is about, if its name could be read.
    #[serde(flatten)]
    pub subject: Option<Subject>,
}

/// What an entry of a file is about.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Subject {
    /// An environment.
    Environment(EnvironmentName),
    /// The definition of a service.
    Service(ServiceName),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => name.fmt(f),
            Self::Service(name) => name.fmt(f),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.mark.line, self.mark.column)?;
        if !self.field.is_empty() {
            write!(f, ", {}", self.field)?;
        }
        write!(f, ": {}", self.message)
    }
}

/// Where in the tree a node stands; becomes text only when there is a fault.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Place<'a> {
    /// The document itself.
    Root,
    /// An entry of a list.
    Index(&'a Place<'a>, usize),
    /// A field of a mapping.
    Field(&'a Place<'a>, &'a str),
}

impl<'a> Place<'a> {
    pub(crate) fn index(&'a self, index: usize) -> Place<'a> {
        Place::Index(self, index)
    }

    pub(crate) fn field(&'a self, name: &'a str) -> Place<'a> {
        Place::Field(self, name)
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Index(parent, index) => write!(f, "{parent}[{index}]"),
            Place::Field(Place::Root, name) => f.write_str(name),
            Place::Field(parent, name) => write!(f, "{parent}.{name}"),
        }
    }
}

/// The faults found so far.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    kept: Vec<Fault>,
    dropped: usize,
}

impl Faults {
    pub(crate) fn add(&mut self, mark: Mark, place: Place<'_>, message: impl Into<String>) {
        if self.kept.len() >= LIMIT {
            self.dropped += 1;
            return;
        }
        let field = place.to_string();
        self.kept.push(Fault {
            mark,
            field,
            message: message.into(),
            subject: None,
        });
    }

    /// All faults so far, those that are only counted included.
    pub(crate) fn count(&self) -> usize {
        self.kept.len() + self.dropped
    }

    /// Notes that this text, which must be unique, stands here; false, and a fault, if it stood
    /// before.
    pub(crate) fn claim(
        &mut self,
        mark: Mark,
        place: Place<'_>,
        kind: &str,
        text: &str,
        lines: &mut BTreeMap<String, usize>,
    ) -> bool {
        match lines.get(text) {
            Some(line) => {
                self.add(
                    mark,
                    place,
                    format!(
                        "{kind} {text:?} is already used in line {line}: each can be used only \
                         once"
                    ),
                );
                false
            }
            None => {
                lines.insert(text.to_owned(), mark.line);
                true
            }
        }
    }

    /// Says of every fault since `before` what it is about.
    pub(crate) fn belong_to(&mut self, subject: &Subject, before: usize) {
        for fault in self.kept.iter_mut().skip(before) {
            fault.subject = Some(subject.clone());
        }
    }

    /// The faults by their place, with a last one for those that were only counted.
    pub(crate) fn in_order(mut self) -> Vec<Fault> {
        self.kept.sort_by_key(|fault| fault.mark);
        if self.dropped > 0 {
            let mark = self.kept.last().map_or(Mark::START, |fault| fault.mark);
            let message = format!("{} more faults are not listed: fix these first", self.dropped);
            self.kept.push(Fault {
                mark,
                field: String::new(),
                message,
                subject: None,
            });
        }
        self.kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_say_where_and_what() {
        let (list, services) = (Place::Root.index(2), "services");
        let services = list.field(services);
        let service = services.index(1);
        let mut faults = Faults::default();
        faults.add(Mark { line: 4, column: 12 }, service.field("version"), "wrong");
        faults.add(Mark { line: 1, column: 1 }, Place::Root, "not YAML");
        faults.add(Mark { line: 2, column: 1 }, Place::Root.field("name"), "missing");
        let shown: Vec<_> = faults.in_order().iter().map(ToString::to_string).collect();
        let expected = [
            "line 1, column 1: not YAML",
            "line 2, column 1, name: missing",
            "line 4, column 12, [2].services[1].version: wrong",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_flood_of_faults_is_counted() {
        let mut faults = Faults::default();
        for line in 1..=1000 {
            faults.add(Mark { line, column: 1 }, Place::Root, "wrong");
        }
        assert_eq!(faults.count(), 1000);
        let faults = faults.in_order();
        assert_eq!(faults.len(), LIMIT + 1);
        assert_eq!(
            faults[LIMIT].to_string(),
            "line 200, column 1: 800 more faults are not listed: fix these first"
        );
    }
}
