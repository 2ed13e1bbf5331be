//! The environment registrar on files as people and tools really write them.

use std::fs;

use anyhow::{Result, ensure};
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::{etcd::Etcd, eventually};
use serde_json::Value;

/// A Mayfly with etcd and the registrar alone: HAProxy adds nothing here.
async fn registrar(arguments: &[&str]) -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly.start_registrar(arguments).unwrap();
    mayfly
}

fn key(environment: &str) -> String {
    format!("/mayfly/environments/{environment}")
}

/// Waits until `environment` chooses `version` for its first service.
async fn becomes(etcd: &Etcd, environment: &str, version: &str) {
    eventually(
        SOON,
        &format!("{environment} chooses {version}"),
        async || -> Result<()> {
            let found = etcd.get_json(&key(environment)).await?;
            ensure!(found["services"][0]["version"] == version, "found {found}");
            Ok(())
        },
    )
    .await;
}

async fn vanishes(etcd: &Etcd, environment: &str) {
    eventually(SOON, &format!("{environment} is gone"), async || {
        etcd.get(&key(environment))
            .await
            .is_ok_and(|value| value.is_none())
    })
    .await;
}

fn one(name: &str, version: &str) -> String {
    format!("name: {name}\nservices:\n  - {{name: frontend, version: {version}, route: /}}\n")
}

#[tokio::test]
async fn every_form_of_a_file_is_taken() {
    let mayfly = registrar(&[]).await;
    mayfly.save("single.yaml", &one("single", "1.0.0"));
    mayfly.save(
        "list.yml",
        "- name: list-1\n  services: [{name: a, version: 1.0.0}]\n- {name: list-2, services: [b]}\n",
    );
    mayfly.save(
        "documents.yaml",
        &format!(
            "---\n{}---\n{}...\n",
            one("doc-1", "1.0.0"),
            one("doc-2", "2.0.0")
        ),
    );
    mayfly.save("ignored.txt", &one("ignored", "1.0.0"));
    mayfly.save("full.yaml", FULL);
    becomes(&mayfly.etcd, "single", "1.0.0").await;
    becomes(&mayfly.etcd, "list-1", "1.0.0").await;
    becomes(&mayfly.etcd, "doc-1", "1.0.0").await;
    becomes(&mayfly.etcd, "doc-2", "2.0.0").await;
    becomes(&mayfly.etcd, "list-2", "latest").await;
    becomes(&mayfly.etcd, "full", "1.10").await;
    let full = mayfly.etcd.get_json(&key("full")).await.unwrap();
    assert_eq!(full["prefix"], "www-other");
    assert_eq!(full["header"], "a_b.c");
    assert_eq!(full["extends"], "single");
    assert_eq!(full["description"], "checkout with the new basket");
    let services: Vec<(String, String, usize)> = full["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|service| {
            let text = |field: &str| service[field].as_str().unwrap().to_owned();
            (
                text("name"),
                text("version"),
                service["routes"].as_array().map_or(0, Vec::len),
            )
        })
        .collect();
    let expected = [
        ("frontend", "1.10", 2),
        ("api", "1e3", 1),
        ("backend", "0x1F", 0),
        ("ranged", "^1.2", 0),
        ("moving", "latest", 0),
        ("legacy-billing", "latest", 0),
    ];
    assert_eq!(
        services,
        expected.map(|(name, version, routes)| (name.to_owned(), version.to_owned(), routes))
    );
    let plain = mayfly.etcd.get_json(&key("list-2")).await.unwrap();
    assert_eq!(
        (&plain["prefix"], &plain["header"]),
        (&Value::from("www-list-2"), &Value::from("list-2"))
    );
    assert!(mayfly.etcd.get(&key("ignored")).await.unwrap().is_none());
    assert!(full["source"].to_string().contains("full.yaml"), "{full}");
}

const FULL: &str = "
name: full.service     # a trailing .service is dropped
extends: single
prefix: www-other
header: a_b.c
expires: 8h
description: checkout with the new basket
services:
  - name: frontend.service
    version: 1.10      # a number to YAML, and still 1.10
    routes: [/, /index.html]
  - {name: api, version: 1e3, route: /api/}
  - {name: backend, version: 0x1F}
  - {name: ranged, version: ^1.2}
  - name: moving
  - legacy-billing
";

