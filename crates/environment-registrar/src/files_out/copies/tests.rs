//! What a copy is, and that nothing of a person's is touched.

use super::*;
use crate::actual::tests::reported;
use crate::files_in::origin::without_mark;
use crate::files_in::scan::{Content, FoundFile};
use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::records::SetAsides;
use mayfly_daemon::watch::{Batch, Change};

fn environment(name: &str, version: &str) -> Environment {
    let text = format!("name: {name}\nservices: [{{name: backend, version: {version}}}]");
    parse(text.as_bytes()).entries[0].environment.clone()
}

/// The files of a directory with these contents.
fn all_files(files: &[(&str, &[u8])]) -> Files {
    let mut all_files = Files::new("us".parse().unwrap());
    for (name, bytes) in files {
        let content = Content::Bytes(bytes.to_vec());
        all_files.update(
            name,
            Some(FoundFile {
                fingerprint: None,
                content,
            }),
        );
    }
    all_files
}

/// An etcd in which `registrar` has registered these; with `-`, nobody says who.
fn actual(records: &[(&Environment, &str)]) -> Actual {
    let mut actual = Actual::new(KeySpace::default(), "us".parse().unwrap());
    let changes = records
        .iter()
        .zip(2..)
        .map(|((environment, registrar), revision)| {
            let mut record = serde_json::to_value(environment).unwrap();
            if *registrar != "-" {
                record["source"] = serde_json::json!({"registrar": registrar, "file": "f.yaml"});
            }
            let key = Key::Environment(environment.name.clone());
            reported(key, record.to_string().as_bytes(), revision, revision)
        });
    actual.update(Batch {
        revision: 100,
        listed: true,
        changes: changes.collect(),
        set_aside: SetAsides::default(),
    });
    actual
}

fn words(files: &[(&str, &[u8])], records: &[(&Environment, &str)]) -> Vec<String> {
    let copies = plan(&all_files(files), &actual(records), &BTreeMap::new());
    let writes = copies.writes.iter().map(|it| format!("write {}", it.name));
    let deletes = copies.deletes.iter().map(|name| format!("delete {name}"));
    let reports = copies.reports.keys().map(|file| format!("tell {file}"));
    writes.chain(deletes).chain(reports).collect()
}

#[test]
fn a_copy_is_one_until_a_person_changes_it() {
    let text = copy(&environment("a", "1.10")).unwrap();
    let name: EnvironmentName = "a".parse().unwrap();
    assert_eq!(Origin::of(&text), Origin::Copy(name.clone()));
    assert!(without_mark(&text).starts_with(b"name: a\n"));
    assert_eq!(parse(&text).entries[0].environment, environment("a", "1.10"));
    let mut edited = text.clone();
    edited.extend_from_slice(b"# mine\n");
    assert!(matches!(Origin::of(&edited), Origin::Edited { of, .. } if of == name));
    for other in ["", "name: a\n", "# mayfly write-back of a\nname: a\n", "# mayfly"] {
        assert_eq!(Origin::of(other.as_bytes()), Origin::Person, "{other:?}");
    }
}

#[test]
fn what_no_file_can_say_is_not_written() {
    let mut strange = environment("a", "1");
    strange.description = Some("\u{1b}[2J".to_owned());
    assert!(copy(&strange).unwrap_err().contains("control character"));
    assert_eq!(words(&[], &[(&strange, "them")]), ["tell a.yaml"]);
}

#[test]
fn copies_follow_etcd() {
    let (old, new) = (environment("a", "1"), environment("a", "2"));
    let copy_of = |environment| copy(environment).unwrap();
    let copied = copy_of(&old);
    let edited = [copied.clone(), b"# mine\n".to_vec()].concat();
    let none: [&str; 0] = [];
    assert_eq!(words(&[], &[(&old, "them")]), ["write a"]);
    assert_eq!(words(&[], &[(&old, "-")]), ["write a"]);
    assert_eq!(words(&[], &[(&old, "us")]), none, "our own is not written back");
    assert_eq!(words(&[("a.yaml", &copied)], &[(&old, "them")]), none);
    assert_eq!(words(&[("a.yaml", &copied)], &[(&new, "them")]), ["write a"]);
    let other = environment("b", "1");
    assert_eq!(words(&[("a.yaml", &copied)], &[(&other, "us")]), ["delete a"]);
    assert_eq!(words(&[("a.yaml", &copied)], &[(&new, "us")]), ["delete a"]);
    for records in [&[(&new, "them")][..], &[], &[(&new, "us")]] {
        assert_eq!(words(&[("a.yaml", &edited)], records), none);
        assert_eq!(
            words(&[("a.yaml", b"name: a")], records),
            none,
            "the merge tells of it"
        );
        assert_eq!(words(&[("a.yaml", b"[")], records), none, "the fault is told");
    }
    let other: &[u8] = b"name: b";
    assert_eq!(words(&[("a.yaml", other)], &[(&old, "them")]), ["tell a.yaml"]);
    assert_eq!(
        words(&[("b.yaml", b"name: a")], &[(&old, "them")]),
        none,
        "said there"
    );
    assert_eq!(
        words(&[("b.yaml", &copied)], &[(&old, "them")]),
        ["write a", "tell b.yaml"]
    );
}

