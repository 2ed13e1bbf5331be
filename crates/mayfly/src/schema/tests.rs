//! The schemas against the golden cases of environment files and of service definitions: what core takes, the schema takes,
//! and what core refuses, it refuses as far as a schema can.

// Helpers of a test stand outside of its `#[test]` functions.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use super::{ENVIRONMENTS, SERVICES};
use boon::{Compiler, Draft, SchemaIndex, Schemas};
use mayfly_core::{definition_file, environment_file};
use serde::Deserialize as _;
use serde_json::Value;

/// The kinds of files: folder of the golden cases, schema, and the cases that core refuses for what a schema can't say: that
/// two things are different or follow from each other, or how YAML wrote them.
const KINDS: [(&str, &str, &[&str]); 2] = [
    (
        "environment_file",
        ENVIRONMENTS,
        &[
            "08-repeated-in-the-file",
            "11-default-prefix-too-long",
            "12-extends-itself",
        ],
    ),
    ("definition_file", SERVICES, &["15-tags"]),
];

struct Schema(Schemas, SchemaIndex);

impl Schema {
    fn new(text: &str) -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.set_default_draft(Draft::V7);
        let schema: Value = serde_json::from_str(text).unwrap();
        let place = "file:///schema.json";
        compiler.add_resource(place, schema).unwrap();
        let index = compiler.compile(place, &mut schemas).unwrap();
        Self(schemas, index)
    }

    fn check(&self, document: &Value) -> Result<(), String> {
        self.0
            .validate(document, self.1)
            .map_err(|error| format!("{error:#}"))
    }
}

/// The documents of a file as an editor sees them; nothing when it is not YAML.
fn documents(text: &str) -> Option<Vec<Value>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_yaml::Deserializer::from_str(text)
        .map(|document| {
            let value = serde_yaml::Value::deserialize(document).ok()?;
            serde_json::to_value(untagged(value)).ok()
        })
        .collect()
}

/// `!!str 1.20` is the text to an editor.
fn untagged(value: serde_yaml::Value) -> serde_yaml::Value {
    use serde_yaml::Value::{Mapping, Sequence, Tagged};
    match value {
        Tagged(tagged) => untagged(tagged.value),
        Sequence(items) => Sequence(items.into_iter().map(untagged).collect()),
        Mapping(pairs) => Mapping(
            pairs
                .into_iter()
                .map(|(key, value)| (key, untagged(value)))
                .collect(),
        ),
        other => other,
    }
}

fn cases(kind: &str, folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../core/tests")
        .join(kind)
        .join(folder);
    let mut cases = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            cases.push((name, fs::read(&path).unwrap()));
        }
    }
    cases.sort();
    cases
}

#[test]
fn what_is_right_validates() {
    for (kind, schema, _) in KINDS {
        let schema = Schema::new(schema);
        let cases = cases(kind, "succeeds");
        assert!(cases.len() >= 10, "{kind}");
        for (name, content) in cases {
            let text = std::str::from_utf8(&content).unwrap();
            let documents = documents(text).unwrap_or_else(|| panic!("{name} is not YAML"));
            for document in documents {
                schema
                    .check(&document)
                    .unwrap_or_else(|error| panic!("{kind}/{name}: {error}"));
            }
        }
    }
}

#[test]
fn what_is_wrong_does_not_as_far_as_a_schema_can_say_it() {
    for (kind, schema, beyond_a_schema) in KINDS {
        let schema = Schema::new(schema);
        let (mut refused, mut beyond) = (0, Vec::new());
        for (name, content) in cases(kind, "fails") {
            let Some(documents) = std::str::from_utf8(&content).ok().and_then(documents) else {
                continue;
            };
            if documents.iter().any(|document| schema.check(document).is_err()) {
                refused += 1;
            } else {
                beyond.push(name);
            }
        }
        assert_eq!(beyond, beyond_a_schema, "{kind}");
        assert!(refused >= 8, "{kind}: {refused}");
    }
}

