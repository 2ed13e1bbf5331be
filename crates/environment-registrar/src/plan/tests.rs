//! Plans in words.

use super::*;
use mayfly_core::records::Source;
use mayfly_daemon::watch::{Batch, Change};

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

fn mirror(environments: &[&Arc<Environment>]) -> Mirror {
    let mut mirror = Mirror::new(mayfly_core::keys::KeySpace::default(), "us".parse().unwrap());
    mirror.take(Batch {
        revision: 1,
        listed: true,
        changes: Vec::new(),
    });
    for (index, environment) in environments.iter().enumerate() {
        mirror.published(environment, Life::beginning(Moment::of(noon())), index as i64 + 2);
    }
    mirror
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
        .map(|put| format!("put {} {}", put.environment.name, guard(&put.guard)));
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
        &mirror(&[&a, &b]),
        None,
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
        &mirror(&[&stored]),
        None,
        &mut Absences::new(GRACE),
        terms(),
        Instant::now(),
    );
    assert_eq!((words(&plan), plan.same.len()), (vec![], 1));
}

#[test]
fn what_is_missing_goes_after_the_grace_unless_it_comes_back() {
    let (a, now) = (environment("a", "a"), Instant::now());
    let (mirror, mut absences) = (mirror(&[&a]), Absences::new(GRACE));
    let first = plan(&merged(&[]), &mirror, None, &mut absences, terms(), now);
    assert_eq!((words(&first), first.again), (vec![], Some(now + GRACE)));
    assert_eq!(
        words(&plan(
            &merged(&[]),
            &mirror,
            None,
            &mut absences,
            terms(),
            now + GRACE
        )),
        ["delete a 2"]
    );
    plan(&merged(&[&a]), &mirror, None, &mut absences, terms(), now + GRACE);
    let again = plan(
        &merged(&[]),
        &mirror,
        None,
        &mut absences,
        terms(),
        now + 2 * GRACE,
    );
    assert_eq!(
        (words(&again), again.again),
        (vec![], Some(now + 3 * GRACE)),
        "the grace begins anew"
    );
}

#[test]
fn what_stands_in_the_way_goes_at_once_after_its_successor_is_there() {
    let (old, new) = (environment("old", "www"), environment("new", "www"));
    let plan = plan(
        &merged(&[&new]),
        &mirror(&[&old]),
        None,
        &mut Absences::new(GRACE),
        terms(),
        Instant::now(),
    );
    assert_eq!(words(&plan), ["put new absent", "delete old 2"]);
}

#[test]
fn what_others_have_is_neither_written_nor_deleted() {
    let a = environment("a", "a");
    let mut mirror = mirror(&[]);
    let value =
        mayfly_core::records::to_json(&serde_json::json!({"name": "a", "prefix": "p", "header": "h"}));
    let key = "/mayfly/environments/a".to_owned();
    let entry = mayfly_daemon::store::Entry {
        key,
        value,
        create_revision: 5,
        mod_revision: 5,
        lease: None,
    };
    mirror.take(Batch {
        revision: 5,
        listed: false,
        changes: vec![Change::Put(entry)],
    });
    let mut absences = Absences::new(Duration::ZERO);
    assert_eq!(
        words(&plan(
            &merged(&[&a]),
            &mirror,
            None,
            &mut absences,
            terms(),
            Instant::now()
        )),
        [""; 0]
    );
    assert_eq!(
        words(&plan(
            &merged(&[]),
            &mirror,
            None,
            &mut absences,
            terms(),
            Instant::now()
        )),
        [""; 0]
    );
}

fn noon() -> SystemTime {
    "2030-01-31T12:00:00Z".parse::<Moment>().unwrap().time()
}

fn terms() -> Terms {
    Terms {
        now: noon(),
        force: false,
    }
}
