//! What the engine says of a container becomes what is to be registered, or why it is not. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use bollard::models::{
    ContainerConfig, ContainerInspectResponse, ContainerState, HealthStatusEnum, NetworkSettings,
};
use mayfly_core::keys::KeySpace;
use mayfly_core::labels::{self, Labelled};

/// How long the engine waits after the stop signal where a container says nothing else.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The names of signals that somebody may choose to stop a container, with their numbers on Linux.
const SIGNALS: [(&str, u32); 14] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ABRT", 6),
    ("KILL", 9),
    ("USR1", 10),
    ("USR2", 12),
    ("ALRM", 14),
    ("TERM", 15),
    ("WINCH", 28),
    ("PWR", 30),
    ("RTMIN", 34),
    ("RTMIN+3", 37),
    ("RTMIN+4", 38),
];
const KILL: u32 = 9;
const TERM: u32 = 15;

/// Which of a container's addresses counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reached {
    /// The one on its only network.
    Directly,
    /// The one on this network.
    Network(String),
    /// The host's, at a published port.
    Published,
}

/// What a look at a container found.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Nothing that concerns us, or it does not run.
    Nothing,
    /// One of ours, which cannot be registered.
    Faulty {
        /// Its name.
        name: String,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// One of ours that runs.
    Running(Box<Container>),
}

/// A container that runs and is to be registered.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// The whole id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// What its labels say.
    pub labelled: Labelled,
    /// Where it is reached; `None` for the host's own address.
    pub ip: Option<IpAddr>,
    /// The port there.
    pub port: u16,
    /// What the engine's own check says: whether it is healthy; `None` where there is no such check.
    pub healthy: Option<bool>,
    /// When its process was started, by the engine's clock.
    pub started: SystemTime,
    /// The number of the signal that asks it to end.
    pub stop_signal: u32,
    /// How long the engine usually waits before it kills it.
    pub stop_timeout: Duration,
}

/// Reads what the engine says of a container.
///
/// `prefix` is the key prefix: what the launcher of another Mayfly has made is registered by that one's registrar.
pub fn read(inspected: &ContainerInspectResponse, reached: &Reached, prefix: &KeySpace) -> Found {
    let (Some(id), Some(config), Some(state)) = (&inspected.id, &inspected.config, &inspected.state) else {
        return Found::Nothing;
    };
    let name = inspected
        .name
        .as_deref()
        .unwrap_or(id)
        .trim_start_matches('/')
        .to_owned();
    let launcher = config
        .labels
        .as_ref()
        .and_then(|labels| labels.get(labels::LAUNCHER));
    if launcher.is_some_and(|launcher| *launcher != prefix.to_string()) {
        return Found::Nothing;
    }
    let labels = config.labels.iter().flatten();
    let labels = labels.map(|(name, text)| (name.as_str(), text.as_str()));
    let image = config.image.as_deref().unwrap_or_default();
    let labelled = match labels::read(labels, image, &exposed(config)) {
        Ok(None) => return Found::Nothing,
        _ if !runs(state) => return Found::Nothing,
        Ok(Some(labelled)) => labelled,
        Err(reason) => return Found::Faulty { name, reason },
    };
    let mode = inspected
        .host_config
        .as_ref()
        .and_then(|config| config.network_mode.as_deref());
    let settings = inspected.network_settings.as_ref();
    let place = match reached {
        Reached::Published if mode == Some("host") => Ok((None, labelled.port.into())),
        Reached::Published => published(settings, labelled.port.into()),
        _ if mode == Some("host") => Err("it is on the host's own network: give --published".to_owned()),
        Reached::Directly => only(settings).map(|ip| (Some(ip), labelled.port.into())),
        Reached::Network(network) => on(settings, network).map(|ip| (Some(ip), labelled.port.into())),
    };
    let (ip, port) = match place {
        Ok(place) => place,
        Err(reason) => return Found::Faulty { name, reason },
    };
    let seconds = config
        .stop_timeout
        .and_then(|seconds| u64::try_from(seconds).ok());
    Found::Running(Box::new(Container {
        id: id.clone(),
        name,
        labelled,
        ip,
        port,
        healthy: healthy(state),
        started: state
            .started_at
            .as_deref()
            .and_then(|text| humantime::parse_rfc3339(text).ok())
            .unwrap_or(SystemTime::UNIX_EPOCH),
        stop_signal: config.stop_signal.as_deref().and_then(signal).unwrap_or(TERM),
        stop_timeout: seconds.map_or(STOP_TIMEOUT, Duration::from_secs),
    }))
}