#[test]
fn single_values_are_judged_as_core_does() {
    let schema = Schema::new(ENVIRONMENTS);
    for (field, values) in [
        (
            "name",
            &["a", "A", "a.service", "a.b", "-a", "a-", "a_b", ".service", "1.5"][..],
        ),
        ("prefix", &["www-a", "www.a", "a.service", "on"]),
        ("header", &["a_b.c", "\"#a\"", "a b", "\"é\"", "a~"]),
        (
            "expires",
            &[
                "8h",
                "8",
                "0s",
                "1day 12h",
                "8 hours",
                "1500ms",
                "soon",
                "1h0s",
                "2030-01-31",
                "1M",
                "\"2030-01-31T18:00:00+01:00\"",
                "2030-13-01T00:00:00Z",
                "\"2030-01-31 18:00:00Z\"",
                "2030-01-31T18:00:00",
            ],
        ),
        ("idle", &["8h", "8", "0s", "2030-01-31T18:00:00Z", "90m"]),
        ("switch", &["at-once", "when-live", "soon", "~", "[at-once]"]),
        ("protected", &["true", "false", "\"true\"", "yes", "1"]),
        (
            "description",
            &["x", "\"a\\nb\\tc\"", "\"bell \\a\"", "\"\\u2028\""],
        ),
        ("extends", &["qa", "QA", "~"]),
        (
            "access",
            &[
                "{users: {guest: sha256:HASH}}",
                "{users: {7: sha256:HASH}, from: [10.0.0.0/8, \"2001:db8::/32\", \"::1\"]}",
                "{from: [10.0.0.1]}",
                "{from: [10.0.0.0/8], users: ~}",
                "~",
                "{}",
                "{users: ~}",
                "{users: {}}",
                "{from: []}",
                "{from: 10.0.0.0/8}",
                "{from: [office]}",
                "{users: {guest: secret}}",
                "{users: {guest: ~}}",
                "{users: {\"a b\": sha256:HASH}}",
                "{users: [guest]}",
                "{users: {guest: sha256:HASH}, groups: [a]}",
                "[a]",
            ],
        ),
        ("owner", &["me"]),
        (
            "services",
            &[
                "[a, b.service, 7]",
                "a",
                "[[a]]",
                "[{}]",
                "[{name: a, extra: b}]",
                "[~]",
                "[{name: a, version: 1.10}]",
                "[{name: a, version: \">=1.2, <2\"}]",
                "[{name: a, version: ^1.2}]",
                "[{name: a, version: 1.*}]",
                "[{name: a, version: \"*\"}]",
                "[{name: a, version: ^}]",
                "[{name: a, version: a b}]",
                "[{name: a, version: a/b}]",
                "[{name: a, version: true}]",
                "[{name: a, version: -1}]",
                "[{name: a, version: http://b}]",
                "[{name: a, version: ~1.2.3-rc.1+b}]",
                "[{name: a, route: /}]",
                "[{name: a, route: api/v1/}]",
                "[{name: a, route: \"/api/*\"}]",
                "[{name: a, route: \"/a/:id\"}]",
                "[{name: a, route: \"/a:id\"}]",
                "[{name: a, version: \">=2026.09.01\"}]",
                "[{name: a, version: \"2026.12.*\"}]",
                "[{name: a, version: \">=2.0.300-0\"}]",
                "[{name: a, route: //}]",
                "[{name: a, route: /a/../b}]",
                "[{name: a, route: /a/.}]",
                "[{name: a, route: /..a/...}]",
                "[{name: a, route: \"/a?b\"}]",
                "[{name: a, routes: /a}]",
                "[{name: a, routes: [/a, /b/]}]",
                "[{name: a, routes: [[/]]}]",
                "[{name: a, route: \"\"}]",
                "[{name: a, address: b:80}]",
                "[{name: a, address: b}]",
                "[{name: a, address: https://b.c}]",
                "[{name: a, address: \"http://b:80/\"}]",
                "[{name: a, address: https://b/c}]",
                "[{name: a, address: \"[fd00::5]:80\"}]",
                "[{name: a, address: \"10.0.0.5:8080\"}]",
                "[{name: a, address: b:80, version: 1}]",
                "[{name: a, address: b:80, version: ~}]",
                "[{name: a, address: \"a_b:80\"}]",
                "[{name: a, address: ftp://b}]",
            ],
        ),
    ] {
        for value in values {
            let text = match field {
                "name" => format!("name: {value}\n"),
                _ => format!("name: a\n{field}: {value}\n"),
            };
            let text = text.replace("HASH", &format!("{}:{}", "0a".repeat(16), "1b".repeat(32)));
            let faults = environment_file::parse(text.as_bytes()).faults;
            let document = documents(&text).unwrap().remove(0);
            // `version: true` is a text to core and a boolean to an editor, and so on: the schema takes both.
            assert_eq!(
                schema.check(&document).err().is_some(),
                !faults.is_empty(),
                "{text}{faults:?} {:?}",
                schema.check(&document)
            );
        }
    }
}

