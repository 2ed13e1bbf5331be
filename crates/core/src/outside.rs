//! Which external addresses a router may connect to. An environment file names them with
//! `address:`, so anyone who may push a file could make a router connect to whatever it reaches:
//! etcd, an engine, the metadata of a cloud.
//!
//! The rule judges an address, and the name that resolves to it. Some ranges belong to the router's
//! host alone ([`SPECIAL`]), and so does the address where the router listens: these need an entry
//! of `--allow-address` of their own. Everything else passes if there are no entries; with entries,
//! only what one of them names passes. A rule is a value: routers use their own, and tools use the
//! one that a router reports.

mod network;

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use crate::address::Address;
use crate::names::{Hostname, NameError, checked_conversions};
use crate::upstream::{Upstream, UpstreamHost, is_number};

pub use network::Network;

/// How many addresses of one environment count, in the order of its file.
pub const MOST_OF_ONE: usize = 100;
/// How many addresses a router takes in all unless an operator says otherwise.
pub const MOST: usize = 1000;
/// Entries of `--allow-address` that a message names at most.
const MOST_TOLD: usize = 5;

/// The ranges that pass only by an entry within them, and what each is.
const SPECIAL: [(&str, &str); 17] = [
    ("127.0.0.0/8", "a loopback address"),
    ("::1", "a loopback address"),
    (
        "169.254.0.0/16",
        "a link-local address, as the metadata of a cloud has",
    ),
    ("fe80::/10", "a link-local address"),
    // Linux takes 0.0.0.0 for itself.
    ("0.0.0.0/8", "an address of the host itself"),
    // Metadata and agents of clouds at addresses that are not link-local: AWS, Google, Azure,
    // Alibaba.
    ("fd00:ec2::/32", "the metadata of a cloud"),
    ("fd20:ce::254", "the metadata of a cloud"),
    ("168.63.129.16", "the metadata of a cloud"),
    ("100.100.100.200", "the metadata of a cloud"),
    // Oracle by both families, and Scaleway.
    ("192.0.0.192", "the metadata of a cloud"),
    ("fd00:c1::a9fe:a9fe", "the metadata of a cloud"),
    ("fd00:42::42", "the metadata of a cloud"),
    // Broadcast among them.
    ("240.0.0.0/4", "a reserved address, which no host has"),
    ("fec0::/10", "a site-local address, an obsolete form"),
    // An IPv4 address in another form; where it is clear which, that is judged, see `bare` and
    // `carried`.
    ("::/96", "an IPv4 address in an obsolete form of IPv6"),
    ("2001::/32", "a Teredo address, which hides an IPv4 address"),
    (
        "64:ff9b:1::/48",
        "an address of a local NAT64, which hides an IPv4 address",
    ),
];

/// What the hosts files of Debian, Fedora and their kin call the host itself, besides `localhost`.
const HOST_ITSELF: [&str; 7] = [
    "localhost.localdomain",
    "localhost4",
    "localhost4.localdomain4",
    "localhost6",
    "localhost6.localdomain6",
    "ip6-localhost",
    "ip6-loopback",
];

/// One entry of `--allow-address`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Allowed {
    /// This host name.
    Name(Hostname),
    /// Every host name below this one, `*.internal`.
    Below(Hostname),
    /// Every address of a network, or one address.
    Network(Network),
}

impl Allowed {
    fn names(&self, name: &Hostname) -> bool {
        match self {
            Self::Name(allowed) => allowed == name,
            Self::Below(domain) => name
                .as_str()
                .strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.ends_with('.')),
            Self::Network(_) => false,
        }
    }

    fn network(&self) -> Option<&Network> {
        match self {
            Self::Network(network) => Some(network),
            Self::Name(_) | Self::Below(_) => None,
        }
    }
}

