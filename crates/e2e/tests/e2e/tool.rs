//! The operator's tool, `mayfly`: it talks to etcd only, and what it does reaches the routers.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::poll::throughout;
use mayfly_e2e::process::Finished;
use serde_json::Value;

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

/// Runs the tool, which has to succeed and to print this.
#[track_caller]
fn said(finished: &Finished, expected: &str) {
    assert_eq!(
        (finished.code, finished.stdout.as_str()),
        (Some(0), expected),
        "{finished:?}"
    );
}

/// It has to fail with this in its message.
#[track_caller]
fn refused(finished: &Finished, part: &str) {
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains(part), "{part} in {finished:?}");
}

fn write(mayfly: &Mayfly, name: &str, text: &str) {
    fs::write(mayfly.directory().join(name), text).unwrap();
}

fn key(environment: &str) -> String {
    format!("/mayfly/environments/{environment}")
}

async fn etcd_alone() -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly
}

async fn vanishes(mayfly: &Mayfly, environment: &str) {
    eventually(SOON, &format!("{environment} is gone"), async || {
        mayfly
            .etcd
            .get(&key(environment))
            .await
            .is_ok_and(|value| value.is_none())
    })
    .await;
}

#[tokio::test]
async fn lint_says_what_the_registrar_would() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    fs::create_dir(mayfly.directory().join("files")).unwrap();
    write(&mayfly, "files/a.yaml", "name: a\n");
    write(&mayfly, "files/b.yml", "name: b\n");
    let place = mayfly.directory().join("files").display().to_string();
    said(
        &tool(&mayfly, "lint @files").await,
        &format!("{place}/a.yaml: ok, 1 environment\n{place}/b.yml: ok, 1 environment\n"),
    );
    // What comes from a command that failed.
    let nothing = tool(&mayfly, "lint -").await;
    assert_eq!(nothing.code, Some(1));
    let told = format!("{}{}", nothing.stdout, nothing.stderr);
    assert!(
        told.contains("(standard input)") && told.contains("the file is empty"),
        "{told}"
    );

    write(&mayfly, "files/b.yml", "name: b\nprefix: www-a\nexpires: soon\n");
    let found = tool(&mayfly, "lint @files @gone.yaml").await;
    assert_eq!(found.code, Some(1), "{found:?}");
    for part in [
        "b.yml:3:10: expires: \"soon\" is not an expiry",
        "gone.yaml:1:1: there is no such file",
        "2 faults in 2 of 3 files",
    ] {
        assert!(found.stdout.contains(part), "{part} in {}", found.stdout);
    }
    let gone = mayfly.directory().join("gone.yaml").display().to_string();
    let check = mayfly
        .run("environment-registrar", &["check", &place, &gone])
        .await;
    assert_eq!(check.unwrap().stdout, found.stdout);

    write(&mayfly, "files/b.yml", "name: b\nprefix: www-a\n");
    let found = tool(&mayfly, "lint --format json @files").await;
    assert_eq!(found.code, Some(1), "{found:?}");
    let json: Value = serde_json::from_str(&found.stdout).unwrap();
    let fault = &json["files"][1]["faults"][0];
    assert_eq!(
        (&json["faults"], &fault["line"], &fault["column"], &fault["field"]),
        (
            &Value::from(1),
            &Value::from(2),
            &Value::from(9),
            &Value::from("prefix")
        )
    );
    for usage in ["lint", "lint --format xml @files", "lnt @files"] {
        assert_eq!(tool(&mayfly, usage).await.code, Some(2), "{usage}");
    }
}

#[tokio::test]
async fn it_describes_itself() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let schema: Value = serde_json::from_str(&tool(&mayfly, "schema").await.ok().unwrap()).unwrap();
    assert_eq!(schema["definitions"]["environment"]["required"][0], "name");
    let bash = tool(&mayfly, "completions bash").await.ok().unwrap();
    assert!(bash.contains("complete -F _mayfly"), "{bash}");
    tool(&mayfly, "man @man1").await.ok().unwrap();
    let page = fs::read_to_string(mayfly.directory().join("man1/mayfly-keep.1")).unwrap();
    assert!(page.contains("mayfly keep temp\\-1 8h"), "{page}");
}

