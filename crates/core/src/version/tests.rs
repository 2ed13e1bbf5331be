//! Tests of versions: the order of all tags, and what each selector chooses.

use super::*;
use proptest::prelude::*;

fn chosen(selector: &str, live: &[&str]) -> Option<String> {
    let live: Vec<Version> = live.iter().map(|text| text.parse().unwrap()).collect();
    let selector: Selector = selector.parse().unwrap();
    let live = live.iter().zip(1..);
    selector.choose(live).map(Version::to_string)
}

#[test]
fn exact_is_taken_as_written() {
    assert_eq!(chosen("1.10", &[]).as_deref(), Some("1.10"));
}

#[test]
fn latest() {
    for (live, expected) in [
        (&["0.0.9", "0.0.10"][..], Some("0.0.10")),
        (&["1.0.0", "2.0.0-rc1"], Some("1.0.0")),
        (&["2.0.0-rc1", "2.0.0-rc2"], Some("2.0.0-rc2")),
        (&["9.9.9", "latest"], Some("latest")),
        (&["main-a", "main-b"], Some("main-b")),
        (&["main-z", "0.0.1"], Some("0.0.1")),
        (&["v1.2", "1.1.9"], Some("v1.2")),
        (&["1.0.0", "1.0"], Some("1.0")),
        (&["2026.12.01", "2026.11.30"], Some("2026.12.01")),
        (&["25.04", "24.10"], Some("25.04")),
        (&["20261201", "20261130", "9"], Some("20261201")),
        (&["2026-12-01", "2026-9-30"], Some("2026-12-01")),
        (&["1.2.3.10", "1.2.3.9"], Some("1.2.3.10")),
        (&["1.2.3_1", "1.2.3rc1"], Some("1.2.3_1")),
        (
            &["99999999999999999999999.1", "2.0"],
            Some("99999999999999999999999.1"),
        ),
        // Hashes have no order of their own: the one that came last.
        (&["main-9c1b", "main-4f2a"], Some("main-4f2a")),
        (&["9c1b4f2", "4f2a9c1"], Some("4f2a9c1")),
        // A process on a person's machine is for those who ask for it.
        (&["main-4f2a", "laptop-ada-9c1b"], Some("main-4f2a")),
        (&["laptop-ada-9c1b"], None),
        (
            &["2.0.330-100-gc1cfb6864", "2.0.330-63-gabcdef0"],
            Some("2.0.330-100-gc1cfb6864"),
        ),
        (&[], None),
    ] {
        assert_eq!(chosen("latest", live).as_deref(), expected, "{live:?}");
    }
}

#[test]
fn ranges() {
    for (range, live, expected) in [
        ("^1.2", &["1.1.0", "1.2.0", "1.9.0", "2.0.0"][..], Some("1.9.0")),
        ("~1.2", &["1.2.9", "1.3.0"], Some("1.2.9")),
        (">=1, <3", &["0.9.0", "2.5.0", "3.0.0"], Some("2.5.0")),
        ("1.*", &["1.4.0", "2.0.0"], Some("1.4.0")),
        (">=2026", &["2026.12.01", "2026.11.30"], Some("2026.12.01")),
        (
            "2026.*",
            &["2026.12.01", "2026.11.30", "2027.01.01"],
            Some("2026.12.01"),
        ),
        ("2026.12.*", &["2026.12.01", "2026.11.30"], Some("2026.12.01")),
        (">=2026.12.01", &["2026.12.01", "2026.11.30"], Some("2026.12.01")),
        ("~24.04", &["24.10", "24.04.3"], Some("24.04.3")),
        ("^1.2.3.4", &["1.2.3.3", "1.2.3.5"], Some("1.2.3.5")),
        (
            ">=2.0.300-0",
            &["2.0.299", "2.0.330-63-gc1cfb6864"],
            Some("2.0.330-63-gc1cfb6864"),
        ),
        (
            ">=2.0.300-0",
            &["2.0.300", "2.0.330-63-gc1cfb6864"],
            Some("2.0.330-63-gc1cfb6864"),
        ),
        (">=2.0.300", &["2.0.330-63-gc1cfb6864"], None),
        (
            ">=1.0.0-0, <2",
            &["2.0.0-rc1", "1.9.0-rc1", "1.8.0"],
            Some("1.9.0-rc1"),
        ),
        (">=2.0.0-0, <2.0.0", &["2.0.0-rc1", "2.0.0"], Some("2.0.0-rc1")),
        // Cargo compares only the numbers that a `^` writes, until it writes three.
        ("^1, <=1.0.0-rc", &["1.0.0-rc"], Some("1.0.0-rc")),
        ("^1.0.0, <=1.0.0-rc", &["1.0.0-rc"], None),
        ("^1.2", &["latest", "main"], None),
        ("^1.2", &[], None),
    ] {
        assert_eq!(chosen(range, live).as_deref(), expected, "{range} {live:?}");
    }
}

#[test]
fn faults_say_what_would_be_right() {
    for bad in [
        "",
        "1 0",
        ".1",
        "-1",
        "a/b",
        "^",
        ">=x",
        "1.0\n",
        "a".repeat(129).as_str(),
    ] {
        assert!(bad.parse::<Selector>().is_err(), "{bad:?}");
    }
    assert!(
        "^x".parse::<Selector>()
            .unwrap_err()
            .to_string()
            .contains("such as ^1.2")
    );
}

