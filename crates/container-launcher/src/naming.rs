//! The names of units: from the key prefix, the backend and a number, so that a launcher that makes
//! the same unit again, or at the same time, finds it there. They are valid for a container, a
//! Swarm service and as a host name: lower-case letters, digits and hyphens, at most 63.

use mayfly_core::keys::KeySpace;
use mayfly_core::version::BackendId;
use sha2::{Digest as _, Sha256};

/// The name of a backend's unit. Its readable part is for people; the digest distinguishes two
/// names.
pub fn unit(prefix: &KeySpace, backend: &BackendId, number: usize) -> String {
    let digest = digest(format!("{prefix} {backend}").as_bytes());
    let (service, version) = (
        readable(backend.service.as_str(), 14),
        readable(backend.version.as_str(), 10),
    );
    format!("mayfly-{service}-{version}-{digest}-{number}")
}

/// The number in a unit's name, if it is the name of one of this backend.
pub fn number(prefix: &KeySpace, backend: &BackendId, name: &str) -> Option<usize> {
    let number = name.rsplit('-').next()?.parse().ok()?;
    (unit(prefix, backend, number) == name).then_some(number)
}

/// The first 96 bits of the SHA-256 of something, in hexadecimal: long enough that no second input
/// with the same digest can be found. (With 48 bits a pair was found in 22 s.)
pub fn digest(of: &[u8]) -> String {
    hex::encode(&Sha256::digest(of)[..12])
}

/// The beginning of a text in the letters of a host name.
fn readable(text: &str, most: usize) -> String {
    let letters = text.chars().take(most).map(|letter| match letter {
        'a'..='z' | '0'..='9' => letter,
        'A'..='Z' => letter.to_ascii_lowercase(),
        _ => '-',
    });
    letters.collect::<String>().trim_matches('-').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// They have one name where the digest has 48 bits.
    #[test]
    fn a_pair_that_was_searched_for_has_two_names() {
        let space: KeySpace = "/sec".parse().unwrap();
        let [one, other] = ["aca9b504e190", "6c3d1eaef791"].map(|end| {
            let backend = format!("{}-{end}@1", "a".repeat(20));
            unit(&space, &backend.parse().unwrap(), 1)
        });
        assert_ne!(one, other);
        assert_eq!(one[..24], other[..24], "what is readable is the same");
    }

    #[test]
    fn a_name_can_be_read() {
        let name = unit(&KeySpace::default(), &"backend@0.0.3".parse().unwrap(), 2);
        assert!(
            name.starts_with("mayfly-backend-0-0-3-") && name.ends_with("-2"),
            "{name}"
        );
    }

    fn backend() -> impl Strategy<Value = BackendId> {
        (
            "[a-z]([a-z0-9-]{0,61}[a-z0-9])?",
            "[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}",
        )
            .prop_map(|(service, version)| format!("{service}@{version}").parse().unwrap())
    }

    proptest! {
        #[test]
        fn names_are_host_names_and_tell_units_apart(a in backend(), b in backend(), n in 1usize..=100, m in 1usize..=100) {
            let space = KeySpace::default();
            let (one, other) = (unit(&space, &a, n), unit(&space, &b, m));
            prop_assert!(one.len() <= 63 && one.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-'));
            prop_assert_eq!(one == other, (&a, n) == (&b, m));
            prop_assert_eq!(number(&space, &a, &one), Some(n));
            let elsewhere = unit(&"/other".parse().unwrap(), &a, n);
            prop_assert_ne!(elsewhere, one);
        }
    }
}
