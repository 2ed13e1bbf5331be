//! Versions of services, and the selectors by which an environment chooses one: exact, `latest`, or a range.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use crate::names::{NameError, ServiceName, Text, checked_conversions, checked_text};
use crate::upstream::Upstream;

/// Longest version and range, in octets: the limit of a container tag.
const LIMIT: usize = 128;
const VERSION_RULE: &str = "letters, digits, `_`, `.`, `-`, not beginning with `.` or `-`, at most 128 (the grammar of a container tag)";

/// A released version of a service in the grammar of a container tag: `0.0.2`, `1.4.0-rc1`, `main-4f2a`. For a service
/// outside its address stands in for a version, as `http://billing.internal:8080`: no text that is read as a version
/// has that form, so no instance can be registered under it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Version(Text);

impl Version {
    fn check(text: &str) -> Result<Text, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let first = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if (1..=LIMIT).contains(&text.len())
            && text.bytes().all(allowed)
            && text.bytes().next().is_some_and(first)
        {
            return Ok(text.into());
        }
        Err(NameError::new(text, "a version", VERSION_RULE))
    }

    /// What stands in for the version of a service outside: the URL of the server.
    fn outside(upstream: &Upstream) -> Self {
        Self(upstream.url().into())
    }

    /// The server, if this stands in for the version of a service outside.
    pub fn upstream(&self) -> Option<Upstream> {
        self.is_outside().then(|| self.0.parse().ok()).flatten()
    }

    /// Whether this stands in for the version of a service outside.
    pub fn is_outside(&self) -> bool {
        // Asked of every service of every environment, and a version begins like that only with a URL behind.
        self.0.starts_with("http") && self.0.contains("://")
    }

    /// The version read as a semantic one (semver.org 2.0.0), with an optional leading `v` and missing minor or patch
    /// taken as 0; `None` for a text such as `main-4f2a`.
    fn semantic(&self) -> Option<semver::Version> {
        let text = self.0.strip_prefix('v').unwrap_or(&self.0);
        if let Ok(version) = semver::Version::parse(text) {
            return Some(version);
        }
        let (numbers, tail) = match text.find(['-', '+']) {
            Some(at) => text.split_at(at),
            None => (text, ""),
        };
        let missing = 2usize.checked_sub(numbers.matches('.').count())?;
        semver::Version::parse(&format!("{numbers}{}{tail}", ".0".repeat(missing))).ok()
    }
}
checked_text!(Version);

/// A service at a version, written `backend@0.0.2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackendId {
    /// The service.
    pub service: ServiceName,
    /// Its version.
    pub version: Version,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.service, self.version)
    }
}

impl FromStr for BackendId {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (service, version) = text
            .split_once('@')
            .ok_or_else(|| NameError::new(text, "a backend", "a service and a version, as backend@0.0.2"))?;
        let version = match version.contains("://") {
            true => Version::outside(&version.parse()?),
            false => version.parse()?,
        };
        Ok(Self {
            service: service.parse()?,
            version,
        })
    }
}

/// How an environment chooses the version of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    /// Exactly this version, whether it has a live instance or not; or a service outside, at one address.
    Exact(Version),
    /// The highest semantic version that has a live instance.
    Latest,
    /// The highest live version that fits a range of semantic versions, such as `^1.2`.
    /// It stands elsewhere, since it is large and rare.
    Range(Box<Range>),
}

impl Selector {
    /// The choice of a service outside.
    pub fn outside(upstream: &Upstream) -> Self {
        Self::Exact(Version::outside(upstream))
    }

    /// The server, if a service outside is chosen.
    pub fn upstream(&self) -> Option<Upstream> {
        match self {
            Self::Exact(version) => version.upstream(),
            Self::Latest | Self::Range(_) => None,
        }
    }

