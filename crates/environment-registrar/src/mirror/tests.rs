//! Whose records are, what is news, and what has ended.

use super::*;

fn mirror() -> Mirror {
    Mirror::new(KeySpace::default(), "us".parse().unwrap())
}

fn put(name: &str, value: &str, create_revision: i64, mod_revision: i64) -> Change {
    let (key, value) = (format!("/mayfly/environments/{name}"), value.as_bytes().to_vec());
    Change::Put(Entry {
        key,
        value,
        create_revision,
        mod_revision,
        lease: None,
    })
}

fn record(name: &str, registrar: &str) -> String {
    let source = format!(r#""source":{{"registrar":"{registrar}","file":"f.yaml"}}"#);
    format!(r#"{{"name":"{name}","prefix":"www-{name}","header":"{name}",{source}}}"#)
}

fn owner(mirror: &Mirror, name: &str) -> Owner {
    mirror.environments()[&name.parse::<EnvironmentName>().unwrap()]
        .owner
        .clone()
}

fn batch(revision: i64, changes: Vec<Change>) -> Batch {
    Batch {
        revision,
        listed: revision < 10,
        changes,
    }
}

#[test]
fn whose_a_record_is() {
    let mut mirror = mirror();
    let hand = r#"{"name":"c","prefix":"c","header":"c"}"#;
    mirror.take(batch(
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
        ["a", "b", "d", "e"].map(|name| owner(&mirror, name)),
        [Owner::Us, them.clone(), Owner::Nobody, them]
    );
    assert!(matches!(owner(&mirror, "c"), Owner::Other(_)));
    assert!(mirror.ours(&"a".parse().unwrap()).is_some() && mirror.ours(&"b".parse().unwrap()).is_none());
    let aside: Vec<_> = mirror.set_aside().into_iter().map(|entry| entry.key).collect();
    assert_eq!(aside, ["/mayfly/environments/d", "/mayfly/environments/e"]);
}

#[test]
fn a_key_that_we_created_is_ours_whatever_is_written_over_it() {
    let mut mirror = mirror();
    mirror.take(batch(9, vec![put("a", &record("a", "us"), 2, 2)]));
    for (revision, value) in [(10, r#"{"name":"a","prefix":"a","header":"a"}"#), (11, "no JSON")] {
        mirror.take(batch(revision, vec![put("a", value, 2, revision)]));
        assert_eq!(owner(&mirror, "a"), Owner::Us);
    }
    mirror.take(batch(
        12,
        vec![
            Change::Delete {
                key: "/mayfly/environments/a".to_owned(),
            },
            put("a", &record("a", "them"), 12, 12),
        ],
    ));
    assert!(
        matches!(owner(&mirror, "a"), Owner::Other(_)),
        "deleted, and created by somebody else"
    );
}

#[test]
fn a_record_that_another_registrar_has_taken_over_is_its() {
    let mut mirror = mirror();
    mirror.take(batch(9, vec![put("a", &record("a", "us"), 2, 2)]));
    mirror.take(batch(10, vec![put("a", &record("a", "them"), 2, 10)]));
    assert!(matches!(owner(&mirror, "a"), Owner::Other(_)));
    let name = "a".parse().unwrap();
    let ceded = mirror.ceded(&name).unwrap().clone();
    assert_eq!(ceded.source.as_ref().unwrap().registrar.as_str(), "us");
    // Once more it is ours when we put it.
    mirror.published(
        &ceded,
        Life::beginning(Moment::of(std::time::SystemTime::now())),
        11,
    );
    assert!(mirror.ours(&name).is_some() && mirror.ceded(&name).is_none());
}

#[test]
fn who_takes_over_may_make_the_key_anew() {
    let mut mirror = mirror();
    mirror.take(batch(
        9,
        vec![
            put("a", &record("a", "us"), 2, 2),
            history("a", &record("a", "us"), 2),
        ],
    ));
    mirror.take(batch(10, vec![gone("environments", "a")]));
    mirror.take(batch(11, vec![put("a", &record("a", "them"), 11, 11)]));
    assert!(
        mirror.ceded(&"a".parse().unwrap()).is_some(),
        "as `mayfly apply --force` does"
    );
}

#[test]
fn news_that_are_older_than_our_own_writes_change_nothing() {
    let mut mirror = mirror();
    mirror.take(batch(9, vec![put("a", &record("a", "us"), 2, 2)]));
    let ours: Arc<Environment> = mirror.ours(&"a".parse().unwrap()).unwrap().clone();
    mirror.published(
        &ours,
        Life::beginning("2030-01-31T12:00:00Z".parse().unwrap()),
        20,
    );
    mirror.take(batch(
        15,
        vec![
            put("a", "older", 2, 15),
            Change::Delete {
                key: "/mayfly/environments/a".to_owned(),
            },
        ],
    ));
    assert!(Arc::ptr_eq(mirror.ours(&ours.name).unwrap(), &ours));
    assert_eq!(mirror.revision(), 20);
    mirror.take(batch(
        21,
        vec![Change::Delete {
            key: "/mayfly/environments/a".to_owned(),
        }],
    ));
    assert!(mirror.environments().is_empty());
}

#[test]
fn an_etcd_that_lost_its_data_is_believed() {
    let mut mirror = mirror();
    mirror.take(batch(
        9,
        vec![
            put("a", &record("a", "us"), 2, 9),
            put("b", &record("b", "us"), 3, 8),
        ],
    ));
    let gone = Change::Delete {
        key: "/mayfly/environments/a".to_owned(),
    };
    mirror.take(batch(2, vec![gone, put("b", "{}", 2, 2)]));
    assert_eq!(mirror.environments().len(), 1);
    assert_eq!((owner(&mirror, "b"), mirror.revision()), (Owner::Nobody, 2));
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
    let (key, value) = (format!("/mayfly/history/{name}"), value.as_bytes().to_vec());
    Change::Put(Entry {
        key,
        value,
        create_revision: mod_revision,
        mod_revision,
        lease: None,
    })
}

fn gone(kind: &str, name: &str) -> Change {
    Change::Delete {
        key: format!("/mayfly/{kind}/{name}"),
    }
}

fn asks(name: &str, fields: &str) -> Environment {
    let mut environment: Environment = serde_json::from_str(&lived(name, fields)).unwrap();
    environment.life = None;
    environment.source = None;
    environment
}

#[test]
fn the_history_of_what_lives_takes_no_place_and_remembers_when_it_ends() {
    let mut mirror = mirror();
    let value = lived("a", "");
    // One by register, one written by hand in two steps, one whose record somebody has written over.
    mirror.take(batch(
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
    assert_eq!(mirror.pasts.keys().collect::<Vec<_>>(), [&name("c")]);
    assert_eq!(
        mirror.life(&name("c")),
        mirror.life(&name("a")),
        "the history knows"
    );
    assert!(mirror.ended(&asks("a", "")).is_none());
    let gone = ["a", "b", "c"].map(|name| gone("environments", name));
    let news = mirror.take(batch(10, gone.to_vec()));
    assert_eq!(news.names.len(), 3);
    for name in ["a", "b", "c"] {
        assert!(mirror.ended(&asks(name, "")).is_some(), "{name}");
    }
    let other = asks("a", r#""description":"new","#);
    assert!(mirror.ended(&other).is_none(), "it asks for something else");
    assert_eq!(
        mirror
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
    let mut mirror = mirror();
    let protected = lived("p", r#""protected":true,"#);
    mirror.take(batch(
        9,
        vec![
            put("b", &lived("b", ""), 3, 3),
            history("a", &lived("a", ""), 2),
            history("b", &lived("b", ""), 3),
            history("bad", "no JSON", 4),
            history("p", &protected, 5),
        ],
    ));
    assert!(mirror.ended(&asks("a", "")).is_some());
    assert!(
        mirror.ended(&asks("p", r#""protected":true,"#)).is_none(),
        "removed against its will"
    );
    assert!(mirror.ended(&asks("bad", "")).is_none());
    let aside: Vec<_> = mirror.set_aside().into_iter().map(|entry| entry.key).collect();
    assert_eq!(aside, ["/mayfly/history/bad"]);
    // Deleted with its history, it may come back.
    mirror.take(batch(
        10,
        vec![
            gone("environments", "b"),
            gone("history", "b"),
            gone("history", "a"),
        ],
    ));
    assert!(mirror.ended(&asks("a", "")).is_none() && mirror.ended(&asks("b", "")).is_none());
}

#[test]
fn what_an_etcd_has_lost_has_not_ended() {
    let mut mirror = mirror();
    let ours = Arc::new(asks("a", ""));
    mirror.published(&ours, Life::beginning("2030-01-31T12:00:00Z".parse().unwrap()), 8);
    mirror.published(
        &Arc::new(asks("b", "")),
        Life::beginning("2030-01-31T12:00:00Z".parse().unwrap()),
        9,
    );
    mirror.ended_now(&name("b"));
    let all = [("environments", "a"), ("history", "a"), ("history", "b")];
    mirror.take(batch(1, all.map(|(kind, name)| gone(kind, name)).to_vec()));
    assert!(mirror.ended(&ours).is_none() && mirror.pasts.is_empty());
}

#[test]
fn our_own_writes_are_known_before_the_watch_tells_of_them() {
    let mut mirror = mirror();
    let ours = Arc::new(asks("a", ""));
    mirror.take(batch(5, vec![]));
    mirror.published(
        &ours,
        Life::beginning("2030-01-31T12:00:00Z".parse().unwrap()),
        20,
    );
    let news = mirror.take(batch(
        20,
        vec![
            put("a", &lived("a", ""), 20, 20),
            history("a", &lived("a", ""), 20),
        ],
    ));
    assert!(news.names.is_empty());
    let held = &mirror.environments()[&name("a")];
    assert!(held.lease_is_checked && held.history == Some(20));
    assert!(Arc::ptr_eq(mirror.ours(&name("a")).unwrap(), &ours));
    mirror.deleted(&name("a"));
    assert!(mirror.past(&name("a")).is_none() && mirror.environments().is_empty());
}

#[test]
fn ends_follow_the_records() {
    let mut mirror = mirror();
    mirror.take(batch(
        9,
        vec![
            put("a", &lived("a", r#""expires":"2h","#), 2, 2),
            put("b", &lived("b", r#""expires":"1h","#), 3, 3),
            put("c", &lived("c", r#""expires":"1h","protected":true,"#), 4, 4),
            put("d", &lived("d", r#""idle":"1h","#), 5, 5),
        ],
    ));
    let ends = |mirror: &Mirror| {
        let ends = mirror.ends();
        ends.map(|(end, name)| format!("{name} {end}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ends(&mirror),
        ["b 2030-01-31T13:00:00Z", "a 2030-01-31T14:00:00Z"]
    );
    mirror.take(batch(
        11,
        vec![
            put("a", &lived("a", r#""expires":"30m","#), 2, 10),
            gone("environments", "b"),
        ],
    ));
    assert_eq!(ends(&mirror), ["a 2030-01-31T12:30:00Z"]);
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
            "it was removed through etcd",
        ),
        (
            r#""idle":"1h","#,
            "2030-01-31T12:59:59Z",
            "it was removed through etcd",
        ),
        (
            r#""idle":"1h","expires":"3h","#,
            "2030-01-31T13:00:00Z",
            "it was not used for 1h",
        ),
        ("", "2031-01-31T12:00:00Z", "it was removed through etcd"),
    ] {
        let mut mirror = mirror();
        mirror.take(batch(9, vec![history("a", &lived("a", fields), 2)]));
        assert_eq!(
            mirror.past(&name("a")).unwrap().end(at(now)).to_string(),
            reason,
            "{fields} {now}"
        );
    }
}
