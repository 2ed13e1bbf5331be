//! Earlier contents of environments, and the files of those that have ended.

use std::fs;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};

/// A Mayfly with etcd and the registrar alone.
async fn registrar(arguments: &[&str]) -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly.start_registrar(arguments).unwrap();
    mayfly
}

fn key(environment: &str) -> String {
    format!("/mayfly/environments/{environment}")
}

fn one(name: &str, version: &str) -> String {
    format!("# {version} of {name}\nname: {name}\nservices: [{{name: backend, version: {version}}}]\n")
}

/// What is archived of an environment, the oldest first.
fn archived(mayfly: &Mayfly, environment: &str) -> Vec<String> {
    let directory = mayfly.directory().join("archive").join(environment);
    let Ok(entries) = fs::read_dir(&directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    // `-2.yaml` comes after `.yaml`, and ten after nine.
    paths.sort_by_key(|path| {
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let (second, number) = stem.split_at(stem.find('Z').unwrap());
        (
            second.to_owned(),
            number.trim_start_matches("Z-").parse().unwrap_or(1),
        )
    });
    // The registrar may delete the oldest one between the listing and the reading.
    paths
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect()
}

async fn becomes(mayfly: &Mayfly, environment: &str, version: &str) {
    let what = format!("{environment} chooses {version}");
    eventually(SOON, &what, async || -> Result<()> {
        let found = mayfly.etcd.get_json(&key(environment)).await?;
        ensure!(found["services"][0]["version"] == version, "found {found}");
        Ok(())
    })
    .await;
}

async fn holds(mayfly: &Mayfly, environment: &str, expected: &[String]) {
    let what = format!("the archive of {environment}");
    eventually(SOON, &what, async || -> Result<()> {
        let found = archived(mayfly, environment);
        ensure!(found == expected, "found {found:?}");
        Ok(())
    })
    .await;
}

async fn is_set_aside(mayfly: &Mayfly, key: &str, reason: &str) {
    let what = format!("{key} is set aside: {reason}");
    eventually(SOON, &what, async || -> Result<()> {
        let entries = mayfly.set_aside("environment-registrar").await?;
        let found = entries
            .iter()
            .any(|(k, r)| k.ends_with(key) && r.contains(reason));
        ensure!(found, "found {entries:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn earlier_contents_are_archived_and_the_newest_are_kept() {
    let mut mayfly = registrar(&["--archive-keep", "3"]).await;
    let content = |version: u8| one("a", &format!("1.0.{version}"));
    for version in 1..=4 {
        mayfly.save("a.yaml", &content(version));
        becomes(&mayfly, "a", &format!("1.0.{version}")).await;
        let oldest = version.saturating_sub(2).max(1);
        holds(&mayfly, "a", &(oldest..=version).map(content).collect::<Vec<_>>()).await;
    }
    let names: Vec<_> = fs::read_dir(mayfly.directory().join("archive/a"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("20") && name.ends_with(".yaml") && !name.contains(':')),
        "{names:?}"
    );
    // What took effect is there also where the file changed while nobody looked.
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    mayfly.save("a.yaml", &content(5));
    mayfly.start_registrar(&["--archive-keep", "3"]).unwrap();
    holds(&mayfly, "a", &(3..=5).map(content).collect::<Vec<_>>()).await;
    // And when the file is deleted, its content is there already.
    mayfly.remove("a.yaml");
    eventually(SOON, "a is gone", async || {
        mayfly
            .etcd
            .get(&key("a"))
            .await
            .is_ok_and(|value| value.is_none())
    })
    .await;
    assert_eq!(archived(&mayfly, "a").last(), Some(&content(5)));
}

#[tokio::test]
async fn the_file_of_an_environment_that_ended_moves_into_the_archive() {
    let mayfly = registrar(&[]).await;
    let short = format!("{}expires: 2s\n", one("short", "1.0.0"));
    mayfly.save("short.yaml", &short);
    mayfly.save("removed.yaml", &one("removed", "1.0.0"));
    let both = format!("{}---\n{}", one("first", "1.0.0"), one("second", "1.0.0"));
    mayfly.save("both.yaml", &both);
    for name in ["removed", "first", "second"] {
        becomes(&mayfly, name, "1.0.0").await;
    }
    for name in ["removed", "first"] {
        mayfly.etcd.delete(&key(name)).await.unwrap();
    }
    let goes = async |file: &str| {
        eventually(SOON, &format!("{file} moves away"), async || {
            !mayfly.environments().join(file).exists()
        })
        .await;
    };
    goes("removed.yaml").await;
    holds(&mayfly, "removed", &[one("removed", "1.0.0")]).await;
    goes("short.yaml").await;
    holds(&mayfly, "short", &[short]).await;
    // A file that holds more stays as it is.
    is_set_aside(&mayfly, "both.yaml:first", "has ended").await;
    assert_eq!(
        fs::read_to_string(mayfly.environments().join("both.yaml")).unwrap(),
        both
    );
    assert!(mayfly.etcd.get(&key("first")).await.unwrap().is_none());
    assert!(mayfly.etcd.get(&key("second")).await.unwrap().is_some());
    assert_eq!(archived(&mayfly, "first").len(), 1);
    // What has been moved away comes back by being saved again, changed.
    mayfly.save("removed.yaml", &one("removed", "1.0.1"));
    becomes(&mayfly, "removed", "1.0.1").await;
    holds(
        &mayfly,
        "removed",
        &[one("removed", "1.0.0"), one("removed", "1.0.1")],
    )
    .await;
}

#[tokio::test]
async fn an_archive_that_cannot_be_written_holds_up_nothing_and_is_said() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    // Tests may run as root, who may write anywhere; nobody makes a directory below a file.
    fs::write(mayfly.directory().join("archive"), "in the way").unwrap();
    mayfly.start_registrar(&[]).unwrap();
    for version in ["1.0.0", "1.0.1"] {
        mayfly.save("a.yaml", &one("a", version));
        becomes(&mayfly, "a", version).await;
    }
    is_set_aside(&mayfly, "/archive", "nothing is archived").await;
    // Without an archive the file is all that is left: it stays.
    mayfly.etcd.delete(&key("a")).await.unwrap();
    is_set_aside(&mayfly, "a.yaml:a", "has ended").await;
    assert!(mayfly.environments().join("a.yaml").exists());
    let told = mayfly
        .registrar
        .as_ref()
        .unwrap()
        .output()
        .matches("nothing is archived")
        .count();
    assert_eq!(told, 1, "once");
    fs::remove_file(mayfly.directory().join("archive")).unwrap();
    holds(&mayfly, "a", &[one("a", "1.0.0"), one("a", "1.0.1")]).await;
    eventually(SOON, "nothing is set aside, and the file is gone", async || {
        let entries = mayfly.set_aside("environment-registrar").await;
        entries.is_ok_and(|entries| entries.is_empty()) && !mayfly.environments().join("a.yaml").exists()
    })
    .await;
}

#[tokio::test]
async fn the_file_of_an_environment_that_is_kept_after_its_end_comes_back() {
    let mayfly = registrar(&[]).await;
    let text = format!("{}idle: 1h\n", one("a", "1.0.0"));
    mayfly.save("a.yaml", &text);
    becomes(&mayfly, "a", "1.0.0").await;
    mayfly.etcd.delete(&key("a")).await.unwrap();
    eventually(SOON, "the file moves away", async || {
        !mayfly.environments().join("a.yaml").exists()
    })
    .await;
    // As `mayfly keep` does.
    let mut record = mayfly.etcd.get_json("/mayfly/history/a").await.unwrap();
    record["life"]["kept_until"] = "2099-01-01T00:00:00Z".into();
    record["life"]["revived"] = true.into();
    mayfly
        .etcd
        .put("/mayfly/history/a", &record.to_string())
        .await
        .unwrap();
    mayfly.etcd.put(&key("a"), &record.to_string()).await.unwrap();
    eventually(
        SOON,
        "the file is back, and the record says so",
        async || -> Result<()> {
            let found = fs::read_to_string(mayfly.environments().join("a.yaml"))?;
            ensure!(found == text, "found {found}");
            let record = mayfly.etcd.get_json(&key("a")).await?;
            ensure!(record["life"]["revived"].is_null(), "found {record}");
            Ok(())
        },
    )
    .await;
}

#[tokio::test]
async fn the_archive_does_not_lie_in_what_is_watched() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let (watched, inside) = (mayfly.environments(), mayfly.environments().join("old"));
    let arguments = [
        "watch",
        watched.to_str().unwrap(),
        "--archive",
        inside.to_str().unwrap(),
    ];
    let refused = mayfly.run("environment-registrar", &arguments).await.unwrap();
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("choose another place with --archive"),
        "{refused:?}"
    );
}
