//! How long an environment lives: until it expires, or until nobody has used it for a while. Pure;
//! the clock is always an argument. Whoever registers an environment puts its key under a lease of
//! [`Environment::time_to_live`], so that etcd ends it with every daemon down.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::SignedDuration;
use jiff::civil::{self, DateTime};
use jiff::fmt::temporal::Pieces;
use serde::{Deserialize, Serialize};

use crate::names::{NameError, checked_conversions};
use crate::records::Environment;
use crate::records::switching::Previous;

/// Reads a span of time such as `30m`, `8h` or `1day 12h`. `M`, which would be a month, is none:
/// who writes it means minutes.
pub fn parse_span(text: &str) -> Option<Duration> {
    if text.contains('M') {
        return None;
    }
    humantime::parse_duration(text).ok()
}

/// Where the clock of the system begins to count.
const EPOCH: DateTime = civil::date(1970, 1, 1).at(0, 0, 0, 0);

/// Reads RFC 3339 with any offset from UTC: `2030-01-31T18:00:00+01:00`. In UTC it is between 1970
/// and 9999, as is all that [`utc_text`] writes. (A timestamp of jiff ends some hours before, and
/// people write the end of 9999 for "never".)
pub fn parse_utc(text: &str) -> Option<SystemTime> {
    let moment = Pieces::parse(text).ok()?;
    let local = moment.date().to_datetime(moment.time()?);
    let offset = SignedDuration::from(moment.to_numeric_offset()?);
    // jiff reads more forms than RFC 3339 has.
    let ends_well = text.ends_with('Z') || matches!(text.bytes().nth_back(5), Some(b'+' | b'-'));
    let is_strict = ends_well && text.starts_with(&format!("{local:.0}"));
    if !is_strict || offset.abs() >= SignedDuration::from_hours(24) {
        return None;
    }
    let utc = local.checked_sub(offset).ok()?;
    let since = Duration::try_from(utc.duration_since(EPOCH)).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(since)
}

/// A moment as RFC 3339 in UTC, with as much of a second as it has: `2030-01-31T18:00:00.5Z`.
pub fn utc_text(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let since = SignedDuration::try_from(since).unwrap_or(SignedDuration::MAX);
    format!("{}Z", EPOCH.saturating_add(since))
}

/// Longest time that etcd gives a lease (9 000 000 000 s, some 285 years): what has longer to live
/// has no lease.
const LONGEST_LEASE: Duration = Duration::from_secs(9_000_000_000);

/// When an environment is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Expiry {
    /// This long after its first registration; whole seconds, at least one.
    After(Duration),
    /// At this moment: RFC 3339 with any offset, which the record keeps in UTC.
    At(SystemTime),
}

impl FromStr for Expiry {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if let Some(moment) = parse_utc(text) {
            return Ok(Self::At(moment));
        }
        match parse_span(text) {
            Some(duration) if duration >= Duration::from_secs(1) && duration.subsec_nanos() == 0 => {
                Ok(Self::After(duration))
            }
            _ => Err(NameError::new(
                text,
                "an expiry",
                "a duration in whole seconds such as 30m, 8h or 2days, or a moment such as 2030-01-31T18:00:00Z",
            )),
        }
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(duration) => humantime::format_duration(*duration).fmt(f),
            Self::At(moment) => utc_text(*moment).fmt(f),
        }
    }
}
checked_conversions!(Expiry);

/// How long an environment may go without a request: whole seconds, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Idle(Duration);

impl Idle {
    /// The span.
    pub fn span(self) -> Duration {
        self.0
    }
}

impl FromStr for Idle {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match parse_span(text) {
            Some(span) if span >= Duration::from_secs(1) && span.subsec_nanos() == 0 => Ok(Self(span)),
            _ => Err(NameError::new(
                text,
                "a span of time",
                "whole seconds, such as 30m, 8h or 2days",
            )),
        }
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}
checked_conversions!(Idle);

/// A moment in UTC, in whole seconds (RFC 3339).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Moment(SystemTime);

impl Moment {
    /// The second that `time` is in; moments before 1970 become 1970.
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs().min(Self::LAST)))
    }

    /// The last second that RFC 3339 can write, the end of the year 9999.
    const LAST: u64 = 253_402_300_799;

    /// The moment as the clock of the system has it.
    pub fn time(self) -> SystemTime {
        self.0
    }

    /// The moment a span later; no later than the end of the year 9999.
    pub fn after(self, span: Duration) -> Self {
        self.0.checked_add(span).map_or(
            Self(SystemTime::UNIX_EPOCH + Duration::from_secs(Self::LAST)),
            Self::of,
        )
    }

    /// The span from `now` to this moment; nothing when it has passed.
    pub fn left(self, now: SystemTime) -> Duration {
        self.0.duration_since(now).unwrap_or_default()
    }
}

