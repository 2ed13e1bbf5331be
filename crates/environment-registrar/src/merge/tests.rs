//! Rivals for names, prefixes and headers: in the files, in etcd, and between versions of the same file.

use std::time::{Duration, Instant};

use mayfly_core::lifetime::Moment;
use mayfly_core::records;
use mayfly_daemon::store::Entry as Stored;
use mayfly_daemon::watch::{Batch, Change};
use proptest::prelude::*;

use super::*;
use crate::plan::{Absences, Plan, plan};
use crate::scan::{Content, Found};

mod histories;
mod quotas;
mod refusals;

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
                quota: Quota::default(),
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
            assert_eq!(whom(&updated), whom(&full));
            // To wait for what nobody wants any more costs no more than a long way, which forgets it.
            assert!(full.wanted.is_subset(&updated.wanted));
            assert_eq!(
                (&updated.prefixes, &updated.headers),
                (&full.prefixes, &full.headers)
            );
            assert_eq!((&updated.files, &updated.unnamed), (&full.files, &full.unnamed));
            assert_eq!(updated.outdated, full.outdated);
            assert_eq!(updated.bytes, full.bytes);
        }
        self.short = affected.is_some();
        self.merged = if affected.is_some() { updated } else { full };
        self
    }

    /// Writes to etcd what follows from the merge, as `plan` has it.
    fn publish(&mut self) -> &mut Self {
        let plan = self.plan();
        for environment in &plan.same {
            self.mirror.same(environment);
        }
        for put in plan.puts {
            self.revision += 1;
            self.mirror.published(&put.environment, put.life, self.revision);
        }
        for (name, _) in plan.deletes {
            self.mirror.deleted(&name);
            self.changes.names.insert(name);
        }
        for (name, _) in plan.ends {
            self.mirror.ended_now(&name);
            self.changes.names.insert(name);
        }
        self
    }

    fn plan(&self) -> Plan {
        let mut absences = Absences::new(Duration::ZERO);
        plan(
            &self.merged,
            &self.mirror,
            None,
            &mut absences,
            self.terms,
            Instant::now(),
        )
    }

    /// Lets the watch tell of changes of one revision.
    fn told(&mut self, changes: Vec<Change>) -> &mut Self {
        let news = self.mirror.take(Batch {
            revision: self.revision,
            listed: false,
            changes,
        });
        self.changes.add(news);
        self.merge()
    }

    /// The record of an environment ends, by its lease or because somebody deletes it; with its history, if that is lost.
    fn end(&mut self, name: &str, lost: bool) -> &mut Self {
        self.revision += 1;
        let kinds: &[&str] = if lost {
            &["environments", "history"]
        } else {
            &["environments"]
        };
        let delete = |kind: &&str| Change::Delete {
            key: format!("/mayfly/{kind}/{name}"),
        };
        self.told(kinds.iter().map(delete).collect())
    }

    /// `mayfly keep` on an environment that has ended.
    fn keep(&mut self, name: &str) -> &mut Self {
        let name: EnvironmentName = name.parse().unwrap();
        let ended = !self.mirror.environments().contains_key(&name);
        let past = self.mirror.past(&name).filter(|_| ended);
        let Some(mut environment) = past.and_then(|past| past.environment()) else {
            return self;
        };
        self.revision += 1;
        let mut life = environment.life.unwrap();
        life.revived = true;
        life.kept_until = Some(Moment::of(self.terms.now + Duration::from_secs(3600)));
        environment.life = Some(life);
        let entry = |kind: &str| {
            Change::Put(Stored {
                key: format!("/mayfly/{kind}/{name}"),
                value: records::to_json(&environment),
                create_revision: self.revision,
                mod_revision: self.revision,
                lease: None,
            })
        };
        let entries = vec![entry("environments"), entry("history")];
        self.told(entries)
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
        self.told(vec![Change::Put(entry)])
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

    /// What its record in etcd tells of the newest version of an environment; nothing, or something with this in it.
    fn refused(&mut self, name: &str, part: &str) -> &mut Self {
        let life = self.mirror.life(&name.parse().unwrap()).unwrap();
        let refused = life.refused.as_deref().unwrap_or_default();
        assert!(
            refused.contains(part) && refused.is_empty() == part.is_empty(),
            "{name}: {refused}"
        );
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
fn a_broken_version_that_was_displaced_waits_for_what_it_had() {
    let mut case = Case::new();
    case.save("a", "{name: x, prefix: p}").publish();
    case.save("b", "{name: y, prefix: p}").save("a", "# nothing");
    case.save("a", "{name: x, prefix: p, owner: me}")
        .check(&["y/p@b"], &[]);
    case.save("a", "# nothing").check(&["y/p@b"], &[]);
    case.save("b", "{name: y, prefix: q}").check(&["y/q@b"], &[]);
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

#[test]
fn what_has_ended_claims_nothing_until_its_file_asks_for_something_else() {
    let mut case = Case::new();
    case.save("a", "{name: x, prefix: p}").publish();
    case.save("b", "{name: y, prefix: p}").check(&["x/p@a"], &["b:y"]);
    case.end("x", false).check(&["y/p@b"], &["a:x"]).publish();
    assert_eq!(case.merged.refused[0].cause, Cause::Ended);
    assert_eq!(
        case.reason(),
        "environment x has ended: it was removed through etcd; change the file to have it again, or `mayfly keep x 8h`"
    );
    // Neither a restart nor another file that says the same brings it back.
    case.restart().check(&["y/p@b"], &["a:x"]);
    case.save("c", "{name: x, prefix: p}")
        .check(&["y/p@b"], &["a:x", "c:x"]);
    case.save("c", "");
    case.save("a", "{name: x, prefix: q}")
        .check(&["x/q@a", "y/p@b"], &[])
        .publish();
    case.end("y", true).check(&["x/q@a", "y/p@b"], &[]);
}

#[test]
fn a_last_good_version_that_has_ended_does_not_come_back_either() {
    let mut case = Case::new();
    case.save("a", "{name: x, prefix: p}").publish();
    case.save("a", "{name: x, prefix: P P}").check(&["x/p@a"], &[]);
    case.end("x", false).check(&[], &[]);
    // The file says again what it said before.
    case.save("a", "{name: x, prefix: p}").check(&[], &["a:x"]);
}

#[test]
fn what_would_be_over_is_refused() {
    let mut case = Case::new();
    case.save("a", "{name: x, expires: 2030-01-31T12:00:00Z}")
        .check(&[], &["a:x"]);
    assert_eq!(
        case.reason(),
        "environment x would have expired at 2030-01-31T12:00:00Z: let it expire later"
    );
    case.save("a", "{name: x, expires: 2h}")
        .check(&["x/www-x@a"], &[]);
    case.publish();
    case.terms.now += Duration::from_secs(3 * 1800);
    // A change counts from the first registration, and the last good version stays.
    case.save("a", "{name: x, expires: 1h}")
        .check(&["x/www-x@a"], &["a:x"]);
    assert_eq!(
        case.merged
            .accepted
            .values()
            .next()
            .unwrap()
            .expires
            .unwrap()
            .to_string(),
        "2h"
    );
    case.save("a", "{name: x, expires: 3h}")
        .check(&["x/www-x@a"], &[]);
    // In its last moments nothing is told of it; then it is deleted, and another may have its prefix.
    case.publish().save("b", "{name: y, prefix: www-x}");
    case.terms.now += Duration::from_secs(2 * 3600);
    case.merge().check(&["x/www-x@a"], &["b:y"]).publish();
    case.merge().check(&["y/www-x@b"], &["a:x"]);
    assert!(
        case.reason().contains("it expired at 2030-01-31T15:00:00Z"),
        "{}",
        case.reason()
    );
}

#[test]
fn a_protected_environment_stays_without_its_file() {
    let mut case = Case::new();
    case.save("a", "{name: x, prefix: p, protected: true}").publish();
    case.save("a", "").check(&["x/p@a"], &["a:x"]);
    assert!(
        !case.short && case.reason().contains("because it is protected"),
        "{}",
        case.reason()
    );
    case.restart().publish().check(&["x/p@a"], &["a:x"]);
    // It keeps its prefix, and a file may take it up again under another name.
    case.save("b", "{name: y, prefix: p}")
        .check(&["x/p@a"], &["a:x", "b:y"]);
    case.save("c", "{name: x, prefix: p, protected: true}")
        .check(&["x/p@c"], &["b:y"])
        .publish();
    // Removed, it is registered again as long as a file names it; without one it is gone.
    case.end("x", false).check(&["x/p@c"], &["b:y"]).publish();
    case.save("c", "").end("x", false).check(&["y/p@b"], &[]);
    // Not protected any more, or by force, it goes with its file.
    let mut case = Case::new();
    case.save("a", "{name: x, protected: true}").publish();
    case.save("a", "name: x").publish().save("a", "").check(&[], &[]);
    case.publish().save("a", "{name: x, protected: true}").publish();
    case.terms.force = true;
    case.save("a", "").check(&[], &[]);
}

#[test]
fn a_protected_environment_that_etcd_lost_is_put_again_without_its_file() {
    let mut case = Case::new();
    case.save("a", "{name: x, protected: true}").publish();
    case.save("a", "").end("x", true).check(&["x/www-x@a"], &["a:x"]);
}

#[test]
fn what_was_brought_back_stays_until_its_file_is_there_again() {
    let mut case = Case::new();
    case.save("a", "name: x").publish().end("x", false).save("a", "");
    case.publish().keep("x").check(&["x/www-x@a"], &["a:x"]);
    assert_eq!(case.merged.refused[0].cause, Cause::Unnamed);
    assert!(case.plan().puts.is_empty() && case.plan().deletes.is_empty());
    case.save("a", "name: x").check(&["x/www-x@a"], &[]).publish();
    let life = case.mirror.life(&"x".parse().unwrap()).unwrap();
    assert!(!life.revived && life.kept_until.is_some());
    // Now it goes with its file. One whose file never went is an ordinary one at once.
    case.save("a", "").check(&[], &[]).publish();
    case.save("a", "name: x").publish().end("x", false).publish();
    case.keep("x").check(&["x/www-x@a"], &[]);
    assert_eq!(case.plan().puts.len(), 1);
    case.publish().save("a", "").check(&[], &[]);
}
