//! Names as checked types. A value of one of these types can stand in a configuration file, a map,
//! a hosts file, an etcd key or a run-time command without quoting, because no constructor lets
//! anything else through.

use std::fmt;
use std::str::FromStr;

use crate::shorten::shortened;

/// What a checked type keeps: a text of at most 23 bytes, as nearly all names are, takes no memory
/// beside its owner, and a longer one is shared with its clones. A registrar of 10,000 environments
/// holds a million.
pub(crate) use smol_str::SmolStr as Text;

/// Why a text is not a name of the wanted kind: what was given, what kind was wanted, and what
/// would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {kind}: {rule}")]
pub struct NameError {
    given: String,
    kind: &'static str,
    rule: String,
}

impl NameError {
    pub(crate) fn new(given: &str, kind: &'static str, rule: impl Into<String>) -> Self {
        // A hostile value can be megabytes long; a message needs only its beginning.
        Self {
            given: shortened(given, 80),
            kind,
            rule: rule.into(),
        }
    }

    /// What would be right, without the offending text.
    pub fn rule(&self) -> &str {
        &self.rule
    }
}

/// Gives a checked text type what every name has: `FromStr` through its own `check`, `Display`,
/// `as_str`, and serde as a plain string.
macro_rules! checked_text {
    ($type:ident) => {
        impl $type {
            /// The text as it stands in keys, maps and commands.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::check(text).map(Self)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        $crate::names::checked_conversions!($type);
    };
}
pub(crate) use checked_text;

/// Gives a type with `FromStr` and `Display` what serde needs to keep it as a plain string.
macro_rules! checked_conversions {
    ($type:ident) => {
        impl TryFrom<String> for $type {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    };
}
pub(crate) use checked_conversions;

/// Longest DNS label, in bytes (RFC 1035, section 2.3.4).
const LABEL_LIMIT: usize = 63;
/// Longest host name, in bytes, without a closing dot (RFC 1035, section 2.3.4).
const HOSTNAME_LIMIT: usize = 253;
/// Longest header value, node name and instance id, in bytes.
const TOKEN_LIMIT: usize = 128;

const LABEL_RULE: &str = "lower-case letters, digits and hyphens, a letter or digit at both ends, at most 63";

fn is_label(text: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    (1..=LABEL_LIMIT).contains(&bytes.len())
        && bytes.iter().all(|&byte| alphanumeric(byte) || byte == b'-')
        && bytes.first().is_some_and(|&byte| alphanumeric(byte))
        && bytes.last().is_some_and(|&byte| alphanumeric(byte))
}

fn check_label(text: &str, kind: &'static str) -> Result<Text, NameError> {
    if is_label(text) {
        return Ok(text.into());
    }
    let lower = text.to_ascii_lowercase();
    if is_label(&lower) {
        return Err(NameError::new(
            text,
            kind,
            format!("only lower case, so `{lower}`"),
        ));
    }
    Err(NameError::new(text, kind, LABEL_RULE))
}

/// The name of an environment, a DNS label of at most 63 bytes: `dev`, `temp-1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EnvironmentName(Text);

impl EnvironmentName {
    fn check(text: &str) -> Result<Text, NameError> {
        check_label(
            text.strip_suffix(".service").unwrap_or(text),
            "an environment name",
        )
    }
}
checked_text!(EnvironmentName);

/// The name of a service, a DNS label of at most 63 bytes; a trailing `.service` is accepted and
/// dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Text);

impl ServiceName {
    fn check(text: &str) -> Result<Text, NameError> {
        check_label(text.strip_suffix(".service").unwrap_or(text), "a service name")
    }
}
checked_text!(ServiceName);

/// The first DNS label that leads to an environment from outside: `www-temp-1`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DnsPrefix(Text);

impl DnsPrefix {
    fn check(text: &str) -> Result<Text, NameError> {
        check_label(text, "a prefix")
    }

    /// The prefix of an environment that names none: `www-<name>`.
    ///
    /// # Errors
    /// When the name is so long that the prefix would pass 63 bytes.
    pub fn default_for(environment: &EnvironmentName) -> Result<Self, NameError> {
        let text = format!("www-{environment}");
        if is_label(&text) {
            return Ok(Self(text.into()));
        }
        Err(NameError::new(
            &text,
            "a prefix",
            "the default `www-<name>` would exceed 63 bytes: give a `prefix` or a shorter name",
        ))
    }
}
checked_text!(DnsPrefix);

/// The value of `x-mayfly` that marks a request of an environment: an HTTP token (RFC 9110, section
/// 5.6.2) of at most 128 bytes that begins with a letter or digit, since a map file takes a line
/// that begins with `#` for a comment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HeaderValue(Text);

impl HeaderValue {
    fn check(text: &str) -> Result<Text, NameError> {
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let bytes = text.as_bytes();
        if (1..=TOKEN_LIMIT).contains(&bytes.len())
            && bytes[0].is_ascii_alphanumeric()
            && bytes.iter().all(|&byte| token(byte))
        {
            return Ok(text.into());
        }
        Err(NameError::new(
            text,
            "a header value",
            "letters, digits and !#$%&'*+-.^_`|~, a letter or digit first, at most 128",
        ))
    }
}
checked_text!(HeaderValue);

impl From<&EnvironmentName> for HeaderValue {
    /// The header value of an environment that names none: its own name.
    fn from(name: &EnvironmentName) -> Self {
        Self(name.0.clone())
    }
}

/// A public path prefix that leads to a service, canonical: absolute, no closing slash but in `/`
/// itself, no empty segment, no `.` or `..`, nothing percent-encoded, at most 256 bytes. `api` is
/// taken as `/api`, as it was by the first Mayfly, whose files are to work unchanged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoutePath(Text);

impl RoutePath {
    /// Longest path, in bytes.
    pub const LIMIT: usize = 256;

    fn check(text: &str) -> Result<Text, NameError> {
        let error = |rule: &str| Err(NameError::new(text, "a route", rule));
        if text.is_empty() {
            return error("an absolute path, such as `/` or `/api`");
        }
        let rest = text.strip_prefix('/').unwrap_or(text);
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if text.len() > Self::LIMIT {
            return error("at most 256 bytes");
        }
        if rest.is_empty() {
            return if text == "/" {
                Ok(text.into())
            } else {
                error("no empty segments, such as `//`")
            };
        }
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&*+,=:@/".contains(&byte);
        if !rest.bytes().all(allowed) {
            return error("letters, digits and -._~!$&*+,=:@ between slashes");
        }
        if rest.split('/').any(str::is_empty) {
            return error("no empty segments, such as `//`");
        }
        if rest.split('/').any(|segment| segment == "." || segment == "..") {
            return error("no `.` or `..` segments");
        }
        Ok(format!("/{rest}").into())
    }

    /// The path with a closing slash, as `/api/`: a prefix of `<path>/` exactly when it covers
    /// whole segments.
    pub fn with_slash(&self) -> String {
        if self.0 == "/" {
            self.to_string()
        } else {
            format!("{}/", self.0)
        }
    }
}
checked_text!(RoutePath);

/// The name of a machine or process that writes records: letters, digits, `_`, `.`, `-`, at most
/// 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Text);

impl NodeName {
    /// Longest name, in bytes.
    pub const LIMIT: usize = TOKEN_LIMIT;

    fn check(text: &str) -> Result<Text, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if (1..=TOKEN_LIMIT).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(text.into());
        }
        Err(NameError::new(
            text,
            "a node name",
            "letters, digits, `_`, `.`, `-`, at most 128",
        ))
    }
}
checked_text!(NodeName);

