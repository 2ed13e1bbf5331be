//! The facts about one backend, before anything is decided: its units sorted by state, its recipe,
//! and what it lacks.

use std::collections::BTreeSet;

use mayfly_core::launching::Phase;
use mayfly_core::version::BackendId;

use super::memory::BackendMemory;
use super::places::Wish;
use super::{ClockReading, Doing, LaunchPlan, Planner, Situation, drains};
use crate::desired::LiveInstances;
use crate::engine::{Inventory, Progress, Unit, UnitState};
use crate::recipe::Recipe;

/// One backend in a situation.
pub(super) struct BackendCase<'a> {
    pub(super) backend: &'a BackendId,
    /// Whether some environment resolves to it, and whether one of them asks for that very version.
    pub(super) needed: Option<bool>,
    pub(super) live: LiveInstances,
    pub(super) situation: &'a Situation<'a>,
    pub(super) now: ClockReading,
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
pub(super) struct BackendDraft<'a> {
    pub(super) case: BackendCase<'a>,
    pub(super) memory: BackendMemory,
    pub(super) units: Units<'a>,
    /// How its units are started, if there is a definition; or why they may not be.
    pub(super) recipe: Option<Result<Recipe, String>>,
    /// How many instances run that no launcher has started.
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
    /// Whether some of its units are being retired.
    pub(super) retiring: bool,
}

impl BackendDraft<'_> {
    /// How many units there are or will be.
    pub(super) fn count(&self) -> usize {
        self.units.good.len() + self.units.starting.len() + self.started.len()
    }

    /// The outcome of a request to relaunch it: `None` while something is left to do; an error says
    /// why it is given up.
    pub(super) fn relaunched(&self) -> Option<Result<(), String>> {
        let BackendId { service, version } = self.case.backend;
        let recipe = match (&self.recipe, self.case.needed) {
            (Some(Ok(recipe)), Some(true)) => recipe,
            (Some(Err(reason)), Some(true)) => return Some(Err(reason.clone())),
            (None, Some(true)) => return Some(Err(format!("service {service} has no definition"))),
            (_, Some(false) | None) => {
                return Some(Err(format!(
                    "no environment names exactly version {version} of {service}"
                )));
            }
        };
        let new = self.units.good.iter().filter(|unit| recipe.made(unit)).count();
        let settled = self.lacks == 0 && self.units.starting.is_empty() && !self.units.leaving;
        if !settled {
            None
        } else if new == 0 {
            Some(Err(format!(
                "this launcher did not start the instances of {}",
                self.case.backend
            )))
        } else {
            (new == self.units.good.len()).then_some(Ok(()))
        }
    }

    /// How many places it wants: none more while the launcher waits for another instance to appear.
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
    /// The facts about a backend, and what it lacks.
    pub(super) fn draft<'a>(
        &self,
        case: BackendCase<'a>,
        mut memory: BackendMemory,
        plan: &mut LaunchPlan,
    ) -> BackendDraft<'a> {
        let units = self.sort(&case, &mut memory, plan);
        let BackendCase {
            backend,
            needed,
            live,
            situation,
            now,
        } = &case;
        let others = others(backend, live, situation.inventory);
        let definition = situation.view.definition(&backend.service);
        let again = situation.view.relaunches().get(backend);
        let recipe = definition.map(|definition| {
            let recipe = Recipe::new(backend, definition, &self.terms)?;
            Ok(again.map_or(recipe.clone(), |revision| recipe.again(*revision)))
        });
        let mut lacks = 0;
        if let Some(Ok(recipe)) = &recipe {
            memory.tried_by(recipe.digest());
            if *needed == Some(true) {
                let fresh = units.good.iter().filter(|unit| recipe.made(unit));
                let there = others + fresh.count() + units.starting.len();
                lacks = recipe.instances.saturating_sub(there);
            }
        }
        // An instance may be about to be registered, whether or not this launcher can start one.
        let is_unstartable = *needed == Some(true)
            && !matches!(recipe, Some(Ok(_)))
            && live.containers.is_empty()
            && live.elsewhere == 0;
        let hindrance = match lacks {
            0 if is_unstartable => self.patience(&mut memory, *now, plan),
            0 => {
                memory.lacking_since = None;
                None
            }
            _ => self.hindrance(&mut memory, *now, plan),
        };
        BackendDraft {
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

    /// What prevents a start, apart from the number of places.
    fn hindrance(
        &self,
        memory: &mut BackendMemory,
        now: ClockReading,
        plan: &mut LaunchPlan,
    ) -> Option<Phase> {
        if let Some(waiting) = self.patience(memory, now, plan) {
            return Some(waiting);
        }
        let next_try = memory.next_try(now.at)?;
        plan.look_again(next_try.at);
        memory.reason().map(|reason| Phase::Failed { reason })
    }

    /// Somebody else has some time to come first, unless that was waited for already.
    fn patience(
        &self,
        memory: &mut BackendMemory,
        now: ClockReading,
        plan: &mut LaunchPlan,
    ) -> Option<Phase> {
        if memory.has_started || memory.failures() > 0 {
            return None;
        }
        let due = *memory.lacking_since.get_or_insert(now.at) + self.terms.patience;
        (now.at < due).then(|| {
            plan.look_again(due);
            Phase::Waiting
        })
    }

    /// Sorts the units of a backend, and plans to clear those that have failed.
    fn sort<'a>(
        &self,
        case: &BackendCase<'a>,
        memory: &mut BackendMemory,
        plan: &mut LaunchPlan,
    ) -> Units<'a> {
        let BackendCase {
            backend,
            live,
            situation,
            now,
            ..
        } = case;
        let mut sorted = Units::default();
        let all = situation.inventory.units.iter();
        let all: Vec<&Unit> = all.filter(|unit| unit.backend == **backend).collect();
        memory.keep_units(|name| {
            let is_starting = matches!(situation.busy.get(name), Some((_, Doing::Starting(_))));
            is_starting || all.iter().any(|unit| unit.name == name)
        });
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
                    remembered.has_run |= unit.state == UnitState::Running;
                    let limit = since + self.terms.start_timeout;
                    // While deletions are withheld, a missing entry says nothing about a container.
                    if remembered.may_be_in_use() || now.at < limit || situation.guard.is_some() {
                        if !remembered.may_be_in_use() && now.at < limit {
                            plan.look_again(limit);
                        }
                        sorted.good.push(unit);
                    } else {
                        let reason = format!(
                            "the container runs, but was not registered within {}; make sure that \
                             it passes its check, and that `container-registrar docker` runs on its \
                             host",
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

/// How many instances run that no launcher has started: registered ones, or labelled containers
/// that may be about to be.
fn others(backend: &BackendId, live: &LiveInstances, inventory: &Inventory) -> usize {
    let ours: BTreeSet<&String> = inventory.units.iter().flat_map(|unit| &unit.containers).collect();
    let registered = live.containers.iter().filter(|id| !ours.contains(id)).count();
    let labelled = inventory.others.get(backend).copied().unwrap_or_default();
    (registered + live.elsewhere).max(labelled)
}
