//! Files of service definitions from outside: golden cases, texts that other programs wrote, and
//! texts made to do harm.

// Helpers and strategies of a test stand outside of its `#[test]` functions.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use mayfly_core::definition_file::{ParsedDefinitions, parse};
use mayfly_core::records;
use mayfly_core::records::definition::{Argument, Definition, VariableName};
use proptest::prelude::*;

/// The cases of a folder, by name.
fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/definition_file")
        .join(folder);
    let mut cases: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    cases.sort();
    cases
}

/// Compares with the expected text beside the case; `MAYFLY_UPDATE_GOLDEN=1` writes it instead.
fn check(case: &Path, extension: &str, found: &str) {
    let expected = case.with_extension(extension);
    if std::env::var_os("MAYFLY_UPDATE_GOLDEN").is_some() {
        fs::write(&expected, found).unwrap();
    }
    let expected =
        fs::read_to_string(&expected).unwrap_or_else(|error| panic!("{}: {error}", expected.display()));
    assert_eq!(found, expected, "{}", case.display());
}

fn definitions(parsed: &ParsedDefinitions) -> Vec<&Definition> {
    parsed.entries.iter().map(|found| &found.definition).collect()
}

#[test]
fn good_files_become_definitions() {
    let cases = cases("succeeds");
    assert!(cases.len() >= 10);
    for case in cases {
        let parsed = parse(&fs::read(&case).unwrap());
        assert_eq!(parsed.faults, [], "{}", case.display());
        let json = serde_json::to_string_pretty(&definitions(&parsed)).unwrap();
        check(&case, "json", &(json + "\n"));
    }
}

#[test]
fn faults_say_where_and_what_would_be_right() {
    let cases = cases("fails");
    assert!(cases.len() >= 16);
    for case in cases {
        let parsed = parse(&fs::read(&case).unwrap());
        assert!(!parsed.faults.is_empty(), "{}", case.display());
        let mut found = String::new();
        for fault in &parsed.faults {
            found += &format!("{fault}\n");
        }
        for definition in definitions(&parsed) {
            found += &format!("good: {}\n", definition.name);
        }
        check(&case, "faults", &found);
    }
}

#[test]
fn a_refused_definition_is_known_by_name_where_it_has_one() {
    let holds = |text: &str, name: &str| parse(text.as_bytes()).may_hold(&name.parse().unwrap());
    assert!(holds("- {name: a}\n- {name: b}", "a"));
    assert!(!holds("- {name: a}\n- {name: b}", "c"));
    assert!(holds("- {name: A}", "a"));
    assert!(holds("", "a") && !holds("# none yet", "a"));
}

#[test]
fn a_definition_has_a_limit() {
    let long = "x".repeat(4_000);
    let text = |count: usize| {
        let command = vec![long.as_str(); count].join(", ");
        format!("{{name: a, image: 'a:{{{{ version }}}}', port: 80, command: [{command}]}}")
    };
    assert_eq!(parse(text(20).as_bytes()).faults, []);
    let reported = parse(text(30).as_bytes()).faults[0].to_string();
    assert!(
        reported.starts_with("line 1, column 8: ") && reported.contains("more than the limit of 100000"),
        "{reported}"
    );
}

/// What a person may write for a value, good and bad.
fn hostile() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~\n\r\t\u{0}\u{1b}é]{0,20}",
        "(/|/[a-z.]{1,4}){0,3}:(/|/[a-z.]{1,4}){0,3}(:ro|:rw|:z)?",
        "(\\$\\{|\\{\\{|\\}\\}| version |[a-z./:@-]){0,8}",
        "host|none|default|container:[a-z]|bridge",
    ]
}

prop_compose! {
    fn definition()(
        name in "[a-z0-9]([a-z0-9-]{0,12}[a-z0-9])?|on|null|1e3|0x1f|[0-9]{1,4}",
        image in "([a-z]{1,5}\\.example:5000/|\\$\\{ACCOUNT\\}/)?[a-z]{1,8}:(v)?\\{\\{ version \\}\\}",
        versions in proptest::option::of("[\\^~][1-9](\\.[1-9][0-9]?)?|>=1, <2|1\\.\\*|\\*"),
        port in 1..=u16::MAX,
        check in proptest::option::of("/[a-z?=&]{0,10}|tcp"),
        check_host in proptest::option::of("[a-z]{1,9}(\\.[a-z]{1,9}){0,2}"),
        h2c: bool,
        instances in 1u16..=100,
        command in prop::collection::vec("[^\\p{C}\\p{Zl}\\p{Zp}]{0,20}|~|null|1\\.10|<<", 0..4),
        env in prop::collection::btree_map("[A-Za-z_][A-Za-z0-9_]{0,8}", "[^\\p{C}\\p{Zl}\\p{Zp}]{0,20}(\n[ -~]{0,9}){0,2}|~|yes|1e3", 0..4),
        networks in prop::collection::btree_set("x[a-z0-9_.-]{0,8}", 0..3),
        memory in proptest::option::of("[1-9][0-9]{1,2}m|[1-9]g"),
        cpus in proptest::option::of("[1-9]|0\\.[1-9]"),
        volumes in prop::collection::btree_map("/[a-z][a-z ]{0,6}[a-z]", "/srv(/[a-z#']{1,4}){0,2}", 0..3),
    ) -> Definition {
        Definition {
            name: name.parse().unwrap(),
            image: image.parse().unwrap(),
            versions: versions.map(|text| text.parse().unwrap()),
            port: port.try_into().unwrap(),
            check: check.map(|text| text.parse().unwrap()),
            check_host: check_host.map(|text| text.parse().unwrap()),
            protocol: if h2c { "h2c" } else { "http" }.parse().unwrap(),
            instances: instances.try_into().unwrap(),
            command: command.iter().map(|text| text.parse::<Argument>().unwrap()).collect(),
            env: env.iter().map(|(name, text)| (name.parse().unwrap(), text.parse().unwrap())).collect::<BTreeMap<VariableName, Argument>>(),
            networks: networks.iter().map(|text| text.parse().unwrap()).collect(),
            memory: memory.map(|text| text.parse().unwrap()),
            cpus: cpus.map(|text| text.parse().unwrap()),
            volumes: volumes.iter().map(|(target, source)| format!("{source}:{target}").parse().unwrap()).collect(),
            source: None,
        }
    }
}

