//! etcd as the launcher sees it: the environments resolved by the same index that routers have, the service definitions,
//! the instances with the containers that they run in, and an operator's word.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mayfly_core::address::InstanceId;
use mayfly_core::definition::Definition;
use mayfly_core::index::Index;
use mayfly_core::keys::{Daemon, Key, KeySpace};
use mayfly_core::labels;
use mayfly_core::names::{EnvironmentName, ServiceName};
use mayfly_core::records::{self, Instance, InstanceState, SetAside};
use mayfly_core::routing::Table;
use mayfly_core::version::{BackendId, Selector};
use mayfly_daemon::store::Entry;
use mayfly_daemon::watch::{Batch, Change};

/// What etcd says.
#[derive(Debug)]
pub struct View {
    space: KeySpace,
    index: Index,
    definitions: BTreeMap<ServiceName, Arc<Definition>>,
    instances: BTreeMap<BackendId, BTreeMap<InstanceId, Registered>>,
    drains: BTreeSet<(BackendId, InstanceId)>,
    /// The keys of all environments, and which backends each asks for by their very versions.
    environments: BTreeMap<String, Vec<BackendId>>,
    /// How many environments ask for a backend so.
    exactly: BTreeMap<BackendId, usize>,
    unreadable: BTreeMap<String, String>,
    confirmed: bool,
    revision: i64,
}

/// An instance in etcd.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Registered {
    up: bool,
    container: Option<String>,
}

/// The instances of one backend that take requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Live {
    /// The containers that have one.
    pub containers: BTreeSet<String>,
    /// How many are in none that is known.
    pub elsewhere: usize,
}

impl View {
    /// Nothing yet.
    pub fn new(space: &KeySpace) -> Self {
        Self {
            space: space.clone(),
            index: Index::new(space.clone()),
            definitions: BTreeMap::new(),
            instances: BTreeMap::new(),
            drains: BTreeSet::new(),
            environments: BTreeMap::new(),
            exactly: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            confirmed: false,
            revision: 0,
        }
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
        // What names of hosts outside lead to does not matter here: nothing is started for them.
        self.index.resolve();
        // What the index has noted for that would grow for ever.
        self.index.settle();
    }

    fn put(&mut self, entry: &Entry) {
        self.index.put(&entry.key, &entry.value, entry.revision());
        match self.space.parse(&entry.key) {
            Ok(Key::Environment(name)) => self.put_environment(&name, entry),
            Ok(Key::Instance(backend, id)) => {
                // One that cannot be read keeps its last good value, as routers have it.
                if let Ok(instance) = records::parse::<Instance>(&entry.value) {
                    let registered = Registered {
                        up: instance.state == InstanceState::Up,
                        container: instance.metadata.get(labels::CONTAINER).cloned(),
                    };
                    self.instances.entry(backend).or_default().insert(id, registered);
                }
            }
            Ok(Key::Drain(backend, id)) => drop(self.drains.insert((backend, id))),
            Ok(Key::Definition(service)) => self.put_definition(service, entry),
            Ok(Key::Confirmation(Daemon::ContainerLauncher)) => self.confirmed = true,
            Ok(_) | Err(_) => {}
        }
    }

    /// As everywhere, the last good value stays in force.
    fn put_environment(&mut self, name: &EnvironmentName, entry: &Entry) {
        let before = self.environments.entry(entry.key.clone()).or_default();
        let Ok(record) = records::parse_environment(name, &entry.value) else {
            return;
        };
        let exactly = record
            .services
            .into_iter()
            .filter_map(|choice| match choice.version {
                Selector::Exact(version) if !version.is_outside() => Some(BackendId {
                    service: choice.name,
                    version,
                }),
                _ => None,
            });
        let exactly: Vec<BackendId> = exactly.collect();
        for backend in &exactly {
            *self.exactly.entry(backend.clone()).or_default() += 1;
        }
        let before = std::mem::replace(before, exactly);
        self.forget(&before);
    }

    /// Notes that an environment asks for these no longer.
    fn forget(&mut self, backends: &[BackendId]) {
        for backend in backends {
            if let Some(count) = self.exactly.get_mut(backend) {
                *count -= 1;
                if *count == 0 {
                    self.exactly.remove(backend);
                }
            }
        }
    }

    /// As everywhere, the last good value stays in force.
    fn put_definition(&mut self, service: ServiceName, entry: &Entry) {
        match records::parse_definition(&service, &entry.value) {
            Ok(definition) => {
                self.unreadable.remove(&entry.key);
                self.definitions.insert(service, Arc::new(definition));
            }
            Err(error) => drop(self.unreadable.insert(entry.key.clone(), error.to_string())),
        }
    }

