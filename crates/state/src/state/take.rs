//! How the state follows etcd: each batch of a watch changes it, and then everything is resolved.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mayfly_core::index::Revision;
use mayfly_core::keys::{Daemon, Key};
use mayfly_core::names::{Hostname, NodeName};
use mayfly_core::outside::AddressRule;
use mayfly_core::records::{Record, Status};
use mayfly_core::router_status::RouterStatus;
use mayfly_daemon::store::LeaseId;
use mayfly_daemon::watch::{Batch, Change, Stored, Unreadable};

use super::unreachable::InstancePlace;
use super::{State, StoredEnvironment};

impl State {
    /// Takes in what a watch brings.
    pub fn take(&mut self, batch: Batch) {
        if batch.revision < self.revision {
            self.index.age();
            // etcd has lost its data and counts again from a low revision.
            self.newest.clear();
        }
        for change in batch.changes {
            match change {
                Change::Put(stored) => self.put(stored),
                Change::Unreadable(unreadable) => self.put_unreadable(unreadable),
                Change::Gone(key) => self.gone(&key),
            }
        }
        self.index.set_unreadable(batch.set_aside);
        self.revision = batch.revision;
        // Host names are the routers' to resolve; what one of them has no address of, or refuses,
        // is not in force.
        self.index.set_rule(self.rule());
        let routers = || self.reported.values();
        let nameless = routers().flat_map(|router| &router.host_names_without_address);
        let nameless = nameless.map(|name| (name.clone(), BTreeSet::new()));
        let refused = routers().flat_map(|router| &router.host_names_refused);
        let refused = refused.map(|(name, addresses)| (name.clone(), addresses.clone()));
        let known: BTreeMap<Hostname, BTreeSet<IpAddr>> = nameless.chain(refused).collect();
        let unanswered = routers().flat_map(|router| &router.not_answering);
        let unanswered = unanswered.cloned().collect();
        self.index.believe_names(known);
        self.index.resolve();
        self.index.set_unanswered(&unanswered);
        self.index.settle();
    }

    /// Which addresses outside the routers ask: as the first says, but none where any of them
    /// listens.
    fn rule(&self) -> AddressRule {
        let all = self.statuses.keys();
        let routers = all.filter(|(daemon, _)| *daemon == Daemon::HaproxyUpdater);
        let rules = routers.map(|(_, node)| {
            let reported = self.reported.get(node);
            let rule = reported.and_then(|router| router.address_rule.clone());
            // One that does not say it is older, and refuses none.
            rule.unwrap_or_else(AddressRule::off)
        });
        rules
            .reduce(|first, other| first.with_own_of(&other))
            .unwrap_or_default()
    }

    fn put(&mut self, stored: Stored) {
        let Stored {
            record,
            revision,
            lease,
        } = stored;
        let key = record.key();
        self.note(&key, revision, lease);
        if let Record::Instance(backend, _, instance) = &record {
            match InstancePlace::of(backend, instance) {
                Some(place) => drop(self.places.insert(key, place)),
                None => drop(self.places.remove(&key)),
            }
        }
        match record {
            Record::History(mut environment) => {
                environment.services = Vec::new();
                self.history.insert(environment.name.clone(), Some(environment));
            }
            Record::Router(node, router) => drop(self.routers.insert(node, Some(router))),
            Record::Status(daemon, node, status) => self.put_status(daemon, node, Ok(status)),
            Record::Traffic(node, traffic) => drop(self.traffic.insert(node, traffic)),
            Record::Leader(Daemon::ContainerLauncher, node) => self.leader = Some(node),
            Record::Relaunch(backend) => drop(self.relaunches.insert(backend)),
            other => self.index.put(other, revision),
        }
    }

    fn put_status(&mut self, daemon: Daemon, node: NodeName, status: Result<Status, String>) {
        if daemon == Daemon::HaproxyUpdater {
            match &status {
                Ok(status) => drop(self.reported.insert(node.clone(), RouterStatus::of(status))),
                Err(_) => drop(self.reported.remove(&node)),
            }
        }
        self.statuses.insert((daemon, node), status);
    }

    /// Of what cannot be read it is known that it is there.
    fn put_unreadable(&mut self, unreadable: Unreadable) {
        let Unreadable {
            key,
            reason,
            revision,
            lease,
            ..
        } = unreadable;
        self.note(&key, revision, lease);
        match key {
            Key::History(name) => drop(self.history.entry(name).or_default()),
            Key::Router(node) => drop(self.routers.entry(node).or_default()),
            Key::Status(daemon, node) => self.put_status(daemon, node, Err(reason)),
            Key::Traffic(node) => drop(self.traffic.remove(&node)),
            _ => {}
        }
    }

    /// Notes when a key was put, whatever its value.
    fn note(&mut self, key: &Key, revision: Revision, lease: Option<LeaseId>) {
        let mod_revision = revision.changed;
        match key {
            Key::Environment(name) => {
                let registered = StoredEnvironment { mod_revision, lease };
                self.environments.insert(name.clone(), registered);
            }
            Key::Instance(backend, _) | Key::Drain(backend, _) => {
                self.instances
                    .insert(key.clone(), (backend.clone(), mod_revision));
            }
            Key::Definition(service) => drop(self.definitions.insert(service.clone())),
            _ => {}
        }
        let newest = self.newest.entry(key.kind()).or_default();
        *newest = (*newest).max(mod_revision);
    }

    pub(super) fn gone(&mut self, key: &Key) {
        self.index.gone(key);
        match key {
            Key::Environment(name) => drop(self.environments.remove(name)),
            Key::History(name) => drop(self.history.remove(name)),
            Key::Instance(..) | Key::Drain(..) => {
                self.places.remove(key);
                self.instances.remove(key);
            }
            Key::Leader(Daemon::ContainerLauncher) => self.leader = None,
            Key::Definition(service) => drop(self.definitions.remove(service)),
            Key::Relaunch(backend) => drop(self.relaunches.remove(backend)),
            Key::Router(node) => drop(self.routers.remove(node)),
            Key::Status(daemon, node) => {
                self.statuses.remove(&(*daemon, node.clone()));
                if *daemon == Daemon::HaproxyUpdater {
                    self.reported.remove(node);
                }
            }
            Key::Traffic(node) => drop(self.traffic.remove(node)),
            _ => {}
        }
    }
}
