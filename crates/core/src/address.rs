//! The address of an instance as a checked type, and the identifier that follows from it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use crate::names::{NameError, Text, checked_text};

/// Where an instance listens: an IP address and a port of at least 1, as `10.0.0.5:8080` or
/// `[fd00::5]:8080`. Host names are not addresses: who registers resolves them, so that no router
/// ever waits for a resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Address(SocketAddr);

impl Address {
    /// The address of a port on a host.
    ///
    /// # Errors
    /// When the port is 0, or nobody could listen there: an unspecified or multicast address.
    pub fn new(host: IpAddr, port: u16) -> Result<Self, NameError> {
        let address = SocketAddr::new(host, port);
        if port == 0 || host.is_unspecified() || host.is_multicast() {
            return Err(Self::error(&address.to_string()));
        }
        Ok(Self(address))
    }

    fn error(given: &str) -> NameError {
        NameError::new(
            given,
            "an address",
            "the IP address of one host and a port from 1 to 65535, such as 10.0.0.5:8080",
        )
    }

    /// The IP address.
    pub fn ip(&self) -> IpAddr {
        self.0.ip()
    }

    /// The port, at least 1.
    pub fn port(&self) -> u16 {
        self.0.port()
    }
}

impl FromStr for Address {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        // A scope (`fe80::1%2`) means something on one machine only.
        let address: SocketAddr = text.parse().map_err(|_| Self::error(text))?;
        if text.contains('%') {
            return Err(Self::error(text));
        }
        Self::new(address.ip(), address.port())
    }
}

impl TryFrom<String> for Address {
    type Error = NameError;

    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Address> for String {
    fn from(address: Address) -> String {
        address.to_string()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names one instance of a backend in its etcd key: letters, digits, `.`, `_`, `:`, `-`, at most
/// 128 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceId(Text);

impl InstanceId {
    fn check(text: &str) -> Result<Text, NameError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
        if (1..=128).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(text.into());
        }
        Err(NameError::new(
            text,
            "an instance id",
            "letters, digits, `.`, `_`, `:`, `-`, at most 128",
        ))
    }

    /// The identifier of the instance at an address: the address without the brackets of IPv6.
    pub fn of(address: &Address) -> Self {
        Self(address.to_string().replace(['[', ']'], "").into())
    }
}
checked_text!(InstanceId);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Upstream;
    use proptest::prelude::*;

    #[test]
    fn addresses() {
        for good in ["10.0.0.5:8080", "[fd00::5]:1", "127.0.0.1:65535"] {
            assert_eq!(good.parse::<Address>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "10.0.0.5",
            "10.0.0.5:0",
            "0.0.0.0:80",
            "[::]:80",
            "host:80",
            "[fe80::1%2]:80",
            "1.2.3.4:80\n",
        ] {
            assert!(bad.parse::<Address>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ids_follow_from_addresses() {
        for (address, id) in [("10.0.0.5:8080", "10.0.0.5:8080"), ("[fd00::5]:80", "fd00::5:80")] {
            assert_eq!(InstanceId::of(&address.parse().unwrap()).as_str(), id);
        }
    }

    #[test]
    fn ids_of_hosts() {
        for (upstream, id) in [
            ("10.0.0.5:8080", "10.0.0.5:8080"),
            ("https://[fd00::5]", "fd00::5:443"),
            ("https://billing.internal", "billing.internal:443"),
        ] {
            assert_eq!(upstream.parse::<Upstream>().unwrap().id().unwrap().as_str(), id);
        }
        let long = format!("{}:80", ["a".repeat(60).as_str(); 3].join("."));
        assert!(long.parse::<Upstream>().unwrap().id().is_err());
    }

    proptest! {
        #[test]
        fn every_address_has_a_valid_id(octets: [u8; 16], v6: bool, port: u16) {
            let ip: IpAddr = if v6 { octets.into() } else { [octets[0], octets[1], octets[2], octets[3]].into() };
            if let Ok(address) = Address::new(ip, port) {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
                let id = InstanceId::of(&address);
                prop_assert_eq!(id.as_str().parse::<InstanceId>().unwrap(), id);
            }
        }
    }
}
