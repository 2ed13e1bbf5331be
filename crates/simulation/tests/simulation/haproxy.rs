//! An HAProxy that is a value of the test: it starts from its files, and speaks as much of the
//! run-time API and of the master's as haproxy-updater asks for. As the real one, it has two rows
//! of a key that is added twice, and forgets everything that is not in its files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use haproxy_updater::simulated::{self, Simulated};
use tokio::time::{Instant, sleep};

use crate::random::Random;
use crate::trace::Trace;
use crate::world::Registrars;

const MAINTENANCE: u32 = 1;
const DRAIN: u32 = 8;

/// What is wrong with a process that is so old is not because of its start.
const SETTLED: Duration = Duration::from_secs(20);

/// Cheap to clone.
#[derive(Clone)]
pub struct FakeHaproxy(Arc<Mutex<Inner>>);

struct Inner {
    directory: PathBuf,
    name: String,
    process: Option<Process>,
    /// Nothing starts it.
    down: bool,
    /// How many of a thousand answers break off.
    breaking: u64,
    reloads: u64,
    random: Random,
    registrars: Registrars,
    trace: Trace,
}

type Rows = Vec<(String, String)>;

#[derive(Default)]
struct Process {
    /// When it started, or was disturbed last.
    since: Option<Instant>,
    description: String,
    slots: BTreeMap<String, BTreeMap<String, Server>>,
    maps: BTreeMap<String, Rows>,
    prepared: BTreeMap<u64, Rows>,
}

#[derive(Clone)]
struct Server {
    ip: String,
    port: String,
    admin: u32,
    weight: u32,
    checked: bool,
}

/// One of its sockets.
struct Socket {
    haproxy: FakeHaproxy,
    is_master: bool,
}

