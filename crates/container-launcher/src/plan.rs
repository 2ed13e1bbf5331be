//! What is needed against what runs, by the clock: which units to start, which to drain, which to remove, and what to say of
//! each backend. Pure but for what it remembers: since when something has been so, and how often a start has failed.
//!
//! Of each backend three things are settled one after the other: what is wrong with its units ([`Planner::sort`]), which of the
//! good ones are too many ([`surplus`]), and which are missing. What somebody else runs counts, and is never touched.

mod memory;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime};

use mayfly_core::keys::Key;
use mayfly_core::launching::{Backend, Phase};
use mayfly_core::version::BackendId;

use crate::engine::{Inventory, Launch, Progress, Unit, UnitState};
use crate::naming;
use crate::observe::{Live, View};
use crate::want::{Recipe, Terms};
use memory::Memory;

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

/// One backend in a situation.
struct Case<'a> {
    backend: &'a BackendId,
    /// Whether some environment resolves to it, and whether one of them asks for that very version.
    needed: Option<bool>,
    live: Live,
    situation: &'a Situation<'a>,
    now: Moment,
}

/// The units of one backend, sorted.
#[derive(Default)]
struct Units<'a> {
    /// Those that run, or are brought up.
    good: Vec<&'a Unit>,
    /// Those that were made and never started.
    made: Vec<&'a Unit>,
    /// What is being done to start one.
    starting: Vec<Progress>,
    /// The names that are taken.
    names: BTreeSet<&'a str>,
    /// Whether one is being cleared or removed.
    leaving: bool,
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
        for backend in all {
            let mut memory = self.memory.remove(backend).unwrap_or_default();
            let case = Case {
                backend,
                needed: needed.get(backend).copied(),
                live: situation.view.live(backend),
                situation,
                now,
            };
            self.plan_backend(&case, &mut memory, &mut plan);
            if !memory.is_idle(now.at) {
                self.memory.insert(backend.clone(), memory);
            }
        }
        plan
    }

    fn plan_backend(&self, case: &Case, memory: &mut Memory, plan: &mut Plan) {
        let Case {
            backend,
            needed,
            live,
            situation,
            now,
        } = case;
        let units = self.sort(case, memory, plan);
        let is_live = |unit: &Unit| unit.containers.iter().any(|id| live.containers.contains(id));
        let answering = units.good.iter().filter(|unit| is_live(unit)).count();
        let others = others(backend, live, situation.inventory);

        let definition = situation.view.definition(&backend.service);
        let recipe = definition.map(|definition| Recipe::new(backend, definition, &self.terms));
        if let Some(Ok(recipe)) = &recipe {
            memory.tried_by(recipe.digest());
        }
        let (victims, missing, trouble) = match (needed, &recipe) {
            (None, _) => (self.unused(&units, memory, *now, plan), 0, None),
            // What only follows what runs is kept, and not started.
            (Some(false), _) => (Vec::new(), 0, None),
            (Some(true), Some(Ok(recipe))) => {
                let has_answered = |unit: &Unit| memory.has_answered(&unit.name);
                let number = |name: &str| self.number(backend, name);
                let victims = surplus(&units.good, recipe, others, &is_live, has_answered, number);
                let fresh = units.good.iter().filter(|unit| unit.digest == recipe.digest());
                let there = others + fresh.count() + units.starting.len();
                (victims, recipe.instances.saturating_sub(there), None)
            }
            (Some(true), Some(Err(reason))) => {
                let reason = reason.clone();
                (Vec::new(), 0, Some(Phase::Failed { reason }))
            }
            (Some(true), None) => (Vec::new(), 0, Some(Phase::NoDefinition)),
        };
        if needed.is_some() {
            memory.unused_since = None;
        }
        let retiring = self.retire(case, &victims, &units, memory, plan);
        let hindrance = match &recipe {
            Some(Ok(recipe)) if missing > 0 => self.start(case, missing, recipe, memory, &units, plan),
            _ => {
                memory.lacking_since = None;
                None
            }
        };
        // Half made by somebody who died; one whose name is used again is finished then.
        for unit in &units.made {
            if !plan.starts.iter().any(|(_, launch)| launch.name == unit.name) {
                plan.removes.push(((*backend).clone(), unit.name.clone()));
            }
        }
        if answering > 0 && missing == 0 {
            if let Some(settles) = memory.settle(*now) {
                plan.look_again(settles);
            }
        }

        let wanted = match (needed, &recipe) {
            (Some(true), Some(Ok(recipe))) => recipe.instances,
            (Some(true), _) => 1,
            (Some(false), _) => units.good.len(),
            (None, _) => 0,
        };
        let live = live.containers.len() + live.elsewhere;
        let of_ours =
            !units.good.is_empty() || !units.made.is_empty() || !units.starting.is_empty() || units.leaving;
        let starting = units
            .starting
            .iter()
            .copied()
            .max_by_key(|progress| match progress {
                Progress::Pulling(_) => 0,
                Progress::Starting => 1,
            });
        let phase = match (trouble, starting, hindrance) {
            (Some(trouble), _, _) if live == 0 => trouble,
            (_, Some(Progress::Pulling(percent)), _) => Phase::Pulling { percent },
            (_, Some(Progress::Starting), _) => Phase::Starting,
            (_, _, Some(hindrance)) => hindrance,
            _ if needed.is_none() && of_ours => match memory.unused_since {
                Some(since) if !retiring => Phase::Unused {
                    retire_at: since.after(self.terms.retire_after).text(),
                },
                _ => Phase::Retiring,
            },
            _ if !of_ours && *needed == Some(true) && live == 0 && others > 0 => Phase::Foreign,
            _ if !of_ours => return,
            _ if answering < units.good.len() - victims.len().min(units.good.len()) => Phase::Checking,
            _ if units.good.is_empty() && units.leaving => Phase::Retiring,
            _ => Phase::Running,
        };
        plan.backends.insert(
            (*backend).clone(),
            Backend {
                phase,
                wanted,
                live,
                failures: memory.failures(),
                failure: memory.reason(),
                next_try: memory.next_try(now.at).map(Moment::text),
                output: memory.output().to_vec(),
            },
        );
    }

    /// Sorts the units of a backend, and plans to clear those that have failed.
    fn sort<'a>(&self, case: &Case<'a>, memory: &mut Memory, plan: &mut Plan) -> Units<'a> {
        let Case {
            backend,
            live,
            situation,
            now,
            ..
        } = case;
        let mut sorted = Units::default();
        let all = situation.inventory.units.iter();
        let all: Vec<&Unit> = all.filter(|unit| unit.backend == **backend).collect();
        memory.keep_units(|name| all.iter().any(|unit| unit.name == name));
        for (name, (_, doing)) in situation.busy.iter().filter(|(_, (of, _))| of == *backend) {
            sorted.names.insert(name);
            match doing {
                Doing::Starting(progress) => sorted.starting.push(*progress),
                Doing::Clearing | Doing::Removing => sorted.leaving = true,
            }
        }
        for unit in all {
            match situation.busy.get(&unit.name) {
                Some((_, Doing::Removing)) => {
                    // Until it is gone.
                    plan.drains.extend(drains(backend, unit, situation.view));
                    continue;
                }
                Some(_) => continue,
                None => {}
            }
            memory.has_started = true;
            let remembered = memory.unit(&unit.name);
            match &unit.state {
                UnitState::Created => {
                    sorted.made.push(unit);
                    continue;
                }
                UnitState::Leaving => sorted.leaving = true,
                UnitState::Ended(reason) => {
                    plan.clears
                        .push(((*backend).clone(), unit.name.clone(), reason.clone()));
                    sorted.leaving = true;
                }
                UnitState::Starting | UnitState::Running => {
                    let since = *remembered.running_since.get_or_insert(now.at);
                    remembered.has_answered |= unit.containers.iter().any(|id| live.containers.contains(id));
                    let limit = since + self.terms.start_timeout;
                    // While the registry is in doubt, its silence says nothing of a container.
                    if remembered.has_answered || now.at < limit || situation.guard.is_some() {
                        if !remembered.has_answered && now.at < limit {
                            plan.look_again(limit);
                        }
                        sorted.good.push(unit);
                    } else {
                        let reason = format!(
                            "it runs, but was not registered as answering within {}: does it answer its check, and does \
                             `container-registrar docker` run on its host?",
                            humantime::format_duration(self.terms.start_timeout)
                        );
                        plan.clears.push(((*backend).clone(), unit.name.clone(), reason));
                        sorted.leaving = true;
                    }
                }
            }
            sorted.names.insert(&unit.name);
        }
        sorted
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

    /// Plans to start what is missing; says what stands in the way, if something does.
    fn start(
        &self,
        case: &Case,
        missing: usize,
        recipe: &Recipe,
        memory: &mut Memory,
        units: &Units,
        plan: &mut Plan,
    ) -> Option<Phase> {
        let Case {
            backend,
            situation,
            now,
            ..
        } = case;
        if !memory.has_started && memory.failures() == 0 {
            let due = *memory.lacking_since.get_or_insert(now.at) + self.terms.patience;
            if now.at < due {
                plan.look_again(due);
                return Some(Phase::Waiting);
            }
        }
        if let Some(next_try) = memory.next_try(now.at) {
            plan.look_again(next_try.at);
            return memory.reason().map(|reason| Phase::Failed { reason });
        }
        let mut taken: BTreeSet<String> = units.names.iter().map(ToString::to_string).collect();
        for _ in 0..missing {
            let (there, under_way) = load(situation, plan);
            if there >= self.terms.max_containers {
                let reason = format!(
                    "the limit of {} containers is reached (--max-containers)",
                    self.terms.max_containers
                );
                return Some(Phase::Failed { reason });
            }
            // What has failed leaves half of the places to what may work.
            let most = match memory.failures() {
                0 => self.terms.starts_at_once,
                _ => self.terms.starts_at_once.div_ceil(2),
            };
            if under_way >= most {
                return Some(Phase::Waiting);
            }
            let names = (1..).map(|number| naming::unit(&self.terms.prefix, backend, number));
            let Some(name) = names.into_iter().find(|name| !taken.contains(name)) else {
                break;
            };
            taken.insert(name.clone());
            memory.has_started = true;
            plan.starts.push(((*backend).clone(), recipe.unit(name)));
        }
        Some(Phase::Starting)
    }

    fn number(&self, backend: &BackendId, name: &str) -> usize {
        naming::number(&self.terms.prefix, backend, name).unwrap_or(usize::MAX)
    }
}

/// How many instances somebody else runs: as registered, or as labelled containers that may be about to be.
fn others(backend: &BackendId, live: &Live, inventory: &Inventory) -> usize {
    let ours: BTreeSet<&String> = inventory.units.iter().flat_map(|unit| &unit.containers).collect();
    let registered = live.containers.iter().filter(|id| !ours.contains(id)).count();
    let labelled = inventory.others.get(backend).copied().unwrap_or_default();
    (registered + live.elsewhere).max(labelled)
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

/// How many units there are or will be by the plan so far, and how many of them are being started.
fn load(situation: &Situation, plan: &Plan) -> (usize, usize) {
    let units = situation.inventory.units.iter().map(|unit| unit.name.as_str());
    let starting = situation
        .busy
        .iter()
        .filter_map(|(name, (_, doing))| matches!(doing, Doing::Starting(_)).then_some(name.as_str()));
    let planned = plan.starts.iter().map(|(_, launch)| launch.name.as_str());
    let under_way = starting.clone().count() + plan.starts.len();
    let all: BTreeSet<&str> = units.chain(starting).chain(planned).collect();
    (all.len(), under_way)
}

#[cfg(test)]
mod tests;
