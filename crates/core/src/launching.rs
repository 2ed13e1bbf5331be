//! What a container-launcher reports about its backends: a part of its status record, which
//! `mayfly status`, `mayfly explain` and `mayfly wait` read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::names::NodeName;
use crate::records::Status;
use crate::records::lifetime::Moment;
use crate::version::BackendId;

/// The field of a status record's `detail` that holds a [`Launching`].
const FIELD: &str = "launching";

/// What a launcher says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launching {
    /// Whether it works; another one does, or none, where it does not.
    pub leading: bool,
    /// Why nothing is retired at present, if that is held back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    /// The backends that it looks after, by `service@version`: those that it runs or is to run, and
    /// those that are needed, have no instance, and cannot be started.
    #[serde(default)]
    pub backends: BTreeMap<String, Backend>,
    /// How many more there are than `backends` holds.
    #[serde(default, skip_serializing_if = "crate::records::is_default")]
    pub more: usize,
    /// The backends, by `service@version`, whose last word to launch them again was given up.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub given_up: BTreeMap<String, GivenUp>,
}

/// An operator's word, [`crate::keys::Key::Relaunch`], of which nothing comes. It stands in the
/// status record before its key is deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenUp {
    /// The revision of the word, which tells it from a later one.
    pub revision: i64,
    /// Why.
    pub reason: String,
}

/// An operator's word: the value of [`crate::keys::Key::Confirmation`], which says that what a
/// guard holds back is meant, and of [`crate::keys::Key::Relaunch`]. The launcher deletes the key
/// when it has done so, or when nothing can come of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperatorRequest {
    /// The node where it was given.
    pub by: NodeName,
    /// When.
    pub at: Moment,
}

/// What a launcher says of one backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backend {
    /// What is going on.
    #[serde(flatten)]
    pub phase: Phase,
    /// How many instances are wanted.
    pub wanted: usize,
    /// How many are live, whoever started them.
    pub live: usize,
    /// The ids of the images that the containers of the launcher run, shortened as an engine lists
    /// them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub images: BTreeSet<String>,
    /// How many tries have failed in a row.
    #[serde(default, skip_serializing_if = "crate::records::is_default")]
    pub failures: usize,
    /// Why the last of them failed, also while it is tried again; where none has failed, why it may
    /// not be started, also while it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<String>,
    /// When the next try is, after a failure (RFC 3339, UTC).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<String>,
    /// The last lines that a container printed which failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub output: Vec<String>,
    /// Why the image could not be pulled for the last container that a relaunch started, which then
    /// got the one that the engine had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_pulled: Option<String>,
}

/// What is going on with a backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Phase {
    /// It will be started in a moment, if nobody else does so.
    Waiting,
    /// Its image is being pulled.
    Pulling {
        /// How much of it is there, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        percent: Option<u8>,
    },
    /// A container is being created and started.
    Starting,
    /// It runs and is not registered as answering yet.
    Checking,
    /// Something else has started a container of it that is not registered yet: it is left alone.
    Foreign,
    /// All instances answer.
    Running,
    /// Nobody needs it any more; it is retired unless somebody does.
    Unused {
        /// When it will be retired (RFC 3339, UTC).
        retire_at: String,
    },
    /// It gets no new requests, and is stopped and removed then.
    Retiring,
    /// The last try failed.
    Failed {
        /// Why.
        reason: String,
    },
    /// It is needed and runs nowhere, and no service definition says how to start it.
    NoDefinition,
}

impl Phase {
    /// The names of all phases, as in records and metrics.
    pub const NAMES: [&'static str; 10] = [
        "waiting",
        "pulling",
        "starting",
        "checking",
        "foreign",
        "running",
        "unused",
        "retiring",
        "failed",
        "no-definition",
    ];

