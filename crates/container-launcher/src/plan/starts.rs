//! The starts of a plan, in turns.

use std::collections::BTreeSet;

use mayfly_core::launching::Phase;
use mayfly_core::shorten::counted;

use super::draft::BackendDraft;
use super::{Doing, LaunchPlan, Planner, Situation};
use crate::naming;

impl Planner {
    /// Plans to start what is missing, in turns as well: next is the backend with the fewest; those
    /// that have failed come last.
    pub(super) fn start(&self, drafts: &mut [BackendDraft], situation: &Situation, plan: &mut LaunchPlan) {
        let (mut there, mut under_way) = load(situation);
        let mut is_busy = false;
        while let Some(draft) = drafts
            .iter_mut()
            .filter(|draft| draft.missing > draft.started.len())
            .min_by_key(|draft| (draft.memory.failures() > 0, draft.count()))
        {
            // Backends that have failed leave half of the places to those that may work.
            let most = match draft.memory.failures() {
                0 => self.terms.starts_at_once,
                _ => self.terms.starts_at_once.div_ceil(2),
            };
            if there.len() >= self.terms.max_containers {
                break;
            }
            if under_way >= most {
                is_busy = true;
                break;
            }
            let (backend, names) = (draft.case.backend, &draft.units.names);
            let is_free = |name: &String| !names.contains(name.as_str()) && !draft.started.contains(name);
            let mut all = (1..).map(|number| naming::unit(&self.terms.prefix, backend, number));
            let (Some(name), Some(Ok(recipe))) = (all.find(is_free), &draft.recipe) else {
                break;
            };
            there.insert(name.clone());
            under_way += 1;
            draft.memory.starts(&name);
            plan.starts.push((backend.clone(), recipe.unit(name.clone())));
            draft.started.push(name);
        }
        for draft in drafts.iter_mut().filter(|draft| draft.lacks > 0) {
            if draft.hindrance.is_some() {
                continue;
            }
            draft.hindrance = Some(if draft.lacks == draft.started.len() {
                Phase::Starting
            } else if draft.missing > draft.started.len() && is_busy {
                Phase::Waiting
            } else {
                let most = counted(self.terms.max_containers, "container");
                let reason = format!("the limit of {most} is reached (--max-containers)");
                Phase::Failed { reason }
            });
        }
    }
}

/// The units that there are or will be, and how many of them are being started.
fn load(situation: &Situation) -> (BTreeSet<String>, usize) {
    let units = situation.inventory.units.iter().map(|unit| &unit.name);
    let starting = situation
        .busy
        .iter()
        .filter_map(|(name, (_, doing))| matches!(doing, Doing::Starting(_)).then_some(name));
    let under_way = starting.clone().count();
    (units.chain(starting).cloned().collect(), under_way)
}
