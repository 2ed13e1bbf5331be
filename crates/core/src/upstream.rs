//! The address of a server that Mayfly may not have started: an IP address or a host name, in clear
//! text or behind TLS. Routers resolve host names and follow them as they change.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use crate::address::{Address, InstanceId};
use crate::names::{Hostname, NameError, checked_conversions};

const RULE: &str = "a host and a port, such as billing.internal:8080 or 10.0.0.5:8080, or a URL \
     without a path, such as https://billing.internal";

/// A server: a host, a port from 1 to 65535, and whether it speaks TLS. Written `10.0.0.5:8080`,
/// `billing.internal:8080` or `https://billing.internal:443`; a scheme may stand in for its port,
/// 80 or 443.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Upstream {
    /// Whether it speaks TLS.
    pub tls: bool,
    /// The host.
    pub host: UpstreamHost,
    port: u16,
}

/// The host of an [`Upstream`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpstreamHost {
    /// An IP address that one host can have.
    Ip(IpAddr),
    /// A name that a router resolves.
    Name(Hostname),
}

impl Upstream {
    /// The port, at least 1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The address, unless the host is a name.
    pub fn address(&self) -> Option<Address> {
        match &self.host {
            // Both parts were checked when this was made.
            UpstreamHost::Ip(ip) => Address::new(*ip, self.port).ok(),
            UpstreamHost::Name(_) => None,
        }
    }

    /// The host name, unless the host is an IP address.
    pub fn name(&self) -> Option<&Hostname> {
        match &self.host {
            UpstreamHost::Ip(_) => None,
            UpstreamHost::Name(name) => Some(name),
        }
    }

    /// Names the instance here in its etcd key, whether or not it speaks TLS: as that of its
    /// address, or with a name in its place.
    ///
    /// # Errors
    /// When the name and the port together pass 128 bytes.
    pub fn id(&self) -> Result<InstanceId, NameError> {
        self.host_and_port().replace(['[', ']'], "").parse()
    }

    /// The URL without a path: always with scheme and port, `http://10.0.0.5:8080`.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.host_and_port())
    }

    /// What a client says in the header Host: host and port, without the port that the scheme
    /// stands for.
    pub fn authority(&self) -> String {
        let host_and_port = self.host_and_port();
        let implied = if self.tls { ":443" } else { ":80" };
        match host_and_port.strip_suffix(implied) {
            Some(host) => host.to_owned(),
            None => host_and_port,
        }
    }

    /// Host and port, IPv6 in brackets: `10.0.0.5:8080`.
    pub fn host_and_port(&self) -> String {
        match &self.host {
            UpstreamHost::Ip(IpAddr::V6(ip)) => format!("[{ip}]:{}", self.port),
            UpstreamHost::Ip(ip) => format!("{ip}:{}", self.port),
            UpstreamHost::Name(name) => format!("{name}:{}", self.port),
        }
    }
}

impl From<Address> for Upstream {
    fn from(address: Address) -> Self {
        Self {
            tls: false,
            host: UpstreamHost::Ip(address.ip()),
            port: address.port(),
        }
    }
}

impl FromStr for Upstream {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = || NameError::new(text, "an address", RULE);
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => {
                (Some(scheme), rest.strip_suffix('/').unwrap_or(rest))
            }
            Some(_) => return Err(error()),
            None => (None, text),
        };
        let tls = scheme == Some("https");
        if let Ok(address) = rest.parse::<Address>() {
            return Ok(Self {
                tls,
                ..address.into()
            });
        }
        // The colon before the port stands outside of the brackets of IPv6.
        let (host, port) = match rest.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, port.parse().map_err(|_| error())?)
            }
            Some(_) => return Err(error()),
            None => match scheme {
                Some(_) if tls => (rest, 443),
                Some(_) => (rest, 80),
                None => return Err(error()),
            },
        };
        let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
        let ip = match bare {
            Some(inner) => Some(inner.parse::<std::net::Ipv6Addr>().map_err(|_| error())?.into()),
            None => host.parse::<Ipv4Addr>().ok().map(IpAddr::from),
        };
        if let Some(ip) = ip {
            let address = Address::new(ip, port).map_err(|_| error())?;
            return Ok(Self {
                tls,
                ..address.into()
            });
        }
        let name: Hostname = host.to_ascii_lowercase().parse().map_err(|_| error())?;
        if is_number(name.as_str()) {
            return Err(match as_libc_reads(name.as_str()) {
                Some(ip) => NameError::new(
                    text,
                    "an address",
                    format!(
                        "an IP address has four decimal numbers; some programs would read this as \
                         {ip}"
                    ),
                ),
                None => error(),
            });
        }
        if port == 0 {
            return Err(error());
        }
        Ok(Self {
            tls,
            host: UpstreamHost::Name(name),
            port,
        })
    }
}

/// Whether a text has the form of a host name, and of a number to resolvers: `10.0.0.300`,
/// `0x7f000001`, `127.1`. Nobody means it as a name, and no domain ends like that (RFC 3696,
/// section 2).
pub(crate) fn is_number(host: &str) -> bool {
    let label = host.rsplit('.').next().unwrap_or_default();
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits(label) || label.strip_prefix("0x").is_some_and(hex)
}

