//! Rivals for names, prefixes and headers: in the files, in etcd, and between versions of the same file.

use mayfly_core::lifetime::{Life, Moment};
use mayfly_core::records;
use mayfly_daemon::store::Entry as Stored;
use mayfly_daemon::watch::{Batch, Change};
use proptest::prelude::*;

use super::*;
use crate::scan::{Content, Found};

struct Case {
    library: Library,
    mirror: Mirror,
    merged: Merged,
    changes: Changes,
    /// Whether the last merge went the short way.
    short: bool,
    revision: i64,
    terms: Terms,
}

impl Case {
    fn new() -> Self {
        let node: mayfly_core::names::NodeName = "us".parse().unwrap();
        let mut mirror = Mirror::new(mayfly_core::keys::KeySpace::default(), node.clone());
        mirror.take(Batch {
            revision: 1,
            listed: true,
            changes: Vec::new(),
        });
        Self {
            library: Library::new(node),
            mirror,
            merged: Merged::default(),
            changes: Changes {
                all: true,
                ..Changes::default()
            },
            short: false,
            revision: 1,
            terms: Terms {
                now: "2030-01-31T12:00:00Z".parse::<Moment>().unwrap().time(),
                force: false,
            },
        }
    }

    /// Saves a file (an empty text deletes it).
    fn take(&mut self, file: &str, text: &str) {
        let content = Content::Octets(text.as_bytes().to_vec());
        if self.library.take(
            file,
            (!text.is_empty()).then_some(Found {
                fingerprint: None,
                content,
            }),
        ) {
            self.changes.files.insert(file.to_owned());
        }
    }

    /// The same, and merges.
    fn save(&mut self, file: &str, text: &str) -> &mut Self {
        self.take(file, text);
        self.merge()
    }

    /// Merges by the short way, where it can be gone, and checks that the long one leads to the same.
    fn merge(&mut self) -> &mut Self {
        let mut updated = self.merged.clone();
        let affected = update(
            &mut updated,
            &self.library,
            &self.mirror,
            &std::mem::take(&mut self.changes),
            self.terms,
        );
        let full = merge(&self.library, &self.mirror, &self.merged, self.terms);
        if affected.is_some() {
            assert_eq!(updated.accepted, full.accepted);
            assert_eq!((whom(&updated), &updated.wanted), (whom(&full), &full.wanted));
            assert_eq!(
                (&updated.prefixes, &updated.headers),
                (&full.prefixes, &full.headers)
            );
            assert_eq!((&updated.files, &updated.unnamed), (&full.files, &full.unnamed));
        }
        self.short = affected.is_some();
        self.merged = if affected.is_some() { updated } else { full };
        self
    }

    /// Writes to etcd what was accepted, and deletes the rest of ours.
    fn publish(&mut self) -> &mut Self {
        for environment in self.merged.accepted.values() {
            let name = &environment.name;
            if self.mirror.ours(name) == Some(environment) && !self.mirror.is_revived(name) {
                continue;
            }
            self.revision += 1;
            let beginning = Life::beginning(Moment::of(self.terms.now));
            let mut life = self.mirror.life(name).cloned().unwrap_or(beginning);
            life.revived &= self.merged.is_unnamed(name);
            self.mirror.published(environment, life, self.revision);
        }
        let names: Vec<_> = self.mirror.environments().keys().cloned().collect();
        for name in names {
            if self.mirror.ours(&name).is_some() && !self.merged.accepted.contains_key(&name) {
                self.mirror.deleted(&name);
            }
        }
        self
    }

    /// Somebody else registers an environment.
    fn foreign(&mut self, name: &str, prefix: &str) -> &mut Self {
        self.revision += 1;
        let json = serde_json::json!({
            "name": name, "prefix": prefix, "header": name, "source": {"registrar": "them", "file": "f"}
        });
        let entry = Stored {
            key: format!("/mayfly/environments/{name}"),
            value: records::to_json(&json),
            create_revision: self.revision,
            mod_revision: self.revision,
            lease: None,
        };
        let news = self.mirror.take(Batch {
            revision: self.revision,
            listed: false,
            changes: vec![Change::Put(entry)],
        });
        self.changes.add(news);
        self.merge()
    }

    /// A new registrar on the same etcd and directory.
    fn restart(&mut self) -> &mut Self {
        self.merged = Merged::default();
        self.changes.all = true;
        self.merge()
    }

