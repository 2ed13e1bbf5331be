//! When an environment is to end, as people write it: RFC 3339 with any offset from UTC, which the record keeps in UTC.

use std::time::{Duration, SystemTime};

use crate::lifetime::Expiry;
use crate::names::NameError;

/// A duration such as `8h`, or a moment such as `2030-01-31T18:00:00+01:00`.
///
/// # Errors
/// When the text is neither.
pub(super) fn parse(text: &str) -> Result<Expiry, NameError> {
    match moment_with_offset(text) {
        Some(moment) => Ok(Expiry::At(moment)),
        None => text.parse(),
    }
}

/// A moment whose offset is not `Z`.
fn moment_with_offset(text: &str) -> Option<SystemTime> {
    let at = text.len().checked_sub(6)?;
    let (local, offset) = (text.get(..at)?, text.get(at..)?);
    let (east, digits) = match offset.as_bytes() {
        [b'+', digits @ ..] => (true, digits),
        [b'-', digits @ ..] => (false, digits),
        _ => return None,
    };
    let [h1, h2, b':', m1, m2] = digits else {
        return None;
    };
    if ![h1, h2, m1, m2].iter().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let number = |tens: &u8, ones: &u8| u64::from(tens - b'0') * 10 + u64::from(ones - b'0');
    let (hours, minutes) = (number(h1, h2), number(m1, m2));
    if hours > 23 || minutes > 59 {
        return None;
    }
    let local = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    let offset = Duration::from_secs(hours * 3600 + minutes * 60);
    let moment = if east {
        local.checked_sub(offset)?
    } else {
        local.checked_add(offset)?
    };
    // Before 1970 and after 9999 the moment has no text in the record.
    let in_range = humantime::parse_rfc3339("1970-01-01T00:00:00Z").ok()? <= moment
        && moment <= humantime::parse_rfc3339("9999-12-31T23:59:59Z").ok()?;
    in_range.then_some(moment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_kept_in_utc() {
        for (given, kept) in [
            ("8h", "8h"),
            ("2030-01-31T18:00:00Z", "2030-01-31T18:00:00Z"),
            ("2030-01-31T18:00:00+01:00", "2030-01-31T17:00:00Z"),
            ("2030-01-31T18:00:00.5-05:30", "2030-01-31T23:30:00.500000000Z"),
            ("2030-01-01T00:30:00+14:00", "2029-12-31T10:30:00Z"),
        ] {
            assert_eq!(parse(given).unwrap().to_string(), kept, "{given}");
        }
        for bad in [
            "2030-01-31T18:00:00+1:00",
            "2030-01-31T18:00:00+24:00",
            "2030-01-31T18:00:00+01:60",
            "9999-12-31T23:59:59-01:00",
            "1970-01-01T00:00:00+01:00",
            "2030-01-31",
            "+01:00",
            "ä+01:00",
            "é1:00",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
