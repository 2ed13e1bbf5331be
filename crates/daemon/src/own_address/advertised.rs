//! An address that an operator has registered, as they give it: `auto`, an IP address or a host
//! name. A host name may mean another address later, such as that of a container that was started
//! again, so who registers it asks from time to time.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use anyhow::Context as _;
use mayfly_core::address::Address;
use mayfly_core::locality::only_here;

use super::{NoAddress, find, look_up};
use crate::store::Endpoint;

/// The option with which an operator sets such an address, for messages about it.
#[derive(Debug, Clone, Copy)]
pub struct AddressOption {
    /// Its name on the command line.
    pub name: &'static str,
    /// Everything that has to reach the address.
    pub readers: &'static str,
}

impl AddressOption {
    /// What an operator can do about an error of [`Advertised::locate`], as a further sentence;
    /// empty where that is not known.
    pub fn remedy(&self, error: &anyhow::Error) -> String {
        let Self { name, readers } = self;
        match error.downcast_ref::<NoAddress>() {
            Some(NoAddress::NoWay(_)) => format!(
                ". Check --etcd and the network of this host, or set {name} to an address that all \
                 {readers} reach"
            ),
            Some(NoAddress::NoneUsable(_)) => format!(
                ". Set {name} to an address that all {readers} reach, or to 127.0.0.1 if everything \
                 runs on this host"
            ),
            None => String::new(),
        }
    }

    /// The warning about an address that only its own host reaches. `statement` is what is to be
    /// said of the address, such as `the names of services resolve to`.
    pub fn doubt(&self, statement: &str, ip: IpAddr) -> Option<String> {
        let Self { name, readers } = self;
        let kind = only_here(ip)?;
        Some(format!(
            "{statement} {ip}, {kind}. Unless all {readers} run on this host, set {name} to an \
             address that they all reach"
        ))
    }

    /// The addresses of a host name that one host can have: at least one.
    ///
    /// # Errors
    /// When the name does not resolve, or to no such address.
    pub async fn resolve(&self, host: &str) -> anyhow::Result<BTreeSet<IpAddr>> {
        let option = self.name;
        // Only the address matters.
        let found = look_up((host, 0))
            .await
            .with_context(|| format!("cannot resolve host name `{host}` ({option})"))?;
        let all = found.into_iter().map(|address| address.ip());
        let usable: BTreeSet<IpAddr> = all.filter(|ip| is_of_one_host(*ip)).collect();
        anyhow::ensure!(
            !usable.is_empty(),
            "host name `{host}` ({option}) resolves to no usable address"
        );
        Ok(usable)
    }
}

/// How the address of this host is given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertised {
    /// The address of this host by which others reach it.
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
        let bare = text
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
            .unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            return match is_of_one_host(ip) {
                true => Ok(Self::Ip(ip)),
                false => Err("it must be the address of a single host".to_owned()),
            };
        }
        // Underscores are no part of a host name, but of many a container's. Without a letter it is
        // a mistyped address, such as 10.0.0, which resolvers take for 10.0.0.0.
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let is_name = (1..=253).contains(&text.len())
            && text.bytes().all(allowed)
            && text.bytes().any(|byte| byte.is_ascii_alphabetic());
        match is_name {
            true => Ok(Self::Name(text.to_owned())),
            false => Err("it must be an IP address, a host name or `auto`".to_owned()),
        }
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
    /// The address at this moment. `option` is where it was given. Among several addresses of a
    /// name, `last` is kept while it is one of them.
    ///
    /// # Errors
    /// When a name does not resolve, or no address of this host is to be chosen.
    pub async fn locate(
        &self,
        option: AddressOption,
        endpoints: &[Endpoint],
        last: Option<IpAddr>,
    ) -> anyhow::Result<IpAddr> {
        match self {
            Self::Ip(ip) => Ok(*ip),
            Self::Auto => Ok(find(endpoints).await?),
            Self::Name(name) => choose(option.resolve(name).await?, last)
                .with_context(|| format!("host name `{name}` has no address")),
        }
    }
}

/// Whether one host can have an address.
fn is_of_one_host(ip: IpAddr) -> bool {
    // In place of a port: the rule is about the address.
    Address::new(ip, 1).is_ok()
}

