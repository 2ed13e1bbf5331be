//! In which state a container is to be registered. That follows from its own check, which runs in a
//! task of its own, from what the engine says about it, and from how long the engine has been
//! silent.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use mayfly_core::address::{Address, InstanceId};
use mayfly_core::check;
use mayfly_core::failing::Failing;
use mayfly_core::keys::Key;
use mayfly_core::labels;
use mayfly_core::records::{Instance, InstanceState};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::container::Container;
use super::leftover::RecordOrigin;
use crate::args::Keeping;
use crate::check::{CheckRequest, SET_BY_LABEL};
use crate::probe::{Liveness, Probe};

/// A container with a stop timeout that was sent its stop signal and still runs is up again after
/// three times its stop timeout and this.
const AFTER_TIMEOUT: Duration = Duration::from_secs(30);
/// One without is up again after this. The engine does not say how long it waits before it kills a
/// container, and `docker stop -t` may let it wait for minutes. One that gets requests while it ends
/// fails them; one that is left out though it ignores its stop signal is rare, and its siblings
/// answer.
pub(super) const LONG_AFTER: Duration = Duration::from_secs(300);

/// The result of a container's own check.
#[derive(Debug)]
pub struct Verdict {
    pub id: String,
    /// The number of the probe.
    probe: u64,
    /// `None` where that has not changed.
    alive: Option<bool>,
    complaint: Option<String>,
}

/// A signal that the engine has sent.
#[derive(Debug, Clone)]
pub struct Signal {
    pub number: String,
    /// When, by the engine's clock.
    pub at: SystemTime,
    /// When we received it.
    pub seen: Instant,
}

/// A container with its check.
#[derive(Debug)]
pub struct CheckedContainer {
    /// What the engine says about it.
    pub container: Container,
    /// Where it is checked and registered; unknown while the host's address is.
    pub address: Option<Address>,
    /// The state in which it is registered, if it is.
    pub advertised: Option<InstanceState>,
    /// The number of its probe.
    number: u64,
    /// The task that checks it, until this is dropped.
    _probe: JoinSet<()>,
    alive: Option<bool>,
    /// Why it does not pass its own check.
    complaint: Option<String>,
}

impl CheckedContainer {
    /// Begins to check a container; the results go to `verdicts` with the number of this probe.
    pub fn new(
        container: Container,
        host: Option<IpAddr>,
        keeping: &Keeping,
        number: u64,
        verdicts: &mpsc::UnboundedSender<Verdict>,
    ) -> Self {
        let address = address(&container, host);
        let mut task = JoinSet::new();
        if let (Some(check), Some(address)) = (container.labelled.check.clone(), address) {
            let labelled = &container.labelled;
            let question = CheckRequest {
                check,
                host: check::host(labelled.check_host.as_ref(), &labelled.backend.service),
                host_set_by: SET_BY_LABEL,
                protocol: labelled.protocol,
            };
            let mut probe = Probe::new(question, keeping);
            let (id, verdicts) = (container.id.clone(), verdicts.clone());
            let name = format!("{} in container {}", container.labelled.backend, container.name);
            task.spawn(async move {
                let mut reported = None;
                loop {
                    probe.wait().await;
                    let alive = match probe.ask(&name, address).await {
                        Liveness::Alive => Some(true),
                        Liveness::Dead => Some(false),
                        Liveness::Undecided => None,
                    };
                    let complaint = probe.complaint().map(str::to_owned);
                    if alive.is_none() && complaint == reported {
                        continue;
                    }
                    reported.clone_from(&complaint);
                    let verdict = Verdict {
                        id: id.clone(),
                        probe: number,
                        alive,
                        complaint,
                    };
                    if verdicts.send(verdict).is_err() {
                        return;
                    }
                }
            });
        }
        Self {
            container,
            address,
            advertised: None,
            number,
            _probe: task,
            alive: None,
            complaint: None,
        }
    }

