//! Compares what is needed with what runs, by the clock: which units to start, to drain and to
//! remove, and what to report of each backend. Pure but for what it remembers: since when something
//! has been so, and how often a start has failed.
//!
//! It decides three things in order: for each backend, what is wrong with its units
//! ([`Planner::sort`]); for all together, how many places each gets ([`places`]); and for each,
//! which of its good units are too many ([`surplus`], [`above`]) and which are missing. Instances
//! that anything else started count, and are never touched.

mod conclude;
mod draft;
mod memory;
mod places;
mod starts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use mayfly_core::keys::Key;
use mayfly_core::launching::{Backend, GivenUp};
use mayfly_core::records::lifetime;
use mayfly_core::version::BackendId;

use crate::desired::View;
use crate::engine::{Inventory, Launch, Progress, Unit};
use crate::naming;
use crate::recipe::{LaunchTerms, Recipe};
use draft::{BackendCase, BackendDraft, Units};
use memory::BackendMemory;
use places::{Wish, hand_out};

/// The time by both clocks: that which never jumps, and that of people.
#[derive(Debug, Clone, Copy)]
pub struct ClockReading {
    pub at: Instant,
    pub clock: SystemTime,
}

impl ClockReading {
    pub fn now() -> Self {
        Self {
            at: Instant::now(),
            clock: SystemTime::now(),
        }
    }

    /// The moment a span later.
    pub fn after(self, span: Duration) -> Self {
        Self {
            at: self.at + span,
            clock: self.clock + span,
        }
    }

    /// As it is shown: RFC 3339, UTC, whole seconds.
    pub fn text(self) -> String {
        lifetime::Moment::of(self.clock).to_string()
    }
}

/// What is being done with a unit at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    Starting(Progress),
    /// It has failed: what it printed is read, and it is removed.
    Clearing,
    /// It is stopped and removed.
    Removing,
}

/// What a plan depends on.
#[derive(Debug)]
pub struct Situation<'a> {
    pub view: &'a View,
    pub inventory: &'a Inventory,
    /// The units that something is being done with, by name.
    pub busy: &'a BTreeMap<String, (BackendId, Doing)>,
    /// Why nothing may be retired, if that is so.
    pub guard: Option<&'a str>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct LaunchPlan {
    pub starts: Vec<(BackendId, Launch)>,
    /// The units that have failed, and why: what they printed is kept, and they are removed.
    pub clears: Vec<(BackendId, String, String)>,
    /// The units to stop and remove.
    pub removes: Vec<(BackendId, String)>,
    /// The instances that are to get no new requests, as keys.
    pub drains: BTreeSet<Key>,
    /// What is to be reported of each backend.
    pub backends: BTreeMap<BackendId, Backend>,
    /// How many units would be retired, but are withheld.
    pub held_back: usize,
    /// The backends that have been relaunched, as an operator requested.
    pub relaunched: Vec<BackendId>,
    /// The requests to relaunch that were given up. They are reported for some time after the
    /// request is gone.
    pub given_up: BTreeMap<BackendId, GivenUp>,
    /// When to plan again even if nothing changes.
    pub again: Option<Instant>,
}

impl LaunchPlan {
    fn look_again(&mut self, at: Instant) {
        self.again = sooner(self.again, at);
    }
}

/// When to plan again, if there was a time for that already and this is another one.
pub fn sooner(again: Option<Instant>, at: Instant) -> Option<Instant> {
    Some(again.map_or(at, |again| again.min(at)))
}

/// Plans, and remembers what a plan depends on.
#[derive(Debug)]
pub struct Planner {
    terms: LaunchTerms,
    memory: BTreeMap<BackendId, BackendMemory>,
}

impl Planner {
    /// A planner that remembers nothing yet.
    pub fn new(terms: LaunchTerms) -> Self {
        Self {
            terms,
            memory: BTreeMap::new(),
        }
    }

    /// Notes that a unit of a backend could not be started, or has failed since.
    pub fn failed(&mut self, backend: &BackendId, reason: String, output: Vec<String>, now: ClockReading) {
        let pauses = self.terms.pauses;
        let memory = self.memory.entry(backend.clone()).or_default();
        memory.failed(reason, output, pauses, now);
    }

