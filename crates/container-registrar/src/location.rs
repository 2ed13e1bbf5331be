//! Where an instance listens. A running instance is registered by its IP address, so a host name is
//! resolved here, and again from time to time: a container that came back under its name may have
//! another address. A permanent entry keeps its host name, which the routers resolve and follow.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use mayfly_core::address::Address;
use mayfly_core::locality::only_here;
use mayfly_core::upstream::{Upstream, UpstreamHost};
use mayfly_daemon::own_address::{self, NoAddress};
use mayfly_daemon::store::Endpoint;
use tokio::net::lookup_host;
use tokio::time::timeout;

/// Where the host of one instance is set.
pub const HOST: &str = "HOST";

/// How long a name may take to resolve.
const LOOKUP_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdvertisedHost {
    /// The address of this host by which others reach it.
    Auto,
    Ip(IpAddr),
    /// Whatever this name resolves to.
    Name(String),
    Tls(UpstreamHost),
}

impl FromStr for AdvertisedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || {
            "a host is the IP address of a single host, a host name or `auto`; with --permanent also https:// and a host; the port is a separate argument".to_owned()
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

impl fmt::Display for AdvertisedHost {
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

impl AdvertisedHost {
    /// Whether it was given as the loopback address.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(ip) => ip.is_loopback(),
            Self::Name(name) => name == "localhost",
            Self::Auto | Self::Tls(_) => false,
        }
    }

    /// Whether the address can change while the process runs.
    pub fn may_move(&self) -> bool {
        !matches!(self, Self::Ip(_))
    }

    /// The address at this moment. Among several addresses of a name, `last` is kept while it is
    /// one of them.
    ///
    /// # Errors
    /// When a name does not resolve, or no address of this host is to be chosen.
    pub async fn locate(
        &self,
        port: u16,
        endpoints: &[Endpoint],
        last: Option<Address>,
    ) -> anyhow::Result<Address> {
        let ip = match self {
            Self::Ip(ip) => *ip,
            Self::Auto => own_address::find(endpoints).await?,
            Self::Name(name) => {
                let found = usable(name, port).await?;
                choose(found, last)
                    .with_context(|| format!("host name `{name}` resolves to no usable address"))?
            }
            Self::Tls(_) => bail!("{self} can be registered only with --permanent"),
        };
        Ok(Address::new(ip, port)?)
    }

