//! Checked types for text in haproxy.cfg, a map or a run-time command. core has checked what comes
//! from etcd; these types cover what comes from the operator and from HAProxy's own answers. They
//! are the only way into a [`crate::haproxy::commands::Command`].

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use mayfly_core::records::Protocol;
use mayfly_core::records::lifetime::parse_span;
use mayfly_core::routing::ServerId;
use mayfly_core::upstream::UpstreamHost;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use smol_str::SmolStr;

/// Why a text was refused: the text's kind and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {kind}")]
pub struct TextError {
    given: String,
    kind: &'static str,
}

fn error<T>(given: &str, kind: &'static str) -> Result<T, TextError> {
    Err(TextError {
        given: given.chars().take(80).collect(),
        kind,
    })
}

/// Shows checked texts as they are.
macro_rules! shown_as_they_are {
    ($($type:ident),+) => {
        $(impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(&self.0)
            }
        })+
    };
}
pub(super) use shown_as_they_are;

shown_as_they_are!(Word, ServerName, ConfigPath, CaFile, Bind, HealthPath, Pseudonym);

/// One word of a map or command: printable ASCII without blank, quote, brace, `;` or `\`, never
/// `<<`, and no `#` at its beginning. Every key and value that core builds is made of such words.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Word(SmolStr);

impl Word {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Whether a text is a [`Word`].
pub fn is_word(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"\"{};\\".contains(&byte);
    !text.is_empty() && text.bytes().all(allowed) && !text.contains("<<") && !text.starts_with('#')
}

impl FromStr for Word {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        if is_word(text) {
            Ok(Self(text.into()))
        } else {
            error(text, "a word of a map")
        }
    }
}

/// The name of a server within its slot: its address, without the brackets of IPv6, what it speaks
/// if that is not HTTP/1.1, and whose certificate it shows if it is behind TLS. If one of these
/// differs, it is another server.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct ServerName(String);

impl ServerName {
    /// The name as it stands in commands.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&ServerId> for ServerName {
    fn from(id: &ServerId) -> Self {
        let protocol = match id.protocol {
            Protocol::Http => "",
            Protocol::H2c => "-h2c",
        };
        let address = format!("{}:{}{protocol}", id.address.ip(), id.address.port());
        let Some(host) = &id.tls else {
            return Self(address);
        };
        let host = host_text(host);
        let name = format!("{address}-tls-{host}");
        if name.len() <= SERVER_NAME_LIMIT {
            return Self(name);
        }
        let digest = hex::encode(&Sha256::digest(host)[..16]);
        Self(format!("{address}-tls256-{digest}"))
    }
}

/// A host as it stands in a certificate: IPv6 without brackets.
pub fn host_text(host: &UpstreamHost) -> String {
    match host {
        UpstreamHost::Ip(ip) => ip.to_string(),
        UpstreamHost::Name(name) => name.to_string(),
    }
}

/// Longest name of a server, in bytes.
const SERVER_NAME_LIMIT: usize = 128;

impl FromStr for ServerName {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
        if (1..=SERVER_NAME_LIMIT).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        error(text, "the name of a server")
    }
}

/// One backend of the pool, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

impl FromStr for Slot {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let number = text
            .strip_prefix("slot-")
            .filter(|digits| !digits.starts_with(['0', '+']));
        match number.and_then(|digits| digits.parse().ok()) {
            Some(number) => Ok(Self(number)),
            None => error(text, "a slot"),
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot-{}", self.0)
    }
}

/// An absolute path that needs no quoting in haproxy.cfg: letters, digits and `/_.-`, at most 90
/// bytes, so that the name of a socket still fits behind it (a socket's path has at most 107).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigPath(String);

impl ConfigPath {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path as one of the file system.
    pub fn as_path(&self) -> &std::path::Path {
        self.0.as_ref()
    }

    /// The path of something below this directory. `name` is fixed text of this program.
    pub fn join(&self, name: &'static str) -> Self {
        Self(format!("{}/{name}", self.0))
    }
}

