//! Everything that runs: the daemons, the containers, the files, and what operators do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::etcd::{ClientId, SimulatedEtcd};
use crate::trace::Trace;
use clap::Parser as _;
use mayfly_core::keys::{Daemon, Key};
use mayfly_core::version::BackendId;
use mayfly_daemon::args::CommonArgs;
use mayfly_daemon::shutdown::Shutdown;
use mayfly_daemon::store::Store;
use tokio::task::{AbortHandle, JoinHandle};

use super::engine::FakeEngine;
use super::haproxy::FakeHaproxy;
use super::truth::{Role, Services, Truth};

/// The services that have a definition, so that the launcher starts them.
pub const LAUNCHED: [&str; 2] = ["web", "api"];
/// The node of the registrar.
pub const NODE: &str = "files";

/// What the simulated HAProxy reads of a configuration, and what haproxy-updater checks of one. The
/// built-in template has rules for HAProxy alone, and costs a seed more than everything else.
const TEMPLATE: &str = r#"global
    description mayfly {{ hash }}
    stats socket {{ runtime_socket }} mode 660 level admin
frontend internal
{%- for bind in binds.internal %}
    bind {{ bind }}
{%- endfor %}
{%- for map in ["slots", "hosts", "users", "networks", "access", "versions", "parents", "routes", "headers",
                "protected", "links", "edge", "witness"] %}
    # reads ({{ maps }}/{{ map }}.map)
{%- endfor %}
{%- for slot in slots %}
backend {{ slot.name }}
{%- for server in slot.servers %}
    server {{ server.name }} {{ server.address }} {{ server.options }}
{%- endfor %}
{%- endfor %}
"#;

/// Starts registrars of instances. Cheap to clone.
#[derive(Clone)]
pub struct Registrars {
    etcd: SimulatedEtcd,
    truth: Truth,
    next_client: Arc<AtomicUsize>,
    addresses: Arc<Mutex<BTreeSet<u8>>>,
}

/// A running registrar of an instance. Dropped, it dies, and its entry stays until its lease ends.
pub struct Registering {
    task: AbortHandle,
    shutdown: Shutdown,
    is_ended: bool,
}

impl Registering {
    /// Ends it in order: it drains, and deregisters.
    pub fn end(mut self) {
        self.is_ended = true;
        self.shutdown.begin();
    }
}

impl Drop for Registering {
    fn drop(&mut self) {
        if !self.is_ended {
            self.task.abort();
        }
    }
}

/// Gives an address back when its registrar ends.
struct Lent(Registrars, u8);

impl Drop for Lent {
    fn drop(&mut self) {
        let mut used = self.0.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        used.remove(&self.1);
        self.0.truth.ended(&format!("10.9.0.{}", self.1));
    }
}

impl Registrars {
    /// The addresses at which an instance runs.
    pub fn addresses(&self) -> BTreeSet<String> {
        let used = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        used.iter().map(|number| format!("10.9.0.{number}")).collect()
    }

    /// A client of etcd that may write what its role allows.
    pub fn client(&self, role: Role) -> (ClientId, Store) {
        let id = ClientId(self.next_client.fetch_add(1, Ordering::Relaxed));
        self.truth.lock().roles.insert(id, role);
        (id, self.etcd.store(id))
    }

    /// Registers an instance, in a container.
    pub fn start(&self, backend: &BackendId, container: &str) -> Registering {
        let address = {
            let mut used = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
            let free = (1..=250).find(|number| !used.contains(number)).unwrap_or(251);
            used.insert(free);
            free
        };
        let lent = Lent(self.clone(), address);
        let (_, store) = self.client(Role::Instance(backend.clone()));
        let mut arguments = container_registrar::args::Arguments::parse_from([
            "container-registrar",
            "register",
            backend.service.as_str(),
            &backend.version.to_string(),
            &format!("10.9.0.{address}"),
            "8080",
            "--ttl",
            "6s",
            "--drain",
            "1s",
            "--meta",
            &format!("container={container}"),
            "--node",
            &format!("host-{address}"),
        ]);
        give(&mut arguments.common, store);
        let shutdown = Shutdown::new();
        let work = container_registrar::run(arguments, shutdown.clone());
        let work = async move {
            let _lent = lent;
            work.await
        };
        let task = supervise(
            &self.truth,
            "container-registrar".to_owned(),
            shutdown.clone(),
            work,
        );
        Registering {
            task,
            shutdown,
            is_ended: false,
        }
    }
}

fn give(common: &mut CommonArgs, store: Store) {
    common.given = Some(store);
}