    /// The place as a permanent entry has it: a host name stays a name, and `auto` is what it is at
    /// this moment.
    ///
    /// # Errors
    /// When a name is none that a router can resolve, or no address of this host is to be chosen.
    pub async fn place(&self, port: u16, endpoints: &[Endpoint]) -> anyhow::Result<Upstream> {
        if matches!(self, Self::Auto | Self::Ip(_)) {
            let found = self.locate(port, endpoints, None).await;
            return Ok(found.map_err(|error| with_remedy(&error, HOST))?.into());
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
/// When its name does not resolve, or has no usable address.
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
        bail!("host name `{name}` resolves to no usable address");
    }
    Ok(found)
}

/// The addresses of a name that one host can have.
async fn usable(name: &str, port: u16) -> anyhow::Result<Vec<IpAddr>> {
    let found = resolve(name, port).await?.into_iter().map(|address| address.ip());
    Ok(found.filter(|ip| Address::new(*ip, port).is_ok()).collect())
}

/// Those that others reach go first: hosts have names that resolve to loopback as well. Among these
/// the last address is kept; otherwise it is the first, IPv4 before IPv6.
fn choose(mut candidates: Vec<IpAddr>, last: Option<Address>) -> Option<IpAddr> {
    let is_last = |ip: &IpAddr| last.is_some_and(|last| last.ip() == *ip);
    candidates.sort_by_key(|ip| (only_here(*ip).is_some(), !is_last(ip), ip.is_ipv6()));
    candidates.into_iter().next()
}

/// The warning about a place of `what` that only its own host reaches. `option` is where an operator
/// sets it.
pub fn doubt(what: &dyn fmt::Display, place: &Upstream, option: &str) -> Option<String> {
    let ip = place.address()?.ip();
    let kind = only_here(ip)?;
    Some(format!(
        "the address of {what} is {ip}, {kind}. Unless all routers run on this host, set {option} to an \
         address that they all reach"
    ))
}

/// What an operator can do about an error of [`AdvertisedHost::locate`], as a further sentence;
/// empty where that is not known.
pub fn remedy(error: &anyhow::Error, option: &str) -> String {
    NoAddress::remedy(error, option, "routers")
}

/// An error of [`AdvertisedHost::locate`] with what an operator can do about it.
pub fn with_remedy(error: &anyhow::Error, option: &str) -> anyhow::Error {
    anyhow!("{error:#}{}", remedy(error, option))
}

async fn resolve(name: &str, port: u16) -> anyhow::Result<Vec<SocketAddr>> {
    let looked_up = timeout(LOOKUP_LIMIT, lookup_host((name, port))).await;
    let found = looked_up
        .map_err(|_| anyhow!("no answer within {LOOKUP_LIMIT:?}"))
        .and_then(|found| Ok(found?));
    Ok(found
        .with_context(|| format!("cannot resolve host name `{name}`"))?
        .collect())
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
            assert_eq!(good.parse::<AdvertisedHost>().unwrap().to_string(), good);
        }
        assert_eq!(
            "[fd00::5]".parse::<AdvertisedHost>().unwrap(),
            "fd00::5".parse::<AdvertisedHost>().unwrap()
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
            let error = bad.parse::<AdvertisedHost>().unwrap_err();
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
        // Debian gives a host's own name 127.0.1.1.
        let last = Some("127.0.1.1:80".parse().unwrap());
        assert_eq!(
            choose(ips(&["127.0.1.1", "fd00::1"]), last),
            Some("fd00::1".parse().unwrap())
        );
        assert_eq!(
            choose(ips(&["127.0.0.1", "127.0.1.1"]), last),
            Some("127.0.1.1".parse().unwrap())
        );
    }

    #[tokio::test]
    async fn auto_that_finds_nothing_says_what_to_give() {
        let error = AdvertisedHost::Auto.locate(8080, &[], None).await.unwrap_err();
        assert_eq!(
            with_remedy(&error, HOST).to_string(),
            "cannot choose the address of this host: --etcd names no endpoint. Check --etcd and the \
             network of this host, or set HOST to an address that all routers reach"
        );
        assert_eq!(remedy(&anyhow!("another error"), HOST), "");
    }

    #[test]
    fn an_address_that_only_this_host_reaches_is_doubted() {
        for (place, doubted) in [
            ("127.0.0.1:80", true),
            ("[::1]:80", true),
            ("169.254.1.1:80", true),
            ("10.0.0.5:80", false),
            ("billing.internal:80", false),
        ] {
            let doubt = doubt(&"x@1", &place.parse().unwrap(), HOST);
            assert_eq!(doubt.is_some(), doubted, "{place}");
        }
    }

    #[tokio::test]
    async fn permanent_entries_keep_names() {
        let endpoints = ["127.0.0.1:1".parse().unwrap()];
        for (host, place) in [
            ("Billing.Internal", "billing.internal:443"),
            ("https://billing.internal", "https://billing.internal:443"),
            ("https://[fd00::5]", "https://[fd00::5]:443"),
            ("10.0.0.5", "10.0.0.5:443"),
        ] {
            let host: AdvertisedHost = host.parse().unwrap();
            assert_eq!(host.place(443, &endpoints).await.unwrap().to_string(), place);
        }
        let container: AdvertisedHost = "demo_backend_1".parse().unwrap();
        let error = container.place(80, &[]).await.unwrap_err().to_string();
        assert!(error.contains("demo_backend_1 is not a host name"), "{error}");
    }

    #[tokio::test]
    async fn names_are_resolved() {
        let localhost: AdvertisedHost = "localhost".parse().unwrap();
        assert!(localhost.locate(80, &[], None).await.unwrap().ip().is_loopback());
        let unknown: AdvertisedHost = "no-such-host.invalid".parse().unwrap();
        let error = format!("{:#}", unknown.locate(80, &[], None).await.unwrap_err());
        assert!(
            error.contains("cannot resolve host name `no-such-host.invalid`"),
            "{error}"
        );
    }
}
