//! What a file says and etcd does not get, and why.

use std::time::SystemTime;

use mayfly_core::file::Fault;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;
use mayfly_core::yaml::Mark;
use mayfly_daemon::output::printable;

use crate::library::Entry;
use crate::mirror::{Mirror, with_life};

/// Longest place and reason that a record tells of a refused version, in characters: what is told of it then fits into a
/// status record whole.
const LONGEST: usize = 300;

/// An environment that is not registered as the files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The file.
    pub file: String,
    /// The environment.
    pub environment: EnvironmentName,
    /// The place in the file, if it is there.
    pub mark: Option<Mark>,
    /// What kind of reason it is.
    pub cause: Cause,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// Why an environment is not registered as the files say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// Its name, prefix or header belongs to another one.
    Rival,
    /// It has ended, and its file asks for the same as before.
    Ended,
    /// What its file says would be over already.
    Over,
    /// No file names it, and it stays all the same.
    Unnamed,
    /// All environments together would take more of etcd than they may.
    Quota,
}

impl Refusal {
    pub(super) fn new(file: &str, entry: &Entry, cause: Cause, reason: String) -> Self {
        Self {
            file: file.to_owned(),
            environment: entry.environment.name.clone(),
            mark: Some(entry.name),
            cause,
            reason,
        }
    }

    pub(super) fn of_unnamed(name: &EnvironmentName, file: &str, protected: bool) -> Self {
        let reason = if protected {
            format!(
                "no file names environment {name} any more, and it stays because it is protected: \
                 write its file again, or delete it with `mayfly delete {name} --force` or `watch --force`"
            )
        } else {
            format!(
                "no file names environment {name}, and it stays because `mayfly keep` brought it back: \
                 `mayfly delete {name}` deletes it"
            )
        };
        Self {
            file: file.to_owned(),
            environment: name.clone(),
            mark: None,
            cause: Cause::Unnamed,
            reason,
        }
    }
}

impl Refusal {
    /// What the record of the version that stays instead tells.
    pub(super) fn of_version(&self) -> String {
        told(&self.file, self.mark, &self.reason)
    }
}

/// What the record of an environment tells whose newest version has a fault.
pub(super) fn of_version(file: &str, fault: &Fault) -> String {
    let field = match fault.field.as_str() {
        "" => String::new(),
        field => format!("{field}: "),
    };
    told(file, Some(fault.mark), &format!("{field}{}", fault.message))
}

fn told(file: &str, mark: Option<Mark>, reason: &str) -> String {
    let place = mark.map(|mark| format!(":{}:{}", mark.line, mark.column));
    let mut text = printable(&format!("{file}{}: {reason}", place.unwrap_or_default()));
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push_str("...");
    }
    format!("the newest version of it was refused: {text}; this one stays")
}

/// Why an environment of a file is no candidate at all: it has ended, or would be over as soon as it is registered.
pub(super) fn barred(environment: &Environment, mirror: &Mirror, now: SystemTime) -> Option<(Cause, String)> {
    let name = &environment.name;
    if let Some(past) = mirror.ended(environment) {
        let end = past.end(now);
        let reason = format!(
            "environment {name} has ended: {end}; change the file to have it again, or `mayfly keep {name} 8h`"
        );
        return Some((Cause::Ended, reason));
    }
    environment.expires?;
    let ours = mirror.ours(name);
    if ours.is_some_and(|ours| ours.asks_for_the_same(environment)) {
        // It lives its last moments: that is for its lease to end.
        return None;
    }
    // A change does not begin a life anew.
    let life = ours.and_then(|_| mirror.life(name));
    let end = with_life(environment, life).ends_at()?;
    let over = end.time() <= now;
    over.then(|| {
        let reason = format!("environment {name} would have expired at {end}: let it expire later");
        (Cause::Over, reason)
    })
}
