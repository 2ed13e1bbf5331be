//! Hostile compose files: what comes of them lints, or every fault is named.

use mayfly_core::{definition_file, environment_file};
use proptest::prelude::*;

use super::import;

/// Values as they are found in compose files, and some that are not.
fn value() -> impl Strategy<Value = String> {
    let known = [
        "a/b:1",
        "postgres",
        "80",
        "'80:80'",
        "['80:80', 443]",
        "[a]",
        "{a: b}",
        "{A: 'http://s1:80'}",
        "[A=b, C]",
        "",
        "~",
        "true",
        "'${A:-b}'",
        "'${A:?}'",
        "'$'",
        "s1",
        "{service: s2}",
        "{service: s1, file: o.yml}",
        "*x",
        "&x [1]",
        "./a:/b:ro",
        "['./a:/b:ro', 'v:/c']",
        "[{type: bind, source: /a, target: /b, read_only: true}]",
        "256M",
        "'0.5'",
        "{test: [CMD, 'http://localhost/x']}",
        "{replicas: 3}",
        "\"\\u202e\\0\"",
        "!x y",
        "'a b \"c'",
        "a.env",
        "[*x]",
        "{mayfly.service: s1, mayfly.port: x}",
        "-1",
        "1e9",
        "{target: 80, published: '8080'}",
        "[{target: 80}]",
    ];
    prop_oneof![
        8 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned),
        1 => "[ -~]{0,12}",
        1 => "\\PC{0,8}",
    ]
}

fn key() -> impl Strategy<Value = String> {
    let known = [
        "image",
        "build",
        "ports",
        "expose",
        "environment",
        "env_file",
        "command",
        "healthcheck",
        "volumes",
        "labels",
        "profiles",
        "deploy",
        "scale",
        "mem_limit",
        "cpus",
        "networks",
        "network_mode",
        "container_name",
        "depends_on",
        "links",
        "extends",
        "privileged",
        "restart",
        "x-a",
        "<<",
        "secrets",
        "nonsense",
    ];
    prop_oneof![20 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned), 1 => "[a-z_<]{1,6}"]
}

/// Something like a compose file.
fn file() -> impl Strategy<Value = String> {
    let service = proptest::collection::vec((key(), value()), 0..7);
    let name = prop_oneof![6 => "s[1-4]", 1 => "[a-zA-Z_.-]{1,8}", 1 => value()];
    proptest::collection::vec((name, service), 0..5).prop_map(|services| {
        let mut text = "x-x: &x {image: 'x:1', expose: [80]}\nservices:\n".to_owned();
        for (name, keys) in services {
            text += &format!("  {name}:\n");
            for (key, value) in keys {
                text += &format!("    {key}: {value}\n");
            }
        }
        text
    })
}

/// Whatever comes in: what comes out is right, the same a second time, and can be shown.
fn holds(text: &str, other: &str, env: &str) -> Result<(), TestCaseError> {
    let files = [("c.yml", text), ("o.yml", other), (".env", env), ("a.env", env)];
    let outcome = import(&files);
    prop_assert_eq!(&import(&files), &outcome);
    let plan = match outcome {
        Ok(plan) => plan,
        Err(faults) => {
            prop_assert!(!faults.is_empty());
            let bad = |line: &String| line.chars().any(mayfly_core::printable::is_hidden);
            prop_assert!(!faults.iter().any(bad), "{:?}", faults);
            return Ok(());
        }
    };
    let parsed = environment_file::parse(plan.environment.as_bytes());
    prop_assert_eq!(parsed.faults, []);
    let environment = &parsed.entries[0].environment;
    for (name, text) in &plan.definitions {
        let parsed = definition_file::parse(text.as_bytes());
        prop_assert_eq!(parsed.faults, []);
        prop_assert_eq!(&parsed.entries[0].definition.name, name);
        prop_assert!(environment.services.iter().any(|choice| choice.name == *name));
    }
    if !plan.overlay.is_empty() {
        let overlay = serde_yaml::from_str::<serde_yaml::Value>(&plan.overlay);
        prop_assert!(
            overlay.is_ok_and(|it| it.get("services").is_some()),
            "{}",
            plan.overlay
        );
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_a_plan_that_lints_or_faults(text in "(\\PC|\n|: |- ){0,60}", env in "([A-Z=$\\{\\}'\"# \n]|\\PC){0,20}") {
        holds(&text, "", &env)?;
    }

    #[test]
    fn any_compose_file_is_a_plan_that_lints_or_faults(text in file(), other in file(), env in "(A=[ -~]{0,8}\n){0,2}") {
        holds(&text, &other, &env)?;
    }
}
