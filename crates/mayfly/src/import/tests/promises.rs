//! What an import says is routed, container-registrar registers: its own reading of the labels that a
//! container then has decides.

use std::collections::{BTreeMap, BTreeSet};

use mayfly_core::keys::KeySpace;
use mayfly_core::version::{Selector, Version};
use mayfly_core::{environment_file, labels};
use proptest::prelude::*;
use serde_yaml::Value;

use super::{import_of, labels_in, wishes};

/// What a service of a compose file may be called by, and what makes it one that stays.
fn service() -> impl Strategy<Value = String> {
    let digest = "0f".repeat(32);
    let images = [
        "image: a/b:1.0".to_owned(),
        "image: a/b".to_owned(),
        "image: a/b:latest".to_owned(),
        "image: a/b:main".to_owned(),
        "image: registry:5000/a/b".to_owned(),
        format!("image: a/b:2@sha256:{digest}"),
        format!("image: a/b@sha256:{digest}"),
        format!("image: sha256:{digest}"),
        "image: 0f0f0f0f0f0f".to_owned(),
        "build: .".to_owned(),
        "{build: ., image: a/b:1}".trim_matches(['{', '}']).to_owned(),
    ];
    let ports = [
        "ports: [80]",
        "expose: [8080]",
        "environment: {PORT: 8000}",
        "healthcheck: {test: 'curl http://localhost:81/a$$b'}",
        "environment: {CALL: 'http://s1'}",
        "expose: [80], environment: {CALL: 'http://s2'}",
    ];
    let modes = [
        "",
        "network_mode: host",
        "network_mode: bridge",
        "network_mode: none",
        "network_mode: 'service:s0'",
        "network_mode: 'container:x'",
        "networks: [own]",
    ];
    let kept = [
        "",
        "user: x",
        "volumes: ['v:/v']",
        "labels: {mayfly.role: x}",
        "dns: 9.9.9.9",
    ];
    let own = [
        "",
        "mayfly.service: other",
        "mayfly.service: other, mayfly.version: '3'",
        "mayfly.version: 4, mayfly.port: 90",
        "mayfly.service: other, mayfly.check: /x, mayfly.prefix: /shop",
        "mayfly.service: other, mayfly.prefix: /another",
        "mayfly.protocol: h2c, mayfly.check-host: x",
        "com.example: x",
    ];
    let select =
        |all: &[&str]| proptest::sample::select(all.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
    let parts = (
        proptest::sample::select(images.to_vec()),
        select(&ports),
        select(&modes),
        select(&kept),
        select(&own),
    );
    parts.prop_map(|(image, port, mode, kept, own)| {
        let labels = match own.is_empty() || kept.starts_with("labels") {
            true => String::new(),
            false => format!("labels: {{{own}}}"),
        };
        let parts = [image, port, mode, kept, labels];
        let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        format!("{{{}}}", parts.join(", "))
    })
}

proptest! {
    #[test]
    fn what_is_said_to_be_routed_is_registered(all in proptest::collection::vec(service(), 1..4), has_prefix: bool) {
        let services = all.iter().enumerate().map(|(at, service)| format!("  s{at}: {service}\n"));
        let text = format!("services:\n{}", services.collect::<String>());
        let mut wishes = wishes();
        let prefix: KeySpace = "/shop".parse().unwrap();
        wishes.key_prefix = has_prefix.then(|| prefix.clone());
        wishes.dns = Some("172.31.250.53".to_owned());
        let Ok(plan) = import_of(&[("c.yml", &text)], &wishes) else { return Ok(()) };
        let given: Value = serde_yaml::from_str(&text).unwrap();
        let overlay: Value = serde_yaml::from_str(&plan.overlay).unwrap_or_default();
        let launched: BTreeSet<&str> = plan.definitions.iter().map(|(name, _)| name.as_str()).collect();
        let environment = environment_file::parse(plan.environment.as_bytes()).entries.remove(0).environment;
        let joined = |name: &str| {
            let networks = overlay["services"][name]["networks"].as_sequence();
            networks.is_some_and(|names| names.iter().any(|name| name.as_str() == Some("mayfly")))
        };
        for at in 0..all.len() {
            let name = format!("s{at}");
            let mode = given["services"][&*name]["network_mode"].as_str().unwrap_or_default();
            if !mode.starts_with("service:") && !mode.starts_with("container:") {
                continue;
            }
            // Docker refuses both together.
            prop_assert!(overlay["services"][&*name]["dns"].is_null(), "{}", plan.overlay);
            let calls = plan.report.lines().any(|line| line.starts_with(&format!("{name}: ")) && line.contains("it calls"));
            let lends = given["services"]["s0"]["network_mode"].is_null() && !plan.report.contains("s0: not imported");
            if mode == "service:s0" && calls && lends {
                prop_assert!(joined("s0") && !overlay["services"]["s0"]["dns"].is_null(), "{}", plan.overlay);
            }
        }
        let mut registered = BTreeMap::new();
        for at in 0..all.len() {
            let name = format!("s{at}");
            let said = format!("{name}: routed, and stays");
            if !plan.report.lines().any(|line| line.starts_with(&said)) {
                continue;
            }
            let service = &given["services"][&*name];
            let text = |value: &Value| match value {
                Value::String(text) => text.clone(),
                other => serde_yaml::to_string(other).unwrap().trim().to_owned(),
            };
            let own = service["labels"].as_mapping().into_iter().flatten();
            let mut merged: BTreeMap<String, String> =
                own.map(|(name, value)| (text(name), text(value))).collect();
            merged.extend(labels_in(&plan.overlay, &name).into_iter().map(|(name, it)| (name, it.replace("$$", "$"))));
            let pairs = || merged.iter().map(|(name, text)| (name.as_str(), text.as_str()));
            // Compose gives what it builds a name without a tag.
            let image = service["image"].as_str().unwrap_or("shop_s0");
            let found = labels::read(pairs(), image, &[]).map_err(|fault| format!("{fault}: {merged:?}"));
            let found = found.map_err(TestCaseError::fail)?.expect("an instance");
            prop_assert!(!has_prefix || labels::is_of_another(pairs(), &prefix) == Ok(false));
            match service["network_mode"].as_str() {
                None => prop_assert!(joined(&name), "{}", plan.overlay),
                Some(mode) => {
                    prop_assert_eq!(mode, "service:s0");
                    prop_assert!(joined("s0") && !launched.contains("s0"), "{}", plan.overlay);
                }
            }
            registered.insert(found.backend.service, found.backend.version);
        }
        // The environment chooses what is registered, or what the launcher starts.
        for choice in &environment.services {
            if launched.contains(choice.name.as_str()) {
                prop_assert!(matches!(choice.version, Selector::Exact(_)));
                continue;
            }
            let version: &Version = registered.get(&choice.name).expect("a registered instance");
            prop_assert_eq!(choice.version.choose([(version, 1)].into_iter()), Some(version));
        }
    }
}
