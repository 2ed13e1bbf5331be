//! The schema against the golden cases of the environment file: what core takes, the schema takes, and what core refuses,
//! it refuses as far as a schema can.

// Helpers of a test stand outside of its `#[test]` functions.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use mayfly::schema::SCHEMA;
use mayfly_core::environment_file;
use serde::Deserialize as _;
use serde_json::Value;

/// The cases that core refuses for what a schema can't say: that two things are different or follow from each other.
const BEYOND_A_SCHEMA: [&str; 3] = [
    "08-repeated-in-the-file",
    "11-default-prefix-too-long",
    "12-extends-itself",
];

struct Schema(Schemas, SchemaIndex);

impl Schema {
    fn new() -> Self {
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.set_default_draft(Draft::V7);
        let schema: Value = serde_json::from_str(SCHEMA).unwrap();
        let place = "file:///environment.schema.json";
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

fn cases(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../core/tests/environment_file")
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
    let schema = Schema::new();
    let cases = cases("succeeds");
    assert!(cases.len() >= 18);
    for (name, content) in cases {
        let text = std::str::from_utf8(&content).unwrap();
        let documents = documents(text).unwrap_or_else(|| panic!("{name} is not YAML"));
        for document in documents {
            schema
                .check(&document)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
}

#[test]
fn what_is_wrong_does_not_as_far_as_a_schema_can_say_it() {
    let schema = Schema::new();
    let (mut refused, mut beyond) = (0, Vec::new());
    for (name, content) in cases("fails") {
        let Some(documents) = std::str::from_utf8(&content).ok().and_then(documents) else {
            continue;
        };
        if documents.iter().any(|document| schema.check(document).is_err()) {
            refused += 1;
        } else {
            beyond.push(name);
        }
    }
    assert_eq!(beyond, BEYOND_A_SCHEMA);
    assert!(refused >= 12, "{refused}");
}

#[test]
fn single_values_are_judged_as_core_does() {
    let schema = Schema::new();
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
        ("protected", &["true", "false", "\"true\"", "yes", "1"]),
        (
            "description",
            &["x", "\"a\\nb\\tc\"", "\"bell \\a\"", "\"\\u2028\""],
        ),
        ("extends", &["qa", "QA", "~"]),
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
