//! A record as etcd holds it: what it says, whose it is, and when it ends.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mayfly_core::lifetime::{Life, Moment};
use mayfly_core::records::{self, Environment, Source};
use mayfly_daemon::store::LeaseId;

use super::with_life;

/// A record in etcd.
#[derive(Debug, Clone)]
pub struct Held {
    /// The revision at which it was last put.
    pub mod_revision: i64,
    /// The revision at which its key was created.
    pub create_revision: i64,
    /// The environment without its life, or why the value is none.
    pub record: Result<Arc<Environment>, String>,
    /// What became of it since it was first registered.
    pub life: Option<Life>,
    /// The lease that it hangs on, as far as the watch has told of it.
    pub lease: Option<LeaseId>,
    /// Whether that is as it should be: we have seen to it ourselves.
    pub lease_is_checked: bool,
    /// The revision at which its history was put, if that says the same.
    pub history: Option<i64>,
    /// Whose it is.
    pub owner: Owner,
    /// When it ends, whatever its use.
    pub(super) ends: Option<Moment>,
}

/// Whose a record is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// It says that it came from this registrar, or stands where this registrar created the key and does not say that it
    /// came from another one: then somebody has overwritten it by hand.
    Us,
    /// Somebody else registered it: `registrar of node x`, or `somebody by hand`.
    Other(String),
    /// The value is nothing that anybody could use.
    Nobody,
}

impl Owner {
    /// The owner of a record of this source, in a key that is ours or not; `good` says whether the value can be used.
    pub(crate) fn of(is_ours: bool, source: Option<Source>, good: bool) -> Self {
        match source {
            _ if is_ours => Self::Us,
            Some(source) => Self::Other(format!("the registrar of node {}", source.registrar)),
            None if good => Self::Other("somebody else than a registrar".to_owned()),
            None => Self::Nobody,
        }
    }
}

impl Held {
    /// The environment, if it is somebody else's.
    pub(super) fn of_others(&self) -> Option<&Arc<Environment>> {
        self.record
            .as_ref()
            .ok()
            .filter(|_| matches!(self.owner, Owner::Other(_)))
    }

    /// The environment with its life.
    pub fn environment(&self) -> Option<Environment> {
        let record = self.record.as_ref().ok()?;
        Some(with_life(record, self.life.as_ref()))
    }

    /// How long its lease should let it live from `now` on, if it was used just now; `None` if nothing ends it.
    pub fn time_to_live(&self, now: SystemTime) -> Option<Duration> {
        let record = self.record.as_ref().ok()?;
        if record.expires.is_none() && record.idle.is_none() {
            return None;
        }
        self.environment()?.time_to_live(now)
    }
}

/// The record without its life, and that.
pub(super) fn split(
    parsed: Result<Environment, records::RecordError>,
) -> (Result<Arc<Environment>, String>, Option<Life>) {
    match parsed {
        Ok(mut environment) => {
            let life = environment.life.take();
            environment.shrink();
            (Ok(Arc::new(environment)), life)
        }
        Err(error) => (Err(error.to_string()), None),
    }
}

/// When an environment ends by itself, whatever its use.
pub(super) fn end_of(record: &Environment, life: Option<&Life>) -> Option<Moment> {
    if record.protected || record.expires.is_none() {
        return None;
    }
    with_life(record, life).ends_at()
}

/// The source of a record that is otherwise no good: a newer registrar may write what this one can't read.
pub(crate) fn source_of(value: &[u8]) -> Option<Source> {
    let mut record: serde_json::Value = records::parse(value).ok()?;
    serde_json::from_value(record.get_mut("source")?.take()).ok()
}