impl FromStr for Moment {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let moment = parse_utc(text).map(Self::of);
        moment.ok_or_else(|| {
            NameError::new(
                text,
                "a moment",
                "RFC 3339, such as \
             2030-01-31T18:00:00Z",
            )
        })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        utc_text(self.0).fmt(f)
    }
}
checked_conversions!(Moment);

/// What became of an environment since it was first registered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Life {
    /// When it was first registered; a change of its file does not alter this, an end does.
    pub registered_at: Moment,
    /// Until when `mayfly keep` keeps it, whatever it says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_until: Option<Moment>,
    /// It had ended, and `mayfly keep` brought it back: its file may be missing without that
    /// meaning anything.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub revived: bool,
    /// Why its registrar refused the newest version of it, where that is so: then this is the last
    /// good one. Written for whoever sees no files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// What it had before its last changes, of services whose present choice has perhaps never
    /// answered.
    #[serde(default, skip_serializing_if = "Previous::is_empty")]
    pub previous: Previous,
}

impl Life {
    /// The life of an environment that is registered for the first time.
    pub fn beginning(now: Moment) -> Self {
        Self {
            registered_at: now,
            kept_until: None,
            revived: false,
            refused: None,
            previous: Previous::new(),
        }
    }
}

/// Why an environment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Its time was over at this moment.
    Expired(Moment),
    /// Nobody used it for this long. An operator may have removed it too, where it had lived for as
    /// long.
    Unused(Idle),
    /// An operator removed it, with `mayfly delete` or from etcd: its last record does not tell.
    Removed,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired(moment) => write!(f, "it expired at {moment}"),
            Self::Unused(idle) => write!(f, "it was not used for {idle}"),
            Self::Removed => f.write_str("it was deleted with `mayfly delete` or through etcd"),
        }
    }
}

impl Environment {
    /// Why it ended, if it has, as far as its last record tells.
    pub fn end(&self, now: SystemTime) -> End {
        let passed = |moment: &Moment| moment.time() <= now;
        if let Some(end) = self.ends_at().filter(passed) {
            return End::Expired(end);
        }
        let registered = self.life.as_ref().map(|life| life.registered_at);
        let used = |idle: Idle| registered.is_none_or(|at| passed(&at.after(idle.span())));
        match self.idle.filter(|idle| used(*idle)) {
            Some(idle) => End::Unused(idle),
            None => End::Removed,
        }
    }

    /// The same in words, with what brings it back.
    pub fn end_in_words(&self, now: SystemTime) -> String {
        let name = &self.name;
        format!(
            "environment {name} has ended: {}; `mayfly keep {name} 8h` brings it back, and so does a change of its file",
            self.end(now)
        )
    }

    /// When it expires, whatever its use: by what it says itself, or by `mayfly keep` if that is
    /// later.
    pub fn ends_at(&self) -> Option<Moment> {
        let life = self.life.as_ref();
        let end = match self.expires? {
            Expiry::At(moment) => Moment::of(moment),
            Expiry::After(span) => life?.registered_at.after(span),
        };
        Some(end.max(life.and_then(|life| life.kept_until).unwrap_or(end)))
    }

