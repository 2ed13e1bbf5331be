//! All that etcd has, for those who only read: the same index as in routers, the status of the
//! daemons, and the revisions that show whether they are in sync. [`take`] follows etcd,
//! [`settle`] gives daemons a moment to catch up, [`daemons`] and [`kept`] are about daemons, and
//! [`words`] about what has ended or is missing.

mod daemons;
mod kept;
mod settle;
mod take;
mod unreachable;
mod words;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mayfly_core::address::Address;
use mayfly_core::index::{Index, ServiceView};
use mayfly_core::keys::{Daemon, Key, KeySpace, Kind};
use mayfly_core::names::{EnvironmentName, NodeName, ServiceName};
use mayfly_core::records::traffic::{self, Traffic};
use mayfly_core::records::{Environment, Router, Status};
use mayfly_core::router_status::RouterStatus;
use mayfly_core::version::{BackendId, Selector};
use mayfly_daemon::store::{LeaseId, Store};
use mayfly_daemon::watch;

pub use daemons::DaemonView;
use unreachable::InstancePlace;
pub use words::{FailingView, kept_out, unknown};

/// What stands in etcd at one revision.
#[derive(Debug)]
pub struct State {
    space: KeySpace,
    pub index: Index,
    /// The revision of etcd that it is at.
    pub revision: i64,
    environments: BTreeMap<EnvironmentName, StoredEnvironment>,
    /// What has been, without services, as far as it can be read.
    history: BTreeMap<EnvironmentName, Option<Environment>>,
    /// The newest revision of each instance's key, and of each key that drains one.
    instances: BTreeMap<Key, (BackendId, i64)>,
    /// Where instances are, by key.
    places: BTreeMap<Key, InstancePlace>,
    /// The node of the container-launcher that works.
    leader: Option<NodeName>,
    /// The services that a definition starts.
    definitions: BTreeSet<ServiceName>,
    /// The backends that are to be launched again.
    relaunches: BTreeSet<BackendId>,
    routers: BTreeMap<NodeName, Option<Router>>,
    statuses: BTreeMap<(Daemon, NodeName), Result<Status, String>>,
    /// What routers report in their statuses, of those whose status can be read. Every batch of
    /// changes asks for all of it.
    reported: BTreeMap<NodeName, RouterStatus>,
    /// What each router has counted.
    traffic: BTreeMap<NodeName, Traffic>,
    /// For each kind of key the revision at which one of them was last put.
    newest: BTreeMap<Kind, i64>,
}

/// Where and how an environment stands in etcd.
#[derive(Debug, Clone, Copy)]
struct StoredEnvironment {
    mod_revision: i64,
    lease: Option<LeaseId>,
}

impl State {
    /// Nothing yet. `least` is how many instances a service has to have.
    pub fn new(space: &KeySpace, least: usize) -> Self {
        Self {
            space: space.clone(),
            index: Index::new(space.clone()).with_least_instances(least),
            revision: 0,
            environments: BTreeMap::new(),
            history: BTreeMap::new(),
            instances: BTreeMap::new(),
            places: BTreeMap::new(),
            leader: None,
            definitions: BTreeSet::new(),
            relaunches: BTreeSet::new(),
            routers: BTreeMap::new(),
            statuses: BTreeMap::new(),
            reported: BTreeMap::new(),
            traffic: BTreeMap::new(),
            newest: BTreeMap::new(),
        }
    }

    /// Reads everything once.
    ///
    /// # Errors
    /// When etcd does not answer, or has nothing of Mayfly.
    pub async fn read(store: &Store, least: usize) -> anyhow::Result<Self> {
        let batch = watch::look(store, &store.keyspace().everything()).await?;
        if batch.is_empty() {
            return Err(store.unused());
        }
        let mut state = Self::new(store.keyspace(), least);
        state.take(batch);
        Ok(state)
    }

    /// What all routers have counted together.
    pub fn traffic(&self) -> Traffic {
        traffic::sum(self.traffic.values())
    }

    /// The routers, with the addresses of their internal sides.
    pub fn routers(&self) -> impl Iterator<Item = (&NodeName, IpAddr)> {
        let all = self.routers.iter();
        all.filter_map(|(node, router)| Some((node, router.as_ref()?.address)))
    }

    /// The backend that is registered at an address.
    pub fn backend_at(&self, address: Address) -> Option<&BackendId> {
        let mut places = self.places.values();
        places.find_map(|place| place.backend_at(address))
    }

    /// The lease that an environment hangs on.
    pub fn lease(&self, name: &EnvironmentName) -> Option<LeaseId> {
        self.environments.get(name)?.lease
    }

    /// Whether a backend is still to be launched again.
    pub fn is_to_be_relaunched(&self, backend: &BackendId) -> bool {
        self.relaunches.contains(backend)
    }

    /// Whether an environment asks for a backend by its very version.
    pub fn asks_for(&self, backend: &BackendId) -> bool {
        let asks = |service: &ServiceView| {
            let selector = service.selector.parse();
            service.service == backend.service
                && matches!(selector, Ok(Selector::Exact(version)) if version == backend.version)
        };
        let names = self.index.environments().map(|environment| &environment.name);
        let mut views = names.filter_map(|name| self.index.view(name));
        views.any(|view| view.services.iter().any(asks))
    }

    /// The newest revision of all that an environment is made of: its record, those that it
    /// extends, and the instances of what it resolves to.
    pub fn revision_of(&self, name: &EnvironmentName) -> i64 {
        let Some(view) = self.index.view(name) else {
            return 0;
        };
        let records = view
            .parents
            .iter()
            .chain([name])
            .filter_map(|name| self.environments.get(name));
        let chosen = |backend: &BackendId| {
            view.services.iter().any(|service| {
                service.service == backend.service
                    && service.version.as_deref() == Some(backend.version.as_str())
            })
        };
        let instances = self.instances.values().filter(|(backend, _)| chosen(backend));
        let revisions = records.map(|registered| registered.mod_revision);
        revisions
            .chain(instances.map(|(_, revision)| *revision))
            .max()
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
