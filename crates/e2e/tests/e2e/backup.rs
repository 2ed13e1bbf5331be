//! `mayfly dump` and `mayfly restore`: what only etcd has comes back, and no request fails.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::ServiceProcess;
use mayfly_e2e::load::{Expected, Load, Target};
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::Finished;
use serde_json::{Value, json};

/// Runs the tool; the arguments are words, and `@name` is a file of the Mayfly's directory.
async fn tool(mayfly: &Mayfly, line: &str) -> Finished {
    let place = |word: &str| match word.strip_prefix('@') {
        Some(name) => mayfly.directory().join(name).display().to_string(),
        None => word.to_owned(),
    };
    let words: Vec<String> = line.split_whitespace().map(place).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    mayfly.run("mayfly", &words).await.unwrap()
}

#[track_caller]
fn refused(finished: &Finished, part: &str) {
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains(part), "{part} in {finished:?}");
}

fn read(mayfly: &Mayfly, name: &str) -> String {
    fs::read_to_string(mayfly.directory().join(name)).unwrap()
}

fn write(mayfly: &Mayfly, name: &str, text: &str) {
    fs::write(mayfly.directory().join(name), text).unwrap();
}

/// The keys that a dump has, as etcd has them. Instances of registrars are not among them.
async fn records(mayfly: &Mayfly) -> Result<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for kind in ["environments", "history", "ended", "services", "dns"] {
        all.extend(mayfly.etcd.list(&format!("/mayfly/{kind}/")).await?);
    }
    for (key, value) in mayfly.etcd.list("/mayfly/backends/").await? {
        if mayfly.etcd.lease_of(&key).await?.is_none() {
            all.insert(key, value);
        }
    }
    Ok(all)
}

async fn bare_etcd() -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly
}

/// An environment in etcd, with its history.
async fn put(mayfly: &Mayfly, name: &str) {
    let record = json!({"name": name, "prefix": name, "header": name}).to_string();
    for kind in ["environments", "history"] {
        let key = format!("/mayfly/{kind}/{name}");
        mayfly.etcd.put(&key, &record).await.unwrap();
    }
}

