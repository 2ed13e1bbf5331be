//! Backends that an operator wants launched again: their image is another one under the same tag.

use super::*;
use crate::engine::Pull;
use crate::recipe::tests::patterns;

const WORD: &str = "relaunches/x/1";

impl Stage {
    /// The word that `x@1` is to be launched again; every key of a test has the revision 1.
    fn word(&mut self) {
        self.keys.insert(WORD.to_owned(), String::new());
    }

    /// A unit of `x@1` that was made for the word, and runs.
    fn new_unit(&mut self, number: usize) {
        self.unit(number, UnitState::Running);
        self.inventory.units.last_mut().unwrap().digest += "+1";
    }

    fn gone(&mut self, number: usize) {
        self.inventory.units.retain(|unit| unit.name != name(number));
        self.keys.remove(&format!("backends/x/1/10.0.0.{number}:80"));
    }
}

/// What is started and removed, and how many requests are done.
fn steps(plan: &LaunchPlan) -> (Vec<&str>, Vec<&str>, usize) {
    (started(plan), removed(plan), plan.relaunched.len())
}

/// Why the request is given up; empty where it is not.
fn given_up(plan: &LaunchPlan) -> &str {
    let given_up = plan.given_up.get(&x1());
    given_up.map_or("", |given_up| given_up.reason.as_str())
}

#[test]
fn the_old_one_stays_until_the_new_one_answers_and_the_word_until_the_old_one_is_gone() {
    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.after(0);
    stage.word();
    let plan = stage.after(0);
    assert_eq!(steps(&plan), (vec![name(2).as_str()], vec![], 0));
    let launch = &plan.starts[0].1;
    assert_eq!(launch.pull, Pull::Newest, "the engine has the old image");
    assert!(launch.digest.ends_with("+1"), "{}", launch.digest);
    stage
        .busy
        .insert(name(2), (x1(), Doing::Starting(Progress::Pulling(None))));
    assert_eq!(steps(&stage.after(1)), (vec![], vec![], 0));
    stage.busy.clear();
    stage.new_unit(2);
    let plan = stage.after(1);
    assert_eq!(
        (steps(&plan), phase(&plan).as_str()),
        ((vec![], vec![], 0), "checking")
    );
    stage.instance(2, "c2");
    let plan = stage.after(1);
    assert_eq!((steps(&plan), plan.drains.len()), ((vec![], vec![], 0), 1));
    let plan = stage.after(5);
    assert_eq!(steps(&plan), (vec![], vec![name(1).as_str()], 0));
    stage.busy.insert(name(1), (x1(), Doing::Removing));
    assert_eq!(steps(&stage.after(1)), (vec![], vec![], 0));
    stage.busy.clear();
    stage.gone(1);
    assert_eq!(steps(&stage.after(1)), (vec![], vec![], 1));
    // From then on it is a unit like any other, and so is its successor.
    stage.keys.remove(WORD);
    assert_eq!(steps(&stage.after(1)), (vec![], vec![], 0));
    stage.gone(2);
    let plan = stage.after(1);
    assert_eq!((started(&plan).len(), plan.starts[0].1.pull), (1, Pull::Missing));
}

