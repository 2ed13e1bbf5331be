//! Uses as HAProxy notes them, and the rounds that report them.

use super::*;
use mayfly_daemon::store::Entry;
use serde_json::json;

fn uses() -> Uses {
    Uses::new(Duration::from_secs(30), LastUses::default())
}

fn put(uses: &mut Uses, name: &str, extends: Option<&str>, idle: Option<&str>) {
    let mut record = json!({"name": name, "prefix": name, "header": name});
    if let Some(extends) = extends {
        record["extends"] = json!(extends);
    }
    if let Some(idle) = idle {
        record["idle"] = json!(idle);
    }
    take(uses, name, record.to_string());
}

fn take(uses: &mut Uses, name: &str, value: String) {
    let key = Key::Environment(name.parse().unwrap());
    let entry = Entry {
        key: String::new(),
        value: value.into_bytes(),
        create_revision: 1,
        mod_revision: 1,
        lease: None,
    };
    uses.take(&Change::of(key, &entry));
}

fn names(names: &[&str]) -> BTreeSet<EnvironmentName> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

fn note(uses: &mut Uses, noted: &BTreeSet<EnvironmentName>) -> BTreeSet<EnvironmentName> {
    uses.note(noted, Instant::now(), SystemTime::UNIX_EPOCH)
}

/// The round that is due, as the environments that were used and those to be touched.
fn due(uses: &Uses, now: Instant) -> Option<(Round, Vec<String>)> {
    let round = uses.due(now)?;
    let touch = round
        .touch
        .iter()
        .map(|idler| idler.environment.name.to_string())
        .collect();
    Some((round, touch))
}

#[test]
fn only_what_was_used_and_can_end_is_reported_once_in_a_period() {
    let (mut uses, now) = (uses(), Instant::now());
    put(&mut uses, "a", None, Some("8h"));
    put(&mut uses, "b", None, Some("8h"));
    put(&mut uses, "c", None, None);
    assert_eq!(uses.due(now), None);
    assert_eq!(note(&mut uses, &names(&["a", "c"])), names(&[]));
    let (round, touch) = due(&uses, now).unwrap();
    assert_eq!((&round.used, touch), (&names(&["a"]), vec!["a".to_owned()]));
    uses.reported(&round, now);
    assert_eq!(uses.due(now), None, "it was reported");
    note(&mut uses, &names(&["a"]));
    assert_eq!(uses.due(now + Duration::from_secs(29)), None);
    assert!(uses.due(now + Duration::from_secs(30)).is_some());
}

#[test]
fn using_a_child_uses_its_ancestors() {
    let (mut uses, now) = (uses(), Instant::now());
    put(&mut uses, "top", None, Some("1h"));
    put(&mut uses, "middle", Some("top"), None);
    put(&mut uses, "leaf", Some("middle"), Some("8s"));
    put(&mut uses, "other", Some("top"), Some("8s"));
    note(&mut uses, &names(&["middle"]));
    let (round, touch) = due(&uses, now).unwrap();
    assert_eq!(touch, ["top"]);
    uses.reported(&round, now);
    note(&mut uses, &names(&["leaf", "other"]));
    assert_eq!(due(&uses, now).unwrap().1, ["leaf", "other", "top"], "each once");
    // A circle, which core sets aside, ends too.
    put(&mut uses, "top", Some("leaf"), Some("1h"));
    assert!(uses.due(now).is_some());
}

#[test]
fn short_idle_times_are_reported_and_read_more_often() {
    let (mut uses, now) = (uses(), Instant::now());
    assert_eq!(uses.pause(), Duration::from_secs(30), "there is nothing to read");
    put(&mut uses, "a", None, Some("8h"));
    assert_eq!(uses.pause(), Duration::from_secs(1));
    put(&mut uses, "b", None, Some("4s"));
    assert_eq!(uses.pause(), Duration::from_millis(500));
    note(&mut uses, &names(&["a", "b"]));
    let round = uses.due(now).unwrap();
    uses.reported(&round, now);
    note(&mut uses, &names(&["a", "b"]));
    assert_eq!(
        uses.due(now + Duration::from_secs(1)).unwrap().used,
        names(&["b"])
    );
    put(&mut uses, "c", None, Some("1s"));
    assert_eq!(uses.pause(), Duration::from_millis(250));
    // The shortest counts that is still there.
    put(&mut uses, "d", None, Some("4s"));
    for (change, pause) in [
        (("c", None), 500),
        (("b", Some("8h")), 500),
        (("d", Some("5s")), 625),
        (("d", None), 1000),
    ] {
        put(&mut uses, change.0, None, change.1);
        assert_eq!(uses.pause(), Duration::from_millis(pause), "{change:?}");
    }
    for name in ["a", "b", "c", "d", "d"] {
        let key = Key::Environment(name.parse().unwrap());
        uses.take(&Change::Gone(key));
    }
    assert_eq!(uses.pause(), Duration::from_secs(30));
}

#[test]
fn a_failed_round_is_tried_again_within_seconds_however_long_it_fails() {
    let (mut uses, mut now) = (uses(), Instant::now());
    put(&mut uses, "a", None, Some("8h"));
    note(&mut uses, &names(&["a"]));
    for _ in 0..100 {
        let round = uses.due(now).expect("it is not lost");
        let delay = uses.failed(&round, now);
        assert!(delay <= Duration::from_secs(5), "{delay:?}");
        now += delay;
    }
    // HAProxy was restarted meanwhile and has no notes.
    note(&mut uses, &names(&[]));
    let round = uses.due(now).expect("it is not lost");
    uses.reported(&round, now);
    assert_eq!(uses.due(now), None);
}

#[test]
fn gone_environments_are_not_reported_and_the_last_good_record_counts() {
    let (mut uses, now) = (uses(), Instant::now());
    put(&mut uses, "a", None, Some("8h"));
    put(&mut uses, "b", None, Some("8h"));
    note(&mut uses, &names(&["a", "b"]));
    uses.take(&Change::Gone(Key::Environment("a".parse().unwrap())));
    take(&mut uses, "b", "not json".to_owned());
    let (_, touch) = due(&uses, now).unwrap();
    assert_eq!(touch, ["b"]);
    assert_eq!(
        note(&mut uses, &names(&["a", "never-was"])),
        names(&["a", "never-was"])
    );
}

#[test]
fn a_record_that_is_not_good_does_not_change_what_an_environment_extends() {
    let (mut uses, now) = (uses(), Instant::now());
    put(&mut uses, "base", None, Some("8h"));
    put(&mut uses, "other", None, Some("8h"));
    put(&mut uses, "a", Some("base"), None);
    let mut record = json!({"name": "a", "prefix": "a", "header": "a", "extends": "other"});
    record["services"] = json!([{"name": "web", "version": "no version"}]);
    take(&mut uses, "a", record.to_string());
    note(&mut uses, &names(&["a"]));
    let (_, touch) = due(&uses, now).unwrap();
    assert_eq!(touch, ["base"]);
}
