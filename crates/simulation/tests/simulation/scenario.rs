//! What happens in a seed: changes and faults at random times, then peace.

use std::time::Duration;

use crate::etcd::Snapshot;
use crate::etcd::network::Faults;
use crate::random::Random;
use mayfly_core::version::BackendId;
use tokio::time::{Instant, sleep, sleep_until};

use super::final_state;
use super::truth::Services;
use super::world::{LAUNCHED, Program, REGISTRAR, World};

/// How long things change and fail.
const TROUBLE: u64 = 140;
/// How soon after the last fault everything has to be right.
const PATIENCE: Duration = Duration::from_secs(180);
/// It has to stay so for so long.
const STAYS: Duration = Duration::from_secs(6);

/// An environment that nobody changes: what routers and names have for it has to stay.
const STEADY: &str = "e0";
/// Environments that come, change and go.
const NAMES: [&str; 4] = ["e1", "e2", "e3", "e4"];
/// What a file has for a moment while somebody writes it.
const BROKEN: [&str; 2] = ["", "name: e0\nservices: [\n"];
const VERSIONS: [&str; 3] = ["1.0.0", "1.1.0", "2.0.0"];

pub struct Outcome {
    seed: u64,
    pub faults: Vec<String>,
    hash: (u64, u64),
    settled: Duration,
}

impl Outcome {
    pub fn summary(&self) -> String {
        let (hash, lines) = self.hash;
        let settled = self.settled.as_millis();
        format!(
            "seed {} has the trace {hash:016x} of {lines} lines and settled after {settled} ms",
            self.seed
        )
    }
}

/// What is to be undone at some time.
#[derive(Debug, Clone, Copy)]
enum Undo {
    Etcd,
    Thaw,
    Cut(usize),
    Faults,
    Full,
    Directory,
    Engine,
    Starts,
    Program(usize),
    Haproxy(usize),
    Files,
    Steady,
    Instances,
}

struct Scenario {
    world: World,
    random: Random,
    undo: Vec<(Instant, Undo)>,
    snapshot: Option<Snapshot>,
}

pub async fn run(seed: u64, is_printed: bool) -> Outcome {
    let mut scenario = Scenario {
        world: World::new(seed, is_printed),
        random: Random::new(seed, 4),
        undo: Vec::new(),
        snapshot: None,
    };
    for number in 0..Program::ALL.len() {
        scenario.world.start(number);
    }
    scenario.steady();
    for name in &NAMES[..2] {
        scenario.save(name);
    }
    scenario.trouble().await;
    let settled = scenario.settle().await;
    let world = &scenario.world;
    Outcome {
        seed,
        faults: world.truth.lock().faults.clone(),
        hash: world.trace.hash(),
        settled,
    }
}

impl Scenario {
    /// Changes and faults, one after the other.
    async fn trouble(&mut self) {
        let end = Instant::now() + Duration::from_secs(TROUBLE);
        loop {
            let span = self.random.millis(50, 4000);
            let next = Instant::now() + span;
            self.pass(next.min(end)).await;
            if next >= end {
                return;
            }
            if self.random.happens(550) {
                self.change().await;
            } else {
                self.fault();
            }
        }
    }

    /// Lets time pass, and undoes what is due.
    async fn pass(&mut self, until: Instant) {
        loop {
            self.undo.sort_by_key(|(at, _)| *at);
            match self.undo.first().copied() {
                Some((at, undo)) if at <= until => {
                    self.undo.remove(0);
                    sleep_until(at).await;
                    self.undo(undo);
                }
                _ => return sleep_until(until).await,
            }
        }
    }

    fn later(&mut self, from: u64, to: u64, undo: Undo) {
        let at = Instant::now() + self.random.millis(from, to);
        self.undo.push((at, undo));
    }

    fn services(&mut self) -> Services {
        let mut services = Services::new();
        for service in LAUNCHED.into_iter().chain(["db"]) {
            if self.random.happens(600) {
                services.insert(service.to_owned(), self.random.pick(&VERSIONS).to_owned());
            }
        }
        services
    }

    /// Every service, each in a version that others may choose as well.
    fn steady(&mut self) {
        let services = LAUNCHED.map(|service| (service.to_owned(), VERSIONS[0].to_owned()));
        self.world.save(STEADY, Some(services.into()), "");
    }

    fn save(&mut self, name: &str) {
        let services = self.services();
        self.world.save(name, Some(services), "");
    }

