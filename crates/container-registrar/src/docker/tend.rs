//! What is advertised of a container: its own check, if it has one, asked in a task of its own, and the decision that
//! follows from that, from what the engine says of it, and from how long the engine has been silent.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use mayfly_core::address::{Address, InstanceId};
use mayfly_core::keys::Key;
use mayfly_core::labels;
use mayfly_core::records::{self, Instance, InstanceState};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::container::Container;
use super::leftover::Origin;
use crate::args::Keeping;
use crate::pulse::{Life, Pulse};

/// A container that was to end and runs on is taken for one that stays after three times its stop timeout and this.
const LONG_AFTER: Duration = Duration::from_secs(30);

/// What a container's own check has found: which asking of it, and whether it lives.
#[derive(Debug)]
pub struct Verdict {
    /// The container.
    pub id: String,
    asking: u64,
    alive: bool,
}

/// A signal that the engine has sent.
#[derive(Debug, Clone)]
pub struct Signal {
    /// Its number.
    pub number: String,
    /// When, by the engine's clock.
    pub at: SystemTime,
    /// When we learnt of it.
    pub seen: Instant,
}

/// A container that is looked after.
#[derive(Debug)]
pub struct Tended {
    /// What the engine says of it.
    pub container: Container,
    /// Where it is asked and advertised; unknown while the host's address is.
    pub address: Option<Address>,
    /// What is advertised of it.
    pub advertised: Option<InstanceState>,
    asking: u64,
    /// Asks it, until this is dropped.
    _asker: JoinSet<()>,
    alive: Option<bool>,
}

impl Tended {
    /// Begins to look after a container; its verdicts go to `verdicts` with the number `asking`.
    pub fn new(
        container: Container,
        host: Option<IpAddr>,
        keeping: &Keeping,
        asking: u64,
        verdicts: &mpsc::UnboundedSender<Verdict>,
    ) -> Self {
        let address = address(&container, host);
        let mut asker = JoinSet::new();
        if let (Some(check), Some(address)) = (container.labelled.check.clone(), address) {
            let mut pulse = Pulse::new(check, container.labelled.protocol, keeping);
            let (id, verdicts) = (container.id.clone(), verdicts.clone());
            let name = format!("{} in {}", container.labelled.backend, container.name);
            asker.spawn(async move {
                loop {
                    pulse.wait().await;
                    let alive = match pulse.ask(&name, address).await {
                        Life::Alive => true,
                        Life::Dead => false,
                        Life::Undecided => continue,
                    };
                    let id = id.clone();
                    if verdicts.send(Verdict { id, asking, alive }).is_err() {
                        return;
                    }
                }
            });
        }
        Self {
            container,
            address,
            advertised: None,
            asking,
            _asker: asker,
            alive: None,
        }
    }

    /// Takes what the engine says now; `false` when that is another life of the container, or another place.
    pub fn update(&mut self, container: &Container, host: Option<IpAddr>) -> bool {
        let same = self.container.started == container.started
            && self.container.labelled == container.labelled
            && self.address == address(container, host);
        if same {
            self.container.clone_from(container);
        }
        same
    }

    /// Takes a verdict; one of an earlier asking is nothing.
    pub fn take(&mut self, verdict: &Verdict) {
        if verdict.asking == self.asking {
            self.alive = Some(verdict.alive);
        }
    }

    /// Until when a signal makes it draining, if it does.
    pub fn ending(&self, signals: &[Signal]) -> Option<Instant> {
        let container = &self.container;
        let ending = signals
            .iter()
            .filter(|signal| signal.at >= container.started && container.ends_by(&signal.number));
        ending
            .map(|signal| signal.seen + 3 * container.stop_timeout + LONG_AFTER)
            .max()
    }

    /// What is to be advertised. `ending`: it was told to end. `blind`: the engine has been out of reach for too long.
    pub fn state(&self, ending: bool, blind: bool) -> Option<InstanceState> {
        let has_check = self.container.labelled.check.is_some();
        let facts = Facts {
            healthy: self.container.healthy,
            alive: if has_check { self.alive } else { Some(true) },
            advertised: self.advertised.is_some(),
            ending,
            // Its own check still says how it is.
            blind: blind && !has_check,
        };
        facts.state()
    }

    /// The entry in etcd.
    pub fn entry(&self, state: InstanceState, origin: &Origin) -> Option<(Key, Vec<u8>)> {
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
        Some((self.key()?, records::to_json(&record)))
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

/// What decides.
#[derive(Debug, Clone, Copy)]
struct Facts {
    /// What the engine's check says; `None` without one.
    healthy: Option<bool>,
    /// What the container's own check says; `None` while that is not known.
    alive: Option<bool>,
    advertised: bool,
    ending: bool,
    blind: bool,
}

impl Facts {
    fn state(self) -> Option<InstanceState> {
        let good = match (self.healthy, self.alive) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (_, alive) => alive,
        };
        if self.ending {
            // Also one that somebody else has advertised a moment ago: of it nothing is known yet.
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
        let facts = Facts {
            healthy: of(0),
            alive: of(1),
            advertised: is(2),
            ending: is(3),
            blind: is(4),
        };
        let told = match facts.state() {
            None => "out",
            Some(InstanceState::Up) => "up",
            Some(InstanceState::Draining) => "draining",
        };
        assert_eq!(told, expected, "{facts:?}");
    }

    #[tokio::test]
    async fn a_signal_counts_for_the_life_that_it_was_sent_to_and_not_for_ever() {
        let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
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
            started,
            stop_signal: 15,
            stop_timeout: Duration::from_secs(4),
        };
        let keeping = Keeping {
            ttl: Duration::from_secs(15),
            check_interval: Duration::from_secs(2),
            check_timeout: Duration::from_secs(1),
            fall: 3,
            rise: 2,
        };
        let tended = Tended::new(container, None, &keeping, 1, &mpsc::unbounded_channel().0);
        let seen = Instant::now();
        let signal = |number: &str, at: SystemTime| Signal {
            number: number.to_owned(),
            at,
            seen,
        };
        let later = started + Duration::from_secs(5);
        let until = Some(seen + Duration::from_secs(42));
        assert_eq!(tended.ending(&[signal("15", later)]), until);
        assert_eq!(tended.ending(&[signal("15", later), signal("1", later)]), until);
        assert_eq!(tended.ending(&[signal("1", later)]), None);
        assert_eq!(
            tended.ending(&[signal("15", started - Duration::from_secs(1))]),
            None
        );
        assert_eq!(tended.ending(&[]), None);
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
        // Told to end: draining whatever a check says, but nothing new of one that is known to be bad.
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