#[tokio::test]
async fn every_way_of_saving_is_noticed() {
    let mayfly = registrar(&[]).await;
    let file = mayfly.environments().join("a.yaml");
    // In place.
    fs::write(&file, one("a", "1.0.0")).unwrap();
    becomes(&mayfly.etcd, "a", "1.0.0").await;
    fs::write(&file, one("a", "1.0.1")).unwrap();
    becomes(&mayfly.etcd, "a", "1.0.1").await;
    // Renamed over.
    mayfly.save("a.yaml", &one("a", "1.0.2"));
    becomes(&mayfly.etcd, "a", "1.0.2").await;
    // Deleted and created.
    fs::remove_file(&file).unwrap();
    vanishes(&mayfly.etcd, "a").await;
    fs::write(&file, one("a", "1.0.3")).unwrap();
    becomes(&mayfly.etcd, "a", "1.0.3").await;
    // As vim does with a backup: the old file moves away, a new one takes its name.
    fs::rename(&file, mayfly.environments().join("a.yaml~")).unwrap();
    fs::write(&file, one("a", "1.0.4")).unwrap();
    becomes(&mayfly.etcd, "a", "1.0.4").await;
    // Renamed to another name that counts, and to one that does not.
    fs::rename(&file, mayfly.environments().join("b.yml")).unwrap();
    fs::write(mayfly.environments().join("b.yml"), one("a", "1.0.5")).unwrap();
    becomes(&mayfly.etcd, "a", "1.0.5").await;
    fs::rename(
        mayfly.environments().join("b.yml"),
        mayfly.environments().join("b.yml.off"),
    )
    .unwrap();
    vanishes(&mayfly.etcd, "a").await;
}

#[tokio::test]
async fn a_directory_of_symbolic_links_is_followed_as_config_maps_swap_it() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    let root = mayfly.environments();
    let revision = |name: &str, version: &str| {
        fs::create_dir(root.join(name)).unwrap();
        fs::write(root.join(name).join("a.yaml"), one("a", version)).unwrap();
    };
    // As Kubernetes lays a config map out: a.yaml -> ..data/a.yaml, ..data -> ..<time>.
    revision("..2026_1", "1.0.0");
    std::os::unix::fs::symlink("..2026_1", root.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    mayfly.start_registrar(&[]).unwrap();
    becomes(&mayfly.etcd, "a", "1.0.0").await;
    revision("..2026_2", "1.0.1");
    std::os::unix::fs::symlink("..2026_2", root.join("..data_tmp")).unwrap();
    fs::rename(root.join("..data_tmp"), root.join("..data")).unwrap();
    becomes(&mayfly.etcd, "a", "1.0.1").await;
    fs::remove_dir_all(root.join("..2026_1")).unwrap();
    fs::remove_file(root.join("a.yaml")).unwrap();
    vanishes(&mayfly.etcd, "a").await;
}

#[tokio::test]
async fn a_watched_directory_may_itself_be_a_link_that_is_swapped() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    let root = mayfly.environments();
    fs::remove_dir(&root).unwrap();
    for (release, version) in [("release-1", "1.0.0"), ("release-2", "2.0.0")] {
        fs::create_dir(mayfly.directory().join(release)).unwrap();
        fs::write(mayfly.directory().join(release).join("a.yaml"), one("a", version)).unwrap();
    }
    std::os::unix::fs::symlink("release-1", &root).unwrap();
    mayfly.start_registrar(&[]).unwrap();
    becomes(&mayfly.etcd, "a", "1.0.0").await;
    std::os::unix::fs::symlink("release-2", mayfly.directory().join("next")).unwrap();
    fs::rename(mayfly.directory().join("next"), &root).unwrap();
    becomes(&mayfly.etcd, "a", "2.0.0").await;
    fs::write(mayfly.directory().join("release-2/a.yaml"), one("a", "2.0.1")).unwrap();
    becomes(&mayfly.etcd, "a", "2.0.1").await;
}

#[tokio::test]
async fn polling_needs_no_events() {
    let mayfly = registrar(&["--poll", "100ms"]).await;
    mayfly.save("a.yaml", &one("a", "1.0.0"));
    becomes(&mayfly.etcd, "a", "1.0.0").await;
    // The same length, and perhaps the same second: content counts.
    fs::write(mayfly.environments().join("a.yaml"), one("a", "1.0.1")).unwrap();
    becomes(&mayfly.etcd, "a", "1.0.1").await;
    mayfly.remove("a.yaml");
    vanishes(&mayfly.etcd, "a").await;
}

#[tokio::test]
async fn at_start_etcd_is_brought_in_step() {
    let mut mayfly = registrar(&[]).await;
    for name in ["stays", "changes", "goes"] {
        mayfly.save(&format!("{name}.yaml"), &one(name, "1.0.0"));
        becomes(&mayfly.etcd, name, "1.0.0").await;
    }
    let untouched = mayfly.etcd.get(&key("stays")).await.unwrap();
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    mayfly.save("changes.yaml", &one("changes", "2.0.0"));
    mayfly.save("comes.yaml", &one("comes", "1.0.0"));
    mayfly.remove("goes.yaml");
    // An environment that another registrar wrote is none of this one's business.
    let foreign = untouched
        .clone()
        .unwrap()
        .replace("stays", "foreign")
        .replace("\"test\"", "\"elsewhere\"");
    mayfly.etcd.put(&key("foreign"), &foreign).await.unwrap();
    mayfly.start_registrar(&[]).unwrap();
    becomes(&mayfly.etcd, "changes", "2.0.0").await;
    becomes(&mayfly.etcd, "comes", "1.0.0").await;
    vanishes(&mayfly.etcd, "goes").await;
    assert_eq!(mayfly.etcd.get(&key("stays")).await.unwrap(), untouched);
    assert!(mayfly.etcd.get(&key("foreign")).await.unwrap().is_some());
}

