//! Service definitions: how a container of a service is started, whatever its version. Anyone who
//! may push a file may write one, so what it can ask for is a closed list of checked types. There
//! is no field for a privilege, a device, a port of the host or a writable mount, and the launcher
//! restricts further which networks and directories of the host it can name.
//!
//! The text of a definition becomes a [`Definition`] in `definition_file`; [`image`] is the one
//! field with a grammar of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub mod image;

pub use image::{ImageReference, ImageTemplate};

use crate::check::Check;
use crate::names::{Hostname, NameError, ServiceName, Text, checked_conversions, checked_text};
use crate::records::{Protocol, Source};
use crate::version::{Range, Version};

/// Most instances that a definition may ask for.
pub const INSTANCES_LIMIT: u16 = 100;

/// How a container of a service is started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// The service, the same as in the key.
    pub name: ServiceName,
    /// The image, in which the version is left open.
    pub image: ImageTemplate,
    /// The versions that may be started; any, where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub versions: Option<Range>,
    /// Where the service listens inside its container.
    pub port: Port,
    /// How its container-registrar asks whether it is alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<Check>,
    /// The Host that it asks with; that of callers, where it is absent.
    #[serde(rename = "check-host", default, skip_serializing_if = "Option::is_none")]
    pub check_host: Option<Hostname>,
    /// What it speaks.
    #[serde(default)]
    pub protocol: Protocol,
    /// How many instances of each version are to run, 1 to [`INSTANCES_LIMIT`].
    #[serde(default)]
    pub instances: Instances,
    /// The command and its arguments, in place of what the image says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<Argument>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<VariableName, Argument>,
    /// The networks of the engine that it joins; that of the launcher where there is none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<NetworkName>,
    /// How much memory it may use; as much as the launcher gives, where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// How many processors it may use; likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cpus>,
    /// Directories and files of the host that it may read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<Volume>,
    /// Where it comes from; absent when nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
}

impl Definition {
    /// Whether a version may be started by it.
    pub fn allows(&self, version: &Version) -> bool {
        self.versions.as_ref().is_none_or(|range| range.contains(version))
    }

    /// Whether two definitions ask for the same, wherever they come from.
    pub fn asks_for_the_same(&self, other: &Self) -> bool {
        let without_source = |definition: &Self| Self {
            source: None,
            ..definition.clone()
        };
        without_source(self) == without_source(other)
    }
}

/// A port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Port(u16);

const PORT_RULE: &str = "a number from 1 to 65535";

impl TryFrom<u16> for Port {
    type Error = NameError;

    fn try_from(port: u16) -> Result<Self, NameError> {
        match port {
            0 => Err(NameError::new("0", "a port", PORT_RULE)),
            port => Ok(Self(port)),
        }
    }
}

impl From<Port> for u16 {
    fn from(port: Port) -> u16 {
        port.0
    }
}

