//! Who can reach an address of a host. Others connect to what a host registers, so an address that
//! means the host itself is refused unless an operator wants exactly that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const LOOPBACK: &str = "a loopback address";
const LINK_LOCAL: &str = "a link-local address";
const THIS_HOST: &str = "an address that means the host itself";

/// What an address is that others cannot use, to be said after `is`; `None` for any other.
pub fn kind(ip: IpAddr) -> Option<&'static str> {
    let ip = ip.to_canonical();
    let (loopback, link_local) = match ip {
        IpAddr::V4(ip) => (ip.is_loopback(), ip.is_link_local()),
        IpAddr::V6(ip) => (ip.is_loopback(), ip.is_unicast_link_local()),
    };
    if loopback {
        Some(LOOPBACK)
    } else if link_local {
        Some(LINK_LOCAL)
    } else if is_this_host(ip) {
        Some(THIS_HOST)
    } else {
        None
    }
}

/// As [`kind`], and why others cannot use it.
pub fn only_here(ip: IpAddr) -> Option<&'static str> {
    kind(ip).map(|kind| match kind {
        LOOPBACK => "a loopback address, at which every host and container reaches only itself",
        LINK_LOCAL => "a link-local address, which other networks cannot reach",
        _ => "an address that means the host itself, at which every host reaches only itself",
    })
}

/// Linux takes all of 0.0.0.0/8 for itself.
fn is_this_host(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.octets()[0] == 0,
        IpAddr::V6(ip) => ip.is_unspecified(),
    }
}

/// Whether the whole Internet may reach an address: it is none of a network of somebody's own.
pub fn is_public(ip: IpAddr) -> bool {
    let own = match ip.to_canonical() {
        IpAddr::V4(ip) => is_own_v4(ip),
        IpAddr::V6(ip) => is_own_v6(ip),
    };
    !own && only_here(ip).is_none()
}

fn is_own_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    // Behind the NAT of a provider (100.64.0.0/10), for benchmarks (198.18.0.0/15), and reserved.
    let special = matches!((a, b), (100, 64..=127) | (198, 18..=19) | (240.., _));
    ip.is_private() || ip.is_documentation() || special
}

fn is_own_v6(ip: Ipv6Addr) -> bool {
    let [first, second, ..] = ip.segments();
    ip.is_unique_local() || ip.is_multicast() || (first, second) == (0x2001, 0xdb8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_only_their_own_host_reaches() {
        for (text, part) in [
            ("127.0.0.1", "loopback"),
            ("127.0.1.1", "loopback"),
            ("::1", "loopback"),
            ("::ffff:127.0.0.1", "loopback"),
            ("169.254.7.7", "link-local"),
            ("fe80::1", "link-local"),
            ("0.0.0.0", "the host itself"),
            ("::", "the host itself"),
        ] {
            let ip = text.parse().unwrap();
            assert!(only_here(ip).is_some_and(|what| what.contains(part)), "{text}");
            assert!(!is_public(ip), "{text}");
        }
        for text in ["10.0.0.5", "172.17.0.1", "8.8.8.8", "fd00::5", "2a00::5"] {
            assert_eq!(only_here(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn addresses_of_the_internet() {
        for (text, public) in [
            ("10.0.0.5", false),
            ("172.31.0.1", false),
            ("192.168.1.5", false),
            ("100.64.0.1", false),
            ("192.0.2.2", false),
            ("198.18.3.1", false),
            ("fd00::5", false),
            ("2001:db8::1", false),
            ("::ffff:10.0.0.5", false),
            ("8.8.8.8", true),
            ("100.128.0.1", true),
            ("172.32.0.1", true),
            ("2a00::5", true),
            ("::ffff:8.8.8.8", true),
        ] {
            assert_eq!(is_public(text.parse().unwrap()), public, "{text}");
        }
    }
}