#[tokio::test]
async fn what_etcd_has_lost_comes_back_and_no_request_fails() {
    let mut mayfly = Mayfly::start().await.unwrap();
    let _web = mayfly.killable("web", "1", &[]).await.unwrap();
    let api = ServiceProcess::start("api", "1", mayfly.directory())
        .await
        .unwrap();
    let (ip, port) = (api.address().ip().to_string(), api.address().port().to_string());
    let permanent = ["register", "--permanent", "api", "1", &ip, &port];
    mayfly
        .run("container-registrar", &permanent)
        .await
        .unwrap()
        .ok()
        .unwrap();
    let static_name = ["update", "db.internal", "10.9.0.1"];
    mayfly
        .run("dns-updater", &static_name)
        .await
        .unwrap()
        .ok()
        .unwrap();
    let definition = r#"{"name":"web","image":"web:{{ version }}","port":80}"#;
    mayfly.etcd.put("/mayfly/services/web", definition).await.unwrap();
    mayfly.save(
        "prod.yaml",
        "{name: prod, prefix: www, services: [{name: web, version: 1, route: /}]}",
    );
    write(
        &mayfly,
        "some.yaml",
        "- {name: temp, expires: 8h, services: [{name: api, version: 1, route: /}]}\n\
         - {name: idle, extends: temp, idle: 8h}\n- {name: old}\n",
    );
    tool(&mayfly, "apply -f @some.yaml").await.ok().unwrap();
    tool(&mayfly, "delete old").await.ok().unwrap();
    mayfly.answers("www.example.com", "web@1").await;
    mayfly.answers("www-temp.example.com", "api@1").await;

    let dumped = tool(&mayfly, "dump @mayfly.dump").await.ok().unwrap();
    assert!(
        dumped.contains("mayfly.dump: 11 records of revision "),
        "{dumped}"
    );
    let mode = fs::metadata(mayfly.directory().join("mayfly.dump")).unwrap();
    assert_eq!(mode.permissions().mode() & 0o777, 0o600);
    let before = records(&mayfly).await.unwrap();
    assert_eq!(before.len(), 11, "{before:?}");

    let target = |host: &str| Target {
        to: mayfly.edge,
        request: Request::get(host, "/"),
        expected: Expected::anyone(),
    };
    let load = Load::steady(
        vec![target("www.example.com"), target("www-temp.example.com")],
        800,
    );
    mayfly.etcd.restart_emptied().await.unwrap();
    eventually(SOON, "the file is registered again", async || -> Result<()> {
        ensure!(
            mayfly.etcd.get("/mayfly/environments/prod").await?.is_some(),
            "no prod"
        );
        Ok(())
    })
    .await;
    // Another record by now; that of prod may have a new life, too.
    write(&mayfly, "other.yaml", "{name: idle, description: other}");
    tool(&mayfly, "apply -f @other.yaml").await.ok().unwrap();
    let living = tool(&mayfly, "restore @mayfly.dump").await;
    refused(&living, "etcd differs from the dump: ");
    refused(&living, "delete 0 records; nothing was changed");
    let shown = tool(&mayfly, "restore @mayfly.dump --replace --dry-run").await;
    let shown = shown.ok().unwrap();
    assert!(shown.contains("change environments/idle\n"), "{shown}");
    let temp = mayfly.etcd.get("/mayfly/environments/temp").await.unwrap();
    assert_eq!(temp, None, "a refusal and a dry run write nothing");

    let restored = tool(&mayfly, "restore @mayfly.dump --replace")
        .await
        .ok()
        .unwrap();
    assert!(restored.contains("\nrestored: "), "{restored}");
    eventually(SOON, "etcd has what it had", async || -> Result<()> {
        let now = records(&mayfly).await?;
        ensure!(now == before, "{now:?}");
        Ok(())
    })
    .await;
    for (name, is_leased) in [
        ("environments/temp", true),
        ("environments/idle", true),
        ("environments/prod", false),
        ("ended/old", true),
    ] {
        let lease = mayfly.etcd.lease_of(&format!("/mayfly/{name}")).await.unwrap();
        assert_eq!(lease.is_some(), is_leased, "{name}");
    }
    let again = tool(&mayfly, "restore @mayfly.dump").await.ok().unwrap();
    assert!(
        again.ends_with("etcd has every record of the dump already\n"),
        "{again}"
    );
    mayfly.answers("www-temp.example.com", "api@1").await;
    tool(&mayfly, "wait temp").await.ok().unwrap();
    load.stop().await.assert_flawless(100);
}

#[tokio::test]
async fn a_dump_that_is_not_whole_or_of_another_version_changes_nothing() {
    let mayfly = bare_etcd().await;
    let nothing = tool(&mayfly, "dump @mayfly.dump").await;
    refused(&nothing, "etcd has no keys below /mayfly");
    assert!(!mayfly.directory().join("mayfly.dump").exists());
    put(&mayfly, "a").await;
    mayfly
        .etcd
        .put("/mayfly/environments/broken", "{}")
        .await
        .unwrap();
    let dumped = tool(&mayfly, "dump @mayfly.dump").await;
    assert!(
        dumped
            .stderr
            .contains("left out: /mayfly/environments/broken: the value is not"),
        "{dumped:?}"
    );
    let printed = tool(&mayfly, "dump -").await.ok().unwrap();
    let text = read(&mayfly, "mayfly.dump");
    assert_eq!(
        printed.lines().skip(1).collect::<Vec<_>>(),
        text.lines().skip(1).collect::<Vec<_>>()
    );
    let missing = tool(&mayfly, "dump @no/such/directory/mayfly.dump").await;
    refused(&missing, "no/such/directory");

    mayfly.etcd.delete_all("/mayfly/").await.unwrap();
    let header: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let mut newer = header.clone();
    newer["mayfly_dump"] = 99.into();
    newer["version"] = "9.0.0".into();
    let body = text.split_once('\n').unwrap().1;
    for (text, part) in [
        (
            text[..text.len() - 9].to_owned(),
            "the dump was cut off: the header announces 2 records",
        ),
        (
            format!("{newer}\n{body}"),
            "the dump was written by Mayfly 9.0.0 in format 99, and Mayfly",
        ),
        (
            text.replace("environments/a", "environments/b"),
            "the dump was changed after `mayfly dump` wrote it",
        ),
        ("name: a\n".to_owned(), "this is no dump of Mayfly"),
    ] {
        write(&mayfly, "bad.dump", &text);
        for flags in ["", "--replace"] {
            let bad = tool(&mayfly, &format!("restore @bad.dump {flags}")).await;
            refused(&bad, part);
            refused(&bad, "nothing was changed");
        }
    }
    refused(
        &tool(&mayfly, "restore @gone.dump").await,
        "gone.dump: No such file",
    );
    assert_eq!(mayfly.etcd.list("/mayfly/").await.unwrap(), BTreeMap::new());
    let elsewhere = tool(&mayfly, "restore @mayfly.dump --prefix /other")
        .await
        .ok()
        .unwrap();
    assert!(elsewhere.contains("from /mayfly by Mayfly"), "{elsewhere}");
    let keys: Vec<String> = mayfly.etcd.list("/other/").await.unwrap().into_keys().collect();
    assert_eq!(keys, ["/other/environments/a", "/other/history/a"]);
}

