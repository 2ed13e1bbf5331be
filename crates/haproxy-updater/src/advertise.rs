//! The router record: the address of this HAProxy's internal side, to which dns-updater resolves
//! the names of services. It is in etcd while HAProxy answers.

use std::net::IpAddr;

use mayfly_core::locality::only_here;
use mayfly_daemon::own_address::{AddressOption, Advertised};

use crate::haproxy::tokens::Bind;

/// Where the address is set.
pub const OPTION: AddressOption = AddressOption {
    name: "--advertise",
    readers: "services",
};

/// What is given. For `auto` it is the address that the internal side listens at, if a bind names
/// one: so the names of services never resolve to an address without a listener.
pub fn or_where_it_listens(given: &Advertised, internal: &[Bind]) -> Advertised {
    // A bind at every address of the host names none in particular.
    let named: Option<Vec<IpAddr>> = internal.iter().map(|bind| bind.place().0).collect();
    let named = named.unwrap_or_default();
    let reachable = named.iter().find(|ip| only_here(**ip).is_none());
    match (given, reachable.or(named.first())) {
        (Advertised::Auto, Some(ip)) => Advertised::Ip(*ip),
        _ => given.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            let found = or_where_it_listens(&advertised, &binds).to_string();
            assert_eq!(found, expected, "{given} {binds:?}");
        }
    }
}