    /// Its name, one of [`Phase::NAMES`].
    pub fn name(&self) -> &'static str {
        Self::NAMES[match self {
            Self::Waiting => 0,
            Self::Pulling { .. } => 1,
            Self::Starting => 2,
            Self::Checking => 3,
            Self::Foreign => 4,
            Self::Running => 5,
            Self::Unused { .. } => 6,
            Self::Retiring => 7,
            Self::Failed { .. } => 8,
            Self::NoDefinition => 9,
        }]
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pulling {
                percent: Some(percent),
            } => write!(f, "pulling {percent} %"),
            Self::Foreign => {
                f.write_str("not started: another program's container runs, but is not registered yet")
            }
            Self::Unused { retire_at } => write!(f, "unused, will be retired at {retire_at}"),
            Self::Failed { reason } => write!(f, "failed: {reason}"),
            Self::NoDefinition => f.write_str("no definition"),
            plain => f.write_str(plain.name()),
        }
    }
}

impl Launching {
    /// What a status record says of launching; `None` for one of another daemon, or one that cannot
    /// be read.
    pub fn of(status: &Status) -> Option<Self> {
        serde_json::from_value(status.detail.get(FIELD)?.clone()).ok()
    }

    /// Puts it into a status record.
    pub fn put(&self, status: &mut Status) {
        if let Ok(value) = serde_json::to_value(self) {
            status.detail.insert(FIELD.to_owned(), value);
        }
    }

    /// What is said of a backend.
    pub fn backend(&self, backend: &BackendId) -> Option<&Backend> {
        self.backends.get(&backend.to_string())
    }

    /// Why a word to launch a backend again was given up, if that or a later one was.
    pub fn given_up(&self, backend: &BackendId, revision: i64) -> Option<&str> {
        let given_up = self.given_up.get(&backend.to_string())?;
        (given_up.revision >= revision).then_some(given_up.reason.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_survives_a_status_record() {
        let backend = |phase| Backend {
            phase,
            wanted: 1,
            live: 0,
            images: ["0f1e2d3c4b5a".to_owned()].into(),
            failures: 2,
            failure: Some("exited with 1".to_owned()),
            next_try: Some("2030-01-31T18:00:00Z".to_owned()),
            output: vec!["no such file".to_owned()],
            not_pulled: None,
        };
        let phases = [
            Phase::Waiting,
            Phase::Pulling { percent: Some(40) },
            Phase::Pulling { percent: None },
            Phase::Starting,
            Phase::Checking,
            Phase::Foreign,
            Phase::Running,
            Phase::Unused {
                retire_at: "2030-01-31T18:00:00Z".to_owned(),
            },
            Phase::Retiring,
            Phase::Failed {
                reason: "exited with 1".to_owned(),
            },
            Phase::NoDefinition,
        ];
        for phase in &phases {
            assert_eq!(serde_json::to_value(phase).unwrap()["state"], phase.name());
        }
        let backends = phases
            .into_iter()
            .enumerate()
            .map(|(at, phase)| (format!("backend@{at}"), backend(phase)));
        let launching = Launching {
            leading: true,
            guard: Some("3 of 7 environments vanished".to_owned()),
            backends: backends.collect(),
            more: 3,
            given_up: [(
                "backend@1".to_owned(),
                GivenUp {
                    revision: 7,
                    reason: "it may not be started".to_owned(),
                },
            )]
            .into(),
        };
        let mut status = Status::default();
        assert_eq!(Launching::of(&status), None);
        launching.put(&mut status);
        assert_eq!(Launching::of(&status), Some(launching.clone()));
        let third = launching.backend(&"backend@1".parse().unwrap()).unwrap();
        assert_eq!(third.phase.to_string(), "pulling 40 %");
        // A reason is that of its word, and of those that were given before.
        for (backend, revision, reason) in [
            ("backend@1", 6, Some("it may not be started")),
            ("backend@1", 7, Some("it may not be started")),
            ("backend@1", 8, None),
            ("backend@2", 7, None),
        ] {
            assert_eq!(launching.given_up(&backend.parse().unwrap(), revision), reason);
        }
    }
}