#[test]
fn copies_stay_when_etcd_loses_its_data() {
    let a = environment("a", "1");
    let mut actual = actual(&[(&a, "them")]);
    actual.update(Batch {
        revision: 1,
        listed: true,
        changes: vec![Change::Gone(Key::Environment(a.name.clone()))],
        set_aside: SetAsides::default(),
    });
    let text = copy(&a).unwrap();
    let copies = plan(&all_files(&[("a.yaml", &text)]), &actual, &BTreeMap::new());
    assert_eq!((copies.deletes.len(), copies.reports.len()), (0, 1));
}

#[test]
fn copies_stay_when_etcd_is_empty_at_first() {
    let a = environment("a", "1");
    let mut actual = Actual::new(KeySpace::default(), "us".parse().unwrap());
    let text = copy(&a).unwrap();
    let all_files = all_files(&[("a.yaml", &text)]);
    let batch = |revision, listed, changes| Batch {
        revision,
        listed,
        changes,
        set_aside: SetAsides::default(),
    };
    actual.update(batch(1, true, Vec::new()));
    let copies = plan(&all_files, &actual, &BTreeMap::new());
    assert_eq!((copies.deletes.len(), copies.reports.len()), (0, 1));
    // From now on it goes with its environment.
    let key = Key::Environment(a.name.clone());
    let put = reported(key.clone(), &mayfly_core::records::to_json(&a), 2, 2);
    actual.update(batch(2, false, vec![put]));
    actual.update(batch(3, false, vec![Change::Gone(key)]));
    let copies = plan(&all_files, &actual, &BTreeMap::new());
    assert_eq!((copies.deletes.len(), copies.reports.len()), (1, 0));
}

#[test]
fn a_copy_that_a_person_changed_takes_the_environment_over() {
    let (theirs, other) = (environment("a", "1"), environment("b", "1"));
    let edited = |base: &Environment, text: &str| {
        let copy = copy(base).unwrap();
        let mark = copy
            .split_inclusive(|octet| *octet == b'\n')
            .next()
            .unwrap()
            .to_vec();
        [mark, text.as_bytes().to_vec()].concat()
    };
    let mine = edited(&theirs, "name: a\nservices: [{name: backend, version: 9}]\n");
    let actual = actual(&[(&theirs, "them"), (&other, "them")]);
    let terms = crate::desired::Terms {
        now: std::time::SystemTime::UNIX_EPOCH,
        force: false,
        quota: crate::desired::Quota::default(),
    };
    let merge = |files: &[(&str, &[u8])]| {
        let mut merged = crate::desired::merge::Merged::default();
        let changes = crate::changes::Changes::all();
        crate::desired::merge::merge(&mut merged, &all_files(files), &actual, &changes, terms);
        merged
    };
    let merged = merge(&[("a.yaml", &mine)]);
    assert_eq!(merged.takeovers().len(), 1);
    assert_eq!(merged.refused, []);
    // Only the environment of which it was a copy, and only in its place.
    let renamed = edited(&theirs, "name: b\n");
    for (file, text) in [("a.yaml", &renamed), ("c.yaml", &mine)] {
        let merged = merge(&[(file, text)]);
        assert_eq!((merged.accepted.len(), merged.refused.len()), (0, 1), "{file}");
    }
    // A copy as it was is no candidate at all, and refuses nobody.
    let untouched = copy(&theirs).unwrap();
    let merged = merge(&[("a.yaml", &untouched)]);
    assert_eq!((merged.accepted.len(), merged.refused.len()), (0, 0));
}