    /// What people do every day.
    async fn change(&mut self) {
        let name = self.random.pick(&NAMES);
        match self.random.below(100) {
            0..45 => self.save(name),
            45..60 => self.world.delete(name),
            60..64 => {
                let broken = self.random.pick(&BROKEN);
                self.world.save(name, None, broken);
            }
            64..68 => {
                let broken = self.random.pick(&BROKEN);
                self.world.spoil(STEADY, broken);
                self.later(500, 8_000, Undo::Steady);
            }
            68..80 => self.outside(),
            80..86 => self.foreign().await,
            86..90 => self.overwrite().await,
            90..94 => {
                for name in NAMES {
                    self.world.delete(name);
                }
                self.later(500, 15_000, Undo::Files);
            }
            _ => {
                self.world.trace.note(|| "compact".to_owned());
                self.world.etcd.compact();
            }
        }
    }

    /// An instance that no launcher starts comes or goes.
    fn outside(&mut self) {
        if self.world.outside.len() < 3 && self.random.happens(600) {
            let version = self.random.pick(&VERSIONS);
            let backend: BackendId = format!("db@{version}").parse().unwrap();
            self.world.trace.note(|| format!("start {backend}"));
            let registering = self.world.registrars.start(&backend, "outside");
            self.world.outside.push(registering);
        } else if !self.world.outside.is_empty() {
            let which = self.random.index(self.world.outside.len());
            let registering = self.world.outside.remove(which);
            if self.random.happens(500) {
                registering.end();
            }
        }
    }

    /// A tool writes a record of a daemon again, and its lease is lost by that.
    async fn overwrite(&mut self) {
        let entries = self.world.etcd.entries();
        let of_a_daemon = |key: &str| {
            ["/status/", "/leaders/", "/routers/"]
                .iter()
                .any(|kind| key.contains(kind))
        };
        let leased = entries
            .iter()
            .filter(|entry| entry.lease.is_some() && of_a_daemon(&entry.key));
        let leased: Vec<_> = leased.collect();
        if leased.is_empty() {
            return;
        }
        let entry = leased[self.random.index(leased.len())].clone();
        if let Ok(key) = mayfly_core::keys::KeySpace::default().parse(&entry.key) {
            let _ = self.world.operator.put(&key, entry.value, None).await;
        }
    }

    /// An operator registers an environment without a file, or deletes it.
    async fn foreign(&mut self) {
        let name = self.random.pick(&["f0", "f1"]);
        let key = mayfly_core::keys::Key::Environment(name.parse().unwrap());
        if self.random.happens(600) {
            let services = self.services();
            let services: Vec<_> = services
                .iter()
                .map(|(name, version)| serde_json::json!({"name": name, "version": version}))
                .collect();
            let record = serde_json::json!({
                "name": name, "prefix": format!("www-{name}"), "header": name, "services": services,
            });
            // It may fail, as everything.
            let _ = self
                .world
                .operator
                .put(&key, record.to_string().into_bytes(), None)
                .await;
        } else {
            let _ = self.world.operator.delete(&key).await;
        }
    }