    /// The version that the selector means, given the versions that have a live instance, in any order.
    ///
    /// `latest` takes a backend registered literally as version `latest` first, then the highest release, then the
    /// highest pre-release, then, where no version is semantic, the last in the order of their bytes. Ties between
    /// equal semantic versions (`1.0` and `1.0.0`) go to the last in the order of their bytes.
    pub fn choose<'a>(&'a self, live: impl Iterator<Item = &'a Version>) -> Option<&'a Version> {
        match self {
            Self::Exact(version) => Some(version),
            Self::Latest => live.max_by(|a, b| preference(a).cmp(&preference(b))),
            Self::Range(range) => live
                .filter_map(|version| Some((version.semantic()?, version)))
                .filter(|(semantic, _)| range.requirement.matches(semantic))
                .max_by(|(a, a_text), (b, b_text)| a.cmp_precedence(b).then(a_text.cmp(b_text)))
                .map(|(_, version)| version),
        }
    }

    /// The text that it is written as.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Exact(version) => version.as_str(),
            Self::Latest => "latest",
            Self::Range(range) => &range.text,
        }
    }

    /// Whether the version that is meant depends on what is running.
    pub fn moves(&self) -> bool {
        !matches!(self, Self::Exact(_))
    }
}

/// The order in which `latest` prefers versions: by class, then by semantic precedence, then by text.
fn preference(version: &Version) -> (u8, Precedence, &str) {
    let text = version.as_str();
    if text == "latest" {
        return (3, Precedence(None), text);
    }
    match version.semantic() {
        Some(semantic) => (
            if semantic.pre.is_empty() { 2 } else { 1 },
            Precedence(Some(semantic)),
            text,
        ),
        None => (0, Precedence(None), text),
    }
}

/// Semantic precedence (semver.org, section 11), which ignores build metadata.
struct Precedence(Option<semver::Version>);

impl Ord for Precedence {
    fn cmp(&self, other: &Self) -> Ordering {
        match (&self.0, &other.0) {
            (Some(a), Some(b)) => a.cmp_precedence(b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        }
    }
}

impl PartialOrd for Precedence {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Precedence {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Precedence {}

impl FromStr for Selector {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        if text.contains("://") {
            return text.parse().map(|upstream| Self::outside(&upstream));
        }
        if text.contains(['^', '~', '<', '>', '=', '*', ',']) {
            return text.parse().map(|range| Self::Range(Box::new(range)));
        }
        text.parse().map(Self::Exact).map_err(|_| {
            NameError::new(
                text,
                "a version",
                format!("{VERSION_RULE}; or `latest`; or a range such as ^1.2"),
            )
        })
    }
}

checked_conversions!(Selector);

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text())
    }
}

/// A range of semantic versions in Cargo's notation, canonical and without spaces: `^1.2`, `>=1.2,<2`.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Range {
    requirement: semver::VersionReq,
    text: String,
}

impl FromStr for Range {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || {
            NameError::new(
                text,
                "a range of versions",
                "such as ^1.2, ~1.2.3, 1.2.*, >=1.2,<2 or *",
            )
        };
        if text.len() > LIMIT {
            return Err(error());
        }
        let requirement = semver::VersionReq::parse(text).map_err(|_| error())?;
        let canonical = requirement.to_string().replace(' ', "");
        if canonical.len() > LIMIT {
            return Err(error());
        }
        Ok(Self {
            requirement,
            text: canonical,
        })
    }
}

impl Range {
    /// Whether a version is a semantic one that fits. Pre-releases fit only where the range names one.
    pub fn contains(&self, version: &Version) -> bool {
        version
            .semantic()
            .is_some_and(|semantic| self.requirement.matches(&semantic))
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

checked_conversions!(Range);

impl PartialEq for Range {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Range {}

impl std::hash::Hash for Range {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chosen(selector: &str, live: &[&str]) -> Option<String> {
        let live: Vec<Version> = live.iter().map(|text| text.parse().unwrap()).collect();
        let selector: Selector = selector.parse().unwrap();
        selector.choose(live.iter()).map(Version::to_string)
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
            (&["1.0.0", "1.0"], Some("1.0.0")),
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

        /// The choice does not depend on the order in which versions were registered.
        #[test]
        fn choice_ignores_order(mut live in proptest::collection::vec("[0-2](\\.[0-2]){0,2}(-rc[0-2])?|main-[ab]", 0..6)) {
            let forwards = chosen("latest", &live.iter().map(String::as_str).collect::<Vec<_>>());
            live.reverse();
            prop_assert_eq!(chosen("latest", &live.iter().map(String::as_str).collect::<Vec<_>>()), forwards);
        }
    }
}
