//! Versions of services, and the selectors by which an environment chooses one: exact, `latest`, or
//! a range. How versions are compared: [`order`]; which fit a range: [`range`].

mod order;
mod range;

use std::fmt;
use std::str::FromStr;

use crate::names::{NameError, ServiceName, Text, checked_conversions, checked_text};
use crate::upstream::Upstream;
use order::Numbers;
pub use range::Range;

/// Longest version and range, in bytes: the limit of a container tag.
const LIMIT: usize = 128;
const VERSION_RULE: &str = "letters, digits, `_`, `.`, `-`, not beginning with `.` or `-`, at most 128 (the grammar of a container tag)";

/// What the version of a process on a person's machine begins with: `laptop-ada-4f2a`.
pub const LAPTOP: &str = "laptop-";

/// A released version of a service in the grammar of a container tag: `0.0.2`, `1.4.0-rc1`,
/// `main-4f2a`. For an external service its address stands in for a version, as
/// `http://billing.internal:8080`: no text that is read as a version has that form, so no instance
/// can be registered under it.
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

    /// The version that is called `latest`.
    pub(crate) fn latest() -> Self {
        Self(Text::new_static("latest"))
    }

    /// What stands in for the version of an external service: the URL of the server.
    fn outside(upstream: &Upstream) -> Self {
        Self(upstream.url().into())
    }

    /// The server, if this stands in for the version of an external service.
    pub fn upstream(&self) -> Option<Upstream> {
        self.is_outside().then(|| self.0.parse().ok()).flatten()
    }

    /// Whether this is a process on a person's machine: only the environment that names it gets it,
    /// and no launcher can start it.
    pub fn is_on_laptop(&self) -> bool {
        self.0.starts_with(LAPTOP)
    }

    /// Whether this stands in for the version of an external service.
    pub fn is_outside(&self) -> bool {
        // Asked of every service of every environment, and a version begins like that only with a
        // URL behind.
        self.0.starts_with("http") && self.0.contains("://")
    }
}
checked_text!(Version);

/// A service at a version, written `backend@0.0.2`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
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
        let (service, version) = text.split_once('@').ok_or_else(|| {
            NameError::new(
                text,
                "a backend",
                "a service and a version, such as \
                 backend@0.0.2",
            )
        })?;
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
checked_conversions!(BackendId);

/// How an environment chooses the version of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    /// Exactly this version, whether it has a live instance or not; or an external service, at one
    /// address.
    Exact(Version),
    /// The highest version that has a live instance.
    Latest,
    /// The highest live version that fits a range, such as `^1.2`.
    /// It stands elsewhere, since it is large and rare.
    Range(Box<Range>),
}

impl Selector {
    /// The choice of an external service.
    pub fn outside(upstream: &Upstream) -> Self {
        Self::Exact(Version::outside(upstream))
    }

    /// The server, if an external service is chosen.
    pub fn upstream(&self) -> Option<Upstream> {
        match self {
            Self::Exact(version) => version.upstream(),
            Self::Latest | Self::Range(_) => None,
        }
    }

    /// The version that the selector means, given the versions that have a live instance, in any
    /// order, each with the revision at which its oldest live instance was registered.
    ///
    /// `latest` takes the last in the order of [`Rank`], and no process on a person's machine; a
    /// range that with the highest numbers of
    /// those that fit it, and of equal ones the one that was registered last.
    pub fn choose<'a>(&'a self, live: impl Iterator<Item = (&'a Version, i64)>) -> Option<&'a Version> {
        let last = match self {
            Self::Exact(version) => return Some(version),
            Self::Latest => live
                .filter(|(version, _)| !version.is_on_laptop())
                .max_by_key(|(version, registered)| Rank::of(version, *registered)),
            Self::Range(range) => live
                .filter_map(|(version, registered)| {
                    let numbers = order::read(version.as_str()).filter(|numbers| range.fits(numbers))?;
                    Some((numbers, registered, version))
                })
                .max()
                .map(|(_, registered, version)| (version, registered)),
        };
        last.map(|(version, _)| version)
    }

    /// Why a live version is no candidate of this selector, although people may expect it to be;
    /// nothing of one that is a candidate, and of one whose numbers are outside the range.
    pub fn passes_over(&self, version: &Version) -> Option<&'static str> {
        let Some(numbers) = order::read(version.as_str()) else {
            let expected =
                !matches!(self, Self::Exact(_)) && version.as_str() != "latest" && !version.is_on_laptop();
            return expected.then_some("it does not begin with a number");
        };
        let pre_release = !numbers.pre.is_empty()
            && match self {
                Self::Exact(_) => false,
                Self::Latest => true,
                Self::Range(range) => !range.takes_pre_releases(),
            };
        pre_release.then_some("it is a pre-release")
    }

    /// The text that it is written as.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Exact(version) => version.as_str(),
            Self::Latest => "latest",
            Self::Range(range) => range.text(),
        }
    }

    /// Whether the version that is meant depends on what is running.
    pub fn moves(&self) -> bool {
        !matches!(self, Self::Exact(_))
    }
}

/// The order of versions, a total one:
///
/// 1. tags that do not begin with a number (but for `latest`),
/// 2. pre-releases, as `1.2.0-rc1` and `2.0.330-63-gc1cfb6864`,
/// 3. releases, as `1.2.0`, `24.10`, `2026.12.01`,
/// 4. `latest` itself.
///
/// Among those of one kind the numbers decide, then the time of registration, then the text.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank<'a> {
    kind: u8,
    numbers: Option<Numbers<'a>>,
    registered: i64,
    text: &'a str,
}

impl<'a> Rank<'a> {
    fn of(version: &'a Version, registered: i64) -> Self {
        let text = version.as_str();
        let numbers = order::read(text);
        let kind = match &numbers {
            _ if text == "latest" => 3,
            Some(numbers) if numbers.pre.is_empty() => 2,
            Some(_) => 1,
            None => 0,
        };
        Self {
            kind,
            numbers,
            registered,
            text,
        }
    }
}

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

#[cfg(test)]
mod tests;