proptest! {
    /// Another implementation of YAML writes, this one reads.
    #[test]
    fn what_serde_yaml_writes_is_read_back(definition in definition(), as_list: bool) {
        let text = if as_list {
            serde_yaml::to_string(&[&definition]).unwrap()
        } else {
            serde_yaml::to_string(&definition).unwrap()
        };
        let parsed = parse(text.as_bytes());
        prop_assert_eq!(&parsed.faults, &vec![], "{}", text);
        prop_assert_eq!(definitions(&parsed), vec![&definition], "{}", text);
        // And it survives the way through etcd.
        let record: Definition = records::parse(&records::to_json(&definition)).unwrap();
        prop_assert_eq!(record, definition);
    }

    /// Whatever stands in a file: what comes through names no network and no privilege of the host, climbs out of no
    /// directory, and has no line break where an engine or a log would take one for the end.
    #[test]
    fn any_value_comes_through_only_where_it_may_be_had(
        image in hostile(), command in hostile(), name in hostile(), value in hostile(),
        networks in prop::collection::vec(hostile(), 0..3), volumes in prop::collection::vec(hostile(), 0..3),
    ) {
        // Each alone, so that one that is refused hides no other.
        let texts = [("image", image)].into_iter()
            .chain(networks.into_iter().map(|text| ("networks", text)))
            .chain(volumes.into_iter().map(|text| ("volumes", text)))
            .chain([("command", command), ("variable", name), ("value", value)]);
        for (field, text) in texts {
            let quoted = serde_json::to_string(&text).unwrap();
            let image = if field == "image" { quoted.as_str() } else { "'a:{{ version }}'" };
            let more = match field {
                "networks" | "volumes" | "command" => format!("{field}: [{quoted}]"),
                "variable" => format!("env: {{{quoted}: x}}"),
                "value" => format!("env: {{A: {quoted}}}"),
                _ => String::new(),
            };
            let file = format!("name: a\nport: 80\nimage: {image}\n{more}\n");
            let parsed = parse(file.as_bytes());
            for definition in definitions(&parsed) {
                let networks: Vec<_> = definition.networks.iter().map(|name| name.as_str()).collect();
                prop_assert!(!networks.iter().any(|name| ["host", "none", "default"].contains(name)));
                let mut texts: Vec<String> = networks.iter().map(ToString::to_string).collect();
                texts.push(definition.image.to_string());
                texts.extend(definition.env.keys().map(ToString::to_string));
                for volume in &definition.volumes {
                    for path in [volume.source(), volume.target()] {
                        prop_assert!(path.starts_with('/') && !path.split('/').any(|part| part == ".."), "{path}");
                        prop_assert!(!path.contains(':') && !path.chars().any(char::is_control), "{path:?}");
                    }
                }
                for text in texts {
                    prop_assert!(!text.is_empty() && !text.contains(['\n', '\r', '\t', '"', ';', '<', '\0']), "{text:?}");
                }
                for text in definition.command.iter().chain(definition.env.values()) {
                    prop_assert!(!text.as_str().contains(['\r', '\0', '\u{1b}']), "{text:?}");
                }
            }
        }
    }

    /// A good file with one place spoilt is read to its end, and no two parts of it claim one path.
    #[test]
    fn any_spoilt_file_is_read_to_its_end(at in 0..500usize, spoil in "[ -~\n\t\r\u{feff}é]{0,4}", cut in 0..12usize) {
        let good = fs::read_to_string(&cases("succeeds")[0]).unwrap();
        let at = at.min(good.len());
        let text = format!("{}{spoil}{}", &good[..at], &good[(at + cut).min(good.len())..]);
        for definition in definitions(&parse(text.as_bytes())) {
            let targets: BTreeSet<_> = definition.volumes.iter().map(|volume| volume.target()).collect();
            prop_assert_eq!(targets.len(), definition.volumes.len());
            let record: Definition = records::parse(&records::to_json(definition)).unwrap();
            prop_assert_eq!(&record, definition);
        }
    }
}
