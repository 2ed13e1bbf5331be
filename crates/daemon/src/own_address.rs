//! The address by which others reach this host, wherever one is registered. [`Advertised`] is what
//! an operator gives for it. This file has the meaning of `auto`.
//!
//! `auto` is the address from which packets to etcd leave. If etcd is reached at loopback, that
//! address would lead others to themselves. Then it is the address of the default route, unless that
//! is public: a service there was meant for a private network. The same holds for further endpoints
//! once one is at loopback.

mod advertised;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use mayfly_core::locality::{is_public, kind, only_here};
use tokio::net::{ToSocketAddrs, UdpSocket, lookup_host};
use tokio::time::timeout;

use crate::store::Endpoint;
pub use advertised::{AddressOption, Advertised};

/// How long a name may take to resolve.
const LIMIT: Duration = Duration::from_secs(5);
/// Addresses that are reached by the default route: those of a root name server. They are public
/// for as long as there is DNS, so no network of one's own has them, and no list of what is never
/// routed, as addresses for documentation are on. Nothing is ever sent there.
const FAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 41, 0, 4)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0x503, 0xba3e, 0, 0, 0, 2, 0x30)),
];
/// Stands in for a port: only the way there matters.
const ANY_PORT: u16 = 9;

/// Why none is chosen.
#[derive(Debug, thiserror::Error)]
pub enum NoAddress {
    /// It is not known from which address this host reaches etcd.
    #[error("cannot choose the address of this host: {0:#}")]
    NoWay(anyhow::Error),
    /// No address of this host is of use to others.
    #[error("cannot choose the address of this host: {0}")]
    NoneUsable(String),
}

/// Finds what `auto` means.
///
/// # Errors
/// When no interface leads to etcd, or none of its addresses is to be chosen.
pub async fn find(endpoints: &[Endpoint]) -> Result<IpAddr, NoAddress> {
    let mut towards_etcd = Vec::new();
    let mut trouble = anyhow!("--etcd names no endpoint");
    for endpoint in endpoints {
        match towards(endpoint).await {
            Ok(found) => towards_etcd.extend(found),
            Err(error) => trouble = error,
        }
        if let Some(ip) = chosen(&towards_etcd) {
            return Ok(ip);
        }
    }
    let Some(local) = towards_etcd.iter().find(|ip| only_here(**ip).is_some()) else {
        return Err(NoAddress::NoWay(trouble));
    };
    let mut by_default = Vec::new();
    for far in FAR {
        by_default.extend(leaving_for(SocketAddr::new(far, ANY_PORT)).await.ok());
    }
    instead_of(*local, &by_default)
}

/// The one of the addresses towards etcd, as far as they are known, that others are to use: no
/// public one where etcd is reached at loopback as well.
fn chosen(towards_etcd: &[IpAddr]) -> Option<IpAddr> {
    let is_beside = towards_etcd.iter().any(|ip| only_here(*ip).is_some());
    let is_usable = |ip: &IpAddr| only_here(*ip).is_none() && !(is_beside && is_public(*ip));
    towards_etcd.iter().copied().find(is_usable)
}

/// What is registered where the address towards etcd is `local`, of no use to others.
fn instead_of(local: IpAddr, by_default: &[IpAddr]) -> Result<IpAddr, NoAddress> {
    let mut usable = by_default.iter().filter(|ip| only_here(**ip).is_none());
    if let Some(ip) = usable.clone().find(|ip| !is_public(**ip)) {
        return Ok(*ip);
    }
    let kind = |ip: IpAddr| kind(ip).unwrap_or("of no use to others");
    let why = match (usable.next(), by_default.first()) {
        (Some(ip), _) => {
            format!("{ip} (default route) is a public address, which Mayfly never chooses by itself")
        }
        (None, Some(ip)) => format!("{ip} (default route) is {}", kind(*ip)),
        (None, None) => "this host has no default route".to_owned(),
    };
    Err(NoAddress::NoneUsable(format!(
        "{local} (used to reach etcd) is {}, and {why}",
        kind(local)
    )))
}

