//! External services and host names: which servers follow, what is reported of names without an
//! address, and which addresses the rule refuses.

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
fn a_name_without_an_address_is_reported_and_harms_nobody() {
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
         aside /mayfly/backends/backend/2/db:80: the instance has no address yet: the host name db has not been resolved
         aside /mayfly/environments/dev: the external service legacy has no address yet: the host name billing has not been resolved",
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
    let choice = |changes: &[TestChange]| {
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
    let hosts = |changes: &[TestChange]| -> Vec<String> {
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
    let (TestChange::Put(key, value), gone) = (
        environment("qa other=http://billing:81"),
        "/mayfly/environments/dev",
    ) else {
        unreachable!()
    };
    gone_text(&mut index, gone);
    put_text(&mut index, &key, &value, 7);
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
    assert!(touched.tables(index.routing()).is_empty());
    let backends: Vec<String> = touched.backends.iter().map(BackendId::to_string).collect();
    assert_eq!(backends, ["legacy@http://billing:80"]);
    index.resolved(&"unknown".parse().unwrap(), ["10.0.0.2".parse().unwrap()].into());
    assert!(index.resolve().is_empty(), "nobody needs that name");
}

/// The servers of an index, and what is set aside.
fn servers_and_asides(changes: &[TestChange]) -> Vec<String> {
    let mut all = dump(&index_after(changes));
    all.retain(|line| line.contains(" Up") || line.starts_with("aside"));
    all
}

#[test]
fn an_address_of_the_host_is_set_aside_and_nothing_else_is() {
    let dev = environment(
        "dev store=http://127.0.0.1:2379 meta=http://169.254.169.254:80 six=http://[::ffff:127.0.0.1]:80 self=http://10.0.0.7:8080 ok=http://10.0.0.7:80",
    );
    let mut changes = vec![TestChange::Rule(9, "", "10.0.0.7:8080"), dev];
    assert_eq!(
        servers_and_asides(&changes),
        [
            "ok@http://10.0.0.7:80: 10.0.0.7:80 Up",
            "aside /mayfly/environments/dev: meta cannot be reached: 169.254.169.254:80 is a link-local address, as the metadata of a cloud has, allowed only by an --allow-address within 169.254.0.0/16",
            "aside /mayfly/environments/dev: self cannot be reached: 10.0.0.7:8080 is where the router itself listens, so requests would come back; choose a version of that service, or allow exactly this address (--allow-address 10.0.0.7)",
            "aside /mayfly/environments/dev: six cannot be reached: [::ffff:127.0.0.1]:80 is a loopback address, allowed only by an --allow-address within 127.0.0.0/8",
            "aside /mayfly/environments/dev: store cannot be reached: 127.0.0.1:2379 is a loopback address, allowed only by an --allow-address within 127.0.0.0/8",
        ]
    );
    let index = index_after(&changes);
    let lack = index
        .lack(&Choice::Backend("store@http://127.0.0.1:2379".parse().unwrap()))
        .unwrap();
    assert!(
        lack.1
            .starts_with("store cannot be reached: 127.0.0.1:2379 is a loopback address"),
        "{lack:?}"
    );
    let view = index.view(&"dev".parse().unwrap()).unwrap();
    assert_eq!(view.reasons().len(), 4, "each is told once: {:?}", view.reasons());
    changes.push(TestChange::Rule(9, "127.0.0.1,10.0.0.0/8", "10.0.0.7:8080"));
    let now = servers_and_asides(&changes);
    let up = now.iter().filter(|line| line.ends_with(" Up")).count();
    assert!(
        up == 3 && now[3].contains("meta") && now[4].contains("allow exactly this"),
        "{now:#?}"
    );
}

#[test]
fn what_a_name_resolves_to_is_judged_whenever_it_is_used() {
    let named = "aside /mayfly/environments/dev: the external service evil: e.example resolves to 127.0.0.1, which is a loopback address, allowed only by an --allow-address within 127.0.0.0/8";
    let mut changes = vec![
        environment("dev evil=http://e.example:80"),
        resolve("e.example 10.0.0.1"),
    ];
    assert_eq!(
        servers_and_asides(&changes),
        ["evil@http://e.example:80: 10.0.0.1:80 Up"]
    );
    changes.push(resolve("e.example 127.0.0.1"));
    assert_eq!(servers_and_asides(&changes), [named], "rebound");
    let lack = index_after(&changes)
        .lack(&Choice::Backend("evil@http://e.example:80".parse().unwrap()))
        .unwrap();
    assert!(
        lack.1
            .starts_with("evil cannot be reached: e.example resolves to 127.0.0.1"),
        "{lack:?}"
    );
    changes.push(resolve("e.example 127.0.0.1 10.0.0.1"));
    assert_eq!(
        servers_and_asides(&changes),
        ["evil@http://e.example:80: 10.0.0.1:80 Up", named],
        "only what is refused is left out"
    );
    changes.push(TestChange::Rule(9, "e.example", ""));
    assert_eq!(
        servers_and_asides(&changes)[0],
        "evil@http://e.example:80: 10.0.0.1:80 Up"
    );
    assert_eq!(
        servers_and_asides(&changes)[1],
        named,
        "a name allows no address of the host"
    );
    changes.push(TestChange::Rule(9, "127.0.0.0/8", ""));
    let now = servers_and_asides(&changes);
    assert_eq!(now[0], "evil@http://e.example:80: 127.0.0.1:80 Up");
    assert!(now[1].ends_with("e.example resolves to 10.0.0.1, which is not allowed: routers connect only to 127.0.0.0/8 (--allow-address)"), "{now:?}");
    changes.push(TestChange::Rule(9, "*.internal", ""));
    let now = servers_and_asides(&changes);
    assert!(now.len() == 1 && now[0].ends_with("evil cannot be reached: e.example:80 is not allowed: routers connect only to *.internal (--allow-address)"), "{now:?}");
    assert_eq!(
        index_after(&changes).host_names().count(),
        0,
        "nor is it resolved"
    );
}

/// Whoever registers an instance says where it is; who registers a name for good does not say what it resolves to.
#[test]
fn of_instances_only_what_a_name_resolves_to_is_judged() {
    let changes = [
        instance("a 1 127.0.0.1:80"),
        instance("b 1 b.example:80"),
        resolve("b.example 127.0.0.2"),
    ];
    let now = servers_and_asides(&changes);
    assert_eq!(now[0], "a@1: 127.0.0.1:80 Up");
    assert!(
        now.len() == 2
            && now[1].starts_with(
                "aside /mayfly/backends/b/1/b.example:80: the instance: b.example resolves to 127.0.0.2"
            ),
        "{now:?}"
    );
}

#[test]
fn of_one_environment_a_hundred_addresses_count() {
    let services = |count: usize| -> String {
        (0..count)
            .map(|n| format!(" s{n}=http://10.0.{}.{}:80", n / 250, n % 250 + 1))
            .collect()
    };
    let flood = environment(&format!("flood{}", services(1500)));
    let now = servers_and_asides(&[flood.clone(), environment("good a=http://10.9.9.9:80")]);
    assert_eq!(now.len(), 102);
    assert!(now[0].starts_with("a@http://10.9.9.9:80") && now[100].starts_with("s99@"));
    assert_eq!(
        now[101],
        "aside /mayfly/environments/flood: this environment names 1500 addresses of external \
         services, more than the limit of 100: s100 and 1399 more cannot be reached; name fewer"
    );
    // What is refused anyway counts for nothing, and is reported shortly.
    let refused: String = (0..200).map(|n| format!(" r{n}=http://127.0.0.{n}:80")).collect();
    let mixed = environment(&format!("mixed{refused}{}", services(100)));
    let now = servers_and_asides(&[mixed]);
    assert_eq!(now.len(), 100 + 6);
    assert!(
        now[100].ends_with("195 more addresses of this environment are refused, too"),
        "{}",
        now[100]
    );
}

#[test]
fn a_router_takes_so_many_addresses_first_those_that_were_registered_first() {
    let (a, b, c) = (
        environment("c x=http://10.0.0.1:80 y=http://10.0.0.2:80"),
        environment("a y=http://10.0.0.2:80 z=http://10.0.0.3:80"),
        environment("b z=http://10.0.0.3:80 w=http://10.0.0.4:80"),
    );
    let mut changes = vec![TestChange::Rule(3, "", ""), a, b, c];
    let up = |changes: &[TestChange]| {
        let all = servers_and_asides(changes).into_iter();
        all.filter_map(|line| Some(line.strip_suffix(":80 Up")?.split('@').next()?.to_owned()))
            .collect::<String>()
    };
    assert_eq!(up(&changes), "xyz", "an address that two name counts once");
    assert_eq!(
        servers_and_asides(&changes)[3],
        "aside /mayfly/environments/b: routers accept at most 3 addresses of external services in \
         total (--max-addresses), and environments registered earlier come first: w cannot be reached"
    );
    changes.push(delete("environments/c"));
    assert_eq!(up(&changes), "wyz");
    changes.push(environment(
        "a z=http://10.0.0.3:80 p=http://10.0.0.5:80 q=http://10.0.0.6:80",
    ));
    assert_eq!(
        up(&changes),
        "pqz",
        "who was there before has them, also new ones"
    );
    changes.push(TestChange::Rule(4, "", ""));
    assert_eq!(up(&changes), "pqwz");
    changes.push(TestChange::Rule(0, "", ""));
    assert_eq!(up(&changes), "");
}