    fn delete(&mut self, text: &str) {
        self.index.delete(text);
        self.unreadable.remove(text);
        match self.space.parse(text) {
            Ok(Key::Environment(_)) => {
                let before = self.environments.remove(text).unwrap_or_default();
                self.forget(&before);
            }
            Ok(Key::Instance(backend, id)) => {
                if let Some(instances) = self.instances.get_mut(&backend) {
                    instances.remove(&id);
                    if instances.is_empty() {
                        self.instances.remove(&backend);
                    }
                }
            }
            Ok(Key::Drain(backend, id)) => drop(self.drains.remove(&(backend, id))),
            Ok(Key::Definition(service)) => drop(self.definitions.remove(&service)),
            Ok(Key::Confirmation(Daemon::ContainerLauncher)) => self.confirmed = false,
            Ok(_) | Err(_) => {}
        }
    }

    /// The revision up to which every change is taken in.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// How many environments are registered, whether or not they can be read.
    pub fn environments(&self) -> usize {
        self.environments.len()
    }

    /// Whether an environment of this key is registered.
    pub fn has_environment(&self, key: &str) -> bool {
        self.environments.contains_key(key)
    }

    /// Whether a batch would end an environment.
    pub fn is_end(&self, batch: &Batch) -> bool {
        let ends = |change: &Change| matches!(change, Change::Delete { key } if self.has_environment(key));
        batch.changes.iter().any(ends)
    }

    /// The keys of the environments that resolve to one of these backends, by themselves or by what they extend. Looks at
    /// all that every environment chooses.
    pub fn resolving_to(&self, backends: &BTreeSet<BackendId>) -> BTreeSet<String> {
        let routing = self.index.routing();
        let backends: BTreeSet<String> = backends.iter().map(ToString::to_string).collect();
        let mut choosers = BTreeSet::new();
        routing.each(Table::Versions, |key, backend| {
            if backends.contains(backend) {
                let environment = key.split_once('/').map_or(key, |(environment, _)| environment);
                choosers.insert(environment.to_owned());
            }
        });
        let resolves = |key: &&String| match self.space.parse(key) {
            Ok(Key::Environment(name)) => routing.chain(name.as_str()).any(|name| choosers.contains(name)),
            _ => false,
        };
        self.environments.keys().filter(resolves).cloned().collect()
    }

    /// The backends that some environment resolves to, and whether one of them asks for that very version. Services
    /// outside are none.
    pub fn needed(&self) -> BTreeMap<BackendId, bool> {
        // What an environment waits for is routed only once it answers; what it has until then is routed, and so needed.
        let awaited = self.index.awaited();
        let named = self.index.routing().named().cloned().chain(awaited);
        named
            .filter(|backend| !backend.version.is_outside())
            .map(|backend| {
                let exactly = self.exactly.contains_key(&backend);
                (backend, exactly)
            })
            .collect()
    }

    /// How containers of a service are started.
    pub fn definition(&self, service: &ServiceName) -> Option<&Arc<Definition>> {
        self.definitions.get(service)
    }

    /// The instances of a backend that take requests.
    pub fn live(&self, backend: &BackendId) -> Live {
        let mut live = Live::default();
        for (id, registered) in self.instances.get(backend).into_iter().flatten() {
            let key = self.space.text(&Key::Instance(backend.clone(), id.clone()));
            let gone = self.index.is_superseded(&key);
            if gone || !registered.up || self.drains.contains(&(backend.clone(), id.clone())) {
                continue;
            }
            match &registered.container {
                Some(container) => drop(live.containers.insert(container.clone())),
                None => live.elsewhere += 1,
            }
        }
        live
    }

    /// The instances in etcd that run in one of these containers, draining or not.
    pub fn instances_in(&self, backend: &BackendId, containers: &[String]) -> Vec<InstanceId> {
        let all = self.instances.get(backend).into_iter().flatten();
        let inside = all.filter(|(_, registered)| {
            let container = registered.container.as_ref();
            container.is_some_and(|container| containers.contains(container))
        });
        inside.map(|(id, _)| id.clone()).collect()
    }

    /// The container that an instance of etcd runs in, if the instance is there and says so.
    pub fn container_of(&self, backend: &BackendId, id: &InstanceId) -> Option<&str> {
        self.instances.get(backend)?.get(id)?.container.as_deref()
    }

