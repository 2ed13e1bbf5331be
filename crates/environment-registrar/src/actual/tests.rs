//! Whose records are, what is news, and what has ended.

use std::sync::Arc;

use super::*;
use mayfly_core::records::lifetime::Life;
use mayfly_daemon::store::Entry;

fn actual() -> Actual {
    Actual::new(KeySpace::default(), "us".parse().unwrap())
}

fn put(name: &str, value: &str, create_revision: i64, mod_revision: i64) -> Change {
    let key = Key::Environment(name.parse().unwrap());
    reported(key, value.as_bytes(), create_revision, mod_revision)
}

/// A value as the watch reports it.
pub(crate) fn reported(key: Key, value: &[u8], create_revision: i64, mod_revision: i64) -> Change {
    let entry = Entry {
        key: String::new(),
        value: value.to_vec(),
        create_revision,
        mod_revision,
        lease: None,
    };
    Change::of(key, &entry)
}

/// What the watch has set aside after these changes.
pub(crate) fn set_aside(changes: &[Change]) -> SetAsides {
    let mut all = SetAsides::default();
    for change in changes {
        if let Change::Unreadable(unreadable) = change {
            all.insert(
                KeySpace::default().text(&unreadable.key),
                unreadable.reason.clone(),
            );
        }
    }
    all
}

