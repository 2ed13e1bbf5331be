//! Where an instance listens. A running instance is registered by its IP address, so a host name is resolved here, and
//! again from time to time: a container that came back under its name may have another address. A permanent entry has
//! nobody who would do so; its host name stays a name, which the routers resolve and follow.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use mayfly_core::address::Address;
use mayfly_core::upstream::{Upstream, UpstreamHost};
use mayfly_daemon::args::Endpoint;
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

/// How long a name may take to resolve.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

/// The argument HOST.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The address of the interface that leads to etcd.
    Auto,
    /// This address.
    Ip(IpAddr),
    /// Whatever this name resolves to.
    Name(String),
    /// This host, behind TLS.
    Tls(UpstreamHost),
}

impl FromStr for Host {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || {
            "a host is the IP address of one host, a host name, `auto`, or, with --permanent, https:// and a host; the port is an argument of its own".to_owned()
        };
        if text == "auto" {
            return Ok(Self::Auto);
        }
        if let Some(host) = text.strip_prefix("https://") {
            // Port 1 stands in for the real one.
            let url = format!("https://{}:1", host.strip_suffix('/').unwrap_or(host));
            return url
                .parse::<Upstream>()
                .map(|upstream| Self::Tls(upstream.host))
                .map_err(|_| rule());
        }
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            // Port 1 stands in for the real one: the rule is about the address.
            return Address::new(ip, 1).map(|_| Self::Ip(ip)).map_err(|_| rule());
        }
        // Underscores are no part of a host name, but of many a container's.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let good = (1..=253).contains(&text.len())
            && text.bytes().all(allowed)
            && text.bytes().any(|byte| byte.is_ascii_alphabetic());
        if good {
            Ok(Self::Name(text.to_owned()))
        } else {
            Err(rule())
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Ip(ip) => ip.fmt(f),
            Self::Name(name) => f.pad(name),
            Self::Tls(UpstreamHost::Ip(IpAddr::V6(ip))) => write!(f, "https://[{ip}]"),
            Self::Tls(UpstreamHost::Ip(ip)) => write!(f, "https://{ip}"),
            Self::Tls(UpstreamHost::Name(name)) => write!(f, "https://{name}"),
        }
    }
}

impl Host {
    /// Whether the address can change while the process runs.
    pub fn may_move(&self) -> bool {
        !matches!(self, Self::Ip(_))
    }

    /// The address at this moment. Among several addresses of a name, `last` is kept while it is one of them.
    ///
    /// # Errors
    /// When a name does not resolve, or no interface leads to etcd.
    pub async fn locate(
        &self,
        port: u16,
        endpoints: &[Endpoint],
        last: Option<Address>,
    ) -> anyhow::Result<Address> {
        let ip = match self {
            Self::Ip(ip) => *ip,
            Self::Auto => address_towards(endpoints).await?,
            Self::Name(name) => {
                let found = usable(name, port).await?;
                choose(found, last).with_context(|| format!("host name {name} leads to no usable address"))?
            }
            Self::Tls(_) => bail!("{self} can be registered with --permanent only"),
        };
        Ok(Address::new(ip, port)?)
    }

    /// The place as a permanent entry has it: a host name stays a name, and `auto` is what it is at this moment.
    ///
    /// # Errors
    /// When a name is none that a router can resolve, or no interface leads to etcd.
    pub async fn place(&self, port: u16, endpoints: &[Endpoint]) -> anyhow::Result<Upstream> {
        if matches!(self, Self::Auto | Self::Ip(_)) {
            return Ok(self.locate(port, endpoints, None).await?.into());
        }
        self.named(port)
            .with_context(|| format!("{self} is not a host name of letters, digits, hyphens and dots"))
    }

    /// The place of a permanent entry with a host name or TLS.
    pub fn named(&self, port: u16) -> Option<Upstream> {
        let text = match self {
            Self::Auto | Self::Ip(_) => return None,
            Self::Name(name) => format!("{name}:{port}"),
            Self::Tls(_) => format!("{self}:{port}"),
        };
        text.parse().ok()
    }
}

/// Where a server of a permanent entry can be reached at this moment, each address once.
///
/// # Errors
/// When its name does not resolve, or leads nowhere.
pub async fn addresses(upstream: &Upstream) -> anyhow::Result<Vec<Address>> {
    let Some(name) = upstream.name() else {
        return Ok(upstream.address().into_iter().collect());
    };
    let ips: BTreeSet<IpAddr> = usable(name.as_str(), upstream.port())
        .await?
        .into_iter()
        .collect();
    let found: Vec<Address> = ips
        .into_iter()
        .filter_map(|ip| Address::new(ip, upstream.port()).ok())
        .collect();
    if found.is_empty() {
        bail!("host name {name} leads to no usable address");
    }
    Ok(found)
}

/// The addresses of a name that one host can have.
async fn usable(name: &str, port: u16) -> anyhow::Result<Vec<IpAddr>> {
    let found = resolve(name, port).await?.into_iter().map(|address| address.ip());
    Ok(found.filter(|ip| Address::new(*ip, port).is_ok()).collect())
}

