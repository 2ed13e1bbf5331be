//! All that etcd says, for the commands that only ask: the index that routers have too, what the daemons say of
//! themselves, and the revisions that tell whether they are in step.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mayfly_core::explain;
use mayfly_core::index::{EnvironmentView, Index};
use mayfly_core::keys::{Daemon, Key, KeySpace};
use mayfly_core::launching::Launching;
use mayfly_core::names::{EnvironmentName, Hostname, NodeName};
use mayfly_core::outside::AddressRule;
use mayfly_core::records::{self, Router, Status};
use mayfly_core::version::BackendId;
use mayfly_daemon::store::{Entry, LeaseId, Store};
use mayfly_daemon::watch::{Batch, Change};
use serde::Serialize;
use serde_json::Value;

use crate::launchers::{Launchers, Leader};
use crate::registry;

/// What host names resolve to.
type Addresses = BTreeMap<Hostname, BTreeSet<IpAddr>>;

/// What stands in etcd at one revision.
#[derive(Debug)]
pub struct State {
    space: KeySpace,
    /// Environments and instances, resolved.
    pub index: Index,
    /// The revision.
    pub revision: i64,
    environments: BTreeMap<EnvironmentName, Registered>,
    history: BTreeSet<EnvironmentName>,
    /// The newest revision of each instance's key, and of each key that drains one.
    instances: BTreeMap<String, (BackendId, i64)>,
    /// The node of the container-launcher that works.
    leader: Option<String>,
    routers: BTreeMap<NodeName, Option<Router>>,
    statuses: BTreeMap<(Daemon, NodeName), Result<Status, String>>,
    /// For each kind of key the revision at which one of them was last put.
    newest: BTreeMap<&'static str, i64>,
}

/// Where and how an environment stands in etcd.
#[derive(Debug, Clone, Copy)]
struct Registered {
    mod_revision: i64,
    lease: Option<LeaseId>,
}

/// What a daemon says of itself, and how far it lags behind.
#[derive(Debug, Clone, Serialize)]
pub struct DaemonView {
    /// Its program.
    pub daemon: &'static str,
    /// Its node.
    pub node: NodeName,
    /// Where the internal side of a router is.
    pub address: Option<String>,
    /// The newest revision whose every change it has applied.
    pub applied_revision: i64,
    /// The newest revision at which something was put that it watches.
    pub newest_revision: i64,
    /// How many revisions it lags behind; 0 when it is in step.
    pub lag: i64,
    /// Whether it has been in step since it started.
    pub ready: bool,
    /// Why the newest state is not in force, if it is not.
    pub error: Option<String>,
    /// Of a container-launcher: whether it is the one that works.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub leading: Option<bool>,
    /// Of a container-launcher that works: why it retires nothing at present, if that is held back. Of a router: what it
    /// keeps although etcd has lost it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guard: Option<String>,
    /// Of a router: the host names that it needs and has no address of.
    pub host_names_without_address: BTreeSet<Hostname>,
    /// What it has set aside.
    pub set_aside: Vec<records::SetAside>,
}

impl State {
    /// Nothing yet. `least` is how many instances a service has to have.
    pub fn new(space: &KeySpace, least: usize) -> Self {
        Self {
            space: space.clone(),
            index: Index::new(space.clone()).with_least_instances(least),
            revision: 0,
            environments: BTreeMap::new(),
            history: BTreeSet::new(),
            instances: BTreeMap::new(),
            leader: None,
            routers: BTreeMap::new(),
            statuses: BTreeMap::new(),
            newest: BTreeMap::new(),
        }
    }

    /// Reads everything once.
    ///
    /// # Errors
    /// When etcd does not answer, or has nothing of Mayfly.
    pub async fn read(store: &Store, least: usize) -> anyhow::Result<Self> {
        let listing = store.list(&store.keyspace().everything()).await?;
        if listing.entries.is_empty() {
            return Err(store.unused());
        }
        let mut state = Self::new(store.keyspace(), least);
        let changes = listing.entries.into_iter().map(Change::Put).collect();
        state.take(Batch {
            revision: listing.revision,
            listed: true,
            changes,
        });
        Ok(state)
    }

