//! The addresses that environments name for external services, and which of them are in force. Of
//! one environment the first [`MOST_OF_ONE`] count. Of all environments as many count as the router
//! accepts, those of the earliest registered first. The result depends only on what is registered,
//! never on the order of the events.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::names::{EnvironmentName, ServiceName};
use crate::outside::{AddressRule, MOST_OF_ONE};
use crate::records::ServiceChoice;
use crate::version::{BackendId, Selector};

/// Where an address is named: when its environment was registered, which that is, and the place in
/// its file.
type AddressPlace = (i64, EnvironmentName, usize);

/// Addresses that an environment names and that a message tells one by one at most.
const MOST_TOLD: usize = 5;

/// The addresses that count, and where each is named.
#[derive(Debug)]
pub(super) struct NamedAddresses {
    /// The addresses that count of each environment that names any.
    named: BTreeMap<EnvironmentName, Vec<(AddressPlace, BackendId)>>,
    claims: BTreeMap<BackendId, BTreeSet<AddressPlace>>,
    /// Where each is named first.
    first: BTreeMap<AddressPlace, BackendId>,
    /// How many are in force at most.
    most: usize,
    /// The first of those that are too many.
    barred: Option<AddressPlace>,
    /// Those whose claims have changed since they were last settled, and whether each was in force
    /// then.
    stale: BTreeMap<BackendId, bool>,
    /// Environments whose addresses have changed since then.
    changed: BTreeSet<EnvironmentName>,
    /// Whether anything has.
    unsettled: bool,
    /// How many addresses of an environment are too many, and the service of the first.
    beyond: BTreeMap<EnvironmentName, (usize, ServiceName)>,
}

impl NamedAddresses {
    pub(super) fn new(most: usize) -> Self {
        Self {
            named: BTreeMap::new(),
            claims: BTreeMap::new(),
            first: BTreeMap::new(),
            most,
            barred: None,
            stale: BTreeMap::new(),
            changed: BTreeSet::new(),
            unsettled: false,
            beyond: BTreeMap::new(),
        }
    }

    /// Takes the addresses that count of an environment, in the order of its file, in place of
    /// those that it had. `None` for one that names no address at all.
    pub(super) fn set(&mut self, name: &EnvironmentName, revision: i64, backends: Option<Vec<BackendId>>) {
        if backends.is_none() && !self.named.contains_key(name) {
            return;
        }
        let old = self.named.remove(name).unwrap_or_default();
        let places = (0..).map(|place| (revision, name.clone(), place));
        let new: Option<Vec<_>> = backends.map(|backends| places.zip(backends).collect());
        if new.as_ref() != Some(&old) {
            for (place, backend) in &old {
                self.change(backend, |claims| claims.remove(place));
            }
            for (place, backend) in new.iter().flatten() {
                self.change(backend, |claims| claims.insert(place.clone()));
            }
            self.changed.insert(name.clone());
            self.unsettled = true;
        }
        match new {
            Some(new) => drop(self.named.insert(name.clone(), new)),
            None => drop(self.beyond.remove(name)),
        }
    }

    fn change(&mut self, backend: &BackendId, change: impl FnOnce(&mut BTreeSet<AddressPlace>) -> bool) {
        if !self.stale.contains_key(backend) {
            self.stale.insert(backend.clone(), self.in_force(backend));
        }
        let claims = self.claims.entry(backend.clone()).or_default();
        let before = claims.first().cloned();
        change(claims);
        let now = claims.first().cloned();
        if claims.is_empty() {
            self.claims.remove(backend);
        }
        if before != now {
            before.map(|place| self.first.remove(&place));
            now.map(|place| self.first.insert(place, backend.clone()));
        }
    }

    /// Says how many may be in force.
    pub(super) fn limit(&mut self, most: usize) {
        self.unsettled |= self.most != most;
        self.most = most;
    }

    /// Decides again which are in force after changes. Returns those of which that may be
    /// different.
    pub(super) fn settle(&mut self) -> BTreeSet<BackendId> {
        if !self.unsettled {
            return BTreeSet::new();
        }
        let too_many = self.first.len() > self.most;
        let barred = too_many
            .then(|| self.first.keys().nth(self.most).cloned())
            .flatten();
        let mut stale = std::mem::take(&mut self.stale);
        for backend in between(&self.first, &self.barred, &barred) {
            let was = self.in_force(backend);
            stale.entry(backend.clone()).or_insert(was);
        }
        self.barred = barred;
        self.unsettled = false;
        let mut environments = std::mem::take(&mut self.changed);
        for (backend, was) in &stale {
            if *was != self.in_force(backend) {
                environments.extend(self.users(backend).cloned());
            }
        }
        for name in environments {
            let named = self.named.get(&name).into_iter().flatten();
            let mut beyond = named.filter(|(_, backend)| !self.in_force(backend));
            match beyond.next() {
                Some((_, first)) => {
                    let left_out = (1 + beyond.count(), first.service.clone());
                    self.beyond.insert(name, left_out);
                }
                None => drop(self.beyond.remove(&name)),
            }
        }
        stale.into_keys().collect()
    }