#[tokio::test]
async fn what_is_applied_answers_until_it_is_deleted() {
    let mayfly = Mayfly::start().await.unwrap();
    let _old = mayfly.instance("frontend", "0.0.1").await.unwrap();
    let _new = mayfly.instance("frontend", "0.0.2").await.unwrap();
    let file = |version: &str| {
        format!("name: temp\nservices:\n  - {{name: frontend, version: {version}, route: /}}\n")
    };
    write(&mayfly, "temp.yaml", &file("0.0.1"));
    said(
        &tool(&mayfly, "apply -f @temp.yaml --dry-run").await,
        "temp would be created\n",
    );
    assert!(mayfly.etcd.get(&key("temp")).await.unwrap().is_none());
    said(&tool(&mayfly, "apply -f @temp.yaml").await, "temp created\n");
    mayfly.answers("www-temp.example.com", "frontend@0.0.1").await;

    let before = mayfly.etcd.get(&key("temp")).await.unwrap();
    said(&tool(&mayfly, "apply -f @temp.yaml").await, "temp unchanged\n");
    // Of this key alone: the router's status may be written at the same time.
    assert_eq!(mayfly.etcd.writes_of(&key("temp")).await.unwrap(), 1);
    assert_eq!(mayfly.etcd.get(&key("temp")).await.unwrap(), before);

    write(&mayfly, "temp.yaml", &file("0.0.2"));
    said(&tool(&mayfly, "apply -f @temp.yaml").await, "temp changed\n");
    mayfly.answers("www-temp.example.com", "frontend@0.0.2").await;

    // The whole of what is given is checked before anything is written.
    write(
        &mayfly,
        "new.yaml",
        "- name: new\n- {name: other, prefix: www-temp}\n",
    );
    let clash = tool(&mayfly, "apply -f @new.yaml").await;
    refused(
        &clash,
        "other: prefix \"www-temp\" belongs to temp, which was registered by `mayfly apply` on test from temp.yaml",
    );
    write(&mayfly, "bad.yaml", "name: bad\nservises: []\n");
    let bad = tool(&mayfly, "apply -f @new.yaml -f @bad.yaml").await;
    refused(
        &bad,
        "bad.yaml:2:1: servises: unknown field: did you mean `services`?",
    );
    for name in ["new", "other", "bad"] {
        assert!(mayfly.etcd.get(&key(name)).await.unwrap().is_none(), "{name}");
    }

    said(&tool(&mayfly, "delete temp").await, "temp deleted\n");
    eventually(SOON, "temp no longer answers", async || {
        mayfly
            .get("www-temp.example.com", "/")
            .await
            .is_ok_and(|answer| answer.status == 410)
    })
    .await;
    refused(&tool(&mayfly, "delete temp").await, "temp has ended already");
    refused(
        &tool(&mayfly, "delete never").await,
        "there is no environment never",
    );
    let back = tool(&mayfly, "keep temp 1h").await.ok().unwrap();
    assert!(back.starts_with("temp is back; it lives until 2"), "{back}");
    mayfly.answers("www-temp.example.com", "frontend@0.0.2").await;
    // The registrar beside it has nothing to do with any of this.
    assert_eq!(
        mayfly.etcd.get_json(&key("temp")).await.unwrap()["source"]["registrar"],
        "mayfly_apply.test"
    );
}

