//! What has ended, what stays without a file, and what comes back.

use super::*;

#[test]
fn what_has_ended_claims_nothing_until_its_file_asks_for_something_else() {
    let mut case = Case::new();
    case.save("a", "{name: x, prefix: p}").publish();
    case.save("b", "{name: y, prefix: p}").check(&["x/p@a"], &["b:y"]);
    case.end("x", false).check(&["y/p@b"], &["a:x"]).publish();
    assert_eq!(case.merged.refused[0].cause, RefusalCause::Ended);
    assert_eq!(
        case.reason(),
        "environment x has ended: it was deleted with `mayfly delete` or through etcd; to bring it back, change the file or run `mayfly keep x 8h`"
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
        "environment x would have expired at 2030-01-31T12:00:00Z; give it a later `expires`"
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
    // In its last moments nothing is reported of it; then it is deleted, and another may have its
    // prefix.
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
        case.reason().contains("because it is protected"),
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
    assert_eq!(case.merged.refused[0].cause, RefusalCause::Unnamed);
    assert!(case.plan().puts.is_empty() && case.plan().deletes.is_empty());
    case.save("a", "name: x").check(&["x/www-x@a"], &[]).publish();
    let life = case.actual.life(&"x".parse().unwrap()).unwrap();
    assert!(!life.revived && life.kept_until.is_some());
    // Now it goes with its file. One whose file never went is an ordinary one at once.
    case.save("a", "").check(&[], &[]).publish();
    case.save("a", "name: x").publish().end("x", false).publish();
    case.keep("x").check(&["x/www-x@a"], &[]);
    assert_eq!(case.plan().puts.len(), 1);
    case.publish().save("a", "").check(&[], &[]);
}
