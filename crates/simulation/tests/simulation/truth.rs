//! What is true: what files say, and what etcd has had for how long. It sees each change of etcd as
//! it happens, and notes what must never happen.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::etcd::{ClientId, Commit, Monitor};
use crate::trace::Trace;
use mayfly_core::keys::{Daemon, Key, KeySpace};
use mayfly_core::records::{self, Environment, Instance, InstanceState};
use mayfly_core::version::{BackendId, Selector};
use mayfly_daemon::store::{Entry, Event};
use tokio::time::Instant;

/// A backend needed for so long is known as needed to whoever leads: the life of a lease, and
/// the time in which a silent watch is noticed, several times over.
const KNOWN: Duration = Duration::from_secs(40);
/// A file that is there again for so long is known to the registrar, however late its delete.
const SEEN: Duration = Duration::from_secs(60);

/// What has been so for so long is known to every router, however many faults come together.
const ROUTED: Duration = Duration::from_secs(60);

/// What a client may write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    Registrar(String),
    Dns,
    Launcher,
    Instance(BackendId),
    Router,
    Operator,
}

/// What a file says: the versions of its services; nothing where it is no valid file.
pub type Services = BTreeMap<String, String>;

#[derive(Debug)]
pub struct FileTruth {
    /// `None` while there is no such file.
    pub content: Option<Option<Services>>,
    /// When it was missing last.
    pub missed: Option<Instant>,
}

#[derive(Debug)]
pub struct Known {
    pub trace: Trace,
    pub roles: BTreeMap<ClientId, Role>,
    pub files: BTreeMap<String, FileTruth>,
    pub faults: Vec<String>,
    /// What each environment in etcd asks for.
    environments: BTreeMap<String, BTreeSet<BackendId>>,
    /// Since when a backend is needed.
    needed: BTreeMap<BackendId, Instant>,
    /// Since when etcd has what a file says, or had it before it lost it.
    registered: BTreeMap<String, Since>,
    /// Since when an address is registered for a backend, whatever etcd has lost since.
    instances: BTreeMap<String, (BackendId, Since)>,
    /// When each program was started last.
    started: BTreeMap<usize, Instant>,
}

/// Since when etcd has something.
#[derive(Debug, Clone, Copy)]
struct Since {
    first: Instant,
    /// When etcd had it again after it had lost it.
    back: Instant,
    /// Since when etcd has it no more.
    lost: Option<Instant>,
}

impl Since {
    fn now() -> Self {
        let now = Instant::now();
        Self {
            first: now,
            back: now,
            lost: None,
        }
    }

    fn put(&mut self) {
        if self.lost.take().is_some() {
            self.back = Instant::now();
        }
    }

    fn lose(&mut self) {
        self.lost.get_or_insert_with(Instant::now);
    }

    /// Whether a program that runs since then knows it. One that was started later than it was
    /// registered first has seen only what etcd had since.
    fn is_known_to(&self, started: Instant) -> bool {
        let now = Instant::now();
        if started <= self.first {
            return self.first + ROUTED <= now;
        }
        started.max(self.back) + ROUTED <= self.lost.unwrap_or(now)
    }
}

/// Cheap to clone.
#[derive(Debug, Clone)]
pub struct Truth(Arc<Mutex<Known>>);

