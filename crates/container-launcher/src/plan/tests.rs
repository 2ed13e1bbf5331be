//! Tests of the plan: a stage with etcd's keys, the engine's units and a clock, and what is planned on it.

use mayfly_core::keys::KeySpace;
use proptest::prelude::*;

use super::*;
use crate::desired::tests::view;
use crate::engine::UnitState;
use crate::recipe::tests::terms;

mod again;
mod patience;
mod silence;
mod turns;

/// All that a plan goes by, to be changed step by step.
struct Stage {
    planner: Planner,
    keys: BTreeMap<String, String>,
    inventory: Inventory,
    busy: BTreeMap<String, (BackendId, Doing)>,
    guard: Option<&'static str>,
    now: ClockReading,
}

impl Stage {
    /// An environment `a` that asks for `x@1`, and a definition of `x`.
    fn new() -> Self {
        let mut stage = Self {
            planner: Planner::new(terms()),
            keys: BTreeMap::new(),
            inventory: Inventory::default(),
            busy: BTreeMap::new(),
            guard: None,
            now: ClockReading::now(),
        };
        stage.environment("a", "x", "1");
        stage.definition("x", "");
        stage
    }

    fn environment(&mut self, name: &str, service: &str, version: &str) {
        let value = serde_json::json!({
            "name": name, "prefix": name, "header": name, "services": [{"name": service, "version": version}],
        });
        self.keys
            .insert(format!("environments/{name}"), value.to_string());
    }

