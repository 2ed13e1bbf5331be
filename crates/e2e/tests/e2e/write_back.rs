//! Environments that were registered elsewhere become files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::poll::throughout;
use mayfly_e2e::process::Process;
use mayfly_e2e::process::binary;
use serde_json::json;

/// A Mayfly with etcd and a registrar that writes back.
async fn writing_back() -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly.start_registrar(&["--write-back"]).unwrap();
    mayfly
}

/// Another registrar on the same etcd, with a directory of its own.
fn another(mayfly: &Mayfly, node: &str) -> (PathBuf, Process) {
    let directory = mayfly.directory().join(node).join("environments");
    fs::create_dir_all(&directory).unwrap();
    let mut command = Command::new(binary("environment-registrar").unwrap());
    command
        .args(["--etcd", &mayfly.etcd.endpoint(), "--node", node, "watch"])
        .arg(&directory)
        .arg("--write-back");
    let process = mayfly.spawn(node, &command).unwrap();
    (directory, process)
}

fn key(environment: &str) -> String {
    format!("/mayfly/environments/{environment}")
}

fn one(name: &str, version: &str) -> String {
    format!("name: {name}\nservices:\n- name: backend\n  version: {version}\n  route: /\n")
}

/// Registers an environment by hand.
async fn put(mayfly: &Mayfly, name: &str, version: &str) {
    let services = json!([{"name": "backend", "version": version, "routes": ["/"]}]);
    let record = json!({"name": name, "prefix": format!("www-{name}"), "header": name, "services": services});
    mayfly.etcd.put(&key(name), &record.to_string()).await.unwrap();
}

/// What a copy says below its first line.
fn copy(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path)?;
    let (mark, rest) = text.split_once('\n').unwrap_or_default();
    ensure!(mark.starts_with("# mayfly write-back of "), "found {text}");
    Ok(rest.to_owned())
}

async fn says(path: &Path, expected: &str) {
    let what = format!("the copy {}", path.display());
    eventually(SOON, &what, async || -> Result<()> {
        let found = copy(path)?;
        ensure!(found == expected, "found {found}");
        Ok(())
    })
    .await;
}

async fn is_gone(path: &Path) {
    let what = format!("{} is gone", path.display());
    eventually(SOON, &what, async || !path.exists()).await;
}

/// Waits until the record chooses this version and comes from this registrar.
async fn becomes(mayfly: &Mayfly, name: &str, version: &str, registrar: &str) {
    let what = format!("{name} chooses {version}, by {registrar}");
    eventually(SOON, &what, async || -> Result<()> {
        let found = mayfly.etcd.get_json(&key(name)).await?;
        let right = found["services"][0]["version"] == version && found["source"]["registrar"] == registrar;
        ensure!(right, "found {found}");
        Ok(())
    })
    .await;
}

async fn is_set_aside(mayfly: &Mayfly, key: &str, reason: &str) {
    let what = format!("{key} is set aside: {reason}");
    eventually(SOON, &what, async || -> Result<()> {
        let entries = mayfly.set_aside("environment-registrar").await?;
        let found = entries.iter().any(|(k, r)| k == key && r.contains(reason));
        ensure!(found, "found {entries:?}");
        Ok(())
    })
    .await;
}

/// A person changes a file in place.
fn edit(path: &Path, from: &str, to: &str) {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.contains(from), "{text}");
    fs::write(path, text.replace(from, to)).unwrap();
}