impl FromStr for Allowed {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let rule = "a host name, `*.` and a domain, an IP address or a network, such as \
             billing.example, *.internal, 10.0.0.5 or 10.0.0.0/8";
        if text.contains('/') || text.parse::<IpAddr>().is_ok() {
            return text.parse().map(Self::Network);
        }
        let name = text.strip_prefix("*.").unwrap_or(text).to_ascii_lowercase();
        let name: Hostname = name
            .parse()
            .ok()
            .filter(|name: &Hostname| !is_number(name.as_str()))
            .ok_or_else(|| NameError::new(text, "an entry of --allow-address", rule))?;
        Ok(match text.starts_with("*.") {
            true => Self::Below(name),
            false => Self::Name(name),
        })
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Below(domain) => write!(f, "*.{domain}"),
            Self::Network(network) => network.fmt(f),
        }
    }
}
checked_conversions!(Allowed);

/// What a router asks outside, and what it refuses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRule {
    /// The entries of `--allow-address`; none allows everything that is nobody's own.
    allowed: Vec<Allowed>,
    /// Where the router itself listens.
    own: BTreeSet<(Network, u16)>,
    /// How many addresses of environments are in force at most.
    most: usize,
    /// For who does not know what routers allow.
    #[serde(default)]
    off: bool,
}

impl Default for AddressRule {
    /// The rule of a router without a flag.
    fn default() -> Self {
        Self::new(Vec::new(), BTreeSet::new(), MOST)
    }
}

impl AddressRule {
    /// A rule by the entries of `--allow-address`, where the router listens, and the limit of
    /// `--max-addresses`.
    pub fn new(allowed: Vec<Allowed>, own: BTreeSet<(Network, u16)>, most: usize) -> Self {
        Self {
            allowed,
            own,
            most,
            off: false,
        }
    }

    /// The rule that refuses nothing, for who does not know what routers allow and decides nothing.
    pub fn off() -> Self {
        Self {
            off: true,
            ..Self::new(Vec::new(), BTreeSet::new(), usize::MAX)
        }
    }

    /// How many addresses of environments are in force at most.
    pub fn most(&self) -> usize {
        self.most
    }

    /// The same rule for who listens in these places, too.
    #[must_use]
    pub fn with_own_of(mut self, other: &Self) -> Self {
        self.own.extend(other.own.iter().copied());
        self
    }

    /// Why a server is refused whatever its host may resolve to: its address, if it is one, or its
    /// name where only names are allowed, and not this one.
    pub fn refuses(&self, upstream: &Upstream) -> Option<String> {
        let place = upstream.host_and_port();
        match &upstream.host {
            UpstreamHost::Ip(_) => {
                let what = self.refuses_address(&upstream.host, upstream.address()?)?;
                Some(format!("{place} is {what}"))
            }
            UpstreamHost::Name(name) if is_localhost(name) => {
                let refuses = |ip: IpAddr| {
                    let address = Address::new(ip, upstream.port()).ok()?;
                    self.refuses_address(&upstream.host, address)
                };
                // It may lead to either.
                let what = refuses(Ipv4Addr::LOCALHOST.into());
                let what = refuses(Ipv6Addr::LOCALHOST.into()).and(what)?;
                Some(format!("{name} is {what}"))
            }
            UpstreamHost::Name(name) => {
                let may_resolve = self.allowed.iter().any(|entry| entry.network().is_some());
                let is_named = self.allowed.iter().any(|entry| entry.names(name));
                let passes = self.off || self.allowed.is_empty() || may_resolve || is_named;
                (!passes).then(|| format!("{place} is {}", self.not_allowed()))
            }
        }
    }

