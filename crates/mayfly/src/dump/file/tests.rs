//! A dump has what belongs into it, and no file that is not whole is taken for one.

use super::*;
use mayfly_daemon::store::{Entry, Listing};
use proptest::prelude::*;

const AT: &str = "2030-01-31T12:00:00Z";

fn entry(key: &str, value: &str) -> Entry {
    Entry {
        key: format!("/mayfly/{key}"),
        value: value.as_bytes().to_vec(),
        create_revision: 1,
        mod_revision: 1,
        lease: None,
    }
}

fn environment(name: &str) -> Entry {
    let value = format!(r#"{{"name": "{name}","prefix":"{name}","header":"{name}", "moon":  1.50}}"#);
    entry(&format!("environments/{name}"), &value)
}

/// The dump of these entries.
fn dumped(entries: Vec<Entry>) -> (Contents, String) {
    let space = KeySpace::default();
    let listing = Listing { revision: 7, entries };
    let contents = Contents::of(&space, listing);
    let (_, text) = write(&space, &contents, AT.parse().unwrap());
    (contents, text)
}

fn refused(text: &str) -> String {
    format!("{:#}", read(&KeySpace::default(), text).unwrap_err())
}

/// A dump of another body, with the header that belongs to it.
fn with_body(body: &str, change: impl Fn(&mut Header)) -> String {
    let mut header = Header {
        mayfly_dump: FORMAT,
        version: "9.1.0".to_owned(),
        prefix: "/mayfly".to_owned(),
        revision: 1,
        at: AT.parse().unwrap(),
        records: body.lines().count(),
        sha256: sha256(body),
        left_out: BTreeMap::new(),
    };
    change(&mut header);
    format!("{}\n{body}", serde_json::to_string(&header).unwrap())
}

#[test]
fn a_dump_has_what_only_etcd_has_and_its_very_bytes() {
    let (mut second, mut pretty) = (environment("b"), environment("c"));
    second.create_revision = 2;
    pretty.create_revision = 3;
    pretty.value = b"{\n \"name\":\"c\",\r\n \"prefix\":\"c\",\"header\":\"c\"}".to_vec();
    let (contents, text) = dumped(vec![
        entry("backends/web/1/10.0.0.1:80", r#"{"address":"10.0.0.1:80"}"#),
        entry(
            "backends/web.service/1/10.0.0.2:80",
            r#"{"address":"10.0.0.2:80"}"#,
        ),
        entry("dns/db.service", r#"{"addresses":["10.0.0.9"]}"#),
        environment("a"),
        pretty,
        second,
        entry("environments/broken", "{}"),
        entry("never/x", "1"),
        entry("relaunches/web/1", "{}"),
        entry("status/dns-updater/n", "{}"),
    ]);
    let (header, records) = read(&KeySpace::default(), &text).unwrap();
    let keys: Vec<String> = records
        .iter()
        .map(|it| relative(&KeySpace::default(), &it.key))
        .collect();
    let expected = [
        "dns/db.service",
        "backends/web/1/10.0.0.1:80",
        "environments/a",
        "environments/b",
        "environments/c",
    ];
    assert_eq!(keys, expected);
    assert_eq!(records[2].value, environment("a").value);
    assert_eq!(
        (header.records, header.revision, header.prefix.as_str()),
        (5, 7, "/mayfly")
    );
    let left_out = [("relaunches", 1), ("status", 1), ("unreadable", 2)];
    assert_eq!(
        header.left_out,
        left_out.map(|(kind, count)| (kind.to_owned(), count)).into()
    );
    assert_eq!(contents.unreadable.len(), 2, "{:?}", contents.unreadable);
    // Every line is JSON.
    assert!(
        text.lines()
            .all(|line| serde_json::from_str::<serde_json::Value>(line).is_ok()),
        "{text}"
    );
    let other = "/other".parse().unwrap();
    assert_eq!(
        read(&other, &text).unwrap().1.len(),
        5,
        "another prefix may take it"
    );
}

#[test]
fn what_is_no_whole_dump_is_refused_with_the_reason() {
    let (_, text) = dumped(vec![environment("a"), environment("b")]);
    let lines: Vec<&str> = text.lines().collect();
    for (text, part) in [
        (String::new(), "this is no dump of Mayfly"),
        (
            "name: a\n".to_owned(),
            "begins with `{\"mayfly_dump\":`: expected",
        ),
        (lines[0][..40].to_owned(), "this is no dump of Mayfly"),
        (
            format!("{}\n{}\n", lines[0], lines[1]),
            "the dump was cut off: the header announces 2 records, but 1 lines follow",
        ),
        (text[..text.len() - 5].to_owned(), "the dump was cut off"),
        (
            format!("{text}{}\n", lines[1]),
            "the dump was changed after `mayfly dump` wrote it",
        ),
        (
            text.replace("1.50", "1.51"),
            "the dump was changed after `mayfly dump` wrote it",
        ),
        (format!("{}\n", lines[0]), "the dump was cut off"),
        (
            with_body("", |header| header.mayfly_dump = 2),
            "the dump was written by Mayfly 9.1.0 in format 2, and Mayfly",
        ),
        (with_body("", |header| header.mayfly_dump = 0), "in format 0"),
        (with_body("x\n", |_| {}), "cannot restore line 2"),
        (
            with_body("{\"key\":\"never/x\",\"value\":1}\n", |_| {}),
            "written by Mayfly 9.1.0: key never/x: not a key of mayfly",
        ),
        (
            with_body("{\"key\":\"status/dns-updater/n\",\"value\":{}}\n", |_| {}),
            "a dump cannot contain keys of this kind",
        ),
        (
            with_body("{\"key\":\"environments/a\",\"value\":{}}\n", |_| {}),
            "key environments/a: the value is not a record",
        ),
        (
            with_body("{\"key\":\"../environments/a\",\"value\":{}}\n", |_| {}),
            "not a key of mayfly",
        ),
        (
            with_body(&format!("{}\n{}\n", lines[1], lines[1]), |_| {}),
            "line 3: an earlier line has the same key environments/a",
        ),
    ] {
        let told = refused(&text);
        assert!(told.contains(part), "{part} in {told}");
    }
    // What an older version wrote without a field that came later.
    let older = text.replace(r#","left_out":{}"#, "");
    assert!(older.len() < text.len());
    read(&KeySpace::default(), &older).unwrap();
}

proptest! {
    #[test]
    fn any_file_is_a_dump_or_refused(text in "\\PC{0,60}\n?\\PC{0,60}\n?", at in 0..2000usize, by in any::<u8>()) {
        let _ = read(&KeySpace::default(), &text);
        // A changed byte is always found.
        let (_, good) = dumped(vec![environment("a"), environment("b")]);
        let mut bytes = good.clone().into_bytes();
        let place = good.find('\n').unwrap() + 1 + at % (good.len() - good.find('\n').unwrap() - 1);
        bytes[place] ^= by;
        if let (Ok(text), true) = (String::from_utf8(bytes), by != 0) {
            prop_assert!(read(&KeySpace::default(), &text).is_err());
        }
    }
}
