//! Which instances a container-registrar does not register since their check fails, and why: a part
//! of its status record, which `mayfly status` and `mayfly wait` read.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::printable::printable;
use crate::records::Status;
use crate::shorten::shortened;
use crate::version::BackendId;

/// The field of a status record's `detail` that holds them.
const FIELD: &str = "failing";
/// How many more there are than [`FIELD`] holds.
const MORE: &str = "failing_more";
/// Instances that a record reports at most: etcd takes 1.5 MB, and nobody reads more.
const MOST: usize = 100;
/// Longest reason, in characters.
const LONGEST: usize = 200;

/// An instance that is not registered since its check fails.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Failing {
    /// What it is an instance of.
    pub backend: BackendId,
    /// Where it is asked.
    pub address: Address,
    /// The name of its container, where it is known by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Why its last check failed, as [`reason`] makes it.
    pub reason: String,
}

/// What a check says, for a record: on one line, with nothing hidden in it, and short. It may quote
/// a server.
pub fn reason(text: &str) -> String {
    shortened(&printable(text.trim_end()), LONGEST)
}

impl Failing {
    /// Those that a status record reports.
    pub fn of(status: &Status) -> Vec<Self> {
        let all = status.detail.get(FIELD).and_then(|all| all.as_array());
        let readable = |one: &serde_json::Value| serde_json::from_value(one.clone()).ok();
        all.into_iter().flatten().filter_map(readable).collect()
    }

    /// Puts them into a status record, in the place of those that it told of.
    pub fn put(mut all: Vec<Self>, status: &mut Status) {
        let more = all.len().saturating_sub(MOST);
        all.sort();
        all.truncate(MOST);
        for (field, value) in [
            (FIELD, (!all.is_empty()).then(|| serde_json::to_value(&all).ok())),
            (MORE, (more > 0).then(|| Some(more.into()))),
        ] {
            match value.flatten() {
                Some(value) => drop(status.detail.insert(field.to_owned(), value)),
                None => drop(status.detail.remove(field)),
            }
        }
    }
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.backend, self.address)?;
        if let Some(container) = &self.container {
            write!(f, " ({container})")?;
        }
        write!(f, " is not registered: {}", self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(last: usize) -> Failing {
        Failing {
            backend: "backend@2".parse().unwrap(),
            address: format!("10.0.{}.{}:80", last / 250, last % 250 + 1)
                .parse()
                .unwrap(),
            container: (last == 0).then(|| "b-1".to_owned()),
            reason: "/health answers 400 Bad Request".to_owned(),
        }
    }

    #[test]
    fn they_survive_a_status_record_and_go_from_it() {
        let mut status = Status::default();
        assert_eq!(Failing::of(&status), []);
        Failing::put(vec![one(1), one(0)], &mut status);
        assert_eq!(Failing::of(&status), [one(0), one(1)]);
        assert_eq!(
            one(0).to_string(),
            "backend@2 at 10.0.0.1:80 (b-1) is not registered: /health answers 400 Bad Request"
        );
        Failing::put(Vec::new(), &mut status);
        assert_eq!(status, Status::default());
    }

    #[test]
    fn a_record_stays_small() {
        let mut status = Status::default();
        Failing::put((0..1000).map(one).collect(), &mut status);
        assert_eq!(
            (Failing::of(&status).len(), &status.detail[MORE]),
            (100, &900.into())
        );
        let hostile = reason(&format!("400 \u{1b}[2J\u{202e}\r\n{}", "ü".repeat(1_000_000)));
        assert!(hostile.starts_with("400 \\u{1b}[2J\\u{202e}\\r\\nü"), "{hostile}");
        assert_eq!(hostile.chars().count(), LONGEST + 3);
    }

    #[test]
    fn what_cannot_be_read_hides_no_other() {
        let mut status = Status::default();
        Failing::put(vec![one(0)], &mut status);
        if let Some(serde_json::Value::Array(all)) = status.detail.get_mut(FIELD) {
            all.push(serde_json::json!({"backend": "x\n", "address": 1}));
        }
        assert_eq!(Failing::of(&status), [one(0)]);
    }
}
