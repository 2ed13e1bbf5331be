//! What people copy: the units of deploy/systemd and the demo keep the rules of docs/security.md. Nothing is started here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use mayfly_e2e::mayfly::SOON;
use mayfly_e2e::process::run;
use serde_yaml::Value;

/// What every unit has.
const HARDENING: [&str; 21] = [
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "ProtectHome=yes",
    "PrivateTmp=yes",
    "PrivateDevices=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "ProtectProc=invisible",
    "LockPersonality=yes",
    "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
    "LimitCORE=0",
];
/// The two that run haproxy, whose regular expressions become machine code.
const ROUTER: [&str; 2] = ["haproxy-updater", "mayfly-haproxy"];
/// Those that use the socket of an engine, which is root on its host.
const ENGINE: [&str; 2] = ["container-launcher", "container-registrar-docker"];

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

/// The units of a directory by their names, each with its lines; a line that goes on is one.
fn units(directory: &str) -> BTreeMap<String, Vec<String>> {
    let mut units = BTreeMap::new();
    for entry in fs::read_dir(repository().join(directory)).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "service") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = read(&path).replace("\\\n", " ");
            let lines = text.lines().filter(|line| !line.starts_with('#'));
            units.insert(name, lines.map(str::to_owned).collect());
        }
    }
    assert!(units.len() >= 7, "{:?}", units.keys());
    units
}

/// The values of a setting of a unit.
fn values<'a>(unit: &'a [String], key: &str) -> Vec<&'a str> {
    let lines = unit.iter().filter_map(|line| line.split_once('='));
    lines
        .filter(|(found, _)| *found == key)
        .map(|(_, value)| value)
        .collect()
}

#[test]
fn each_unit_is_hardened_and_has_a_user_of_its_own() {
    let sysusers = read("deploy/systemd/mayfly.sysusers");
    let declared: BTreeSet<(&str, &str)> = sysusers
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?))
        })
        .collect();
    let mut users = BTreeSet::new();
    let mut directories = BTreeSet::new();
    for (name, unit) in &units("deploy/systemd") {
        for line in HARDENING {
            assert!(unit.iter().any(|found| found == line), "{name} has no {line}");
        }
        let is_router = ROUTER.contains(&name.as_str());
        let executable = values(unit, "MemoryDenyWriteExecute");
        assert_eq!(executable, if is_router { vec![] } else { vec!["yes"] }, "{name}");
        // Only HAProxy has a capability, for ports below 1024.
        let capability = match name.as_str() {
            "mayfly-haproxy" => "CAP_NET_BIND_SERVICE",
            _ => "",
        };
        assert_eq!(values(unit, "CapabilityBoundingSet"), [capability], "{name}");
        if values(unit, "DynamicUser") == ["yes"] {
            assert!(values(unit, "User").is_empty(), "{name}");
        } else {
            let [user] = values(unit, "User")[..] else {
                panic!("{name} runs as root");
            };
            assert!(
                declared.contains(&("u", user)),
                "{user} of {name} is not declared"
            );
            assert!(users.insert(user.to_owned()), "{name} shares the user {user}");
        }
        let groups = values(unit, "Group");
        assert_eq!(
            groups,
            if is_router { vec!["mayfly-router"] } else { vec![] },
            "{name}"
        );
        let engine = ENGINE.contains(&name.as_str());
        assert_eq!(
            values(unit, "SupplementaryGroups"),
            if engine { vec!["docker"] } else { vec![] }
        );
        // systemd gives a directory to the user of the unit, with all that is in it.
        for directory in values(unit, "StateDirectory").join(" ").split_whitespace() {
            assert!(
                directories.insert(directory.to_owned()),
                "{name} shares {directory}"
            );
        }
    }
    assert!(declared.contains(&("g", "mayfly-router")));
    for one in &directories {
        let inside = |other: &&String| other.starts_with(&format!("{one}/"));
        assert_eq!(directories.iter().find(inside), None, "in {one}");
    }
}

#[test]
fn haproxy_knows_no_password_and_definitions_lie_with_definitions_only() {
    let units = units("deploy/systemd");
    let haproxy = &units["mayfly-haproxy"];
    assert!(values(haproxy, "EnvironmentFile").is_empty() && values(haproxy, "LoadCredential").is_empty());
    // Without it the sockets are for HAProxy's user alone.
    assert!(values(haproxy, "ExecStart")[0].contains("/run/master.sock,mode,660 "));
    assert_eq!(
        values(haproxy, "ReadWritePaths"),
        ["-/var/lib/mayfly/haproxy/run"]
    );
    for (name, unit) in &units {
        let files = values(unit, "EnvironmentFile");
        let stray = files.iter().find(|file| file.contains("/etc/mayfly/services"));
        assert_eq!(stray, None, "{name}");
    }
}

