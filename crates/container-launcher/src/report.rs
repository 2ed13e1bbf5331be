//! Reports what the launcher does: in its status record, its metrics and its log.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use mayfly_core::launching::{Backend, GivenUp, Launching, Phase};
use mayfly_core::shorten::{self, counted};
use mayfly_core::version::BackendId;
use mayfly_daemon::metrics::{metric, show};
use mayfly_daemon::output::printable;
use mayfly_daemon::status::StatusReporter;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tracing::{info, warn};

use crate::plan::Doing;

/// Backends that the status record holds at most: etcd takes 1.5 MB, each backend up to ten lines
/// of output.
const MOST: usize = 300;
/// Longest reason of a request that was given up, in characters.
const LONGEST: usize = 400;
/// Bytes of output that it holds at most, of all backends together.
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
    pub fn register(registry: &mut Registry) -> Self {
        Self {
            leading: metric(
                registry,
                "mayfly_launcher_leading",
                "1 while this launcher leads, 0 while another one does",
            ),
            units: metric(
                registry,
                "mayfly_launcher_units",
                "Containers, or Swarm services, made by launchers of this key prefix",
            ),
            held_back: metric(
                registry,
                "mayfly_launcher_held_back",
                "Containers that would be retired, but are withheld",
            ),
            engine_connected: metric(registry, "mayfly_engine_connected", "1 while the engine answers"),
            backends: metric(
                registry,
                "mayfly_launcher_backends",
                "Backends that the launcher manages, by phase",
            ),
            started: metric(
                registry,
                "mayfly_launcher_started",
                "Containers that were started",
            ),
            failed: metric(
                registry,
                "mayfly_launcher_failed",
                "Containers that could not be started, or failed later",
            ),
            removed: metric(
                registry,
                "mayfly_launcher_removed",
                "Containers that were stopped and removed",
            ),
        }
    }
}

/// Reports the state, and logs what has changed.
#[derive(Debug)]
pub struct LauncherReport {
    status: StatusReporter,
    metrics: Metrics,
    /// The phases as they were reported last.
    phases: BTreeMap<BackendId, Phase>,
    guard: Option<String>,
}

impl LauncherReport {
    pub fn new(status: StatusReporter, metrics: Metrics) -> Self {
        Self {
            status,
            metrics,
            phases: BTreeMap::new(),
            guard: None,
        }
    }