#[tokio::test]
async fn an_environment_from_elsewhere_becomes_a_file_that_follows_it() {
    let mayfly = writing_back().await;
    mayfly.save("own.yaml", &one("own", "1.0.0"));
    put(&mayfly, "hand", "1.0.0").await;
    let (theirs, _registrar) = another(&mayfly, "other");
    fs::write(
        theirs.join("list.yaml"),
        format!("# theirs\n{}", one("theirs", "1.10")),
    )
    .unwrap();
    let (hand, copied) = (
        mayfly.environments().join("hand.yaml"),
        mayfly.environments().join("theirs.yaml"),
    );
    says(&hand, &one("hand", "1.0.0")).await;
    says(&copied, &one("theirs", "'1.10'")).await;
    says(&theirs.join("own.yaml"), &one("own", "1.0.0")).await;
    let paths = [hand.to_str().unwrap(), copied.to_str().unwrap()];
    let checked = mayfly
        .run("environment-registrar", &["check", paths[0], paths[1]])
        .await
        .unwrap();
    assert_eq!(checked.code, Some(0), "{checked:?}");
    // They follow etcd.
    put(&mayfly, "hand", "2.0.0").await;
    fs::write(theirs.join("list.yaml"), one("theirs", "2.0.0")).unwrap();
    says(&hand, &one("hand", "2.0.0")).await;
    says(&copied, &one("theirs", "2.0.0")).await;
    // A copy that a person deletes is written again.
    fs::remove_file(&hand).unwrap();
    says(&hand, &one("hand", "2.0.0")).await;
    mayfly.etcd.delete(&key("hand")).await.unwrap();
    fs::remove_file(theirs.join("list.yaml")).unwrap();
    is_gone(&hand).await;
    is_gone(&copied).await;
    is_gone(&theirs.join("hand.yaml")).await;
    // What is deleted is archived, without the line that made it a copy.
    let mut archived = fs::read_dir(mayfly.directory().join("archive/theirs"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap());
    assert!(archived.any(|text| text == one("theirs", "2.0.0")));
    // What is ours is no copy, and nobody took it.
    assert_eq!(
        fs::read_to_string(mayfly.environments().join("own.yaml")).unwrap(),
        one("own", "1.0.0")
    );
    becomes(&mayfly, "own", "1.0.0", "test").await;
}

#[tokio::test]
async fn a_copy_that_a_person_changed_wins_and_routing_follows() {
    let mut mayfly = Mayfly::start().await.unwrap();
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    mayfly.start_registrar(&["--write-back"]).unwrap();
    let _old = mayfly.instance("backend", "1.0.0").await.unwrap();
    let _new = mayfly.instance("backend", "2.0.0").await.unwrap();
    put(&mayfly, "x", "1.0.0").await;
    let path = mayfly.environments().join("x.yaml");
    says(&path, &one("x", "1.0.0")).await;
    mayfly.answers("www-x.example.com", "backend@1.0.0").await;
    edit(&path, "1.0.0", "2.0.0");
    mayfly.answers("www-x.example.com", "backend@2.0.0").await;
    becomes(&mayfly, "x", "2.0.0", "test").await;
    // From now on it is a file like any other.
    edit(&path, "2.0.0", "1.0.0");
    mayfly.answers("www-x.example.com", "backend@1.0.0").await;
    fs::remove_file(&path).unwrap();
    eventually(SOON, "x is gone", async || {
        mayfly
            .etcd
            .get(&key("x"))
            .await
            .is_ok_and(|value| value.is_none())
    })
    .await;
}

#[tokio::test]
async fn a_conflict_is_reported_and_the_file_wins() {
    let mut mayfly = writing_back().await;
    put(&mayfly, "x", "1.0.0").await;
    let path = mayfly.environments().join("x.yaml");
    says(&path, &one("x", "1.0.0")).await;
    // Both change while the registrar does not look.
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    edit(&path, "1.0.0", "2.0.0");
    put(&mayfly, "x", "3.0.0").await;
    mayfly.start_registrar(&["--write-back"]).unwrap();
    becomes(&mayfly, "x", "2.0.0", "test").await;
    is_set_aside(&mayfly, "x.yaml", "the file won").await;
    eventually(SOON, "what etcd had is archived", async || -> Result<bool> {
        let mut found = false;
        for entry in fs::read_dir(mayfly.directory().join("archive/x"))? {
            found |= fs::read_to_string(entry?.path())?.contains("3.0.0");
        }
        Ok(found)
    })
    .await;
}

#[tokio::test]
async fn a_file_of_a_person_in_the_place_of_a_copy_is_left_alone() {
    let mayfly = writing_back().await;
    let (mine, about) = (one("mine", "1.0.0"), one("about", "9.0.0"));
    mayfly.save("x.yaml", &mine);
    becomes(&mayfly, "mine", "1.0.0", "test").await;
    put(&mayfly, "x", "1.0.0").await;
    is_set_aside(&mayfly, "x.yaml", "is not written back").await;
    put(&mayfly, "about", "1.0.0").await;
    let path = mayfly.environments().join("about.yaml");
    says(&path, &one("about", "1.0.0")).await;
    // A file that does not say that it was a copy takes nothing over.
    mayfly.save("about.yaml", &about);
    is_set_aside(&mayfly, "about.yaml:about", "is registered by").await;
    put(&mayfly, "about", "2.0.0").await;
    is_set_aside(&mayfly, "about.yaml:about", "is registered by").await;
    mayfly.save("settled.yaml", &one("settled", "1.0.0"));
    becomes(&mayfly, "settled", "1.0.0", "test").await;
    assert_eq!(fs::read_to_string(&path).unwrap(), about);
    assert_eq!(
        fs::read_to_string(mayfly.environments().join("x.yaml")).unwrap(),
        mine
    );
    let record = mayfly.etcd.get_json(&key("about")).await.unwrap();
    assert_eq!(record["services"][0]["version"], "2.0.0");
}

#[tokio::test]
async fn registrars_that_write_back_do_not_take_environments_from_each_other_for_ever() {
    let mut mayfly = writing_back().await;
    let (theirs, mut other) = another(&mayfly, "other");
    fs::write(theirs.join("y.yaml"), one("y", "1.0.0")).unwrap();
    put(&mayfly, "x", "1.0.0").await;
    let (x, y) = (
        mayfly.environments().join("x.yaml"),
        mayfly.environments().join("y.yaml"),
    );
    says(&y, &one("y", "1.0.0")).await;
    for directory in [&mayfly.environments(), &theirs] {
        says(&directory.join("x.yaml"), &one("x", "1.0.0")).await;
    }
    // One copy is changed where another registrar has the file: that one's file is told, and stays.
    edit(&y, "1.0.0", "2.0.0");
    becomes(&mayfly, "y", "2.0.0", "test").await;
    eventually(SOON, "the other one tells", async || -> Result<()> {
        let status = mayfly
            .etcd
            .get_json("/mayfly/status/environment-registrar/other")
            .await?;
        ensure!(
            status
                .to_string()
                .contains("is registered by the registrar of node test"),
            "{status}"
        );
        Ok(())
    })
    .await;
    assert_eq!(
        fs::read_to_string(theirs.join("y.yaml")).unwrap(),
        one("y", "1.0.0")
    );
    // Two copies of one environment are changed at once.
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    other.kill9().await.unwrap();
    edit(&x, "1.0.0", "2.0.0");
    edit(&theirs.join("x.yaml"), "1.0.0", "3.0.0");
    mayfly.start_registrar(&["--write-back"]).unwrap();
    becomes(&mayfly, "x", "2.0.0", "test").await;
    let (_, other) = another(&mayfly, "other");
    becomes(&mayfly, "x", "3.0.0", "other").await;
    is_set_aside(
        &mayfly,
        "x.yaml:x",
        "is registered by the registrar of node other",
    )
    .await;
    let stays = async || {
        let record = mayfly.etcd.get_json(&key("x")).await;
        record.is_ok_and(|record| record["source"]["registrar"] == "other")
    };
    throughout(Duration::from_millis(700), "x stays with the last one", stays).await;
    for (log, most) in [
        (mayfly.registrar.as_ref().unwrap().output(), 1),
        (other.output(), 1),
    ] {
        let count = log.matches("registered environment x ").count();
        assert!(count <= most, "{count} times:\n{log}");
    }
    // A further change counts.
    edit(&x, "2.0.0", "4.0.0");
    becomes(&mayfly, "x", "4.0.0", "test").await;
    // So does one of a new copy, also to what was lost before.
    let copy = theirs.join("x.yaml");
    fs::remove_file(&copy).unwrap();
    says(&copy, &one("x", "4.0.0")).await;
    edit(&copy, "4.0.0", "3.0.0");
    becomes(&mayfly, "x", "3.0.0", "other").await;
}