impl Truth {
    pub fn new(trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(Known {
            trace,
            roles: BTreeMap::new(),
            files: BTreeMap::new(),
            faults: Vec::new(),
            environments: BTreeMap::new(),
            needed: BTreeMap::new(),
            registered: BTreeMap::new(),
            instances: BTreeMap::new(),
            started: BTreeMap::new(),
        })))
    }

    pub fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes something that must not happen.
    pub fn fault(&self, what: String) {
        self.lock().fault(what);
    }

    /// Takes what etcd has after it lost data; of all of it, or the newer part.
    pub fn resync(&self, entries: &[Entry]) {
        let known = &mut *self.lock();
        known.environments.clear();
        if !entries.is_empty() {
            // Routers follow etcd back.
            known.registered.clear();
        }
        known.registered.values_mut().for_each(Since::lose);
        known.instances.values_mut().for_each(|(_, since)| since.lose());
        for entry in entries {
            known.put(entry);
        }
        known.count();
    }

    /// Whether environments in etcd have needed a backend for long enough that everybody knows.
    pub fn is_known_as_needed(&self, backend: &BackendId) -> bool {
        let known = self.lock();
        known
            .needed
            .get(backend)
            .is_some_and(|since| since.elapsed() >= KNOWN)
    }

    /// Whether an instance of a backend is registered for long enough that everybody knows.
    pub fn is_known_as_live(&self, backend: &BackendId) -> bool {
        let known = self.lock();
        let mut of = known.instances.values().filter(|(of, _)| of == backend);
        of.any(|(_, since)| since.first.elapsed() >= KNOWN)
    }

    /// The backends that environments in etcd ask for.
    pub fn needed(&self) -> BTreeSet<BackendId> {
        self.lock().needed.keys().cloned().collect()
    }

    /// An instance is gone.
    pub fn ended(&self, address: &str) {
        self.lock().instances.remove(address);
    }

    /// A program runs from now on.
    pub fn start(&self, program: usize) {
        self.lock().started.insert(program, Instant::now());
    }

    /// The backends of services that a program knows, by environment and service.
    pub fn routed(&self, program: usize) -> Vec<(String, String, BackendId)> {
        let known = self.lock();
        let Some(started) = known.started.get(&program) else {
            return Vec::new();
        };
        let mut routed = Vec::new();
        for (name, since) in &known.registered {
            let services = known
                .files
                .get(name)
                .and_then(|file| file.content.clone().flatten());
            if !since.is_known_to(*started) {
                continue;
            }
            for (service, version) in services.unwrap_or_default() {
                let lives = |(of, since): &&(BackendId, Since)| {
                    of.to_string() == format!("{service}@{version}") && since.is_known_to(*started)
                };
                if let Some((backend, _)) = known.instances.values().find(lives) {
                    routed.push((name.clone(), service, backend.clone()));
                }
            }
        }
        routed
    }

    /// The addresses of instances that a program knows, and whose they are.
    pub fn addresses(&self, program: usize) -> BTreeMap<String, BackendId> {
        let known = self.lock();
        let Some(started) = known.started.get(&program) else {
            return BTreeMap::new();
        };
        let instances = known.instances.iter();
        let settled = instances.filter(|(_, (_, since))| since.is_known_to(*started));
        settled
            .map(|(address, (backend, _))| (address.clone(), backend.clone()))
            .collect()
    }

    /// A file has this content from now on; `None` when it is gone.
    pub fn save(&self, name: &str, content: Option<Option<Services>>) {
        let known = &mut *self.lock();
        let now = Instant::now();
        let misses = content.is_none();
        let before = known.files.get(name);
        if before.is_some_and(|before| before.content == content) {
            return;
        }
        let was_missing = before.is_none_or(|before| before.content.is_none());
        let missed = match before {
            _ if misses || was_missing => Some(now),
            before => before.and_then(|before| before.missed),
        };
        let file = FileTruth { content, missed };
        known.files.insert(name.to_owned(), file);
        known.registered.remove(name);
    }
}

/// The services of an environment, and their versions.
pub fn services_of(environment: &Environment) -> Services {
    let services = environment.services.iter();
    let pairs = services.map(|choice| (choice.name.as_str().to_owned(), choice.version.to_string()));
    pairs.collect()
}

impl Known {
    pub fn fault(&mut self, what: String) {
        self.trace.note(|| format!("FAULT {what}"));
        if self.faults.len() < 10 {
            self.faults.push(what);
        }
    }

    fn put(&mut self, entry: &Entry) {
        let key = KeySpace::default().parse(&entry.key);
        if let Ok(Key::Instance(backend, _)) = &key {
            if let Ok(instance) = records::parse::<Instance>(&entry.value) {
                let address = instance.address.to_string();
                let ip = address.split(':').next().unwrap_or_default().to_owned();
                if instance.state == InstanceState::Draining {
                    self.instances.remove(&ip);
                } else {
                    match self.instances.get_mut(&ip) {
                        Some((of, since)) if of == backend => since.put(),
                        _ => {
                            self.instances.insert(ip, (backend.clone(), Since::now()));
                        }
                    }
                }
            }
        }
        let Ok(Key::Environment(name)) = key else { return };
        if let Ok(environment) = records::parse::<Environment>(&entry.value) {
            let backends = environment
                .services
                .iter()
                .filter_map(|choice| match &choice.version {
                    Selector::Exact(version) => Some(BackendId {
                        service: choice.name.clone(),
                        version: version.clone(),
                    }),
                    _ => None,
                });
            self.environments
                .insert(name.as_str().to_owned(), backends.collect());
            let says = self
                .files
                .get(name.as_str())
                .and_then(|file| file.content.clone().flatten());
            if says == Some(services_of(&environment)) {
                self.registered
                    .entry(name.as_str().to_owned())
                    .or_insert_with(Since::now)
                    .put();
            }
        }
    }