    /// Takes in what a watch brings.
    pub fn take(&mut self, batch: Batch) {
        if batch.revision < self.revision {
            self.index.age();
        }
        for change in batch.changes {
            match change {
                Change::Put(entry) => self.put(&entry),
                Change::Delete { key } => self.delete(&key),
            }
        }
        self.revision = batch.revision;
        // Host names are the routers' to resolve; what one of them has no address of, or refuses, is not in force.
        self.index.set_rule(self.rule());
        let routers = || self.statuses.values().flatten();
        let refused: Addresses = routers().flat_map(refused).collect();
        let nameless = routers().flat_map(nameless);
        let unknown = nameless.chain(refused.keys().cloned()).collect();
        self.index.resolve_unseen(&unknown);
        for (name, addresses) in refused {
            self.index.resolved(&name, addresses);
        }
        self.index.resolve();
        let routers = self.statuses.values().flatten();
        self.index.set_unanswered(&routers.flat_map(unanswered).collect());
        self.index.settle();
    }

    /// Which addresses outside the routers ask: as the first says, but none where any of them listens.
    fn rule(&self) -> AddressRule {
        let routers = self
            .statuses
            .iter()
            .filter(|((daemon, _), _)| *daemon == Daemon::HaproxyUpdater);
        let rules = routers.map(|(_, status)| {
            let said = status
                .as_ref()
                .ok()
                .and_then(|status| status.detail.get("address_rule"));
            // One that does not say it is older, and refuses none.
            said.and_then(|rule| serde_json::from_value(rule.clone()).ok())
                .unwrap_or_else(AddressRule::off)
        });
        rules
            .reduce(|first, other| first.with_own_of(&other))
            .unwrap_or_default()
    }

    fn put(&mut self, entry: &Entry) {
        self.index.put(&entry.key, &entry.value, entry.revision());
        // What is not a key of ours is set aside by whom it concerns.
        let Ok(key) = self.space.parse(&entry.key) else {
            return;
        };
        let kind = kind(&key);
        match key {
            Key::Environment(name) => {
                let registered = Registered {
                    mod_revision: entry.mod_revision,
                    lease: entry.lease,
                };
                self.environments.insert(name, registered);
            }
            Key::History(name) => drop(self.history.insert(name)),
            Key::Instance(backend, _) | Key::Drain(backend, _) => {
                self.instances
                    .insert(entry.key.clone(), (backend, entry.mod_revision));
            }
            Key::Router(node) => drop(self.routers.insert(node, records::parse(&entry.value).ok())),
            Key::Status(daemon, node) => {
                let status = records::parse(&entry.value).map_err(|error| error.to_string());
                self.statuses.insert((daemon, node), status);
            }
            Key::Leader(Daemon::ContainerLauncher) => {
                self.leader = Some(String::from_utf8_lossy(&entry.value).into_owned());
            }
            Key::Dns(_) | Key::Definition(_) | Key::Leader(_) | Key::Confirmation(_) => {}
        }
        let newest = self.newest.entry(kind).or_default();
        *newest = (*newest).max(entry.mod_revision);
    }

    fn delete(&mut self, text: &str) {
        self.index.delete(text);
        match self.space.parse(text) {
            Ok(Key::Environment(name)) => drop(self.environments.remove(&name)),
            Ok(Key::History(name)) => drop(self.history.remove(&name)),
            Ok(Key::Instance(..) | Key::Drain(..)) => drop(self.instances.remove(text)),
            Ok(Key::Leader(Daemon::ContainerLauncher)) => self.leader = None,
            Ok(Key::Router(node)) => drop(self.routers.remove(&node)),
            Ok(Key::Status(daemon, node)) => drop(self.statuses.remove(&(daemon, node))),
            Ok(_) | Err(_) => {}
        }
    }

