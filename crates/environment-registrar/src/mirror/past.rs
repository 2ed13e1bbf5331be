//! What is known of an environment by its history: whether it has ended, and why.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use mayfly_core::lifetime::{Idle, Life, Moment};
use mayfly_core::records::Environment;

/// The history of an environment, where its record does not say the same: because it has ended, or because somebody has
/// written one of the two by hand.
#[derive(Debug, Clone)]
pub struct Past {
    /// The revision at which the history was put.
    pub mod_revision: i64,
    /// The environment as it was last registered, without its life; or why the value is none.
    pub record: Result<Arc<Environment>, String>,
    /// What became of it until then.
    pub life: Option<Life>,
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

    /// Why it ended, as far as that can be told afterwards.
    pub fn end(&self, now: SystemTime) -> End {
        let Some(environment) = self.environment() else {
            return End::Removed;
        };
        let passed = |moment: &Moment| moment.time() <= now;
        if let Some(end) = environment.ends_at().filter(passed) {
            return End::Expired(end);
        }
        let registered = self.life.as_ref().map(|life| life.registered_at);
        let used = |idle: Idle| registered.is_none_or(|at| passed(&at.after(idle.span())));
        match environment.idle.filter(|idle| used(*idle)) {
            Some(idle) => End::Unused(idle),
            None => End::Removed,
        }
    }
}

/// An environment with its life.
pub(crate) fn with_life(record: &Environment, life: Option<&Life>) -> Environment {
    Environment {
        life: life.cloned(),
        ..record.clone()
    }
}

/// Why an environment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its time was over at this moment.
    Expired(Moment),
    /// Nobody used it for this long. Somebody may have removed it too, where it had lived for as long.
    Unused(Idle),
    /// Somebody removed it from etcd.
    Removed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(moment) => write!(f, "it expired at {moment}"),
            Self::Unused(idle) => write!(f, "it was not used for {idle}"),
            Self::Removed => f.write_str("it was removed through etcd"),
        }
    }
}