    fn definition(&mut self, service: &str, more: &str) {
        let value =
            format!(r#"{{"name": "{service}", "image": "{service}:{{{{ version }}}}", "port": 80{more}}}"#);
        self.keys.insert(format!("services/{service}"), value);
    }

    /// An instance of `x@1` at 10.0.0.<last>, in a container unless that is empty.
    fn instance(&mut self, last: u8, container: &str) {
        let metadata = match container {
            "" => serde_json::json!({}),
            id => serde_json::json!({"container": id}),
        };
        let address = format!("10.0.0.{last}:80");
        let value = serde_json::json!({"address": address, "metadata": metadata});
        self.keys
            .insert(format!("backends/x/1/{address}"), value.to_string());
    }

    /// A unit of `x@1` by the present definition, running in the container `c<number>`.
    fn unit(&mut self, number: usize, state: UnitState) {
        let digest = {
            let view = self.view();
            let definition = view.definition(&"x".parse().unwrap()).unwrap();
            Recipe::new(&x1(), definition, &self.planner.terms)
                .unwrap()
                .digest()
                .to_owned()
        };
        self.inventory.units.push(Unit {
            name: name(number),
            backend: x1(),
            digest,
            state,
            containers: vec![format!("c{number}")],
            image: Some(format!("00000000000{number}")),
        });
    }

    /// A unit that runs and answers.
    fn live_unit(&mut self, number: usize) {
        self.unit(number, UnitState::Running);
        self.instance(u8::try_from(number).unwrap(), &format!("c{number}"));
    }

    fn view(&self) -> View {
        let entries: Vec<(&str, &str)> = self
            .keys
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        view(&entries)
    }

    fn after(&mut self, seconds: u64) -> LaunchPlan {
        self.now = self.now.after(Duration::from_secs(seconds));
        let view = self.view();
        let situation = Situation {
            view: &view,
            inventory: &self.inventory,
            busy: &self.busy,
            guard: self.guard,
        };
        self.planner.plan(&situation, self.now)
    }

    fn fails(&mut self, reason: &str) {
        self.planner.failed(
            &x1(),
            reason.to_owned(),
            vec!["its last words".to_owned()],
            self.now,
        );
    }
}

fn x1() -> BackendId {
    "x@1".parse().unwrap()
}

fn name(number: usize) -> String {
    naming::unit(&KeySpace::default(), &x1(), number)
}

fn started(plan: &LaunchPlan) -> Vec<&str> {
    plan.starts
        .iter()
        .map(|(_, launch)| launch.name.as_str())
        .collect()
}

fn removed(plan: &LaunchPlan) -> Vec<&str> {
    plan.removes.iter().map(|(_, name)| name.as_str()).collect()
}

fn phase(plan: &LaunchPlan) -> String {
    plan.backends
        .get(&x1())
        .map_or("nothing".to_owned(), |state| state.phase.to_string())
}

#[test]
fn what_is_missing_is_started_once_nobody_else_has_done_so_for_a_while() {
    let mut stage = Stage::new();
    let plan = stage.after(0);
    assert_eq!((started(&plan).len(), phase(&plan).as_str()), (0, "waiting"));
    assert_eq!(plan.again, Some(stage.now.at + Duration::from_secs(3)));
    let plan = stage.after(3);
    assert_eq!(
        (started(&plan), phase(&plan).as_str()),
        (vec![name(1).as_str()], "starting")
    );
}

#[test]
fn what_somebody_else_runs_is_left_to_them() {
    let mut stage = Stage::new();
    stage.instance(1, "");
    assert!(stage.after(0).backends.is_empty());
    assert!(started(&stage.after(100)).is_empty());
    // Also what is labelled and not registered yet.
    let mut stage = Stage::new();
    stage.inventory.others.insert(x1(), 1);
    assert!(started(&stage.after(100)).is_empty() && started(&stage.after(100)).is_empty());
}

#[test]
fn the_difference_is_started() {
    let mut stage = Stage::new();
    stage.definition("x", r#", "instances": 3"#);
    stage.instance(9, "theirs");
    stage.after(0);
    assert_eq!(started(&stage.after(3)), [name(1), name(2)]);
}

#[test]
fn what_only_follows_what_runs_is_not_started() {
    let mut stage = Stage::new();
    stage.environment("a", "x", "latest");
    stage.after(0);
    assert!(started(&stage.after(100)).is_empty());
}

#[test]
fn phases_of_a_start() {
    let mut stage = Stage::new();
    stage.after(0);
    stage.after(3);
    let starting = |progress| (x1(), Doing::Starting(progress));
    stage.busy.insert(name(1), starting(Progress::Pulling(Some(40))));
    let plan = stage.after(1);
    assert_eq!((started(&plan).len(), phase(&plan).as_str()), (0, "pulling 40 %"));
    stage.busy.clear();
    stage.unit(1, UnitState::Running);
    assert_eq!(phase(&stage.after(1)), "checking");
    stage.instance(1, "c1");
    let plan = stage.after(1);
    assert_eq!(phase(&plan), "running");
    let state = &plan.backends[&x1()];
    assert_eq!((state.wanted, state.live, state.failures), (1, 1, 0));
    assert_eq!(state.images, ["000000000001".to_owned()].into());
}

#[test]
fn no_definition_and_a_definition_that_does_not_fit_are_told_and_start_nothing() {
    let mut stage = Stage::new();
    stage.keys.remove("services/x");
    // At first it may be about to be registered.
    let plan = stage.after(0);
    assert_eq!((phase(&plan).as_str(), plan.again.is_some()), ("waiting", true));
    assert_eq!(phase(&stage.after(10)), "no definition");
    stage.definition("x", r#", "versions": ">=2""#);
    let plan = stage.after(10);
    assert!(
        phase(&plan).contains("failed: the definition of x does not allow version 1"),
        "{}",
        phase(&plan)
    );
    assert!(started(&stage.after(10)).is_empty());
}

#[test]
fn pauses_grow_with_each_failure_and_the_reason_is_told() {
    let mut stage = Stage::new();
    stage.after(0);
    let mut pauses = Vec::new();
    for failure in 1..=6 {
        let mut waited = 0;
        while started(&stage.after(1)).is_empty() {
            waited += 1;
            assert!(waited < 1000);
        }
        pauses.push(waited);
        stage.fails("exited with 3");
        let plan = stage.after(0);
        if failure > 1 {
            assert_eq!(phase(&plan), "failed: exited with 3");
            let state = &plan.backends[&x1()];
            assert_eq!((state.failures, state.output.len()), (failure, 1));
            assert!(state.next_try.is_some());
        }
    }
    assert!(pauses[5] > pauses[3] && pauses[3] > pauses[1], "{pauses:?}");
}

#[test]
fn a_mended_definition_is_tried_at_once() {
    let mut stage = Stage::new();
    stage.after(0);
    stage.after(3);
    (0..5).for_each(|_| stage.fails("exited with 3"));
    assert!(started(&stage.after(1)).is_empty());
    stage.definition("x", r#", "command": ["serve"]"#);
    let plan = stage.after(0);
    assert_eq!((started(&plan).len(), plan.backends[&x1()].failures), (1, 0));
}

#[test]
fn what_has_failed_leaves_places_to_what_may_work() {
    let mut stage = Stage::new();
    stage.definition("x", r#", "instances": 50"#);
    stage.after(0);
    stage.after(3);
    stage.fails("no answer");
    assert_eq!(stage.after(0).starts.len(), 4, "half of eight");
    stage.definition("y", r#", "instances": 50"#);
    stage.environment("b", "y", "1");
    stage.after(0);
    let plan = stage.after(3);
    let of_y = plan
        .starts
        .iter()
        .filter(|(backend, _)| backend.service.as_str() == "y");
    assert_eq!((of_y.count(), plan.starts.len()), (8, 8));
}

#[test]
fn a_stranger_that_is_not_registered_is_told() {
    let mut stage = Stage::new();
    stage.inventory.others.insert(x1(), 1);
    assert!(phase(&stage.after(0)).starts_with("not started: another program's container"));
    stage.instance(1, "theirs");
    assert_eq!(phase(&stage.after(0)), "nothing");
}

#[test]
fn what_the_engine_is_removing_is_neither_a_failure_nor_there() {
    let mut stage = Stage::new();
    stage.unit(1, UnitState::Leaving);
    let plan = stage.after(0);
    assert!(plan.clears.is_empty() && plan.removes.is_empty());
    assert_eq!(started(&plan), [name(2)]);
}

#[test]
fn a_container_that_ends_is_cleared_and_its_failures_are_forgotten_only_once_it_has_answered_for_long() {
    let mut stage = Stage::new();
    stage.unit(1, UnitState::Ended("exited with 3".to_owned()));
    let plan = stage.after(0);
    assert_eq!(plan.clears, [(x1(), name(1), "exited with 3".to_owned())]);
    stage.inventory.units.clear();
    stage.fails("exited with 3");
    assert_eq!(
        started(&stage.after(0)).len(),
        1,
        "the first new try comes at once"
    );
    stage.live_unit(1);
    let plan = stage.after(1);
    assert_eq!(
        (phase(&plan).as_str(), plan.backends[&x1()].failures),
        ("running", 1)
    );
    assert_eq!(stage.after(61).backends[&x1()].failures, 0);
}

#[test]
fn what_is_half_made_is_finished_or_removed() {
    let mut stage = Stage::new();
    stage.unit(1, UnitState::Created);
    let plan = stage.after(0);
    assert_eq!(
        (started(&plan), removed(&plan).len()),
        (vec![name(1).as_str()], 0)
    );
    stage.keys.remove("environments/a");
    let plan = stage.after(0);
    assert_eq!(
        (started(&plan).len(), removed(&plan)),
        (0, vec![name(1).as_str()])
    );
}

#[test]
fn what_nobody_needs_is_drained_and_removed_after_its_time() {
    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.after(0);
    stage.keys.remove("environments/a");
    let plan = stage.after(0);
    assert!(
        phase(&plan).starts_with("unused, will be retired at "),
        "{}",
        phase(&plan)
    );
    assert!(stage.after(3599).drains.is_empty());
    let plan = stage.after(1);
    assert_eq!(
        (plan.drains.len(), removed(&plan).len(), phase(&plan).as_str()),
        (1, 0, "retiring")
    );
    // The drain is in etcd by then.
    stage
        .keys
        .insert("drains/x/1/10.0.0.1:80".to_owned(), String::new());
    let plan = stage.after(5);
    assert_eq!((plan.drains.len(), removed(&plan)), (1, vec![name(1).as_str()]));
    // While it is stopped, its instance is drained still.
    stage.busy.insert(name(1), (x1(), Doing::Removing));
    let plan = stage.after(1);
    assert_eq!((plan.drains.len(), removed(&plan).len()), (1, 0));
}

#[test]
fn needed_again_while_it_drains_it_stays() {
    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.keys.remove("environments/a");
    stage.after(0);
    assert_eq!(stage.after(3600).drains.len(), 1);
    stage.environment("b", "x", "1");
    let plan = stage.after(1);
    assert!(plan.drains.is_empty() && plan.removes.is_empty());
    stage.keys.remove("environments/b");
    assert!(stage.after(1).drains.is_empty(), "its time begins anew");
}

#[test]
fn whoever_follows_what_runs_keeps_it() {
    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.environment("a", "x", "latest");
    stage.after(0);
    assert!(stage.after(10_000).removes.is_empty());
}

#[test]
fn nothing_is_retired_while_the_guard_holds_it_back() {
    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.keys.remove("environments/a");
    stage.guard = Some("etcd has no environment at all");
    stage.after(0);
    let plan = stage.after(4000);
    assert_eq!((plan.drains.len(), plan.removes.len(), plan.held_back), (0, 0, 1));
    stage.guard = None;
    assert_eq!(stage.after(0).drains.len(), 1);
}

#[test]
fn another_definition_replaces_a_unit_once_the_new_one_answers() {
    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.definition("x", r#", "env": {"A": "1"}"#);
    let plan = stage.after(0);
    assert_eq!((started(&plan), plan.drains.len()), (vec![name(2).as_str()], 0));
    stage.unit(2, UnitState::Running);
    assert!(
        stage.after(1).drains.is_empty(),
        "the new one does not answer yet"
    );
    stage.instance(2, "c2");
    let plan = stage.after(1);
    let drained: Vec<String> = plan
        .drains
        .iter()
        .map(|key| KeySpace::default().text(key))
        .collect();
    assert_eq!(drained, ["/mayfly/drains/x/1/10.0.0.1:80"]);
    assert_eq!(removed(&stage.after(5)), [name(1)]);
}

#[test]
fn fewer_instances_are_the_last_ones_less() {
    let mut stage = Stage::new();
    stage.definition("x", r#", "instances": 3"#);
    (1..=3).for_each(|number| stage.live_unit(number));
    assert!(stage.after(0).drains.is_empty());
    stage.definition("x", "");
    assert_eq!(stage.after(0).drains.len(), 2);
    assert_eq!(removed(&stage.after(5)), [name(2), name(3)]);
}

#[test]
fn the_limits_hold() {
    let mut stage = Stage::new();
    stage.planner.terms.max_containers = 12;
    stage.definition("x", r#", "instances": 50"#);
    stage.after(0);
    let plan = stage.after(3);
    assert_eq!((plan.starts.len(), phase(&plan).as_str()), (8, "waiting"));
    (1..=8).for_each(|number| stage.unit(number, UnitState::Running));
    let plan = stage.after(0);
    assert_eq!(plan.starts.len(), 4);
    assert!(
        phase(&plan).contains("limit of 12 containers"),
        "{}",
        phase(&plan)
    );
}

#[test]
fn an_environment_that_changes_back_and_forth_starts_nothing_twice() {
    let mut stage = Stage::new();
    for flip in 0..20 {
        let version = if flip % 2 == 0 { "1" } else { "2" };
        stage.environment("a", "x", version);
        assert!(started(&stage.after(1)).is_empty());
    }
    assert!(started(&stage.after(1)).is_empty());
    assert_eq!(started(&stage.after(3)).len(), 1);
}

/// What may happen between two plans.
#[derive(Debug, Clone)]
enum PlanEvent {
    Need(bool),
    Instances(u8),
    /// The engine carries out the last plan, or does nothing.
    Engine(bool),
    Dies(usize),
    Answers(usize),
    Fails,
    Wait(u16),
}

fn any_event() -> impl Strategy<Value = PlanEvent> {
    prop_oneof![
        1 => any::<bool>().prop_map(PlanEvent::Need),
        1 => (1u8..5).prop_map(PlanEvent::Instances),
        3 => any::<bool>().prop_map(PlanEvent::Engine),
        1 => (1usize..6).prop_map(PlanEvent::Dies),
        2 => (1usize..6).prop_map(PlanEvent::Answers),
        1 => Just(PlanEvent::Fails),
        2 => (0u16..5000).prop_map(PlanEvent::Wait),
    ]
}

proptest! {
    /// Whatever happens: no more units than the greatest number that was ever wanted twice over (old and new definition),
    /// no unit started that is there, none removed that an environment needs and the definition wants.
    #[test]
    fn whatever_happens_nothing_is_made_twice(events in proptest::collection::vec(any_event(), 1..60)) {
        let mut stage = Stage::new();
        let mut plan = stage.after(0);
        let mut most = 1;
        for event in events {
            let mut wait = 0;
            match event {
                PlanEvent::Need(true) => stage.environment("a", "x", "1"),
                PlanEvent::Need(false) => drop(stage.keys.remove("environments/a")),
                PlanEvent::Instances(count) => {
                    most = most.max(usize::from(count));
                    stage.definition("x", &format!(r#", "instances": {count}"#));
                }
                PlanEvent::Engine(false) => {}
                PlanEvent::Engine(true) => {
                    let gone: Vec<String> = plan.removes.iter().map(|(_, name)| name.clone())
                        .chain(plan.clears.iter().map(|(_, name, _)| name.clone())).collect();
                    stage.inventory.units.retain(|unit| !gone.contains(&unit.name));
                    for (_, launch) in std::mem::take(&mut plan.starts) {
                        let number = naming::number(&KeySpace::default(), &x1(), &launch.name).unwrap();
                        prop_assert!(stage.inventory.units.iter().all(|unit| unit.name != launch.name), "made twice");
                        stage.unit(number, UnitState::Running);
                    }
                }
                PlanEvent::Dies(number) => {
                    stage.keys.remove(&format!("backends/x/1/10.0.0.{number}:80"));
                    for unit in &mut stage.inventory.units {
                        if unit.name == name(number) {
                            unit.state = UnitState::Ended("killed".to_owned());
                        }
                    }
                }
                PlanEvent::Answers(number) => {
                    let runs = |unit: &Unit| unit.name == name(number) && unit.state == UnitState::Running;
                    if stage.inventory.units.iter().any(runs) {
                        stage.instance(u8::try_from(number).unwrap(), &format!("c{number}"));
                    }
                }
                PlanEvent::Fails => stage.fails("why"),
                PlanEvent::Wait(seconds) => wait = u64::from(seconds),
            }
            plan = stage.after(wait);
            prop_assert!(stage.inventory.units.len() + plan.starts.len() <= most * 2);
            let there = |name: &str| stage.inventory.units.iter().any(|unit| unit.name == name);
            prop_assert!(started(&plan).iter().all(|name| !there(name)));
            prop_assert!(removed(&plan).iter().all(|name| there(name)));
            let needed = stage.keys.contains_key("environments/a");
            let wanted = stage.view().definition(&"x".parse().unwrap()).unwrap().instances.count();
            if needed {
                let stays = stage.inventory.units.len() - plan.removes.len() - plan.clears.len();
                prop_assert!(plan.removes.is_empty() || stays >= wanted, "{} of {}", stays, wanted);
            }
        }
    }
}
