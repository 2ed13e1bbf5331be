//! The router record: the address of this HAProxy's internal side, to which dns-updater resolves
//! the names of services. It is in etcd while HAProxy answers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use mayfly_core::locality::only_here;
use mayfly_daemon::own_address::{self, NoAddress};
use mayfly_daemon::store::Endpoint;
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::haproxy::tokens::Bind;

/// How long a name may take to resolve.
const LIMIT: Duration = Duration::from_secs(5);

/// How the address of the internal side is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertised {
    /// The address of this host by which others reach it.
    Auto,
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
                return Err("it must be the address of a single host".to_owned());
            }
            return Ok(Self::Ip(ip));
        }
        // Underscores are no part of a host name, but of many a container's.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=253).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self::Name(text.to_owned()));
        }
        Err("it must be an IP address, a host name or `auto`".to_owned())
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
    /// When a name does not resolve, or no address of this host is to be chosen.
    pub async fn locate(&self, endpoints: &[Endpoint]) -> anyhow::Result<IpAddr> {
        match self {
            Self::Ip(ip) => Ok(*ip),
            Self::Name(name) => resolve(name).await,
            Self::Auto => Ok(own_address::find(endpoints).await?),
        }
    }

    /// What is given. For `auto` it is the address that the internal side listens at, if a bind
    /// names one: so the names of services never resolve to an address without a listener.
    #[must_use]
    pub fn or_where_it_listens(&self, internal: &[Bind]) -> Self {
        // A bind at every address of the host names none in particular.
        let named: Option<Vec<IpAddr>> = internal.iter().map(|bind| bind.place().0).collect();
        let named = named.unwrap_or_default();
        let reachable = named.iter().find(|ip| only_here(**ip).is_none());
        match (self, reachable.or(named.first())) {
            (Self::Auto, Some(ip)) => Self::Ip(*ip),
            _ => self.clone(),
        }
    }
}

/// The warning about an address that only its own host reaches.
pub fn doubt(ip: IpAddr) -> Option<String> {
    let what = only_here(ip)?;
    Some(format!(
        "the names of services resolve to {ip}, {what}. Unless all services run on this host, set \
         --advertise to an address that they all reach"
    ))
}

/// What an operator can do about an error of [`Advertised::locate`], as a further sentence; empty
/// where that is not known.
pub fn remedy(error: &anyhow::Error) -> String {
    NoAddress::remedy(error, "--advertise", "services")
}

async fn resolve(name: &str) -> anyhow::Result<IpAddr> {
    // Only the address matters.
    let found = timeout(LIMIT, lookup_host((name, 0))).await;
    let found = found
        .map_err(|_| anyhow!("no answer within {LIMIT:?}"))
        .and_then(|found| Ok(found?));
    let mut found: Vec<IpAddr> = found
        .with_context(|| format!("cannot resolve host name `{name}` (--advertise)"))?
        .map(|address| address.ip())
        .collect();
    // Hosts have names that resolve to loopback as well. The order of a resolver's answer changes;
    // IPv4 before IPv6, then the lowest.
    found.sort_by_key(|ip| (only_here(*ip).is_some(), ip.is_ipv6(), *ip));
    found
        .into_iter()
        .next()
        .with_context(|| format!("host name `{name}` (--advertise) has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finds_addresses() {
        for (text, ip) in [
            ("10.0.0.7", "10.0.0.7"),
            ("fd00::7", "fd00::7"),
            ("localhost", "127.0.0.1"),
        ] {
            let advertised: Advertised = text.parse().unwrap();
            assert_eq!(advertised.locate(&[]).await.unwrap().to_string(), ip, "{text}");
            assert_eq!(advertised.to_string(), text);
        }
        for bad in ["", "0.0.0.0", "::", "224.0.0.1", "a b", "a\n"] {
            assert!(bad.parse::<Advertised>().is_err(), "{bad}");
        }
    }
    #[tokio::test]
    async fn auto_without_an_address_names_the_flag() {
        let error = Advertised::Auto.locate(&[]).await.unwrap_err();
        assert!(error.to_string().contains("--etcd names no endpoint"), "{error}");
        assert!(
            remedy(&error).contains("set --advertise to"),
            "{}",
            remedy(&error)
        );
        let name: Advertised = "no-such-host.invalid".parse().unwrap();
        let error = format!("{:#}", name.locate(&[]).await.unwrap_err());
        assert!(
            error.starts_with("cannot resolve host name `no-such-host.invalid` (--advertise): "),
            "{error}"
        );
    }

    #[test]
    fn auto_is_the_address_that_the_internal_side_binds() {
        for (given, binds, expected) in [
            ("auto", "10.0.0.5:80", "10.0.0.5"),
            ("auto", "127.0.0.1:8080", "127.0.0.1"),
            ("auto", "127.0.0.1:8080 10.0.0.5:80", "10.0.0.5"),
            ("auto", "[fd00::5]:80", "fd00::5"),
            ("auto", "", "auto"),
            ("auto", "*:80", "auto"),
            ("auto", "127.0.0.1:8080 *:80", "auto"),
            ("10.0.0.9", "10.0.0.5:80", "10.0.0.9"),
            ("haproxy", "10.0.0.5:80", "haproxy"),
        ] {
            let advertised: Advertised = given.parse().unwrap();
            let binds: Vec<Bind> = binds
                .split_whitespace()
                .map(|bind| bind.parse().unwrap())
                .collect();
            let found = advertised.or_where_it_listens(&binds).to_string();
            assert_eq!(found, expected, "{given} {binds:?}");
        }
    }

    #[test]
    fn an_address_that_only_this_host_reaches_is_doubted() {
        assert!(doubt("127.0.0.1".parse().unwrap()).is_some_and(|doubt| doubt.contains("--advertise")));
        assert_eq!(doubt("10.0.0.5".parse().unwrap()), None);
    }
}