#[test]
fn single_values_of_definitions_are_judged_as_core_does() {
    let schema = Schema::new(SERVICES);
    for (field, values) in [
        ("name", &["a", "A", "a.service", "a_b", "~", "7"][..]),
        (
            "image",
            &[
                "'a:{{version}}'",
                "'r.example:5000/t/a:v{{ version }}-slim'",
                "'${A}/a:{{ version }}'",
                "'${A B}/a:{{ version }}'",
                "a:latest",
                "'a:{{ tag }}'",
                "'a b:{{ version }}'",
                "'a:{{ version }}\n'",
                "\"a:{{ version }}\\n\"",
                "~",
                "[a]",
            ],
        ),
        ("port", &["80", "'80'", "0", "65536", "-1", "http", "~", "80.5"]),
        (
            "versions",
            &["'>=0.0.1'", "1.*", "'*'", "'>=1, <2'", "newest", "^", "~", "1.2"],
        ),
        (
            "check",
            &["tcp", "/health?deep=1", "health", "'/a b'", "/a#b", "~", "[tcp]"],
        ),
        ("protocol", &["http", "h2c", "grpc", "HTTP", "~"]),
        ("instances", &["1", "100", "'2'", "0", "101", "two", "~", "1.5"]),
        (
            "command",
            &[
                "[]",
                "[a, 1.5, true, '']",
                "a b",
                "[~]",
                "[[a]]",
                "[{a: b}]",
                "~",
                "[\"\\e\"]",
            ],
        ),
        (
            "env",
            &[
                "{}",
                "{A: b, _c1: 2, D: true, E: ''}",
                "{A: ~}",
                "{1A: b}",
                "{A-B: c}",
                "[A=b]",
                "{A: [b]}",
                "A=b",
                "~",
            ],
        ),
        (
            "networks",
            &[
                "mayfly",
                "[a, b]",
                "[]",
                "host",
                "[none]",
                "[a, a]",
                "{a: b}",
                "'a b'",
                "~",
                "[container:x]",
            ],
        ),
        (
            "memory",
            &["256m", "2G", "8000001", "1", "256mb", "m", "-1", "~", "1.5g"],
        ),
        (
            "cpus",
            &["1", "0.5", "'0.125'", "0", "513", "'0.1234'", "many", "~"],
        ),
        (
            "volumes",
            &[
                "['/srv/data:/data']",
                "['/srv/a b:/x:ro']",
                "['/:/host']",
                "['/..a/...:/b.c']",
                "['/srv/../etc:/x']",
                "['/srv/.:/x']",
                "['/srv/:/x']",
                "['/srv:/']",
                "['/srv:/x:rw']",
                "['srv:/x']",
                "['/srv']",
                "[\"/a\\n:/b\"]",
                "[{type: bind}]",
                "/a:/b",
                "[]",
                "~",
            ],
        ),
        ("privileged", &["true"]),
        ("ports", &["['80:80']"]),
    ] {
        for value in values {
            let mut text = String::new();
            for (known, default) in [("name", "a"), ("image", "'a:{{ version }}'"), ("port", "80")] {
                if known != field {
                    text += &format!("{known}: {default}\n");
                }
            }
            text += &format!("{field}: {value}\n");
            let faults = definition_file::parse(text.as_bytes()).faults;
            let document = documents(&text).unwrap().remove(0);
            assert_eq!(
                schema.check(&document).err().is_some(),
                !faults.is_empty(),
                "{text}{faults:?} {:?}",
                schema.check(&document)
            );
        }
    }
}
