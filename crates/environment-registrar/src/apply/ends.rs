//! Records in etcd how environments ended, so that routers can say so to requests that still come:
//! ends by a lease, by us, and by an operator's delete in etcd. `mayfly delete` records its own.
//! Every registrar records what it sees, whoever registered the environment; the others leave it
//! alone.
//!
//! The record decides nothing: if etcd refuses it, everything else goes on.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::SystemTime;

use mayfly_core::keys::Key;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::ended::{ENDS_LAST, ENDS_LIMIT, Ended, Why};
use mayfly_core::records::lifetime::Moment;
use mayfly_daemon::environments::note_end;
use mayfly_daemon::store::{Store, StoreError};
use tracing::{debug, warn};

use crate::actual::Actual;
use crate::apply::{Applied, at_once};
use crate::changes::Changes;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndNote {
    pub name: EnvironmentName,
    pub ended: Ended,
    /// The revision at which it was registered last: a note from after that knows better. 0 where
    /// none can.
    pub registered: i64,
}

impl Actual {
    /// How an environment that is gone ended, as far as its history tells.
    pub fn end(&self, name: &EnvironmentName, now: SystemTime) -> Option<EndNote> {
        let past = self.past(name)?;
        Some(EndNote {
            name: name.clone(),
            ended: Ended::seen(&past.environment()?, now),
            registered: past.mod_revision,
        })
    }
}

/// What is yet to be recorded.
#[derive(Debug, Default)]
pub struct EndNotes {
    waiting: BTreeMap<EnvironmentName, EndNote>,
    refused: bool,
}

impl EndNotes {
    /// Takes what the watch has reported. What ended before we came is known where it expired; else
    /// nothing says when.
    pub fn take(&mut self, news: &Changes, actual: &Actual, now: SystemTime) {
        let ended = news.ended.iter();
        let mut ends: Vec<EndNote> = ended.filter_map(|name| actual.end(name, now)).collect();
        if news.all {
            ends.retain(|end| {
                end.ended.why == Why::Expired && !end.ended.at.after(ENDS_LAST).left(now).is_zero()
            });
        }
        self.add(ends);
    }

    /// Takes what we have deleted ourselves.
    pub fn deleted(&mut self, outcome: &Applied, actual: &Actual, now: SystemTime) {
        let with_its_file = outcome.deleted.iter().filter_map(|(name, record)| {
            Some(EndNote {
                name: name.clone(),
                ended: Ended::of(record.as_ref()?, Moment::of(now), Why::File),
                registered: 0,
            })
        });
        let over = outcome.ended.iter().filter_map(|name| actual.end(name, now));
        self.add(with_its_file.chain(over).collect());
    }

    /// Takes ends: the newest, as many as routers report. Changes wait while these are written.
    fn add(&mut self, ends: Vec<EndNote>) {
        let named = |end: EndNote| (end.name.clone(), end);
        self.waiting.extend(ends.into_iter().map(named));
        if self.waiting.len() > ENDS_LIMIT {
            let mut all: Vec<EndNote> = std::mem::take(&mut self.waiting).into_values().collect();
            all.sort_by_key(|end| Reverse(end.ended.at));
            all.truncate(ENDS_LIMIT);
            self.waiting.extend(all.into_iter().map(named));
        }
    }

    /// Leaves all that waits to another registrar.
    pub fn leave(&mut self) {
        self.waiting.clear();
    }

    /// Writes what waits.
    ///
    /// # Errors
    /// When etcd does not answer; what was not written waits on.
    pub async fn write(&mut self, store: &Store, now: SystemTime) -> Result<(), StoreError> {
        let ends: Vec<EndNote> = self.waiting.values().cloned().collect();
        let mut failure = None;
        let note = |end: EndNote| {
            let store = store.clone();
            async move { (write(&store, &end, now).await, end) }
        };
        at_once(ends, note, |(done, end)| {
            match done {
                Ok(noted) => {
                    debug!("recorded how environment {} ended: {noted}", end.name);
                    self.refused = false;
                    self.waiting.remove(&end.name);
                }
                Err(error) => failure = Some(error),
            }
            failure.is_none()
        })
        .await;
        match failure {
            Some(error) if error.is_refusal() => {
                if !std::mem::replace(&mut self.refused, true) {
                    warn!("{}", refused(&error));
                }
                self.waiting.clear();
                Ok(())
            }
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

/// The message about a note that etcd does not take. Where it is for the user's roles, they may be
/// those of an older release.
fn refused(error: &StoreError) -> String {
    let text = error.and("routers cannot report why environments have ended");
    match error.is_denied() {
        true => format!("{text}. Run deploy/etcd-roles.sh again"),
        false => text,
    }
}

async fn write(store: &Store, end: &EndNote, now: SystemTime) -> Result<bool, StoreError> {
    let known = store.get(&Key::Ended(end.name.clone())).await?;
    if end.registered > 0 && known.is_some_and(|known| known.mod_revision > end.registered) {
        return Ok(false);
    }
    note_end(store, &end.name, &end.ended, now).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_ends_the_newest_are_noted() {
        let end = |number: usize| {
            let at = format!(
                "2030-01-31T{:02}:{:02}:{:02}Z",
                number / 3600,
                number / 60 % 60,
                number % 60
            );
            let record = format!(r#"{{"prefix": "p{number}", "at": "{at}", "why": "file"}}"#);
            EndNote {
                name: format!("e{number}").parse().unwrap(),
                ended: mayfly_core::records::parse(record.as_bytes()).unwrap(),
                registered: 0,
            }
        };
        let mut ends = EndNotes::default();
        ends.add((0..ENDS_LIMIT).map(end).collect());
        ends.add((ENDS_LIMIT..ENDS_LIMIT + 10).map(end).collect());
        assert_eq!(ends.waiting.len(), ENDS_LIMIT);
        let has = |number: usize| ends.waiting.contains_key(&end(number).name);
        assert!(!has(9) && has(10) && has(ENDS_LIMIT + 9));
    }
}