    /// Reports what the leader does, and which requests it has given up. `held_back` units would be
    /// retired but for `guard`.
    pub fn leading(
        &mut self,
        backends: BTreeMap<BackendId, Backend>,
        given_up: &BTreeMap<BackendId, GivenUp>,
        units: usize,
        guard: Option<&str>,
        held_back: usize,
    ) {
        for (backend, state) in &backends {
            if self.phases.get(backend) != Some(&state.phase) {
                log(backend, state);
            }
        }
        for (backend, phase) in &self.phases {
            if !backends.contains_key(backend) {
                info!("{backend}: {}", farewell(phase));
            }
        }
        // Without containers there is nothing to retire.
        let guard = guard.filter(|_| units > 0).map(|reason| match held_back {
            0 => reason.to_owned(),
            held_back => {
                let containers = counted(held_back, "container");
                let seem = if held_back == 1 { "seems" } else { "seem" };
                format!("{reason}, so the launcher keeps {containers} that {seem} unneeded")
            }
        });
        if self.guard != guard {
            match &guard {
                Some(guard) => {
                    let nothing = match held_back {
                        0 => ", so the launcher retires nothing",
                        _ => "",
                    };
                    warn!(
                        "{guard}{nothing}. If the loss was intended, run `mayfly confirm \
                         container-launcher`"
                    )
                }
                None => info!("the launcher resumes retiring unneeded containers"),
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
            given_up: shortened(given_up),
        };
        self.status.update(|status| launching.put(status));
        self.phases = backends
            .into_iter()
            .map(|(backend, state)| (backend, state.phase))
            .collect();
        self.guard = guard;
    }

    /// Reports that another launcher leads, or none.
    pub fn standing_by(&mut self) {
        self.set(false, &BTreeMap::new(), 0, 0);
        self.status.update(|status| Launching::default().put(status));
        (self.phases, self.guard) = (BTreeMap::new(), None);
    }

    fn set(&self, leading: bool, backends: &BTreeMap<BackendId, Backend>, units: usize, held_back: usize) {
        self.metrics.leading.set(leading.into());
        show(&self.metrics.units, units);
        show(&self.metrics.held_back, held_back);
        let mut counts: BTreeMap<&'static str, usize> = Phase::NAMES.map(|phase| (phase, 0)).into();
        for state in backends.values() {
            *counts.entry(state.phase.name()).or_default() += 1;
        }
        for (phase, count) in counts {
            show(&self.metrics.backends.get_or_create(&OfPhase { phase }), count);
        }
    }
}

/// The state of a backend, without its output if that no longer fits.
fn fitting(state: &Backend, room: &mut usize) -> Backend {
    let mut state = state.clone();
    let bytes = state.output.iter().map(String::len).sum();
    match room.checked_sub(bytes) {
        Some(left) => *room = left,
        None => state.output.clear(),
    }
    state
}

/// The newest requests that were given up, as many as the record has room for, with shortened
/// reasons.
fn shortened(given_up: &BTreeMap<BackendId, GivenUp>) -> BTreeMap<String, GivenUp> {
    let mut newest: Vec<(&BackendId, &GivenUp)> = given_up.iter().collect();
    newest.sort_by_key(|(_, given_up)| Reverse(given_up.revision));
    let shortened = newest.into_iter().take(MOST).map(|(backend, given_up)| {
        let mut given_up = given_up.clone();
        given_up.reason = shorten::shortened(&given_up.reason, LONGEST);
        (backend.to_string(), given_up)
    });
    shortened.collect()
}

fn log(backend: &BackendId, state: &Backend) {
    match &state.phase {
        Phase::Failed { .. } => {
            let next_try = match &state.next_try {
                Some(at) => format!("at {at}"),
                None => "once this has changed".to_owned(),
            };
            warn!(
                "{backend}: {} (next try {next_try})",
                printable(&state.phase.to_string())
            );
            for line in &state.output {
                warn!("a container of {backend} printed: {}", printable(line));
            }
        }
        Phase::NoDefinition => warn!(
            "{backend}: cannot be started, because service {} has no definition; add one to the \
             directory given to environment-registrar with --services",
            backend.service
        ),
        Phase::Waiting => {
            info!("{backend}: will be started soon, unless another program starts an instance")
        }
        // Otherwise each percent would be a line.
        Phase::Pulling { percent: Some(_) } => {}
        Phase::Pulling { percent: None } => info!("{backend}: pulling the image"),
        Phase::Checking => info!("{backend}: the container runs, but is not registered yet"),
        phase => info!("{backend}: {phase}"),
    }
}

/// The log line about a unit that has failed, by what was being done with it. The phase of its
/// backend need not show the failure: the first new try follows at once.
pub fn failure(name: &str, doing: Option<&Doing>, reason: &str) -> String {
    let what = match doing {
        Some(Doing::Clearing) => "removed",
        _ => "cannot start",
    };
    format!("{what} `{name}`: {}", printable(reason))
}

/// The last log line about a backend that the launcher no longer manages, by its last phase.
fn farewell(phase: &Phase) -> &'static str {
    match phase {
        // The launcher never started any.
        Phase::Waiting | Phase::Foreign | Phase::NoDefinition => {
            "the launcher does not manage this backend: another program runs it, or no environment \
             needs it"
        }
        _ => "no container of this backend is left, so the launcher no longer manages it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Progress;

    #[test]
    fn only_a_backend_that_was_managed_is_no_longer_managed() {
        for phase in [Phase::Waiting, Phase::Foreign, Phase::NoDefinition] {
            assert!(!farewell(&phase).contains("no longer"), "{phase}");
        }
        for phase in [Phase::Running, Phase::Retiring] {
            assert_eq!(
                farewell(&phase),
                "no container of this backend is left, so the launcher no longer manages it",
                "{phase}"
            );
        }
    }

    #[test]
    fn a_failure_names_the_unit_and_the_reason() {
        for (doing, expected) in [
            (Some(Doing::Clearing), "removed `x-1`: exited with 3\\n"),
            (
                Some(Doing::Starting(Progress::Starting)),
                "cannot start `x-1`: exited with 3\\n",
            ),
        ] {
            assert_eq!(failure("x-1", doing.as_ref(), "exited with 3\n"), expected);
        }
    }

    #[test]
    fn the_newest_requests_that_were_given_up_are_reported_briefly() {
        let given_up = (1..).take(MOST + 1).map(|revision: i64| {
            let backend: BackendId = format!("x@{revision}").parse().unwrap();
            let reason = "ä".repeat(LONGEST + 1);
            (backend, GivenUp { revision, reason })
        });
        let shortened = shortened(&given_up.collect());
        assert_eq!(shortened.len(), MOST);
        assert!(!shortened.contains_key("x@1"));
        assert_eq!(shortened["x@2"].reason, format!("{}...", "ä".repeat(LONGEST)));
    }
}