    fn count(&mut self) {
        let now = Instant::now();
        let needed: BTreeSet<BackendId> = self.environments.values().flatten().cloned().collect();
        self.needed.retain(|backend, _| needed.contains(backend));
        for backend in needed {
            self.needed.entry(backend).or_insert(now);
        }
    }

    fn check(&mut self, client: ClientId, key: &str, before: Option<&Entry>, is_put: bool) {
        let Some(role) = self.roles.get(&client).cloned() else {
            return;
        };
        let verb = if is_put { "puts" } else { "deletes" };
        let Ok(parsed) = KeySpace::default().parse(key) else {
            return self.fault(format!("{role:?} {verb} {key}, which is no key"));
        };
        let owns = match (&role, &parsed) {
            (Role::Operator, _) => true,
            (
                Role::Registrar(_),
                Key::Environment(_) | Key::History(_) | Key::Ended(_) | Key::Definition(_),
            ) => true,
            (Role::Registrar(node), Key::Status(Daemon::EnvironmentRegistrar, of)) => of.as_str() == node,
            (Role::Dns, Key::Status(Daemon::DnsUpdater, _)) => true,
            (Role::Launcher, Key::Status(Daemon::ContainerLauncher, _) | Key::Leader(_) | Key::Drain(..)) => {
                true
            }
            (Role::Launcher, Key::Relaunch(_) | Key::Confirmation(Daemon::ContainerLauncher)) => !is_put,
            (Role::Instance(backend), Key::Instance(of, _)) => of == backend,
            (Role::Router, Key::Router(_) | Key::Traffic(_) | Key::Status(Daemon::HaproxyUpdater, _)) => true,
            (Role::Router, Key::Confirmation(Daemon::HaproxyUpdater)) => !is_put,
            _ => false,
        };
        if !owns {
            self.fault(format!("{role:?} {verb} {key}, which is not its own"));
        }
        let (Role::Registrar(node), Key::Environment(name)) = (&role, &parsed) else {
            return;
        };
        let of = before.and_then(|before| records::parse::<Environment>(&before.value).ok());
        let owner = of
            .and_then(|environment| environment.source)
            .map(|source| source.registrar);
        if before.is_some() && owner.as_ref().map(|owner| owner.as_str()) != Some(node.as_str()) {
            let owner = owner.map_or("no registrar".to_owned(), |owner| owner.to_string());
            self.fault(format!("registrar {node} {verb} {key} of {owner}"));
        }
        if !is_put {
            let file = self.files.get(name.as_str());
            // Where it says nothing valid, the last good version stays.
            let is_there = file.filter(|file| file.content.is_some());
            if is_there.is_some_and(|file| file.missed.is_none_or(|missed| missed.elapsed() >= SEEN)) {
                self.fault(format!("registrar {node} deletes {key}, whose file is there"));
            }
        }
    }
}

impl Monitor for Truth {
    fn committed(&mut self, commit: &Commit) {
        let known = &mut *self.lock();
        for (before, event) in commit.before.iter().zip(&commit.events) {
            let (key, is_put) = match event {
                Event::Put(entry) => (&entry.key, true),
                Event::Delete(key) => (key, false),
            };
            if let Some(client) = commit.client {
                known.check(client, key, before.as_ref(), is_put);
            }
            match event {
                Event::Put(entry) => known.put(entry),
                Event::Delete(key) => match KeySpace::default().parse(key) {
                    Ok(Key::Environment(name)) => {
                        known.environments.remove(name.as_str());
                        if let Some(since) = known.registered.get_mut(name.as_str()) {
                            since.lose();
                        }
                    }
                    Ok(Key::Instance(backend, id)) => {
                        let id = id.to_string();
                        let ip = id.split(':').next().unwrap_or_default();
                        if let Some((_, since)) = known.instances.get_mut(ip).filter(|(of, _)| *of == backend)
                        {
                            since.lose();
                        }
                    }
                    _ => {}
                },
            }
        }
        known.count();
    }
}
