//! The known faults of HAProxy's versions that Mayfly can run into. haproxy-updater logs them, and
//! its status record lists them as notes; nothing is done differently. `scripts/del-server.sh`
//! tries the first two.

/// A version's first two numbers.
type Branch = (u32, u32);

struct KnownFault {
    /// The branches that have it, each with the version that fixes it, if there is one. The source
    /// is HAProxy's change logs. A distribution may have fixed an older version.
    branches: &'static [(Branch, Option<u32>)],
    /// What happens, and what Mayfly does about it.
    what: &'static str,
}

/// How each of the notes begins: `mayfly doctor` tells them from others by it.
const PROGRAM: &str = "HAProxy";

/// The faults that are known, the worst first.
const FAULTS: [KnownFault; 3] = [
    // Upstream's 95c4d2482, 1b8c5abee, 7dae3ceaa and 7a02fcaf2: the last of them counts.
    KnownFault {
        branches: &[
            ((2, 6), Some(20)),
            ((2, 7), None),
            ((2, 8), Some(12)),
            ((3, 0), Some(6)),
        ],
        what: "can crash when servers are deleted under load; haproxy-updater deletes them late, which makes this rare",
    },
    // 62f37801c.
    KnownFault {
        branches: &[
            ((2, 6), Some(21)),
            ((2, 7), None),
            ((2, 8), Some(13)),
            ((3, 0), Some(7)),
            ((3, 1), Some(1)),
        ],
        what: "can crash when a request is retried several times",
    },
    // 3d73e6c81.
    KnownFault {
        branches: &[((3, 2), Some(5))],
        what: "can loop forever when a row of a map is changed",
    },
];

/// Whether a note of a router is one of [`known`].
pub fn is_one(note: &str) -> bool {
    // Earlier routers wrote it in lower case.
    note.get(..PROGRAM.len())
        .is_some_and(|start| start.eq_ignore_ascii_case(PROGRAM))
}

/// The known faults of a version, each with the version that fixes it.
pub fn known(version: &str) -> Vec<String> {
    let Some((branch, patch)) = parse(version) else {
        return Vec::new();
    };
    let describe = |fault: &KnownFault| {
        let (_, fixed) = fault.branches.iter().find(|(other, _)| *other == branch)?;
        let (major, minor) = branch;
        let remedy = match fixed {
            Some(fixed) if patch >= *fixed => return None,
            Some(fixed) => format!("fixed in {major}.{minor}.{fixed}"),
            None => "use a newer version".to_owned(),
        };
        Some(format!("{PROGRAM} {version} {}; {remedy}", fault.what))
    };
    FAULTS.iter().filter_map(describe).collect()
}

/// Branch and patch of `2.6.12-1+deb12u4`. `None` for a development version, whose faults are not
/// recorded.
fn parse(version: &str) -> Option<(Branch, u32)> {
    let mut parts = version.splitn(3, '.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    let patch = parts.next()?;
    let digits = patch.find(|c: char| !c.is_ascii_digit()).unwrap_or(patch.len());
    Some(((major, minor), patch[..digits].parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_its_known_faults() {
        for (version, faults) in [
            ("2.6.12-1+deb12u4", &["servers are deleted", "retried"][..]),
            ("2.6.0", &["servers are deleted", "retried"]),
            ("2.6.20", &["retried"]),
            ("2.6.21", &[]),
            ("2.7.12", &["servers are deleted", "retried"]),
            ("2.8.5-1ubuntu3", &["servers are deleted", "retried"]),
            ("2.8.13", &[]),
            ("3.0.6-1~bpo12+1", &["retried"]),
            ("3.0.11-1+deb13u1", &[]),
            ("3.1.0", &["retried"]),
            ("3.2.4-98813a1-1", &["loop forever"]),
            ("3.2.5", &[]),
            ("3.4.0", &[]),
            ("2.6-dev3", &[]),
            ("3.2", &[]),
            ("", &[]),
            ("unknown", &[]),
        ] {
            let texts = known(version);
            assert_eq!(texts.len(), faults.len(), "{version}: {texts:?}");
            for (text, words) in texts.iter().zip(faults) {
                assert!(text.contains(words) && text.contains(version), "{text}");
                assert!(is_one(text) && is_one(&text.to_lowercase()), "{text}");
            }
        }
    }

    #[test]
    fn the_version_with_the_fix_is_named() {
        assert!(known("2.6.12")[0].ends_with("fixed in 2.6.20"));
        assert!(known("2.7.1")[0].ends_with("use a newer version"));
    }
}