impl Container {
    /// Whether a signal that the engine sends, by number or name, means the end of it.
    pub fn ends_by(&self, text: &str) -> bool {
        signal(text).is_some_and(|number| number == KILL || number == self.stop_signal)
    }
}

fn signal(text: &str) -> Option<u32> {
    let name = text.trim_start_matches("SIG");
    let known = SIGNALS.iter().find(|(known, _)| *known == name);
    known.map(|(_, number)| *number).or_else(|| text.parse().ok())
}

fn runs(state: &ContainerState) -> bool {
    let is = |flag: Option<bool>| flag == Some(true);
    is(state.running) && !is(state.paused) && !is(state.restarting) && !is(state.dead)
}

fn healthy(state: &ContainerState) -> Option<bool> {
    match state.health.as_ref()?.status? {
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => None,
        status => Some(status == HealthStatusEnum::HEALTHY),
    }
}

/// The TCP ports that the container exposes.
fn exposed(config: &ContainerConfig) -> Vec<u16> {
    let ports = config.exposed_ports.iter().flatten();
    let mut tcp: Vec<u16> = ports
        .filter_map(|port| match port.split_once('/') {
            None => port.parse().ok(),
            Some((number, "tcp")) => number.parse().ok(),
            Some(_) => None,
        })
        .collect();
    tcp.sort_unstable();
    tcp
}

/// The networks on which it has an address, in the order of their names.
fn networks(settings: Option<&NetworkSettings>) -> BTreeMap<&str, IpAddr> {
    let all = settings.and_then(|settings| settings.networks.as_ref());
    let addressed = all.into_iter().flatten().filter_map(|(name, endpoint)| {
        let texts = [&endpoint.ip_address, &endpoint.global_ipv6_address];
        let mut ips = texts.into_iter().flatten().filter_map(|text| text.parse().ok());
        Some((name.as_str(), ips.next()?))
    });
    addressed.collect()
}

fn only(settings: Option<&NetworkSettings>) -> Result<IpAddr, String> {
    let networks = networks(settings);
    let mut ips = networks.values();
    match (ips.next(), ips.next()) {
        (Some(ip), None) => Ok(*ip),
        (None, _) => Err("it has no address on any network".to_owned()),
        _ => Err(format!(
            "it is on several networks ({}): give --network",
            names(&networks)
        )),
    }
}

fn on(settings: Option<&NetworkSettings>, network: &str) -> Result<IpAddr, String> {
    let networks = networks(settings);
    networks
        .get(network)
        .copied()
        .ok_or_else(|| match names(&networks) {
            names if names.is_empty() => format!("it has no address on network {network}, nor on any other"),
            names => format!("it has no address on network {network}, only on {names}"),
        })
}

fn names(networks: &BTreeMap<&str, IpAddr>) -> String {
    networks.keys().copied().collect::<Vec<_>>().join(", ")
}

