//! The reference names every label, key, field, phase and metric that there is: what is added to the
//! code and not to docs/reference fails here. Whether it is true is for readers to check.

// A test that cannot read the tree fails.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use mayfly_core::failing::Failing;
use mayfly_core::keys::Kind;
use mayfly_core::labels;
use mayfly_core::launching::{Backend, GivenUp, Launching, Phase};
use mayfly_core::outside::AddressRule;
use mayfly_core::records::ended::Why;
use mayfly_core::records::lifetime::{Life, Moment};
use mayfly_core::records::{Environment, Instance, Status};
use mayfly_core::router_status::{CertificateInUse, CertificateStatus, RouterStatus};
use mayfly_core::trust::Kept;
use serde::Serialize;
use serde_json::{Value, json};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Each of these has to be in a code span of the page, as it is or before one of ` .[{/`.
#[track_caller]
fn named<'a>(page: &str, names: impl IntoIterator<Item = &'a str>) {
    let missing = unnamed(&read(&format!("docs/reference/{page}.md")), names);
    assert_eq!(
        missing,
        [] as [&str; 0],
        "docs/reference/{page}.md does not name these"
    );
}

fn unnamed<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let spans: Vec<&str> = text.lines().flat_map(code_spans).collect();
    let is_named = |name: &&str| {
        spans.iter().any(|span| {
            let rest = span.rsplit('.').next().filter(|last| last == name).map(|_| "");
            let rest = rest.or(span.strip_prefix(*name));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '.', '[', '{', '/', ':']))
        })
    };
    names.into_iter().filter(|name| !is_named(name)).collect()
}

/// The code spans of a line: what is between as many backticks as it begins with.
fn code_spans(line: &str) -> Vec<&str> {
    let (mut spans, mut rest) = (Vec::new(), line);
    while let Some(at) = rest.find('`') {
        let ticks = rest[at..].chars().take_while(|letter| *letter == '`').count();
        let (fence, inner) = rest[at..].split_at(ticks);
        let Some(end) = inner.find(fence) else { break };
        spans.push(&inner[..end]);
        rest = &inner[end + ticks..];
    }
    spans
}

/// The fields that a record has.
fn fields(record: &impl Serialize) -> Vec<String> {
    match serde_json::to_value(record).unwrap() {
        Value::Object(fields) => fields.into_iter().map(|(name, _)| name).collect(),
        other => panic!("no record: {other}"),
    }
}

#[test]
fn what_is_missing_is_found() {
    let text = "| `a` | `b.c` |\n| ``x`y`` `d/<e>` `f{g}` |\nh `i`";
    assert_eq!(unnamed(text, ["a", "b", "c", "d", "f", "i"]), [] as [&str; 0]);
    assert_eq!(unnamed(text, ["h", "e", "g", "aa"]), ["h", "e", "g", "aa"]);
}

#[test]
fn every_label() {
    let all = [
        labels::SERVICE,
        labels::VERSION,
        labels::PORT,
        labels::CHECK,
        labels::CHECK_HOST,
        labels::PROTOCOL,
        labels::WEIGHT,
        labels::OF,
        labels::LAUNCHER,
        labels::DEFINITION,
        labels::UNIT,
    ];
    // One that is new has to come into the list above.
    let source = read("crates/core/src/labels.rs");
    let written = source.matches("&str = \"mayfly.").count();
    assert_eq!(written, all.len() + 1, "and the beginning of them all");
    named("container-labels", all);
    named(
        "container-labels",
        [labels::CONTAINER, labels::NODE, labels::ENGINE],
    );
}

#[test]
fn every_kind_of_key_and_why_an_environment_ended() {
    named("etcd-keys", Kind::ALL.map(Kind::as_str));
    named("etcd-keys", Why::ALL.map(Why::as_str));
    named("http-answers", Why::ALL.map(Why::as_str));
}

#[test]
fn every_field_of_a_file() {
    let schema = |kind: &str| -> Value {
        serde_json::from_str(&read(&format!("crates/mayfly/{kind}.schema.json"))).unwrap()
    };
    for (kind, page) in [
        ("environment", "environment-file"),
        ("service", "service-definition"),
    ] {
        let schema = schema(kind);
        let mut all = Vec::new();
        properties(&schema, &mut all);
        assert!(all.len() > 13, "{kind}: {all:?}");
        named(page, all);
    }
}

/// The fields of all objects that a schema describes.
fn properties<'a>(schema: &'a Value, found: &mut Vec<&'a str>) {
    match schema {
        Value::Object(parts) => {
            for (name, part) in parts {
                if let ("properties", Value::Object(fields)) = (name.as_str(), part) {
                    found.extend(fields.keys().map(String::as_str));
                }
                properties(part, found);
            }
        }
        Value::Array(parts) => parts.iter().for_each(|part| properties(part, found)),
        _ => {}
    }
}

#[test]
fn every_field_of_a_record() {
    let moment: Moment = "2030-01-31T18:00:00Z".parse().unwrap();
    let life = Life {
        kept_until: Some(moment),
        revived: true,
        refused: Some("why".to_owned()),
        previous: [("a".parse().unwrap(), vec![None])].into(),
        ..Life::beginning(moment)
    };
    named("etcd-keys", fields(&life).iter().map(String::as_str));
    let environment: Environment = serde_json::from_value(json!({
        "name": "a", "prefix": "a", "header": "a", "extends": "b", "expires": "8h", "idle": "8h",
        "protected": true, "switch": "at-once", "description": "a",
        "source": {"registrar": "a", "file": "a"}, "life": life,
    }))
    .unwrap();
    named("etcd-keys", fields(&environment).iter().map(String::as_str));
    let instance: Instance = serde_json::from_value(json!({
        "address": "10.0.0.5:80", "shared": true, "metadata": {"a": "b"},
    }))
    .unwrap();
    named("etcd-keys", fields(&instance).iter().map(String::as_str));
    let status: Status = serde_json::from_value(json!({
        "applied_revision": 1, "applied_at": "a", "set_aside": [{"key": "a", "reason": "b"}],
        "error": "a", "detail": {"a": 1},
    }))
    .unwrap();
    named("status", fields(&status).iter().map(String::as_str));
}

