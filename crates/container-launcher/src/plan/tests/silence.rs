//! Units that run and are not registered: what never answered is cleared, and what may be in use is
//! not.

use super::*;

impl Stage {
    /// A unit of `x@1` that this planner starts, and that runs once its image is pulled.
    fn start_one(&mut self) {
        self.after(0);
        assert_eq!(started(&self.after(3)), [name(1)]);
        let pulling = Doing::Starting(Progress::Pulling(None));
        self.busy.insert(name(1), (x1(), pulling));
        self.after(1);
        self.busy.clear();
        self.unit(1, UnitState::Running);
    }
}

#[test]
fn what_never_answers_is_cleared_and_what_has_answered_once_is_not() {
    let mut stage = Stage::new();
    stage.start_one();
    let plan = stage.after(0);
    assert!(plan.clears.is_empty() && plan.again.is_some());
    let plan = stage.after(120);
    assert!(
        plan.clears[0].2.contains("was not registered within 2m"),
        "{:?}",
        plan.clears
    );

    let mut stage = Stage::new();
    stage.start_one();
    stage.instance(1, "c1");
    stage.after(0);
    stage.keys.remove("backends/x/1/10.0.0.1:80");
    let plan = stage.after(1000);
    assert!(plan.clears.is_empty() && plan.starts.is_empty());
    assert_eq!(phase(&plan), "checking");
}

#[test]
fn what_never_ran_is_not_in_use_whoever_has_started_it() {
    let mut stage = Stage::new();
    stage.unit(1, UnitState::Starting);
    stage.after(0);
    assert_eq!(stage.after(1000).clears.len(), 1);
}

#[test]
fn what_an_earlier_launcher_has_started_may_be_in_use() {
    // Its registrar is down, and so the new planner never sees it answer.
    let mut stage = Stage::new();
    stage.unit(1, UnitState::Running);
    stage.after(0);
    let plan = stage.after(1000);
    assert!(plan.clears.is_empty() && plan.removes.is_empty() && plan.starts.is_empty());
    assert_eq!(phase(&plan), "checking");
    // Of an earlier definition, it stays until its successor answers.
    stage.definition("x", r#", "env": {"A": "1"}"#);
    let plan = stage.after(0);
    assert_eq!((removed(&plan), started(&plan)), (vec![], vec![name(2).as_str()]));
    stage.unit(2, UnitState::Running);
    let plan = stage.after(1000);
    assert!(plan.clears.is_empty() && plan.removes.is_empty());
    // Its successor never answers.
    let plan = stage.after(120);
    assert_eq!(
        (plan.clears[0].1.as_str(), plan.clears.len()),
        (name(2).as_str(), 1)
    );
    stage.instance(2, "c2");
    assert_eq!(removed(&stage.after(1)), [name(1)]);
}

#[test]
fn silence_says_nothing_while_the_registry_is_in_doubt() {
    let mut stage = Stage::new();
    stage.start_one();
    stage.guard = Some("etcd has no environment at all");
    stage.after(0);
    assert!(stage.after(1000).clears.is_empty());
    stage.guard = None;
    assert_eq!(stage.after(0).clears.len(), 1);
}

#[test]
fn definitions_that_follow_each_other_pile_nothing_up() {
    let mut stage = Stage::new();
    stage.start_one();
    stage.after(0);
    stage.definition("x", r#", "env": {"A": "1"}"#);
    let plan = stage.after(0);
    assert_eq!(
        (removed(&plan), started(&plan)),
        (vec![name(1).as_str()], vec![name(2).as_str()])
    );
}