impl FromStr for ConfigPath {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.-".contains(&byte);
        let good = text.starts_with('/') && text.len() > 1 && text.len() <= 90 && text.bytes().all(allowed);
        match text.trim_end_matches('/') {
            bare if good && !bare.is_empty() => Ok(Self(bare.to_owned())),
            _ => error(text, "an absolute path of at most 90 letters, digits and /_.-"),
        }
    }
}

/// The authorities whose certificates are believed: `@system-ca`, those of the system that HAProxy
/// runs on, which it loads by itself when it starts; or the absolute path of a PEM file of letters,
/// digits and `/_.-`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CaFile(String);

const SYSTEM_CA: &str = "@system-ca";

impl CaFile {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The path of the file; `None` for the authorities of the system.
    pub fn path(&self) -> Option<&str> {
        (self.0 != SYSTEM_CA).then_some(self.as_str())
    }
}

impl Default for CaFile {
    fn default() -> Self {
        Self(SYSTEM_CA.to_owned())
    }
}

impl FromStr for CaFile {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.-".contains(&byte);
        let is_path = text.starts_with('/') && (2..=255).contains(&text.len()) && text.bytes().all(allowed);
        if is_path || text == SYSTEM_CA {
            return Ok(Self(text.to_owned()));
        }
        error(
            text,
            "the absolute path of a PEM file (letters, digits and /_.-), or @system-ca for the authorities of the system",
        )
    }
}

/// Where a listener binds: `*:80`, `10.0.0.1:8080` or `[fd00::1]:8080`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bind(String);

impl Bind {
    /// A port at the address of one host.
    pub fn at(ip: IpAddr, port: u16) -> Self {
        Self(SocketAddr::new(ip, port).to_string())
    }

    /// Whether it takes connections to every address of the host.
    pub fn is_everywhere(&self) -> bool {
        self.place().0.is_none()
    }

    /// The address, unless it is every one of the host, and the port.
    pub fn place(&self) -> (Option<IpAddr>, u16) {
        let (host, port) = self.0.rsplit_once(':').unwrap_or_default();
        let ip = host.trim_matches(['[', ']']).parse().ok();
        // It was checked when this was made.
        let port = port.parse().unwrap_or_default();
        (ip.filter(|ip: &IpAddr| !ip.is_unspecified()), port)
    }
}

impl FromStr for Bind {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let good = text.rsplit_once(':').is_some_and(|(host, port)| {
            let in_brackets = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let host_is_good = match in_brackets {
                Some(inner) => inner.parse::<Ipv6Addr>().is_ok(),
                None => host == "*" || host.parse::<Ipv4Addr>().is_ok(),
            };
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            host_is_good && digits && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if good {
            return Ok(Self(text.to_owned()));
        }
        error(
            text,
            "an address to bind to, such as *:80, 10.0.0.1:8080 or [fd00::1]:8080",
        )
    }
}

/// A listener of the edge: where it binds, and whether the balancer before it says in the PROXY
/// protocol who asks, as `*:80` or `*:80 accept-proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EdgeBind {
    pub place: Bind,
    accept_proxy: bool,
}

const ACCEPT_PROXY: &str = "accept-proxy";

impl FromStr for EdgeBind {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let (place, accept_proxy) = match text.split_once(' ') {
            None => (text, false),
            Some((place, ACCEPT_PROXY)) => (place, true),
            Some(_) => {
                return error(
                    text,
                    "an address to bind to, with `accept-proxy` behind it or nothing",
                );
            }
        };
        let place = place.parse()?;
        Ok(Self { place, accept_proxy })
    }
}

impl fmt::Display for EdgeBind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)?;
        match self.accept_proxy {
            true => write!(f, " {ACCEPT_PROXY}"),
            false => Ok(()),
        }
    }
}

/// The path at which HAProxy itself says that it serves: letters, digits and `/_.~-`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthPath(String);