#[tokio::test]
async fn systemd_understands_the_units() {
    let mut command = std::process::Command::new("systemd-analyze");
    command.args(["verify", "--man=no"]);
    for name in units("deploy/systemd").keys() {
        // An instance, so that there is a name to put in.
        let name = name.replace('@', "@instance");
        command.arg(repository().join(format!("deploy/systemd/{name}.service")));
    }
    let found = run(&command, SOON).await.unwrap();
    // That a program or another unit is not installed here is no fault.
    let faults = found.stderr.lines().filter(|line| line.contains("ignoring"));
    let faults: Vec<&str> = faults.collect();
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn containers_of_the_fleet_have_no_more_than_they_need() {
    for (name, unit) in &units("deploy/fleet") {
        let start = values(unit, "ExecStart")[0];
        if name == "backend@" {
            continue;
        }
        for option in [
            "--cap-drop ALL",
            "--security-opt no-new-privileges",
            "--ulimit core=0",
        ] {
            assert!(start.contains(option), "{name} has no {option}");
        }
        assert_eq!(
            start.contains("docker.sock"),
            ENGINE.contains(&name.as_str()),
            "{name}"
        );
    }
}

#[test]
fn no_service_of_the_demo_reaches_etcd_and_only_two_parts_the_engine() {
    let mut compose: Value = serde_yaml::from_str(&read("demo/docker-compose.yml")).unwrap();
    // What is merged may itself merge something.
    for _ in 0..3 {
        compose.apply_merge().unwrap();
    }
    assert_eq!(compose["networks"]["control"]["internal"], true);
    let services = compose["services"].as_mapping().unwrap();
    let (mut engine, mut both) = (BTreeSet::new(), BTreeSet::new());
    for (name, service) in services {
        let name = name.as_str().unwrap();
        let networks: BTreeSet<&str> = match &service["networks"] {
            Value::Sequence(networks) => networks.iter().filter_map(Value::as_str).collect(),
            Value::Mapping(networks) => networks.keys().filter_map(Value::as_str).collect(),
            other => panic!("the networks of {name}: {other:?}"),
        };
        match name {
            "etcd" => assert_eq!(networks, ["control"].into(), "{name}"),
            "haproxy" | "dnsmasq" => assert_eq!(networks, ["mayfly"].into(), "{name}"),
            // The demo services; what the launcher starts has the network of the definition.
            _ if service.get("dns").is_some() => assert_eq!(networks, ["mayfly"].into(), "{name}"),
            _ => assert!(networks.contains("control"), "{name}"),
        }
        if networks.len() > 1 {
            both.insert(name);
        }
        let volumes = service.get("volumes").and_then(Value::as_sequence);
        let mut volumes = volumes.into_iter().flatten().filter_map(Value::as_str);
        if volumes.any(|volume| volume.contains("docker.sock")) {
            engine.insert(name);
        }
        assert_eq!(service["cap_drop"][0], "ALL", "{name}");
        assert_eq!(service["security_opt"][0], "no-new-privileges:true", "{name}");
        for limit in ["mem_limit", "pids_limit", "logging", "ulimits"] {
            assert!(service.get(limit).is_some(), "{name} has no {limit}");
        }
    }
    assert_eq!(engine, ["container-launcher", "container-registrar"].into());
    let wanted = [
        "container-registrar",
        "frontend-v1-a-registrar",
        "haproxy-updater",
        "mayfly-web",
    ];
    assert_eq!(both, wanted.into());
    // Services ask it for every name; it forwards those that are not of services, else nothing outside resolves.
    let dnsmasq = serde_yaml::to_string(&services["dnsmasq"]["command"]).unwrap();
    assert_eq!(dnsmasq, "- --local=/service/\n- --server=127.0.0.11\n");
    // A definition gets this network and, without --allow-network, no other.
    let launcher = serde_yaml::to_string(&compose["services"]["container-launcher"]["command"]).unwrap();
    let own = "- --network\n- ${COMPOSE_PROJECT_NAME:-mayfly-demo}_mayfly\n";
    for flag in ["--allow-image", "--max-containers", own] {
        assert!(launcher.contains(flag), "{flag} is not in {launcher}");
    }
    assert!(!launcher.contains("--allow-network"), "{launcher}");
    let production: Value = serde_yaml::from_str(&read("demo/environments/prod.yaml")).unwrap();
    assert_eq!(production["protected"], true);
}

/// The names in a list, or the keys of a mapping.
fn names_of(value: &Value) -> BTreeSet<&str> {
    match value {
        Value::Sequence(names) => names.iter().filter_map(Value::as_str).collect(),
        Value::Mapping(names) => names.keys().filter_map(Value::as_str).collect(),
        _ => BTreeSet::new(),
    }
}

/// The script that makes the users cannot make a password in its container.
fn every_user_of_etcd_has_a_password(compose: &Value) {
    let script = read("deploy/etcd-roles.sh");
    let programs = script.split_once("\nPROGRAMS=(").unwrap().1;
    let programs = programs.split_once(')').unwrap().0.split_whitespace();
    let name = "${COMPOSE_PROJECT_NAME}";
    let expected: BTreeSet<(&str, String)> = programs
        .map(|program| match program {
            "haproxy-updater" => (program, format!("{name}-{program}@{name}")),
            program => (program, format!("{name}-{program}")),
        })
        .collect();
    assert!(expected.len() > 5, "{expected:?}");
    let secrets = compose["services"]["etcd-roles"]["secrets"]
        .as_sequence()
        .unwrap();
    let targets = secrets.iter().filter_map(|secret| {
        let target = secret.get("target")?.as_str()?.to_owned();
        Some((secret["source"].as_str()?, target))
    });
    assert_eq!(targets.collect::<BTreeSet<_>>(), expected);
    assert!(secrets.contains(&Value::from("root")));
}

#[test]
fn the_project_of_init_keeps_the_rules_of_security() {
    let mut compose: Value = serde_yaml::from_str(&read("deploy/compose/docker-compose.yml")).unwrap();
    for _ in 0..3 {
        compose.apply_merge().unwrap();
    }
    // compose v2 warns of it, and 1.29 does without.
    assert!(compose.get("version").is_none());
    assert_eq!(compose["networks"]["control"]["internal"], true);
    let mut engine = BTreeSet::new();
    for (name, service) in compose["services"].as_mapping().unwrap() {
        let name = name.as_str().unwrap();
        let networks: Vec<&str> = names_of(&service["networks"]).into_iter().collect();
        let expected = match name {
            "haproxy" | "dnsmasq" => &["mayfly"][..],
            "haproxy-updater" | "container-registrar" => &["control", "mayfly"],
            "mayfly-web" => &["control", "page"],
            _ => &["control"],
        };
        assert_eq!(networks, expected, "{name}");
        assert_eq!(service["cap_drop"][0], "ALL", "{name}");
        assert_eq!(service["security_opt"][0], "no-new-privileges:true", "{name}");
        for limit in ["mem_limit", "pids_limit", "logging", "ulimits"] {
            assert!(service.get(limit).is_some(), "{name} has no {limit}");
        }
        assert!(
            service["image"].as_str().unwrap().ends_with(":${MAYFLY_VERSION}"),
            "{name}"
        );
        let restart = if name == "etcd-roles" {
            "no"
        } else {
            "unless-stopped"
        };
        assert_eq!(service["restart"], restart, "{name}");
        let is_checked = service.get("healthcheck").is_some();
        assert_eq!(is_checked, !["etcd-roles", "dnsmasq"].contains(&name), "{name}");
        if names_of(&service["volumes"])
            .iter()
            .any(|volume| volume.contains("docker.sock"))
        {
            engine.insert(name);
        }
        // A program knows its own password only, and that of no other.
        let mut secrets = names_of(&service["secrets"]);
        match name {
            "etcd" | "haproxy" | "dnsmasq" | "etcd-roles" => {
                assert!(name == "etcd-roles" || service.get("secrets").is_none(), "{name}");
                continue;
            }
            "mayfly-web" => assert!(secrets.remove("web-token")),
            _ => {}
        }
        let own = name.strip_prefix("mayfly-").unwrap_or(name);
        assert_eq!(secrets, [own].into(), "{name}");
        let file = &service["environment"]["MAYFLY_ETCD_PASSWORD_FILE"];
        assert_eq!(file, &Value::from(format!("/run/secrets/{own}")), "{name}");
        // What other networks could reach listens in `control` alone.
        let admin = service["environment"]["MAYFLY_ADMIN"].as_str().unwrap();
        assert_eq!(admin.starts_with("0.0.0.0"), networks.len() == 1, "{name}");
    }
    assert_eq!(engine, ["container-launcher", "container-registrar"].into());
    every_user_of_etcd_has_a_password(&compose);
    for (name, flags) in [
        (
            "container-launcher",
            &["--allow-image", "--max-containers", "--memory", "--cpus", "--dns"][..],
        ),
        ("haproxy-updater", &["--allow-address", "--advertise"]),
        ("mayfly-web", &["--token-file"]),
        ("dnsmasq", &["--local=/service/", "--server=127.0.0.11"]),
    ] {
        let command = names_of(&compose["services"][name]["command"]);
        assert!(
            flags.iter().all(|flag| command.contains(flag)),
            "{name}: {command:?}"
        );
        assert!(
            !command.contains("--allow-network") && !command.contains("--without-token"),
            "{name}"
        );
    }
    let published = names_of(&compose["services"]["mayfly-web"]["ports"]);
    assert!(
        published.iter().all(|port| port.starts_with("127.0.0.1:")),
        "{published:?}"
    );
    let production: Value = serde_yaml::from_str(&read("deploy/compose/environments/prod.yaml")).unwrap();
    assert_eq!(production["protected"], true);
}