impl FakeHaproxy {
    pub fn start(seed: u64, number: u8, directory: PathBuf, registrars: Registrars, trace: Trace) -> Self {
        let inner = Inner {
            directory: directory.clone(),
            name: format!("haproxy-{number}"),
            process: None,
            down: false,
            breaking: 0,
            reloads: 0,
            random: Random::new(seed, 5 + u64::from(number)),
            registrars,
            trace,
        };
        let haproxy = Self(Arc::new(Mutex::new(inner)));
        for (name, is_master) in [("runtime.sock", false), ("master.sock", true)] {
            let socket = Socket {
                haproxy: haproxy.clone(),
                is_master,
            };
            simulated::put(directory.join(name), Arc::new(socket));
        }
        haproxy
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// It dies; something starts it again when it is no longer held down.
    pub fn set_down(&self, down: bool) {
        let mut inner = self.lock();
        inner.down = down;
        if down {
            inner.process = None;
        }
    }

    pub fn set_breaking(&self, in_a_thousand: u64) {
        self.lock().breaking = in_a_thousand;
    }

    /// Another program changes what it has.
    pub fn disturb(&self) {
        let mut inner = self.lock();
        let (which, what) = (inner.random.index(64), inner.random.below(3));
        let Some(process) = &mut inner.process else { return };
        process.since = Some(Instant::now());
        let mut servers = process.slots.values_mut().flat_map(|slot| slot.values_mut());
        match what {
            0 => {
                let mut maps: Vec<_> = process
                    .maps
                    .values_mut()
                    .filter(|rows| !rows.is_empty())
                    .collect();
                if !maps.is_empty() {
                    let which = which % maps.len();
                    maps[which].pop();
                }
            }
            1 => servers.by_ref().take(1).for_each(|server| server.admin = DRAIN),
            _ => servers.by_ref().take(1).for_each(|server| server.weight = 1),
        }
    }

    /// The rows of a table.
    pub fn rows(&self, table: &str) -> Rows {
        let inner = self.lock();
        let path = inner.map(table);
        let rows = inner.process.as_ref().and_then(|process| process.maps.get(&path));
        let mut rows = rows.cloned().unwrap_or_default();
        rows.sort();
        rows
    }

    /// Whether it has run undisturbed for some time.
    pub fn is_settled(&self) -> bool {
        let inner = self.lock();
        let is_up = |process: &Process| process.since.is_some_and(|since| since.elapsed() >= SETTLED);
        inner.process.as_ref().is_some_and(is_up)
    }

    /// Whether a service of an environment has a server of this backend.
    pub fn routes(&self, environment: &str, service: &str, backend: &str) -> bool {
        let has = |table: &str, key: &str| {
            let mut rows = self.rows(table).into_iter();
            rows.find(|(known, _)| known == key).map(|(_, value)| value)
        };
        let slot = has("slots", backend);
        has("versions", &format!("{environment}/{service}")).as_deref() == Some(backend)
            && slot.is_some_and(|slot| !self.ready(&slot).is_empty())
    }

    /// The backends, and the addresses of their servers that take requests.
    pub fn sends(&self) -> Vec<(String, String)> {
        let mut sends = Vec::new();
        for (backend, slot) in self.rows("slots") {
            for address in self.ready(&slot) {
                let (ip, _) = address.rsplit_once(':').unwrap_or((&address, ""));
                sends.push((backend.clone(), ip.to_owned()));
            }
        }
        sends
    }

    /// The servers of a slot that take requests.
    pub fn ready(&self, slot: &str) -> BTreeSet<String> {
        let inner = self.lock();
        let servers = inner.process.as_ref().and_then(|process| process.slots.get(slot));
        let ready = servers.into_iter().flatten();
        let ready = ready.filter(|(_, server)| server.admin == 0 && server.weight > 0);
        ready
            .map(|(_, server)| format!("{}:{}", server.ip, server.port))
            .collect()
    }
}

impl Simulated for Socket {
    fn answer(&self, request: String) -> Pin<Box<dyn Future<Output = io::Result<String>> + Send + '_>> {
        Box::pin(async move {
            let span = Duration::from_micros(100 + self.haproxy.lock().random.below(900));
            sleep(span).await;
            let inner = &mut *self.haproxy.lock();
            inner.boot();
            if inner.process.is_none() {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
            let answer = match self.is_master {
                true => inner.master(&request),
                false => inner.runtime(&request),
            };
            if !request.starts_with("show ") {
                let name = &inner.name;
                inner.trace.note(|| {
                    // A token of haproxy-updater differs from run to run.
                    let shown = if request.contains("witness") {
                        "mark"
                    } else {
                        request.trim()
                    };
                    let (shown, answer) = (shown.replace('\n', " | "), answer.replace('\n', " "));
                    format!("{name}: {shown} -> {answer}")
                });
            }
            if inner.random.happens(inner.breaking) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Ok(answer)
        })
    }
}

impl Inner {
    fn map(&self, table: &str) -> String {
        self.directory
            .join("maps")
            .join(format!("{table}.map"))
            .display()
            .to_string()
    }

    /// Starts a process, if there is none and nothing prevents it.
    fn boot(&mut self) {
        if self.process.is_none() && !self.down {
            self.process = Process::start(&self.directory);
            if self.process.is_some() {
                self.trace.note(|| format!("{} has started", self.name));
            }
        }
    }

    fn master(&mut self, request: &str) -> String {
        match request.trim() {
            "reload" => {
                self.reloads += 1;
                match Process::start(&self.directory) {
                    Some(process) => {
                        self.process = Some(process);
                        "Success=1\n--\n".to_owned()
                    }
                    None => "Success=0\n--\n[ALERT] no configuration\n".to_owned(),
                }
            }
            "show proc" => format!(
                "#<PID> <type> <reloads>\n1 master {}\n# workers\n40 worker 0\n# programs\n\n",
                self.reloads
            ),
            _ => String::new(),
        }
    }

    fn runtime(&mut self, request: &str) -> String {
        if let Some((command, payload)) = request.split_once(" <<\n") {
            let rows = payload.lines().filter_map(|line| line.split_once(' '));
            let rows = rows.map(|(key, value)| (key.to_owned(), value.to_owned()));
            let words: Vec<&str> = command.split(' ').collect();
            return self.add(&words, rows.collect());
        }
        let mut answer = String::new();
        for command in request.trim().split(';') {
            let words: Vec<&str> = command.split_whitespace().collect();
            answer += &self.command(&words);
        }
        answer
    }

