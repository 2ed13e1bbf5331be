//! The router record: where the internal side of this HAProxy is, so that dns-updater can lead the services' names
//! there. It stands in etcd while HAProxy answers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use mayfly_daemon::args::Endpoint;
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

/// How long a name may take to resolve.
const LIMIT: Duration = Duration::from_secs(5);

/// How the address of the internal side is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertised {
    /// The address of the interface that leads to etcd.
    Auto,
    /// This address.
    Ip(IpAddr),
    /// Whatever this name resolves to.
    Name(String),
}

impl FromStr for Advertised {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            if ip.is_unspecified() || ip.is_multicast() {
                return Err("it has to be the address of one host".to_owned());
            }
            return Ok(Self::Ip(ip));
        }
        // Underscores are no part of a host name, but of many a container's.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=253).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self::Name(text.to_owned()));
        }
        Err("it has to be an IP address, a host name, or `auto`".to_owned())
    }
}

impl fmt::Display for Advertised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.pad(name),
        }
    }
}

impl Advertised {
    /// The address at this moment.
    ///
    /// # Errors
    /// When a name does not resolve, or no interface leads to etcd.
    pub async fn locate(&self, endpoints: &[Endpoint]) -> anyhow::Result<IpAddr> {
        match self {
            Self::Ip(ip) => Ok(*ip),
            Self::Name(name) => resolve(&format!("{name}:0"))
                .await
                .context("cannot find the address to advertise (--advertise)"),
            Self::Auto => {
                for endpoint in endpoints {
                    if let Ok(ip) = towards(endpoint).await {
                        return Ok(ip);
                    }
                }
                bail!(
                    "cannot find the address to advertise: no interface leads to etcd; give one with --advertise"
                )
            }
        }
    }
}

async fn resolve(host_and_port: &str) -> anyhow::Result<IpAddr> {
    let found = timeout(LIMIT, lookup_host(host_and_port)).await;
    let found = found
        .map_err(|_| anyhow!("no answer within {LIMIT:?}"))
        .and_then(|found| Ok(found?));
    let mut found: Vec<IpAddr> = found
        .with_context(|| format!("cannot resolve {host_and_port}"))?
        .map(|address| address.ip())
        .collect();
    // The order of a resolver's answer changes; IPv4 before IPv6, then the lowest.
    found.sort_by_key(|ip| (ip.is_ipv6(), *ip));
    found
        .into_iter()
        .next()
        .with_context(|| format!("{host_and_port} has no address"))
}

/// The own address from which packets would go to etcd; connecting a datagram socket sends none.
async fn towards(endpoint: &Endpoint) -> anyhow::Result<IpAddr> {
    let etcd = resolve(endpoint.host_and_port()).await?;
    let any = if etcd.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).await?;
    socket.connect((etcd, 9)).await?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finds_addresses() {
        let endpoints = ["127.0.0.1:2379".parse().unwrap()];
        for (text, ip) in [
            ("auto", "127.0.0.1"),
            ("10.0.0.7", "10.0.0.7"),
            ("fd00::7", "fd00::7"),
            ("localhost", "127.0.0.1"),
        ] {
            let advertised: Advertised = text.parse().unwrap();
            assert_eq!(
                advertised.locate(&endpoints).await.unwrap().to_string(),
                ip,
                "{text}"
            );
            assert_eq!(advertised.to_string(), text);
        }
        for bad in ["", "0.0.0.0", "::", "224.0.0.1", "a b", "a\n"] {
            assert!(bad.parse::<Advertised>().is_err(), "{bad}");
        }
    }
}
