//! Whatever stands in files and in etcd: nothing panics or takes long, faults say where they are, and what comes through is
//! fit for a map, a command, a configuration and a log. `PROPTEST_CASES` says how often; scripts/fuzz.sh runs all properties
//! named `any_...`.

// Helpers and strategies of a test stand outside of its `#[test]` functions.
#![allow(clippy::unwrap_used)]

mod spoil;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use mayfly_core::failing::Failing;
use mayfly_core::file::Fault;
use mayfly_core::index::Index;
use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::launching::{Launching, OperatorRequest};
use mayfly_core::printable::is_hidden;
use mayfly_core::records::definition::Definition;
use mayfly_core::records::{self, DnsRecord, Environment, Instance, Record, Router, SetAsides, Status};
use mayfly_core::routing::{Row, Table};
use mayfly_core::{definition_file, environment_file, labels};
use proptest::prelude::*;
use proptest::test_runner::TestCaseResult;
use serde::Serialize;
use serde::de::DeserializeOwned;

use spoil::{is_plain, octets, spoilt};

/// Far above what any text takes, also without optimisation and beside other tests.
const LONG: Duration = Duration::from_secs(10);

/// All files of a kind that other tests have, good and bad.
fn files(kind: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(kind);
    let folders = ["succeeds", "fails"].map(|folder| fs::read_dir(root.join(folder)).unwrap());
    let paths = folders.into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|it| it == "yaml"))
        .collect();
    paths.sort();
    assert!(paths.len() > 20);
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

fn any_of(kind: &str) -> impl Strategy<Value = Vec<u8>> {
    let repeated = (octets(24), 0usize..4_000).prop_map(|(unit, times)| unit.repeat(times));
    let nested = (octets(6), octets(6), 0usize..500)
        .prop_map(|(open, close, depth)| [open.repeat(depth), close.repeat(depth)].concat());
    prop_oneof![4 => spoilt(files(kind)), 2 => octets(600), 1 => repeated, 1 => nested]
}

/// Faults are in the file, and few.
fn faults_are_reported(content: &[u8], faults: &[Fault], took: Duration) -> TestCaseResult {
    prop_assert!(took < LONG, "it took {took:?}");
    prop_assert!(faults.len() <= 201);
    // YAML has line ends that others do not count.
    let lines = content.iter().filter(|octet| b"\n\r".contains(octet)).count() + 1;
    for fault in faults {
        prop_assert!(
            (1..=lines + 1).contains(&fault.mark.line),
            "{fault} in {lines} lines"
        );
        prop_assert!(fault.mark.column >= 1 && !fault.message.is_empty());
    }
    Ok(())
}

fn environment_is_plain(environment: &Environment) -> TestCaseResult {
    let mut texts = vec![
        environment.name.to_string(),
        environment.prefix.to_string(),
        environment.header.to_string(),
    ];
    texts.extend(environment.extends.iter().map(ToString::to_string));
    for service in &environment.services {
        texts.push(service.name.to_string());
        texts.push(service.version.to_string().replace(['<', '>', '='], ""));
        texts.extend(service.routes.iter().map(ToString::to_string));
    }
    for text in texts {
        // A range such as `<1` is all of such characters.
        prop_assert!(text.is_empty() || is_plain(&text), "{text:?}");
    }
    survives(environment)
}

/// A record is the same after its way through etcd.
fn survives<Record: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    record: &Record,
) -> TestCaseResult {
    let value = records::to_json(record);
    match records::parse::<Record>(&value) {
        Ok(read) => prop_assert_eq!(&read, record),
        Err(error) => prop_assert!(value.len() > records::VALUE_LIMIT, "{record:?}: {error}"),
    }
    Ok(())
}

