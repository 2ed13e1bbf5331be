//! When a certificate ends: the first thing to know about a certificate that etcd refuses, and TLS
//! does not tell its owner. Reads just as much of X.509 as that takes.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::civil::DateTime;
use mayfly_core::records::lifetime::parse_utc;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of the first certificate in a PEM text; `None` where it cannot be read.
pub(super) fn end(pem: &str) -> Option<SystemTime> {
    let body = pem.split_once("-----BEGIN CERTIFICATE-----")?.1;
    let body = body.split_once("-----END CERTIFICATE-----")?.0;
    let compact: String = body.split_ascii_whitespace().collect();
    let der = BASE64.decode(compact).ok()?;
    let (_, certificate, _) = element(&der)?;
    let (_, mut rest, _) = element(certificate)?;
    if *rest.first()? == VERSION {
        rest = element(rest)?.2;
    }
    // Serial number, algorithm, issuer.
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (tag, validity, _) = element(rest)?;
    if tag != SEQUENCE {
        return None;
    }
    let (_, _, after_begin) = element(validity)?;
    let (tag, end, _) = element(after_begin)?;
    let text = std::str::from_utf8(end).ok()?;
    match tag {
        // Two digits of the year, of which 50 is 1950.
        UTC_TIME if text.get(..2)?.parse::<u8>().ok()? < 50 => moment(&format!("20{text}")),
        UTC_TIME => moment(&format!("19{text}")),
        GENERALIZED_TIME => moment(text),
        _ => None,
    }
}

/// The first element of DER: its tag, what it holds, and what comes after it.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, mut rest) = rest.split_first()?;
    let mut length = usize::from(first);
    if first & 0x80 != 0 {
        let digits = usize::from(first & 0x7f);
        if digits > 4 || digits > rest.len() {
            return None;
        }
        let (digits, after) = rest.split_at(digits);
        length = digits
            .iter()
            .fold(0, |length, digit| (length << 8) | usize::from(*digit));
        rest = after;
    }
    (length <= rest.len()).then(|| (tag, &rest[..length], &rest[length..]))
}

/// Reads `20301231235959Z`.
fn moment(text: &str) -> Option<SystemTime> {
    let moment = DateTime::strptime("%Y%m%d%H%M%SZ", text).ok()?;
    parse_utc(&format!("{moment}Z"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use mayfly_e2e::tls::Authority;

    #[tokio::test]
    async fn the_end_is_what_openssl_wrote_and_nothing_else_panics() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::new(directory.path(), "ca").await.unwrap();
        for days in ["1", "40000"] {
            // Before 2050 and after it: two forms of time.
            let made = authority
                .certify_as("me", &["DNS:me"], &["-days", days])
                .await
                .unwrap();
            let pem = std::fs::read_to_string(&made.certificate).unwrap();
            let found = end(&pem).unwrap();
            let wanted = SystemTime::now() + Duration::from_secs(days.parse::<u64>().unwrap() * 86_400);
            let difference = wanted
                .duration_since(found)
                .unwrap_or_else(|early| early.duration());
            assert!(difference < Duration::from_secs(60), "{difference:?}");
            let bytes: Vec<char> = pem.chars().collect();
            for cut in 0..bytes.len() {
                let text: String = bytes[..cut].iter().collect();
                let _ = end(&(text + "-----END CERTIFICATE-----"));
            }
        }
        assert_eq!(end(""), None);
    }
}
