//! Plans in words.

use std::collections::BTreeSet;

use super::*;
use crate::desired::merge::Merged;
use mayfly_core::records::lifetime::Life;
use mayfly_core::records::{Environment, Record, SetAsides, Source};
use mayfly_daemon::watch::{Batch, Change, Stored};

const GRACE: Duration = Duration::from_secs(1);

fn environment(name: &str, prefix: &str) -> Arc<Environment> {
    let json = serde_json::json!({"name": name, "prefix": prefix, "header": name});
    let mut environment: Environment = serde_json::from_value(json).unwrap();
    environment.source = Some(Source {
        registrar: "us".parse().unwrap(),
        file: "f.yaml".to_owned(),
    });
    Arc::new(environment)
}

fn merged(environments: &[&Arc<Environment>]) -> Merged {
    let mut merged = Merged::default();
    environments
        .iter()
        .for_each(|environment| merged.accept(environment));
    merged
}

fn actual(environments: &[&Arc<Environment>]) -> Actual {
    let mut actual = Actual::new(mayfly_core::keys::KeySpace::default(), "us".parse().unwrap());
    actual.update(Batch {
        revision: 1,
        listed: true,
        changes: Vec::new(),
        set_aside: SetAsides::default(),
    });
    for (index, environment) in environments.iter().enumerate() {
        actual.wrote(environment, Life::beginning(Moment::of(noon())), index as i64 + 2);
    }
    actual
}

/// The writes in words, as `put x absent` and `delete y 3`.
fn words(plan: &Plan) -> Vec<String> {
    let guard = |guard: &Guard| match guard {
        Guard::Absent => "absent".to_owned(),
        Guard::ModRevision(revision) => revision.to_string(),
        other => format!("{other:?}"),
    };
    let puts = plan
        .puts
        .iter()
        .map(|put| format!("put {} {}", put.name(), guard(&put.guard)));
    puts.chain(
        plan.deletes
            .iter()
            .map(|(name, g)| format!("delete {name} {}", guard(g))),
    )
    .collect()
}

#[test]
fn only_differences_are_written() {
    let (a, b, c) = (
        environment("a", "a"),
        environment("b", "b"),
        environment("c", "c"),
    );
    let changed = environment("b", "other");
    let plan = plan(
        &merged(&[&a, &changed, &c]),
        &actual(&[&a, &b]),
        &Scope::Everything,
        &mut Absences::new(GRACE),
        terms(),
        Instant::now(),
    );
    assert_eq!(
        (words(&plan), plan.again),
        (vec!["put b 3".to_owned(), "put c absent".to_owned()], None)
    );
}

#[test]
fn an_equal_record_is_noticed_and_not_written() {
    let (read, stored) = (environment("a", "a"), environment("a", "a"));
    let plan = plan(
        &merged(&[&read]),
        &actual(&[&stored]),
        &Scope::Everything,
        &mut Absences::new(GRACE),
        terms(),
        Instant::now(),
    );
    assert_eq!((words(&plan), plan.same.len()), (vec![], 1));
}

#[test]
fn what_is_missing_goes_after_the_grace_unless_it_comes_back() {
    let (a, now) = (environment("a", "a"), Instant::now());
    let (actual, mut absences) = (actual(&[&a]), Absences::new(GRACE));
    let first = plan(
        &merged(&[]),
        &actual,
        &Scope::Everything,
        &mut absences,
        terms(),
        now,
    );
    assert_eq!((words(&first), first.again), (vec![], Some(now + GRACE)));
    assert_eq!(
        words(&plan(
            &merged(&[]),
            &actual,
            &Scope::Everything,
            &mut absences,
            terms(),
            now + GRACE
        )),
        ["delete a 2"]
    );
    plan(
        &merged(&[&a]),
        &actual,
        &Scope::Everything,
        &mut absences,
        terms(),
        now + GRACE,
    );
    let again = plan(
        &merged(&[]),
        &actual,
        &Scope::Everything,
        &mut absences,
        terms(),
        now + 2 * GRACE,
    );
    assert_eq!(
        (words(&again), again.again),
        (vec![], Some(now + 3 * GRACE)),
        "the grace begins anew"
    );
    absences.begin_anew(now + 3 * GRACE);
    let doubted = plan(
        &merged(&[]),
        &actual,
        &Scope::Everything,
        &mut absences,
        terms(),
        now + 3 * GRACE,
    );
    assert_eq!(
        (words(&doubted), doubted.again),
        (vec![], Some(now + 4 * GRACE)),
        "and when the files were in doubt"
    );
}

