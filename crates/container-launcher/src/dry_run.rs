//! `--dry-run`: looks once, and prints what would be done. It changes nothing and does not take the
//! lead.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::launching::Phase;
use mayfly_core::trust::Retiring;
use mayfly_daemon::output;
use mayfly_daemon::watch;

use crate::args::Arguments;
use crate::desired::View;
use crate::engine::Engine;
use crate::plan::{ClockReading, LaunchPlan, Planner, Situation};
use crate::recipe::LaunchTerms;

/// Looks and prints.
///
/// # Errors
/// When etcd or the engine do not answer.
pub async fn run<E: Engine>(engine: &E, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let store = arguments.common.store()?;
    let mut view = View::new(store.keyspace());
    view.take(watch::look(&store, &store.keyspace().launching()).await?);
    let inventory = engine.inventory().await?;
    // As if nothing had changed for long enough.
    let terms = LaunchTerms {
        patience: Duration::ZERO,
        starts_at_once: usize::MAX,
        ..arguments.terms()?
    };
    let (now, mut retiring) = (ClockReading::now(), Retiring::new(arguments.distrust));
    retiring.observe(view.environments(), Vec::new(), |_| true, |_, _| false, now.at);
    let closed = retiring.closed();
    let situation = Situation {
        view: &view,
        inventory: &inventory,
        busy: &BTreeMap::new(),
        guard: closed.as_deref(),
    };
    let retire_after = terms.retire_after;
    let plan = Planner::new(terms).plan(&situation, now);
    output::print(&text(&plan, retire_after, closed.as_deref()))?;
    Ok(ExitCode::SUCCESS)
}

fn text(plan: &LaunchPlan, retire_after: Duration, guard: Option<&str>) -> String {
    let mut text = String::new();
    for (backend, launch) in &plan.starts {
        let _ = writeln!(text, "start   {backend} as {} from {}", launch.name, launch.image);
    }
    for (backend, name, reason) in &plan.clears {
        let _ = writeln!(text, "replace {backend}: {name} has failed: {reason}");
    }
    for (backend, name) in &plan.removes {
        let _ = writeln!(text, "remove  {backend}: {name}");
    }
    for (backend, state) in &plan.backends {
        match &state.phase {
            Phase::Unused { .. } => {
                let after = humantime::format_duration(retire_after);
                let held = guard.map_or_else(String::new, |reason| format!(", but not while {reason}"));
                let _ = writeln!(
                    text,
                    "retire  {backend} once no environment has needed it for {after}{held}"
                );
            }
            Phase::Failed { .. } | Phase::NoDefinition => {
                let _ = writeln!(text, "cannot start {backend}: {}", state.phase);
            }
            _ => {}
        }
    }
    if text.is_empty() {
        text.push_str("nothing to do\n");
    }
    text
}