fn record(name: &str, registrar: &str) -> String {
    let source = format!(r#""source":{{"registrar":"{registrar}","file":"f.yaml"}}"#);
    format!(r#"{{"name":"{name}","prefix":"www-{name}","header":"{name}",{source}}}"#)
}

fn owner(actual: &Actual, name: &str) -> Owner {
    actual.environments()[&name.parse::<EnvironmentName>().unwrap()]
        .owner
        .clone()
}

fn batch(revision: i64, changes: Vec<Change>) -> Batch {
    Batch {
        revision,
        listed: revision < 10,
        set_aside: set_aside(&changes),
        changes,
    }
}

fn listing(revision: i64, changes: Vec<Change>) -> Batch {
    Batch {
        listed: true,
        ..batch(revision, changes)
    }
}

#[test]
fn whose_a_record_is() {
    let mut actual = actual();
    let hand = r#"{"name":"c","prefix":"c","header":"c"}"#;
    actual.update(batch(
        9,
        vec![
            put("a", &record("a", "us"), 2, 2),
            put("b", &record("b", "them"), 3, 3),
            put("c", hand, 4, 4),
            put("d", "no JSON", 5, 5),
            put(
                "e",
                r#"{"name":"e","prefix":7,"source":{"registrar":"them","file":"f"}}"#,
                6,
                6,
            ),
        ],
    ));
    let them = Owner::Other("the registrar of node them".to_owned());
    assert_eq!(
        ["a", "b", "d", "e"].map(|name| owner(&actual, name)),
        [Owner::Us, them.clone(), Owner::Nobody, them]
    );
    assert!(matches!(owner(&actual, "c"), Owner::Other(_)));
    assert!(actual.ours(&"a".parse().unwrap()).is_some() && actual.ours(&"b".parse().unwrap()).is_none());
    let aside: Vec<_> = actual.set_aside().iter().map(|entry| entry.key).collect();
    assert_eq!(aside, ["/mayfly/environments/d", "/mayfly/environments/e"]);
}

#[test]
fn a_key_that_we_created_is_ours_whatever_is_written_over_it() {
    let mut actual = actual();
    actual.update(batch(9, vec![put("a", &record("a", "us"), 2, 2)]));
    for (revision, value) in [(10, r#"{"name":"a","prefix":"a","header":"a"}"#), (11, "no JSON")] {
        actual.update(batch(revision, vec![put("a", value, 2, revision)]));
        assert_eq!(owner(&actual, "a"), Owner::Us);
    }
    actual.update(batch(
        12,
        vec![gone("environments", "a"), put("a", &record("a", "them"), 12, 12)],
    ));
    assert!(
        matches!(owner(&actual, "a"), Owner::Other(_)),
        "deleted, and created by another writer"
    );
}

#[test]
fn a_record_that_another_registrar_has_taken_over_is_its() {
    let mut actual = actual();
    actual.update(batch(9, vec![put("a", &record("a", "us"), 2, 2)]));
    actual.update(batch(10, vec![put("a", &record("a", "them"), 2, 10)]));
    assert!(matches!(owner(&actual, "a"), Owner::Other(_)));
    let name = "a".parse().unwrap();
    let ceded = actual.ceded(&name).unwrap().clone();
    assert_eq!(ceded.source.as_ref().unwrap().registrar.as_str(), "us");
    // Once more it is ours when we put it.
    actual.wrote(
        &ceded,
        Life::beginning(Moment::of(std::time::SystemTime::now())),
        11,
    );
    assert!(actual.ours(&name).is_some() && actual.ceded(&name).is_none());
}

#[test]
fn who_takes_over_may_make_the_key_anew() {
    let mut actual = actual();
    actual.update(batch(
        9,
        vec![
            put("a", &record("a", "us"), 2, 2),
            history("a", &record("a", "us"), 2),
        ],
    ));
    actual.update(batch(10, vec![gone("environments", "a")]));
    actual.update(batch(11, vec![put("a", &record("a", "them"), 11, 11)]));
    assert!(
        actual.ceded(&"a".parse().unwrap()).is_some(),
        "as `mayfly apply --force` does"
    );
}

#[test]
fn news_that_are_older_than_our_own_writes_change_nothing() {
    let mut actual = actual();
    actual.update(batch(9, vec![put("a", &record("a", "us"), 2, 2)]));
    let ours: Arc<Environment> = actual.ours(&"a".parse().unwrap()).unwrap().clone();
    actual.wrote(
        &ours,
        Life::beginning("2030-01-31T12:00:00Z".parse().unwrap()),
        20,
    );
    actual.update(batch(
        15,
        vec![put("a", "older", 2, 15), gone("environments", "a")],
    ));
    assert!(Arc::ptr_eq(actual.ours(&ours.name).unwrap(), &ours));
    assert_eq!(actual.revision(), 20);
    actual.update(batch(21, vec![gone("environments", "a")]));
    assert!(actual.environments().is_empty());
}

#[test]
fn an_etcd_that_lost_its_data_is_believed() {
    let mut actual = actual();
    actual.update(batch(
        9,
        vec![
            put("a", &record("a", "us"), 2, 9),
            put("b", &record("b", "us"), 3, 8),
        ],
    ));
    actual.update(batch(2, vec![gone("environments", "a"), put("b", "{}", 2, 2)]));
    assert_eq!(actual.environments().len(), 1);
    assert_eq!((owner(&actual, "b"), actual.revision()), (Owner::Nobody, 2));
}

const LIFE: &str = r#"{"registered_at":"2030-01-31T12:00:00Z"}"#;

fn name(text: &str) -> EnvironmentName {
    text.parse().unwrap()
}

/// A record of ours with further fields, as JSON.
fn lived(name: &str, fields: &str) -> String {
    let record = record(name, "us");
    record.replacen('{', &format!("{{{fields}\"life\":{LIFE},"), 1)
}

fn history(name: &str, value: &str, mod_revision: i64) -> Change {
    let key = Key::History(name.parse().unwrap());
    reported(key, value.as_bytes(), mod_revision, mod_revision)
}

fn gone(kind: &str, name: &str) -> Change {
    Change::Gone(
        KeySpace::default()
            .parse(&format!("/mayfly/{kind}/{name}"))
            .unwrap(),
    )
}

fn asks(name: &str, fields: &str) -> Environment {
    let mut environment: Environment = serde_json::from_str(&lived(name, fields)).unwrap();
    environment.life = None;
    environment.source = None;
    environment
}

#[test]
fn the_history_of_what_lives_takes_no_place_and_remembers_when_it_ends() {
    let mut actual = actual();
    let value = lived("a", "");
    // One by register, one written by hand in two steps, one whose record somebody has written over.
    actual.update(batch(
        9,
        vec![
            put("a", &value, 2, 2),
            put("b", &lived("b", ""), 3, 3),
            put("c", &record("c", "us"), 4, 6),
            history("a", &value, 2),
            history("b", &lived("b", ""), 5),
            history("c", &lived("c", ""), 4),
        ],
    ));
    assert_eq!(actual.pasts.keys().collect::<Vec<_>>(), [&name("c")]);
    assert_eq!(
        actual.life(&name("c")),
        actual.life(&name("a")),
        "the history knows"
    );
    assert!(actual.ended(&asks("a", "")).is_none());
    let gone = ["a", "b", "c"].map(|name| gone("environments", name));
    let news = actual.update(batch(10, gone.to_vec()));
    assert_eq!(news.names.len(), 3);
    for name in ["a", "b", "c"] {
        assert!(actual.ended(&asks(name, "")).is_some(), "{name}");
    }
    let other = asks("a", r#""description":"new","#);
    assert!(actual.ended(&other).is_none(), "it asks for something else");
    assert_eq!(
        actual
            .ended(&asks("a", ""))
            .unwrap()
            .environment()
            .unwrap()
            .life
            .unwrap()
            .registered_at
            .to_string(),
        "2030-01-31T12:00:00Z"
    );
}

#[test]
fn only_what_has_a_history_and_no_record_has_ended() {
    let mut actual = actual();
    let protected = lived("p", r#""protected":true,"#);
    actual.update(batch(
        9,
        vec![
            put("b", &lived("b", ""), 3, 3),
            history("a", &lived("a", ""), 2),
            history("b", &lived("b", ""), 3),
            history("bad", "no JSON", 4),
            history("p", &protected, 5),
        ],
    ));
    assert!(actual.ended(&asks("a", "")).is_some());
    assert!(
        actual.ended(&asks("p", r#""protected":true,"#)).is_none(),
        "removed against its will"
    );
    assert!(actual.ended(&asks("bad", "")).is_none());
    let aside: Vec<_> = actual.set_aside().iter().map(|entry| entry.key).collect();
    assert_eq!(aside, ["/mayfly/history/bad"]);
    // Deleted with its history, it may come back.
    actual.update(batch(
        10,
        vec![
            gone("environments", "b"),
            gone("history", "b"),
            gone("history", "a"),
        ],
    ));
    assert!(actual.ended(&asks("a", "")).is_none() && actual.ended(&asks("b", "")).is_none());
}

#[test]
fn what_an_etcd_has_lost_has_not_ended() {
    let mut actual = actual();
    let ours = Arc::new(asks("a", ""));
    actual.wrote(&ours, Life::beginning("2030-01-31T12:00:00Z".parse().unwrap()), 8);
    actual.wrote(
        &Arc::new(asks("b", "")),
        Life::beginning("2030-01-31T12:00:00Z".parse().unwrap()),
        9,
    );
    actual.ended_now(&name("b"));
    let all = [("environments", "a"), ("history", "a"), ("history", "b")];
    actual.update(batch(1, all.map(|(kind, name)| gone(kind, name)).to_vec()));
    assert!(actual.ended(&ours).is_none() && actual.pasts.is_empty());
}

#[test]
fn our_own_writes_are_known_before_the_watch_tells_of_them() {
    let mut actual = actual();
    let ours = Arc::new(asks("a", ""));
    actual.update(batch(5, vec![]));
    actual.wrote(
        &ours,
        Life::beginning("2030-01-31T12:00:00Z".parse().unwrap()),
        20,
    );
    // The next write may come at once, and lets this lease go.
    actual.hangs_on(&name("a"), Some(LeaseId::new(7)));
    assert_eq!(actual.environments()[&name("a")].lease, Some(LeaseId::new(7)));
    let news = actual.update(batch(
        20,
        vec![
            put("a", &lived("a", ""), 20, 20),
            history("a", &lived("a", ""), 20),
        ],
    ));
    assert!(news.names.is_empty());
    let held = &actual.environments()[&name("a")];
    assert!(held.lease_is_checked && held.history == Some(20));
    assert!(Arc::ptr_eq(actual.ours(&name("a")).unwrap(), &ours));
    actual.deleted(&name("a"));
    assert!(actual.past(&name("a")).is_none() && actual.environments().is_empty());
}

/// Found by the simulation: an environment whose event was late when etcd lost its data was never
/// registered again.
#[test]
fn what_we_wrote_and_no_watch_has_ever_reported_is_gone_when_a_listing_lacks_it() {
    let life = || Life::beginning("2030-01-31T12:00:00Z".parse().unwrap());
    for revision in [20, 21, 3] {
        let mut actual = actual();
        actual.update(listing(5, vec![]));
        actual.wrote(&Arc::new(asks("a", "")), life(), 10);
        actual.update(batch(10, vec![put("a", &lived("a", ""), 10, 10)]));
        actual.wrote(&Arc::new(asks("b", "")), life(), 20);
        let news = actual.update(listing(revision, vec![]));
        assert!(!actual.environments().contains_key(&name("b")), "{revision}");
        assert!(news.names.contains(&name("b")), "{revision}");
        // A watch reports the end of what it knew.
        assert!(actual.environments().contains_key(&name("a")), "{revision}");
        assert!(actual.ended(&asks("b", "")).is_none(), "{revision}");
    }
    let mut actual = actual();
    actual.wrote(&Arc::new(asks("b", "")), life(), 20);
    // Its history alone is still there: it has ended.
    actual.update(listing(21, vec![history("b", &lived("b", ""), 20)]));
    assert!(actual.ended(&asks("b", "")).is_some());
    // And where a listing has it, it is there.
    actual.wrote(&Arc::new(asks("c", "")), life(), 22);
    actual.update(listing(23, vec![put("c", &lived("c", ""), 22, 22)]));
    actual.update(listing(24, vec![]));
    assert!(actual.environments().contains_key(&name("c")));
}

#[test]
fn ends_follow_the_records() {
    let mut actual = actual();
    actual.update(batch(
        9,
        vec![
            put("a", &lived("a", r#""expires":"2h","#), 2, 2),
            put("b", &lived("b", r#""expires":"1h","#), 3, 3),
            put("c", &lived("c", r#""expires":"1h","protected":true,"#), 4, 4),
            put("d", &lived("d", r#""idle":"1h","#), 5, 5),
        ],
    ));
    let ends = |actual: &Actual| {
        let ends = actual.ends();
        ends.map(|(end, name)| format!("{name} {end}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ends(&actual),
        ["b 2030-01-31T13:00:00Z", "a 2030-01-31T14:00:00Z"]
    );
    actual.update(batch(
        11,
        vec![
            put("a", &lived("a", r#""expires":"30m","#), 2, 10),
            gone("environments", "b"),
        ],
    ));
    assert_eq!(ends(&actual), ["a 2030-01-31T12:30:00Z"]);
}

#[test]
fn why_it_ended() {
    let at = |time: &str| time.parse::<Moment>().unwrap().time();
    for (fields, now, reason) in [
        (
            r#""expires":"1h","#,
            "2030-01-31T13:00:00Z",
            "it expired at 2030-01-31T13:00:00Z",
        ),
        (
            r#""expires":"1h","#,
            "2030-01-31T12:59:59Z",
            "it was deleted with `mayfly delete` or through etcd",
        ),
        (
            r#""idle":"1h","#,
            "2030-01-31T12:59:59Z",
            "it was deleted with `mayfly delete` or through etcd",
        ),
        (
            r#""idle":"1h","expires":"3h","#,
            "2030-01-31T13:00:00Z",
            "it was not used for 1h",
        ),
        (
            "",
            "2031-01-31T12:00:00Z",
            "it was deleted with `mayfly delete` or through etcd",
        ),
    ] {
        let mut actual = actual();
        actual.update(batch(9, vec![history("a", &lived("a", fields), 2)]));
        assert_eq!(
            actual.past(&name("a")).unwrap().end(at(now)).to_string(),
            reason,
            "{fields} {now}"
        );
    }
}
