//! What restoring one registry over another does, and in which transactions.

use super::*;
use mayfly_core::keys::KeySpace;
use mayfly_core::records::lifetime::Moment;
use mayfly_daemon::store::{Entry, LeaseId, Listing};
use serde_json::json;

use crate::dump::file;

fn noon() -> SystemTime {
    "2030-01-31T12:00:00Z".parse::<Moment>().unwrap().time()
}

fn entry(key: &str, value: &Value) -> Entry {
    Entry {
        key: format!("/mayfly/{key}"),
        value: value.to_string().into_bytes(),
        create_revision: 1,
        mod_revision: 5,
        lease: None,
    }
}

/// A registered environment with its history.
fn environment(name: &str, fields: Value) -> Vec<Entry> {
    let mut record = json!({"name": name, "prefix": name, "header": name});
    record
        .as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    ["environments", "history"]
        .map(|kind| entry(&format!("{kind}/{name}"), &record))
        .to_vec()
}

fn contents(entries: Vec<Entry>) -> Contents {
    Contents::of(&KeySpace::default(), Listing { revision: 9, entries })
}

/// The plan of restoring the one over the other, as words.
fn plan(dumped: Vec<Entry>, there: Vec<Entry>) -> RestorePlan {
    let space = KeySpace::default();
    let (_, text) = file::write(&space, &contents(dumped), Moment::of(noon()));
    let (_, dumped) = file::read(&space, &text).unwrap();
    RestorePlan::of(&dumped, &contents(there), noon())
}

fn words(plan: &RestorePlan) -> Vec<String> {
    let space = KeySpace::default();
    let transactions = plan.transactions();
    let word = |step: &RestoreStep| format!("{:?} {}", step.change, file::relative(&space, &step.key));
    let words = transactions
        .iter()
        .map(|steps| steps.iter().map(|step| word(step)).collect::<Vec<_>>().join(", "));
    words.collect()
}

#[test]
fn an_environment_is_in_one_transaction_with_its_history_and_deletions_come_last() {
    let mut ended = entry(
        "ended/old",
        &json!({"prefix": "old", "at": "2030-01-30T00:00:00Z", "why": "idle"}),
    );
    ended.lease = Some(LeaseId::default());
    let history = environment("old", json!({})).remove(1);
    let dumped = [
        environment("a", json!({})),
        environment("b", json!({"expires": "8h"})),
        vec![ended, history],
    ]
    .concat();
    let there = [
        environment("a", json!({"description": "other"})),
        environment("gone", json!({})),
    ]
    .concat();
    let plan = plan(dumped, there);
    assert_eq!(
        words(&plan),
        [
            "Replace environments/a, Replace history/a, Create environments/b, Create history/b, Create history/old, \
          Create ended/old, Delete environments/gone, Delete history/gone"
        ]
    );
    assert!(!plan.only_adds() && !plan.is_done());
    let of = |key: &str| {
        plan.steps
            .iter()
            .find(|step| file::relative(&KeySpace::default(), &step.key) == key)
            .unwrap()
    };
    assert_eq!(
        (of("environments/a").before, of("environments/b").before),
        (Some(5), None)
    );
    let month = Duration::from_secs((30 * 24 - 36) * 3600);
    assert_eq!((of("ended/old").ttl, of("history/old").ttl), (Some(month), None));
}

#[test]
fn what_is_there_already_is_kept_and_a_second_run_has_nothing_to_do() {
    let all = || [environment("a", json!({})), environment("b", json!({}))].concat();
    assert!(plan(all(), all()).is_done());
    let half = plan(all(), environment("a", json!({})));
    assert!(half.only_adds());
    assert_eq!(words(&half), ["Create environments/b, Create history/b"]);
    // The same in other words.
    let mut spaced = all();
    spaced[0].value = b"{\"header\":\"a\",\n\"prefix\":\"a\", \"name\":\"a\"}".to_vec();
    assert!(plan(all(), spaced.clone()).is_done() && plan(spaced, all()).is_done());
}

#[test]
fn an_environment_whose_time_is_over_leaves_its_history_only() {
    let life = |registered: &str| json!({"expires": "8h", "life": {"registered_at": registered}});
    let dumped = [
        environment("over", life("2030-01-31T03:00:00Z")),
        environment("alive", life("2030-01-31T05:00:00Z")),
    ];
    let plan = plan(dumped.concat(), Vec::new());
    assert_eq!(
        words(&plan),
        ["Create environments/alive, Create history/alive, Create history/over"]
    );
    assert_eq!(plan.count(None, RestoreAction::Over), 1);
    let alive = plan
        .steps
        .iter()
        .find(|step| step.ttl.is_some_and(|ttl| !ttl.is_zero()))
        .unwrap();
    assert_eq!(alive.ttl, Some(Duration::from_secs(3600)));
}

#[test]
fn an_environment_that_was_prolonged_after_the_dump_stays_with_its_history() {
    let life = |expires: &str| json!({"expires": expires, "life": {"registered_at": "2030-01-31T03:00:00Z"}});
    let dumped = || [environment("temp", life("8h")), environment("other", json!({}))].concat();
    let plan = plan(dumped(), environment("temp", life("16h")));
    assert_eq!(words(&plan), ["Create environments/other, Create history/other"]);
    assert!(plan.only_adds());
    assert_eq!(
        (
            plan.count(None, RestoreAction::Over),
            plan.count(None, RestoreAction::Keep)
        ),
        (1, 1)
    );
}

#[test]
fn a_running_registrar_keeps_its_instance_and_a_permanent_one_takes_its_leave() {
    let instance = |lease| {
        let mut entry = entry("backends/web/1/10.0.0.1:80", &json!({"address": "10.0.0.1:80"}));
        entry.lease = lease;
        entry
    };
    let running = Some(LeaseId::default());
    assert!(plan(vec![instance(None)], vec![instance(running)]).is_done());
    assert!(plan(Vec::new(), vec![instance(running)]).is_done());
    let deleted = plan(Vec::new(), vec![instance(None)]);
    assert!(deleted.steps[0].leaving.is_some());
    // What only a newer Mayfly can read is left alone.
    assert!(plan(Vec::new(), vec![entry("environments/a", &json!({}))]).is_done());
    assert_eq!(words(&deleted), ["Delete backends/web/1/10.0.0.1:80"]);
}

#[test]
fn rivals_are_in_different_transactions_in_their_order_and_none_is_too_large() {
    let mut rivals = [
        environment("b", json!({"prefix": "www"})),
        environment("a", json!({"prefix": "www"})),
    ]
    .concat();
    for entry in &mut rivals[2..] {
        entry.create_revision = 2;
    }
    assert_eq!(
        words(&plan(rivals, Vec::new())),
        [
            "Create environments/b, Create history/b",
            "Create environments/a, Create history/a"
        ]
    );
    let many: Vec<Entry> = (0..130)
        .flat_map(|at| environment(&format!("e{at}"), json!({})))
        .collect();
    let plan_of_many = plan(many, Vec::new());
    let sizes: Vec<usize> = plan_of_many.transactions().iter().map(Vec::len).collect();
    assert_eq!(sizes, [100, 100, 60]);
    let long = json!({"description": "x".repeat(200_000)});
    let large: Vec<Entry> = (0..6)
        .flat_map(|at| environment(&format!("e{at}"), long.clone()))
        .collect();
    let plan_of_large = plan(large, Vec::new());
    let sizes: Vec<usize> = plan_of_large.transactions().iter().map(Vec::len).collect();
    assert_eq!(sizes, [4, 4, 4]);
}
