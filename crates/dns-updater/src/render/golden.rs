//! Golden files: what etcd holds, beside the hosts file that follows from it; in `fails/`, beside the reasons for what
//! is left out. `MAYFLY_UPDATE_GOLDEN=1 cargo test -p dns-updater golden` writes the expectations again.

// The lint's exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::render;
use crate::desired::DnsView;
use mayfly_core::keys::KeySpace;
use mayfly_daemon::store::{Entry, Listing};
use mayfly_daemon::watch;
use serde_json::Value;

/// A case: routers known before, and etcd's content. A value that is a string stands for its bytes.
fn view(case: &Path) -> DnsView {
    let case: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(case).unwrap()).unwrap();
    let strings = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
    let last: BTreeSet<IpAddr> = case
        .get("last_routers")
        .map(strings)
        .unwrap_or_default()
        .iter()
        .map(|ip| ip.parse().unwrap())
        .collect();
    let domain = case.get("domain").and_then(Value::as_str).unwrap_or("service");
    let entry = |(key, value): (&String, &Value)| Entry {
        key: key.clone(),
        value: value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
            .into_bytes(),
        create_revision: 1,
        mod_revision: 1,
        lease: None,
    };
    let listing = Listing {
        revision: 1,
        entries: case["etcd"].as_object().unwrap().iter().map(entry).collect(),
    };
    let mut view = DnsView::new(domain.parse().unwrap(), last);
    let space = KeySpace::default();
    view.take(watch::read(&space, &space.naming(), listing));
    view
}

fn cases(directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let files = std::fs::read_dir(directory)
        .unwrap()
        .map(|file| file.unwrap().path());
    let mut cases: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    cases
}

fn check(expected: &Path, found: &str) {
    if std::env::var_os("MAYFLY_UPDATE_GOLDEN").is_some() {
        std::fs::write(expected, found).unwrap();
    }
    let wanted = std::fs::read_to_string(expected).unwrap_or_default();
    assert_eq!(found, wanted, "{}", expected.display());
}

#[test]
fn hosts_files() {
    for case in cases("tests/golden") {
        let view = view(&case);
        assert_eq!(view.set_aside(), [], "{}", case.display());
        check(&case.with_extension("hosts"), &render(&view));
    }
}

#[test]
fn fails() {
    for case in cases("tests/golden/fails") {
        let view = view(&case);
        let reasons: String = view
            .set_aside()
            .iter()
            .map(|aside| format!("{}: {}\n", aside.key, aside.reason))
            .collect();
        assert!(!reasons.is_empty(), "{}", case.display());
        check(&case.with_extension("reasons"), &reasons);
        check(&case.with_extension("hosts"), &render(&view));
    }
}
