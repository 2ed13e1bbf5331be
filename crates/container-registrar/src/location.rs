//! Where an instance listens. A running instance is registered by its IP address, so a host name is
//! resolved here, and again from time to time: a container that came back under its name may have
//! another address. A permanent entry keeps its host name, which the routers resolve and follow.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::{Context as _, anyhow, bail};
use mayfly_core::address::Address;
use mayfly_core::upstream::{Upstream, UpstreamHost};
use mayfly_daemon::own_address::{AddressOption, Advertised};
use mayfly_daemon::store::Endpoint;

/// Everything that has to reach an instance.
pub const READERS: &str = "routers";

/// Where the host of one instance is set.
pub const HOST: AddressOption = AddressOption {
    name: "HOST",
    readers: READERS,
};

/// The host of an instance, as an operator gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdvertisedHost {
    /// One that is reached in clear text.
    Clear(Advertised),
    /// One of a permanent entry that is reached with TLS.
    Tls(UpstreamHost),
}

impl FromStr for AdvertisedHost {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rule = || {
            "a host is the IP address of a single host, a host name or `auto`; with --permanent also https:// and a host; the port is a separate argument".to_owned()
        };
        let Some(host) = text.strip_prefix("https://") else {
            return text.parse().map(Self::Clear).map_err(|_| rule());
        };
        // Port 1 is in place of the real one.
        let url = format!("https://{}:1", host.strip_suffix('/').unwrap_or(host));
        let upstream = url.parse::<Upstream>().map_err(|_| rule())?;
        Ok(Self::Tls(upstream.host))
    }
}

impl fmt::Display for AdvertisedHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Clear(host) => host.fmt(f),
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
            Self::Clear(Advertised::Ip(ip)) => ip.is_loopback(),
            Self::Clear(Advertised::Name(name)) => name == "localhost",
            Self::Clear(Advertised::Auto) | Self::Tls(_) => false,
        }
    }

    /// Whether the address can change while the process runs.
    pub fn may_move(&self) -> bool {
        !matches!(self, Self::Clear(Advertised::Ip(_)))
    }

    /// The address at this moment. `option` is where the host was given. Among several addresses of
    /// a name, `last` is kept while it is one of them.
    ///
    /// # Errors
    /// When a name does not resolve, or no address of this host is to be chosen.
    pub async fn locate(
        &self,
        option: AddressOption,
        port: u16,
        endpoints: &[Endpoint],
        last: Option<Address>,
    ) -> anyhow::Result<Address> {
        let Self::Clear(host) = self else {
            bail!("{self} can be registered only with --permanent");
        };
        let last = last.map(|last| last.ip());
        let ip = host.locate(option, endpoints, last).await?;
        Ok(Address::new(ip, port)?)
    }

    /// The place as a permanent entry has it: a host name stays a name, and `auto` is what it is at
    /// this moment.
    ///
    /// # Errors
    /// When a name is none that a router can resolve, or no address of this host is to be chosen.
    pub async fn place(&self, port: u16, endpoints: &[Endpoint]) -> anyhow::Result<Upstream> {
        if matches!(self, Self::Clear(Advertised::Auto | Advertised::Ip(_))) {
            let found = self.locate(HOST, port, endpoints, None).await;
            return Ok(found.map_err(|error| with_remedy(&error, HOST))?.into());
        }
        self.named(port)
            .with_context(|| format!("{self} is not a host name of letters, digits, hyphens and dots"))
    }

    /// The place of a permanent entry with a host name or TLS.
    pub fn named(&self, port: u16) -> Option<Upstream> {
        if matches!(self, Self::Clear(Advertised::Auto | Advertised::Ip(_))) {
            return None;
        }
        format!("{self}:{port}").parse().ok()
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
    let found = HOST.resolve(name.as_str()).await?.into_iter();
    let addresses: Result<_, _> = found.map(|ip| Address::new(ip, upstream.port())).collect();
    Ok(addresses?)
}

/// The warning about a place of `what` that only its own host reaches.
pub fn doubt(what: &dyn fmt::Display, place: &Upstream, option: AddressOption) -> Option<String> {
    option.doubt(&format!("the address of {what} is"), place.address()?.ip())
}

/// An error of [`AdvertisedHost::locate`] with what an operator can do about it.
pub fn with_remedy(error: &anyhow::Error, option: AddressOption) -> anyhow::Error {
    anyhow!("{error:#}{}", option.remedy(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> AdvertisedHost {
        text.parse().unwrap()
    }

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

    #[tokio::test]
    async fn auto_that_finds_nothing_says_what_to_give() {
        let error = host("auto").locate(HOST, 8080, &[], None).await.unwrap_err();
        assert_eq!(
            with_remedy(&error, HOST).to_string(),
            "cannot choose the address of this host: --etcd names no endpoint. Check --etcd and the \
             network of this host, or set HOST to an address that all routers reach"
        );
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
        for (given, place) in [
            ("Billing.Internal", "billing.internal:443"),
            ("https://billing.internal", "https://billing.internal:443"),
            ("https://[fd00::5]", "https://[fd00::5]:443"),
            ("10.0.0.5", "10.0.0.5:443"),
        ] {
            let found = host(given).place(443, &endpoints).await.unwrap();
            assert_eq!(found.to_string(), place);
        }
        let container = host("demo_backend_1");
        let error = container.place(80, &[]).await.unwrap_err().to_string();
        assert!(error.contains("demo_backend_1 is not a host name"), "{error}");
    }

    #[tokio::test]
    async fn names_are_resolved() {
        let located = host("localhost").locate(HOST, 80, &[], None).await;
        assert!(located.unwrap().ip().is_loopback());
        let error = host("no-such-host.invalid").locate(HOST, 80, &[], None).await;
        let error = format!("{:#}", error.unwrap_err());
        assert!(
            error.starts_with("cannot resolve host name `no-such-host.invalid` (HOST): "),
            "{error}"
        );
    }
}