    /// What an address is that is refused, to be said after `is`; the host is where it comes from.
    pub fn refuses_address(&self, host: &UpstreamHost, address: Address) -> Option<String> {
        if self.off {
            return None;
        }
        let (ip, port) = (bare(address.ip()), address.port());
        let allowed = || self.allowed.iter().filter_map(Allowed::network);
        let listens = |ip: &IpAddr| {
            let mut own = self.own.iter();
            own.any(|(network, own)| *own == port && network.contains(*ip))
        };
        if let Some(ip) = std::iter::once(ip).chain(carried(ip)).find(listens) {
            let meant = allowed().any(|network| network.is_single() && network.contains(ip));
            return (!meant).then(|| {
                format!(
                    "where the router itself listens, so requests would come back; choose a \
                     version of that service, or allow exactly this address (--allow-address {ip})"
                )
            });
        }
        let barred = |ip: IpAddr| {
            let (range, what) = special(ip)?;
            let meant = allowed().any(|network| network.is_within(&range) && network.contains(ip));
            (!meant).then(|| format!("{what}, allowed only by an --allow-address within {range}"))
        };
        let hidden = || {
            let mut all = carried(ip);
            all.find_map(|inner| Some(format!("{inner} in another form, {}", barred(inner)?)))
        };
        if let Some(reason) = barred(ip).or_else(hidden) {
            return Some(reason);
        }
        // An entry is meant for it.
        if special(ip).is_some() {
            return None;
        }
        let is_named = || match host {
            UpstreamHost::Ip(_) => false,
            UpstreamHost::Name(name) => self.allowed.iter().any(|entry| entry.names(name)),
        };
        let passes = self.allowed.is_empty() || allowed().any(|network| network.contains(ip)) || is_named();
        (!passes).then(|| self.not_allowed())
    }

    fn not_allowed(&self) -> String {
        let shown: Vec<String> = self
            .allowed
            .iter()
            .take(MOST_TOLD)
            .map(ToString::to_string)
            .collect();
        let more = match self.allowed.len().saturating_sub(MOST_TOLD) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!(
            "not allowed: routers connect only to {}{more} (--allow-address)",
            shown.join(", ")
        )
    }
}

/// The special range that an address is in, and what that is.
fn special(ip: IpAddr) -> Option<(Network, &'static str)> {
    static RANGES: LazyLock<Vec<(Network, &str)>> = LazyLock::new(|| {
        let all = SPECIAL.iter();
        all.filter_map(|(range, what)| Some((range.parse().ok()?, *what)))
            .collect()
    });
    RANGES.iter().find(|(range, _)| range.contains(ip)).copied()
}

/// The address that packets go to: IPv4 that is written as IPv6 is what it is, and so is what the
/// usual NAT64 (RFC 6052) and SIIT (RFC 2765) translate.
fn bare(ip: IpAddr) -> IpAddr {
    const NAT64: u128 = 0x0064_ff9b << 96;
    const SIIT: u128 = 0xffff << 48;
    match ip.to_canonical() {
        IpAddr::V6(six) if [NAT64 >> 32, SIIT >> 32].contains(&(u128::from(six) >> 32)) => {
            let [.., a, b, c, d] = six.octets();
            Ipv4Addr::new(a, b, c, d).into()
        }
        ip => ip,
    }
}

/// The IPv4 addresses that an IPv6 address carries as the end of a tunnel: 6to4 (RFC 3056) behind
/// its prefix, ISATAP (RFC 5214) behind `0:5efe` at the end. A host that tunnels sends it there.
fn carried(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let octets = match ip {
        IpAddr::V4(_) => [0; 16],
        IpAddr::V6(six) => six.octets(),
    };
    let of_6to4 = match octets {
        [0x20, 0x02, a, b, c, d, ..] => Some([a, b, c, d]),
        _ => None,
    };
    let of_isatap = match octets {
        [.., 0 | 2, 0, 0x5e, 0xfe, a, b, c, d] => Some([a, b, c, d]),
        _ => None,
    };
    [of_6to4, of_isatap].into_iter().flatten().map(IpAddr::from)
}

/// Whether resolvers take a name for the host itself (RFC 6761, section 6.3), or the hosts file of
/// common systems does.
fn is_localhost(name: &Hostname) -> bool {
    let name = name.as_str();
    let reserved = name.strip_suffix("localhost");
    reserved.is_some_and(|rest| rest.is_empty() || rest.ends_with('.')) || HOST_ITSELF.contains(&name)
}

#[cfg(test)]
mod tests;
