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