/// Runs a daemon. It is a fault if it ends before it is told to.
fn supervise(
    truth: &Truth,
    name: String,
    shutdown: Shutdown,
    work: impl Future<Output = anyhow::Result<std::process::ExitCode>> + Send + 'static,
) -> AbortHandle {
    let task: JoinHandle<_> = tokio::spawn(work);
    let (handle, truth) = (task.abort_handle(), truth.clone());
    tokio::spawn(async move {
        match task.await {
            Ok(Ok(_)) if shutdown.has_begun() => {}
            Ok(Ok(_)) => truth.fault(format!("{name} has ended")),
            Ok(Err(error)) => truth.fault(format!("{name} has failed: {error:#}")),
            Err(error) if error.is_panic() => truth.fault(format!("{name} has panicked: {error}")),
            Err(_) => {}
        }
    });
    handle
}

/// The daemons that run from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    Registrar,
    Dns,
    Launcher(u8),
    Router(u8),
}

impl Program {
    pub const ALL: [Self; 6] = [
        Self::Registrar,
        Self::Dns,
        Self::Launcher(1),
        Self::Launcher(2),
        Self::Router(1),
        Self::Router(2),
    ];
}

/// The places of some of them.
pub const REGISTRAR: usize = 0;
const DNS: usize = 1;
const ROUTERS: [usize; 2] = [4, 5];

struct Running {
    client: ClientId,
    shutdown: Shutdown,
    task: AbortHandle,
}

pub struct World {
    pub trace: Trace,
    pub etcd: SimulatedEtcd,
    pub truth: Truth,
    pub engine: FakeEngine,
    /// One for each router, in the order of [`ROUTERS`].
    pub haproxies: [FakeHaproxy; 2],
    pub registrars: Registrars,
    pub operator: Store,
    /// Instances that operators have started.
    pub outside: Vec<Registering>,
    base: PathBuf,
    running: BTreeMap<usize, Running>,
}

impl World {
    pub fn new(seed: u64, is_printed: bool) -> Self {
        let base = directory();
        for part in ["environments", "services"] {
            fs::create_dir_all(base.join(part)).unwrap();
        }
        let trace = Trace::new(is_printed).hiding(&base.display().to_string());
        let etcd = SimulatedEtcd::start(seed, trace.clone());
        let truth = Truth::new(trace.clone());
        etcd.set_monitor(Box::new(truth.clone()));
        let registrars = Registrars {
            etcd: etcd.clone(),
            truth: truth.clone(),
            next_client: Arc::new(AtomicUsize::new(1)),
            addresses: Arc::default(),
        };
        let haproxies = [1, 2].map(|number| {
            let directory = base.join(format!("router-{number}"));
            FakeHaproxy::start(seed, number, directory, registrars.clone(), trace.clone())
        });
        let engine = FakeEngine::new(seed, truth.clone(), registrars.clone());
        let (_, operator) = registrars.client(Role::Operator);
        tokio::spawn(probe(truth.clone(), haproxies.clone(), base.clone()));
        let world = Self {
            trace,
            etcd,
            truth,
            engine,
            haproxies,
            registrars,
            operator,
            outside: Vec::new(),
            base,
            running: BTreeMap::new(),
        };
        for service in LAUNCHED {
            let text = format!("name: {service}\nimage: \"team/{service}:{{{{ version }}}}\"\nport: 8080\n");
            world.write(
                &world.base.join("services").join(format!("{service}.yaml")),
                &text,
            );
        }
        world.write(&world.template(), TEMPLATE);
        world
    }

    fn write(&self, path: &Path, text: &str) {
        // As an editor does.
        let new = path.with_extension("new");
        fs::write(&new, text).unwrap();
        let file = fs::File::options().write(true).open(&new).unwrap();
        file.set_modified(SystemTime::now()).unwrap();
        fs::rename(&new, path).unwrap();
    }

    fn template(&self) -> PathBuf {
        self.base.join("haproxy.cfg.tera")
    }

    fn environments(&self) -> PathBuf {
        self.base.join("environments")
    }

    /// Whether the directory of environments is there.
    pub fn has_directory(&self) -> bool {
        self.environments().is_dir()
    }

    /// Takes the directory away, or brings it back.
    pub fn move_directory(&self, away: bool) {
        let (there, elsewhere) = (self.environments(), self.base.join("elsewhere"));
        let (from, to) = if away {
            (there, elsewhere)
        } else {
            (elsewhere, there)
        };
        // It may be where it is to be.
        let _ = fs::rename(from, to);
    }