/// The address that `inet_aton` of libc reads in such a number: up to four parts, decimal, octal or
/// hexadecimal, of which the last fills what is left.
fn as_libc_reads(host: &str) -> Option<Ipv4Addr> {
    let number = |part: &str| match part.strip_prefix("0x") {
        Some("") => Some(0),
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None if part.starts_with('0') => u32::from_str_radix(part, 8).ok(),
        None => part.parse().ok(),
    };
    let parts: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = parts.split_last().filter(|(_, first)| first.len() < 4)?;
    let mut address = u64::from(*last);
    for (place, part) in (1u32..).zip(first) {
        address += u64::from(u8::try_from(*part).ok()?) << (32 - 8 * place);
    }
    let room = 1u64 << (32 - 8 * first.len());
    let fits = u64::from(*last) < room;
    Some(Ipv4Addr::from(u32::try_from(address).ok().filter(|_| fits)?))
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.tls {
            f.pad(&self.url())
        } else {
            f.pad(&self.host_and_port())
        }
    }
}
checked_conversions!(Upstream);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms() {
        for (text, shown, url) in [
            ("10.0.0.5:8080", "10.0.0.5:8080", "http://10.0.0.5:8080"),
            ("[fd00::5]:8080", "[fd00::5]:8080", "http://[fd00::5]:8080"),
            (
                "Billing.Internal:8080",
                "billing.internal:8080",
                "http://billing.internal:8080",
            ),
            (
                "http://billing.internal",
                "billing.internal:80",
                "http://billing.internal:80",
            ),
            (
                "https://billing.internal/",
                "https://billing.internal:443",
                "https://billing.internal:443",
            ),
            (
                "https://[fd00::5]",
                "https://[fd00::5]:443",
                "https://[fd00::5]:443",
            ),
            (
                "https://10.0.0.5:8443",
                "https://10.0.0.5:8443",
                "https://10.0.0.5:8443",
            ),
        ] {
            let upstream: Upstream = text.parse().unwrap();
            assert_eq!(
                (upstream.to_string().as_str(), upstream.url().as_str()),
                (shown, url)
            );
            assert_eq!(upstream.url().parse::<Upstream>().unwrap(), upstream);
        }
        for bad in [
            "",
            "billing.internal",
            "10.0.0.5",
            "host:0",
            "host:65536",
            "host:+80",
            "host:",
            "https://",
            "https://a/b",
            "https://a?b",
            "ftp://a",
            "https://user@a",
            "0.0.0.0:80",
            "10.0.0.300:80",
            "https://[fd00::5",
            "[host]:80",
            "a_b:80",
            "a b:80",
            "a:80\n",
        ] {
            assert!(bad.parse::<Upstream>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_only_libc_reads_as_a_number_is_no_name() {
        for (bad, meant) in [
            ("0x7f000001:2379", "127.0.0.1"),
            ("0X7F000001:2379", "127.0.0.1"),
            ("017700000001:2379", "127.0.0.1"),
            ("2130706433:2379", "127.0.0.1"),
            ("127.1:80", "127.0.0.1"),
            ("127.0.1:80", "127.0.0.1"),
            ("127.0x1:80", "127.0.0.1"),
            ("0251.0376.0xa9fe:80", "169.254.169.254"),
            ("http://0xa9.0xfe.0xa9.0xfe", "169.254.169.254"),
            ("https://0:443", "0.0.0.0"),
            ("0x:80", "0.0.0.0"),
            ("127.0.0.1.:80", "127.0.0.1"),
        ] {
            let error = bad.parse::<Upstream>().unwrap_err();
            assert!(error.rule().contains(meant), "{bad}: {error}");
        }
        for bad in [
            "10.0.0.300:80",
            "1.2.3.4.5:80",
            "a.0x7f:80",
            "08:80",
            "256.1:80",
            "0x1ffffffff:80",
        ] {
            let error = bad.parse::<Upstream>().unwrap_err();
            assert!(error.rule().starts_with("a host and a port"), "{bad}: {error}");
        }
        for good in [
            "0x7g:80",
            "7f.internal:80",
            "0x7f.example:80",
            "127.0.0.1.example:80",
        ] {
            assert!(good.parse::<Upstream>().unwrap().name().is_some(), "{good}");
        }
    }

    #[test]
    fn a_client_leaves_out_the_port_of_the_scheme() {
        for (text, authority) in [
            ("https://billing.internal", "billing.internal"),
            ("https://billing.internal:80", "billing.internal:80"),
            ("http://billing.internal:443", "billing.internal:443"),
            ("billing.internal:80", "billing.internal"),
            ("[fd00::80]:80", "[fd00::80]"),
            ("10.0.0.5:8080", "10.0.0.5:8080"),
        ] {
            assert_eq!(text.parse::<Upstream>().unwrap().authority(), authority);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_address_without_syntax_or_an_error(text in "(https?://)?[a-z0-9.\\[\\]:-]{0,20}(:[0-9]{1,5})?/?|(0x?[0-9a-f]{0,9}\\.?){1,4}:80|\\PC{0,20}|[ -~\\n]{0,20}") {
            if let Ok(upstream) = text.parse::<Upstream>() {
                prop_assert!(upstream.name().is_none_or(|name| as_libc_reads(name.as_str()).is_none()));
                for written in [upstream.to_string(), upstream.url()] {
                    prop_assert_eq!(&written.parse::<Upstream>().unwrap(), &upstream);
                    prop_assert!(written.is_ascii() && !written.contains(|c: char| c.is_whitespace() || c.is_control() || "\"{};\\<>@#,".contains(c)), "{:?}", written);
                }
            }
        }
    }
}
