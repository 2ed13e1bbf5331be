//! How much the environments of all files may take.

use super::*;

fn quota(environments: usize, bytes: usize) -> Case {
    let mut case = Case::new();
    case.terms.quota = Quota {
        environments,
        bytes,
        sources: &[],
    };
    case
}

/// A case with limits of sources, as on the command line.
fn of_sources(limits: &[&str]) -> Case {
    let mut case = Case::new();
    let limits: Vec<_> = limits.iter().map(|limit| limit.parse().unwrap()).collect();
    case.terms.quota.sources = limits.leak();
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
        "there is no room for environment u: this registrar has reached its limit of 2 environments \
         (--max-environments); delete what is not needed, or ask the operator to raise the limit; \
         2 more environments of this file are refused, too"
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
    // A change that frees nothing goes the narrow way, whoever waits.
    let more =
        |version: &str| format!("- {{name: x, services: [{{name: a, version: {version}}}]}}\n- name: y");
    case.save("b", &more("1.0.0-with-a-text")).publish();
    case.looked_at(&["x"]);
    case.save("b", &more("1")).publish();
    assert!(matches!(case.affected, Scope::Everything), "it takes less");
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
        case.reason()
            .contains("less is left of the 6000 bytes of this registrar (--max-bytes)"),
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
    // A registered one is first all the same.
    let mut case = Case::new();
    case.save("aaa", "{name: aaa, prefix: www}").publish();
    case.save("prod", "{name: prod, prefix: www, protected: true}")
        .restart();
    case.check(&["aaa/www@aaa"], &["prod:prod"]);
}

#[test]
fn each_source_has_its_own_room() {
    let mut case = of_sources(&["pr-*=2", "*-pr-*=1"]);
    case.save("a", "- name: dev\n- name: pr-1\n- name: shop-pr-1")
        .publish();
    case.save("b", "- name: pr-2\n- name: shop-pr-2\n- name: api-pr-2")
        .publish();
    let there = [
        "api-pr-2/www-api-pr-2@b",
        "dev/www-dev@a",
        "pr-1/www-pr-1@a",
        "pr-2/www-pr-2@b",
        "shop-pr-1/www-shop-pr-1@a",
    ];
    case.check(&there, &["b:shop-pr-2"]);
    assert_eq!(
        case.reason(),
        "there is no room for environment shop-pr-2: its source has reached its limit of 1 \
         (*-pr-*, --max-environments-of); delete what is not needed, or ask the operator to raise the limit"
    );
    case.save("c", "name: pr-3");
    case.check(&there, &["b:shop-pr-2", "c:pr-3"]);
    case.restart().check(&there, &["b:shop-pr-2", "c:pr-3"]);
    // What no limit means, and a change of what is registered, is not affected.
    case.save("d", "name: other").publish();
    case.save(
        "a",
        "- {name: dev, header: d}\n- {name: pr-1, header: p}\n- name: shop-pr-1",
    )
    .publish();
    assert!(
        case.reason().contains("its source has reached its limit of 1"),
        "{}",
        case.reason()
    );
    // One goes, and the one that waits for its room comes.
    case.save("a", "- name: dev\n- name: pr-1").publish();
    case.save("d", "").publish();
    let there = [
        "api-pr-2/www-api-pr-2@b",
        "dev/www-dev@a",
        "pr-1/www-pr-1@a",
        "pr-2/www-pr-2@b",
        "shop-pr-2/www-shop-pr-2@b",
    ];
    case.check(&there, &["c:pr-3"]);
}

#[test]
fn one_that_waits_for_a_rival_hears_when_its_source_is_full() {
    let mut case = of_sources(&["pr-*=2"]);
    case.save("a", "- {name: dev, prefix: p}\n- name: pr-1").publish();
    case.save("b", "{name: pr-2, prefix: p}").publish();
    case.check(&["dev/p@a", "pr-1/www-pr-1@a"], &["b:pr-2"]);
    assert!(case.reason().contains("prefix"), "{}", case.reason());
    case.save("c", "name: pr-3").publish();
    case.check(&["dev/p@a", "pr-1/www-pr-1@a", "pr-3/www-pr-3@c"], &["b:pr-2"]);
    assert!(case.reason().contains("there is no room"), "{}", case.reason());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    /// Whatever is saved: the quota holds, and what was registered stays while its file names it. (That a change comes
    /// to the same as a merge of all is looked at with each.)
    #[test]
    fn a_quota_is_kept_to(
        environments in 1..4usize,
        bytes in 1_000..6_000usize,
        of_source in 0..3usize,
        saves in prop::collection::vec(("[abc]", prop::collection::vec(("[t-w][xyz]?", "[p-r]?", 0..30usize), 0..4), any::<bool>()), 1..25),
    ) {
        let mut case = quota(environments, bytes);
        let sources = vec![format!("t*={of_source}").parse().unwrap()];
        case.terms.quota.sources = sources.leak();
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
            let of_t = case.merged.accepted.keys().filter(|name| name.as_str().starts_with('t'));
            prop_assert!(of_t.count() <= of_source);
            let total: usize = case.merged.accepted.values().map(|it| quota::bytes(it)).sum();
            prop_assert!(total == case.merged.bytes && total <= bytes, "{} {}", total, bytes);
            for environment in before {
                let document = case.files.get(file_of(&environment).unwrap()).unwrap();
                let named = document.entry(&environment.name).is_some();
                prop_assert!(!named || case.merged.accepted.contains_key(&environment.name), "{}", environment.name);
            }
        }
    }
}