    /// Saves the file of an environment; without services it has a text that says nothing valid.
    pub fn save(&self, name: &str, services: Option<Services>, broken: &str) {
        if !self.has_directory() {
            return;
        }
        let text = match &services {
            Some(services) => {
                let mut text = format!("name: {name}\nservices:\n");
                for (service, version) in services {
                    text += &format!("  - name: {service}\n    version: {version}\n");
                }
                text
            }
            // Half of a file, or nothing of it yet.
            None => broken.to_owned(),
        };
        self.trace.note(|| format!("save {name}: {services:?}"));
        self.write(&self.environments().join(format!("{name}.yaml")), &text);
        self.truth.save(name, Some(services));
    }

    /// Writes a text into the file of an environment that says nothing valid, for a moment: the
    /// last good version counts.
    pub fn spoil(&self, name: &str, broken: &str) {
        if self.has_directory() {
            self.trace.note(|| format!("spoil {name}"));
            self.write(&self.environments().join(format!("{name}.yaml")), broken);
        }
    }

    /// Cuts the registrars of all instances off from etcd, or lets them in again.
    pub fn cut_instances(&self, cut: bool) {
        let roles = self.truth.lock().roles.clone();
        let instances = roles
            .into_iter()
            .filter(|(_, role)| matches!(role, Role::Instance(_)));
        self.etcd
            .network(|network| instances.for_each(|(client, _)| network.set_cut(client, cut)));
    }

    /// Deletes the file of an environment.
    pub fn delete(&self, name: &str) {
        if !self.has_directory() {
            return;
        }
        self.trace.note(|| format!("delete {name}"));
        let _ = fs::remove_file(self.environments().join(format!("{name}.yaml")));
        self.truth.save(name, None);
    }

    /// The names in the hosts file, and the addresses that they resolve to.
    pub fn hosts(&self) -> BTreeSet<(String, String)> {
        hosts(&self.base)
    }

    /// Whether a program runs.
    pub fn is_running(&self, number: usize) -> bool {
        self.running.contains_key(&number)
    }

    /// The client of a program.
    pub fn client(&self, number: usize) -> Option<ClientId> {
        self.running.get(&number).map(|running| running.client)
    }

    /// Starts a program, if it does not run.
    pub fn start(&mut self, number: usize) {
        if self.is_running(number) {
            return;
        }
        let program = Program::ALL[number];
        self.trace.note(|| format!("start {program:?}"));
        self.truth.start(number);
        let shutdown = Shutdown::new();
        let (client, task) = match program {
            Program::Registrar => self.start_registrar(shutdown.clone()),
            Program::Dns => self.start_dns(shutdown.clone()),
            Program::Launcher(node) => self.start_launcher(node, shutdown.clone()),
            Program::Router(node) => self.start_router(node, shutdown.clone()),
        };
        let running = Running {
            client,
            shutdown,
            task,
        };
        self.running.insert(number, running);
    }

    fn start_registrar(&self, shutdown: Shutdown) -> (ClientId, AbortHandle) {
        let (client, store) = self.registrars.client(Role::Registrar(NODE.to_owned()));
        let path = |part: &str| self.base.join(part).display().to_string();
        let mut arguments = environment_registrar::args::Arguments::parse_from([
            "environment-registrar",
            "watch",
            &path("environments"),
            "--services",
            &path("services"),
            "--archive",
            &path("archive"),
            "--poll",
            "1s",
            "--node",
            NODE,
        ]);
        give(&mut arguments.common, store);
        let work = environment_registrar::run(arguments, shutdown.clone());
        let name = "environment-registrar".to_owned();
        (client, supervise(&self.truth, name, shutdown, work))
    }

    fn start_dns(&self, shutdown: Shutdown) -> (ClientId, AbortHandle) {
        let (client, store) = self.registrars.client(Role::Dns);
        let file = self.base.join("mayfly.hosts").display().to_string();
        let mut arguments = dns_updater::args::Arguments::parse_from([
            "dns-updater",
            "watch",
            "--hosts-file",
            &file,
            "--distrust",
            "10s",
            "--node",
            "dns",
        ]);
        give(&mut arguments.common, store);
        let work = dns_updater::run(arguments, shutdown.clone());
        (
            client,
            supervise(&self.truth, "dns-updater".to_owned(), shutdown, work),
        )
    }