    /// How long it may live from `now` on if it was last used now, for the lease of its key. `None`
    /// when nothing ends it, or nothing for longer than a lease can last; nothing at all when it is
    /// over.
    pub fn time_to_live(&self, now: SystemTime) -> Option<Duration> {
        if self.protected {
            return None;
        }
        let until_expiry = self.ends_at().map(|end| end.left(now));
        let kept = self.life.as_ref().and_then(|life| life.kept_until);
        let until_idle = self.idle.map(|idle| {
            idle.span()
                .max(kept.map(|kept| kept.left(now)).unwrap_or_default())
        });
        let spans = until_expiry.into_iter().chain(until_idle);
        spans.min().filter(|span| *span <= LONGEST_LEASE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expiries() {
        for good in ["8h", "90m", "2days", "2030-01-31T18:00:00Z"] {
            let expiry: Expiry = good.parse().unwrap();
            assert_eq!(expiry.to_string().parse::<Expiry>().unwrap(), expiry);
        }
        for bad in [
            "",
            "8",
            "0s",
            "1500ms",
            "30M",
            "1h 30M",
            "tomorrow",
            "-1h",
            "2030-13-01T00:00:00Z",
        ] {
            assert!(bad.parse::<Expiry>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn moments_are_kept_in_utc() {
        for (given, kept) in [
            ("8h", "8h"),
            ("2030-01-31T18:00:00Z", "2030-01-31T18:00:00Z"),
            ("2030-01-31T18:00:00+01:00", "2030-01-31T17:00:00Z"),
            ("2030-01-31T18:00:00.5-05:30", "2030-01-31T23:30:00.5Z"),
            ("2030-01-01T00:30:00+14:00", "2029-12-31T10:30:00Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(given.parse::<Expiry>().unwrap().to_string(), kept, "{given}");
        }
        for bad in [
            "2030-01-31T18:00:00+1:00",
            "2030-01-31T18:00:00+24:00",
            "2030-01-31T18:00:00+01:60",
            "9999-12-31T23:59:59-01:00",
            "1970-01-01T00:00:00+01:00",
            "1969-12-31T23:59:59Z",
            "2030-01-31",
            "2030-01-31T18:00:00",
            "2030-01-31 18:00:00Z",
            "2030-01-31T18:00Z",
            "20300131T180000Z",
            "2030-01-31T18:00:00+01",
            "2030-01-31T18:00:00+0100",
            "2030-01-31T18:00:00+01:00:00",
            "2030-01-31T18:00:00Z[Europe/Paris]",
            "2030-01-31T18:00:00+01:00[Europe/Paris]",
            "+01:00",
            "ä+01:00",
            "é1:00",
        ] {
            assert!(bad.parse::<Expiry>().is_err(), "{bad}");
        }
    }

    fn moment(text: &str) -> Moment {
        text.parse().unwrap()
    }

    fn environment(fields: serde_json::Value) -> Environment {
        let mut record = serde_json::json!({"name": "a", "prefix": "a", "header": "a"});
        record
            .as_object_mut()
            .unwrap()
            .extend(fields.as_object().unwrap().clone());
        serde_json::from_value(record).unwrap()
    }

    /// What is left at noon, in seconds.
    fn left(fields: serde_json::Value) -> Option<u64> {
        let noon = moment("2030-01-31T12:00:00Z").time();
        environment(fields).time_to_live(noon).map(|span| span.as_secs())
    }

    #[test]
    fn times_to_live() {
        use serde_json::json;
        let life = json!({"registered_at": "2030-01-31T11:00:00Z"});
        let kept = json!({"registered_at": "2030-01-31T11:00:00Z", "kept_until": "2030-01-31T14:00:00Z"});
        for (fields, expected) in [
            (json!({"life": life}), None),
            (json!({"life": kept}), None),
            (json!({"expires": "8h", "life": life}), Some(7 * 3600)),
            (json!({"expires": "30m", "life": life}), Some(0)),
            (json!({"expires": "30m", "life": kept}), Some(2 * 3600)),
            (json!({"expires": "8h", "life": kept}), Some(7 * 3600)),
            (json!({"expires": "2030-01-31T13:00:00Z"}), Some(3600)),
            (json!({"expires": "8h"}), None),
            // Longer than any lease.
            (json!({"expires": "9999-12-31T23:59:59Z"}), None),
            (json!({"idle": "1000years", "life": life}), None),
            (
                json!({"idle": "1000years", "expires": "8h", "life": life}),
                Some(7 * 3600),
            ),
            (json!({"idle": "10m", "life": life}), Some(600)),
            (json!({"idle": "10m", "life": kept}), Some(2 * 3600)),
            (
                json!({"idle": "9h", "expires": "8h", "life": life}),
                Some(7 * 3600),
            ),
            (json!({"idle": "1h", "expires": "8h", "life": life}), Some(3600)),
            (
                json!({"idle": "1h", "expires": "8h", "life": life, "protected": true}),
                None,
            ),
        ] {
            assert_eq!(left(fields.clone()), expected, "{fields}");
        }
    }

    #[test]
    fn moments() {
        let now = moment("2030-01-31T18:00:00.9Z");
        assert_eq!(now.to_string(), "2030-01-31T18:00:00Z");
        assert_eq!(
            now.after(Duration::from_secs(3600)).to_string(),
            "2030-01-31T19:00:00Z"
        );
        assert_eq!(now.after(Duration::MAX).to_string(), "9999-12-31T23:59:59Z");
        assert_eq!(now.left(now.time() + Duration::from_secs(1)), Duration::ZERO);
        assert!("tomorrow".parse::<Moment>().is_err() && "0s".parse::<Idle>().is_err());
    }
}