/// Where the port is published: at any address of the host, or at one that others reach.
fn published(settings: Option<&NetworkSettings>, port: u16) -> Result<(Option<IpAddr>, u16), String> {
    let ports = settings.and_then(|settings| settings.ports.as_ref());
    let bindings = ports.and_then(|ports| ports.get(&format!("{port}/tcp"))?.as_ref());
    let places: Vec<(IpAddr, u16)> = bindings
        .into_iter()
        .flatten()
        .filter_map(|binding| {
            let ip = binding
                .host_ip
                .as_deref()
                .filter(|ip| !ip.is_empty())
                .unwrap_or("0.0.0.0");
            Some((ip.parse().ok()?, binding.host_port.as_deref()?.parse().ok()?))
        })
        .collect();
    if let Some((_, at)) = places.iter().find(|(ip, _)| ip.is_unspecified()) {
        return Ok((None, *at));
    }
    match places.iter().find(|(ip, _)| !ip.is_loopback()) {
        Some((ip, at)) => Ok((Some(*ip), *at)),
        None if places.is_empty() => Err(format!("its port {port} is not published")),
        None => Err(format!("its port {port} is published to this host only")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn inspected(change: impl FnOnce(&mut Value)) -> ContainerInspectResponse {
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
        let told = match read(&inspected(change), reached, &KeySpace::default()) {
            Found::Nothing => "nothing".to_owned(),
            Found::Faulty { name, reason } => format!("{name}: {reason}"),
            Found::Running(c) => {
                let ip = c.ip.map_or("host".to_owned(), |ip| ip.to_string());
                format!(
                    "{} {} at {ip} {} {:?}",
                    c.name, c.labelled.backend, c.port, c.healthy
                )
            }
        };
        assert!(told.starts_with(expected), "{told}");
    }

    #[test]
    fn what_the_launcher_of_another_mayfly_has_made_is_its_own() {
        let launcher = |prefix: &'static str| {
            move |v: &mut Value| v["Config"]["Labels"]["mayfly.launcher"] = json!(prefix)
        };
        check(
            &Reached::Directly,
            launcher("/mayfly"),
            "demo_backend_1 backend@0.0.1",
        );
        check(&Reached::Directly, launcher("/other"), "nothing");
    }

    #[test]
    fn a_container_on_its_only_network() {
        let fine = "demo_backend_1 backend@0.0.1 at 10.0.0.2 8080 None";
        check(&Reached::Directly, |_| {}, fine);
        check(&Reached::Network("a".into()), |_| {}, fine);
        check(
            &Reached::Network("b".into()),
            |_| {},
            "demo_backend_1: it has no address on network b, only on a",
        );
        let several =
            |v: &mut Value| v["NetworkSettings"]["Networks"]["b"] = json!({ "IPAddress": "10.0.1.2" });
        check(
            &Reached::Network("b".into()),
            several,
            "demo_backend_1 backend@0.0.1 at 10.0.1.2",
        );
        check(
            &Reached::Directly,
            several,
            "demo_backend_1: it is on several networks (a, b): give --network",
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
            v["NetworkSettings"]["Networks"]["a"] =
                json!({ "IPAddress": "", "GlobalIPv6Address": "fd00::2" });
        };
        check(
            &Reached::Directly,
            six,
            "demo_backend_1 backend@0.0.1 at fd00::2 8080",
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
                "demo_backend_1: its port 8080 is published to this host only",
            ),
            (
                published(Value::Null),
                "demo_backend_1: its port 8080 is not published",
            ),
        ] {
            check(&Reached::Published, change, expected);
        }
        check(
            &Reached::Published,
            |_| {},
            "demo_backend_1 backend@0.0.1 at host 32768",
        );
        let host = |v: &mut Value| v["HostConfig"]["NetworkMode"] = json!("host");
        check(
            &Reached::Published,
            host,
            "demo_backend_1 backend@0.0.1 at host 8080",
        );
        check(
            &Reached::Directly,
            host,
            "demo_backend_1: it is on the host's own network",
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
        ] {
            let found = read(
                &inspected(|v| v["Config"]["StopSignal"] = configured.clone()),
                &Reached::Directly,
                &KeySpace::default(),
            );
            let Found::Running(container) = found else {
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
            "[ -~\\n\\x1b\u{202e}é]{0,20}|mayfly\\.[a-z]{0,8}|[0-9]{1,6}(/tcp)?|[0-9.:]{1,20}|SIG[A-Z0-9+]{1,6}".prop_map(Value::from),
            Just(json!([])),
            Just(json!({})),
            Just(json!([{ "HostIp": "x", "HostPort": "-1" }, null])),
        ]
    }

    proptest! {
        /// Whatever an engine says of a container: nothing panics, and what is registered is of checked types.
        #[test]
        fn any_container_is_read_or_told(
            changes in prop::collection::vec((prop::sample::select(PLACES), "[ -~\\n]{0,12}", something()), 0..5), reached in 0u8..3,
        ) {
            let mut value = serde_json::to_value(inspected(|_| {})).unwrap();
            for (place, key, something) in changes {
                match value.pointer_mut(place) {
                    Some(Value::Object(object)) if key.len() % 2 == 0 => drop(object.insert(key, something)),
                    Some(found) => *found = something,
                    None => {}
                }
            }
            // What is no answer of an engine at all, its client refuses.
            let Ok(inspected) = serde_json::from_value::<ContainerInspectResponse>(value) else { return Ok(()) };
            let reached = [Reached::Directly, Reached::Network("a".into()), Reached::Published][usize::from(reached)].clone();
            if let Found::Running(container) = read(&inspected, &reached, &KeySpace::default()) {
                let backend = container.labelled.backend.to_string();
                prop_assert!(backend.bytes().all(|octet| octet.is_ascii_graphic()), "{backend:?}");
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
}