/// Those that others reach go first: hosts have names that resolve to loopback as well. Among these
/// the last address is kept. Otherwise it is the first of the set, IPv4 before IPv6: the order of a
/// resolver's answer changes.
fn choose(candidates: BTreeSet<IpAddr>, last: Option<IpAddr>) -> Option<IpAddr> {
    let rank = |ip: &IpAddr| (only_here(*ip).is_some(), last != Some(*ip));
    candidates.into_iter().min_by_key(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTION: AddressOption = AddressOption {
        name: "--advertise",
        readers: "services",
    };

    #[test]
    fn what_can_be_given() {
        for good in [
            "auto",
            "10.0.0.5",
            "fd00::5",
            "backend-1.example",
            "demo_backend_1",
        ] {
            assert_eq!(good.parse::<Advertised>().unwrap().to_string(), good);
        }
        assert_eq!("[fd00::5]".parse(), "fd00::5".parse::<Advertised>());
        for bad in [
            "",
            "0.0.0.0",
            "::",
            "[::]",
            "224.0.0.1",
            // The resolver takes these for addresses: 10.0.0.0 and 0.0.0.1.
            "10.0.0",
            "1",
            "10.0.0.5:80",
            "[fd00::5]:80",
            "a b",
            "a\n",
            "https://a",
        ] {
            let error = bad.parse::<Advertised>().unwrap_err();
            assert!(error.starts_with("it must be "), "{bad:?}: {error}");
        }
    }

    #[tokio::test]
    async fn addresses_and_names_are_located() {
        for (text, ip) in [("10.0.0.7", "10.0.0.7"), ("localhost", "127.0.0.1")] {
            let advertised: Advertised = text.parse().unwrap();
            let found = advertised.locate(OPTION, &[], None).await.unwrap();
            assert_eq!(found.to_string(), ip, "{text}");
        }
        for (name, expected) in [
            (
                "no-such-host.invalid",
                "cannot resolve host name `no-such-host.invalid` (--advertise): ",
            ),
            // The resolver takes this for 0.0.0.0.
            (
                "0x0",
                "host name `0x0` (--advertise) resolves to no usable address",
            ),
        ] {
            let given: Advertised = name.parse().unwrap();
            let error = given.locate(OPTION, &[], None).await.unwrap_err();
            let error = format!("{error:#}");
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn the_last_address_is_kept_while_it_is_good() {
        for (candidates, last, expected) in [
            (&["10.0.0.1", "10.0.0.2"][..], Some("10.0.0.2"), Some("10.0.0.2")),
            (&["10.0.0.2", "10.0.0.1"], None, Some("10.0.0.1")),
            (&["fd00::1", "10.0.0.3"], Some("10.0.0.2"), Some("10.0.0.3")),
            (&[], Some("10.0.0.2"), None),
            // Debian gives a host's own name 127.0.1.1.
            (&["127.0.1.1", "fd00::1"], Some("127.0.1.1"), Some("fd00::1")),
            (&["127.0.0.1", "127.0.1.1"], Some("127.0.1.1"), Some("127.0.1.1")),
        ] {
            let ip = |text: &str| text.parse::<IpAddr>().unwrap();
            let found = choose(candidates.iter().copied().map(ip).collect(), last.map(ip));
            assert_eq!(found, expected.map(ip), "{candidates:?} after {last:?}");
        }
    }

    #[tokio::test]
    async fn auto_that_finds_nothing_names_the_option() {
        let error = Advertised::Auto.locate(OPTION, &[], None).await.unwrap_err();
        assert_eq!(
            format!("{error:#}{}", OPTION.remedy(&error)),
            "cannot choose the address of this host: --etcd names no endpoint. Check --etcd and the \
             network of this host, or set --advertise to an address that all services reach"
        );
        assert_eq!(OPTION.remedy(&anyhow::anyhow!("another error")), "");
    }

    #[test]
    fn an_address_that_only_this_host_reaches_is_doubted() {
        let doubt = |ip: &str| OPTION.doubt("the names of services resolve to", ip.parse().unwrap());
        for ip in ["127.0.0.1", "::1", "169.254.1.1"] {
            let begin = format!("the names of services resolve to {ip}, a l");
            assert!(doubt(ip).is_some_and(|doubt| doubt.starts_with(&begin)), "{ip}");
        }
        assert_eq!(
            doubt("127.0.0.1").unwrap(),
            "the names of services resolve to 127.0.0.1, a loopback address, at which every host and \
             container reaches only itself. Unless all services run on this host, set --advertise to \
             an address that they all reach"
        );
        assert_eq!(doubt("10.0.0.5"), None);
    }
}