/// Keeps the last address while it is among the candidates; otherwise the first, IPv4 before IPv6.
fn choose(mut candidates: Vec<IpAddr>, last: Option<Address>) -> Option<IpAddr> {
    if let Some(last) = last.filter(|last| candidates.contains(&last.ip())) {
        return Some(last.ip());
    }
    candidates.sort_by_key(IpAddr::is_ipv6);
    candidates.into_iter().next()
}

async fn resolve(name: &str, port: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let looked_up = timeout(LOOKUP_LIMIT, lookup_host((name, port))).await;
    let found = looked_up
        .map_err(|_| anyhow!("no answer within {LOOKUP_LIMIT:?}"))
        .and_then(|found| Ok(found?));
    Ok(found
        .with_context(|| format!("cannot resolve host name {name}"))?
        .collect())
}

/// The local address that packets to etcd leave from. Connecting a UDP socket sends none.
async fn address_towards(endpoints: &[Endpoint]) -> anyhow::Result<IpAddr> {
    let mut last_error = anyhow!("there is no endpoint");
    for endpoint in endpoints {
        match local_address(endpoint).await {
            Ok(ip) => return Ok(ip),
            Err(error) => last_error = error,
        }
    }
    Err(last_error.context("cannot find the address that leads to etcd"))
}

async fn local_address(endpoint: &Endpoint) -> anyhow::Result<IpAddr> {
    let place = endpoint.host_and_port();
    let looked_up = timeout(LOOKUP_LIMIT, lookup_host(place)).await;
    let found = looked_up
        .map_err(|_| anyhow!("no answer within {LOOKUP_LIMIT:?}"))
        .and_then(|found| Ok(found?));
    let remote = found
        .and_then(|mut found| found.next().context("it has no address"))
        .with_context(|| format!("cannot resolve {place}"))?;
    let any: IpAddr = if remote.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))
        .await
        .context("cannot open a UDP socket")?;
    socket
        .connect(remote)
        .await
        .with_context(|| format!("no interface leads to {remote}"))?;
    Ok(socket.local_addr().context("cannot read the local address")?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in [
            "auto",
            "10.0.0.5",
            "fd00::5",
            "backend-1.example",
            "demo_backend_1",
            "https://billing.internal",
            "https://10.0.0.5",
            "https://[fd00::5]",
        ] {
            assert_eq!(good.parse::<Host>().unwrap().to_string(), good);
        }
        assert_eq!(
            "[fd00::5]".parse::<Host>().unwrap(),
            "fd00::5".parse::<Host>().unwrap()
        );
        for bad in [
            "",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "10.0.0",
            "10.0.0.5:80",
            "a b",
            "a\n",
            "http://a",
            "https://",
            "https://a:443",
            "https://a/b",
            "https://a_b",
        ] {
            let error = bad.parse::<Host>().unwrap_err();
            assert!(error.contains("`auto`"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn the_last_address_is_kept_while_it_is_good() {
        let ips = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| text.parse().unwrap())
                .collect::<Vec<IpAddr>>()
        };
        let last = Some("10.0.0.2:80".parse().unwrap());
        assert_eq!(
            choose(ips(&["10.0.0.1", "10.0.0.2"]), last),
            Some("10.0.0.2".parse().unwrap())
        );
        assert_eq!(
            choose(ips(&["fd00::1", "10.0.0.3"]), last),
            Some("10.0.0.3".parse().unwrap())
        );
        assert_eq!(choose(vec![], last), None);
    }

    #[tokio::test]
    async fn auto_is_the_address_that_leads_to_etcd_even_when_nobody_listens_there() {
        let endpoints = ["127.0.0.1:1".parse().unwrap()];
        let address = Host::Auto.locate(8080, &endpoints, None).await.unwrap();
        assert_eq!(address.to_string(), "127.0.0.1:8080");
    }

    #[tokio::test]
    async fn permanent_entries_keep_names() {
        let endpoints = ["127.0.0.1:1".parse().unwrap()];
        for (host, place) in [
            ("Billing.Internal", "billing.internal:443"),
            ("https://billing.internal", "https://billing.internal:443"),
            ("https://[fd00::5]", "https://[fd00::5]:443"),
            ("10.0.0.5", "10.0.0.5:443"),
            ("auto", "127.0.0.1:443"),
        ] {
            let host: Host = host.parse().unwrap();
            assert_eq!(host.place(443, &endpoints).await.unwrap().to_string(), place);
        }
        let container: Host = "demo_backend_1".parse().unwrap();
        let error = container.place(80, &[]).await.unwrap_err().to_string();
        assert!(error.contains("demo_backend_1 is not a host name"), "{error}");
    }

    #[tokio::test]
    async fn names_are_resolved() {
        let localhost: Host = "localhost".parse().unwrap();
        assert!(localhost.locate(80, &[], None).await.unwrap().ip().is_loopback());
        let unknown: Host = "no-such-host.invalid".parse().unwrap();
        let error = format!("{:#}", unknown.locate(80, &[], None).await.unwrap_err());
        assert!(
            error.contains("cannot resolve host name no-such-host.invalid"),
            "{error}"
        );
    }
}
