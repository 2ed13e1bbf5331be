//! Which environments were used, and when to report that to etcd: pure decisions, with the time as
//! an argument. HAProxy notes the first request for an environment in a map; its row stays until
//! the use was reported, so that neither a restart of this program nor an outage of etcd loses it.
//! Using an environment uses those that it extends, too.

pub mod last;
pub mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use mayfly_core::keys::Key;
use mayfly_core::names::EnvironmentName;
use mayfly_core::records::EXTENDS_LIMIT;
use mayfly_core::records::{Environment, Record};
use mayfly_daemon::retry::Backoff;
use mayfly_daemon::store::LeaseId;
use mayfly_daemon::watch::{Change, Stored};
use tokio::time::Instant;

use last::{LastUses, Moments};

/// Uses are reported four times in an idle time,
const SHARE: u32 = 4;
/// but not more often than this: the lease of the shortest idle time lives for two seconds.
const SHORTEST: Duration = Duration::from_millis(500);
/// How often to read what HAProxy has noted. If HAProxy is killed, what was not read is lost.
const READ: Duration = Duration::from_secs(1);

/// An environment that ends when it is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idler {
    pub environment: Environment,
    /// The revision at which that was last put.
    pub mod_revision: i64,
    /// The lease that it hangs on.
    pub lease: Option<LeaseId>,
}

/// One report to etcd.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Round {
    /// The environments that requests came for.
    pub used: BTreeSet<EnvironmentName>,
    /// Those to let live on: of the used ones and of those that they extend, the ones with an idle
    /// time.
    pub touch: Vec<Idler>,
}

/// What is known of the use of environments.
#[derive(Debug)]
pub struct Uses {
    longest: Duration,
    /// Every environment, with the one that it extends.
    parents: BTreeMap<EnvironmentName, Option<EnvironmentName>>,
    idlers: BTreeMap<EnvironmentName, Idler>,
    /// How many of them have each idle time.
    spans: BTreeMap<Duration, usize>,
    /// Used, and not reported yet.
    pending: BTreeSet<EnvironmentName>,
    /// When the next use may be reported.
    not_before: BTreeMap<EnvironmentName, Instant>,
    backoff: Backoff,
    last: LastUses,
}

impl Uses {
    /// Nothing is known. A use is reported at most once in `longest`, or in a part of the idle time
    /// if that is shorter.
    pub fn new(longest: Duration, last: LastUses) -> Self {
        Self {
            longest,
            parents: BTreeMap::new(),
            idlers: BTreeMap::new(),
            spans: BTreeMap::new(),
            pending: BTreeSet::new(),
            not_before: BTreeMap::new(),
            backoff: Backoff::default(),
            last,
        }
    }

    /// Takes a change of etcd.
    pub fn take(&mut self, change: &Change) {
        match change {
            Change::Put(Stored {
                record: Record::Environment(environment),
                revision,
                lease,
            }) => {
                let name = &environment.name;
                self.parents.insert(name.clone(), environment.extends.clone());
                self.is_no_idler(name);
                if let Some(idle) = environment.idle {
                    let idler = Idler {
                        environment: environment.clone(),
                        mod_revision: revision.changed,
                        lease: *lease,
                    };
                    self.idlers.insert(name.clone(), idler);
                    *self.spans.entry(idle.span()).or_default() += 1;
                }
            }
            Change::Gone(Key::Environment(name)) => {
                self.is_no_idler(name);
                self.parents.remove(name);
                self.pending.remove(name);
                self.not_before.remove(name);
                self.last.gone(name);
            }
            _ => {}
        }
    }

    fn is_no_idler(&mut self, name: &EnvironmentName) {
        let Some(idle) = self.idle(name) else { return };
        self.idlers.remove(name);
        if let Some(count) = self.spans.get_mut(&idle) {
            *count -= 1;
            if *count == 0 {
                self.spans.remove(&idle);
            }
        }
    }

