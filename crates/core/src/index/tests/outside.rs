//! Services outside and host names: which servers follow, and what is told of names without an address.

use super::*;

#[test]
fn a_service_outside_has_servers_while_an_environment_names_it() {
    let dev = environment("dev legacy=https://billing.internal:8443");
    let also = environment("qa legacy=https://billing.internal:8443");
    let found = resolve("billing.internal 10.0.0.2 10.0.0.1 0.0.0.0");
    check(
        &[dev.clone(), found.clone(), also.clone(), delete("environments/dev")],
        "hosts legacy@https://billing.internal:8443 -> billing.internal:8443
         versions qa/legacy -> legacy@https://billing.internal:8443
         headers qa -> qa
         edge www-qa -> qa
         legacy@https://billing.internal:8443: 10.0.0.1:8443 Up as billing.internal, 10.0.0.2:8443 Up as billing.internal",
    );
    let mut index = index_after(&[
        found,
        dev,
        also,
        delete("environments/dev"),
        delete("environments/qa"),
    ]);
    assert_eq!(dump(&index), [""; 0]);
    assert_eq!(index.host_names().count(), 0);
    let touched = index.resolve();
    assert!(touched.is_empty(), "{touched:?}");
}

#[test]
fn an_address_needs_no_resolving() {
    check(
        &[environment(
            "dev legacy=http://10.0.0.9:80 old=https://[fd00::1]:443",
        )],
        "hosts legacy@http://10.0.0.9:80 -> 10.0.0.9
         hosts old@https://[fd00::1]:443 -> [fd00::1]
         versions dev/legacy -> legacy@http://10.0.0.9:80
         versions dev/old -> old@https://[fd00::1]:443
         headers dev -> dev
         edge www-dev -> dev
         legacy@http://10.0.0.9:80: 10.0.0.9:80 Up
         old@https://[fd00::1]:443: [fd00::1]:443 Up as fd00::1",
    );
}

#[test]
fn a_name_without_an_address_is_told_and_harms_nobody() {
    check(
        &[
            environment("dev legacy=http://billing:80 backend=latest"),
            instance("backend 1 10.0.0.1:80"),
            instance("backend 2 db:80"),
        ],
        "hosts backend@2 -> db
         hosts legacy@http://billing:80 -> billing
         versions dev/backend -> backend@1
         versions dev/legacy -> legacy@http://billing:80
         headers dev -> dev
         edge www-dev -> dev
         backend@1: 10.0.0.1:80 Up
         aside /mayfly/backends/backend/2/db:80: the instance has no address yet: the host name db was not resolved so far
         aside /mayfly/environments/dev: the service outside legacy has no address yet: the host name billing was not resolved so far",
    );
}

#[test]
fn latest_follows_instances_with_host_names_and_never_leads_outside() {
    let dev = environment("dev backend=latest old=latest");
    let outside = environment("qa backend=http://10.9.9.9:80 old=http://10.9.9.9:80");
    let mut changes = vec![
        dev,
        outside,
        instance("backend 1 10.0.0.1:80"),
        instance("backend 2 db:80"),
        resolve("db 10.0.0.2"),
    ];
    let choice = |changes: &[Change]| {
        dump(&index_after(changes))
            .into_iter()
            .find(|line| line.starts_with("versions dev/backend"))
            .unwrap()
    };
    assert_eq!(choice(&changes), "versions dev/backend -> backend@2");
    assert!(dump(&index_after(&changes)).contains(&"versions dev/old -> old@latest".to_owned()));
    changes.push(resolve("db"));
    assert_eq!(choice(&changes), "versions dev/backend -> backend@1");
}

#[test]
fn a_host_is_set_where_all_servers_expect_the_same() {
    let hosts = |changes: &[Change]| -> Vec<String> {
        dump(&index_after(changes))
            .into_iter()
            .filter(|line| line.starts_with("hosts"))
            .collect()
    };
    let mut changes = vec![instance("a 1 https://x:443")];
    assert_eq!(hosts(&changes), ["hosts a@1 -> x"]);
    changes.push(instance("a 1 https://y:443"));
    assert_eq!(hosts(&changes), [""; 0]);
    changes.push(delete("backends/a/1/x:443"));
    assert_eq!(hosts(&changes), ["hosts a@1 -> y"]);
}

#[test]
fn a_name_that_passes_from_one_user_to_another_keeps_its_addresses() {
    let mut index = index_after(&[
        environment("dev legacy=http://billing:80"),
        resolve("billing 10.0.0.1"),
    ]);
    let (Change::Put(key, value), gone) = (
        environment("qa other=http://billing:81"),
        "/mayfly/environments/dev",
    ) else {
        unreachable!()
    };
    index.delete(gone);
    index.put(&key, value.as_bytes(), 7);
    index.resolve();
    assert!(dump(&index).contains(&"other@http://billing:81: 10.0.0.1:81 Up".to_owned()));
}

#[test]
fn a_new_address_touches_only_who_follows_the_name() {
    let mut index = index_after(&[
        environment("dev legacy=http://billing:80 other=http://10.0.0.1:80"),
        resolve("billing 10.0.0.1"),
    ]);
    let name: Hostname = "billing".parse().unwrap();
    index.resolved(&name, ["10.0.0.1".parse().unwrap()].into());
    assert!(index.resolve().is_empty(), "the same again changes nothing");
    index.resolved(&name, ["10.0.0.2".parse().unwrap()].into());
    let touched = index.resolve();
    assert!(touched.tables().is_empty());
    let backends: Vec<String> = touched.backends.iter().map(BackendId::to_string).collect();
    assert_eq!(backends, ["legacy@http://billing:80"]);
    index.resolved(&"unknown".parse().unwrap(), ["10.0.0.2".parse().unwrap()].into());
    assert!(index.resolve().is_empty(), "nobody needs that name");
}
