//! What a watch makes of listings and events: differences, what is set aside, and what is not believed.

use super::*;

/// `bad` is a value that is no record; others are records that differ in it.
fn entry(key: &str, value: &str, mod_revision: i64) -> Entry {
    let (kind, name) = key.split_once('/').unwrap();
    let record = match kind {
        _ if value == "bad" => serde_json::json!({}),
        "environments" => {
            serde_json::json!({"name": name, "prefix": name, "header": name, "description": value})
        }
        "dns" => serde_json::json!({"addresses": ["10.0.0.1"]}),
        _ => serde_json::json!({"address": "10.0.0.1:80", "metadata": {"value": value}}),
    };
    Entry {
        key: format!("/mayfly/{key}"),
        value: record.to_string().into_bytes(),
        create_revision: 1,
        mod_revision,
        lease: None,
    }
}

fn listing(revision: i64, entries: &[Entry]) -> Listing {
    Listing {
        revision,
        entries: entries.to_vec(),
    }
}

fn texts(changes: &[Change]) -> Vec<String> {
    let text = |change: &Change| {
        let what = match change {
            Change::Put(_) => "put",
            Change::Unreadable(_) => "unreadable",
            Change::Gone(_) => "gone",
        };
        let key = KeySpace::default().text(&change.key());
        format!("{what} {}", key.trim_start_matches("/mayfly/"))
    };
    changes.iter().map(text).collect()
}

fn delete(key: &str) -> Event {
    Event::Delete(format!("/mayfly/{key}"))
}

fn aside(known: &KnownKeys) -> Vec<String> {
    let set_aside = known.set_aside();
    let texts = set_aside
        .iter()
        .map(|aside| format!("{}: {}", aside.key, aside.reason));
    texts.collect()
}

fn known(entries: &[Entry]) -> KnownKeys {
    let mut known = KnownKeys::new(KeySpace::default(), &Kind::ALL);
    let changes = known.list(listing(9, entries));
    assert_eq!(changes.len(), entries.len());
    known
}

#[test]
fn a_listing_becomes_only_the_differences_and_tells_what_has_vanished() {
    let (a, b) = (entry("environments/a", "1", 2), entry("environments/b", "1", 3));
    let mut known = known(&[a.clone(), b]);
    let changed = entry("environments/c", "1", 5);
    let changes = known.list(listing(9, &[a.clone(), changed.clone()]));
    assert_eq!(texts(&changes), ["gone environments/b", "put environments/c"]);
    let changes = known.list(listing(9, &[a, changed]));
    assert!(changes.is_empty());
}

#[test]
fn another_value_at_an_old_revision_is_a_difference() {
    let mut known = known(&[entry("environments/a", "before", 2)]);
    let changes = known.list(listing(2, &[entry("environments/a", "after", 2)]));
    assert_eq!(texts(&changes), ["put environments/a"]);
}

#[test]
fn of_a_bad_value_the_last_good_one_stays_until_there_is_another_or_the_key_is_gone() {
    let mut known = known(&[entry("environments/a", "1", 2)]);
    let reason = "/mayfly/environments/a: the value is not a record: missing field `name` at line 1 column 2";
    let bad = || entry("environments/a", "bad", 3);
    assert_eq!(
        texts(&known.events(vec![Event::Put(bad())])),
        ["unreadable environments/a"]
    );
    assert_eq!(aside(&known), [reason]);
    let changes = known.list(listing(9, &[bad()]));
    assert!(
        changes.is_empty() && !aside(&known).is_empty(),
        "told once, and kept"
    );
    let good = known.events(vec![Event::Put(entry("environments/a", "2", 10))]);
    assert_eq!(
        (texts(&good), aside(&known)),
        (vec!["put environments/a".to_owned()], vec![])
    );
    known.events(vec![Event::Put(bad())]);
    let gone = known.events(vec![delete("environments/a")]);
    assert_eq!(
        (texts(&gone), aside(&known)),
        (vec!["gone environments/a".to_owned()], vec![])
    );
}

#[test]
fn a_bad_value_of_a_listing_is_set_aside_until_a_listing_lacks_it() {
    let mut known = known(&[]);
    let changes = known.list(listing(9, &[entry("environments/a", "bad", 3)]));
    assert_eq!(
        (texts(&changes), aside(&known).len()),
        (vec!["unreadable environments/a".to_owned()], 1)
    );
    let changes = known.list(listing(10, &[]));
    assert_eq!(
        (texts(&changes), aside(&known).len()),
        (vec!["gone environments/a".to_owned()], 0)
    );
}

#[test]
fn what_is_no_key_is_set_aside_until_it_is_gone_and_changes_nothing() {
    let mut known = known(&[]);
    let all = ["environments/A b", "environments/a/b", "surprise/a"];
    let events = all.map(|key| Event::Put(entry(key, "1", 3)));
    assert!(known.events(events.into()).is_empty());
    let reasons = aside(&known);
    assert!(reasons[0].contains("is not an environment name"), "{reasons:?}");
    assert_eq!(reasons[1], "/mayfly/environments/a/b: not a key of mayfly");
    assert_eq!(reasons[2], "/mayfly/surprise/a: not a key of mayfly");
    assert!(known.events(all.map(delete).into()).is_empty());
    assert!(aside(&known).is_empty());
}

#[test]
fn kinds_that_are_not_asked_for_are_passed_over() {
    let space = KeySpace::default();
    let mut known = KnownKeys::new(space.clone(), space.routing().kinds);
    let all = ["dns/host.internal", "dns/A b", "environments/a"].map(|key| entry(key, "1", 3));
    assert_eq!(texts(&known.list(listing(9, &all))), ["put environments/a"]);
    let events = all
        .map(Event::Put)
        .into_iter()
        .chain([delete("dns/host.internal")]);
    assert_eq!(texts(&known.events(events.collect())), ["put environments/a"]);
    assert!(aside(&known).is_empty());
}

#[test]
fn an_instance_is_gone_when_no_spelling_of_its_key_is_there() {
    let [plain, suffixed] = ["backends/s/1/x", "backends/s.service/1/x"];
    let mut known = known(&[entry(suffixed, "1", 2), entry(plain, "1", 3)]);
    assert!(known.events(vec![delete(suffixed)]).is_empty());
    // What was told last may have been the value of the one that is gone.
    let reported = known.list(listing(4, &[entry(plain, "1", 3)]));
    assert_eq!(texts(&reported), ["put backends/s/1/x"]);
    known.events(vec![Event::Put(entry(suffixed, "1", 4))]);
    assert!(known.events(vec![delete(plain)]).is_empty());
    assert_eq!(
        texts(&known.events(vec![delete(suffixed)])),
        ["gone backends/s/1/x"]
    );
}
