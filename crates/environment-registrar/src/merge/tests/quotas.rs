//! How much the environments of all files may take.

use super::*;

fn quota(environments: usize, bytes: usize) -> Case {
    let mut case = Case::new();
    case.terms.quota = Quota { environments, bytes };
    case
}

fn of(case: &mut Case, environments: usize) -> &mut Case {
    case.terms.quota.environments = environments;
    case.changes.all = true;
    case.merge()
}

#[test]
fn what_is_registered_stays_and_what_is_new_waits_for_room() {
    let mut case = quota(2, usize::MAX);
    case.save("b", "- name: x\n- name: y").publish();
    case.save("a", "- name: u\n- name: v\n- name: w");
    case.check(&["x/www-x@b", "y/www-y@b"], &["a:u"]);
    assert_eq!(
        case.reason(),
        "there is no room for environment u: this registrar may have 2 environments (--max-environments) and has them: \
         delete what is not needed, or let the operator raise that; 2 more of this file are left out with it"
    );
    // What a restart, a smaller quota and a change of what is there make of it is the same.
    case.restart().check(&["x/www-x@b", "y/www-y@b"], &["a:u"]);
    of(&mut case, 1).check(&["x/www-x@b", "y/www-y@b"], &["a:u"]);
    of(&mut case, 2)
        .save("b", "- {name: x, prefix: p}\n- name: y")
        .publish();
    case.check(&["x/p@b", "y/www-y@b"], &["a:u"]);
    // One goes, and one of those that wait comes.
    case.save("b", "name: y").publish();
    case.check(&["u/www-u@a", "y/www-y@b"], &["a:v"]);
    of(&mut case, 4).check(&["u/www-u@a", "v/www-v@a", "w/www-w@a", "y/www-y@b"], &[]);
}

#[test]
fn a_flood_goes_by_no_rival_and_the_long_way_only_where_something_goes() {
    let mut case = quota(3, usize::MAX);
    case.save("b", "- name: x\n- name: y").publish();
    case.save("a", "- {name: u, prefix: www-x}\n- name: v\n- name: w");
    case.check(&["v/www-v@a", "x/www-x@b", "y/www-y@b"], &["a:u"]);
    case.save("a", "- name: u\n- name: v\n- name: w").publish();
    case.check(&["v/www-v@a", "x/www-x@b", "y/www-y@b"], &["a:u"]);
    // A change that frees nothing goes the short way, whoever waits.
    let more =
        |version: &str| format!("- {{name: x, services: [{{name: a, version: {version}}}]}}\n- name: y");
    case.save("b", &more("1.0.0-with-a-text")).publish();
    assert!(case.short);
    case.save("b", &more("1")).publish();
    assert!(!case.short, "it takes less");
}

#[test]
fn one_that_grows_beyond_the_room_stays_as_it_was() {
    let text = |services: usize| {
        let services: Vec<_> = (0..services).map(|number| format!("service-{number}")).collect();
        format!("{{name: x, services: [{}]}}", services.join(","))
    };
    let large = |case: &Case| case.merged.accepted[&"x".parse().unwrap()].services.len();
    // A small one takes some 500 bytes.
    let mut case = quota(10, 6_000);
    case.save("a", &text(10)).save("b", "name: y").publish();
    case.check(&["x/www-x@a", "y/www-y@b"], &[]);
    case.save("a", &text(100)).publish();
    case.check(&["x/www-x@a", "y/www-y@b"], &["a:x"]);
    assert!(
        case.reason().contains("may take 6000 (--max-bytes)"),
        "{}",
        case.reason()
    );
    case.refused("x", "there is no room for environment x");
    assert_eq!(large(&case), 10);
    case.restart().check(&["x/www-x@a", "y/www-y@b"], &["a:x"]);
    // It moves to another file at the same time.
    case.take("a", "");
    case.save("c", &text(100)).publish();
    case.check(&["x/www-x@c", "y/www-y@b"], &["c:x"]);
    assert_eq!(large(&case), 10);
    case.restart().check(&["x/www-x@c", "y/www-y@b"], &["c:x"]);
    case.save("d", "name: z")
        .check(&["x/www-x@c", "y/www-y@b", "z/www-z@d"], &["c:x"]);
    // Less than before is always taken; what waits for the room of another comes when that goes.
    case.save("c", &text(5)).publish();
    case.check(&["x/www-x@c", "y/www-y@b", "z/www-z@d"], &[]);
    case.save("c", &text(60))
        .check(&["x/www-x@c", "y/www-y@b", "z/www-z@d"], &["c:x"]);
    case.save("d", "").check(&["x/www-x@c", "y/www-y@b"], &[]);
    assert_eq!(large(&case), 60);
}

#[test]
fn where_nobody_was_first_a_protected_one_has_its_prefix_and_its_room() {
    let mut case = quota(1, usize::MAX);
    case.take("aaa", "{name: aaa, prefix: www, header: prod}");
    case.save("prod", "{name: prod, prefix: www, protected: true}");
    case.check(&["prod/www@prod"], &["aaa:aaa"]);
    // Who is registered is first, all the same.
    let mut case = Case::new();
    case.save("aaa", "{name: aaa, prefix: www}").publish();
    case.save("prod", "{name: prod, prefix: www, protected: true}")
        .restart();
    case.check(&["aaa/www@aaa"], &["prod:prod"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Whatever is saved: the quota holds, and what was registered stays while its file names it. (That the short way comes
    /// to the same as the long one is looked at with each merge.)
    #[test]
    fn a_quota_is_kept_to(
        environments in 1..4usize,
        bytes in 1_000..6_000usize,
        saves in prop::collection::vec(("[abc]", prop::collection::vec(("[t-z]", "[p-r]?", 0..30usize), 0..4), any::<bool>()), 1..25),
    ) {
        let mut case = quota(environments, bytes);
        for (file, entries, restart) in saves {
            let mut text = "# file\n".to_owned();
            for (name, prefix, services) in entries {
                let services: Vec<_> = (0..services).map(|number| format!("s{number}")).collect();
                let prefix = if prefix.is_empty() { format!("www-{name}") } else { prefix };
                text += &format!("- {{name: {name}, prefix: {prefix}, services: [{}]}}\n", services.join(","));
            }
            let before: Vec<_> = case.merged.accepted.values().cloned().collect();
            case.save(&file, &text);
            // What comes back while it is being deleted is registered still, and stays.
            case.publish().merge();
            if restart {
                case.restart();
            }
            prop_assert!(case.merged.accepted.len() <= environments);
            let total: usize = case.merged.accepted.values().map(|it| quota::bytes(it)).sum();
            prop_assert!(total == case.merged.bytes && total <= bytes, "{} {}", total, bytes);
            for environment in before {
                let document = case.library.get(file_of(&environment).unwrap()).unwrap();
                let named = document.entry(&environment.name).is_some();
                prop_assert!(!named || case.merged.accepted.contains_key(&environment.name), "{}", environment.name);
            }
        }
    }
}
