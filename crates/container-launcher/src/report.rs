//! What the launcher says of itself: in its status record, in its metrics and in its log.

use std::collections::BTreeMap;

use mayfly_core::launching::{Backend, Launching, Phase};
use mayfly_core::version::BackendId;
use mayfly_daemon::output::printable;
use mayfly_daemon::status::StatusReporter;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::{info, warn};

/// Backends that the status record holds at most: etcd takes 1.5 MB, each backend up to ten lines of output.
const MOST: usize = 300;
/// Octets of output that it holds at most, of all backends together.
const OUTPUT: usize = 500_000;

/// The launcher's own metrics. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    leading: Gauge,
    units: Gauge,
    held_back: Gauge,
    /// 1 while the engine answers.
    pub engine_connected: Gauge,
    backends: Family<OfPhase, Gauge>,
    /// Units that were started.
    pub started: Counter,
    /// Units that could not be started, or failed later.
    pub failed: Counter,
    /// Units that were stopped and removed.
    pub removed: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfPhase {
    phase: &'static str,
}

impl Metrics {
    /// Registers them.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let mut gauge = |name: &str, help: &str, gauge: &Gauge| registry.register(name, help, gauge.clone());
        gauge(
            "mayfly_launcher_leading",
            "1 while this launcher works, 0 while another one does",
            &metrics.leading,
        );
        gauge(
            "mayfly_launcher_units",
            "Containers, or Swarm services, that a launcher of this key prefix has made",
            &metrics.units,
        );
        gauge(
            "mayfly_launcher_held_back",
            "Containers that would be retired, and are held back by the guard",
            &metrics.held_back,
        );
        gauge(
            "mayfly_engine_connected",
            "1 while the engine answers",
            &metrics.engine_connected,
        );
        registry.register(
            "mayfly_launcher_backends",
            "Backends that the launcher looks after, by what is going on with them",
            metrics.backends.clone(),
        );
        let mut counter =
            |name: &str, help: &str, counter: &Counter| registry.register(name, help, counter.clone());
        counter(
            "mayfly_launcher_started",
            "Containers that were started",
            &metrics.started,
        );
        counter(
            "mayfly_launcher_failed",
            "Containers that could not be started, or failed later",
            &metrics.failed,
        );
        counter(
            "mayfly_launcher_removed",
            "Containers that were stopped and removed",
            &metrics.removed,
        );
        metrics
    }
}

/// Tells what is going on, and logs what has changed.
#[derive(Debug)]
pub struct Reporter {
    status: StatusReporter,
    metrics: Metrics,
    told: BTreeMap<BackendId, Phase>,
    guard: Option<String>,
}

impl Reporter {
    /// Nothing is told yet.
    pub fn new(status: StatusReporter, metrics: Metrics) -> Self {
        Self {
            status,
            metrics,
            told: BTreeMap::new(),
            guard: None,
        }
    }

    /// Tells what the leader does. `held_back` units would be retired but for `guard`.
    pub fn leading(
        &mut self,
        backends: BTreeMap<BackendId, Backend>,
        units: usize,
        guard: Option<&str>,
        held_back: usize,
    ) {
        for (backend, state) in &backends {
            if self.told.get(backend) != Some(&state.phase) {
                tell(backend, state);
            }
        }
        for backend in self.told.keys().filter(|backend| !backends.contains_key(backend)) {
            info!("{backend}: none of ours any more");
        }
        // Without containers there is nothing to retire.
        let guard = guard.filter(|_| units > 0).map(|reason| match held_back {
            0 => format!("{reason}: nothing is retired"),
            held_back => format!("{reason}: {held_back} containers that nobody seems to need are kept"),
        });
        if self.guard != guard {
            match &guard {
                Some(guard) => warn!("{guard}; if it is meant: mayfly confirm container-launcher"),
                None => info!("nothing is held back any more"),
            }
        }
        self.set(true, &backends, units, held_back);
        let more = backends.len().saturating_sub(MOST);
        let mut room = OUTPUT;
        let launching = Launching {
            leading: true,
            guard: guard.clone(),
            backends: backends
                .iter()
                .take(MOST)
                .map(|(backend, state)| (backend.to_string(), fitting(state, &mut room)))
                .collect(),
            more,
        };
        self.status.update(|status| launching.put(status));
        self.told = backends
            .into_iter()
            .map(|(backend, state)| (backend, state.phase))
            .collect();
        self.guard = guard;
    }

    /// Tells that another launcher works, or none.
    pub fn standing_by(&mut self) {
        self.set(false, &BTreeMap::new(), 0, 0);
        self.status.update(|status| Launching::default().put(status));
        (self.told, self.guard) = (BTreeMap::new(), None);
    }

    fn set(&self, leading: bool, backends: &BTreeMap<BackendId, Backend>, units: usize, held_back: usize) {
        let number = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.leading.set(leading.into());
        self.metrics.units.set(number(units));
        self.metrics.held_back.set(number(held_back));
        let mut counts: BTreeMap<&'static str, usize> = PHASES.iter().map(|phase| (*phase, 0)).collect();
        for state in backends.values() {
            *counts.entry(label(&state.phase)).or_default() += 1;
        }
        for (phase, count) in counts {
            self.metrics
                .backends
                .get_or_create(&OfPhase { phase })
                .set(number(count));
        }
    }
}

/// What is said of a backend, without its output where that has no room any more.
fn fitting(state: &Backend, room: &mut usize) -> Backend {
    let mut state = state.clone();
    let octets = state.output.iter().map(String::len).sum();
    match room.checked_sub(octets) {
        Some(left) => *room = left,
        None => state.output.clear(),
    }
    state
}

fn tell(backend: &BackendId, state: &Backend) {
    match &state.phase {
        Phase::Failed { .. } => {
            let next_try = state
                .next_try
                .as_deref()
                .unwrap_or("as soon as that is different");
            warn!(
                "{backend}: {} (next try: {next_try})",
                printable(&state.phase.to_string())
            );
            for line in &state.output {
                warn!("{backend} printed: {}", printable(line));
            }
        }
        Phase::NoDefinition => warn!("{backend}: no service definition, so it cannot be started"),
        // Each per cent would be a line.
        Phase::Pulling { percent: Some(_) } => {}
        phase => info!("{backend}: {phase}"),
    }
}

const PHASES: [&str; 10] = [
    "waiting",
    "pulling",
    "starting",
    "checking",
    "foreign",
    "running",
    "unused",
    "retiring",
    "failed",
    "no-definition",
];

fn label(phase: &Phase) -> &'static str {
    match phase {
        Phase::Waiting => "waiting",
        Phase::Pulling { .. } => "pulling",
        Phase::Starting => "starting",
        Phase::Checking => "checking",
        Phase::Foreign => "foreign",
        Phase::Running => "running",
        Phase::Unused { .. } => "unused",
        Phase::Retiring => "retiring",
        Phase::Failed { .. } => "failed",
        Phase::NoDefinition => "no-definition",
    }
}