#[tokio::test]
async fn only_with_replace_a_living_registry_becomes_equal_to_the_dump() {
    let mayfly = bare_etcd().await;
    for name in ["a", "b"] {
        put(&mayfly, name).await;
    }
    tool(&mayfly, "dump @mayfly.dump").await.ok().unwrap();
    let before = records(&mayfly).await.unwrap();
    tool(&mayfly, "delete b").await.ok().unwrap();
    put(&mayfly, "new").await;
    // What other programs have is not Mayfly's.
    mayfly.etcd.put("/mayfly/never/x", "theirs").await.unwrap();
    mayfly
        .etcd
        .put("/mayfly/status/dns-updater/n", r#"{"applied_revision":1}"#)
        .await
        .unwrap();
    refused(
        &tool(&mayfly, "restore @mayfly.dump").await,
        "--replace would change 0 records and delete 3 records; nothing was changed",
    );
    let replaced = tool(&mayfly, "restore @mayfly.dump --replace")
        .await
        .ok()
        .unwrap();
    for part in [
        "delete environments/new\n",
        "delete history/new\n",
        "delete ended/b\n",
        "restored: 4 keys changed\n",
    ] {
        assert!(replaced.contains(part), "{part} in {replaced}");
    }
    assert_eq!(records(&mayfly).await.unwrap(), before);
    for key in ["never/x", "status/dns-updater/n"] {
        assert!(
            mayfly
                .etcd
                .get(&format!("/mayfly/{key}"))
                .await
                .unwrap()
                .is_some(),
            "{key}"
        );
    }
}

#[tokio::test]
async fn a_restore_that_was_killed_can_be_run_again() {
    let mayfly = bare_etcd().await;
    let many = 300;
    let environments: String = (0..many)
        .map(|at| format!("- {{name: e{at}, expires: 8h}}\n"))
        .collect();
    write(&mayfly, "many.yaml", &environments);
    tool(&mayfly, "apply -f @many.yaml").await.ok().unwrap();
    tool(&mayfly, "dump @mayfly.dump").await.ok().unwrap();
    let before = records(&mayfly).await.unwrap();
    assert_eq!(before.len(), 2 * many);
    mayfly.etcd.delete_all("/mayfly/").await.unwrap();

    let mut command = mayfly.command("mayfly").unwrap();
    command.arg("restore").arg(mayfly.directory().join("mayfly.dump"));
    let mut restore = mayfly.spawn("restore", &command).unwrap();
    eventually(SOON, "the first are there", async || {
        mayfly
            .etcd
            .list("/mayfly/environments/")
            .await
            .is_ok_and(|all| !all.is_empty())
    })
    .await;
    // It may have ended by itself already.
    let _ = restore.kill9().await;
    let half = mayfly.etcd.list("/mayfly/").await.unwrap();
    for key in half.keys().filter_map(|key| key.strip_prefix("/mayfly/history/")) {
        assert!(
            half.contains_key(&format!("/mayfly/environments/{key}")),
            "the history of {key} alone"
        );
    }
    tool(&mayfly, "restore @mayfly.dump").await.ok().unwrap();
    assert_eq!(records(&mayfly).await.unwrap(), before);
    let last = mayfly.etcd.lease_of("/mayfly/environments/e299").await;
    assert!(last.unwrap().is_some());
}