    /// How long to wait until HAProxy is to be asked again.
    pub fn pause(&self) -> Duration {
        let shortest = self.spans.keys().next();
        // Without idle times there is nothing to read, but for rows of environments that are gone.
        shortest.map_or(self.longest, |idle| {
            (*idle / SHARE / 2).clamp(SHORTEST / 2, READ).min(self.longest)
        })
    }

    /// Takes what HAProxy has noted, and returns the rows to take away: those whose environments
    /// are gone, and those that have been noted long ago and wait for no report.
    pub fn note(
        &mut self,
        noted: &BTreeSet<EnvironmentName>,
        now: Instant,
        clock: SystemTime,
    ) -> BTreeSet<EnvironmentName> {
        let mut old = BTreeSet::new();
        self.last.there_are(noted);
        for name in noted {
            if !self.parents.contains_key(name) {
                old.insert(name.clone());
                continue;
            }
            let is_old = self.last.note(name, line(&self.parents, name), now, clock);
            if line(&self.parents, name).any(|name| self.idlers.contains_key(name)) {
                self.pending.insert(name.clone());
            } else if is_old {
                old.insert(name.clone());
            }
        }
        old
    }

    /// These rows were taken away.
    pub fn forgotten(&mut self, names: &BTreeSet<EnvironmentName>) {
        self.last.forgotten(names);
    }

    /// When the environments that exist were last used.
    pub fn last(&self) -> Moments {
        self.last.latest(|name| self.parents.contains_key(name))
    }

    /// What is to be reported now; `None` when nothing is.
    pub fn due(&self, now: Instant) -> Option<Round> {
        let is_due = |name: &&EnvironmentName| self.not_before.get(*name).is_none_or(|at| *at <= now);
        let used: BTreeSet<EnvironmentName> = self.pending.iter().filter(is_due).cloned().collect();
        let names: BTreeSet<&EnvironmentName> = used.iter().flat_map(|name| self.line(name)).collect();
        let touch = names.into_iter().filter_map(|name| self.idlers.get(name));
        let touch = touch.cloned().collect();
        (!used.is_empty()).then_some(Round { used, touch })
    }

    /// The round that began at `begun` came to its end.
    pub fn reported(&mut self, round: &Round, begun: Instant) {
        self.backoff.reset();
        for name in &round.used {
            self.pending.remove(name);
            if self.parents.contains_key(name) {
                self.not_before.insert(name.clone(), begun + self.period(name));
            }
        }
    }

    /// The round failed: it is tried again. Gives the time until then.
    pub fn failed(&mut self, round: &Round, now: Instant) -> Duration {
        let delay = self.backoff.next_delay();
        for name in round.used.iter().filter(|name| self.pending.contains(*name)) {
            self.not_before.insert(name.clone(), now + delay);
        }
        delay
    }

    fn line<'a>(&'a self, name: &'a EnvironmentName) -> impl Iterator<Item = &'a EnvironmentName> {
        line(&self.parents, name)
    }

    fn idle(&self, name: &EnvironmentName) -> Option<Duration> {
        Some(self.idlers.get(name)?.environment.idle?.span())
    }

    /// How often the use of an environment is reported.
    fn period(&self, name: &EnvironmentName) -> Duration {
        let shortest = self.line(name).filter_map(|name| self.idle(name)).min();
        shortest.map_or(self.longest, |idle| {
            (idle / SHARE).max(SHORTEST).min(self.longest)
        })
    }
}

/// An environment and those that it extends.
fn line<'a>(
    parents: &'a BTreeMap<EnvironmentName, Option<EnvironmentName>>,
    name: &'a EnvironmentName,
) -> impl Iterator<Item = &'a EnvironmentName> {
    std::iter::successors(Some(name), |name| parents.get(*name)?.as_ref()).take(EXTENDS_LIMIT + 1)
}

#[cfg(test)]
mod tests;
