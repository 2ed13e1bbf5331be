//! Counters as HAProxy shows them, and what is said of them.

use mayfly_core::index::Index;
use mayfly_core::keys::KeySpace;
use mayfly_core::records::Record;

use super::*;

/// When this daemon has started: between the two processes.
const SINCE: u64 = 150;
const OLD: Process = Process { pid: 7, started: 100 };
const NEW: Process = Process { pid: 9, started: 200 };

/// a@1 at .1 and .2, b@2 at .3, c@1 and d@1 at .4, and an external service at .5.
fn index() -> Index {
    let mut index = Index::new(KeySpace::default());
    for (backend, address) in [
        ("a/1", "10.0.0.1:80"),
        ("a/1", "10.0.0.2:80"),
        ("b/2", "10.0.0.3:80"),
        ("b/2", "10.0.0.3:81"),
        ("c/1", "10.0.0.4:80"),
        ("d/1", "10.0.0.4:81"),
    ] {
        let key = KeySpace::default()
            .parse(&format!("/mayfly/backends/{backend}/{address}"))
            .unwrap();
        let value = format!("{{\"address\": \"{address}\"}}");
        index.put(Record::decode(&key, value.as_bytes()).unwrap(), 1);
    }
    let outside = r#"{"name": "e", "prefix": "e", "header": "e", "services": [{"name": "o", "version": "http://10.0.0.5:80"}]}"#;
    let key = KeySpace::default().parse("/mayfly/environments/e").unwrap();
    index.put(Record::decode(&key, outside.as_bytes()).unwrap(), 1);
    index.resolve();
    index
}

/// `1:4 3:2` is four calls from 10.0.0.1, and two from 10.0.0.3.
fn counted(text: &str) -> CallTable {
    let row = |word: &str| {
        let (last, calls) = word.split_once(':').unwrap();
        (format!("10.0.0.{last}").parse().unwrap(), calls.parse().unwrap())
    };
    text.split_whitespace().map(row).collect()
}

/// The list after each of these readings: at a second, what a process has counted.
fn said(readings: &[(u64, &[(Process, &str)])]) -> Vec<String> {
    let (index, begun) = (index(), Instant::now());
    let mut calls = LostCalls::new(begun, SINCE);
    let said = readings.iter().map(|(second, counters)| {
        let now = begun + Duration::from_secs(*second);
        let counters = counters.iter().map(|(process, text)| (*process, counted(text)));
        calls.take(counters.collect(), index.routing(), now);
        calls.forget(now);
        let list = calls.list().into_iter();
        let words: Vec<String> = list.map(|one| format!("{} {}", one.caller, one.calls)).collect();
        words.join("; ")
    });
    said.collect()
}

#[test]
fn addresses_become_services() {
    assert_eq!(
        said(&[(0, &[(NEW, "1:1 2:2 3:4 4:8 5:16 6:32")])]),
        ["one of c@1, d@1 at 10.0.0.4 8; b@2 4; a@1 3"],
        "neither an external service nor a person"
    );
}

#[test]
fn each_call_counts_once_and_for_ten_minutes() {
    assert_eq!(
        said(&[
            (0, &[(NEW, "")]),
            (2, &[(NEW, "1:40")]),
            (4, &[(NEW, "1:41")]),
            (300, &[(NEW, "1:45 2:1")]),
            // HAProxy has forgotten an address, and it calls again.
            (601, &[(NEW, "1:2 2:1")]),
            (610, &[(NEW, "1:2")]),
            (1300, &[(NEW, "1:2")]),
        ]),
        ["", "a@1 40", "a@1 41", "a@1 46", "a@1 48", "a@1 7", ""]
    );
}

#[test]
fn a_reload_loses_and_doubles_nothing() {
    assert_eq!(
        said(&[
            (0, &[(OLD, "")]),
            (1, &[(OLD, "1:3")]),
            // What was read just before it, and what the old process answers afterwards.
            (2, &[(OLD, "1:5"), (OLD, "1:6"), (NEW, "")]),
            (4, &[(OLD, "1:6"), (NEW, "1:1")]),
            (6, &[(NEW, "1:2")]),
            // It did not answer in between.
            (8, &[(OLD, "1:7"), (NEW, "1:2")]),
        ]),
        ["", "a@1 3", "a@1 6", "a@1 7", "a@1 8", "a@1 9"]
    );
}

#[test]
fn what_was_counted_before_the_start_is_nobodys() {
    // The address may have been another version's.
    assert_eq!(
        said(&[
            (0, &[(OLD, "1:9000 3:2")]),
            (2, &[(OLD, "1:9001 3:2")]),
            (4, &[(OLD, "1:9001 3:2 2:1"), (NEW, "3:1")]),
        ]),
        ["", "a@1 1", "a@1 2; b@2 1"]
    );
}

#[test]
fn an_address_that_is_given_on_keeps_its_past() {
    let (mut index, begun) = (index(), Instant::now());
    let mut calls = LostCalls::new(begun, SINCE);
    calls.take(vec![(NEW, counted("1:3"))], index.routing(), begun);
    let key = |backend: &str| {
        let key = format!("/mayfly/backends/{backend}/10.0.0.1:80");
        KeySpace::default().parse(&key).unwrap()
    };
    index.gone(&key("a/1"));
    let record = Record::decode(&key("z/9"), b"{\"address\": \"10.0.0.1:80\"}").unwrap();
    index.put(record, 2);
    index.resolve();
    calls.take(vec![(NEW, counted("1:5"))], index.routing(), begun);
    let words: Vec<String> = calls.list().iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        [
            "a@1 dropped the header in 3 calls in the last 10 min",
            "z@9 dropped the header in 2 calls in the last 10 min"
        ]
    );
}

#[test]
fn a_list_is_short_however_many_call() {
    let mut index = Index::new(KeySpace::default());
    let mut all = CallTable::new();
    for n in 1..=200_u64 {
        let key = KeySpace::default()
            .parse(&format!("/mayfly/backends/s{n}/1/10.0.1.{n}:80"))
            .unwrap();
        let value = format!("{{\"address\": \"10.0.1.{n}:80\"}}");
        index.put(Record::decode(&key, value.as_bytes()).unwrap(), 1);
        all.insert(format!("10.0.1.{n}").parse().unwrap(), n);
    }
    index.resolve();
    let now = Instant::now();
    let mut calls = LostCalls::new(now, SINCE);
    calls.take(vec![(NEW, all)], index.routing(), now);
    let list = calls.list();
    assert_eq!((list.len(), list[0].calls, list[49].calls), (50, 200, 151));
    assert_eq!(calls.backends().len(), 200);
}
