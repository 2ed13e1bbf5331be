//! What is reported of a backend once everything about it is decided.

use mayfly_core::launching::{Backend, GivenUp, Phase};

use super::draft::{BackendCase, BackendDraft};
use super::{ClockReading, LaunchPlan, Planner};
use crate::engine::{Progress, Unit};

impl Planner {
    /// Removes what is half made, and reports the state of a backend.
    pub(super) fn conclude(&self, draft: &mut BackendDraft, plan: &mut LaunchPlan) {
        let backend = draft.case.backend;
        let request = draft.case.situation.view.relaunches().get(backend).copied();
        if let Some(revision) = request {
            let outcome = draft.relaunched();
            if outcome == Some(Ok(())) {
                plan.relaunched.push(backend.clone());
            }
            let reason = outcome.and_then(Result::err);
            let given_up = reason.map(|reason| GivenUp { revision, reason });
            draft.memory.given_up = given_up.map(|given_up| (given_up, draft.case.now.at));
        }
        if let Some(given_up) = draft.memory.given_up(draft.case.now.at) {
            plan.given_up.insert(backend.clone(), given_up);
        }
        let BackendDraft {
            case,
            memory,
            units,
            recipe,
            others,
            victims,
            ..
        } = draft;
        let BackendCase {
            backend,
            needed,
            live,
            now,
            ..
        } = case;
        // Half made by a launcher that died; one whose name is used again is completed then.
        for unit in &units.made {
            if !draft.started.contains(&unit.name) {
                plan.removes.push(((*backend).clone(), unit.name.clone()));
            }
        }
        let is_live = |unit: &&&Unit| unit.containers.iter().any(|id| live.containers.contains(id));
        let answering = units.good.iter().filter(is_live).count();
        if answering > 0 && draft.missing == 0 {
            if let Some(settles) = memory.settle(*now) {
                plan.look_again(settles);
            }
        }

        let refusal = match (*needed, &recipe) {
            (Some(true), Some(Err(reason))) => Some(reason.clone()),
            _ => None,
        };
        let may_start = refusal.is_none();
        let trouble = match (*needed, &recipe, refusal.clone()) {
            (Some(true), None, _) => Some(Phase::NoDefinition),
            (_, _, refusal) => refusal.map(|reason| Phase::Failed { reason }),
        };
        let wanted = match (*needed, &recipe) {
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
        let phase = match (trouble, starting, draft.hindrance.take()) {
            (Some(_), _, Some(waiting)) if live == 0 => waiting,
            (Some(trouble), _, _) if live == 0 => trouble,
            (_, Some(Progress::Pulling(percent)), _) => Phase::Pulling { percent },
            (_, Some(Progress::Starting), _) => Phase::Starting,
            (_, _, Some(hindrance)) => hindrance,
            _ if needed.is_none() && of_ours => match memory.unused_since {
                Some(since) if !draft.retiring => Phase::Unused {
                    retire_at: since.after(self.terms.retire_after).text(),
                },
                _ => Phase::Retiring,
            },
            _ if !of_ours && *needed == Some(true) && live == 0 && *others > 0 => Phase::Foreign,
            _ if !of_ours => return,
            _ if answering < units.good.len().saturating_sub(victims.len()) => Phase::Checking,
            _ if units.good.is_empty() && units.leaving => Phase::Retiring,
            _ => Phase::Running,
        };
        plan.backends.insert(
            (*backend).clone(),
            Backend {
                phase,
                wanted,
                live,
                images: units.good.iter().filter_map(|unit| unit.image.clone()).collect(),
                // What may not be started is not tried, however often it failed before.
                failures: if may_start { memory.failures() } else { 0 },
                // A running backend that could not be started again says so beforehand.
                failure: refusal.or(memory.reason()),
                next_try: memory
                    .next_try(now.at)
                    .filter(|_| may_start)
                    .map(ClockReading::text),
                output: memory.output().to_vec(),
                not_pulled: memory.not_pulled.clone(),
            },
        );
    }
}
