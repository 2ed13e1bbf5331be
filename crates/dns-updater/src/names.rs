//! Which name leads where: pure. A service leads to the internal side of every live router, a static record to its own
//! addresses, and where both claim a name the static record wins.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mayfly_core::names::Hostname;
use serde::Serialize;

use crate::view::View;

/// Where a name leads, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Target {
    /// The addresses, at least one.
    pub addresses: BTreeSet<IpAddr>,
    /// Where they come from.
    pub origin: Origin,
}

/// Where the addresses of a name come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// The live routers.
    Routers,
    /// A static record.
    Static,
}

/// Every name with its target, given the routers to lead to.
///
/// A service whose name is too long together with the domain has none; it could not be looked up anyway.
pub fn resolve(view: &View, domain: &Hostname, routers: &BTreeSet<IpAddr>) -> BTreeMap<Hostname, Target> {
    let mut names = BTreeMap::new();
    if !routers.is_empty() {
        let hosts = view
            .services()
            .filter_map(|service| Hostname::of_service(service, domain).ok());
        names.extend(hosts.map(|host| {
            (
                host,
                Target {
                    addresses: routers.clone(),
                    origin: Origin::Routers,
                },
            )
        }));
    }
    for (host, addresses) in view.statics() {
        names.insert(
            host.clone(),
            Target {
                addresses: addresses.clone(),
                origin: Origin::Static,
            },
        );
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(routers: &[&str]) -> Vec<String> {
        let mut view = View::default();
        view.put("/mayfly/backends/backend/1/x", br#"{"address":"10.0.0.1:80"}"#);
        view.put("/mayfly/backends/billing/1/x", br#"{"address":"10.0.0.1:81"}"#);
        view.put("/mayfly/dns/billing.service", br#"{"addresses":["10.9.9.9"]}"#);
        let routers = routers.iter().map(|text| text.parse().unwrap()).collect();
        let names = resolve(&view, &"service".parse().unwrap(), &routers);
        names
            .iter()
            .map(|(host, target)| format!("{host} {:?}", target.addresses))
            .collect()
    }

    #[test]
    fn services_lead_to_every_router_and_static_records_win() {
        assert_eq!(
            names(&["10.0.0.9", "fd00::9"]),
            [
                "backend.service {10.0.0.9, fd00::9}",
                "billing.service {10.9.9.9}"
            ]
        );
    }

    #[test]
    fn without_a_router_only_static_records_are_names() {
        assert_eq!(names(&[]), ["billing.service {10.9.9.9}"]);
    }
}