    /// What goes wrong.
    fn fault(&mut self) {
        let kind = self.random.below(100);
        self.world.trace.note(|| format!("fault {kind}"));
        let etcd = self.world.etcd.clone();
        let program = self.random.index(Program::ALL.len());
        match kind {
            0..8 => {
                etcd.network(|network| network.set_down(true));
                etcd.restart();
                self.later(500, 15_000, Undo::Etcd);
            }
            8..14 => {
                etcd.network(|network| network.set_frozen(true));
                self.later(500, 10_000, Undo::Thaw);
            }
            14..20 => etcd.restart(),
            20..23 => {
                // With the machine of etcd others may go: that of the files, that of the containers.
                if self.random.happens(300) {
                    self.world.end(REGISTRAR, false);
                    self.later(0, 10_000, Undo::Program(REGISTRAR));
                }
                if self.random.happens(300) {
                    self.world.engine.kill_all();
                }
                etcd.wipe();
                self.world.truth.resync(&etcd.entries());
            }
            23..28 => self.snapshot = Some(etcd.snapshot()),
            28..32 => {
                if let Some(snapshot) = self.snapshot.take() {
                    etcd.restore(snapshot);
                    self.world.truth.resync(&etcd.entries());
                }
            }
            32..35 => {
                etcd.set_full(true);
                self.later(1_000, 10_000, Undo::Full);
            }
            35..38 => {
                // Their host is cut off, while those who call them reach them.
                self.world.cut_instances(true);
                self.later(500, 20_000, Undo::Instances);
            }
            38..48 => {
                if let Some(client) = self.world.client(program) {
                    etcd.network(|network| network.set_cut(client, true));
                    self.later(500, 20_000, Undo::Cut(client.0));
                }
            }
            48..58 => {
                let silently = self.random.happens(500);
                if let Some(client) = self.world.client(program) {
                    etcd.break_streams(client, silently);
                }
            }
            58..70 => {
                let mut rate = || self.random.pick(&[0, 0, 50, 200]);
                let faults = Faults {
                    refused: rate(),
                    lost: rate(),
                    answer_lost: rate(),
                    late: rate(),
                    late_events: rate(),
                    silent: rate(),
                };
                etcd.network(|network| network.set_faults(faults));
                self.later(3_000, 20_000, Undo::Faults);
            }
            70..82 => {
                let in_order = self.random.happens(300);
                self.world.end(program, in_order);
                self.later(0, 10_000, Undo::Program(program));
            }
            82..85 => {
                let which = self.random.index(16);
                self.world.engine.kill(which);
            }
            85..88 => {
                let which = self.random.index(2);
                let haproxy = self.world.haproxies[which].clone();
                match self.random.below(3) {
                    0 => {
                        haproxy.set_down(true);
                        self.later(100, 8_000, Undo::Haproxy(which));
                    }
                    1 => {
                        haproxy.set_breaking(200);
                        self.later(1_000, 10_000, Undo::Haproxy(which));
                    }
                    _ => haproxy.disturb(),
                }
            }
            88..91 => {
                self.world.engine.set_down(true);
                self.later(500, 15_000, Undo::Engine);
            }
            91..94 => {
                self.world.engine.set_failing(500);
                self.later(2_000, 20_000, Undo::Starts);
            }
            _ => {
                self.world.move_directory(true);
                self.later(300, 15_000, Undo::Directory);
            }
        }
    }

    fn undo(&mut self, undo: Undo) {
        self.world.trace.note(|| format!("undo {undo:?}"));
        let etcd = self.world.etcd.clone();
        match undo {
            Undo::Etcd => {
                etcd.network(|network| network.set_down(false));
                etcd.restart();
            }
            Undo::Thaw => etcd.network(|network| network.set_frozen(false)),
            Undo::Cut(client) => {
                let client = crate::etcd::ClientId(client);
                etcd.network(|network| network.set_cut(client, false));
                if self.random.happens(500) {
                    etcd.break_streams(client, self.random.happens(300));
                }
            }
            Undo::Faults => etcd.network(|network| network.set_faults(Faults::default())),
            Undo::Full => etcd.set_full(false),
            Undo::Directory => self.world.move_directory(false),
            Undo::Engine => self.world.engine.set_down(false),
            Undo::Starts => self.world.engine.set_failing(0),
            Undo::Program(number) => self.world.start(number),
            Undo::Haproxy(which) => {
                self.world.haproxies[which].set_down(false);
                self.world.haproxies[which].set_breaking(0);
            }
            Undo::Steady if self.world.has_directory() => self.steady(),
            Undo::Steady => self.later(500, 2_000, Undo::Steady),
            Undo::Instances => self.world.cut_instances(false),
            Undo::Files => {
                for name in &NAMES[..2] {
                    self.save(name);
                }
            }
        }
    }

    /// Ends all faults, and waits until everything is right.
    async fn settle(&mut self) -> Duration {
        self.undo.sort_by_key(|(at, _)| *at);
        for (_, undo) in std::mem::take(&mut self.undo) {
            self.undo(undo);
        }
        self.steady();
        for number in 0..Program::ALL.len() {
            self.world.start(number);
        }
        self.world.trace.note(|| "peace".to_owned());
        let peace = Instant::now();
        let mut right_since: Option<Instant> = None;
        let mut confirmed = Instant::now();
        loop {
            sleep(Duration::from_secs(2)).await;
            // Deletions that were meant may be withheld: an operator says so now and then.
            if confirmed.elapsed() >= Duration::from_secs(30) {
                confirmed = Instant::now();
                self.world.confirm().await;
            }
            let wrong = final_state::wrong(&self.world);
            if wrong.is_empty() {
                let since = *right_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= STAYS {
                    return since - peace;
                }
            } else {
                right_since = None;
                if peace.elapsed() >= PATIENCE {
                    for what in wrong {
                        self.world
                            .truth
                            .fault(format!("{PATIENCE:?} after the last fault: {what}"));
                    }
                    return peace.elapsed();
                }
            }
        }
    }
}