    /// How often starting a backend has failed since it answered last.
    pub fn failures(&self, backend: &BackendId) -> usize {
        self.memory.get(backend).map_or(0, BackendMemory::failures)
    }

    /// Notes that a unit of a backend was started, and why its image could not be pulled, if the
    /// engine's was taken instead.
    pub fn started(&mut self, backend: &BackendId, not_pulled: Option<String>) {
        self.memory.entry(backend.clone()).or_default().not_pulled = not_pulled;
    }

    /// Plans what is to be done in a situation.
    pub fn plan(&mut self, situation: &Situation, now: ClockReading) -> LaunchPlan {
        let needed = situation.view.needed();
        let units = situation.inventory.units.iter().map(|unit| &unit.backend);
        let busy = situation.busy.values().map(|(backend, _)| backend);
        let remembered: Vec<BackendId> = self.memory.keys().cloned().collect();
        let all: BTreeSet<&BackendId> = needed
            .keys()
            .chain(units)
            .chain(busy)
            .chain(&remembered)
            .chain(situation.view.relaunches().keys())
            .collect();
        let mut all: Vec<&BackendId> = all.into_iter().collect();
        // What has failed comes after what may work.
        all.sort_by_key(|backend| self.memory.get(backend).map_or(0, BackendMemory::failures) > 0);

        let mut plan = LaunchPlan::default();
        let drafts = all.into_iter().map(|backend| {
            let memory = self.memory.remove(backend).unwrap_or_default();
            let case = BackendCase {
                backend,
                needed: needed.get(backend).copied(),
                live: situation.view.live(backend),
                situation,
                now,
            };
            self.draft(case, memory, &mut plan)
        });
        let mut drafts: Vec<BackendDraft> = drafts.collect();
        let wishes: Vec<Wish> = drafts.iter().map(BackendDraft::wish).collect();
        let places = hand_out(&wishes, self.terms.max_containers);
        for (draft, places) in drafts.iter_mut().zip(places) {
            self.settle(draft, places, &mut plan);
        }
        self.start(&mut drafts, situation, &mut plan);
        for mut draft in drafts {
            self.conclude(&mut draft, &mut plan);
            if !draft.memory.is_idle(now.at) {
                self.memory.insert(draft.case.backend.clone(), draft.memory);
            }
        }
        plan
    }