    /// Takes what the engine says now; `false` when the container has restarted or has another
    /// address or other labels.
    pub fn update(&mut self, container: &Container, host: Option<IpAddr>) -> bool {
        let same = self.container.started == container.started
            && self.container.labelled == container.labelled
            && self.address == address(container, host);
        if same {
            self.container.clone_from(container);
        }
        same
    }

    /// Takes a verdict, unless it is of an earlier probe.
    pub fn take(&mut self, verdict: &Verdict) {
        if verdict.probe == self.number {
            self.alive = verdict.alive.or(self.alive);
            self.complaint.clone_from(&verdict.complaint);
        }
    }

    /// Until when a signal makes it draining, if it does.
    pub fn ending(&self, signals: &[Signal]) -> Option<Instant> {
        let container = &self.container;
        let ending = signals
            .iter()
            .filter(|signal| signal.at >= container.started && container.ends_by(&signal.number));
        let timeout = container.stop_timeout;
        let patience = timeout.map_or(LONG_AFTER, |timeout| 3 * timeout + AFTER_TIMEOUT);
        ending.map(|signal| signal.seen + patience).max()
    }

    /// The state to register, if any. `ending`: it was sent its stop signal. `blind`: the engine
    /// has been out of reach for too long.
    pub fn state(&self, ending: bool, blind: bool) -> Option<InstanceState> {
        let has_check = self.container.labelled.check.is_some();
        let facts = ContainerHealth {
            healthy: self.container.healthy,
            alive: if has_check { self.alive } else { Some(true) },
            advertised: self.advertised.is_some(),
            ending,
            // Its own check still shows how it is.
            blind: blind && !has_check,
        };
        facts.state()
    }

    /// Why it is not registered, if a check keeps it out.
    pub fn failing(&self) -> Option<Failing> {
        let unwell = self.container.unwell.as_ref();
        let reason = unwell
            .or(self.complaint.as_ref())
            .filter(|_| self.advertised.is_none())?;
        Some(Failing {
            backend: self.container.labelled.backend.clone(),
            address: self.address?,
            container: Some(self.container.name.clone()),
            reason: reason.clone(),
        })
    }

    pub fn entry(&self, state: InstanceState, origin: &RecordOrigin) -> Option<(Key, Instance)> {
        let (address, labelled) = (self.address?, &self.container.labelled);
        let note = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let own = [
            note(labels::CONTAINER, &self.container.id),
            note("name", &self.container.name),
        ];
        let record = Instance {
            address: address.into(),
            state,
            protocol: labelled.protocol,
            weight: labelled.weight,
            shared: false,
            metadata: own.into_iter().chain(origin.metadata()).collect(),
        };
        Some((self.key()?, record))
    }

    /// The key of that entry.
    pub fn key(&self) -> Option<Key> {
        let backend = self.container.labelled.backend.clone();
        Some(Key::Instance(backend, InstanceId::of(&self.address?)))
    }
}

fn address(container: &Container, host: Option<IpAddr>) -> Option<Address> {
    Address::new(container.ip.or(host)?, container.port).ok()
}

#[derive(Debug, Clone, Copy)]
struct ContainerHealth {
    /// What the engine's check says; `None` without one.
    healthy: Option<bool>,
    /// What the container's own check says; `None` while that is not known.
    alive: Option<bool>,
    advertised: bool,
    ending: bool,
    blind: bool,
}

impl ContainerHealth {
    fn state(self) -> Option<InstanceState> {
        let good = match (self.healthy, self.alive) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (_, alive) => alive,
        };
        if self.ending {
            // Also one that another registrar registered a moment ago: nothing is known about it
            // yet.
            return (self.advertised || good != Some(false)).then_some(InstanceState::Draining);
        }
        (good == Some(true) && !self.blind).then_some(InstanceState::Up)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A letter for each fact, in their order: `+` yes, `-` no, `?` not known.
    fn check(facts: &str, expected: &str) {
        let of = |at: usize| match facts.as_bytes()[at] {
            b'+' => Some(true),
            b'-' => Some(false),
            _ => None,
        };
        let is = |at: usize| of(at) == Some(true);
        let facts = ContainerHealth {
            healthy: of(0),
            alive: of(1),
            advertised: is(2),
            ending: is(3),
            blind: is(4),
        };
        let decided = match facts.state() {
            None => "out",
            Some(InstanceState::Up) => "up",
            Some(InstanceState::Draining) => "draining",
        };
        assert_eq!(decided, expected, "{facts:?}");
    }

