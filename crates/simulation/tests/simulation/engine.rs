//! An engine of containers that is a value of the test. Each container that runs is registered by
//! the real loop of `container-registrar register`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::random::Random;
use container_launcher::engine::{Engine, Inventory, Launch, Progress, Unit, UnitState};
use mayfly_core::version::BackendId;
use tokio::sync::watch;
use tokio::time::sleep;

use super::truth::Truth;
use super::world::{Registering, Registrars};

/// An engine, as one program sees it.
pub struct FakeEngine {
    shared: Arc<Shared>,
    /// The change up to which this program has seen everything.
    seen: AtomicU64,
}

struct Shared {
    state: Mutex<EngineState>,
    changes: watch::Sender<u64>,
    truth: Truth,
    registrars: Registrars,
}

struct EngineState {
    units: BTreeMap<String, (Unit, Option<Registering>)>,
    random: Random,
    next_container: u64,
    down: bool,
    /// How many of a thousand starts fail.
    failing: u64,
}

impl FakeEngine {
    pub fn new(seed: u64, truth: Truth, registrars: Registrars) -> Self {
        let state = EngineState {
            units: BTreeMap::new(),
            random: Random::new(seed, 3),
            next_container: 0,
            down: false,
            failing: 0,
        };
        let shared = Shared {
            state: Mutex::new(state),
            changes: watch::channel(1).0,
            truth,
            registrars,
        };
        Self {
            shared: Arc::new(shared),
            seen: AtomicU64::new(0),
        }
    }

    /// The same engine, for another program.
    pub fn another(&self) -> Self {
        Self {
            shared: self.shared.clone(),
            seen: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, EngineState> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) {
        self.shared.changes.send_modify(|change| *change += 1);
    }

    pub fn set_down(&self, down: bool) {
        self.lock().down = down;
        self.change();
    }

    pub fn set_failing(&self, in_a_thousand: u64) {
        self.lock().failing = in_a_thousand;
    }

    /// The units.
    pub fn units(&self) -> Vec<Unit> {
        self.lock().units.values().map(|(unit, _)| unit.clone()).collect()
    }

    /// Lets a container die.
    pub fn kill(&self, which: usize) {
        {
            let mut state = self.lock();
            let running = state
                .units
                .values_mut()
                .filter(|(unit, _)| unit.state == UnitState::Running);
            let mut running: Vec<_> = running.collect();
            if !running.is_empty() {
                let which = which % running.len();
                let (unit, registering) = &mut running[which];
                unit.state = UnitState::Ended("exit code 137".to_owned());
                drop(registering.take());
            }
        }
        self.change();
    }

    /// Lets all containers die.
    pub fn kill_all(&self) {
        for _ in 0..self.units().len() {
            self.kill(0);
        }
    }

    async fn wait(&self, from: u64, to: u64) -> anyhow::Result<()> {
        let span = self.lock().random.millis(from, to);
        sleep(span).await;
        anyhow::ensure!(!self.lock().down, "the engine does not answer");
        Ok(())
    }
}

impl Engine for FakeEngine {
    async fn inventory(&self) -> anyhow::Result<Inventory> {
        self.wait(1, 50).await?;
        self.seen.store(*self.shared.changes.borrow(), Ordering::Relaxed);
        Ok(Inventory {
            units: self.units(),
            others: BTreeMap::new(),
        })
    }

    async fn start(
        &self,
        launch: &Launch,
        report: impl Fn(Progress) + Send + Sync,
    ) -> anyhow::Result<Option<String>> {
        report(Progress::Pulling(None));
        self.wait(10, 800).await?;
        report(Progress::Starting);
        {
            let mut state = self.lock();
            let failing = state.failing;
            anyhow::ensure!(!state.random.happens(failing), "no such image");
            if let Some((unit, _)) = state.units.get(&launch.name) {
                anyhow::ensure!(unit.backend == launch.backend, "another backend has that name");
                if matches!(unit.state, UnitState::Running | UnitState::Starting) {
                    return Ok(None);
                }
                anyhow::ensure!(
                    unit.state == UnitState::Created,
                    "a container of that name is there"
                );
            }
            state.next_container += 1;
            let unit = Unit {
                name: launch.name.clone(),
                backend: launch.backend.clone(),
                digest: launch.digest.clone(),
                state: UnitState::Created,
                containers: vec![format!("c{}", state.next_container)],
                image: None,
            };
            state.units.insert(launch.name.clone(), (unit, None));
        }
        self.change();
        self.wait(10, 500).await?;
        {
            let mut state = self.lock();
            let Some((unit, registering)) = state.units.get_mut(&launch.name) else {
                anyhow::bail!("the container is gone");
            };
            if unit.state == UnitState::Created {
                unit.state = UnitState::Running;
                *registering = Some(self.shared.registrars.start(&unit.backend, &unit.containers[0]));
            }
        }
        self.change();
        Ok(None)
    }

    async fn remove(&self, name: &str, backend: &BackendId, _grace: Duration) -> anyhow::Result<()> {
        self.wait(1, 20).await?;
        let registering = {
            let mut state = self.lock();
            let Some((unit, registering)) = state.units.get_mut(name) else {
                return Ok(());
            };
            anyhow::ensure!(unit.backend == *backend, "it is another backend's");
            let ran = unit.state == UnitState::Running;
            unit.state = UnitState::Leaving;
            let truth = &self.shared.truth;
            if ran && truth.is_known_as_needed(backend) && truth.is_known_as_live(backend) {
                truth.fault(format!("{name} is removed, and {backend} is needed"));
            }
            registering.take()
        };
        self.change();
        if let Some(registering) = registering {
            registering.end();
        }
        // The engine goes on, whatever becomes of who has asked for it.
        let (span, engine, name) = (
            self.lock().random.millis(10, 500),
            self.another(),
            name.to_owned(),
        );
        let removed = tokio::spawn(async move {
            sleep(span).await;
            engine.lock().units.remove(&name);
            engine.change();
        });
        Ok(removed.await?)
    }

    async fn output(&self, _name: &str, _lines: usize) -> Vec<String> {
        Vec::new()
    }

    async fn changed(&self) {
        let seen = self.seen.load(Ordering::Relaxed);
        let _ = self
            .shared
            .changes
            .subscribe()
            .wait_for(|change| *change != seen)
            .await;
        // As the events of an engine, some of which arrive together.
        let span = self.lock().random.millis(1, 100);
        sleep(span).await;
    }
}