    /// What is accepted, as `name/prefix@file`, and what is refused, as `file:name`.
    fn check(&mut self, accepted: &[&str], refused: &[&str]) -> &mut Self {
        let show = |e: &Arc<Environment>| format!("{}/{}@{}", e.name, e.prefix, file_of(e).unwrap());
        assert_eq!(
            self.merged.accepted.values().map(show).collect::<Vec<_>>(),
            accepted
        );
        let show = |r: &Refusal| format!("{}:{}", r.file, r.environment);
        let found: Vec<_> = self.merged.refused.iter().map(show).collect();
        assert_eq!(found, refused, "{:?}", self.merged.refused);
        self
    }

    fn reason(&self) -> &str {
        &self.merged.refused[0].reason
    }
}

/// The environments that are refused, by file.
fn whom(merged: &Merged) -> BTreeSet<(String, EnvironmentName)> {
    merged
        .refused
        .iter()
        .map(|refusal| (refusal.file.clone(), refusal.environment.clone()))
        .collect()
}

#[test]
fn only_what_touches_a_rival_goes_the_long_way() {
    let mut case = Case::new();
    case.save("a", "- name: x\n- name: y").publish();
    assert!(!case.short, "the first merge");
    for (file, text, short) in [
        ("a", "- {name: x, description: new}\n- name: y", true),
        ("b", "name: z", true),
        ("a", "- {name: x, prefix: free}", true),
        ("b", "{name: z, header: x}", false),
        ("c", "name: w", true),
        ("a", "", false),
        ("c", "{name: w, owner: me}", false),
    ] {
        assert_eq!(case.save(file, text).publish().short, short, "{file}: {text}");
    }
    case.foreign("other", "elsewhere");
    assert!(case.short);
    case.foreign("rival", "www-w");
    assert!(!case.short);
}

#[test]
fn of_new_rivals_the_first_file_gets_it() {
    let mut case = Case::new();
    case.save("b", "name: x").save("a", "{name: y, prefix: www-x}");
    // `b` was there first, though nothing is published yet.
    case.check(&["x/www-x@b"], &["a:y"]);
    assert_eq!(
        case.reason(),
        "prefix www-x is taken by environment x of b: choose another one"
    );
    let mut case = Case::new();
    case.take("b", "name: x");
    case.save("a", "name: x").check(&["x/www-x@a"], &["b:x"]);
}

#[test]
fn who_is_registered_stays_over_a_restart() {
    let mut case = Case::new();
    case.save("b", "name: x")
        .publish()
        .save("a", "name: x")
        .check(&["x/www-x@b"], &["a:x"]);
    assert_eq!(
        case.reason(),
        "environment x is registered from b: give this one another name"
    );
    case.restart().check(&["x/www-x@b"], &["a:x"]);
    case.save("b", "").check(&["x/www-x@a"], &[]);
}

#[test]
fn a_moved_environment_needs_no_delete() {
    let mut case = Case::new();
    case.save("a", "name: x").publish();
    case.save("a", "name: other")
        .save("b", "name: x")
        .check(&["other/www-other@a", "x/www-x@b"], &[]);
}

#[test]
fn the_last_good_version_stays_and_keeps_its_prefix() {
    let mut case = Case::new();
    case.save("a", "{name: x, prefix: p}").publish();
    case.save("a", "{name: x, prefix: P P}").check(&["x/p@a"], &[]);
    case.save("b", "{name: y, prefix: p}").check(&["x/p@a"], &["b:y"]);
    case.save("a", "[not yaml").restart().check(&["x/p@a"], &["b:y"]);
    case.save("a", "{name: x, prefix: q}")
        .check(&["x/q@a", "y/p@b"], &[]);
}

#[test]
fn what_a_faulty_file_no_longer_names_goes() {
    let mut case = Case::new();
    case.save("a", "- name: x\n- name: y").publish();
    case.save("a", "- {name: y, owner: me}")
        .check(&["y/www-y@a"], &[]);
    case.save("a", "").check(&[], &[]);
}

#[test]
fn prefixes_can_be_swapped() {
    let mut case = Case::new();
    case.save("a", "- {name: x, prefix: p}\n- {name: y, prefix: q}")
        .publish();
    case.save("a", "- {name: x, prefix: q}\n- {name: y, prefix: p}")
        .check(&["x/q@a", "y/p@a"], &[]);
}

