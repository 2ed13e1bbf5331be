//! Who has the places of `--max-containers`, and what becomes of units that could not be made now.

use super::*;

#[test]
fn one_definition_with_many_instances_keeps_nobody_from_a_first_one() {
    let mut stage = Stage::new();
    stage.planner.terms.max_containers = 4;
    stage.definition("x", r#", "instances": 100"#);
    (1..=4).for_each(|number| stage.unit(number, UnitState::Running));
    let plan = stage.after(0);
    assert!(removed(&plan).is_empty() && phase(&plan).contains("limit of 4 containers"));

    stage.definition("y", "");
    stage.environment("b", "y", "1");
    assert!(
        removed(&stage.after(0)).is_empty(),
        "another instance may be about to appear"
    );
    let plan = stage.after(3);
    assert_eq!((removed(&plan), plan.starts.len()), (vec![name(4).as_str()], 0));
    let y = "y@1".parse().unwrap();
    assert!(plan.backends[&y].phase.to_string().contains("limit of 4"));
    stage.inventory.units.pop();
    let plan = stage.after(0);
    assert!(removed(&plan).is_empty());
    assert_eq!((plan.starts.len(), &plan.starts[0].0), (1, &y));
    // And while it is started, and when it fails, its place is not taken again.
    stage
        .planner
        .failed(&y, "exited with 3".to_owned(), Vec::new(), stage.now);
    stage
        .planner
        .failed(&y, "exited with 3".to_owned(), Vec::new(), stage.now);
    let plan = stage.after(0);
    assert!(plan.starts.is_empty() && plan.removes.is_empty());
}

#[test]
fn starts_are_handed_out_in_turns_too() {
    let mut stage = Stage::new();
    stage.planner.terms.starts_at_once = 3;
    stage.definition("x", r#", "instances": 50"#);
    stage.definition("y", "");
    stage.environment("b", "y", "1");
    stage.after(0);
    let plan = stage.after(3);
    let backends: Vec<String> = plan
        .starts
        .iter()
        .map(|(backend, _)| backend.to_string())
        .collect();
    assert_eq!(backends, ["x@1", "y@1", "x@1"]);
    assert_eq!(phase(&plan), "waiting");
}

#[test]
fn what_nobody_needs_gives_its_place_to_what_is_needed_and_to_nothing_else() {
    let mut stage = Stage::new();
    stage.planner.terms.max_containers = 2;
    stage.definition("x", r#", "instances": 2"#);
    stage.live_unit(1);
    stage.live_unit(2);
    stage.keys.remove("environments/a");
    assert!(stage.after(1000).drains.is_empty());
    stage.definition("y", "");
    stage.environment("b", "y", "1");
    stage.after(0);
    let plan = stage.after(3);
    assert_eq!(plan.drains.len(), 1, "one place is needed");
    assert_eq!(removed(&stage.after(5)), [name(2)]);
    stage.guard = Some("etcd has no environment at all");
    assert!(stage.after(0).removes.is_empty());
}

/// What a launcher of an earlier version has made has other names and digests.
#[test]
fn units_of_an_earlier_launcher_are_replaced_once_their_successors_answer() {
    let mut stage = Stage::new();
    stage.live_unit(1);
    let old = "mayfly-x-1-0123456789ab-1";
    stage.inventory.units[0].name = old.to_owned();
    stage.inventory.units[0].digest = "0123456789ab".to_owned();
    let plan = stage.after(0);
    assert_eq!((started(&plan), plan.drains.len()), (vec![name(1).as_str()], 0));
    stage.unit(1, UnitState::Running);
    stage.inventory.units[1].containers = vec!["successor".to_owned()];
    assert!(stage.after(1).drains.is_empty(), "it does not answer yet");
    stage.instance(2, "successor");
    let plan = stage.after(1);
    assert_eq!((plan.drains.len(), plan.starts.len()), (1, 0));
    assert_eq!(removed(&stage.after(5)), [old]);
    // And what nobody needs goes as always.
    stage.inventory.units.pop();
    stage.keys.remove("environments/a");
    stage.after(0);
    assert_eq!(stage.after(3600).drains.len(), 1);
}

#[test]
fn what_runs_by_a_definition_that_is_refused_by_now_is_kept_and_it_is_said() {
    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.definition("x", r#", "memory": "1g""#);
    let plan = stage.after(10_000);
    assert!(plan.removes.is_empty() && plan.starts.is_empty() && plan.drains.is_empty());
    let said = &plan.backends[&x1()];
    assert_eq!(said.phase.to_string(), "running");
    assert!(said.failure.as_deref().unwrap().contains("--memory"), "{said:?}");
}
