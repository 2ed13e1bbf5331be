//! What is needed against what runs, by the clock: which units to start, which to drain, which to remove, and what to say of
//! each backend. Pure but for what it remembers: since when something has been so, and how often a start has failed.
//!
//! Three things are settled one after the other: of each backend, what is wrong with its units ([`Planner::sort`]); of all
//! together, how many places each has ([`places`]); and of each, which of its good units are too many ([`surplus`], [`above`])
//! and which are missing. What somebody else runs counts, and is never touched.

mod conclude;
mod draft;
mod memory;
mod places;
mod starts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use mayfly_core::keys::Key;
use mayfly_core::launching::Backend;
use mayfly_core::version::BackendId;

use crate::engine::{Inventory, Launch, Progress, Unit};
use crate::naming;
use crate::observe::View;
use crate::want::{Recipe, Terms};
use draft::{Case, Draft, Units};
use memory::Memory;
use places::{Wish, hand_out};

/// The time by both clocks: that which never jumps, and that of people.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// For spans.
    pub at: Instant,
    /// For what is shown.
    pub clock: SystemTime,
}

impl Moment {
    /// This moment.
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
        humantime::format_rfc3339_seconds(self.clock).to_string()
    }
}

/// What is being done with a unit at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    /// It is started.
    Starting(Progress),
    /// It has failed: what it printed is read, and it is removed.
    Clearing,
    /// It is stopped and removed.
    Removing,
}

/// What a plan goes by.
#[derive(Debug)]
pub struct Situation<'a> {
    /// What etcd says.
    pub view: &'a View,
    /// What the engine has.
    pub inventory: &'a Inventory,
    /// The units that something is being done with, by name.
    pub busy: &'a BTreeMap<String, (BackendId, Doing)>,
    /// Why nothing may be retired, if that is so.
    pub guard: Option<&'a str>,
}

/// What is to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// The units to start.
    pub starts: Vec<(BackendId, Launch)>,
    /// The units that have failed, and why: what they printed is kept, and they are removed.
    pub clears: Vec<(BackendId, String, String)>,
    /// The units to stop and remove.
    pub removes: Vec<(BackendId, String)>,
    /// The instances that are to get no new requests, as keys.
    pub drains: BTreeSet<Key>,
    /// What is to be said of each backend.
    pub backends: BTreeMap<BackendId, Backend>,
    /// How many units would be retired, and are held back by the guard.
    pub held_back: usize,
    /// When to plan again even if nothing changes.
    pub again: Option<Instant>,
}

impl Plan {
    fn look_again(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |again| again.min(at)));
    }
}

/// Plans, and remembers what a plan depends on.
#[derive(Debug)]
pub struct Planner {
    terms: Terms,
    memory: BTreeMap<BackendId, Memory>,
}

impl Planner {
    /// A planner that remembers nothing yet.
    pub fn new(terms: Terms) -> Self {
        Self {
            terms,
            memory: BTreeMap::new(),
        }
    }

    /// The terms that it plans by.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Notes that a unit of a backend could not be started, or has failed since.
    pub fn failed(&mut self, backend: &BackendId, reason: String, output: Vec<String>, now: Moment) {
        let pauses = self.terms.pauses;
        let memory = self.memory.entry(backend.clone()).or_default();
        memory.failed(reason, output, pauses, now);
    }

    /// Plans what is to be done in a situation.
    pub fn plan(&mut self, situation: &Situation, now: Moment) -> Plan {
        let needed = situation.view.needed();
        let units = situation.inventory.units.iter().map(|unit| &unit.backend);
        let busy = situation.busy.values().map(|(backend, _)| backend);
        let remembered: Vec<BackendId> = self.memory.keys().cloned().collect();
        let all: BTreeSet<&BackendId> = needed
            .keys()
            .chain(units)
            .chain(busy)
            .chain(&remembered)
            .collect();
        let mut all: Vec<&BackendId> = all.into_iter().collect();
        // What has failed comes after what may work.
        all.sort_by_key(|backend| self.memory.get(backend).map_or(0, Memory::failures) > 0);

        let mut plan = Plan::default();
        let drafts = all.into_iter().map(|backend| {
            let memory = self.memory.remove(backend).unwrap_or_default();
            let case = Case {
                backend,
                needed: needed.get(backend).copied(),
                live: situation.view.live(backend),
                situation,
                now,
            };
            self.draft(case, memory, &mut plan)
        });
        let mut drafts: Vec<Draft> = drafts.collect();
        let wishes: Vec<Wish> = drafts.iter().map(Draft::wish).collect();
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

    /// Decides which units of a backend that has so many places are too many, and how many to start.
    fn settle<'a>(&self, draft: &mut Draft<'a>, places: usize, plan: &mut Plan) {
        let Draft {
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
                let has_answered = |unit: &Unit| memory.has_answered(&unit.name);
                let surplus = surplus(&units.good, recipe, *others, &is_live, has_answered, number);
                // A unit and the one that replaces it have one place.
                let is_fresh = |unit: &&Unit| unit.digest == recipe.digest();
                let fresh = above(all().filter(is_fresh), places, is_live, number);
                let stale = above(all().filter(|unit| !is_fresh(unit)), places, is_live, number);
                surplus.into_iter().chain(fresh).chain(stale).collect()
            }
            // What only follows what runs is kept, and not started.
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

    /// The units to retire of a backend that nobody needs.
    fn unused<'a>(
        &self,
        units: &Units<'a>,
        memory: &mut Memory,
        now: Moment,
        plan: &mut Plan,
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

    /// Drains what is to be retired, and plans to remove what has been drained; says whether something is on its way out.
    fn retire(
        &self,
        case: &Case,
        victims: &[&Unit],
        units: &Units,
        memory: &mut Memory,
        plan: &mut Plan,
    ) -> bool {
        let Case {
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

/// The units that are too many: those of an earlier definition, once those of the present one answer; and those above the
/// number that is wanted, the last ones first.
fn surplus<'a>(
    good: &[&'a Unit],
    recipe: &Recipe,
    others: usize,
    is_live: &impl Fn(&Unit) -> bool,
    has_answered: impl Fn(&Unit) -> bool,
    number: impl Fn(&str) -> usize,
) -> Vec<&'a Unit> {
    let is_fresh = |unit: &&&Unit| unit.digest == recipe.digest();
    let mut fresh: Vec<&Unit> = good.iter().filter(is_fresh).copied().collect();
    let answering = fresh.iter().filter(|unit| is_live(unit)).count();
    // Where somebody else runs it by now, ours stay until nobody needs them: theirs may go again.
    let enough = recipe.instances.saturating_sub(others).max(1);
    if answering < enough {
        // Of an earlier definition, and of no use to anybody.
        let useless = |unit: &&&Unit| !is_fresh(unit) && !has_answered(unit);
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

/// The units above so many places: the last ones, those that answer being kept.
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
