//! Golden cases in tests/golden: the flags, records and host names of a case beside the haproxy.cfg and maps that they make, and in
//! `fails` the templates that are refused beside the reason. Each golden haproxy.cfg also passes `haproxy -c`.
//! `MAYFLY_UPDATE_GOLDEN=1` writes what comes out; look at the difference before you commit it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::args::{Arguments, internal_bind};
use crate::haproxy::files::{Stale, run_check, texts};
use crate::haproxy::slots::{Pool, allot};
use crate::haproxy::wanted::Wanted;
use clap::Parser as _;
use mayfly_core::index::Index;
use mayfly_core::keys::KeySpace;
use mayfly_core::names::Hostname;
use mayfly_core::records::Record;
use mayfly_e2e::tls::Authority;
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

#[tokio::test]
async fn flags_and_records_make_the_files() {
    for case in cases("tests/golden") {
        let arguments = arguments(&case);
        let renderer = arguments.renderer().unwrap();
        let options = arguments.options;
        let (mut index, mut pool) = (Index::new(KeySpace::default()), Pool::new(options.slots));
        let records = fs::read_to_string(case.join("records.json")).unwrap_or_else(|_| "{}".to_owned());
        let records: serde_json::Map<String, Value> = serde_json::from_str(&records).unwrap();
        for (revision, (key, value)) in records.iter().enumerate() {
            // As the watch does: what cannot be read changes nothing.
            let Ok(key) = KeySpace::default().parse(key) else {
                continue;
            };
            if let Ok(record) = Record::decode(&key, value.to_string().as_bytes()) {
                index.put(record, revision as i64 + 1);
            }
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
        if !options.edge_tls_bind.is_empty() {
            put_a_certificate(place.path()).await;
        }
        let path = place.path().join("haproxy.cfg");
        fs::write(&path, config.replace(DIR, place.path().to_str().unwrap())).unwrap();
        run_check(super::support::program().as_ref(), &path)
            .await
            .unwrap_or_else(|error| panic!("{}: {error:#}", case.display()));
    }
}

/// One that HAProxy can start with.
async fn put_a_certificate(dir: &Path) {
    let authority = Authority::new(dir, "authority").await.unwrap();
    let certificate = authority.certify("*.example.com").await.unwrap();
    fs::create_dir(dir.join("tls")).unwrap();
    fs::write(dir.join("tls/crt-list"), format!("{}\n", certificate.display())).unwrap();
}

#[test]
fn templates_without_what_mayfly_relies_on_are_refused() {
    for case in cases("tests/golden/fails") {
        let error = arguments(&case).renderer().unwrap_err();
        compare(&case.join("reason"), &format!("{error:#}\n"));
    }
}

/// While a request waits for its next try, it points to the server of its last one. With
/// `option redispatch 1` it chooses again at once. Without it, the pause before `del server`
/// (`apply::leaving::rest`) is too short, and HAProxy 2.6.12 crashed. A template of the operator's
/// is not refused for it: HAProxy tries again by default, so even the smallest one would be.
#[test]
fn what_tries_a_request_again_chooses_a_server_again() {
    for case in cases("tests/golden") {
        if case.join("template.tera").exists() {
            continue;
        }
        let config = fs::read_to_string(case.join("haproxy.cfg")).unwrap();
        let lines: Vec<&str> = config
            .lines()
            .filter(|line| !line.trim_start().starts_with('#'))
            .collect();
        let has_name = |line: &&str| !line.starts_with(' ') && !line.starts_with('.') && !line.is_empty();
        let mut sections: Vec<Vec<&str>> = Vec::new();
        for line in lines {
            match has_name(&line) {
                true => sections.push(vec![line]),
                false => sections
                    .last_mut()
                    .into_iter()
                    .for_each(|section| section.push(line.trim())),
            }
        }
        let slots = sections
            .iter()
            .filter(|section| section[0].starts_with("backend slot-"));
        assert!(slots.clone().count() > 0);
        for slot in slots {
            assert!(slot[0].ends_with(" from slots"), "{slot:?}");
        }
        let is_bold = |section: &&Vec<&str>| section.iter().any(|line| line.starts_with("retries "));
        let bold: Vec<_> = sections.iter().filter(is_bold).collect();
        assert!(
            bold.iter()
                .any(|section| section[0] == "defaults slots from common")
        );
        for section in bold {
            assert!(section.contains(&"option redispatch 1"), "{section:?}");
        }
        assert!(!config.contains("no option redispatch"), "{}", case.display());
    }
}
