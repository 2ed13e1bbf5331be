//! Environments that a file describes and etcd does not get, and why.

use std::cmp::Ordering;
use std::time::SystemTime;

use mayfly_core::file::Fault;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::Environment;
use mayfly_core::shorten::shortened;
use mayfly_core::yaml::Mark;
use mayfly_daemon::output::printable;

use crate::actual::Actual;
use crate::environments::EnvironmentEntry;
use crate::environments::with_life;

/// Longest place and reason of a refused version that a record holds, in characters, so that it
/// fits into a status record whole.
const LONGEST: usize = 300;

/// An environment that is not registered as the files say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub file: String,
    pub environment: EnvironmentName,
    /// The place in the file, if it is there.
    pub mark: Option<Mark>,
    /// What kind of reason it is.
    pub cause: RefusalCause,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// Why an environment is not registered as the files say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalCause {
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
    pub(super) fn new(file: &str, entry: &EnvironmentEntry, cause: RefusalCause, reason: String) -> Self {
        Self {
            file: file.to_owned(),
            environment: entry.record.name.clone(),
            mark: Some(entry.marks.name),
            cause,
            reason,
        }
    }

    pub(super) fn of_unnamed(name: &EnvironmentName, file: &str, protected: bool) -> Self {
        let reason = if protected {
            format!(
                "no file names environment {name}, but the environment stays because it is \
                 protected; restore its file, or delete the environment with `mayfly delete {name} \
                 --force` or `watch --force`"
            )
        } else {
            format!(
                "no file names environment {name}, but the environment stays because `mayfly keep` \
                 brought it back; to delete it, run `mayfly delete {name}`"
            )
        };
        Self {
            file: file.to_owned(),
            environment: name.clone(),
            mark: None,
            cause: RefusalCause::Unnamed,
            reason,
        }
    }
}

impl Refusal {
    /// The order in which refusals are reported: that of the files.
    pub(super) fn by_place(&self, other: &Self) -> Ordering {
        (&self.file, self.mark, &self.environment).cmp(&(&other.file, other.mark, &other.environment))
    }

    /// What the record of the version that stays instead tells.
    pub(super) fn of_version(&self) -> String {
        line(&self.file, self.mark, &self.reason)
    }
}

/// What the record of an environment tells whose newest version has a fault.
pub(super) fn of_version(file: &str, fault: &Fault) -> String {
    let field = match fault.field.as_str() {
        "" => String::new(),
        field => format!("{field}: "),
    };
    line(file, Some(fault.mark), &format!("{field}{}", fault.message))
}

fn line(file: &str, mark: Option<Mark>, reason: &str) -> String {
    let place = mark.map(|mark| format!(":{}:{}", mark.line, mark.column));
    let text = printable(&format!("{file}{}: {reason}", place.unwrap_or_default()));
    let text = shortened(&text, LONGEST);
    format!(
        "the newest content of this environment was refused: {text}; the content in etcd stays in \
         force"
    )
}

/// Why an environment of a file is no candidate at all: it has ended, or would be over as soon as
/// it is registered.
pub(super) fn barred(
    environment: &Environment,
    actual: &Actual,
    now: SystemTime,
) -> Option<(RefusalCause, String)> {
    let name = &environment.name;
    if let Some(past) = actual.ended(environment) {
        let end = past.end(now);
        let reason = format!(
            "environment {name} has ended: {end}; to bring it back, change the file or run \
             `mayfly keep {name} 8h`"
        );
        return Some((RefusalCause::Ended, reason));
    }
    environment.expires?;
    let ours = actual.ours(name);
    if ours.is_some_and(|ours| ours.asks_for_the_same(environment)) {
        // It lives its last moments: that is for its lease to end.
        return None;
    }
    // A change does not begin a new life.
    let life = ours.and_then(|_| actual.life(name));
    let end = with_life(environment, life).ends_at()?;
    let over = end.time() <= now;
    over.then(|| {
        let reason = format!("environment {name} would have expired at {end}; give it a later `expires`");
        (RefusalCause::Over, reason)
    })
}