/// The addresses of this host that packets to an endpoint leave from.
async fn towards(endpoint: &Endpoint) -> anyhow::Result<Vec<IpAddr>> {
    let place = endpoint.host_and_port();
    let found = look_up(place).await;
    let mut remotes = found.with_context(|| format!("cannot resolve {place}"))?;
    // The order of a resolver's answer changes; IPv4 before IPv6, then the lowest.
    remotes.sort_by_key(|remote| (remote.is_ipv6(), *remote));
    let mut own = Vec::new();
    let mut trouble = anyhow!("{place} has no address");
    for remote in remotes {
        match leaving_for(remote).await {
            Ok(ip) => own.push(ip),
            Err(error) => trouble = error,
        }
    }
    if own.is_empty() { Err(trouble) } else { Ok(own) }
}

/// Asks the system's resolver.
async fn look_up(place: impl ToSocketAddrs) -> anyhow::Result<Vec<SocketAddr>> {
    let answer = timeout(LIMIT, lookup_host(place)).await;
    let found = answer.map_err(|_| anyhow!("no answer within {LIMIT:?}"))??;
    Ok(found.collect())
}

/// The address of this host that packets to `remote` leave from. To connect a UDP socket sends
/// none: the kernel only looks up the way there.
async fn leaving_for(remote: SocketAddr) -> anyhow::Result<IpAddr> {
    let any: IpAddr = match remote {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0))
        .await
        .context("cannot open a UDP socket")?;
    socket
        .connect(remote)
        .await
        .with_context(|| format!("this host has no route to {remote}"))?;
    Ok(socket.local_addr().context("cannot read the local address")?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_etcd_is_at_loopback_the_default_route_counts() {
        for (by_default, expected) in [
            (&["10.0.0.5"][..], "10.0.0.5"),
            (&["192.168.1.5", "2a00::5"], "192.168.1.5"),
            // The first that is not public.
            (&["8.8.8.8", "fd00::5"], "fd00::5"),
            (
                &["8.8.8.8"],
                "and 8.8.8.8 (default route) is a public address, which Mayfly never chooses by itself",
            ),
            (
                &["169.254.7.7"],
                "and 169.254.7.7 (default route) is a link-local address",
            ),
            (
                &[],
                "127.0.0.1 (used to reach etcd) is a loopback address, and this host has no default \
                 route",
            ),
        ] {
            let by_default: Vec<IpAddr> = by_default.iter().map(|ip| ip.parse().unwrap()).collect();
            let reported = match instead_of(Ipv4Addr::LOCALHOST.into(), &by_default) {
                Ok(ip) => ip.to_string(),
                Err(error) => error.to_string(),
            };
            assert!(reported.contains(expected), "{reported}");
        }
    }

    #[test]
    fn beside_etcd_no_public_address_is_chosen() {
        for (towards_etcd, expected) in [
            (&["10.0.0.5"][..], Some("10.0.0.5")),
            // The operator's network.
            (&["8.8.8.8"], Some("8.8.8.8")),
            (&["127.0.0.1"], None),
            (&["127.0.0.1", "8.8.8.8"], None),
            (&["127.0.0.1", "::ffff:8.8.8.8", "2a00::5"], None),
            (&["127.0.0.1", "8.8.8.8", "10.0.0.5"], Some("10.0.0.5")),
            // A name of two addresses, IPv4 before IPv6.
            (&["8.8.8.8", "::1"], None),
            (&["fe80::1", "fd00::5"], Some("fd00::5")),
            (&[], None),
        ] {
            let found: Vec<IpAddr> = towards_etcd.iter().map(|ip| ip.parse().unwrap()).collect();
            let expected: Option<IpAddr> = expected.map(|ip| ip.parse().unwrap());
            assert_eq!(chosen(&found), expected, "{towards_etcd:?}");
        }
    }

    #[tokio::test]
    async fn never_an_address_that_only_this_host_reaches() {
        // Nobody listens there; whether this machine has a default route decides between an address
        // and a refusal.
        let endpoints = ["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()];
        match find(&endpoints).await {
            Ok(ip) => assert_eq!(only_here(ip), None, "{ip}"),
            Err(error) => assert!(
                error
                    .to_string()
                    .contains("(used to reach etcd) is a loopback address"),
                "{error}"
            ),
        }
    }

    #[tokio::test]
    async fn without_a_way_to_etcd_the_message_says_what_is_wrong() {
        let endpoints = ["no-such-host.invalid:1".parse().unwrap()];
        let error = find(&endpoints).await.unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot choose the address of this host: cannot resolve no-such-host.invalid:1"),
            "{error}"
        );
        let error = find(&[]).await.unwrap_err().to_string();
        assert!(error.contains("--etcd names no endpoint"), "{error}");
    }
}