#[test]
fn what_stands_in_the_way_goes_at_once_after_its_successor_is_there() {
    let (old, new) = (environment("old", "www"), environment("new", "www"));
    let plan = plan(
        &merged(&[&new]),
        &actual(&[&old]),
        &Scope::Everything,
        &mut Absences::new(GRACE),
        terms(),
        Instant::now(),
    );
    assert_eq!(words(&plan), ["put new absent", "delete old 2"]);
}

#[test]
fn what_others_have_is_neither_written_nor_deleted() {
    let a = environment("a", "a");
    let mut actual = actual(&[]);
    let put = put(r#"{"name": "a", "prefix": "p", "header": "h"}"#, None);
    actual.update(batch(vec![put]));
    let mut absences = Absences::new(Duration::ZERO);
    assert_eq!(
        words(&plan(
            &merged(&[&a]),
            &actual,
            &Scope::Everything,
            &mut absences,
            terms(),
            Instant::now()
        )),
        [""; 0]
    );
    assert_eq!(
        words(&plan(
            &merged(&[]),
            &actual,
            &Scope::Everything,
            &mut absences,
            terms(),
            Instant::now()
        )),
        [""; 0]
    );
}

/// An environment that was put at revision 5.
fn put(record: &str, lease: Option<LeaseId>) -> Change {
    Change::Put(Stored {
        record: Record::Environment(serde_json::from_str(record).unwrap()),
        revision: 5.into(),
        lease,
    })
}

fn batch(changes: Vec<Change>) -> Batch {
    Batch {
        revision: 5,
        listed: false,
        changes,
        set_aside: SetAsides::default(),
    }
}

fn noon() -> SystemTime {
    "2030-01-31T12:00:00Z".parse::<Moment>().unwrap().time()
}

fn terms() -> Terms {
    Terms {
        now: noon(),
        force: false,
        quota: crate::desired::Quota::default(),
    }
}

/// What is planned for one environment of ours that stands in etcd like this, with the clock some seconds after noon.
fn planned(file: &str, held: &str, leased: bool, seconds: i64) -> (Vec<String>, usize, Option<Duration>) {
    let record = |fields: &str| -> Environment {
        let json = format!(
            r#"{{"name":"a","prefix":"a","header":"a","source":{{"registrar":"us","file":"f.yaml"}}{fields}}}"#
        );
        serde_json::from_str(&json).unwrap()
    };
    let wanted = Arc::new(record(file));
    let mut actual = actual(&[]);
    let history = Change::Put(Stored {
        record: Record::History(record(held)),
        revision: 5.into(),
        lease: None,
    });
    let text = serde_json::to_string(&record(held)).unwrap();
    actual.update(batch(vec![put(&text, leased.then(LeaseId::default)), history]));
    let (now, mut terms) = (Instant::now(), terms());
    let span = Duration::from_secs(seconds.unsigned_abs());
    terms.now = if seconds < 0 {
        terms.now - span
    } else {
        terms.now + span
    };
    let plan = plan(
        &merged(&[&wanted]),
        &actual,
        &Scope::Everything,
        &mut Absences::new(GRACE),
        terms,
        now,
    );
    let mut words = words(&plan);
    words.extend(plan.puts.iter().map(|put| {
        let life = &put.life;
        format!(
            "since {} kept {:?} {}",
            life.registered_at,
            life.kept_until.is_some(),
            life.revived
        )
    }));
    words.extend(
        plan.ends
            .iter()
            .map(|(name, guard)| format!("end {name} {guard:?}")),
    );
    let next = next_end(&actual, terms.now, now);
    (words, plan.doubts.len(), next.map(|next| next - now))
}

const LIFE: &str = r#","life":{"registered_at":"2030-01-31T11:00:00Z"}"#;
const KEPT: &str =
    r#","life":{"registered_at":"2030-01-31T11:00:00Z","kept_until":"2030-01-31T18:00:00Z","revived":true}"#;

#[test]
fn a_life_is_carried_over_and_begins_where_none_is_known() {
    let put = |life: &str| vec!["put a 5".to_owned(), life.to_owned()];
    let since = "since 2030-01-31T11:00:00Z kept";
    assert_eq!(planned("", LIFE, false, 0).0, [""; 0]);
    assert_eq!(
        planned("", "", false, 0).0,
        put("since 2030-01-31T12:00:00Z kept false false")
    );
    assert_eq!(
        planned(r#","description":"new""#, LIFE, false, 0).0,
        put(&format!("{since} false false"))
    );
    // Its file is there: that it was brought back means nothing any more.
    assert_eq!(planned("", KEPT, false, 0).0, put(&format!("{since} true false")));
}

#[test]
fn a_record_without_its_lease_is_put_again_and_a_lease_is_looked_at_once() {
    let (expires, idle) = (r#","expires":"8h""#, r#","idle":"8h""#);
    let lived = |fields: &str| fields.to_owned() + LIFE;
    for fields in [expires, idle] {
        assert_eq!(planned(fields, &lived(fields), false, 0).0.len(), 2, "{fields}");
        let (words, doubts, _) = planned(fields, &lived(fields), true, 0);
        assert_eq!((words.len(), doubts), (0, 1), "{fields}");
    }
    assert_eq!(planned("", LIFE, true, 0).0.len(), 2, "a lease that nobody wants");
}

#[test]
fn leases_are_good_within_some_seconds() {
    let doubt = |idle| Doubt::<Environments> {
        put: Put {
            record: environment("a", "a"),
            life: Life::beginning(Moment::of(noon())),
            guard: Guard::Absent,
            before: None,
        },
        lease: LeaseId::default(),
        wanted: Duration::from_secs(100),
        idle,
    };
    for (left, expires, idle) in [
        (1, false, true),
        (98, true, true),
        (103, true, true),
        (200, false, false),
    ] {
        let left = Duration::from_secs(left);
        assert_eq!(
            (doubt(false).is_settled_by(left), doubt(true).is_settled_by(left)),
            (expires, idle),
            "{left:?}"
        );
    }
}

#[test]
fn what_is_past_its_end_is_deleted_by_the_clock_as_it_is_now() {
    let fields = r#","expires":"2h""#;
    let held = fields.to_owned() + LIFE;
    let at = |seconds| planned(fields, &held, true, seconds);
    let end = vec!["end a ModRevision(5)".to_owned()];
    assert_eq!(at(0), (vec![], 1, Some(LOOK)));
    assert_eq!(at(3600), (vec![], 1, Some(MARGIN)), "its lease comes first");
    assert_eq!(at(3605).0, end);
    assert_eq!(at(86_400).0, end, "a clock that has jumped");
    assert_eq!(at(-86_400), (vec![], 1, Some(LOOK)), "and back");
    // One that is to end later is put with its new end instead.
    assert_eq!(planned(r#","expires":"9h""#, &held, true, 7200).0[0], "put a 5");
    let protected = fields.to_owned() + r#","protected":true"# + LIFE;
    assert_eq!(
        planned(
            &(fields.to_owned() + r#","protected":true"#),
            &protected,
            false,
            86_400
        )
        .0,
        [""; 0]
    );
}

#[test]
fn whose_it_is_does_not_matter_to_its_end() {
    let mut actual = actual(&[]);
    let value = r#"{"name":"a","prefix":"p","header":"h","expires":"2030-01-31T11:59:00Z"}"#;
    actual.update(batch(vec![put(value, None)]));
    let none = Scope::Only(BTreeSet::new());
    let plan = plan(
        &merged(&[]),
        &actual,
        &none,
        &mut Absences::new(GRACE),
        terms(),
        Instant::now(),
    );
    assert_eq!((words(&plan), plan.ends.len()), (vec![], 1));
}