    fn start_launcher(&self, node: u8, shutdown: Shutdown) -> (ClientId, AbortHandle) {
        let (client, store) = self.registrars.client(Role::Launcher);
        let node = format!("launcher-{node}");
        let mut arguments = container_launcher::args::Arguments::parse_from([
            "container-launcher",
            "--node",
            &node,
            "--ttl",
            "6s",
            "--retire-after",
            "20s",
            "--drain",
            "1s",
            "--patience",
            "1s",
            "--start-timeout",
            "30s",
            "--retry-most",
            "8s",
            "--distrust",
            "20s",
        ]);
        give(&mut arguments.common, store);
        let work = container_launcher::run_on(self.engine.another(), arguments, shutdown.clone());
        (client, supervise(&self.truth, node, shutdown, work))
    }

    fn start_router(&self, number: u8, shutdown: Shutdown) -> (ClientId, AbortHandle) {
        let (client, store) = self.registrars.client(Role::Router);
        let node = format!("router-{number}");
        let directory = self.base.join(&node);
        let socket = |name: &str| directory.join(name).display().to_string();
        let address = format!("10.8.0.{number}");
        let mut arguments = haproxy_updater::args::Arguments::parse_from([
            "haproxy-updater",
            "--dir",
            &directory.display().to_string(),
            "--runtime-socket",
            &socket("runtime.sock"),
            "--master-socket",
            &socket("master.sock"),
            "--haproxy",
            "/nonexistent/haproxy",
            "--template",
            &self.template().display().to_string(),
            "--internal-bind",
            &format!("{address}:80"),
            // Binds that name no address would take those of this machine, which come and go with
            // its networks: no seed would replay for certain.
            "--edge-bind",
            &format!("{address}:8080"),
            "--advertise",
            &address,
            "--slots",
            "8",
            // A look at everything is what costs most here.
            "--verify",
            "20s",
            "--node",
            &node,
        ]);
        give(&mut arguments.common, store);
        let work = haproxy_updater::run(arguments, shutdown.clone());
        (client, supervise(&self.truth, node, shutdown, work))
    }

    /// Ends a program: in order, or at once.
    pub fn end(&mut self, number: usize, in_order: bool) {
        let Some(running) = self.running.remove(&number) else {
            return;
        };
        self.trace
            .note(|| format!("end {:?}, in order: {in_order}", Program::ALL[number]));
        running.shutdown.begin();
        if !in_order {
            running.task.abort();
        }
    }

    /// An operator's word that what is gone is meant to be gone.
    pub async fn confirm(&self) {
        for daemon in [Daemon::HaproxyUpdater, Daemon::ContainerLauncher] {
            let Ok(lease) = self.operator.grant(Duration::from_secs(60)).await else {
                continue;
            };
            let word = br#"{"by": "ops", "at": "2030-01-01T00:00:00Z"}"#.to_vec();
            let _ = self
                .operator
                .put(&Key::Confirmation(daemon), word, Some(lease.id))
                .await;
        }
    }
}

/// The names in the hosts file, and the addresses that they resolve to.
fn hosts(base: &Path) -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(base.join("mayfly.hosts")).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pairs = lines.filter_map(|line| line.split_once(' '));
    pairs
        .map(|(address, name)| (name.to_owned(), address.to_owned()))
        .collect()
}

/// Looks again and again whether routers route what they have to, whatever happens to etcd.
async fn probe(truth: Truth, haproxies: [FakeHaproxy; 2], base: PathBuf) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let names = hosts(&base);
        for (environment, service, _) in truth.routed(DNS) {
            let name = format!("{service}.service");
            if !names.iter().any(|(known, _)| *known == name) {
                truth.fault(format!("{name} has no address, and {environment} needs it"));
            }
        }
        let routers = haproxies.iter().zip(ROUTERS);
        for (haproxy, router) in routers.filter(|(haproxy, _)| haproxy.is_settled()) {
            for (environment, service, backend) in truth.routed(router) {
                if !haproxy.routes(&environment, &service, &backend.to_string()) {
                    truth.fault(format!(
                        "a router does not route {environment}/{service} to {backend}, which lives"
                    ));
                }
            }
            let addresses = truth.addresses(router);
            for (backend, address) in haproxy.sends() {
                if let Some(other) = addresses
                    .get(&address)
                    .filter(|other| other.to_string() != backend)
                {
                    truth.fault(format!(
                        "a router sends requests for {backend} to {address}, where {other} is"
                    ));
                }
            }
        }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.base);
    }
}

/// A directory of this process, in memory where there is such a place: nothing here is to survive.
fn directory() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let base = parent.join(format!("mayfly-simulation-{}", std::process::id()));
    // What a killed process of this number has left.
    let _ = fs::remove_dir_all(&base);
    base
}