#[tokio::test]
async fn a_wrong_prefix_is_told_where_nothing_would_be_found() {
    let mayfly = etcd_alone().await;
    let tools: [(&str, &[&str]); 5] = [
        ("mayfly", &["status"]),
        ("mayfly", &["explain", "temp", "frontend"]),
        ("environment-registrar", &["list"]),
        ("container-registrar", &["list"]),
        ("dns-updater", &["list"]),
    ];
    for (tool, arguments) in tools {
        let ended = mayfly.run(tool, arguments).await.unwrap();
        let told = "etcd has no keys below /mayfly: no daemon runs there";
        assert_eq!(ended.code, Some(1), "{tool} {arguments:?}: {ended:?}");
        assert!(
            ended.stderr.contains(told) && ended.stdout.is_empty(),
            "{ended:?}"
        );
    }
    write(&mayfly, "temp.yaml", "name: temp\n");
    let applied = tool(&mayfly, "apply -f @temp.yaml").await;
    assert!(
        applied.stderr.contains("note: etcd has no keys below"),
        "{applied:?}"
    );
    mayfly.etcd.delete_all("/mayfly/").await.unwrap();

    // A Mayfly in which only a daemon runs so far.
    let status = r#"{"applied_revision": 1}"#;
    mayfly
        .etcd
        .put("/mayfly/status/dns-updater/n", status)
        .await
        .unwrap();
    for (tool, arguments) in tools.iter().filter(|(_, arguments)| arguments[0] != "explain") {
        let ended = mayfly.run(tool, arguments).await.unwrap();
        assert_eq!(ended.code, Some(0), "{tool} {arguments:?}: {ended:?}");
    }
}

#[tokio::test]
async fn what_is_kept_keeps_what_only_a_newer_mayfly_knows() {
    let mayfly = etcd_alone().await;
    let record = r#"{"name": "a", "prefix": "a", "header": "a", "expires": "8h", "colour": "blue"}"#;
    for kind in ["environments", "history"] {
        mayfly
            .etcd
            .put(&format!("/mayfly/{kind}/a"), record)
            .await
            .unwrap();
    }
    tool(&mayfly, "keep a 9h").await.ok().unwrap();
    let kept = mayfly.etcd.get_json(&key("a")).await.unwrap();
    assert_eq!(
        (&kept["colour"], &kept["expires"]),
        (&"blue".into(), &"8h".into()),
        "{kept}"
    );
    assert!(kept["life"]["kept_until"].is_string(), "{kept}");
    // Of one that has ended, by its history.
    mayfly.etcd.delete(&key("a")).await.unwrap();
    tool(&mayfly, "keep a 10h").await.ok().unwrap();
    let back = mayfly.etcd.get_json(&key("a")).await.unwrap();
    assert_eq!(back["colour"], "blue", "{back}");
    assert_eq!(back["life"]["revived"], true, "{back}");
}

#[tokio::test]
async fn what_is_kept_outlives_its_end_and_what_has_ended_comes_back() {
    let mayfly = etcd_alone().await;
    write(
        &mayfly,
        "some.yaml",
        "- {name: short, expires: 3s}\n- {name: kept, expires: 3s}\n- {name: idle, idle: 2s}\n- {name: plain}\n- {name: safe, protected: true}\n",
    );
    let applied = tool(&mayfly, "apply -f @some.yaml").await.ok().unwrap();
    assert!(applied.contains("short created, until 2"), "{applied}");
    assert!(mayfly.etcd.lease_of(&key("plain")).await.unwrap().is_none());
    let kept = tool(&mayfly, "keep kept 1h").await.ok().unwrap();
    assert!(kept.starts_with("kept lives until 2"), "{kept}");
    let idle = tool(&mayfly, "keep idle 2days").await.ok().unwrap();
    assert!(
        idle.contains("; after that, while it gets a request at least every 2s"),
        "{idle}"
    );
    for (name, part) in [
        (
            "plain",
            "cannot extend plain: without `expires` and `idle`, it does not end by itself",
        ),
        (
            "safe",
            "cannot extend safe: it is protected, so it does not end by itself",
        ),
        ("never", "there is no environment never"),
    ] {
        refused(&tool(&mayfly, &format!("keep {name} 1h")).await, part);
    }
    let usage = tool(&mayfly, "keep kept soon").await;
    assert_eq!(usage.code, Some(2), "{usage:?}");
    vanishes(&mayfly, "short").await;
    for name in ["kept", "idle"] {
        assert!(mayfly.etcd.get(&key(name)).await.unwrap().is_some(), "{name}");
    }
    let back = tool(&mayfly, "keep short 1h").await.ok().unwrap();
    assert!(back.starts_with("short is back; it lives until 2"), "{back}");
    let record = mayfly.etcd.get_json(&key("short")).await.unwrap();
    assert_eq!(record["life"]["revived"], true, "{record}");
    assert!(mayfly.etcd.lease_of(&key("short")).await.unwrap().is_some());

    // What is applied again begins anew.
    said(&tool(&mayfly, "delete short").await, "short deleted\n");
    write(&mayfly, "short.yaml", "{name: short, expires: 3s}");
    let again = tool(&mayfly, "apply -f @short.yaml").await.ok().unwrap();
    assert!(again.contains("(it had ended)"), "{again}");
}

