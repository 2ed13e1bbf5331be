//! Amounts of memory and of processors, in the forms that compose reads: a definition has fewer.

use mayfly_core::names::NameError;
use mayfly_core::records::definition::{Cpus, Memory};

/// An amount of memory, such as `512m`, `1.5G` or `512 MiB`; all units are powers of 1024.
pub(super) fn memory(text: &str) -> Result<Memory, NameError> {
    let text = text.trim();
    match bytes(text) {
        // An amount out of range is named as it is written.
        Some(bytes) => bytes.to_string().parse().or_else(|_| text.parse()),
        None => text.parse(),
    }
}

/// A number of processors, also without the 0 in front of `.5`.
pub(super) fn cpus(text: &str) -> Result<Cpus, NameError> {
    if text.starts_with('.') {
        return format!("0{text}").parse().or_else(|_| text.parse());
    }
    text.parse()
}

/// The whole bytes of an amount.
fn bytes(text: &str) -> Option<u128> {
    let end = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let scale = 10_u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    Some(digits.checked_mul(1 << shift)? / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_of_memory() {
        for (text, expected) in [
            ("512m", Some(512 << 20)),
            ("512MiB", Some(512 << 20)),
            ("512 mb", Some(512 << 20)),
            ("1.5G", Some(3 << 29)),
            (".5g", Some(1 << 29)),
            ("1.g", Some(1 << 30)),
            ("0.3g", Some(322_122_547)),
            ("1t", Some(1 << 40)),
            ("268435456.5", Some(1 << 28)),
            ("268435456b", Some(1 << 28)),
            ("", None),
            (".", None),
            ("g", None),
            ("1.5.5g", None),
            ("1ib", None),
            ("1mi", None),
            ("-1g", None),
            ("1e9", None),
            ("1  g", None),
            ("1m", None),
            ("2t", None),
            ("99999999999999999999999999999999999999g", None),
            ("0.0000000000000000000000000000000000000000001g", None),
        ] {
            let found = memory(text);
            assert_eq!(found.as_ref().ok().map(|it| it.bytes()), expected, "{text}");
            if let Err(fault) = found {
                assert!(fault.to_string().contains(&format!("{text:?}")), "{fault}");
            }
        }
    }

    #[test]
    fn numbers_of_processors() {
        for (text, expected) in [
            (".5", Some(500_000_000)),
            ("0.5", Some(500_000_000)),
            ("2", Some(2_000_000_000)),
            (".", None),
            (".x", None),
            ("", None),
        ] {
            assert_eq!(cpus(text).ok().map(|it| it.nano()), expected, "{text}");
        }
    }
}
