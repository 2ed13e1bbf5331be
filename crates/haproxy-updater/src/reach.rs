//! How far this router reaches outside: what the operator allows, and where it listens itself. What
//! it may not ask by any address of a file is its own binds: the address that each names, or, of
//! one that names none, every address of this host's interfaces as the kernel lists them, and the
//! address that it advertises.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use mayfly_core::outside::{AddressRule, Allowed, Network};
use tracing::warn;

use crate::haproxy::tokens::Bind;

/// What does not change while it runs.
#[derive(Debug, Clone)]
pub struct Reach {
    allowed: Vec<Allowed>,
    most: usize,
    binds: BTreeSet<(Option<IpAddr>, u16)>,
}

impl Reach {
    /// For a router that listens at these places.
    pub fn new<'a>(allowed: Vec<Allowed>, most: usize, binds: impl Iterator<Item = &'a Bind>) -> Self {
        Self {
            allowed,
            most,
            binds: binds.map(Bind::place).collect(),
        }
    }

    /// The rule at this moment: interfaces come and go. `advertised` is the address that was found
    /// last.
    pub fn rule(&self, advertised: Option<IpAddr>) -> AddressRule {
        let host = match self.binds.iter().any(|(ip, _)| ip.is_none()) {
            true => networks_of_this_host(),
            false => BTreeSet::new(),
        };
        self.rule_on(&host, advertised)
    }

    fn rule_on(&self, host: &BTreeSet<Network>, advertised: Option<IpAddr>) -> AddressRule {
        let mut own = BTreeSet::new();
        for (ip, port) in &self.binds {
            match ip {
                Some(ip) => drop(own.insert((Network::from(*ip), *port))),
                None => own.extend(host.iter().map(|network| (*network, *port))),
            }
            own.extend(advertised.map(|ip| (Network::from(ip), *port)));
        }
        AddressRule::new(self.allowed.clone(), own, self.most)
    }
}

/// What the kernel takes for this host.
fn networks_of_this_host() -> BTreeSet<Network> {
    let read = |path| {
        std::fs::read_to_string(path).unwrap_or_else(|error| {
            warn!(
                "cannot read {path}: {error}; the router may not recognise all addresses of its own \
                 host"
            );
            String::new()
        })
    };
    let mut all = of_ipv4(&read("/proc/net/fib_trie"));
    // Where IPv6 is switched off there is no such file.
    all.extend(of_ipv6(
        &std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default(),
    ));
    all
}

/// Reads the routes of IPv4: an address in one line, and in those after it the networks from there
/// on, `/32 host LOCAL` for an address of an interface and `/8 host LOCAL` for loopback.
fn of_ipv4(text: &str) -> BTreeSet<Network> {
    let mut first = None;
    let mut all = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            first = address.parse::<IpAddr>().ok();
        } else if let Some(length) = line
            .strip_prefix('/')
            .and_then(|rest| rest.strip_suffix(" host LOCAL"))
        {
            let network = first.and_then(|first| Network::new(first, length.parse().ok()?));
            all.extend(network);
        }
    }
    all
}

/// Reads the interfaces' addresses of IPv6: 32 hexadecimal digits, and what is of no interest.
/// Link-local ones, of which each interface has one, are refused anyway.
fn of_ipv6(text: &str) -> BTreeSet<Network> {
    let addresses = text.lines().filter_map(|line| {
        let bits = u128::from_str_radix(line.split_whitespace().next()?, 16).ok()?;
        let ip = Ipv6Addr::from(bits);
        (ip.segments()[0] & 0xffc0 != 0xfe80).then(|| Network::from(IpAddr::from(ip)))
    });
    addresses.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use mayfly_core::upstream::Upstream;

    /// As Linux 6.1 has it.
    const TRIE: &str = "Main:
  +-- 0.0.0.0/0 3 0 4
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        +-- 127.0.0.0/31 1 0 0
           |-- 127.0.0.0
              /8 host LOCAL
           |-- 127.0.0.1
              /32 host LOCAL
        |-- 127.255.255.255
           /32 link BROADCAST
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.0
           /24 link UNICAST
        |-- 192.0.2.2
           /32 host LOCAL
";
    const INTERFACES: &str = "fe8000000000000000fc00fffe000001 04 40 20 80     eth0
00000000000000000000000000000001 01 80 10 80       lo
fd000000000000000000000000000002 04 40 00 82     eth0
";

    fn texts(networks: BTreeSet<Network>) -> Vec<String> {
        networks.iter().map(Network::to_string).collect()
    }

    #[test]
    fn the_kernel_lists_the_addresses_of_this_host() {
        assert_eq!(texts(of_ipv4(TRIE)), ["127.0.0.0/8", "127.0.0.1", "192.0.2.2"]);
        assert_eq!(texts(of_ipv6(INTERFACES)), ["::1", "fd00::2"]);
        assert!(texts(networks_of_this_host()).contains(&"127.0.0.1".to_owned()));
    }

    #[test]
    fn a_router_does_not_ask_itself() {
        let refused = |binds: &str, advertised: Option<&str>, address: &str| {
            let binds: Vec<Bind> = binds.split(' ').map(|bind| bind.parse().unwrap()).collect();
            let reach = Reach::new(Vec::new(), 9, binds.iter());
            let rule = reach.rule_on(&of_ipv4(TRIE), advertised.map(|ip| ip.parse().unwrap()));
            let upstream: Upstream = address.parse().unwrap();
            rule.refuses(&upstream)
                .is_some_and(|reason| reason.contains("router itself listens"))
        };
        for (binds, advertised, own, others) in [
            (
                "10.0.0.7:80 10.0.0.8:8080",
                None,
                &["10.0.0.7:80", "10.0.0.8:8080"][..],
                &["10.0.0.7:8080", "192.0.2.2:80"][..],
            ),
            (
                "*:80 [::]:8080",
                None,
                &["192.0.2.2:80", "192.0.2.2:8080", "127.9.9.9:80"],
                &["192.0.2.2:81", "192.0.2.3:80"],
            ),
            (
                "10.0.0.7:80 0.0.0.0:8080",
                Some("198.51.100.1"),
                &["198.51.100.1:80", "198.51.100.1:8080", "192.0.2.2:8080"],
                &["192.0.2.2:80", "198.51.100.1:81"],
            ),
            ("[fd00::7]:80", None, &["[fd00::7]:80"], &["[fd00::7]:81"]),
        ] {
            for address in own {
                assert!(refused(binds, advertised, address), "{binds}: {address}");
            }
            for address in others {
                assert!(!refused(binds, advertised, address), "{binds}: {address}");
            }
        }
    }
}