/// A host name of one or more DNS labels, at most 253 bytes, lower case: `db.service`. A closing
/// dot is dropped.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(Text);

impl Hostname {
    fn check(text: &str) -> Result<Text, NameError> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        if bare.len() <= HOSTNAME_LIMIT && bare.split('.').all(is_label) {
            return Ok(bare.into());
        }
        Err(NameError::new(
            text,
            "a host name",
            "DNS labels of lower-case letters, digits and hyphens with dots between them, at most 253",
        ))
    }

    /// The host name of a service in a domain: `backend.service`.
    ///
    /// # Errors
    /// When the two together pass 253 bytes.
    pub fn of_service(service: &ServiceName, domain: &Hostname) -> Result<Self, NameError> {
        format!("{service}.{domain}").parse()
    }
}
checked_text!(Hostname);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn labels() {
        for good in ["a", "temp-1", "0", "a".repeat(63).as_str()] {
            assert_eq!(good.parse::<EnvironmentName>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "-a",
            "a-",
            "A",
            "a b",
            "a.b",
            "a_b",
            "a\n",
            "ä",
            "a".repeat(64).as_str(),
        ] {
            assert!(bad.parse::<EnvironmentName>().is_err(), "{bad:?}");
        }
        assert_eq!(
            "frontend.service".parse::<ServiceName>().unwrap().as_str(),
            "frontend"
        );
        assert!("frontend.service.service".parse::<ServiceName>().is_err());
    }

    #[test]
    fn upper_case_is_refused_with_what_would_be_right() {
        let error = "Dev".parse::<EnvironmentName>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "\"Dev\" is not an environment name: only lower case, so `dev`"
        );
    }

    #[test]
    fn a_huge_value_is_cut_in_the_message() {
        let error = "X!".repeat(1 << 20).parse::<ServiceName>().unwrap_err();
        assert!(error.to_string().len() < 300);
    }

    #[test]
    fn default_prefix() {
        let name: EnvironmentName = "dev".parse().unwrap();
        assert_eq!(DnsPrefix::default_for(&name).unwrap().as_str(), "www-dev");
        let long: EnvironmentName = "a".repeat(60).parse().unwrap();
        assert!(DnsPrefix::default_for(&long).is_err());
    }

    #[test]
    fn header_values() {
        for good in ["temp-1", "50%off", "a#b", "A.b_c"] {
            assert_eq!(good.parse::<HeaderValue>().unwrap().as_str(), good);
        }
        for bad in [
            "",
            "#a",
            "a b",
            "a;b",
            "a,b",
            "a\"b",
            "a{b",
            "é",
            "a".repeat(129).as_str(),
        ] {
            assert!(bad.parse::<HeaderValue>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn routes() {
        for (text, canonical) in [
            ("/", "/"),
            ("/api", "/api"),
            ("/api/", "/api"),
            ("/a/b~c", "/a/b~c"),
            ("api/v1", "/api/v1"),
        ] {
            assert_eq!(text.parse::<RoutePath>().unwrap().as_str(), canonical);
        }
        for bad in [
            "", "//", "/a//b", "/a b", "/a#b", "/a?b", "/../a", "/.", "/a%20", "/a\\",
        ] {
            assert!(bad.parse::<RoutePath>().is_err(), "{bad:?}");
        }
        assert_eq!("/".parse::<RoutePath>().unwrap().with_slash(), "/");
        assert_eq!("/api".parse::<RoutePath>().unwrap().with_slash(), "/api/");
    }

    #[test]
    fn host_names() {
        assert_eq!("db.service.".parse::<Hostname>().unwrap().as_str(), "db.service");
        for bad in ["", ".", "a..b", ".a", "A.b", "a b", "a\nb"] {
            assert!(bad.parse::<Hostname>().is_err(), "{bad:?}");
        }
    }

    proptest! {
        /// Whatever comes in, nothing that means something to HAProxy, dnsmasq or a map file comes
        /// out.
        #[test]
        fn any_text_is_a_name_without_syntax_or_an_error(text in "\\PC{0,40}|[ -~\\n\\t\\r]{0,40}|[a-z]{1,5}[ \\n\"'{};#<]{1,2}[a-z]{0,5}") {
            let passed = [
                text.parse::<EnvironmentName>().map(String::from),
                text.parse::<ServiceName>().map(String::from),
                text.parse::<DnsPrefix>().map(String::from),
                text.parse::<HeaderValue>().map(String::from),
                text.parse::<RoutePath>().map(String::from),
                text.parse::<NodeName>().map(String::from),
                text.parse::<Hostname>().map(String::from),
            ];
            for name in passed.into_iter().flatten() {
                prop_assert!(name.is_ascii() && !name.is_empty());
                prop_assert!(!name.contains(|c: char| c.is_ascii_whitespace() || c.is_ascii_control() || "\"{};\\<>".contains(c)), "{name:?}");
                prop_assert!(!name.starts_with('#'));
            }
        }
    }
}
