//! A network of IP addresses as a checked type: `10.0.0.0/8`, `fd00::/8`, or one address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::names::{NameError, checked_conversions};

/// The addresses that begin with the same bits. One address is a network, too, and is written
/// without a length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Network {
    first: IpAddr,
    length: u32,
}

impl Network {
    /// The network of an address; `None` when an address has not so many bits, or others than these
    /// are set in it.
    pub fn new(first: IpAddr, length: u32) -> Option<Self> {
        let network = Self { first, length };
        let host_bits = network.width().checked_sub(length)?;
        // Shifting by all 128 bits is none.
        let set = bits(first) & !u128::MAX.checked_shl(host_bits).unwrap_or_default();
        (set == 0).then_some(network)
    }

    /// Whether an address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.first.is_ipv4() == ip.is_ipv4()
            && (bits(self.first) ^ bits(ip))
                .checked_shr(self.width() - self.length)
                .unwrap_or_default()
                == 0
    }

    /// Whether all of it is in another.
    pub fn is_within(&self, other: &Self) -> bool {
        other.contains(self.first) && self.length >= other.length
    }

    /// The same addresses as networks whose bits are whole hexadecimal digits: eight at most.
    pub fn by_digits(&self) -> impl Iterator<Item = Self> + use<> {
        let Self { first, length } = *self;
        let whole = length.next_multiple_of(4);
        let host_bits = self.width() - whole;
        (0..1u128 << (whole - length)).map(move |number| {
            let bits = bits(first) | number.checked_shl(host_bits).unwrap_or_default();
            // The bits of an IPv4 address are the last 32.
            let first = match first {
                IpAddr::V4(_) => IpAddr::from((bits as u32).to_be_bytes()),
                IpAddr::V6(_) => IpAddr::from(bits.to_be_bytes()),
            };
            Self { first, length: whole }
        })
    }

    /// The digits that all its addresses begin with; it has to be one of whole digits.
    pub fn digits(&self) -> String {
        let all = match self.first {
            IpAddr::V4(ip) => format!("{:08X}", u32::from(ip)),
            IpAddr::V6(ip) => format!("{:032X}", u128::from(ip)),
        };
        all.chars().take(self.length as usize / 4).collect()
    }

    /// Whether its addresses are of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.first.is_ipv4()
    }

    /// Whether it is one address.
    pub fn is_single(&self) -> bool {
        self.length == self.width()
    }

    fn width(&self) -> u32 {
        if self.first.is_ipv4() { 32 } else { 128 }
    }
}

fn bits(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

impl From<IpAddr> for Network {
    fn from(ip: IpAddr) -> Self {
        let first = ip.to_canonical();
        let length = if first.is_ipv4() { 32 } else { 128 };
        Self { first, length }
    }
}

impl FromStr for Network {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let error = |rule: &str| NameError::new(text, "a network", rule);
        const RULE: &str = "an IP address, or a network such as 10.0.0.0/8 or fd00::/8";
        let (ip, length) = match text.split_once('/') {
            Some((ip, length)) => (ip, Some(length)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| error(RULE))?;
        let Some(length) = length else {
            return Ok(ip.into());
        };
        if ip.to_canonical() != ip {
            return Err(error("an IPv4 network in its own form, such as 10.0.0.0/8"));
        }
        let digits = length.bytes().all(|byte| byte.is_ascii_digit());
        let length = length.parse().ok().filter(|_| digits);
        let length = length.ok_or_else(|| error(RULE))?;
        Self::new(ip, length).ok_or_else(|| {
            error(
                "as many bits as its length says, the others 0, such as \
                 10.0.0.0/8",
            )
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_single() {
            return self.first.fmt(f);
        }
        write!(f, "{}/{}", self.first, self.length)
    }
}
checked_conversions!(Network);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_some_of_whole_digits() {
        for (text, expected) in [
            ("10.0.0.0/8", &["0A"][..]),
            ("10.1.2.3", &["0A010203"]),
            ("0.0.0.0/0", &[""]),
            ("128.0.0.0/1", &["8", "9", "A", "B", "C", "D", "E", "F"]),
            ("10.0.4.0/22", &["0A0004", "0A0005", "0A0006", "0A0007"]),
            ("10.0.0.254/31", &["0A0000FE", "0A0000FF"]),
            ("::/0", &[""]),
            ("2001:db8::/32", &["20010DB8"]),
            ("2001:db8::/31", &["20010DB8", "20010DB9"]),
        ] {
            let network: Network = text.parse().unwrap();
            let digits: Vec<String> = network.by_digits().map(|part| part.digits()).collect();
            assert_eq!(digits, expected, "{text}");
            assert!(network.by_digits().all(|part| part.is_within(&network)), "{text}");
        }
        let single: Network = "::1".parse().unwrap();
        assert_eq!(single.digits(), format!("{}1", "0".repeat(31)));
    }
}
