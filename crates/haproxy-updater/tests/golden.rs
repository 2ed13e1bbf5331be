//! Golden cases in tests/golden: the flags, records and host names of a case beside the haproxy.cfg and maps that they make, and in
//! `fails` the templates that are refused beside the reason. Each golden haproxy.cfg also passes `haproxy -c`.
//! `MAYFLY_UPDATE_GOLDEN=1` writes what comes out; look at the difference before you commit it.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Parser as _;
use haproxy_updater::args::{Arguments, internal_bind};
use haproxy_updater::files::{Stale, run_check, texts};
use haproxy_updater::plan::Wanted;
use haproxy_updater::slots::{Pool, allot};
use mayfly_core::index::Index;
use mayfly_core::keys::KeySpace;
use mayfly_core::names::Hostname;
use serde_json::Value;

/// Where the flags of the cases put everything.
const DIR: &str = "/var/lib/mayfly/haproxy";

fn cases(folder: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let is_case = |path: &PathBuf| {
        path.file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .starts_with(|c: char| c.is_ascii_digit())
    };
    let mut cases: Vec<PathBuf> = entries.filter(is_case).collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

fn arguments(case: &Path) -> Arguments {
    let flags = fs::read_to_string(case.join("flags")).unwrap_or_default();
    let mut line: Vec<String> = ["haproxy-updater", "--node", "router-1"]
        .map(str::to_owned)
        .into();
    line.extend(
        flags
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(str::split_whitespace)
            .map(str::to_owned),
    );
    let template = case.join("template.tera");
    if template.exists() {
        line.extend(["--template".to_owned(), template.to_str().unwrap().to_owned()]);
    }
    let mut arguments = Arguments::try_parse_from(line).unwrap();
    if arguments.listens_where_advertised() {
        arguments.options.internal_bind = vec![internal_bind(IpAddr::from([10, 0, 0, 1]))];
    }
    arguments
}

/// Compares a file with what it should be, or writes it.
fn compare(path: &Path, text: &str) {
    if std::env::var_os("MAYFLY_UPDATE_GOLDEN").is_some() {
        fs::write(path, text).unwrap();
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    assert!(
        expected == text,
        "{} is not what comes out:\n{text}",
        path.display()
    );
}

#[test]
fn flags_and_records_make_the_files() {
    for case in cases("tests/golden") {
        let arguments = arguments(&case);
        let renderer = arguments.renderer().unwrap();
        let options = arguments.options;
        let (mut index, mut pool) = (Index::new(KeySpace::default()), Pool::new(options.slots));
        let records = fs::read_to_string(case.join("records.json")).unwrap_or_else(|_| "{}".to_owned());
        let records: serde_json::Map<String, Value> = serde_json::from_str(&records).unwrap();
        for (revision, (key, value)) in records.iter().enumerate() {
            index.put(key, value.to_string().as_bytes(), revision as i64 + 1);
        }
        let mut touched = index.resolve();
        let names = fs::read_to_string(case.join("names.json")).unwrap_or_else(|_| "{}".to_owned());
        let names: BTreeMap<Hostname, BTreeSet<IpAddr>> = serde_json::from_str(&names).unwrap();
        for (name, addresses) in names {
            index.resolved(&name, addresses);
        }
        touched.extend(index.resolve());
        allot(
            &mut pool,
            index.routing(),
            &mut touched,
            &mut Default::default(),
            true,
            |_| true,
        );
        let default_environment = options.default_environment.as_ref();
        let wanted = Wanted {
            routing: index.routing(),
            pool: &pool,
            default_environment,
            ca_file: &options.ca_file,
        };
        let texts = texts(&renderer, &wanted, &Stale::all(), true).unwrap();
        let config = texts.config.unwrap();
        let rendered: Vec<_> = texts
            .maps
            .into_iter()
            .map(|(map, text)| (map, text.render()))
            .collect();

        compare(&case.join("haproxy.cfg"), &config);
        let mut maps = String::new();
        for (map, text) in rendered.iter().filter(|(_, text)| !text.is_empty()) {
            maps.push_str(&format!("== {map}.map\n{text}"));
        }
        compare(&case.join("maps"), &maps);

        // The same somewhere where haproxy can read it.
        let place = tempfile::tempdir().unwrap();
        fs::create_dir(place.path().join("maps")).unwrap();
        for (map, text) in &rendered {
            fs::write(place.path().join(format!("maps/{map}.map")), text).unwrap();
        }
        if let Ok(authorities) = fs::read(case.join("ca.pem")) {
            fs::write(place.path().join("ca.pem"), authorities).unwrap();
        }
        let path = place.path().join("haproxy.cfg");
        fs::write(&path, config.replace(DIR, place.path().to_str().unwrap())).unwrap();
        run_check(support::program().as_ref(), &path)
            .unwrap_or_else(|error| panic!("{}: {error:#}", case.display()));
    }
}

#[test]
fn templates_without_what_mayfly_relies_on_are_refused() {
    for case in cases("tests/golden/fails") {
        let error = arguments(&case).renderer().unwrap_err();
        compare(&case.join("reason"), &format!("{error:#}\n"));
    }
}