#[test]
fn of_several_each_is_replaced_and_a_later_word_begins_anew() {
    let mut stage = Stage::new();
    stage.definition("x", r#", "instances": 2"#);
    stage.live_unit(1);
    stage.live_unit(2);
    stage.word();
    assert_eq!(started(&stage.after(0)), [name(3), name(4)]);
    stage.new_unit(3);
    stage.instance(3, "c3");
    let plan = stage.after(1);
    assert_eq!(steps(&plan), (vec![name(4).as_str()], vec![], 0));
    stage.new_unit(4);
    stage.instance(4, "c4");
    stage.after(0);
    assert_eq!(removed(&stage.after(5)), [name(1), name(2)]);
    stage.gone(1);
    stage.gone(2);
    // Units of an earlier word are as old as any.
    for unit in &mut stage.inventory.units {
        unit.digest = unit.digest.replace("+1", "+0");
    }
    assert_eq!(
        steps(&stage.after(0)),
        (vec![name(1).as_str(), name(2).as_str()], vec![], 0)
    );
}

#[test]
fn a_new_one_that_fails_harms_nobody_and_a_new_word_is_a_new_try() {
    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.word();
    stage.after(0);
    (0..5).for_each(|_| stage.fails("exited with 3"));
    let plan = stage.after(1);
    assert_eq!(
        (steps(&plan), phase(&plan).as_str()),
        ((vec![], vec![], 0), "failed: exited with 3")
    );
    // What answers is a unit of before, whoever asks for what.
    assert_eq!(plan.backends[&x1()].live, 1);
    let mut stage = Stage::new();
    stage.after(0);
    stage.after(3);
    (0..5).for_each(|_| stage.fails("exited with 3"));
    assert!(started(&stage.after(1)).is_empty());
    stage.word();
    assert_eq!(started(&stage.after(0)).len(), 1);
}

#[test]
fn a_word_that_nothing_comes_of_is_given_up_and_not_done() {
    // Somebody else runs it.
    let mut stage = Stage::new();
    stage.instance(1, "");
    stage.word();
    let plan = stage.after(10);
    assert_eq!(
        (steps(&plan), given_up(&plan)),
        (
            (vec![], vec![], 0),
            "this launcher did not start the instances of x@1"
        )
    );
    // Beside one of ours, which is kept.
    stage.unit(2, UnitState::Running);
    stage.instance(2, "c2");
    let plan = stage.after(10);
    assert_eq!(
        (steps(&plan), given_up(&plan)),
        (
            (vec![], vec![], 0),
            "this launcher did not start the instances of x@1"
        )
    );
    // It only follows what runs, or nobody needs it, or nobody knows how to start it, or it may not
    // be started any more.
    for (change, part) in [
        |stage: &mut Stage| stage.environment("a", "x", "latest"),
        |stage: &mut Stage| drop(stage.keys.remove("environments/a")),
        |stage: &mut Stage| drop(stage.keys.remove("services/x")),
        |stage: &mut Stage| stage.planner = not_allowed(),
        |stage: &mut Stage| stage.definition("x", r#", "versions": "^2""#),
    ]
    .into_iter()
    .zip([
        "no environment names exactly",
        "no environment names exactly",
        "service x has no definition",
        "--allow-image",
        "versions",
    ]) {
        let mut stage = Stage::new();
        stage.live_unit(1);
        stage.word();
        change(&mut stage);
        let plan = stage.after(0);
        assert_eq!(steps(&plan), (vec![], vec![], 0), "{part}");
        assert!(given_up(&plan).contains(part), "{part}: {}", given_up(&plan));
        assert_eq!(plan.given_up[&x1()].revision, 1);
    }
    // While the registry is in doubt nothing is retired, and so nothing is done.
    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.word();
    stage.new_unit(2);
    stage.instance(2, "c2");
    stage.guard = Some("etcd has no environment at all");
    let plan = stage.after(10);
    assert_eq!((steps(&plan), given_up(&plan)), ((vec![], vec![], 0), ""));
}

/// A launcher that allows no image of a test.
fn not_allowed() -> Planner {
    Planner::new(LaunchTerms {
        allowed_images: patterns("team/*"),
        ..terms()
    })
}

#[test]
fn why_a_word_was_given_up_is_told_until_the_next_one_comes_or_the_units_are_gone() {
    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.definition("x", r#", "memory": "1g""#);
    stage.word();
    assert!(given_up(&stage.after(0)).contains("--memory"));
    stage.keys.remove(WORD);
    assert!(given_up(&stage.after(10_000)).contains("--memory"));
    stage.definition("x", "");
    stage.word();
    let plan = stage.after(0);
    assert_eq!(
        (steps(&plan), given_up(&plan)),
        ((vec![name(2).as_str()], vec![], 0), "")
    );

    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.keys.remove("environments/a");
    stage.word();
    stage.after(0);
    stage.keys.remove(WORD);
    stage.gone(1);
    // Whoever waits may come a little later.
    assert!(given_up(&stage.after(599)).contains("no environment names exactly"));
    assert_eq!(given_up(&stage.after(1)), "");
}

#[test]
fn of_what_may_not_be_started_any_more_no_earlier_try_is_told() {
    let mut stage = Stage::new();
    stage.live_unit(1);
    stage.after(0);
    stage.fails("exited with 3");
    assert_eq!(stage.after(0).backends[&x1()].failures, 1);
    stage.definition("x", r#", "memory": "1g""#);
    let plan = stage.after(0);
    let said = &plan.backends[&x1()];
    assert_eq!((said.failures, &said.next_try), (0, &None));
    assert!(said.failure.as_deref().unwrap().contains("--memory"), "{said:?}");
}

#[test]
fn of_two_times_to_plan_again_the_sooner_one_counts() {
    let now = Instant::now();
    let later = now + Duration::from_secs(1);
    for (again, at, expected) in [
        (None, later, later),
        (Some(now), later, now),
        (Some(later), now, now),
    ] {
        assert_eq!(sooner(again, at), Some(expected));
    }
}