impl FromStr for HealthPath {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/_.~-".contains(&byte);
        if text.starts_with('/') && (2..=128).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        error(text, "a path such as /.mayfly/health (letters, digits and /_.~-)")
    }
}

/// The name of a router in `Via`, of letters, digits and `-`: the same over restarts and reloads,
/// different for every other router, and it reveals no host name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pseudonym(String);

impl Pseudonym {
    /// Hashes everything that distinguishes this router from others.
    pub fn of<T: fmt::Display>(parts: impl IntoIterator<Item = T>) -> Self {
        let mut hash = Sha256::new();
        for part in parts {
            // The line ends it: none of the parts has one.
            hash.update(format!("{part}\n"));
        }
        Self(format!("mayfly-{}", hex::encode(&hash.finalize()[..8])))
    }
}

/// A whole number of milliseconds, above 0, as HAProxy's timeouts take it; written on the command
/// line as `500ms`, `5s` or `1h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Millis(u32);

impl FromStr for Millis {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let duration = parse_span(text);
        // HAProxy counts milliseconds in 31 bits: some 24 days.
        let millis = duration.and_then(|time| u32::try_from(time.as_millis()).ok());
        match millis.filter(|millis| (1..=i32::MAX as u32).contains(millis)) {
            Some(millis) => Ok(Self(millis)),
            None => error(text, "a time from 1ms to 24days, such as 500ms, 5s or 1h"),
        }
    }
}

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Self {
        Self::from_millis(millis.0.into())
    }
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn server_names_tell_address_and_protocol() {
        let name = |address: &str, protocol, tls: Option<&str>| {
            let url = tls.map(|host| format!("https://{host}").parse::<mayfly_core::upstream::Upstream>());
            ServerName::from(&ServerId {
                address: address.parse().unwrap(),
                protocol,
                tls: url.map(|url| url.unwrap().host),
            })
            .to_string()
        };
        assert_eq!(name("10.0.0.5:8080", Protocol::Http, None), "10.0.0.5:8080");
        assert_eq!(name("[fd00::5]:8080", Protocol::H2c, None), "fd00::5:8080-h2c");
        assert_eq!(
            name("10.0.0.5:443", Protocol::Http, Some("billing.internal")),
            "10.0.0.5:443-tls-billing.internal"
        );
        assert_eq!(
            name("[fd00::5]:443", Protocol::H2c, Some("[fd00::5]")),
            "fd00::5:443-h2c-tls-fd00::5"
        );
        let long = |end: &str| format!("{}.{end}", ["a".repeat(62).as_str(); 3].join("."));
        let names = ["x", "y"].map(|end| name("10.0.0.5:443", Protocol::Http, Some(&long(end))));
        assert!(names[0] != names[1] && names.iter().all(|name| name.parse::<ServerName>().is_ok()));
    }

    #[test]
    fn authorities() {
        assert_eq!("@system-ca".parse::<CaFile>().unwrap(), CaFile::default());
        assert_eq!(CaFile::default().path(), None);
        let file: CaFile = "/etc/ssl/ca.pem".parse().unwrap();
        assert_eq!(file.path(), Some("/etc/ssl/ca.pem"));
        for bad in ["", "/", "ca.pem", "@other", "/a b", "/a\n", "/a\"", "/a;b"] {
            assert!(bad.parse::<CaFile>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn binds() {
        for good in ["*:80", "127.0.0.1:8080", "[::]:80", "[fd00::1]:65535"] {
            assert_eq!(good.parse::<Bind>().unwrap().to_string(), good);
        }
        for bad in [
            "80", ":80", "*:0", "*:65536", "*:+80", "host:80", "*:80 ssl", "*:80\n", "::1:80", "[x]:80",
        ] {
            assert!(bad.parse::<Bind>().is_err(), "{bad}");
        }
        for (ip, text) in [("10.0.0.1", "10.0.0.1:8080"), ("fd00::1", "[fd00::1]:8080")] {
            let bind = Bind::at(ip.parse().unwrap(), 8080);
            assert_eq!(bind, text.parse().unwrap());
            assert!(!bind.is_everywhere());
        }
        for everywhere in ["*:80", "0.0.0.0:80", "[::]:80", "[0:0::0]:80"] {
            assert!(
                everywhere.parse::<Bind>().unwrap().is_everywhere(),
                "{everywhere}"
            );
        }
    }

    #[test]
    fn listeners_of_the_edge() {
        for good in ["*:80", "*:80 accept-proxy", "[::]:443 accept-proxy"] {
            let bind: EdgeBind = good.parse().unwrap();
            assert_eq!(bind.to_string(), good);
        }
        for bad in [
            "",
            "*:80 ",
            "*:80 ssl",
            "*:80 accept-proxy ssl",
            " *:80",
            "*:80  accept-proxy",
            "80 accept-proxy",
        ] {
            assert!(bad.parse::<EdgeBind>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn health_paths() {
        for good in ["/.mayfly/health", "/up", "/a~b_c-1.txt"] {
            assert_eq!(good.parse::<HealthPath>().unwrap().to_string(), good);
        }
        for bad in ["", "/", "up", "/a b", "/a?b", "/a\n", "/a\"", "/%41", "/{a}"] {
            assert!(bad.parse::<HealthPath>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pseudonyms_tell_routers_apart() {
        let name = Pseudonym::of(["router-1", "/mayfly"]);
        assert_eq!(name, Pseudonym::of(["router-1", "/mayfly"]));
        assert_eq!(name.to_string().len(), "mayfly-0123456789abcdef".len());
        for other in [
            ["router-2", "/mayfly"],
            ["router-1", "/other"],
            ["router-1/", "mayfly"],
        ] {
            assert_ne!(name, Pseudonym::of(other), "{other:?}");
        }
    }

    #[test]
    fn paths_slots_and_times() {
        assert_eq!(
            "/var/lib/mayfly/".parse::<ConfigPath>().unwrap().as_str(),
            "/var/lib/mayfly"
        );
        for bad in ["", "/", "a/b", "/a b", "/a\"", "/a,b", "/a\n", "/ä", "/a(b)"] {
            assert!(bad.parse::<ConfigPath>().is_err(), "{bad}");
        }
        assert_eq!("slot-17".parse::<Slot>().unwrap(), Slot(17));
        for bad in [
            "slot-0",
            "slot-",
            "slot-01",
            "slot-+1",
            "17",
            "slot-1 ",
            "slot-99999999999",
        ] {
            assert!(bad.parse::<Slot>().is_err(), "{bad}");
        }
        assert_eq!("1m".parse::<Millis>().unwrap().to_string(), "60000ms");
        for bad in ["0s", "60days", "5", "x"] {
            assert!(bad.parse::<Millis>().is_err(), "{bad}");
        }
    }

    proptest! {
        /// Whatever comes in, nothing that means something to HAProxy comes out.
        #[test]
        fn any_text_loses_its_syntax_or_is_an_error(text in "\\PC{0,30}|[ -~\\n\\t]{0,30}|[a-z]{1,4}[ \\n\"'{};#<\\\\]{1,3}[a-z]{0,4}") {
            let passed = [
                text.parse::<Word>().map(|word| word.to_string()),
                text.parse::<ServerName>().map(|name| name.to_string()),
                text.parse::<ConfigPath>().map(|path| path.to_string()),
                text.parse::<Bind>().map(|bind| bind.to_string()),
                text.parse::<CaFile>().map(|file| file.to_string()),
                text.parse::<Slot>().map(|slot| slot.to_string()),
                text.parse::<HealthPath>().map(|path| path.to_string()),
            ];
            for text in passed.into_iter().flatten() {
                let syntax = |c: char| c.is_whitespace() || c.is_control() || "\"{};\\".contains(c);
                prop_assert!(!text.contains(syntax) && !text.contains("<<") && !text.starts_with('#'), "{text:?}");
            }
        }
    }
}
