//! Rivals for names, prefixes and headers: in the files, in etcd, and between versions of the same file.

use std::time::{Duration, Instant};

use mayfly_core::keys::KeySpace;
use mayfly_core::records::lifetime::Moment;
use mayfly_core::records::{Record, SetAsides};
use mayfly_daemon::watch::{Batch, Change, Stored};
use proptest::prelude::*;

use super::*;
use crate::changes::Changes;
use crate::desired::{Quota, Scope};
use crate::files_in::scan::{Content, FoundFile};
use crate::plan::{Absences, Plan, plan};

mod ends;
mod histories;
mod quotas;
mod refusals;

struct Case {
    files: Files,
    actual: Actual,
    merged: Merged,
    changes: Changes,
    /// The environments that the last merge looked at, unless it was all.
    affected: Scope<EnvironmentName>,
    revision: i64,
    terms: Terms,
}

impl Case {
    fn new() -> Self {
        let node: mayfly_core::names::NodeName = "us".parse().unwrap();
        let mut actual = Actual::new(mayfly_core::keys::KeySpace::default(), node.clone());
        actual.update(Batch {
            revision: 1,
            listed: true,
            changes: Vec::new(),
            set_aside: SetAsides::default(),
        });
        Self {
            files: Files::new(node),
            actual,
            merged: Merged::default(),
            changes: Changes::all(),
            affected: Scope::Everything,
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
        let content = Content::Bytes(text.as_bytes().to_vec());
        if self.files.update(
            file,
            (!text.is_empty()).then_some(FoundFile {
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

    /// Merges what has changed, and checks that merging everything leads to the same.
    fn merge(&mut self) -> &mut Self {
        let (files, actual, terms) = (&self.files, &self.actual, self.terms);
        let (mut updated, mut whole) = (self.merged.clone(), self.merged.clone());
        let changes = std::mem::take(&mut self.changes);
        self.affected = merge(&mut updated, files, actual, &changes, terms);
        merge(&mut whole, files, actual, &Changes::all(), terms);
        assert_eq!(updated.accepted, whole.accepted);
        assert_eq!(reported(&updated), reported(&whole));
        assert_eq!((&updated.claims, &updated.beyond), (&whole.claims, &whole.beyond));
        assert_eq!(updated.idle, whole.idle);
        assert_eq!((&updated.files, &updated.bytes), (&whole.files, &whole.bytes));
        assert_eq!(
            (&updated.unnamed, &updated.outdated),
            (&whole.unnamed, &whole.outdated)
        );
        assert_eq!(
            (&updated.takeovers, &updated.latecomers),
            (&whole.takeovers, &whole.latecomers)
        );
        self.merged = updated;
        self
    }

    /// Whether the last merge looked at these only.
    fn looked_at(&self, names: &[&str]) {
        let Scope::Only(affected) = &self.affected else {
            panic!("it looked at everything, rather than at {names:?}")
        };
        assert!(
            affected
                .iter()
                .map(EnvironmentName::as_str)
                .eq(names.iter().copied()),
            "{affected:?}"
        );
    }

    /// Writes to etcd what follows from the merge, as `plan` has it.
    fn publish(&mut self) -> &mut Self {
        let plan = self.plan();
        for environment in &plan.same {
            self.actual.same(environment);
        }
        for put in plan.puts {
            self.revision += 1;
            self.actual.wrote(&put.record, put.life, self.revision);
        }
        for (name, _) in plan.deletes {
            self.actual.deleted(&name);
            self.changes.names.insert(name);
        }
        for (name, _) in plan.ends {
            self.actual.ended_now(&name);
            self.changes.names.insert(name);
        }
        self
    }

    fn plan(&self) -> Plan {
        let mut absences = Absences::new(Duration::ZERO);
        plan(
            &self.merged,
            &self.actual,
            &Scope::Everything,
            &mut absences,
            self.terms,
            Instant::now(),
        )
    }

    /// Lets the watch tell of changes of one revision.
    fn reported(&mut self, changes: Vec<Change>) -> &mut Self {
        let mut news = self.actual.update(Batch {
            revision: self.revision,
            listed: false,
            changes,
            set_aside: SetAsides::default(),
        });
        self.changes.add(&mut news);
        self.merge()
    }

    /// The record of an environment ends, by its lease or because it is deleted; with its history,
    /// if that is lost.
    fn end(&mut self, name: &str, lost: bool) -> &mut Self {
        self.revision += 1;
        let kinds: &[&str] = if lost {
            &["environments", "history"]
        } else {
            &["environments"]
        };
        let gone = |kind: &&str| {
            Change::Gone(
                KeySpace::default()
                    .parse(&format!("/mayfly/{kind}/{name}"))
                    .unwrap(),
            )
        };
        self.reported(kinds.iter().map(gone).collect())
    }

    /// `mayfly keep` on an environment that has ended.
    fn keep(&mut self, name: &str) -> &mut Self {
        let name: EnvironmentName = name.parse().unwrap();
        let ended = !self.actual.environments().contains_key(&name);
        let past = self.actual.past(&name).filter(|_| ended);
        let Some(mut environment) = past.and_then(|past| past.environment()) else {
            return self;
        };
        self.revision += 1;
        let mut life = environment.life.unwrap();
        life.revived = true;
        life.kept_until = Some(Moment::of(self.terms.now + Duration::from_secs(3600)));
        environment.life = Some(life);
        let put = |record| self.put(record);
        let both = [
            Record::Environment(environment.clone()),
            Record::History(environment),
        ];
        let changes = both.map(put).to_vec();
        self.reported(changes)
    }

    /// Another writer registers an environment.
    fn foreign(&mut self, name: &str, prefix: &str) -> &mut Self {
        self.revision += 1;
        let json = serde_json::json!({
            "name": name, "prefix": prefix, "header": name, "source": {"registrar": "them", "file": "f"}
        });
        let put = self.put(Record::Environment(serde_json::from_value(json).unwrap()));
        self.reported(vec![put])
    }

    /// What the watch reports of a record that was just put.
    fn put(&self, record: Record) -> Change {
        Change::Put(Stored {
            record,
            revision: self.revision.into(),
            lease: None,
        })
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

    /// What its record in etcd reports of the newest version of an environment; nothing, or
    /// something with this in it.
    fn refused(&mut self, name: &str, part: &str) -> &mut Self {
        let life = self.actual.life(&name.parse().unwrap()).unwrap();
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

/// What is reported of refusals. Which limit of the quota one meets first depends on when it is
/// looked at.
fn reported(merged: &Merged) -> Vec<(&str, &EnvironmentName, RefusalCause, &str)> {
    let refused = merged.refused.iter();
    let reported = refused.map(
        |Refusal {
             file,
             environment,
             cause,
             reason,
             ..
         }| {
            let reason = if *cause == RefusalCause::Quota {
                ""
            } else {
                reason.as_str()
            };
            (file.as_str(), environment, *cause, reason)
        },
    );
    reported.collect()
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
fn a_change_looks_at_its_rivals_only() {
    let mut case = Case::new();
    case.save("a", "- name: x\n- name: y").publish();
    assert!(matches!(case.affected, Scope::Everything), "the first merge");
    for (file, text, names) in [
        ("a", "- {name: x, description: new}\n- name: y", vec!["x"]),
        ("b", "name: z", vec!["z"]),
        ("a", "- {name: x, prefix: free}\n- name: y", vec!["x"]),
        ("b", "{name: z, header: x}", vec!["x", "z"]),
        ("c", "name: w", vec!["w"]),
        ("a", "", vec!["x", "y", "z"]),
        ("c", "{name: w, owner: me}", vec!["w"]),
    ] {
        case.save(file, text).looked_at(&names);
        case.publish().merge();
    }
    case.foreign("other", "elsewhere").looked_at(&["other"]);
    case.foreign("rival", "www-w").looked_at(&["rival", "w"]);
}

#[test]
fn what_is_kept_is_in_the_way_of_others_whatever_else_changes() {
    let mut case = Case::new();
    case.save("a", "{name: y, prefix: q}")
        .save("b", "{name: x, prefix: p}")
        .publish();
    case.take("a", "{name: y, prefix: p}");
    // Though `a` comes first, what `b` says is registered.
    case.save("b", "{name: x, prefix: p, header: new}")
        .check(&["x/p@b", "y/q@a"], &["a:y"]);
    assert_eq!(case.merged.accepted[&"x".parse().unwrap()].header.as_str(), "new");
    assert_eq!(
        case.reason(),
        "prefix p is taken by environment x of b; choose another prefix"
    );
}

#[test]
fn of_new_rivals_the_first_file_gets_it() {
    let mut case = Case::new();
    case.save("b", "name: x").save("a", "{name: y, prefix: www-x}");
    // `b` was there first, though nothing is published yet.
    case.check(&["x/www-x@b"], &["a:y"]);
    assert_eq!(
        case.reason(),
        "prefix www-x is taken by environment x of b; choose another prefix"
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
        "environment x is registered from b; give this one another name"
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
    // In the order of the files `x` takes `q`, which `y` leaves for `r`; but `r` is another
    // writer's.
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
        "environment x is registered by the registrar of node them; give this one another name"
    );
}

#[test]
fn a_clash_that_others_made_later_is_reported_and_ours_stays() {
    let mut case = Case::new();
    case.save("a", "{name: x, prefix: p}")
        .publish()
        .foreign("y", "p")
        .check(&["x/p@a"], &[]);
    let reported: Vec<_> = case.merged.latecomers().iter().collect();
    let [(name, reason)] = reported.as_slice() else {
        panic!("{reported:?}")
    };
    assert!(
        name.as_str() == "y"
            && reason.starts_with("prefix p is taken by environment x of a, which was registered first"),
        "{reported:?}"
    );
    // It waits for what it wants, and then ours is the one that came second.
    case.save("a", "{name: x, prefix: q}").publish();
    assert!(case.merged.latecomers().is_empty());
    case.save("a", "{name: x, prefix: p}").check(&["x/q@a"], &["a:x"]);
    assert!(case.merged.latecomers().is_empty());
}

#[test]
fn what_a_latecomer_claims_is_in_the_way_of_no_other_change() {
    let mut case = Case::new();
    let late = |case: &Case| {
        case.merged
            .latecomers()
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    case.save("a", "{name: x, prefix: p}").publish();
    case.foreign("y", "p").foreign("z", "r");
    case.save("a", "{name: x, prefix: p, header: h}")
        .check(&["x/p@a"], &[])
        .publish();
    let x: EnvironmentName = "x".parse().unwrap();
    assert_eq!(case.merged.accepted[&x].header.as_str(), "h");
    assert_eq!(late(&case), ["y"]);
    case.take("a", "");
    case.save("b", "{name: x, prefix: p, header: h}")
        .check(&["x/p@b"], &[])
        .publish();
    // What is in the way of the other key is reported, rather than the latecomer.
    case.save("b", "{name: x, prefix: p, header: z}")
        .check(&["x/p@b"], &["b:x"]);
    let reason = case.reason();
    assert!(
        reason.starts_with("header z is taken by environment z of "),
        "{reason}"
    );
    assert_eq!(late(&case), ["y"]);
    assert_eq!(case.merged.accepted[&x].header.as_str(), "h");
}

#[test]
fn a_file_that_is_not_read_yet_keeps_everything_from_it() {
    let mut case = Case::new();
    case.save("a", "- name: x\n- name: y").publish();
    case.files = Files::new("us".parse().unwrap());
    case.restart().check(&[], &[]);
    let unread = crate::files_in::scan::Scan {
        files: [("a".to_owned(), None)].into(),
        ..Default::default()
    };
    case.files.update_all(unread);
    case.restart().check(&["x/www-x@a", "y/www-y@a"], &[]);
}