    fn add(&mut self, words: &[&str], mut rows: Rows) -> String {
        let Some(process) = &mut self.process else {
            return String::new();
        };
        let place = match words {
            ["add", "map", version, _] => {
                let version = version.trim_start_matches('@').parse().unwrap_or_default();
                process.prepared.get_mut(&version)
            }
            ["add", "map", path] => process.maps.get_mut(*path),
            _ => None,
        };
        match place {
            Some(place) => {
                place.append(&mut rows);
                "\n".to_owned()
            }
            None => "Unknown map identifier.\n".to_owned(),
        }
    }

    fn command(&mut self, words: &[&str]) -> String {
        let Some(process) = &mut self.process else {
            return String::new();
        };
        let live = || self.registrars.addresses();
        let missing = || "No such server.\n".to_owned();
        match words {
            ["show", "info"] => format!(
                "Name: HAProxy\nVersion: 3.0.11\nPid: 40\nDescription: {}\n\n",
                process.description
            ),
            ["show", "ssl", "ca-file"] => String::new(),
            ["show", "backend"] => {
                let names: String = process.slots.keys().map(|slot| format!("{slot}\n")).collect();
                format!("# name\n{names}\n")
            }
            ["show", "map"] => {
                let line = |(path, rows): (&String, &Rows)| {
                    format!(
                        "1 ({path}) pattern loaded. curr_ver=0 next_ver=0 entry_cnt={}\n",
                        rows.len()
                    )
                };
                let lines: String = process.maps.iter().map(line).collect();
                format!("# id (file) description\n{lines}\n")
            }
            ["show", "map", path] => match process.maps.get(*path) {
                Some(rows) => {
                    let lines = rows.iter().map(|(key, value)| format!("0x1 {key} {value}\n"));
                    lines.collect::<String>() + "\n"
                }
                None => "Unknown map identifier. Please use #<id> or <file>.\n".to_owned(),
            },
            ["show", "servers", "state"] => process.state(None, &live()),
            ["show", "servers", "state", slot] => process.state(Some(*slot), &live()),
            ["show", "servers", "conn", slot] => {
                let servers = process.slots.get(*slot).into_iter().flatten();
                let lines: String = servers.map(|(name, _)| format!("{slot}/{name} 0\n")).collect();
                format!("# bkname/svname used_cur\n{lines}\n")
            }
            ["add", "map", path, key, value] => {
                let row = ((*key).to_owned(), (*value).to_owned());
                self.add(&["add", "map", *path], vec![row])
            }
            ["set", "map", path, key, value] => {
                let rows = process.maps.get_mut(*path).into_iter().flatten();
                let mut found = rows.filter(|(known, _)| known == key).peekable();
                if found.peek().is_none() {
                    return "entry not found.\n".to_owned();
                }
                found.for_each(|row| (*value).clone_into(&mut row.1));
                "\n".to_owned()
            }
            ["del", "map", path, key] => {
                let Some(rows) = process.maps.get_mut(*path) else {
                    return "Unknown map identifier.\n".to_owned();
                };
                let before = rows.len();
                rows.retain(|(known, _)| known != key);
                match rows.len() < before {
                    true => "\n".to_owned(),
                    false => "entry not found.\n".to_owned(),
                }
            }
            ["prepare", "map", _] => {
                let version = process.prepared.keys().max().copied().unwrap_or_default() + 1;
                process.prepared.insert(version, Rows::new());
                format!("New version created: {version}\n")
            }
            ["commit", "map", version, path] => {
                let version = version.trim_start_matches('@').parse().unwrap_or_default();
                let rows = process.prepared.remove(&version).unwrap_or_default();
                process.maps.insert((*path).to_owned(), rows);
                "\n".to_owned()
            }
            ["add", "server", name, address, "weight", weight, ..] => {
                process.add_server(name, address, weight)
            }
            ["enable", "health", name] => match process.server(name) {
                Some(server) => {
                    server.checked = true;
                    "\n".to_owned()
                }
                None => missing(),
            },
            ["set", "server", name, what @ ..] => match process.server(name) {
                Some(server) => server.set(what),
                None => missing(),
            },
            ["del", "server", name] => match process.server(name) {
                Some(server) if server.admin == MAINTENANCE => {
                    process.remove(name);
                    "Server deleted.\n".to_owned()
                }
                Some(_) => "Only servers in maintenance mode can be deleted.\n".to_owned(),
                None => missing(),
            },
            ["shutdown", "sessions", "server", _] => "\n".to_owned(),
            _ => "Unknown command.\n".to_owned(),
        }
    }
}

impl Server {
    fn set(&mut self, what: &[&str]) -> String {
        match what {
            ["state", "ready"] => self.admin = 0,
            ["state", "drain"] => self.admin = DRAIN,
            ["state", "maint"] => self.admin = MAINTENANCE,
            ["weight", weight] => self.weight = weight.parse().unwrap_or_default(),
            ["addr", ip, "port", port] => {
                (*ip).clone_into(&mut self.ip);
                (*port).clone_into(&mut self.port);
            }
            _ => {}
        }
        "\n".to_owned()
    }
}

impl Process {
    /// What the files say; `None` without a configuration.
    fn start(directory: &Path) -> Option<Self> {
        let config = fs::read_to_string(directory.join("haproxy.cfg")).ok()?;
        let mut process = Self {
            since: Some(Instant::now()),
            ..Self::default()
        };
        let mut slot = None;
        for line in config.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words.as_slice() {
                ["description", text @ ..] => process.description = text.join(" "),
                ["backend", name, ..] => {
                    slot = Some((*name).to_owned()).filter(|name| name.starts_with("slot-"));
                    if let Some(slot) = &slot {
                        process.slots.entry(slot.clone()).or_default();
                    }
                }
                ["server", name, address, "weight", weight, ..] => {
                    if let Some(slot) = &slot {
                        let name = format!("{slot}/{name}");
                        process.add_server(&name, address, weight);
                        if let Some(server) = process.server(&name) {
                            (server.admin, server.checked) = (0, true);
                        }
                    }
                }
                [first, ..] if !line.starts_with(' ') && !first.starts_with('#') => slot = None,
                _ => {}
            }
        }
        for entry in fs::read_dir(directory.join("maps")).ok()?.flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| end == "map") {
                let text = fs::read_to_string(&path).unwrap_or_default();
                let lines = text.lines().filter(|line| !line.starts_with('#'));
                let rows = lines.filter_map(|line| line.split_once(' '));
                let rows = rows.map(|(key, value)| (key.to_owned(), value.to_owned()));
                process.maps.insert(path.display().to_string(), rows.collect());
            }
        }
        Some(process)
    }

    fn server(&mut self, name: &str) -> Option<&mut Server> {
        let (slot, name) = name.split_once('/')?;
        self.slots.get_mut(slot)?.get_mut(name)
    }

    fn remove(&mut self, name: &str) {
        if let Some((slot, name)) = name.split_once('/') {
            self.slots.get_mut(slot).and_then(|servers| servers.remove(name));
        }
    }

    fn add_server(&mut self, name: &str, address: &str, weight: &str) -> String {
        let Some((slot, name)) = name.split_once('/') else {
            return "Require 'backend/server'.\n".to_owned();
        };
        let Some(servers) = self.slots.get_mut(slot) else {
            return "No such backend.\n".to_owned();
        };
        if servers.contains_key(name) {
            return "Already exists a server with the same name in this backend.\n".to_owned();
        }
        let (ip, port) = address.rsplit_once(':').unwrap_or((address, "0"));
        let server = Server {
            ip: ip.to_owned(),
            port: port.to_owned(),
            admin: MAINTENANCE,
            weight: weight.parse().unwrap_or_default(),
            checked: false,
        };
        servers.insert(name.to_owned(), server);
        "New server registered.\n".to_owned()
    }

    /// A server whose instance has ended is found dead.
    fn state(&self, only: Option<&str>, live: &BTreeSet<String>) -> String {
        let mut text = "1\n# be_id be_name srv_id srv_name srv_addr srv_op_state srv_admin_state \
                        srv_uweight srv_check_result srv_check_state srv_port\n"
            .to_owned();
        let slots = self
            .slots
            .iter()
            .filter(|(slot, _)| only.is_none_or(|only| only == *slot));
        for (slot, servers) in slots {
            for (name, server) in servers {
                let Server {
                    ip,
                    port,
                    admin,
                    weight,
                    checked,
                } = server;
                let (up, result) = if live.contains(ip) { (2, 3) } else { (0, 2) };
                let check = if *checked { 6 } else { 2 };
                text += &format!("1 {slot} 1 {name} {ip} {up} {admin} {weight} {result} {check} {port}\n");
            }
        }
        text + "\n"
    }
}
