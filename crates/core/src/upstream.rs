//! Where something listens that Mayfly may not have started: an IP address or a host name, in clear text or behind TLS.
//! Host names are resolved by the routers, which follow them as they change.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::address::Address;
use crate::names::{Hostname, NameError, checked_conversions};

const RULE: &str = "a host and a port, as billing.internal:8080 or 10.0.0.5:8080, or a URL without a path, as https://billing.internal";

/// A server: a host, a port from 1 to 65535, and whether it speaks TLS. Written `10.0.0.5:8080`,
/// `billing.internal:8080` or `https://billing.internal:443`; a scheme may stand in for its port, 80 or 443.
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

    /// The URL without a path: always with scheme and port, `http://10.0.0.5:8080`.
    pub fn url(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}", self.host_and_port())
    }

    /// What a client says in the header Host: host and port, without the port that the scheme stands for.
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
            None => host.parse::<std::net::Ipv4Addr>().ok().map(IpAddr::from),
        };
        if let Some(ip) = ip {
            let address = Address::new(ip, port).map_err(|_| error())?;
            return Ok(Self {
                tls,
                ..address.into()
            });
        }
        // `10.0.0.300` has the form of a host name; nobody means it as one.
        let numeric = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
        let name: Hostname = host.to_ascii_lowercase().parse().map_err(|_| error())?;
        if port == 0 || name.as_str().rsplit('.').next().is_none_or(numeric) {
            return Err(error());
        }
        Ok(Self {
            tls,
            host: UpstreamHost::Name(name),
            port,
        })
    }
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
        fn any_text_is_an_address_without_syntax_or_an_error(text in "(https?://)?[a-z0-9.\\[\\]:-]{0,20}(:[0-9]{1,5})?/?|\\PC{0,20}|[ -~\\n]{0,20}") {
            if let Ok(upstream) = text.parse::<Upstream>() {
                for written in [upstream.to_string(), upstream.url()] {
                    prop_assert_eq!(&written.parse::<Upstream>().unwrap(), &upstream);
                    prop_assert!(written.is_ascii() && !written.contains(|c: char| c.is_whitespace() || c.is_control() || "\"{};\\<>@#,".contains(c)), "{:?}", written);
                }
            }
        }
    }
}
