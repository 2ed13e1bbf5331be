//! What is registered at a loopback or link-local address although others need it. If everything is
//! on one host, that is fine and nothing is reported: a report needs a client elsewhere that would
//! connect in vain, or to the wrong place. A node stands for a host, and each container is one of
//! its own.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mayfly_core::address::Address;
use mayfly_core::keys::Daemon;
use mayfly_core::labels;
use mayfly_core::locality::only_here;
use mayfly_core::names::NodeName;
use mayfly_core::records::{Instance, Router};
use mayfly_core::version::BackendId;

use super::State;

/// Where an instance is, as far as its record says it.
#[derive(Debug)]
pub(super) struct InstancePlace {
    backend: BackendId,
    address: Address,
    /// The node of its registrar; `None` where nobody stands beside it.
    node: Option<String>,
    in_container: bool,
}

impl InstancePlace {
    /// That of an instance; `None` where it is registered by a host name.
    pub(super) fn of(backend: &BackendId, instance: &Instance) -> Option<Self> {
        let note = |name: &str| instance.metadata.get(name);
        Some(Self {
            backend: backend.clone(),
            address: instance.address.address()?,
            node: note(labels::NODE).cloned(),
            in_container: note(labels::CONTAINER).is_some(),
        })
    }

    /// The backend, if it is at this address.
    pub(super) fn backend_at(&self, address: Address) -> Option<&BackendId> {
        (self.address == address).then_some(&self.backend)
    }

    /// Whether what runs there is surely on another host than this node, and reached there.
    fn is_beyond(&self, node: &NodeName) -> bool {
        let on_another = self.node.as_ref().is_some_and(|own| own != node.as_str());
        only_here(self.address.ip()).is_none() && (self.in_container || on_another)
    }
}

impl State {
    /// The report, in lines.
    pub fn unreachable(&self) -> Vec<String> {
        let routers: BTreeMap<&NodeName, &Router> = self
            .routers
            .iter()
            .filter_map(|(node, router)| Some((node, router.as_ref()?)))
            .collect();
        let routers_at_loopback = routers
            .iter()
            .filter_map(|(node, router)| self.router_unreachable(node, router.address));
        let instances = self.places.values().filter_map(|place| {
            let (node, what) = (place.node.as_deref()?, only_here(place.address.ip())?);
            let router = routers.keys().find(|router| router.as_str() != node)?;
            Some(format!(
                "{} of node {node} is registered at {}, {what}: the router of node {router} does \
                 not reach this instance; start its container-registrar with an address that all \
                 routers reach",
                place.backend, place.address
            ))
        });
        routers_at_loopback.chain(instances).collect()
    }

    fn router_unreachable(&self, node: &NodeName, address: IpAddr) -> Option<String> {
        let what = only_here(address)?;
        let names = self
            .statuses
            .keys()
            .find(|(daemon, other)| *daemon == Daemon::DnsUpdater && other != node);
        let instance = || self.places.values().find(|place| place.is_beyond(node));
        let who = match names {
            Some((_, other)) => {
                format!("the dns-updater of node {other} resolves the names of services to this address")
            }
            None => {
                let InstancePlace { backend, address, .. } = instance()?;
                format!("{backend} at {address} does not reach this router")
            }
        };
        Some(format!(
            "the router of node {node} is registered at {address}, {what}: {who}; start \
             haproxy-updater with `--advertise ADDRESS`, an address that all services reach"
        ))
    }
}