    /// The lease that an environment hangs on.
    pub fn lease(&self, name: &EnvironmentName) -> Option<LeaseId> {
        self.environments.get(name)?.lease
    }

    /// The environments that have been and are no more.
    pub fn ended(&self) -> impl Iterator<Item = &EnvironmentName> {
        self.history
            .iter()
            .filter(|name| !self.environments.contains_key(*name))
    }

    /// Why there is no environment of a name, and which was meant.
    pub fn unknown(&self, name: &EnvironmentName) -> String {
        if let Some(reason) = self.index.set_aside_of(name).first() {
            return format!("environment {name} is set aside: {reason}");
        }
        if self.history.contains(name) {
            return format!("environment {name} has ended; `mayfly keep {name} 8h` brings it back");
        }
        let known = self.index.environments().map(|other| &other.name);
        registry::unknown(name, known)
    }

    /// The newest revision of all that an environment is made of: its record, those that it extends, and the instances
    /// of what it resolves to.
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

    /// All daemons that say something of themselves, and the routers that only say where they are.
    pub fn daemons(&self) -> Vec<DaemonView> {
        let silent = self
            .routers
            .keys()
            .map(|node| (Daemon::HaproxyUpdater, node.clone()));
        let all: BTreeSet<_> = self.statuses.keys().cloned().chain(silent).collect();
        all.into_iter()
            .map(|(daemon, node)| self.daemon(daemon, node))
            .collect()
    }

    fn daemon(&self, daemon: Daemon, node: NodeName) -> DaemonView {
        let (status, unreadable) = match self.statuses.get(&(daemon, node.clone())) {
            Some(Ok(status)) => (status.clone(), None),
            Some(Err(error)) => (
                Status::default(),
                Some(format!("its status cannot be read: {error}")),
            ),
            None => (Status::default(), Some("it says nothing of itself".to_owned())),
        };
        let kinds = watched(daemon).iter();
        let newest_revision = kinds
            .filter_map(|kind| self.newest.get(kind))
            .max()
            .copied()
            .unwrap_or_default();
        let router = self
            .routers
            .get(&node)
            .filter(|_| daemon == Daemon::HaproxyUpdater);
        let leading = (daemon == Daemon::ContainerLauncher).then(|| self.is_leader(&node, &status));
        let guard = Launching::of(&status).filter(|_| leading == Some(true));
        let kept = self
            .guards()
            .find(|(other, _)| **other == node)
            .map(|(_, kept)| kept);
        DaemonView {
            daemon: daemon.as_str(),
            address: router
                .and_then(Option::as_ref)
                .map(|router| router.address.to_string()),
            node,
            applied_revision: status.applied_revision,
            newest_revision,
            lag: (newest_revision - status.applied_revision).max(0),
            ready: status.ready,
            host_names_without_address: nameless(&status),
            error: unreadable.or(status.error),
            leading,
            guard: match daemon {
                Daemon::HaproxyUpdater => kept.map(str::to_owned),
                _ => guard.and_then(|launching| launching.guard),
            },
            set_aside: status.set_aside,
        }
    }

    /// What the guards of the routers keep.
    pub fn guards(&self) -> impl Iterator<Item = (&NodeName, &str)> {
        self.statuses.iter().filter_map(|((daemon, node), status)| {
            let status = status
                .as_ref()
                .ok()
                .filter(|_| *daemon == Daemon::HaproxyUpdater)?;
            Some((node, status.detail.get("guard")?.as_str()?))
        })
    }

    /// Whether what a router keeps although etcd has lost it may be part of an environment.
    pub fn keeps_of(&self, node: &NodeName, view: &EnvironmentView) -> bool {
        let status = self.statuses.get(&(Daemon::HaproxyUpdater, node.clone()));
        let Some(Ok(status)) = status else { return true };
        let keys = status.detail.get("guard_keeps").and_then(Value::as_array);
        let all = status.detail.get("guard_keeps_all").and_then(Value::as_bool);
        // One that does not say what it keeps may keep anything.
        let (Some(keys), Some(true)) = (keys, all) else {
            return true;
        };
        let concerns = |key: &str| match self.space.parse(key) {
            Ok(Key::Instance(backend, _)) => view.services.iter().any(|service| {
                let version = service.version.as_deref();
                service.service == backend.service
                    && version.is_none_or(|version| version == backend.version.as_str())
            }),
            Ok(Key::Environment(name)) => name == view.name || view.parents.contains(&name),
            _ => true,
        };
        keys.iter().filter_map(Value::as_str).any(concerns)
    }