    fn started() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1000)
    }

    /// Probe 1 of a container without a check of its own.
    fn checked() -> CheckedContainer {
        let labels = [
            (labels::SERVICE, "backend"),
            (labels::VERSION, "1"),
            (labels::PORT, "80"),
        ];
        let container = Container {
            id: "0f".to_owned(),
            name: "b-1".to_owned(),
            labelled: labels::read(labels, "b", &[]).unwrap().unwrap(),
            ip: Some([10, 0, 0, 2].into()),
            port: 80,
            healthy: None,
            unwell: None,
            started: started(),
            stop_signal: 15,
            stop_timeout: Some(Duration::from_secs(4)),
        };
        let keeping = Keeping {
            ttl: Duration::from_secs(15),
            check_interval: Duration::from_secs(2),
            check_timeout: Duration::from_secs(1),
            fall: 3,
            rise: 2,
        };
        CheckedContainer::new(container, None, &keeping, 1, &mpsc::unbounded_channel().0)
    }

    #[tokio::test]
    async fn a_signal_counts_until_the_container_restarts_and_not_forever() {
        let (mut checked, started) = (checked(), started());
        let seen = Instant::now();
        let signal = |number: &str, at: SystemTime| Signal {
            number: number.to_owned(),
            at,
            seen,
        };
        let later = started + Duration::from_secs(5);
        let until = Some(seen + Duration::from_secs(42));
        assert_eq!(checked.ending(&[signal("15", later)]), until);
        assert_eq!(checked.ending(&[signal("15", later), signal("1", later)]), until);
        assert_eq!(checked.ending(&[signal("1", later)]), None);
        assert_eq!(
            checked.ending(&[signal("15", started - Duration::from_secs(1))]),
            None
        );
        assert_eq!(checked.ending(&[]), None);
        // Without a timeout of its own, it may be stopped by `docker stop -t 90`.
        checked.container.stop_timeout = None;
        let until = Some(seen + Duration::from_secs(300));
        assert_eq!(checked.ending(&[signal("15", later)]), until);
    }

    #[tokio::test]
    async fn the_reason_is_reported_while_it_is_not_registered() {
        let mut checked = checked();
        assert_eq!(checked.failing(), None);
        let verdict = |alive, complaint: Option<&str>| Verdict {
            id: "0f".to_owned(),
            probe: 1,
            alive,
            complaint: complaint.map(str::to_owned),
        };
        checked.take(&verdict(None, Some("/ answers 400")));
        let reason = checked.failing().unwrap().to_string();
        assert_eq!(
            reason,
            "backend@1 at 10.0.0.2:80 (b-1) is not registered: / answers 400"
        );
        // What the engine says comes first, and a verdict of an earlier probe does not count.
        checked.container.unwell = Some("HEALTHCHECK: starting".to_owned());
        checked.take(&Verdict {
            probe: 0,
            ..verdict(Some(true), None)
        });
        assert_eq!(checked.failing().unwrap().reason, "HEALTHCHECK: starting");
        checked.advertised = Some(InstanceState::Up);
        assert_eq!(checked.failing(), None);
    }

    #[test]
    fn decisions() {
        // Without a check of the engine's.
        check("?+---", "up");
        check("??---", "out");
        check("?-+--", "out");
        // With one, both have to be good.
        check("++---", "up");
        check("-++--", "out");
        check("+-+--", "out");
        check("+?---", "out");
        // Sent its stop signal: draining whatever a check says, unless it was out and is known to
        // be bad.
        check("?+++-", "draining");
        check("?-++-", "draining");
        check("-+++-", "draining");
        check("??-+-", "draining");
        check("?--+-", "out");
        check("-+-+-", "out");
        // The engine is silent.
        check("?++-+", "out");
        check("?++++", "draining");
    }
}
