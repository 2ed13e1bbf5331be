//! What must be so once everything works again, within a bounded time.

use std::collections::BTreeSet;

use container_launcher::engine::UnitState;
use mayfly_core::address::InstanceId;
use mayfly_core::keys::{Daemon, Key, KeySpace};
use mayfly_core::records::{self, Environment, Instance, InstanceState, Router, Status};
use mayfly_core::version::BackendId;
use mayfly_daemon::store::Entry;

use super::truth::services_of;
use super::world::{LAUNCHED, NODE, World};

/// What is in etcd, read.
struct InEtcd {
    environments: Vec<Environment>,
    instances: Vec<(BackendId, InstanceId, Instance)>,
    drains: Vec<(BackendId, InstanceId)>,
    routers: Vec<Router>,
    statuses: Vec<(Daemon, Status)>,
}

impl InEtcd {
    /// The addresses of a backend's instances that take requests.
    fn up<'a>(&'a self, backend: &'a BackendId) -> impl Iterator<Item = String> + 'a {
        let up = self.instances.iter().filter(move |(of, id, instance)| {
            let is_drained = self
                .drains
                .iter()
                .any(|(drained, which)| drained == of && which == id);
            of == backend && instance.state == InstanceState::Up && !is_drained
        });
        up.map(|(_, _, instance)| instance.address.to_string())
    }
}

fn read(entries: &[Entry], wrong: &mut Vec<String>) -> InEtcd {
    let mut found = InEtcd {
        environments: Vec::new(),
        instances: Vec::new(),
        drains: Vec::new(),
        routers: Vec::new(),
        statuses: Vec::new(),
    };
    for Entry {
        key, value, lease, ..
    } in entries
    {
        if lease.is_none()
            && ["/backends/", "/routers/", "/status/", "/leaders/"]
                .iter()
                .any(|kind| key.contains(kind))
        {
            wrong.push(format!("{key} has no lease"));
        }
        let done = match KeySpace::default().parse(key) {
            Ok(Key::Environment(_)) => records::parse(value).map(|record| found.environments.push(record)),
            Ok(Key::Instance(backend, id)) => {
                records::parse(value).map(|record| found.instances.push((backend, id, record)))
            }
            Ok(Key::Drain(backend, id)) => {
                found.drains.push((backend, id));
                Ok(())
            }
            Ok(Key::Router(_)) => records::parse(value).map(|record| found.routers.push(record)),
            Ok(Key::Status(daemon, _)) => {
                records::parse(value).map(|record| found.statuses.push((daemon, record)))
            }
            _ => Ok(()),
        };
        if let Err(error) = done {
            wrong.push(format!("{key} cannot be read: {error}"));
        }
    }
    found
}

/// Everything that is not as it should be.
pub fn wrong(world: &World) -> Vec<String> {
    let mut wrong = Vec::new();
    let found = read(&world.etcd.entries(), &mut wrong);
    files(world, &found, &mut wrong);
    names(world, &found, &mut wrong);
    containers(world, &found, &mut wrong);
    routes(world, &found, &mut wrong);
    for (daemon, status) in &found.statuses {
        if *daemon != Daemon::ContainerRegistrar && (!status.ready || status.error.is_some()) {
            wrong.push(format!(
                "{daemon} reports: ready {}, error {:?}",
                status.ready, status.error
            ));
        }
    }
    for (daemon, count) in [
        (Daemon::EnvironmentRegistrar, 1),
        (Daemon::DnsUpdater, 1),
        (Daemon::ContainerLauncher, 2),
        (Daemon::HaproxyUpdater, 2),
    ] {
        let found = found.statuses.iter().filter(|(of, _)| *of == daemon).count();
        if found != count {
            wrong.push(format!("{found} status records of {daemon}, not {count}"));
        }
    }
    wrong
}

/// etcd has what files say, and nothing of the registrar that no file says.
fn files(world: &World, found: &InEtcd, wrong: &mut Vec<String>) {
    let known = world.truth.lock();
    for (name, file) in &known.files {
        let record = found
            .environments
            .iter()
            .find(|environment| environment.name.as_str() == name);
        match (&file.content, record) {
            (Some(Some(services)), Some(record)) if services_of(record) == *services => {}
            (Some(Some(services)), record) => {
                let record = record.map(services_of);
                wrong.push(format!("file {name} says {services:?}, etcd has {record:?}"));
            }
            // The last good version stays.
            (Some(None), _) | (None, None) => {}
            (None, Some(_)) => wrong.push(format!("environment {name} is there, and has no file")),
        }
    }
    let ours = found.environments.iter().filter(|environment| {
        let source = environment.source.as_ref();
        source.is_some_and(|source| source.registrar.as_str() == NODE)
    });
    for environment in ours {
        if !known.files.contains_key(environment.name.as_str()) {
            wrong.push(format!("environment {} never had a file", environment.name));
        }
    }
}