    /// What the container-launchers say.
    pub fn launchers(&self) -> Launchers {
        let mut all = Launchers::default();
        for ((daemon, node), status) in &self.statuses {
            if *daemon != Daemon::ContainerLauncher {
                continue;
            }
            all.are_there = true;
            let leads = status.as_ref().ok().filter(|status| self.is_leader(node, status));
            if let Some((status, launching)) = leads.and_then(|status| Some((status, Launching::of(status)?)))
            {
                let newest = self.newest.get("services").copied().unwrap_or_default();
                all.leader = Some(Leader {
                    node: node.clone(),
                    launching,
                    is_current: status.applied_revision >= newest,
                });
            }
        }
        all
    }

    /// Whether a launcher leads: it says so, and etcd does. The record of one that died outlives its lead.
    fn is_leader(&self, node: &NodeName, status: &Status) -> bool {
        let elected = self.leader.as_deref() == Some(node.as_str());
        elected && Launching::of(status).is_some_and(|launching| launching.leading)
    }

    /// The settings of the routers, as the first of them says; `None` when none does.
    pub fn settings(&self) -> Option<explain::Settings> {
        let routers = self
            .statuses
            .iter()
            .filter(|((daemon, _), _)| *daemon == Daemon::HaproxyUpdater);
        let mut settings = routers.filter_map(|(_, status)| status.as_ref().ok()?.detail.get("settings"));
        settings.find_map(|settings| serde_json::from_value(settings.clone()).ok())
    }
}

/// The host names that a router needs and has no address of, as its status says.
fn nameless(status: &Status) -> BTreeSet<Hostname> {
    let names = status.detail.get("host_names_without_address");
    let names = names.and_then(|names| serde_json::from_value(names.clone()).ok());
    names.unwrap_or_default()
}

/// The host names of which a router refuses something, with all that they resolve to, as its status says.
fn refused(status: &Status) -> Addresses {
    let names = status.detail.get("host_names_refused");
    let names = names.and_then(|names| serde_json::from_value(names.clone()).ok());
    names.unwrap_or_default()
}

/// The services outside that do not answer a router's checks, as its status says.
fn unanswered(status: &Status) -> BTreeSet<BackendId> {
    let backends = status.detail.get("not_answering").and_then(Value::as_array);
    let texts = backends.into_iter().flatten().filter_map(Value::as_str);
    texts.filter_map(|text| text.parse().ok()).collect()
}

fn kind(key: &Key) -> &'static str {
    match key {
        Key::Environment(_) => "environments",
        Key::History(_) => "history",
        Key::Instance(..) => "backends",
        Key::Router(_) => "routers",
        Key::Drain(..) => "drains",
        Key::Dns(_) => "dns",
        Key::Definition(_) => "services",
        Key::Leader(_) => "leaders",
        Key::Confirmation(_) => "confirmations",
        Key::Status(..) => "status",
    }
}

/// The kinds of keys whose changes a daemon applies.
fn watched(daemon: Daemon) -> &'static [&'static str] {
    match daemon {
        Daemon::EnvironmentRegistrar => &["environments"],
        // Of etcd it reads nothing.
        Daemon::ContainerRegistrar => &[],
        Daemon::ContainerLauncher => &["backends", "drains", "environments", "services"],
        Daemon::HaproxyUpdater => &["backends", "drains", "environments"],
        Daemon::DnsUpdater => &["backends", "dns", "environments", "routers"],
    }
}

#[cfg(test)]
mod tests;