#[test]
fn a_service_outside_has_its_address_for_a_version() {
    let selector: Selector = "https://Billing.internal".parse().unwrap();
    assert_eq!(selector.to_string(), "https://billing.internal:443");
    assert!(selector.upstream().unwrap().tls && !selector.moves());
    let backend: BackendId = "legacy@http://10.0.0.5:80".parse().unwrap();
    assert_eq!(backend.to_string(), "legacy@http://10.0.0.5:80");
    assert_eq!(backend.version.upstream().unwrap().to_string(), "10.0.0.5:80");
    assert!("https://a".parse::<Version>().is_err());
    assert!("0.0.2".parse::<Version>().unwrap().upstream().is_none());
}

#[test]
fn ranges_are_canonical() {
    assert_eq!(">= 1.2 , <2".parse::<Selector>().unwrap().to_string(), ">=1.2,<2");
}

proptest! {
    #[test]
    fn any_text_is_a_selector_without_syntax_or_an_error(text in "[0-9a-z.^~<>=,* _-]{1,20}|\\PC{0,10}") {
        if let Ok(selector) = text.parse::<Selector>() {
            let written = selector.to_string();
            prop_assert!(!written.contains(|c: char| c.is_whitespace() || "\"{};#\\".contains(c)), "{written:?}");
            prop_assert_eq!(written.parse::<Selector>().unwrap(), selector);
        }
    }

    /// The choice does not depend on the order in which versions are looked at.
    #[test]
    fn choice_ignores_order(live in proptest::collection::vec(any_tag(), 0..6)) {
        let live: Vec<(Version, i64)> = live.iter().map(|text| text.parse().unwrap()).zip(1..).collect();
        for selector in ["latest", ">=1", "^1.2.0-0"] {
            let selector: Selector = selector.parse().unwrap();
            let forwards = selector.choose(live.iter().map(|(version, at)| (version, *at)));
            let backwards = selector.choose(live.iter().rev().map(|(version, at)| (version, *at)));
            prop_assert_eq!(forwards, backwards);
        }
    }

    /// A total order: of any two different tags one comes first, and the order of three is no circle.
    #[test]
    fn the_order_is_total(tags in proptest::array::uniform3(any_tag()), at in proptest::array::uniform3(0..3i64)) {
        let versions: Vec<Version> = tags.iter().map(|text| text.parse().unwrap()).collect();
        let rank = |place: usize| Rank::of(&versions[place], at[place]);
        for (one, other) in [(0, 1), (1, 2), (0, 2)] {
            prop_assert_eq!(rank(one).cmp(&rank(other)), rank(other).cmp(&rank(one)).reverse());
            let same = versions[one] == versions[other] && at[one] == at[other];
            prop_assert_eq!(rank(one) == rank(other), same);
        }
        if rank(0) < rank(1) && rank(1) < rank(2) {
            prop_assert!(rank(0) < rank(2));
        }
    }

    /// Where both are semantic versions, the outcome is semver's. The builds of `git describe` are the one exception:
    /// their commits are counted, which semver compares as texts.
    #[test]
    fn the_order_is_that_of_semver(one in any_semantic(), other in any_semantic()) {
        let (Ok(a), Ok(b)) = (semver::Version::parse(&one), semver::Version::parse(&other)) else {
            return Ok(());
        };
        let (one, other) = (order::read(&one).unwrap(), order::read(&other).unwrap());
        prop_assert_eq!(one.cmp(&other), a.cmp_precedence(&b));
    }

    /// What is a range for Cargo is one here, is written alike, and takes the same releases; of pre-releases at least those.
    #[test]
    fn ranges_are_those_of_cargo(
        range in "(\\^|~|=|>|>=|<|<=)? ?[0-2](\\.[0-2*]){0,2}(-rc\\.[0-2]|-0)?(, ?(<|<=|>)[0-3](\\.[0-2]){0,2}(-rc)?)?|\\*|[0-2]\\.x",
        versions in proptest::collection::vec(any_semantic(), 8),
    ) {
        let Ok(requirement) = semver::VersionReq::parse(&range) else {
            return Ok(());
        };
        let own: Range = range.parse().unwrap();
        prop_assert_eq!(own.to_string(), requirement.to_string().replace(' ', ""));
        for text in versions {
            let Ok(version) = semver::Version::parse(&text) else { continue };
            let (fits, should) = (own.contains(&text.parse().unwrap()), requirement.matches(&version));
            let pre_release = !version.pre.is_empty();
            prop_assert!(fits == should || (pre_release && fits && own.takes_pre_releases()), "{text} {own}: {fits}");
        }
    }
}

fn any_semantic() -> impl Strategy<Value = String> {
    "[0-2]\\.[0-2]\\.[0-2](-(rc|0|1|rc\\.[0-3]|[0-9]{1,2}|[a-b]-[0-9]))?"
}

fn any_tag() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "v?[0-2](\\.0?[0-2]){0,3}(-rc\\.?[0-2]|-[0-9]{1,3}-gabcd[0-9]|_1|rc1|\\.a)?",
        1 => "main-[0-9a-b]{1,3}|[0-9a-f]{5}|latest|202[56]-[0-9]{1,2}-[0-9]{1,2}",
    ]
}

#[test]
fn who_is_passed_over_and_why() {
    let reported = |selector: &str, version: &str| {
        let selector: Selector = selector.parse().unwrap();
        selector.passes_over(&version.parse().unwrap())
    };
    assert_eq!(reported("latest", "1.2.0-rc1"), Some("it is a pre-release"));
    assert_eq!(
        reported("latest", "main-4f2a"),
        Some("it does not begin with a number")
    );
    assert_eq!(reported("^2", "1.0"), None);
    assert_eq!(reported(">=1-0", "2.0.0-rc1"), None);
    assert_eq!(reported("1", "2.0.0-rc1"), None);
}