#[test]
fn every_phase_of_a_backend() {
    let phases = [
        Phase::Waiting,
        Phase::Pulling { percent: Some(1) },
        Phase::Starting,
        Phase::Checking,
        Phase::Foreign,
        Phase::Running,
        Phase::Unused {
            retire_at: String::new(),
        },
        Phase::Retiring,
        Phase::Failed {
            reason: String::new(),
        },
        Phase::NoDefinition,
    ];
    for phase in phases {
        let backend = Backend {
            phase,
            wanted: 1,
            live: 1,
            images: ["a".to_owned()].into(),
            failures: 1,
            failure: Some(String::new()),
            next_try: Some(String::new()),
            output: vec![String::new()],
            not_pulled: Some(String::new()),
        };
        let state = serde_json::to_value(&backend).unwrap()["state"].clone();
        named("status", fields(&backend).iter().map(String::as_str));
        named("status", state.as_str());
    }
}

#[test]
fn what_core_puts_into_a_status_record() {
    let failing = Failing {
        backend: "a@1".parse().unwrap(),
        address: "10.0.0.5:80".parse().unwrap(),
        container: Some(String::new()),
        reason: String::new(),
    };
    let launching = Launching {
        guard: Some(String::new()),
        more: 1,
        given_up: [(
            "a@1".to_owned(),
            GivenUp {
                revision: 1,
                reason: String::new(),
            },
        )]
        .into(),
        ..Launching::default()
    };
    named("status", fields(&failing).iter().map(String::as_str));
    named("status", fields(&launching).iter().map(String::as_str));
    let mut status = Status::default();
    Kept::default().put(&mut status);
    Failing::put(vec![failing; 200], &mut status);
    launching.put(&mut status);
    let certificate = CertificateInUse {
        file: String::new(),
        names: Vec::new(),
        names_count: 0,
        serial: String::new(),
        ends_at: Moment::of(std::time::SystemTime::now()),
        default: false,
    };
    named("status", fields(&certificate).iter().map(String::as_str));
    let certificates = CertificateStatus::default();
    named("status", fields(&certificates).iter().map(String::as_str));
    named(
        "status",
        fields(&AddressRule::default()).iter().map(String::as_str),
    );
    RouterStatus::default().put(&mut status);
    assert_eq!(status.detail.len(), 12, "{:?}", status.detail);
    named("status", status.detail.keys().map(String::as_str));
}

#[test]
fn every_metric_and_every_detail_of_a_status_record() {
    let (mut metrics, mut details) = (Vec::new(), Vec::new());
    for source in sources() {
        // Of a name that is put together there is no whole text, but of haproxy-updater's.
        let whole = source
            .split("\"mayfly_")
            .skip(1)
            .filter_map(|rest| rest.split('"').next());
        let is_whole = |name: &&str| name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
        let whole = whole.filter(is_whole).filter(|name| *name != "haproxy");
        metrics.extend(whole.map(|name| format!("mayfly_{name}")));
        let ours = source.split("ours.register(").skip(1).filter_map(first_text);
        metrics.extend(ours.map(|name| format!("mayfly_haproxy_{name}")));
        let inserts = source.split("detail.insert(").skip(1);
        details.extend(inserts.filter_map(first_text).map(str::to_owned));
        if let Some((_, detail)) = source.split_once("let detail = json!({") {
            let lines = detail.lines().take_while(|line| line.trim() != "});");
            details.extend(lines.filter_map(first_text).map(str::to_owned));
        }
    }
    assert!(
        metrics.len() > 27 && details.len() > 14,
        "{metrics:?} {details:?}"
    );
    let text = read("docs/reference/metrics.md");
    let ends = |name: &String| ["", "_total", "_info"].map(|end| format!("{name}{end}"));
    let is_named = |name: &&String| {
        ends(name)
            .iter()
            .any(|it| unnamed(&text, [it.as_str()]).is_empty())
    };
    let missing: Vec<&String> = metrics.iter().filter(|name| !is_named(name)).collect();
    assert_eq!(
        missing,
        [] as [&String; 0],
        "docs/reference/metrics.md does not name these"
    );
    named("status", details.iter().map(String::as_str));
}

/// The first text in quotes, where nothing but blanks stands before it.
fn first_text(source: &str) -> Option<&str> {
    source.trim_start().strip_prefix('"')?.split('"').next()
}

/// The sources of the daemons without their tests.
fn sources() -> Vec<String> {
    let mut all = Vec::new();
    let mut folders: Vec<PathBuf> = ["daemon", "environment-registrar", "container-registrar"]
        .into_iter()
        .chain(["container-launcher", "haproxy-updater", "dns-updater", "web"])
        .map(|name| root().join("crates").join(name).join("src"))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let is_of_tests = path.file_stem().is_some_and(|name| name == "tests");
            if path.is_dir() && !is_of_tests {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !is_of_tests {
                let text = fs::read_to_string(&path).unwrap();
                let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
                all.push(code.to_owned());
            }
        }
    }
    all
}