#[tokio::test]
async fn it_stops_in_good_order_and_leaves_the_environments() {
    let mut mayfly = registrar(&[]).await;
    mayfly.save("a.yaml", &one("a", "1.0.0"));
    becomes(&mayfly.etcd, "a", "1.0.0").await;
    let status = mayfly.registrar.as_mut().unwrap().terminate(SOON).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert!(mayfly.etcd.get(&key("a")).await.unwrap().is_some());
}

#[tokio::test]
async fn it_starts_without_etcd_and_catches_up() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.start_registrar(&[]).unwrap();
    mayfly.save("a.yaml", &one("a", "1.0.0"));
    mayfly.etcd.restart().await.unwrap();
    becomes(&mayfly.etcd, "a", "1.0.0").await;
    mayfly.etcd.kill9().await.unwrap();
    mayfly.save("a.yaml", &one("a", "1.0.1"));
    mayfly.etcd.restart().await.unwrap();
    becomes(&mayfly.etcd, "a", "1.0.1").await;
    mayfly.etcd.restart_emptied().await.unwrap();
    becomes(&mayfly.etcd, "a", "1.0.1").await;
}

#[tokio::test]
async fn when_an_environment_is_to_end_is_checked_and_recorded() {
    let mayfly = registrar(&[]).await;
    mayfly.save("wrong.yaml", &format!("{}expires: soon\n", one("wrong", "1.0.0")));
    for (name, expires) in [("long", "8h"), ("moment", "2035-01-31T18:00:00Z")] {
        mayfly.save(
            &format!("{name}.yaml"),
            &format!("{}expires: {expires}\n", one(name, "1.0.0")),
        );
        becomes(&mayfly.etcd, name, "1.0.0").await;
        assert_eq!(
            mayfly.etcd.get_json(&key(name)).await.unwrap()["expires"],
            expires
        );
    }
    eventually(SOON, "the wrong one is told", async || {
        mayfly
            .registrar
            .as_ref()
            .unwrap()
            .output()
            .contains("line 4, column 10, expires")
    })
    .await;
    assert!(mayfly.etcd.get(&key("wrong")).await.unwrap().is_none());
}

#[tokio::test]
async fn list_shows_what_is_registered() {
    let mayfly = registrar(&[]).await;
    mayfly.save("a.yaml", &one("a", "1.0.0"));
    mayfly.save("b.yaml", &one("b", "2.0.0"));
    becomes(&mayfly.etcd, "a", "1.0.0").await;
    becomes(&mayfly.etcd, "b", "2.0.0").await;
    let list = mayfly
        .run("environment-registrar", &["list"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    for part in ["a", "b", "www-a", "www-b"] {
        assert!(
            list.split_whitespace().any(|word| word.trim_matches(',') == part),
            "{part} in\n{list}"
        );
    }
}

#[tokio::test]
async fn check_needs_no_etcd_and_names_every_fault() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let good = mayfly.environments().join("good.yaml");
    let bad = mayfly.environments().join("bad.yaml");
    fs::write(&good, one("good", "1.0.0")).unwrap();
    fs::write(
        &bad,
        "name: Bad_Name\nservises: []\nservices:\n  - name: backend\n    version: a b\n    route: //api\n",
    )
    .unwrap();
    let (good, bad) = (good.to_str().unwrap(), bad.to_str().unwrap());
    let fine = mayfly
        .run("environment-registrar", &["check", good])
        .await
        .unwrap();
    assert_eq!(fine.code, Some(0), "{fine:?}");
    let faults = mayfly
        .run("environment-registrar", &["check", good, bad])
        .await
        .unwrap();
    assert_eq!(faults.code, Some(1), "{faults:?}");
    let text = format!("{}{}", faults.stdout, faults.stderr);
    for (place, field, hint) in [
        (":1:7", "name", "lower-case"),
        (":2:1", "servises", "services"),
        (":5:14", "version", "letters"),
        (":6:12", "route", "empty segments"),
    ] {
        let line = text
            .lines()
            .find(|line| line.contains(&format!("bad.yaml{place}")));
        let line = line.unwrap_or_else(|| panic!("no line for {place} in\n{text}"));
        assert!(
            line.contains(field) && line.contains(hint),
            "{field} and {hint} in {line}"
        );
    }
    let missing = mayfly
        .run("environment-registrar", &["check", "/nonexistent.yaml"])
        .await
        .unwrap();
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(
        format!("{missing:?}").contains("/nonexistent.yaml"),
        "{missing:?}"
    );
    let usage = mayfly.run("environment-registrar", &["check"]).await.unwrap();
    assert_eq!(usage.code, Some(2), "{usage:?}");
}
