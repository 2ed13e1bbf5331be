//! What is known of an environment by its history: whether it has ended, and why.

use std::sync::Arc;
use std::time::SystemTime;

use mayfly_core::records::Environment;
use mayfly_core::records::lifetime::End;

use crate::environments::{Environments, with_life};
use crate::resource::Resource;

/// The history of a record that does not say the same: because that has ended, or because somebody
/// has written one of the two by hand.
#[derive(Debug, Clone)]
pub struct Past<K: Resource = Environments> {
    /// The revision at which the history was put.
    pub mod_revision: i64,
    /// The record as it was last registered, without its life; or why the value is none.
    pub record: Result<Arc<K::Record>, String>,
    /// What became of it until then.
    pub life: Option<K::Life>,
}

impl Past {
    /// Whether an environment that asks for this has ended, if it does not live.
    pub(super) fn is_of(&self, environment: &Environment) -> bool {
        // A protected one never ends: it was removed against its will.
        let ended = |past: &Arc<Environment>| !past.protected && past.asks_for_the_same(environment);
        self.record.as_ref().is_ok_and(ended)
    }

    /// The environment as it was last registered, with its life.
    pub fn environment(&self) -> Option<Environment> {
        let record = self.record.as_ref().ok()?;
        Some(with_life(record, self.life.as_ref()))
    }

    /// Why it ended, as far as that can be known afterwards.
    pub fn end(&self, now: SystemTime) -> End {
        self.environment().map_or(End::Removed, |it| it.end(now))
    }
}
