//! What a record reports of the newest version that was refused.

use super::*;

#[test]
fn a_record_tells_why_its_newest_version_was_refused() {
    let mut case = Case::new();
    case.save("a", "{name: x, prefix: p, expires: 8h}")
        .save("b", "{name: y, prefix: q}")
        .publish()
        .refused("x", "")
        .refused("y", "");
    let since = case.actual.life(&"x".parse().unwrap()).unwrap().registered_at;
    case.terms.now += Duration::from_secs(60);
    for (text, reason) in [
        ("{name: x, owner: me}", "refused: a:1:11: owner: unknown field"),
        ("\n{name: x, owner: me}", "refused: a:2:11: owner: unknown field"),
        ("[", "refused: a:2:1: "),
        (
            "{name: x, prefix: q}",
            "refused: a:1:19: prefix q is taken by environment y of b; choose another prefix; the \
             content in etcd stays in force",
        ),
        (
            "{name: x, expires: 10s}",
            "environment x would have expired at 2030-01-31T12:00:10Z; give it a later `expires`; \
             the content in etcd stays in force",
        ),
        ("- {name: x, owner: me}\n- {prefix: p}", "a:1:13: [0].owner"),
        ("- {prefix: p}", "a:1:3: [0].name: missing"),
    ] {
        case.save("a", text);
        let plan = case.plan();
        let puts: Vec<_> = plan.puts.iter().map(|put| put.name().as_str()).collect();
        assert_eq!(puts, ["x"], "{text}");
        assert!(plan.deletes.is_empty() && plan.ends.is_empty());
        case.publish().refused("x", reason).refused("y", "");
        // Neither the next round nor another registrar has anything to do.
        case.changes.all = true;
        assert!(case.merge().plan().puts.is_empty(), "{text}");
        assert!(case.restart().plan().puts.is_empty(), "{text}");
    }
    assert_eq!(
        case.actual.life(&"x".parse().unwrap()).unwrap().registered_at,
        since
    );
    case.save("a", "{name: x, prefix: p, expires: 8h}");
    case.looked_at(&["x"]);
    case.publish().refused("x", "");
    // A rival that makes room lets the newest version in.
    case.save("a", "{name: x, prefix: q}")
        .publish()
        .refused("x", "taken");
    case.save("b", "")
        .publish()
        .refused("x", "")
        .check(&["x/q@a"], &[]);
}

#[test]
fn a_fault_is_reported_for_those_that_it_may_be_about() {
    let mut case = Case::new();
    let good = "- name: x\n- name: y\n- name: z";
    case.save("a", good).save("b", "name: w").publish();
    case.save(
        "a",
        "- name: x\n- {name: y, owner: me}\n- {name: z, description: new}",
    )
    .publish();
    case.refused("x", "")
        .refused("y", "a:2:13: [1].owner")
        .refused("z", "");
    case.save("a", "[").publish();
    for name in ["x", "y", "z"] {
        case.refused(name, "a:2:1: ");
    }
    case.refused("w", "");
    // A name without a fault stands although another part of the file may be anything.
    case.save("a", "- name: x\n- description: nobody").publish();
    case.refused("x", "").refused("y", "a:2:3: [1].name: missing");
    case.save("a", good).publish();
    for name in ["x", "y", "z"] {
        case.refused(name, "");
    }
    // The faults of a file are nobody else's.
    case.save("b", "{name: x, owner: me}").publish().refused("x", "");
}

#[test]
fn a_refusal_is_no_longer_reported_when_the_file_is_gone_and_still_while_it_is_not_read() {
    let mut case = Case::new();
    case.save("a", "{name: x, protected: true}").publish();
    case.save("a", "{name: x, owner: me}")
        .publish()
        .refused("x", "a:1:11: owner");
    let files = std::mem::replace(&mut case.files, Files::new("us".parse().unwrap()));
    case.files.update_all(crate::files_in::scan::Scan {
        files: [("a".to_owned(), None)].into(),
        ..Default::default()
    });
    assert!(case.restart().plan().puts.is_empty());
    case.files = files;
    case.save("a", "")
        .publish()
        .refused("x", "")
        .check(&["x/www-x@a"], &["a:x"]);
    assert!(case.merge().plan().puts.is_empty());
}

#[test]
fn what_was_brought_back_is_reported_as_well() {
    let mut case = Case::new();
    case.save("a", "name: x").publish();
    case.save("a", "{name: x, owner: me}").publish();
    case.end("x", false).publish().keep("x").publish();
    case.refused("x", "a:1:11: owner");
    let life = case.actual.life(&"x".parse().unwrap()).unwrap();
    assert!(!life.revived && life.kept_until.is_some());
    assert!(case.merge().plan().puts.is_empty());
}

#[test]
fn what_is_reported_of_a_refusal_is_short_and_fit_to_print() {
    let refusal = Refusal {
        file: "a\u{1b}[31m.yaml".to_owned(),
        environment: "x".parse().unwrap(),
        mark: None,
        cause: RefusalCause::Rival,
        reason: "ü\n".repeat(1000),
    };
    let reported = refusal.of_version();
    assert!(
        reported.starts_with("the newest content of this environment was refused: a\\u{1b}[31m.yaml: ü\\nü"),
        "{reported}"
    );
    assert!(
        reported.ends_with("...; the content in etcd stays in force") && reported.chars().count() < 400,
        "{reported}"
    );
}
