//! What is read of containers that an engine may describe.

use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const PUBLISHED: Reached = Reached::Published { at_loopback: false };

fn inspected(change: impl FnOnce(&mut Value)) -> Inspected {
    Inspected {
        container: response(change),
        owners: Vec::new(),
    }
}

fn response(change: impl FnOnce(&mut Value)) -> ContainerInspectResponse {
    let mut value = json!({
        "Id": "0f0f", "Name": "/demo_backend_1",
        "State": { "Running": true, "StartedAt": "2030-01-31T18:00:00.123456789Z" },
        "HostConfig": { "NetworkMode": "a" },
        "Config": {
            "Image": "team/backend:0.0.1", "Labels": { "mayfly.service": "backend" },
            "ExposedPorts": { "8080/tcp": {}, "53/udp": {} },
        },
        "NetworkSettings": {
            "Networks": { "a": { "IPAddress": "10.0.0.2" } },
            "Ports": { "8080/tcp": [
                { "HostIp": "0.0.0.0", "HostPort": "32768" }, { "HostIp": "::", "HostPort": "32768" },
            ] },
        },
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

fn check(reached: &Reached, change: impl FnOnce(&mut Value), expected: &str) {
    check_inspected(&inspected(change), reached, expected);
}

fn check_inspected(inspected: &Inspected, reached: &Reached, expected: &str) {
    let found = match read(inspected, reached, &KeySpace::default()) {
        ContainerReading::Nothing => "nothing".to_owned(),
        ContainerReading::Faulty { name, reason } => format!("{name}: {reason}"),
        ContainerReading::Running(c) => {
            let ip = c.ip.map_or("host".to_owned(), |ip| ip.to_string());
            format!(
                "{} {} at {ip} {} {:?}",
                c.name, c.labelled.backend, c.port, c.healthy
            )
        }
    };
    assert!(found.starts_with(expected), "{found}");
}

#[test]
fn what_is_another_mayfly_s_is_nothing() {
    let label = |name: &'static str, prefix: &'static str| {
        move |v: &mut Value| v["Config"]["Labels"][name] = json!(prefix)
    };
    for name in ["mayfly.launcher", "mayfly.prefix"] {
        check(
            &Reached::Directly,
            label(name, "/mayfly"),
            "demo_backend_1 backend@0.0.1",
        );
        // Wherever it is, and whatever is wrong with it.
        for reached in [Reached::Directly, Reached::Network("b".into()), PUBLISHED] {
            let other = |v: &mut Value| {
                label(name, "/other")(v);
                v["Config"]["Labels"]["mayfly.port"] = json!("http");
            };
            check(&reached, other, "nothing");
        }
    }
    let faulty = label("mayfly.prefix", "www-dev");
    check(
        &Reached::Directly,
        faulty,
        "demo_backend_1: label mayfly.prefix: ",
    );
}

#[test]
fn a_container_with_a_misspelt_label_is_set_aside() {
    let misspelt = |v: &mut Value| v["Config"]["Labels"] = json!({ "mayfly.servce": "backend" });
    let expected = "demo_backend_1: unknown label \"mayfly.servce\": did you mean mayfly.service?";
    check(&Reached::Directly, misspelt, expected);
}

#[test]
fn a_container_on_its_only_network() {
    let fine = "demo_backend_1 backend@0.0.1 at 10.0.0.2 8080 None";
    check(&Reached::Directly, |_| {}, fine);
    check(&Reached::Network("a".into()), |_| {}, fine);
    check(
        &Reached::Network("b".into()),
        |_| {},
        "demo_backend_1: it has no address on network `b`, only on a",
    );
    let several = |v: &mut Value| v["NetworkSettings"]["Networks"]["b"] = json!({ "IPAddress": "10.0.1.2" });
    check(
        &Reached::Network("b".into()),
        several,
        "demo_backend_1 backend@0.0.1 at 10.0.1.2",
    );
    check(
        &Reached::Directly,
        several,
        "demo_backend_1: it is on several networks (a, b); start container-registrar with --network \
         and one of them",
    );
    // One without an address does not count: it is being connected.
    let half = |v: &mut Value| v["NetworkSettings"]["Networks"]["b"] = json!({ "IPAddress": "" });
    check(&Reached::Directly, half, fine);
    let none = |v: &mut Value| v["NetworkSettings"]["Networks"] = json!({});
    check(
        &Reached::Directly,
        none,
        "demo_backend_1: it has no address on any network",
    );
    let six = |v: &mut Value| {
        v["NetworkSettings"]["Networks"]["a"] = json!({ "IPAddress": "", "GlobalIPv6Address": "fd00::2" });
    };
    check(
        &Reached::Directly,
        six,
        "demo_backend_1 backend@0.0.1 at fd00::2 8080",
    );
}

#[test]
fn a_container_on_the_network_of_another() {
    let shares = |v: &mut Value| {
        v["HostConfig"]["NetworkMode"] = json!("container:0a0a");
        v["NetworkSettings"] = json!({ "Networks": {} });
    };
    let owner = |change: fn(&mut Value)| {
        let owner = response(|v| {
            v["Id"] = json!("0a0a");
            v["Name"] = json!("/vpn");
            v["State"]["StartedAt"] = json!("2030-01-31T17:59:59Z");
            v["Config"]["Labels"] = json!({});
            change(v);
        });
        Inspected {
            container: response(shares),
            owners: vec![owner],
        }
    };
    let (directly, on_a) = (Reached::Directly, Reached::Network("a".into()));
    for (reached, expected) in [
        (&directly, "at 10.0.0.2 8080"),
        (&on_a, "at 10.0.0.2 8080"),
        (&PUBLISHED, "at host 32768"),
    ] {
        let expected = format!("demo_backend_1 backend@0.0.1 {expected}");
        check_inspected(&owner(|_| {}), reached, &expected);
    }
    let moved: fn(&mut Value) = |v| v["NetworkSettings"]["Networks"]["a"]["IPAddress"] = json!("10.0.0.9");
    check_inspected(
        &owner(moved),
        &directly,
        "demo_backend_1 backend@0.0.1 at 10.0.0.9",
    );
    let host: fn(&mut Value) = |v| v["HostConfig"]["NetworkMode"] = json!("host");
    check_inspected(
        &owner(host),
        &PUBLISHED,
        "demo_backend_1 backend@0.0.1 at host 8080",
    );
    check_inspected(
        &owner(host),
        &directly,
        "demo_backend_1: it is on the network of its host",
    );
    // It stays in the network that its owner had when it was started.
    let again: fn(&mut Value) = |v| v["State"]["StartedAt"] = json!("2030-01-31T18:00:01Z");
    let expected = "demo_backend_1: it shares the network of `vpn`, which has restarted since";
    check_inspected(&owner(again), &directly, expected);
    let ended: fn(&mut Value) = |v| v["State"]["Running"] = json!(false);
    let expected = "demo_backend_1: it shares the network of `vpn`, which is not running; start `vpn`";
    check_inspected(&owner(ended), &directly, expected);
    let crashed: fn(&mut Value) = |v| v["State"]["Restarting"] = json!(true);
    check_inspected(&owner(crashed), &directly, expected);
    let paused: fn(&mut Value) = |v| v["State"]["Paused"] = json!(true);
    let fine = "demo_backend_1 backend@0.0.1 at 10.0.0.2 8080";
    check_inspected(&owner(paused), &directly, fine);
    let gone = inspected(|v| {
        let id = "0123456789abcdef";
        v["HostConfig"]["NetworkMode"] = json!(format!("container:{id}"));
    });
    let expected = "demo_backend_1: it shares the network of container 0123456789ab, which is gone; recreate";
    check_inspected(&gone, &directly, expected);
    // Of one that itself shares.
    let mut further = owner(|v| {
        v["HostConfig"]["NetworkMode"] = json!("container:0b0b");
        v["NetworkSettings"] = json!({});
    });
    assert_eq!(further.next_owner(), Some("0b0b"));
    further.owners.push(owner(|_| {}).owners.remove(0));
    assert_eq!(further.next_owner(), None);
    check_inspected(
        &further,
        &directly,
        "demo_backend_1 backend@0.0.1 at 10.0.0.2 8080",
    );
}

#[test]
fn a_published_port() {
    let published =
        |bindings: Value| move |v: &mut Value| v["NetworkSettings"]["Ports"]["8080/tcp"] = bindings;
    let at = |ip: &str| json!([{ "HostIp": ip, "HostPort": "81" }]);
    for (change, expected) in [
        (published(at("")), "demo_backend_1 backend@0.0.1 at host 81"),
        (
            published(at("10.1.1.1")),
            "demo_backend_1 backend@0.0.1 at 10.1.1.1 81",
        ),
        (
            published(at("127.0.0.1")),
            "demo_backend_1: its port 8080 is published on loopback only",
        ),
        (
            published(Value::Null),
            "demo_backend_1: its port 8080 is not published",
        ),
    ] {
        check(&PUBLISHED, change, expected);
    }
    let here = Reached::Published { at_loopback: true };
    check(
        &here,
        published(at("127.0.0.1")),
        "demo_backend_1 backend@0.0.1 at 127.0.0.1 81",
    );
    check(
        &here,
        published(at("10.1.1.1")),
        "demo_backend_1 backend@0.0.1 at 10.1.1.1 81",
    );
    check(
        &here,
        published(at("")),
        "demo_backend_1 backend@0.0.1 at host 81",
    );
    check(&PUBLISHED, |_| {}, "demo_backend_1 backend@0.0.1 at host 32768");
    let host = |v: &mut Value| v["HostConfig"]["NetworkMode"] = json!("host");
    check(&PUBLISHED, host, "demo_backend_1 backend@0.0.1 at host 8080");
    check(
        &Reached::Directly,
        host,
        "demo_backend_1: it is on the network of its host",
    );
}

#[test]
fn what_does_not_run_or_is_not_ours_is_nothing() {
    for flag in ["Paused", "Restarting", "Dead"] {
        check(&Reached::Directly, |v| v["State"][flag] = json!(true), "nothing");
    }
    check(
        &Reached::Directly,
        |v| v["State"]["Running"] = json!(false),
        "nothing",
    );
    check(
        &Reached::Directly,
        |v| v["Config"]["Labels"] = Value::Null,
        "nothing",
    );
    check(&Reached::Directly, |v| v["Config"] = Value::Null, "nothing");
    let faulty = |v: &mut Value| v["Config"]["Labels"]["mayfly.port"] = json!("http");
    check(&Reached::Directly, faulty, "demo_backend_1: label mayfly.port");
    let stopped = |v: &mut Value| {
        faulty(v);
        v["State"]["Running"] = json!(false);
    };
    check(&Reached::Directly, stopped, "nothing");
}

#[test]
fn the_engine_s_check_counts() {
    let health = |text: &str| {
        let health = json!({ "Status": text });
        move |v: &mut Value| v["State"]["Health"] = health
    };
    let fine = "demo_backend_1 backend@0.0.1 at 10.0.0.2 8080";
    for (text, found) in [
        ("none", "None"),
        ("starting", "Some(false)"),
        ("unhealthy", "Some(false)"),
        ("healthy", "Some(true)"),
    ] {
        check(&Reached::Directly, health(text), &format!("{fine} {found}"));
    }
}

#[test]
fn why_the_engine_s_check_says_no() {
    let unwell = |health: Value| {
        let inspected = inspected(|v| v["State"]["Health"] = health);
        match read(&inspected, &Reached::Directly, &KeySpace::default()) {
            ContainerReading::Running(container) => container.unwell.unwrap_or_default(),
            found => panic!("{found:?}"),
        }
    };
    assert_eq!(unwell(json!({"Status": "healthy", "Log": []})), "");
    assert_eq!(
        unwell(json!({"Status": "starting"})),
        "its HEALTHCHECK is starting"
    );
    let log = json!([{"Output": "first"}, {"Output": "connection \u{1b}[31mrefused\n"}]);
    assert_eq!(
        unwell(json!({"Status": "unhealthy", "Log": log})),
        "its HEALTHCHECK is unhealthy: connection \\u{1b}[31mrefused"
    );
}

#[test]
fn signals() {
    for (configured, sent, ends) in [
        (json!(null), "15", true),
        (json!(null), "9", true),
        (json!(null), "1", false),
        (json!(null), "SIGTERM", true),
        (json!("SIGQUIT"), "3", true),
        (json!("QUIT"), "15", false),
        (json!("3"), "3", true),
        (json!("SIGRTMIN+3"), "37", true),
        (json!("SIGNONE"), "15", true),
        (json!("sigint"), "2", true),
        (json!("sigint"), "15", false),
        (json!("Quit"), "3", true),
        (json!(null), "sigterm", true),
        (json!("SIGRTMIN"), "34", true),
        (json!("SIGRTMIN+7"), "41", true),
        (json!("sigrtmin+7"), "15", false),
        (json!("RTMAX"), "64", true),
        (json!("SIGRTMAX-2"), "62", true),
        // There are no such signals.
        (json!("SIGRTMIN+31"), "15", true),
        (json!("SIGRTMAX-31"), "15", true),
        (json!("SIGRTMAX-65"), "15", true),
        (json!("SIGRTMIN3"), "15", true),
    ] {
        let found = read(
            &inspected(|v| v["Config"]["StopSignal"] = configured.clone()),
            &Reached::Directly,
            &KeySpace::default(),
        );
        let ContainerReading::Running(container) = found else {
            panic!("{found:?}")
        };
        assert_eq!(container.ends_by(sent), ends, "{configured} {sent}");
    }
}

/// Something of what an engine may say, or not.
fn something() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[ -~\\n\\x1b\u{202e}é]{0,20}|mayfly\\.[a-z]{0,8}|[0-9]{1,6}(/tcp)?|[0-9.:]{1,20}|SIG[A-Z0-9+]{1,6}"
            .prop_map(Value::from),
        Just(json!([])),
        Just(json!({})),
        Just(json!([{ "HostIp": "x", "HostPort": "-1" }, null])),
    ]
}

proptest! {
    /// Whatever an engine says of a container: nothing panics, and what is registered is of checked
    /// types.
    #[test]
    fn any_container_is_read_or_told(
        changes in prop::collection::vec((prop::sample::select(PLACES), "[ -~\\n]{0,12}", something()), 0..5), reached in 0u8..3, owned: bool,
    ) {
        let mut value = serde_json::to_value(response(|_| {})).unwrap();
        for (place, key, something) in changes {
            match value.pointer_mut(place) {
                Some(Value::Object(object)) if key.len() % 2 == 0 => drop(object.insert(key, something)),
                Some(found) => *found = something,
                None => {}
            }
        }
        // What is no answer of an engine at all, its client refuses.
        let Ok(container) = serde_json::from_value::<ContainerInspectResponse>(value) else { return Ok(()) };
        let owners = if owned { vec![container.clone()] } else { Vec::new() };
        let inspected = Inspected { container, owners };
        let reached = [Reached::Directly, Reached::Network("a".into()), PUBLISHED][usize::from(reached)].clone();
        if let ContainerReading::Running(container) = read(&inspected, &reached, &KeySpace::default()) {
            let backend = container.labelled.backend.to_string();
            prop_assert!(backend.bytes().all(|byte| byte.is_ascii_graphic()), "{backend:?}");
            let _ = container.ends_by(&container.name);
        }
    }
}

/// Parts of what an engine says of a container.
const PLACES: &[&str] = &[
    "",
    "/Id",
    "/Name",
    "/State",
    "/State/Running",
    "/State/StartedAt",
    "/HostConfig",
    "/HostConfig/NetworkMode",
    "/Config",
    "/Config/Image",
    "/Config/Labels",
    "/Config/Labels/mayfly.service",
    "/Config/ExposedPorts",
    "/NetworkSettings",
    "/NetworkSettings/Networks",
    "/NetworkSettings/Networks/a",
    "/NetworkSettings/Networks/a/IPAddress",
    "/NetworkSettings/Ports",
    "/NetworkSettings/Ports/8080~1tcp",
];