    /// Whether a router has servers for an address, as last settled.
    pub(super) fn in_force(&self, backend: &BackendId) -> bool {
        let first = self.claims.get(backend).and_then(BTreeSet::first);
        first.is_some_and(|place| is_before(place, &self.barred))
    }

    /// The environment that names an address first, where it counts, with when it was registered.
    pub(super) fn first_user(&self, backend: &BackendId) -> Option<(i64, &EnvironmentName)> {
        let (revision, name, _) = self.claims.get(backend)?.first()?;
        Some((*revision, name))
    }

    /// The environments whose address this is, where it counts.
    pub(super) fn users(&self, backend: &BackendId) -> impl Iterator<Item = &EnvironmentName> {
        self.claims
            .get(backend)
            .into_iter()
            .flatten()
            .map(|(_, name, _)| name)
    }

    /// The environments that name an address, whether or not it counts.
    pub(super) fn environments(&self) -> impl Iterator<Item = &EnvironmentName> {
        self.named.keys()
    }

    /// What is left out because routers take only so many.
    pub(super) fn beyond(&self) -> impl Iterator<Item = (&EnvironmentName, String)> {
        self.beyond
            .keys()
            .filter_map(|name| Some((name, self.beyond_of(name)?)))
    }

    /// The same of one environment.
    pub(super) fn beyond_of(&self, name: &EnvironmentName) -> Option<String> {
        let (count, first) = self.beyond.get(name)?;
        let which = and_more(first, *count);
        Some(format!(
            "routers accept at most {} addresses of external services in total (--max-addresses), \
             and environments registered earlier come first: {which} cannot be reached",
            self.most
        ))
    }
}

/// What lies between two limits, whichever is the first.
fn between<'a>(
    first: &'a BTreeMap<AddressPlace, BackendId>,
    one: &Option<AddressPlace>,
    other: &Option<AddressPlace>,
) -> impl Iterator<Item = &'a BackendId> {
    let (low, high) = match (one, other) {
        (Some(one), Some(other)) => (Some(one.min(other)), Bound::Excluded(one.max(other))),
        (one, other) => (one.as_ref().or(other.as_ref()), Bound::Unbounded),
    };
    let range = low.map(|low| first.range((Bound::Included(low), high)));
    range.into_iter().flatten().map(|(_, backend)| backend)
}

fn is_before(place: &AddressPlace, barred: &Option<AddressPlace>) -> bool {
    barred.as_ref().is_none_or(|barred| place < barred)
}

fn and_more(first: &ServiceName, count: usize) -> String {
    match count {
        0 | 1 => first.to_string(),
        count => format!("{first} and {} more", count - 1),
    }
}

/// The addresses among an environment's services that count, in its order; `None` where it names
/// none. Those that are refused are noted as faults.
pub(super) fn counting(
    rule: &AddressRule,
    services: &[ServiceChoice],
    faults: &mut Vec<String>,
) -> Option<Vec<BackendId>> {
    let address = |choice: &ServiceChoice| match &choice.version {
        Selector::Exact(version) if version.is_outside() => Some(version.clone()),
        _ => None,
    };
    // Most environments name none.
    services.iter().find(|choice| address(choice).is_some())?;
    // Where a record names a service twice, the first is chosen.
    let mut seen = BTreeSet::new();
    let chosen = services.iter().filter(|choice| seen.insert(&choice.name));
    let outside = chosen.filter_map(|choice| {
        Some(BackendId {
            service: choice.name.clone(),
            version: address(choice)?,
        })
    });
    let (mut all, mut counting, mut refused) = (0, Vec::new(), 0);
    let mut over: Option<(ServiceName, usize)> = None;
    for backend in outside {
        all += 1;
        if let Some(reason) = refusal(rule, &backend) {
            refused += 1;
            if refused <= MOST_TOLD {
                faults.push(cannot_be_reached(&backend.service, &reason));
            }
        } else if counting.len() < MOST_OF_ONE {
            counting.push(backend);
        } else {
            over.get_or_insert((backend.service, 0)).1 += 1;
        }
    }
    if refused > MOST_TOLD {
        faults.push(format!(
            "{} more addresses of this environment are refused, too",
            refused - MOST_TOLD
        ));
    }
    if let Some((first, count)) = over {
        let which = and_more(&first, count);
        faults.push(format!(
            "this environment names {all} addresses of external services, more than the limit of \
             {MOST_OF_ONE}: {which} cannot be reached; name fewer"
        ));
    }
    (all > 0).then_some(counting)
}

/// Why an external service is refused, whatever its host resolves to.
pub(super) fn refusal(rule: &AddressRule, backend: &BackendId) -> Option<String> {
    rule.refuses(&backend.version.upstream()?)
}

/// What is said of an external service that is refused.
pub(super) fn cannot_be_reached(service: &ServiceName, reason: &str) -> String {
    format!("{service} cannot be reached: {reason}")
}
