//! `--dry-run`: looks once, and prints what would be done; nothing is changed, and no lead is taken.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use mayfly_core::launching::Phase;
use mayfly_daemon::output;
use mayfly_daemon::watch::{Batch, Change};

use crate::args::Arguments;
use crate::engine::Engine;
use crate::guard::Guard;
use crate::observe::View;
use crate::plan::{Moment, Plan, Planner, Situation};
use crate::want::Terms;

/// Looks and prints.
///
/// # Errors
/// When etcd or the engine do not answer.
pub async fn run<E: Engine>(engine: &E, arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let store = arguments.common.store()?;
    let listing = store.list(&store.keyspace().launching()).await?;
    let mut view = View::new(store.keyspace());
    view.take(Batch {
        revision: listing.revision,
        listed: true,
        changes: listing.entries.into_iter().map(Change::Put).collect(),
    });
    let inventory = engine.inventory().await?;
    // As if everything had been so for long enough.
    let terms = Terms {
        patience: Duration::ZERO,
        starts_at_once: usize::MAX,
        ..arguments.terms()?
    };
    let (now, mut guard) = (Moment::now(), Guard::new(arguments.guard_window));
    guard.observe(view.environments(), |_| true, now.at);
    let closed = guard.closed();
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

fn text(plan: &Plan, retire_after: Duration, guard: Option<&str>) -> String {
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
                    "retire  {backend} once nobody has needed it for {after}{held}"
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