#[tokio::test]
async fn what_belongs_to_a_registrar_or_is_protected_needs_force() {
    let mut mayfly = etcd_alone().await;
    mayfly.start_registrar(&[]).unwrap();
    mayfly.save("prod.yaml", "{name: prod, protected: true}");
    mayfly.save("qa.yaml", "name: qa\n");
    mayfly.save("dev.yaml", "name: dev\n");
    eventually(SOON, "all are registered", async || -> Result<()> {
        for name in ["prod", "qa", "dev"] {
            ensure!(mayfly.etcd.get(&key(name)).await?.is_some(), "{name} is not");
        }
        Ok(())
    })
    .await;
    write(&mayfly, "mine.yaml", "name: qa\ndescription: mine\n");
    refused(
        &tool(&mayfly, "apply -f @mine.yaml").await,
        "qa: this environment was registered by the registrar of test from its file qa.yaml: change it there, or take it over",
    );
    said(
        &tool(&mayfly, "apply -f @mine.yaml --force").await,
        "qa taken over\n",
    );
    said(
        &tool(&mayfly, "delete dev").await,
        "dev deleted\n  dev was registered by the registrar of test from its file dev.yaml: `mayfly keep dev 8h` brings it back, and so does a change of that file\n",
    );
    // The registrar lets both be, although their files are there.
    throughout(
        Duration::from_secs(1),
        "qa is taken over and dev has ended",
        async || {
            let qa = mayfly.etcd.get_json(&key("qa")).await.unwrap();
            qa["description"] == "mine"
                && qa["source"]["registrar"] == "mayfly_apply.test"
                && mayfly.etcd.get(&key("dev")).await.unwrap().is_none()
        },
    )
    .await;
    let back = tool(&mayfly, "keep dev 1h").await.ok().unwrap();
    assert!(back.starts_with("dev is back; it lives until 2"), "{back}");
    // Its file said nothing of an end; from now on it says this one.
    eventually(SOON, "the end of dev is in force", async || {
        let dev = mayfly.etcd.get_json(&key("dev")).await.ok()?;
        let file = fs::read_to_string(mayfly.environments().join("dev.yaml")).ok()?;
        let is_there = dev["expires"].is_string() && mayfly.etcd.lease_of(&key("dev")).await.ok()?.is_some();
        (is_there && file.contains("expires:")).then_some(())
    })
    .await;
    refused(
        &tool(&mayfly, "delete prod").await,
        "prod is protected: delete it with --force",
    );
    said(
        &tool(&mayfly, "delete prod --force").await,
        "prod deleted\n  prod is protected and was registered by the registrar of test from its file prod.yaml: delete that file, too, or prod comes back\n",
    );
    eventually(SOON, "prod is back from its file", async || {
        mayfly
            .etcd
            .get(&key("prod"))
            .await
            .is_ok_and(|value| value.is_some())
    })
    .await;
    assert!(mayfly.etcd.get(&key("dev")).await.unwrap().is_some());
}