#[test]
fn a_change_that_loses_leaves_the_version_before() {
    let mut case = Case::new();
    case.save("a", "{name: x, prefix: p}")
        .save("b", "{name: y, prefix: q}")
        .publish();
    case.save("a", "{name: x, prefix: q}")
        .check(&["x/p@a", "y/q@b"], &["a:x"]);
    // `y` goes on to `p`, which `x` would have freed: but `x` stays.
    case.save("c", "{name: z, prefix: r}").publish();
    case.take("a", "{name: x, prefix: p}");
    case.merge().publish();
    case.take("b", "{name: y, prefix: r}");
    case.save("a", "{name: x, prefix: r}")
        .check(&["x/p@a", "y/q@b", "z/r@c"], &["a:x", "b:y"]);
}

#[test]
fn an_environment_whose_change_is_refused_gets_back_what_was_given_away() {
    let mut case = Case::new();
    case.save("a", "{name: x, prefix: p}")
        .save("b", "{name: y, prefix: q}")
        .publish()
        .foreign("z", "r");
    // In the order of the files `x` takes `q`, which `y` leaves for `r`; but `r` is somebody else's.
    case.take("b", "{name: y, prefix: r}");
    case.save("a", "{name: x, prefix: q}")
        .check(&["x/p@a", "y/q@b"], &["a:x", "b:y"]);
}

#[test]
fn what_others_registered_is_left_alone() {
    let mut case = Case::new();
    case.foreign("x", "p")
        .save("a", "- name: x\n- {name: y, prefix: p}\n- name: z");
    case.check(&["z/www-z@a"], &["a:x", "a:y"]);
    assert_eq!(
        case.reason(),
        "environment x is registered by the registrar of node them: give this one another name"
    );
}

#[test]
fn a_clash_that_others_made_later_is_told_and_ours_stays() {
    let mut case = Case::new();
    case.save("a", "{name: x, prefix: p}")
        .publish()
        .foreign("y", "p")
        .check(&["x/p@a"], &["a:x"]);
    assert!(
        case.reason()
            .starts_with("prefix p is taken by environment y of the registrar"),
        "{}",
        case.reason()
    );
}

#[test]
fn a_file_that_is_not_read_yet_keeps_everything_from_it() {
    let mut case = Case::new();
    case.save("a", "- name: x\n- name: y").publish();
    case.library = Library::new("us".parse().unwrap());
    case.restart().check(&[], &[]);
    let unread = crate::scan::Scan {
        files: [("a".to_owned(), None)].into(),
        ..Default::default()
    };
    case.library.take_scan(unread);
    case.restart().check(&["x/www-x@a", "y/www-y@a"], &[]);
}

proptest! {
    /// Whatever is saved in which order: no two accepted environments share a prefix or header, none clashes by name with
    /// somebody else's, a second merge changes nothing, and what is faultless and without a rival is accepted.
    #[test]
    fn merges_are_sound_and_stable(saves in prop::collection::vec(
        ("[abc]", prop::collection::vec(("[xyz]", "[pqr]", any::<bool>()), 0..3), any::<bool>()), 1..12
    ), foreign in proptest::option::of(("[xyz]", "[pqr]"))) {
        let mut case = Case::new();
        if let Some((name, prefix)) = &foreign {
            case.foreign(name, prefix);
        }
        for (file, environments, publish) in saves {
            let mut text = "# file\n".to_owned();
            for (name, prefix, good) in environments {
                text += &format!("- {{name: {name}, prefix: {prefix}{}}}\n", if good { "" } else { ", bad: 1" });
            }
            case.save(&file, &text);
            let (mut prefixes, mut headers) = (std::collections::BTreeSet::new(), std::collections::BTreeSet::new());
            for (name, environment) in &case.merged.accepted {
                prop_assert!(prefixes.insert(environment.prefix.clone()) && headers.insert(environment.header.clone()));
                prop_assert_eq!(name, &environment.name);
                prop_assert!(foreign.as_ref().is_none_or(|(other, _)| other != name.as_str()));
            }
            if publish {
                case.publish();
            }
            let first = case.merged.clone();
            case.changes.all = true;
            case.merge();
            prop_assert_eq!(&first.accepted, &case.merged.accepted);
            prop_assert_eq!(whom(&first), whom(&case.merged));
            for (file, document) in case.library.files() {
                for entry in &document.entries {
                    let name = &entry.environment.name;
                    let refused = case.merged.refused.iter().any(|r| r.file == file && r.environment == *name);
                    let accepted = case.merged.accepted.get(name) == Some(&entry.environment);
                    prop_assert!(refused || accepted, "{} of {} is neither", name, file);
                }
            }
        }
    }
}