/// A good value of each kind of record, and its key.
fn records() -> Vec<(&'static str, &'static str)> {
    vec![
        (
            "environments/dev",
            r#"{"name":"dev","extends":"qa","prefix":"www-dev","header":"dev","expires":"8h","idle":"2h","protected":false,"description":"a \u00e9","services":[{"name":"frontend","version":"0.0.2","routes":["/","/api"]},{"name":"backend","version":"^1.2"},{"name":"billing","version":"https://billing.internal:443"}],"source":{"registrar":"host-1","file":"dev.yaml"},"life":{"registered_at":"2030-01-31T18:00:00Z","kept_until":"2030-02-01T18:00:00Z","revived":true,"refused":"why"}}"#,
        ),
        (
            "environments/qa",
            r#"{"name":"qa","prefix":"www-qa","header":"Q.a","expires":"2030-01-31T18:00:00Z","services":[{"name":"backend","version":"latest","routes":["/b"]}]}"#,
        ),
        (
            "backends/backend/1.2.3/10.0.0.5:8080",
            r#"{"address":"10.0.0.5:8080","state":"up","protocol":"h2c","weight":100,"metadata":{"container":"0f"}}"#,
        ),
        (
            "backends/frontend/0.0.2/x",
            r#"{"address":"https://[fd00::1]:443","state":"draining","weight":256}"#,
        ),
        (
            "routers/host-1",
            r#"{"address":"10.0.0.1","haproxy_version":"2.6.12"}"#,
        ),
        ("dns/db.service", r#"{"addresses":["10.0.0.7","fd00::7"]}"#),
        (
            "services/backend",
            r#"{"name":"backend","image":"a/b:{{ version }}","versions":">=0.0.1","port":8080,"check":"/health","protocol":"http","instances":2,"command":["serve"],"env":{"A":"1.10"},"networks":["mayfly"],"memory":"256m","cpus":"0.5","volumes":["/srv:/data"],"source":{"registrar":"n","file":"f"}}"#,
        ),
        (
            "status/container-launcher/host-1",
            r#"{"applied_revision":7,"applied_at":"2030-01-31T18:00:00Z","ready":true,"set_aside":[{"key":"k","reason":"r"}],"error":"e","detail":{"launching":{"leading":true,"guard":"g","backends":{"a@1":{"state":"pulling","percent":40,"wanted":1,"live":0,"failures":2,"failure":"f","next_try":"2030-01-31T18:00:00Z","output":["l"]},"b@1":{"state":"unused","retire_at":"x","wanted":1,"live":1}},"more":3}}}"#,
        ),
        (
            "confirmations/haproxy-updater",
            r#"{"by":"host-1","at":"2030-01-31T18:00:00Z"}"#,
        ),
        ("drains/backend/1.2.3/10.0.0.5:8080", ""),
        (
            "history/dev",
            r#"{"name":"dev","prefix":"www-dev","header":"dev"}"#,
        ),
        ("leaders/container-launcher", "host-1"),
    ]
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    let good = records()
        .into_iter()
        .map(|(key, _)| format!("/mayfly/{key}").into_bytes());
    prop_oneof![3 => spoilt(good.collect()), 1 => octets(80)]
}

fn any_value() -> impl Strategy<Value = Vec<u8>> {
    let good = records().into_iter().map(|(_, value)| value.as_bytes().to_vec());
    let nested = (0usize..4, 0usize..100_000).prop_map(|(kind, depth)| {
        ["[", "{\"a\":", "[{\"a\":", "\""][kind]
            .repeat(depth)
            .into_bytes()
    });
    prop_oneof![6 => spoilt(good.collect()), 2 => octets(200), 1 => nested]
}

/// A record that is read is the same after its way through etcd; one that is not says why, in one line.
fn read<Record: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(
    value: &[u8],
) -> Result<Option<Record>, TestCaseError> {
    match records::parse::<Record>(value) {
        Ok(record) => {
            survives(&record)?;
            Ok(Some(record))
        }
        Err(error) => {
            let reported = error.to_string();
            prop_assert!(
                !reported.is_empty() && reported.len() < 2_000,
                "{} octets",
                reported.len()
            );
            prop_assert!(!reported.contains(is_hidden), "{reported:?}");
            Ok(None)
        }
    }
}

proptest! {
    #[test]
    fn any_octets_are_environments_or_faults(content in any_of("environment_file")) {
        let start = Instant::now();
        let parsed = environment_file::parse(&content);
        faults_are_reported(&content, &parsed.faults, start.elapsed())?;
        for found in &parsed.entries {
            environment_is_plain(&found.environment)?;
        }
    }

    #[test]
    fn any_octets_are_definitions_or_faults(content in any_of("definition_file")) {
        let start = Instant::now();
        let parsed = definition_file::parse(&content);
        faults_are_reported(&content, &parsed.faults, start.elapsed())?;
        for found in &parsed.entries {
            survives(&found.definition)?;
        }
    }

    #[test]
    fn any_key_is_canonical_and_plain_or_none(key in any_key(), prefix in "/mayfly|/team\\.service/mayfly|/a") {
        let text = String::from_utf8_lossy(&key);
        let space: KeySpace = prefix.parse().unwrap();
        if let Ok(key) = space.parse(&text) {
            prop_assert!(is_plain(&text), "{text:?}");
            let canonical = space.text(&key);
            prop_assert_eq!(space.parse(&canonical).ok(), Some(key.clone()));
            let with_suffix = matches!(key, Key::Instance(..)) && text.replacen(".service/", "/", 1) == canonical;
            prop_assert!(canonical == text || with_suffix);
        }
    }

    #[test]
    fn any_value_is_a_record_or_a_reason(value in any_value()) {
        if let Some(environment) = read::<Environment>(&value)? {
            environment_is_plain(&environment)?;
            let now = std::time::SystemTime::UNIX_EPOCH;
            let _ = (environment.ends_at(), environment.time_to_live(now));
        }
        if let Some(instance) = read::<Instance>(&value)? {
            prop_assert!(is_plain(&instance.address.url()) && is_plain(&instance.address.authority()));
        }
        read::<Router>(&value)?;
        read::<DnsRecord>(&value)?;
        read::<Definition>(&value)?;
        read::<OperatorRequest>(&value)?;
        if let Some(status) = read::<Status>(&value)? {
            if let Some(launching) = Launching::of(&status) {
                survives(&launching)?;
            }
            let mut again = Status::default();
            Failing::put(Failing::of(&status), &mut again);
            prop_assert!(Failing::of(&again).len() <= 100);
        }
        if let Ok(instance) = records::parse::<Instance>(&value) {
            prop_assert!(records::parse::<Instance>(&instance.farewell()).is_ok());
        }
    }

    /// The whole way of a router: whatever is put, no row carries syntax, and what is set aside is
    /// reported.
    #[test]
    fn any_records_become_plain_rows(entries in prop::collection::vec((any_key(), any_value()), 0..6), swapped in prop::collection::vec(any::<prop::sample::Index>(), 3)) {
        let mut index = Index::new(KeySpace::default());
        let mut aside = SetAsides::default();
        let mut put = |index: &mut Index, text: &str, value: &[u8], revision: i64| {
            let key = KeySpace::default().parse(text).map_err(|error| error.to_string());
            match key.and_then(|key| Record::decode(&key, value).map_err(|error| error.to_string())) {
                Ok(record) => index.put(record, revision),
                Err(reason) => aside.insert(text.to_owned(), reason),
            }
        };
        let good = records();
        for (revision, (key, value)) in good.iter().enumerate() {
            put(&mut index, &format!("/mayfly/{key}"), value.as_bytes(), revision as i64);
        }
        for (key, value) in &entries {
            let key = String::from_utf8_lossy(key);
            put(&mut index, &key, value, 100);
            // A spoilt value under a good key gets further.
            put(&mut index, &format!("/mayfly/{}", good[swapped[0].index(good.len())].0), value, 100);
        }
        let gone = format!("/mayfly/{}", good[swapped[1].index(good.len())].0);
        index.gone(&KeySpace::default().parse(&gone).unwrap());
        index.set_unreadable(aside);
        index.resolve();
        index.settle();
        for row in Table::ALL.into_iter().flat_map(|table| index.routing().rows(table)) {
            let texts = match row {
                Row::Ended(name, ended) => [name.to_string(), ended.prefix.to_string(), ended.at.to_string()],
                Row::EndedName(name, ended) => [name.to_string(), ended.at.to_string(), String::new()],
                Row::Host(backend, upstream) => [backend.to_string(), upstream.authority(), String::new()],
                Row::Version(name, choice) => [name.to_string(), choice.to_string(), String::new()],
                Row::Parent(name, parent) => [name.to_string(), parent.to_string(), String::new()],
                Row::User(name, user, hash) => [name.to_string(), user.to_string(), hash.to_string()],
                Row::Network(name, network) => [name.to_string(), network.digits(), String::new()],
                Row::Access(name, access) => [name.to_string(), access.owner.to_string(), String::new()],
                Row::Route(name, path, service) => [name.to_string(), path.with_slash(), service.to_string()],
                Row::Header(header, name) => [header.to_string(), name.to_string(), String::new()],
                Row::Protected(prefix, name) => [prefix.to_string(), name.to_string(), String::new()],
                Row::Link(name, header) => [name.to_string(), header.to_string(), String::new()],
                Row::Edge(prefix, header) => [prefix.to_string(), header.to_string(), String::new()],
            };
            prop_assert!(texts.iter().all(|text| text.is_empty() || is_plain(text)), "{texts:?}");
        }
        for (backend, servers) in index.routing().backends() {
            prop_assert!(is_plain(&backend.to_string()));
            for id in servers.keys() {
                prop_assert!(is_plain(&id.address.to_string()));
            }
        }
        for aside in index.set_aside() {
            prop_assert!(!aside.reason.is_empty() && aside.reason.len() < 3_000, "{}", aside.reason.len());
        }
    }

    #[test]
    fn any_labels_are_of_an_instance_or_none_or_told(
        values in prop::collection::vec((0usize..12, octets(40)), 0..8), image in octets(60), exposed in prop::collection::vec(any::<u16>(), 0..3),
    ) {
        let names = [
            labels::SERVICE, labels::VERSION, labels::PORT, labels::CHECK, labels::PROTOCOL, labels::WEIGHT, labels::LAUNCHER,
            labels::DEFINITION, labels::UNIT, "mayfly.", "mayfly.x\n", "other",
        ];
        let good = ["backend", "1.2", "8080", "/health", "h2c", "7", "/mayfly", "d", "u", "", "", ""];
        // Half of them as they should be, so that some get through.
        let texts: Vec<(usize, String)> = values.iter().map(|(at, octets)| {
            let text = String::from_utf8_lossy(octets).into_owned();
            (*at, if octets.len() % 2 == 0 { good[*at].to_owned() } else { text })
        }).collect();
        let pairs = texts.iter().map(|(at, text)| (names[*at], text.as_str()));
        match labels::read(pairs, &String::from_utf8_lossy(&image), &exposed) {
            Ok(Some(labelled)) => {
                prop_assert!(is_plain(&labelled.backend.to_string()));
                let written = labelled.labels();
                let pairs = written.iter().map(|(name, text)| (name.as_str(), text.as_str()));
                prop_assert_eq!(labels::read(pairs, "", &[]), Ok(Some(labelled)));
            }
            Ok(None) => {}
            Err(reported) => prop_assert!(!reported.contains(char::is_control) && reported.len() < 2_000, "{reported:?}"),
        }
    }
}