/// Each service resolves to each router.
fn names(world: &World, found: &InEtcd, wrong: &mut Vec<String>) {
    let of_environments = found
        .environments
        .iter()
        .flat_map(|environment| &environment.services);
    let services: BTreeSet<String> = of_environments
        .map(|choice| choice.name.as_str().to_owned())
        .chain(
            found
                .instances
                .iter()
                .map(|(backend, ..)| backend.service.as_str().to_owned()),
        )
        .collect();
    let mut expected = BTreeSet::new();
    for service in services {
        for router in &found.routers {
            expected.insert((format!("{service}.service"), router.address.to_string()));
        }
    }
    let hosts = world.hosts();
    if hosts != expected {
        wrong.push(format!("the hosts file has {hosts:?}, not {expected:?}"));
    }
}

/// Each container that is needed runs and is registered, and no other is there.
fn containers(world: &World, found: &InEtcd, wrong: &mut Vec<String>) {
    let is_launched = |backend: &&BackendId| LAUNCHED.contains(&backend.service.as_str());
    let needed = world.truth.needed();
    let needed: BTreeSet<&BackendId> = needed.iter().filter(is_launched).collect();
    let units = world.engine.units();
    for backend in &needed {
        let of = |unit: &&container_launcher::engine::Unit| unit.backend == **backend;
        let running = units
            .iter()
            .filter(of)
            .filter(|unit| unit.state == UnitState::Running)
            .count();
        let up = found.up(backend).count();
        if running != 1 || up != 1 {
            wrong.push(format!(
                "{backend} is needed: {running} containers, {up} instances"
            ));
        }
        if found.drains.iter().any(|(of, _)| of == *backend) {
            wrong.push(format!("{backend} is needed, and drained"));
        }
    }
    for unit in units.iter().filter(|unit| !needed.contains(&unit.backend)) {
        wrong.push(format!("{} is not needed: {:?}", unit.name, unit.state));
    }
}

/// Each router routes each service of each environment to the instances that etcd has, and knows no
/// other environment.
fn routes(world: &World, found: &InEtcd, wrong: &mut Vec<String>) {
    for (number, haproxy) in world.haproxies.iter().enumerate() {
        let headers = haproxy.rows("headers").into_iter();
        let mut known: Vec<String> = headers.map(|(_, environment)| environment).collect();
        known.sort();
        let environments = found.environments.iter();
        let mut expected: Vec<&str> = environments
            .map(|environment| environment.name.as_str())
            .collect();
        expected.sort_unstable();
        if known != expected {
            wrong.push(format!(
                "router {number} has the environments {known:?}, not {expected:?}"
            ));
        }
        let versions = haproxy.rows("versions");
        let slots = haproxy.rows("slots");
        let value = |rows: &[(String, String)], key: &str| {
            let mut found = rows.iter().filter(|(known, _)| known == key);
            let value = found.next().map(|(_, value)| value.clone());
            // A second row of a key would hide a change of the first one.
            value.filter(|_| found.next().is_none())
        };
        for environment in &found.environments {
            for choice in &environment.services {
                let Ok(backend) = format!("{}@{}", choice.name, choice.version).parse::<BackendId>() else {
                    continue;
                };
                let expected: BTreeSet<String> = found.up(&backend).collect();
                if expected.is_empty() {
                    // An earlier version may answer until there is an instance.
                    continue;
                }
                let key = format!("{}/{}", environment.name, choice.name);
                let routed = value(&versions, &key);
                let slot = value(&slots, &backend.to_string());
                let ready = slot.as_ref().map(|slot| haproxy.ready(slot)).unwrap_or_default();
                if routed != Some(backend.to_string()) || ready != expected {
                    wrong.push(format!(
                        "router {number} routes {key} to {routed:?}, {slot:?}, {ready:?}, not to {backend}, {expected:?}"
                    ));
                }
            }
        }
    }
}