    /// Whether an operator has said that what the guard holds back is meant.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// The definitions that cannot be read, and why.
    pub fn set_aside(&self) -> Vec<SetAside> {
        let unreadable = self.unreadable.iter();
        unreadable
            .map(|(key, reason)| SetAside {
                key: key.clone(),
                reason: reason.clone(),
            })
            .collect()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A view of these keys below `/mayfly` and their values.
    pub(crate) fn view(entries: &[(&str, &str)]) -> View {
        let mut view = View::new(&KeySpace::default());
        let changes = entries.iter().map(|(key, value)| put(key, value)).collect();
        view.take(Batch {
            revision: 7,
            listed: true,
            changes,
        });
        view
    }

    fn put(key: &str, value: &str) -> Change {
        Change::Put(Entry {
            key: format!("/mayfly/{key}"),
            value: value.as_bytes().to_vec(),
            create_revision: 1,
            mod_revision: 1,
            lease: None,
        })
    }

    fn environment(name: &str, services: &str) -> (String, String) {
        let services: Vec<_> = services
            .split(' ')
            .filter_map(|choice| choice.split_once('='))
            .map(|(name, version)| serde_json::json!({"name": name, "version": version}))
            .collect();
        let value = serde_json::json!({"name": name, "prefix": name, "header": name, "services": services});
        (format!("environments/{name}"), value.to_string())
    }

    #[test]
    fn what_is_needed_and_whether_by_its_very_version() {
        let environments = [
            environment("a", "x=1 y=latest"),
            environment("b", "x=^1 z=http://outside:80"),
        ];
        let mut entries: Vec<(&str, &str)> = environments
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        entries.push(("backends/x/1.5.0/i", r#"{"address": "10.0.0.1:80"}"#));
        entries.push(("backends/y/2/i", r#"{"address": "10.0.0.2:80"}"#));
        let needed: Vec<_> = view(&entries)
            .needed()
            .into_iter()
            .map(|(backend, exactly)| format!("{backend} {exactly}"))
            .collect();
        assert_eq!(needed, ["x@1 true", "x@1.5.0 false", "y@2 false"]);
    }

    #[test]
    fn whom_a_unit_is_for() {
        let mut entries: Vec<(String, String)> = [
            ("a", "x=1"),
            ("b", "x=2"),
            ("empty", ""),
            ("latest", "x=latest"),
            ("outside", "x=http://outside:80"),
        ]
        .map(|(name, services)| environment(name, services))
        .into();
        let heir = r#"{"name": "heir", "prefix": "heir", "header": "heir", "extends": "a", "services": []}"#;
        entries.push(("environments/heir".to_owned(), heir.to_owned()));
        entries.push((
            "backends/x/1/i".to_owned(),
            r#"{"address": "10.0.0.1:80"}"#.to_owned(),
        ));
        let entries: Vec<(&str, &str)> = entries
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        let view = view(&entries);
        let of = |backend: &str| -> Vec<String> {
            let keys = view.resolving_to(&[backend.parse().unwrap()].into()).into_iter();
            keys.map(|key| key.replace("/mayfly/environments/", "")).collect()
        };
        assert_eq!(of("x@1"), ["a", "heir", "latest"]);
        assert_eq!(of("x@2"), ["b"]);
        assert!(of("y@1").is_empty());
    }

    #[test]
    fn live_instances_by_container() {
        let view = view(&[
            (
                "backends/x/1/10.0.0.1:80",
                r#"{"address": "10.0.0.1:80", "metadata": {"container": "c1"}}"#,
            ),
            ("backends/x/1/10.0.0.2:80", r#"{"address": "10.0.0.2:80"}"#),
            (
                "backends/x/1/10.0.0.3:80",
                r#"{"address": "10.0.0.3:80", "state": "draining"}"#,
            ),
            (
                "backends/x/1/10.0.0.4:80",
                r#"{"address": "10.0.0.4:80", "metadata": {"container": "c4"}}"#,
            ),
            ("drains/x/1/10.0.0.4:80", ""),
        ]);
        let backend = "x@1".parse().unwrap();
        let live = view.live(&backend);
        assert_eq!((live.containers.len(), live.elsewhere), (1, 1));
        let containers = ["c4".to_owned(), "c9".to_owned()];
        let inside = view.instances_in(&backend, &containers);
        assert_eq!(inside, ["10.0.0.4:80".parse().unwrap()]);
    }

    #[test]
    fn a_definition_that_cannot_be_read_leaves_the_last_good_one() {
        let good = r#"{"name": "x", "image": "x:{{ version }}", "port": 80}"#;
        let view = view(&[
            ("services/x", good),
            ("services/x", r#"{"name": "x", "privileged": true}"#),
            ("services/y", good),
        ]);
        assert!(view.definition(&"x".parse().unwrap()).is_some());
        assert!(view.definition(&"y".parse().unwrap()).is_none());
        let keys: Vec<_> = view.set_aside().into_iter().map(|aside| aside.key).collect();
        assert_eq!(keys, ["/mayfly/services/x", "/mayfly/services/y"]);
    }
}