    /// Decides which units of a backend with this many places are too many, and how many to start.
    fn settle<'a>(&self, draft: &mut BackendDraft<'a>, places: usize, plan: &mut LaunchPlan) {
        let BackendDraft {
            case,
            memory,
            units,
            recipe,
            others,
            lacks,
            hindrance,
            ..
        } = draft;
        let live = &case.live;
        let is_live = |unit: &Unit| unit.containers.iter().any(|id| live.containers.contains(id));
        let number = |name: &str| self.number(case.backend, name);
        let all = || units.good.iter().copied();
        draft.victims = match (case.needed, &recipe) {
            (None, _) => {
                let unused = self.unused(units, memory, case.now, plan);
                let above = above(all(), places, is_live, number);
                unused.into_iter().chain(above).collect()
            }
            (Some(true), Some(Ok(recipe))) => {
                let may_be_in_use = |unit: &Unit| memory.may_be_in_use(&unit.name);
                let surplus = surplus(&units.good, recipe, *others, &is_live, may_be_in_use, number);
                // A unit and the one that replaces it have one place.
                let is_fresh = |unit: &&Unit| recipe.made(unit);
                let fresh = above(all().filter(is_fresh), places, is_live, number);
                let stale = above(all().filter(|unit| !is_fresh(unit)), places, is_live, number);
                surplus.into_iter().chain(fresh).chain(stale).collect()
            }
            // A backend that is needed only because it runs is kept, and not started.
            (Some(_), _) => above(all(), places, is_live, number),
        };
        draft.victims.sort_by_key(|unit| &unit.name);
        draft.victims.dedup_by_key(|unit| &unit.name);
        if case.needed.is_some() {
            memory.unused_since = None;
        }
        if let (Some(Ok(recipe)), None) = (&recipe, &hindrance) {
            let have = recipe.instances.saturating_sub(*lacks);
            draft.missing = recipe.instances.min(places + *others).saturating_sub(have);
        }
        draft.retiring = self.retire(case, &draft.victims, units, memory, plan);
    }

    /// The units to retire of a backend that no environment needs.
    fn unused<'a>(
        &self,
        units: &Units<'a>,
        memory: &mut BackendMemory,
        now: ClockReading,
        plan: &mut LaunchPlan,
    ) -> Vec<&'a Unit> {
        let since = *memory.unused_since.get_or_insert(now);
        let due = since.at + self.terms.retire_after;
        if now.at >= due {
            return units.good.clone();
        }
        if !units.good.is_empty() {
            plan.look_again(due);
        }
        Vec::new()
    }

    /// Drains what is to be retired, and plans to remove what has been drained; returns whether
    /// anything is being retired.
    fn retire(
        &self,
        case: &BackendCase,
        victims: &[&Unit],
        units: &Units,
        memory: &mut BackendMemory,
        plan: &mut LaunchPlan,
    ) -> bool {
        let BackendCase {
            backend,
            situation,
            now,
            ..
        } = case;
        if situation.guard.is_some() {
            plan.held_back += victims.len();
        }
        for unit in &units.good {
            let is_victim = victims.iter().any(|victim| victim.name == unit.name);
            let remembered = memory.unit(&unit.name);
            if !is_victim || situation.guard.is_some() {
                remembered.draining_since = None;
                continue;
            }
            let drained = *remembered.draining_since.get_or_insert(now.at) + self.terms.drain;
            let keys = drains(backend, unit, situation.view);
            if keys.is_empty() || now.at >= drained {
                plan.removes.push(((*backend).clone(), unit.name.clone()));
            } else {
                plan.look_again(drained);
            }
            plan.drains.extend(keys);
        }
        units.leaving || (situation.guard.is_none() && !victims.is_empty())
    }

    fn number(&self, backend: &BackendId, name: &str) -> usize {
        naming::number(&self.terms.prefix, backend, name).unwrap_or(usize::MAX)
    }
}

/// The units that are too many: those of an earlier definition, once those of the present one
/// answer; and those above the number that is wanted, the last ones first.
fn surplus<'a>(
    good: &[&'a Unit],
    recipe: &Recipe,
    others: usize,
    is_live: &impl Fn(&Unit) -> bool,
    may_be_in_use: impl Fn(&Unit) -> bool,
    number: impl Fn(&str) -> usize,
) -> Vec<&'a Unit> {
    let is_fresh = |unit: &&&Unit| recipe.made(unit);
    let mut fresh: Vec<&Unit> = good.iter().filter(is_fresh).copied().collect();
    let answering = fresh.iter().filter(|unit| is_live(unit)).count();
    // If other instances run by now, ours stay until they are not needed: the others may go again.
    let enough = recipe.instances.saturating_sub(others).max(1);
    if answering < enough {
        // Of an earlier definition, and it never answered.
        let useless = |unit: &&&Unit| !is_fresh(unit) && !may_be_in_use(unit);
        return good.iter().filter(useless).copied().collect();
    }
    fresh.sort_by_key(|unit| (!is_live(unit), number(&unit.name)));
    let stale = good.iter().filter(|unit| !is_fresh(unit)).copied();
    fresh
        .iter()
        .skip(recipe.instances)
        .copied()
        .chain(stale)
        .collect()
}

/// The keys that keep new requests from the instances of a unit.
fn drains(backend: &BackendId, unit: &Unit, view: &View) -> BTreeSet<Key> {
    let instances = view.instances_in(backend, &unit.containers).into_iter();
    instances.map(|id| Key::Drain(backend.clone(), id)).collect()
}

/// The units that have no place: the last ones, but those that answer are kept.
fn above<'a>(
    units: impl Iterator<Item = &'a Unit>,
    places: usize,
    is_live: impl Fn(&Unit) -> bool,
    number: impl Fn(&str) -> usize,
) -> Vec<&'a Unit> {
    let mut all: Vec<&Unit> = units.collect();
    all.sort_by_key(|unit| (!is_live(unit), number(&unit.name)));
    all.into_iter().skip(places).collect()
}

#[cfg(test)]
mod tests;
