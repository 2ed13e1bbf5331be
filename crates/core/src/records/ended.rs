//! How an environment ended: its record in etcd, and the words of the router, `mayfly explain` and
//! `mayfly status`.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::names::{DnsPrefix, EnvironmentName};
use crate::records::Environment;
use crate::records::lifetime::{End, Moment};

/// How long an end is remembered: who has a link to an environment finds out within days.
pub const ENDS_LAST: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How many ends routers report, the newest ones: some fifty a day for as long as they last.
pub const ENDS_LIMIT: usize = 1_000;

/// Why an environment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// Its time was over.
    Expired,
    /// Nobody used it.
    Idle,
    /// `mayfly delete`.
    Deleted,
    /// No file names it any more.
    File,
    /// An operator removed it from etcd, or, with a newer Mayfly, something that this one does not
    /// know.
    #[serde(other)]
    Removed,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Expired,
        Self::Idle,
        Self::Deleted,
        Self::File,
        Self::Removed,
    ];

    /// Its name in records and in the router's table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Idle => "idle",
            Self::Deleted => "deleted",
            Self::File => "file",
            Self::Removed => "removed",
        }
    }

    /// The same in words, with what brings the environment of this name back.
    pub fn in_words(self, name: &str) -> String {
        let why = match self {
            Self::Expired => "it expired",
            Self::Idle => "it was not used for its idle time",
            Self::Deleted => "`mayfly delete` ended it",
            Self::File => return "its file is gone; put the file back to bring it back".to_owned(),
            Self::Removed => "it was removed through etcd",
        };
        format!("{why}; `mayfly keep {name} 8h` brings it back, and so does a change of its file")
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// How an environment ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// The prefix that it had.
    pub prefix: DnsPrefix,
    /// When that was, or was seen.
    pub at: Moment,
    /// Why.
    pub why: Why,
}

impl Ended {
    /// The end of an environment at this moment.
    pub fn of(environment: &Environment, at: Moment, why: Why) -> Self {
        let prefix = environment.prefix.clone();
        Self { prefix, at, why }
    }

    /// The end of an environment that is seen to be gone now, as its last record tells.
    pub fn seen(environment: &Environment, now: SystemTime) -> Self {
        /// Leases end by another clock.
        const SLACK: Duration = Duration::from_secs(5);
        let (at, why) = match environment.end(now + SLACK) {
            End::Expired(moment) => (moment, Why::Expired),
            End::Unused(_) => (Moment::of(now), Why::Idle),
            End::Removed => (Moment::of(now), Why::Removed),
        };
        Self::of(environment, at, why)
    }

    /// The end in words.
    pub fn in_words(&self, name: &EnvironmentName) -> String {
        in_words(name.as_str(), &self.at.to_string(), self.why)
    }
}

/// An end in words. The router says the same with places that it fills in.
pub fn in_words(name: &str, at: &str, why: Why) -> String {
    format!("the environment {name} ended at {at}: {}", why.in_words(name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records;

    #[test]
    fn a_record_says_why_in_a_word_and_newer_words_are_taken() {
        for why in Why::ALL {
            let text = format!(r#"{{"prefix": "www-a", "at": "2030-01-31T18:00:00Z", "why": "{why}"}}"#);
            let ended: Ended = records::parse(text.as_bytes()).unwrap();
            assert_eq!(ended.why, why);
            assert_eq!(records::parse::<Ended>(&records::to_json(&ended)).unwrap(), ended);
        }
        let newer = br#"{"prefix": "www-a", "at": "2030-01-31T18:00:00Z", "why": "moved", "who": "me"}"#;
        assert_eq!(records::parse::<Ended>(newer).unwrap().why, Why::Removed);
    }

    #[test]
    fn what_is_gone_has_ended_for_what_its_record_says() {
        let seen = |more: &str| {
            let life = r#""life": {"registered_at": "2030-01-31T10:00:00Z"}"#;
            let record = format!(r#"{{"name": "a", "prefix": "www-a", "header": "a", {life}{more}}}"#);
            let now: Moment = "2030-01-31T18:00:00Z".parse().unwrap();
            let ended = Ended::seen(&records::parse(record.as_bytes()).unwrap(), now.time());
            format!("{} {}", ended.at, ended.why)
        };
        assert_eq!(seen(r#", "expires": "1h""#), "2030-01-31T11:00:00Z expired");
        assert_eq!(seen(r#", "expires": "8h""#), "2030-01-31T18:00:00Z expired");
        assert_eq!(
            seen(r#", "expires": "1d", "idle": "2h""#),
            "2030-01-31T18:00:00Z idle"
        );
        assert_eq!(seen(r#", "expires": "1d""#), "2030-01-31T18:00:00Z removed");
    }
}
