//! Which instances call others without saying which environment they mean: pure decisions, with the
//! time as an argument. HAProxy counts such calls by the address that they come from; here they
//! become calls of a service at a version within the last ten minutes. Whose address it is is
//! decided when the counter is read, since addresses are given on.

pub mod report;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use mayfly_core::lost::{Caller, LostHeader, MOST};
use mayfly_core::routing::Routing;
use mayfly_core::version::BackendId;
use tokio::time::Instant;

use crate::haproxy::answers::Process;
use crate::haproxy::calls::CallTable;

/// For how long a call counts,
const WINDOW: Duration = Duration::from_secs(600);
/// to this accuracy.
const STEP: Duration = Duration::from_secs(10);
/// Processes whose counters are remembered: a reload replaces one by another.
const MOST_PROCESSES: usize = 16;

/// The calls of one caller within the window: how many in which step.
#[derive(Debug, Default)]
struct Window(VecDeque<(u64, u64)>);

impl Window {
    fn add(&mut self, step: u64, calls: u64) {
        match self.0.back_mut() {
            Some((last, sum)) if *last == step => *sum = sum.saturating_add(calls),
            _ => self.0.push_back((step, calls)),
        }
    }

    fn forget_before(&mut self, step: u64) {
        while self.0.front().is_some_and(|(first, _)| *first < step) {
            self.0.pop_front();
        }
    }

    fn sum(&self) -> u64 {
        self.0
            .iter()
            .fold(0, |sum, (_, calls)| sum.saturating_add(*calls))
    }
}

/// What a window belongs to. An address that several services share is one caller, whichever they
/// are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum WindowOwner {
    As(Caller),
    By(IpAddr),
}

/// The calls without an environment that instances have made.
#[derive(Debug)]
pub struct LostCalls {
    begun: Instant,
    /// The same in seconds since 1970, as HAProxy says when it started.
    since: u64,
    /// The counters as they were read last, by process, the one that was read last at the end.
    seen: Vec<(Process, CallTable)>,
    windows: BTreeMap<WindowOwner, (Caller, Window)>,
}

impl LostCalls {
    /// Nothing is known. What a process that was started before `since` has counted until it is
    /// read first is nobody's: the address may have been another instance's then.
    pub fn new(now: Instant, since: u64) -> Self {
        Self {
            begun: now,
            since,
            seen: Vec::new(),
            windows: BTreeMap::new(),
        }
    }

    /// Whether any call is known within the window.
    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }

    /// Takes the counters of the processes, and gives the calls that are new, by caller. Those of
    /// clients that are no instance belong to no service.
    pub fn take(
        &mut self,
        counters: Vec<(Process, CallTable)>,
        routing: &Routing,
        now: Instant,
    ) -> Vec<(Caller, u64)> {
        let mut new: BTreeMap<IpAddr, u64> = BTreeMap::new();
        let is_first = self.seen.is_empty();
        for (process, counted) in counters {
            let place = self.seen.iter().position(|(seen, _)| *seen == process);
            let before = place.map(|place| self.seen.remove(place).1).unwrap_or_default();
            for (address, calls) in &counted {
                let added = match before.get(address) {
                    None if is_first && process.started < self.since => 0,
                    None => *calls,
                    // An address that HAProxy had forgotten begins at 0 again.
                    Some(before) => calls.checked_sub(*before).unwrap_or(*calls),
                };
                if added > 0 {
                    let sum = new.entry(*address).or_default();
                    *sum = sum.saturating_add(added);
                }
            }
            self.seen.push((process, counted));
        }
        let surplus = self.seen.len().saturating_sub(MOST_PROCESSES);
        self.seen.drain(..surplus);
        let step = self.step(now);
        let callers: Vec<(Caller, u64)> = callers(&new, routing).collect();
        for (caller, calls) in &callers {
            let known = match caller.address() {
                None => WindowOwner::As(caller.clone()),
                Some(address) => WindowOwner::By(address),
            };
            let (as_now, window) = self
                .windows
                .entry(known)
                .or_insert_with(|| (caller.clone(), Window::default()));
            as_now.clone_from(caller);
            window.add(step, *calls);
        }
        callers
    }

    fn step(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.begun).as_secs() / STEP.as_secs()
    }

    /// Forgets the calls that are older than the window.
    pub fn forget(&mut self, now: Instant) {
        let first = self.step(now).saturating_sub(WINDOW.as_secs() / STEP.as_secs());
        self.windows.retain(|_, (_, window)| {
            window.forget_before(first);
            !window.0.is_empty()
        });
    }

    /// The callers with the most calls within the window, as a record names them.
    pub fn list(&self) -> Vec<LostHeader> {
        let all = self.windows.values().map(|(caller, window)| LostHeader {
            caller: caller.clone(),
            calls: window.sum(),
        });
        let mut all = LostHeader::sum(all);
        all.truncate(MOST);
        all
    }

    /// The backends with calls within the window.
    pub fn backends(&self) -> BTreeSet<BackendId> {
        let backends = self.windows.values().filter_map(|(caller, _)| match caller {
            Caller::Backend { service, version } => Some(BackendId {
                service: service.clone(),
                version: version.clone(),
            }),
            Caller::Address { .. } => None,
        });
        backends.collect()
    }
}

/// Who has which of these addresses. An external service is nobody's instance.
fn callers<'a>(
    calls: &'a BTreeMap<IpAddr, u64>,
    routing: &'a Routing,
) -> impl Iterator<Item = (Caller, u64)> + 'a {
    let mut at: BTreeMap<IpAddr, BTreeSet<&BackendId>> = BTreeMap::new();
    if !calls.is_empty() {
        for (backend, servers) in routing.backends() {
            if backend.version.is_outside() {
                continue;
            }
            for server in servers.keys() {
                let address = server.address.ip().to_canonical();
                if calls.contains_key(&address) {
                    at.entry(address).or_default().insert(backend);
                }
            }
        }
    }
    at.into_iter().filter_map(|(address, backends)| {
        let caller = Caller::at(address, backends)?;
        Some((caller, *calls.get(&address)?))
    })
}

#[cfg(test)]
mod tests;
