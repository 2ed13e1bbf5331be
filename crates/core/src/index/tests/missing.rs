//! What is missing: kept with each change, and the same as found by looking at everything.

use proptest::prelude::*;

use super::*;

/// What is kept with each change is what going through everything gives.
pub(super) fn check_missing(index: &Index) -> Result<(), TestCaseError> {
    let (mut incomplete, mut own) = (0, BTreeMap::new());
    for environment in index.environments() {
        let view = index.view(&environment.name).unwrap();
        let missing: Vec<_> = view
            .services
            .iter()
            .filter(|service| service.missing.is_some())
            .collect();
        let below = environment.extends.is_none() || !view.parents.is_empty();
        let severed = view.broken_parent.is_some() || (view.routed && !below);
        incomplete += usize::from(!missing.is_empty() || severed);
        prop_assert_eq!(view.complete, view.routed && !severed && missing.is_empty());
        prop_assert!(view.complete || !view.reasons().is_empty());
        let mut reported: Vec<_> = index.missing_in(&environment.name);
        reported.sort_by(|a, b| a.service.cmp(&b.service));
        prop_assert_eq!(missing.len(), reported.len());
        for (service, reported) in missing.iter().zip(&reported) {
            prop_assert_eq!(&service.service, &reported.service);
            let origin = service.inherited_from.as_ref().unwrap_or(&environment.name);
            prop_assert_eq!(origin, &reported.environment);
            *own.entry((origin.clone(), service.service.clone())).or_insert(0) +=
                usize::from(service.inherited_from.is_some());
        }
    }
    let shortage = index.shortage(usize::MAX);
    prop_assert_eq!(shortage.environments, incomplete);
    prop_assert_eq!(shortage.services, own.len());
    for missing in shortage.first {
        prop_assert_eq!(missing.inherited_by, own[&(missing.environment, missing.service)]);
    }
    Ok(())
}

#[test]
fn a_child_lacks_what_its_parent_lacks_unless_it_overrides_it() {
    let mut changes = vec![
        environment("qa a=1 b=latest c=^2 out=http://10.0.0.9:8080"),
        environment("heir extends=qa"),
        environment("other extends=qa a=2"),
        instance("a 2 10.0.0.1:80"),
        instance("b 3 10.0.0.2:80"),
        instance("c 2.1 10.0.0.3:80 draining"),
    ];
    let reported = |index: &Index| {
        let shortage = index.shortage(9);
        let first = shortage.first.iter();
        let first = first.map(|missing| {
            format!(
                "{}: {} ({})",
                missing.environment, missing.reason, missing.inherited_by
            )
        });
        (shortage.environments, first.collect::<Vec<_>>())
    };
    let index = index_after(&changes);
    let (a, c) = (
        "qa: no instance of a@1 is live (1)".to_owned(),
        "qa: no live version of c fits ^2 (2)".to_owned(),
    );
    assert_eq!(reported(&index), (3, vec![a, c.clone()]));
    changes.extend([instance("a 1 10.0.0.4:80")]);
    assert_eq!(reported(&index_after(&changes)), (3, vec![c]));
    changes.extend([instance("c 2.1 10.0.0.3:80"), delete("backends/b/3/10.0.0.2:80")]);
    let b = "qa: no version of b has a live instance (2)".to_owned();
    assert_eq!(reported(&index_after(&changes)), (3, vec![b]));
    changes.extend([instance("b latest 10.0.0.5:80")]);
    assert_eq!(reported(&index_after(&changes)), (0, vec![]));
    changes.extend([delete("backends/b/latest/10.0.0.5:80")]);
    assert_eq!(reported(&index_after(&changes)).0, 3);
}

#[test]
fn whoever_inherits_from_one_that_extends_nothing_is_incomplete() {
    let (a, d) = (instance("a 1 10.0.0.1:80"), environment("d extends=c"));
    let mut changes = vec![
        environment("b extends=gone a=1"),
        environment("c extends=b"),
        d,
        a,
    ];
    let index = index_after(&changes);
    let view = index.view(&"d".parse().unwrap()).unwrap();
    assert!(!view.complete);
    let reason = "b, from which it inherits: extends gone, which does not exist; the internal side \
                  routes only this environment's own services, and the edge refuses its requests \
                  unless it has an `access` of its own";
    assert_eq!(view.reasons(), [reason]);
    assert_eq!(index.shortage(9).environments, 3);
    // It comes, and it goes.
    changes.push(environment("gone"));
    assert_eq!(index_after(&changes).shortage(9).environments, 0);
    changes.push(delete("environments/gone"));
    assert_eq!(index_after(&changes).shortage(9).environments, 3);
    changes.push(delete("environments/b"));
    // What `c` extends is missing now.
    assert_eq!(index_after(&changes).shortage(9).environments, 2);
}

