//! What should be, from etcd: the environments, resolved by the same index that routers have; the
//! service definitions; the instances with the containers that they run in; and an operator's
//! requests.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mayfly_core::address::InstanceId;
use mayfly_core::index::Index;
use mayfly_core::keys::{Daemon, Key, KeySpace};
use mayfly_core::labels;
use mayfly_core::names::{EnvironmentName, ServiceName};
use mayfly_core::records::definition::Definition;
use mayfly_core::records::{Environment, InstanceState, Record, SetAsides};
use mayfly_core::routing::EnvironmentRows;
use mayfly_core::trust::MeantEnds;
use mayfly_core::version::{BackendId, Selector};
use mayfly_daemon::watch::{Batch, Change, Stored};

#[derive(Debug)]
pub struct View {
    index: Index,
    definitions: BTreeMap<ServiceName, Arc<Definition>>,
    instances: BTreeMap<BackendId, BTreeMap<InstanceId, RegisteredInstance>>,
    drains: BTreeSet<(BackendId, InstanceId)>,
    environments: BTreeMap<EnvironmentName, RegisteredEnvironment>,
    /// The notes of ends that were meant.
    ends: MeantEnds,
    /// How many environments ask for a backend so.
    exactly: BTreeMap<BackendId, usize>,
    set_aside: SetAsides,
    confirmed: bool,
    /// The backends that are to be relaunched, and the revision of that request.
    relaunches: BTreeMap<BackendId, i64>,
    revision: i64,
}

#[derive(Debug)]
struct RegisteredEnvironment {
    /// The backends whose exact versions it asks for.
    exactly: Vec<BackendId>,
    /// The revision at which it was put last.
    changed: i64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RegisteredInstance {
    up: bool,
    container: Option<String>,
}

/// The instances of one backend that take requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveInstances {
    /// The containers that have one.
    pub containers: BTreeSet<String>,
    /// How many are in none that is known.
    pub elsewhere: usize,
}

impl View {
    pub fn new(space: &KeySpace) -> Self {
        Self {
            index: Index::new(space.clone()),
            definitions: BTreeMap::new(),
            instances: BTreeMap::new(),
            drains: BTreeSet::new(),
            environments: BTreeMap::new(),
            ends: MeantEnds::default(),
            exactly: BTreeMap::new(),
            set_aside: SetAsides::default(),
            confirmed: false,
            relaunches: BTreeMap::new(),
            revision: 0,
        }
    }

    /// Takes what a watch brings. Returns the environments that have gone, and at which revision each
    /// was put last.
    pub fn take(&mut self, batch: Batch) -> Vec<(EnvironmentName, i64)> {
        let mut ended = Vec::new();
        if batch.revision < self.revision {
            self.index.age();
        }
        for change in batch.changes {
            match change {
                Change::Put(stored) => self.put(stored),
                Change::Gone(key) => ended.extend(self.gone(&key)),
                Change::Unreadable(_) => {}
            }
        }
        self.index.set_unreadable(batch.set_aside.clone());
        self.set_aside = batch.set_aside;
        self.revision = batch.revision;
        // The addresses of external host names do not matter here: nothing is started for them.
        self.index.resolve();
        // What the index notes for that would grow without limit.
        self.index.settle();
        ended
    }

    fn put(&mut self, stored: Stored) {
        let Stored { record, revision, .. } = stored;
        match &record {
            Record::Environment(environment) => self.put_environment(environment, revision.changed),
            Record::Instance(backend, id, instance) => {
                let registered = RegisteredInstance {
                    up: instance.state == InstanceState::Up,
                    container: instance.metadata.get(labels::CONTAINER).cloned(),
                };
                let instances = self.instances.entry(backend.clone()).or_default();
                instances.insert(id.clone(), registered);
            }
            Record::Drain(backend, id) => drop(self.drains.insert((backend.clone(), id.clone()))),
            _ => {}
        }
        match record {
            Record::Definition(definition) => {
                self.definitions
                    .insert(definition.name.clone(), Arc::new(definition));
            }
            Record::Ended(name, ended) => self.ends.put(&name, ended.why, revision.changed),
            Record::Confirmation(Daemon::ContainerLauncher) => self.confirmed = true,
            Record::Relaunch(backend) => drop(self.relaunches.insert(backend, revision.changed)),
            other => self.index.put(other, revision),
        }
    }

