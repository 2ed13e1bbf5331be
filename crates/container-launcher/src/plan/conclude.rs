//! What is said of a backend once all is decided on it.

use mayfly_core::launching::{Backend, Phase};

use super::draft::{Case, Draft};
use super::{Moment, Plan, Planner};
use crate::engine::{Progress, Unit};

impl Planner {
    /// Removes what is half made, and says how a backend is.
    pub(super) fn conclude(&self, draft: &mut Draft, plan: &mut Plan) {
        let Draft {
            case,
            memory,
            units,
            recipe,
            others,
            victims,
            ..
        } = draft;
        let Case {
            backend,
            needed,
            live,
            now,
            ..
        } = case;
        // Half made by somebody who died; one whose name is used again is finished then.
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
                failures: memory.failures(),
                // What runs and could not be started now says so, before it has to be.
                failure: memory.reason().or(refusal),
                next_try: memory.next_try(now.at).map(Moment::text),
                output: memory.output().to_vec(),
            },
        );
    }
}
