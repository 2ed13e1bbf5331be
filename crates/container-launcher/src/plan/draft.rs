//! What there is of one backend, before anything is decided: its units sorted by how they are, its recipe, and what it lacks.

use std::collections::BTreeSet;

use mayfly_core::launching::Phase;
use mayfly_core::version::BackendId;

use super::memory::Memory;
use super::places::Wish;
use super::{Doing, Moment, Plan, Planner, Situation, drains};
use crate::engine::{Inventory, Progress, Unit, UnitState};
use crate::observe::Live;
use crate::want::Recipe;

/// One backend in a situation.
pub(super) struct Case<'a> {
    pub(super) backend: &'a BackendId,
    /// Whether some environment resolves to it, and whether one of them asks for that very version.
    pub(super) needed: Option<bool>,
    pub(super) live: Live,
    pub(super) situation: &'a Situation<'a>,
    pub(super) now: Moment,
}

/// The units of one backend, sorted.
#[derive(Default)]
pub(super) struct Units<'a> {
    /// Those that run, or are brought up.
    pub(super) good: Vec<&'a Unit>,
    /// Those that were made and never started.
    pub(super) made: Vec<&'a Unit>,
    /// What is being done to start one.
    pub(super) starting: Vec<Progress>,
    /// The names that are taken.
    pub(super) names: BTreeSet<&'a str>,
    /// Whether one is being cleared or removed.
    pub(super) leaving: bool,
}

/// What is decided on one backend, step by step.
pub(super) struct Draft<'a> {
    pub(super) case: Case<'a>,
    pub(super) memory: Memory,
    pub(super) units: Units<'a>,
    /// How its units are started, if there is a definition; or why they may not be.
    pub(super) recipe: Option<Result<Recipe, String>>,
    /// How many instances somebody else runs.
    pub(super) others: usize,
    /// How many instances there are less than its definition wants.
    pub(super) lacks: usize,
    /// Why those are not started now.
    pub(super) hindrance: Option<Phase>,
    /// How many of them it has places for.
    pub(super) missing: usize,
    /// The names of those that are started.
    pub(super) started: Vec<String>,
    /// The units that are too many.
    pub(super) victims: Vec<&'a Unit>,
    /// Whether something of it is on its way out.
    pub(super) retiring: bool,
}

impl Draft<'_> {
    /// How many units there are or will be.
    pub(super) fn count(&self) -> usize {
        self.units.good.len() + self.units.starting.len() + self.started.len()
    }

    /// How many places it wants. Somebody else may be about to start what they are waited for with.
    pub(super) fn wish(&self) -> Wish {
        let has = self.count();
        let is_waited_for = matches!(self.hindrance, Some(Phase::Waiting));
        let wants = match (&self.recipe, self.case.needed) {
            (Some(Ok(recipe)), Some(true)) if !is_waited_for => {
                let lacking = recipe.instances.saturating_sub(self.others);
                lacking.max(has.min(recipe.instances))
            }
            _ => has,
        };
        Wish {
            wants,
            has,
            is_needed: self.case.needed.is_some(),
        }
    }
}

impl Planner {
    /// What there is of a backend, and what it lacks.
    pub(super) fn draft<'a>(&self, case: Case<'a>, mut memory: Memory, plan: &mut Plan) -> Draft<'a> {
        let units = self.sort(&case, &mut memory, plan);
        let Case {
            backend,
            needed,
            live,
            situation,
            now,
        } = &case;
        let others = others(backend, live, situation.inventory);
        let definition = situation.view.definition(&backend.service);
        let recipe = definition.map(|definition| Recipe::new(backend, definition, &self.terms));
        let mut lacks = 0;
        if let Some(Ok(recipe)) = &recipe {
            memory.tried_by(recipe.digest());
            if *needed == Some(true) {
                let fresh = units.good.iter().filter(|unit| unit.digest == recipe.digest());
                let there = others + fresh.count() + units.starting.len();
                lacks = recipe.instances.saturating_sub(there);
            }
        }
        let hindrance = match lacks {
            0 => {
                memory.lacking_since = None;
                None
            }
            _ => self.hindrance(&mut memory, *now, plan),
        };
        Draft {
            units,
            recipe,
            others,
            lacks,
            hindrance,
            missing: 0,
            started: Vec::new(),
            victims: Vec::new(),
            retiring: false,
            case,
            memory,
        }
    }

    /// What stands in the way of a start before it is asked for a place.
    fn hindrance(&self, memory: &mut Memory, now: Moment, plan: &mut Plan) -> Option<Phase> {
        if !memory.has_started && memory.failures() == 0 {
            let due = *memory.lacking_since.get_or_insert(now.at) + self.terms.patience;
            if now.at < due {
                plan.look_again(due);
                return Some(Phase::Waiting);
            }
        }
        let next_try = memory.next_try(now.at)?;
        plan.look_again(next_try.at);
        memory.reason().map(|reason| Phase::Failed { reason })
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
}

/// How many instances somebody else runs: as registered, or as labelled containers that may be about to be.
fn others(backend: &BackendId, live: &Live, inventory: &Inventory) -> usize {
    let ours: BTreeSet<&String> = inventory.units.iter().flat_map(|unit| &unit.containers).collect();
    let registered = live.containers.iter().filter(|id| !ours.contains(id)).count();
    let labelled = inventory.others.get(backend).copied().unwrap_or_default();
    (registered + live.elsewhere).max(labelled)
}