    fn put_environment(&mut self, environment: &Environment, changed: i64) {
        let exactly = environment
            .services
            .iter()
            .filter_map(|choice| match &choice.version {
                Selector::Exact(version) if !version.is_outside() => Some(BackendId {
                    service: choice.name.clone(),
                    version: version.clone(),
                }),
                _ => None,
            });
        let exactly: Vec<BackendId> = exactly.collect();
        for backend in &exactly {
            *self.exactly.entry(backend.clone()).or_default() += 1;
        }
        let registered = RegisteredEnvironment { exactly, changed };
        if let Some(before) = self.environments.insert(environment.name.clone(), registered) {
            self.forget(&before.exactly);
        }
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

    /// Takes the end of a key. Returns the environment that has gone with it.
    fn gone(&mut self, key: &Key) -> Option<(EnvironmentName, i64)> {
        self.index.gone(key);
        match key {
            Key::Environment(name) => {
                let before = self.environments.remove(name)?;
                self.forget(&before.exactly);
                return Some((name.clone(), before.changed));
            }
            Key::Ended(name) => self.ends.gone(name),
            Key::Instance(backend, id) => {
                if let Some(instances) = self.instances.get_mut(backend) {
                    instances.remove(id);
                    if instances.is_empty() {
                        self.instances.remove(backend);
                    }
                }
            }
            Key::Drain(backend, id) => drop(self.drains.remove(&(backend.clone(), id.clone()))),
            Key::Definition(service) => drop(self.definitions.remove(service)),
            Key::Confirmation(Daemon::ContainerLauncher) => self.confirmed = false,
            Key::Relaunch(backend) => drop(self.relaunches.remove(backend)),
            _ => {}
        }
        None
    }

    /// The revision up to which every change is known.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// How many environments are registered.
    pub fn environments(&self) -> usize {
        self.environments.len()
    }

    /// Whether an environment of this name is registered.
    pub fn has_environment(&self, name: &EnvironmentName) -> bool {
        self.environments.contains_key(name)
    }

    /// Whether the end of an environment was meant that was put last at this revision.
    pub fn is_meant(&self, name: &EnvironmentName, changed: i64) -> bool {
        self.ends.has(name, changed)
    }

    /// Whether a batch would end an environment.
    pub fn is_end(&self, batch: &Batch) -> bool {
        let ends = |change: &Change| matches!(change, Change::Gone(Key::Environment(name)) if self.has_environment(name));
        batch.changes.iter().any(ends)
    }

    /// The environments that resolve to one of these backends, by themselves or by those that they
    /// extend. Looks at everything that every environment chooses.
    pub fn resolving_to(&self, backends: &BTreeSet<BackendId>) -> BTreeSet<EnvironmentName> {
        let routing = self.index.routing();
        let chooses = |(_, rows): &(&EnvironmentName, &EnvironmentRows)| {
            let mut chosen = rows.choices.iter().filter_map(|choice| choice.backend());
            chosen.any(|backend| backends.contains(backend))
        };
        let choosers = routing.environments().filter(chooses).map(|(name, _)| name);
        let choosers: BTreeSet<&EnvironmentName> = choosers.collect();
        let resolves = |name: &&EnvironmentName| routing.chain(name).any(|name| choosers.contains(name));
        self.environments.keys().filter(resolves).cloned().collect()
    }

    /// The backends that some environment resolves to, and whether one of them asks for exactly
    /// that version. External services and processes on a person's machine do not count: no
    /// launcher starts those.
    pub fn needed(&self) -> BTreeMap<BackendId, bool> {
        // A version that an environment waits for is routed only once it answers; until then its
        // former one is routed, and so needed.
        let awaited = self.index.awaited();
        let named = self.index.routing().named().cloned().chain(awaited);
        named
            .filter(|backend| !backend.version.is_outside() && !backend.version.is_on_laptop())
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
    pub fn live(&self, backend: &BackendId) -> LiveInstances {
        let mut live = LiveInstances::default();
        for (id, registered) in self.instances.get(backend).into_iter().flatten() {
            let gone = self
                .index
                .is_superseded(&Key::Instance(backend.clone(), id.clone()));
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

    /// The container that an instance in etcd runs in, if the instance is there and names it.
    pub fn container_of(&self, backend: &BackendId, id: &InstanceId) -> Option<&str> {
        self.instances.get(backend)?.get(id)?.container.as_deref()
    }

    /// Whether an operator has confirmed the deletions that are withheld.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// The backends that are to be relaunched, and the revision of that request, which
    /// distinguishes it from an earlier one.
    pub fn relaunches(&self) -> &BTreeMap<BackendId, i64> {
        &self.relaunches
    }

    /// What is set aside, and why.
    pub fn set_aside(&self) -> &SetAsides {
        &self.set_aside
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use mayfly_daemon::store::{Entry, Listing};
    use mayfly_daemon::watch;

    /// A view of these keys below `/mayfly` and their values.
    pub(crate) fn view(entries: &[(&str, &str)]) -> View {
        let space = KeySpace::default();
        let entries = entries.iter().map(|(key, value)| Entry {
            key: format!("/mayfly/{key}"),
            value: value.as_bytes().to_vec(),
            create_revision: 1,
            mod_revision: 1,
            lease: None,
        });
        let listing = Listing {
            revision: 7,
            entries: entries.collect(),
        };
        let mut view = View::new(&space);
        view.take(watch::read(&space, &space.launching(), listing));
        view
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
            environment("c", "x=laptop-ada-4f2a"),
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
            keys.map(|name| name.to_string()).collect()
        };
        assert_eq!(of("x@1"), ["a", "heir", "latest"]);
        assert_eq!(of("x@2"), ["b"]);
        assert!(of("y@1").is_empty());
    }

    #[test]
    fn an_end_that_is_noted_was_meant() {
        let (key, value) = environment("a", "x=1");
        let mut view = view(&[(key.as_str(), value.as_str())]);
        let batch = |changes| Batch {
            revision: 9,
            listed: false,
            changes,
            set_aside: SetAsides::default(),
        };
        let name: EnvironmentName = "a".parse().unwrap();
        let gone = Change::Gone(Key::Environment(name.clone()));
        let ended = view.take(batch(vec![gone]));
        assert_eq!(ended, [(name.clone(), 1)]);
        assert!(!view.has_environment(&name) && !view.is_meant(&name, 1));
        let key = Key::Ended(name.clone());
        let value = br#"{"prefix": "a", "at": "2030-01-31T18:00:00Z", "why": "file"}"#;
        let note = |changed: i64| {
            Change::Put(Stored {
                record: Record::decode(&key, value).unwrap(),
                revision: changed.into(),
                lease: None,
            })
        };
        view.take(batch(vec![note(1)]));
        assert!(!view.is_meant(&name, 1), "a note of an earlier life");
        view.take(batch(vec![note(9)]));
        assert!(view.is_meant(&name, 1));
        view.take(batch(vec![Change::Gone(key.clone())]));
        assert!(!view.is_meant(&name, 1));
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
        let keys: Vec<_> = view.set_aside().iter().map(|aside| aside.key).collect();
        assert_eq!(keys, ["/mayfly/services/x", "/mayfly/services/y"]);
    }
}