#[test]
fn an_override_that_comes_or_goes_hides_or_shows_what_is_missing_above() {
    let mut changes = vec![
        instance("a 2 10.0.0.1:80"),
        environment("qa a=1"),
        environment("heir extends=qa"),
        environment("grandchild extends=heir"),
    ];
    let incomplete = |changes: &[TestChange]| index_after(changes).shortage(0).environments;
    assert_eq!(incomplete(&changes), 3);
    changes.push(environment("heir extends=qa a=2"));
    assert_eq!(incomplete(&changes), 1);
    changes.push(environment("heir extends=qa"));
    assert_eq!(incomplete(&changes), 3);
    changes.push(environment("heir"));
    assert_eq!(incomplete(&changes), 1);
}

#[test]
fn as_many_instances_as_demanded() {
    let mut index = Index::default().with_least_instances(2);
    for change in [
        environment("dev a=1 out=http://10.0.0.9:1"),
        instance("a 1 10.0.0.1:80"),
    ] {
        let TestChange::Put(key, value) = change else {
            unreachable!()
        };
        put_text(&mut index, &key, &value, 0);
    }
    index.resolve();
    index.settle();
    assert_eq!(
        index.shortage(9).first[0].reason,
        "a@1 has 1 of at least 2 live instances"
    );
    let view = index.view(&"dev".parse().unwrap()).unwrap();
    assert_eq!((view.services[0].live, view.complete), (1, false));
    assert!(view.services[1].outside && view.services[1].missing.is_none());
}

proptest! {
    /// Whatever stands in etcd: no row has a character that a map file, a run-time command or a configuration reads
    /// as syntax.
    #[test]
    fn any_text_in_records_makes_rows_without_syntax(
        name in "[a-z]{1,3}",
        prefix in "[a-z]{1,4}[ -~\\n]?[a-z]{0,2}",
        header in "[a-z#!]{1,4}[ -~\\n\\t]?[a-z]{0,2}",
        service in "[a-z]{1,4}[ -~\\n]?[a-z]{0,2}",
        version in "[0-9.^<>=~*, ]{1,6}[ -~\\n]?",
        route in "/[ -~\\n]{0,4}",
        address in "10\\.0\\.0\\.1:[0-9]{1,4}[ -~\\n]?",
    ) {
        let record = serde_json::json!({"name": name, "prefix": prefix, "header": header,
            "services": [{"name": service, "version": version, "routes": [route]}]});
        let changes = [
            put(&format!("environments/{name}"), &record.to_string()),
            put(&format!("backends/{service}/{version}/x"), &serde_json::json!({"address": address}).to_string()),
        ];
        let index = index_after(&changes);
        for row in Table::ALL.into_iter().flat_map(|table| index.routing().rows(table)) {
            for text in text(&row).split(' ') {
                let syntax = |c: char| c.is_whitespace() || c.is_control() || !c.is_ascii() || "\"{};\\".contains(c);
                prop_assert!(!text.contains(syntax) && !text.starts_with('#') && !text.contains("<<"), "{text:?}");
            }
        }
    }
}

/// A tool that resolves no names does not take them for missing; what the routers have no address of is.
#[test]
fn who_sees_no_addresses_goes_by_what_the_routers_say() {
    let mut index = Index::default().with_least_instances(2);
    let records = [
        environment("dev out=http://billing:80 db=1 api=latest"),
        instance("db 1 a:80"),
        instance("db 1 b:80"),
        instance("api 2 a:81"),
        instance("api 2 10.0.0.1:81"),
    ];
    for change in &records {
        if let TestChange::Put(key, value) = change {
            put_text(&mut index, key, value, 1);
        }
    }
    let dev = "dev".parse().unwrap();
    let mut reasons = |nameless: &[&str]| {
        let known = nameless
            .iter()
            .map(|name| (name.parse().unwrap(), BTreeSet::new()));
        index.believe_names(known.collect());
        index.resolve();
        index.settle();
        assert_eq!(
            index.shortage(9).services,
            index.view(&dev).unwrap().reasons().len()
        );
        index.view(&dev).unwrap().reasons()
    };
    assert_eq!(reasons(&[]), [""; 0]);
    assert_eq!(
        reasons(&["billing", "b"]),
        [
            "db@1 has 1 of at least 2 live instances: there is no known address of b",
            "out cannot be reached: there is no known address of billing",
        ]
    );
    assert_eq!(reasons(&[]), [""; 0]);
}