impl FromStr for Port {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let number = decimal(text).and_then(|number| u16::try_from(number).ok());
        let error = || NameError::new(text, "a port", PORT_RULE);
        Self::try_from(number.ok_or_else(error)?)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How many instances of a version are to run, 1 to [`INSTANCES_LIMIT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Instances(u16);

impl Default for Instances {
    fn default() -> Self {
        Self(1)
    }
}

impl Instances {
    fn error(given: &str) -> NameError {
        NameError::new(
            given,
            "a number of instances",
            format!("a number from 1 to {INSTANCES_LIMIT}"),
        )
    }

    /// The number.
    pub fn count(self) -> usize {
        self.0.into()
    }
}

impl TryFrom<u16> for Instances {
    type Error = NameError;

    fn try_from(count: u16) -> Result<Self, NameError> {
        match count {
            1..=INSTANCES_LIMIT => Ok(Self(count)),
            _ => Err(Self::error(&count.to_string())),
        }
    }
}

impl From<Instances> for u16 {
    fn from(instances: Instances) -> u16 {
        instances.0
    }
}

impl FromStr for Instances {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let number = decimal(text).and_then(|number| u16::try_from(number).ok());
        Self::try_from(number.ok_or_else(|| Self::error(text))?)
    }
}

/// An argument of a command, or the value of an environment variable: printable text of at most
/// 4096 bytes; tabs and line feeds are taken, other control characters are not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Argument(Text);

impl Argument {
    fn check(text: &str) -> Result<Text, NameError> {
        let strange = |letter: char| letter.is_control() && !"\n\t".contains(letter);
        if text.len() <= 4096 && !text.chars().any(strange) {
            return Ok(text.into());
        }
        Err(NameError::new(
            text,
            "an argument or value",
            "at most 4096 bytes without control characters",
        ))
    }
}
checked_text!(Argument);

/// The name of an environment variable: letters, digits and `_`, no digit first, at most 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VariableName(Text);

impl VariableName {
    fn check(text: &str) -> Result<Text, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if (1..=128).contains(&text.len())
            && text.bytes().all(allowed)
            && !text.as_bytes()[0].is_ascii_digit()
        {
            return Ok(text.into());
        }
        Err(NameError::new(
            text,
            "the name of a variable",
            "letters, digits and `_`, no digit first, at most 128",
        ))
    }
}
checked_text!(VariableName);

/// The name of a network of the engine: letters, digits, `_`, `.`, `-`, a letter or digit first, at
/// most 128 bytes. `host`, `none` and `default` mean something else to an engine, and are refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkName(Text);

impl NetworkName {
    fn check(text: &str) -> Result<Text, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let error = |rule: &str| Err(NameError::new(text, "the name of a network", rule));
        if ["host", "none", "default"].contains(&text) {
            return error(
                "a network of the engine's own, such as `mayfly`; the host's network is not \
                 allowed",
            );
        }
        if (1..=128).contains(&text.len())
            && text.bytes().all(allowed)
            && text.as_bytes()[0].is_ascii_alphanumeric()
        {
            return Ok(text.into());
        }
        error("letters, digits, `_`, `.`, `-`, a letter or digit first, at most 128")
    }
}
checked_text!(NetworkName);

/// An amount of memory, written `256m`: bytes, or `k`, `m`, `g` for powers of 1024. From 6 MiB,
/// what an engine takes at least, to 1 TiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Memory(u64);

impl Memory {
    /// In bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for Memory {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'k' | b'K') => (&text[..text.len() - 1], 10),
            Some(b'm' | b'M') => (&text[..text.len() - 1], 20),
            Some(b'g' | b'G') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        let bytes = decimal(digits).and_then(|number| number.checked_mul(1 << shift));
        match bytes {
            Some(bytes) if ((6 << 20)..=(1 << 40)).contains(&bytes) => Ok(Self(bytes)),
            _ => Err(NameError::new(
                text,
                "an amount of memory",
                "such as 256m or 2g, from 6m to 1024g",
            )),
        }
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(30, "g"), (20, "m"), (10, "k")];
        match units.iter().find(|(shift, _)| self.0 % (1 << shift) == 0) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => self.0.fmt(f),
        }
    }
}
checked_conversions!(Memory);

/// A number of processors, written `0.5`: from 0.01 to 512, in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cpus(u32);

impl Cpus {
    /// In billionths of a processor, as engines count it.
    pub fn nano(self) -> u64 {
        u64::from(self.0) * 1_000_000
    }
}

impl FromStr for Cpus {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let thousandths = (part.len() <= 3)
            .then(|| Some(decimal(whole)? * 1000 + decimal(&format!("{part:0<3}"))?))
            .flatten();
        match thousandths {
            Some(thousandths @ 10..=512_000) => Ok(Self(u32::try_from(thousandths).unwrap_or_default())),
            _ => Err(NameError::new(
                text,
                "a number of processors",
                "such as 2 or 0.5, from 0.01 to 512, with three decimals at most",
            )),
        }
    }
}

impl fmt::Display for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        f.pad(text.trim_end_matches('0').trim_end_matches('.'))
    }
}
checked_conversions!(Cpus);

/// A directory or file of the host that a container may read, written `/srv/data:/data`; never to
/// be written to. Both paths are absolute, without `.` and `..`, `:` and control characters, at
/// most 512 bytes each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Volume {
    source: String,
    target: String,
}

impl Volume {
    /// The path on the host.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The path in the container.
    pub fn target(&self) -> &str {
        &self.target
    }
}

impl FromStr for Volume {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = |rule: &str| NameError::new(text, "a volume", rule);
        // What compose and docker call read-only, which it is anyway.
        let bare = text.strip_suffix(":ro").unwrap_or(text);
        if bare.ends_with(":rw") {
            return Err(error(
                "volumes are read-only: two absolute paths, such as /srv/data:/data",
            ));
        }
        let rule = "two absolute paths without `.` and `..`, the host's first, such as \
             /srv/data:/data";
        let (source, target) = bare.split_once(':').ok_or_else(|| error(rule))?;
        if !(is_absolute(source) && is_absolute(target) && target != "/") {
            return Err(error(rule));
        }
        Ok(Self {
            source: source.to_owned(),
            target: target.to_owned(),
        })
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.target)
    }
}
checked_conversions!(Volume);

/// Whether a path is absolute and canonical as a text: no empty, `.` or `..` segment, no closing
/// slash.
fn is_absolute(path: &str) -> bool {
    let segments = path.strip_prefix('/');
    path == "/"
        || path.len() <= 512
            && !path.chars().any(|letter| letter.is_control() || letter == ':')
            && segments.is_some_and(|rest| rest.split('/').all(|part| !["", ".", ".."].contains(&part)))
}

/// A decimal number of digits alone.
fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check<T: FromStr<Err = NameError> + ToString>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert_eq!(
                text.parse::<T>().map(|value| value.to_string()).as_deref(),
                Ok(*text)
            );
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn ports() {
        check::<Port>(&["1", "8080", "65535"], &["", "0", "65536", "+1", "http", "1.0"]);
    }

    #[test]
    fn amounts() {
        check::<Memory>(
            &["256m", "2g", "6m", "1024g", "7000k", "8000001"],
            &[
                "",
                "m",
                "5m",
                "1025g",
                "-1m",
                "256mb",
                "99999999999999999999g",
                "1.5g",
            ],
        );
        assert_eq!("256M".parse::<Memory>().unwrap().bytes(), 256 << 20);
        assert_eq!("1024m".parse::<Memory>().unwrap().to_string(), "1g");
        check::<Cpus>(
            &["1", "0.5", "0.01", "512", "1.125"],
            &["", ".", "0", "0.001", "513", "0.1234", "1e3", "-1", "0,5"],
        );
        assert_eq!("0.5".parse::<Cpus>().unwrap().nano(), 500_000_000);
    }

    #[test]
    fn instances() {
        assert_eq!("3".parse::<Instances>().unwrap().count(), 3);
        for bad in ["0", "101", "", "two"] {
            assert!(bad.parse::<Instances>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_host_s_network_is_not_to_be_had() {
        check::<NetworkName>(
            &["mayfly", "a_b.c-1"],
            &["", "host", "none", "default", "container:x", "-a", "a b", "a/b"],
        );
    }

    #[test]
    fn volumes_are_two_plain_absolute_paths_and_read_only() {
        check::<Volume>(
            &["/srv/data:/data", "/srv/a b:/x"],
            &[
                "",
                "/srv",
                "srv:/data",
                "/srv:data",
                "/srv/../etc:/data",
                "/srv/./a:/data",
                "/srv//a:/data",
                "/srv/:/data",
                "/srv:/",
                "/srv:/data:rw",
                "/srv:/data:z",
                "/a\n:/b",
                "name:/data",
            ],
        );
        assert_eq!(
            "/srv/data:/data:ro".parse::<Volume>().unwrap().to_string(),
            "/srv/data:/data"
        );
    }

    #[test]
    fn variables_and_arguments() {
        check::<VariableName>(&["LOG_LEVEL", "_a1"], &["", "1A", "A=B", "A B", "A-B"]);
        check::<Argument>(&["", "--flag=a b", "two\nlines"], &["\0", "\u{1b}[0m"]);
        assert!("x".repeat(4097).parse::<Argument>().is_err());
    }

    #[test]
    fn versions_that_may_be_started() {
        let definition = |versions: &str| Definition {
            versions: (!versions.is_empty()).then(|| versions.parse().unwrap()),
            ..crate::records::parse(br#"{"name": "a", "image": "a:{{ version }}", "port": 80}"#).unwrap()
        };
        for (versions, version, allowed) in [
            ("", "main-4f2a", true),
            (">=0.0.1", "0.0.3", true),
            (">=0.0.1", "main-4f2a", false),
            ("^1", "2.0.0", false),
        ] {
            let version = version.parse().unwrap();
            assert_eq!(
                definition(versions).allows(&version),
                allowed,
                "{versions} {version}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_volume_that_does_not_climb_or_an_error(text in "[/.:a\\x00\n]{0,20}") {
            if let Ok(volume) = text.parse::<Volume>() {
                for path in [volume.source(), volume.target()] {
                    prop_assert!(path.starts_with('/') && !path.split('/').any(|part| part == ".."));
                }
            }
        }

        #[test]
        fn amounts_survive_their_text(bytes in (6u64 << 20)..=(1 << 40), thousandths in 10u32..=512_000) {
            let memory = Memory(bytes);
            prop_assert_eq!(memory.to_string().parse::<Memory>(), Ok(memory));
            let cpus = Cpus(thousandths);
            prop_assert_eq!(cpus.to_string().parse::<Cpus>(), Ok(cpus));
        }
    }
}
