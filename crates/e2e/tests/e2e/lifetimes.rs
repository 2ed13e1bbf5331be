//! The life of environments: how they end, that they stay away, and how they come back.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::load::Load;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::poll::throughout;
use mayfly_e2e::process::Process;
use mayfly_e2e::process::binary;
use serde_json::{Value, json};

/// Long enough for a registrar to do what it should not.
const WHILE: Duration = Duration::from_millis(700);

/// Without an archive the files of ended environments stay: what becomes of those is for the tests of the archive.
const FILES_STAY: [&str; 2] = ["--archive-keep", "0"];

/// A Mayfly with etcd and the registrar alone.
async fn registrar(arguments: &[&str]) -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly
        .start_registrar(&[&FILES_STAY, arguments].concat())
        .unwrap();
    mayfly
}

fn key(environment: &str) -> String {
    format!("/mayfly/environments/{environment}")
}

fn history(environment: &str) -> String {
    format!("/mayfly/history/{environment}")
}

fn one(name: &str, version: &str, more: &str) -> String {
    format!("{{name: {name}, {more} services: [{{name: frontend, version: {version}, route: /}}]}}\n")
}

async fn lives(etcd: &Etcd, environment: &str) -> Value {
    eventually(SOON, &format!("{environment} lives"), async || {
        etcd.get_json(&key(environment)).await
    })
    .await
}

async fn vanishes(etcd: &Etcd, environment: &str) {
    eventually(SOON, &format!("{environment} is gone"), async || {
        matches!(etcd.get(&key(environment)).await, Ok(None))
    })
    .await;
}

/// Waits until the environment is known by a router, or is not.
async fn routed(mayfly: &Mayfly, environment: &str, status: u16) {
    let host = format!("www-{environment}.example.com");
    eventually(
        SOON,
        &format!("{host} answers {status}"),
        async || -> Result<()> {
            let found = mayfly.get(&host, "/").await?.status;
            ensure!(found == status, "{found}");
            Ok(())
        },
    )
    .await;
}

/// Waits until a daemon has set this aside for a reason that contains this.
async fn set_aside(mayfly: &Mayfly, daemon: &str, key: &str, reason: &str) {
    let what = format!("{daemon} sets {key} aside: {reason}");
    eventually(SOON, &what, async || -> Result<()> {
        let all = mayfly.set_aside(daemon).await?;
        let found = all
            .iter()
            .any(|(found, why)| found == key && why.contains(reason));
        ensure!(found, "set aside are {all:#?}");
        Ok(())
    })
    .await;
}

async fn ended(mayfly: &Mayfly, file: &str, reason: &str) {
    set_aside(mayfly, "environment-registrar", file, reason).await;
}

/// Waits until nothing is set aside by the registrar.
async fn nothing_aside(mayfly: &Mayfly) {
    eventually(SOON, "nothing is set aside", async || -> Result<()> {
        let all = mayfly.set_aside("environment-registrar").await?;
        ensure!(all.is_empty(), "{all:#?}");
        Ok(())
    })
    .await;
}

/// A registrar that has just come: the record of the one before is gone.
async fn restart_registrar(mayfly: &mut Mayfly) {
    let registrar = mayfly.registrar.as_mut().unwrap();
    if registrar.is_running() {
        registrar.kill9().await.unwrap();
    }
    mayfly
        .etcd
        .delete("/mayfly/status/environment-registrar/test")
        .await
        .unwrap();
    mayfly.start_registrar(&FILES_STAY).unwrap();
    eventually(SOON, "the registrar is ready", async || -> Result<()> {
        ensure!(mayfly.status("environment-registrar").await?["ready"] == true);
        Ok(())
    })
    .await;
}

/// What `mayfly keep` does with an environment that has ended.
async fn keep(mayfly: &Mayfly, environment: &str) {
    let mut record = mayfly.etcd.get_json(&history(environment)).await.unwrap();
    record["life"]["kept_until"] = json!("2100-01-01T00:00:00Z");
    record["life"]["revived"] = json!(true);
    let record = record.to_string();
    mayfly.etcd.put(&history(environment), &record).await.unwrap();
    mayfly.etcd.put(&key(environment), &record).await.unwrap();
}

#[tokio::test]
async fn an_environment_expires_with_every_daemon_down_and_only_a_change_brings_it_back() {
    let mut mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "1.0.0").await.unwrap();
    // Only when all is up the time of the short-lived one begins.
    mayfly.save("still.yaml", &one("still", "1.0.0", ""));
    routed(&mayfly, "still", 200).await;
    mayfly.save("a.yaml", &one("a", "1.0.0", "expires: 3s,"));
    routed(&mayfly, "a", 200).await;
    assert!(mayfly.etcd.lease_of(&key("a")).await.unwrap().is_some());
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    // haproxy-updater runs, and nobody else.
    routed(&mayfly, "a", 404).await;
    assert_eq!(mayfly.etcd.get(&key("a")).await.unwrap(), None);
    // Its file is still there.
    restart_registrar(&mut mayfly).await;
    ended(
        &mayfly,
        "a.yaml:a",
        "line 1, column 8: environment a has ended: it expired at ",
    )
    .await;
    ended(
        &mayfly,
        "a.yaml:a",
        "to bring it back, change the file or run `mayfly keep a 8h`",
    )
    .await;
    throughout(WHILE, "it stays away", async || {
        mayfly.etcd.get(&key("a")).await.unwrap().is_none()
    })
    .await;
    mayfly.save("a.yaml", &one("a", "1.0.0", "expires: 4s,"));
    routed(&mayfly, "a", 200).await;
    nothing_aside(&mayfly).await;
    // Now with haproxy-updater down too: it sees it when it is back.
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    mayfly.updater.as_mut().unwrap().kill9().await.unwrap();
    vanishes(&mayfly.etcd, "a").await;
    assert_eq!(mayfly.get("www-a.example.com", "/").await.unwrap().status, 200);
    mayfly.start_updater().unwrap();
    routed(&mayfly, "a", 404).await;
    routed(&mayfly, "still", 200).await;
}

#[tokio::test]
async fn an_environment_that_nobody_uses_ends_and_a_restart_gives_it_no_time() {
    let mut mayfly = registrar(&[]).await;
    mayfly.save("a.yaml", &one("a", "1.0.0", "idle: 3s, expires: 1h,"));
    lives(&mayfly.etcd, "a").await;
    let lease = mayfly.etcd.lease_of(&key("a")).await.unwrap();
    restart_registrar(&mut mayfly).await;
    assert_eq!(mayfly.etcd.lease_of(&key("a")).await.unwrap(), lease);
    vanishes(&mayfly.etcd, "a").await;
    ended(&mayfly, "a.yaml:a", "it was not used for 3s").await;
}

#[tokio::test]
async fn what_would_be_over_is_refused() {
    let mayfly = registrar(&[]).await;
    mayfly.save(
        "a.yaml",
        &one("a", "1.0.0", "expires: 2020-01-31T18:00:00+01:00,"),
    );
    ended(
        &mayfly,
        "a.yaml:a",
        "environment a would have expired at 2020-01-31T17:00:00Z; give it a later `expires`",
    )
    .await;
    assert_eq!(mayfly.etcd.list("/mayfly/history/").await.unwrap().len(), 0);
    assert_eq!(mayfly.etcd.get(&key("a")).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_past_its_end_is_deleted_whoever_registered_it() {
    let mayfly = registrar(&[]).await;
    // As after a restart of etcd, which gives leases their whole time again; and of a registrar that is down.
    let record = json!({"name": "theirs", "prefix": "p", "header": "h", "expires": "2020-01-31T18:00:00Z",
        "source": {"registrar": "them", "file": "theirs.yaml"}});
    mayfly
        .etcd
        .put(&history("theirs"), &record.to_string())
        .await
        .unwrap();
    mayfly
        .etcd
        .put(&key("theirs"), &record.to_string())
        .await
        .unwrap();
    vanishes(&mayfly.etcd, "theirs").await;
    assert!(mayfly.etcd.get(&history("theirs")).await.unwrap().is_some());
}

#[tokio::test]
async fn what_is_removed_through_etcd_stays_away_until_it_is_kept_or_all_is_lost() {
    let mut mayfly = registrar(&[]).await;
    mayfly.save("a.yaml", &one("a", "1.0.0", ""));
    mayfly.save("b.yaml", &one("b", "1.0.0", ""));
    lives(&mayfly.etcd, "b").await;
    lives(&mayfly.etcd, "a").await;
    mayfly.etcd.delete(&key("a")).await.unwrap();
    ended(
        &mayfly,
        "a.yaml:a",
        "it was deleted with `mayfly delete` or through etcd",
    )
    .await;
    restart_registrar(&mut mayfly).await;
    ended(
        &mayfly,
        "a.yaml:a",
        "it was deleted with `mayfly delete` or through etcd",
    )
    .await;
    assert_eq!(mayfly.etcd.get(&key("a")).await.unwrap(), None);
    // Kept, it is an ordinary environment again, since its file is there.
    keep(&mayfly, "a").await;
    eventually(SOON, "it is registered as usual", async || -> Result<()> {
        let life = mayfly.etcd.get_json(&key("a")).await?["life"].take();
        ensure!(
            life["revived"].is_null() && life["kept_until"] == "2100-01-01T00:00:00Z",
            "{life}"
        );
        ensure!(mayfly.etcd.get(&key("a")).await? == mayfly.etcd.get(&history("a")).await?);
        Ok(())
    })
    .await;
    nothing_aside(&mayfly).await;
    // What etcd has lost is registered from the files, ended or not.
    mayfly.etcd.delete(&key("b")).await.unwrap();
    ended(
        &mayfly,
        "b.yaml:b",
        "it was deleted with `mayfly delete` or through etcd",
    )
    .await;
    mayfly.etcd.restart_emptied().await.unwrap();
    lives(&mayfly.etcd, "a").await;
    lives(&mayfly.etcd, "b").await;
    mayfly.etcd.delete_all("/mayfly/").await.unwrap();
    lives(&mayfly.etcd, "a").await;
    lives(&mayfly.etcd, "b").await;
}

#[tokio::test]
async fn what_was_kept_after_its_file_went_stays() {
    let mayfly = registrar(&["--grace", "100ms"]).await;
    mayfly.save("a.yaml", &one("a", "1.0.0", ""));
    lives(&mayfly.etcd, "a").await;
    mayfly.etcd.delete(&key("a")).await.unwrap();
    ended(
        &mayfly,
        "a.yaml:a",
        "it was deleted with `mayfly delete` or through etcd",
    )
    .await;
    mayfly.remove("a.yaml");
    nothing_aside(&mayfly).await;
    keep(&mayfly, "a").await;
    throughout(WHILE, "it stays", async || {
        mayfly.etcd.get(&key("a")).await.unwrap().is_some()
    })
    .await;
}

#[tokio::test]
async fn a_file_deleted_while_the_registrar_is_down_takes_its_environment_along_and_may_return() {
    let mut mayfly = registrar(&[]).await;
    let file = one("a", "1.0.0", "expires: 8h,");
    mayfly.save("a.yaml", &file);
    let first = lives(&mayfly.etcd, "a").await;
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    mayfly.remove("a.yaml");
    restart_registrar(&mut mayfly).await;
    vanishes(&mayfly.etcd, "a").await;
    assert_eq!(mayfly.etcd.get(&history("a")).await.unwrap(), None);
    mayfly.save("a.yaml", &file);
    let again = lives(&mayfly.etcd, "a").await;
    assert_eq!(again["services"], first["services"]);
    nothing_aside(&mayfly).await;
}

#[tokio::test]
async fn a_protected_environment_outlives_its_file_and_a_delete_in_etcd() {
    let mut mayfly = registrar(&["--grace", "100ms"]).await;
    mayfly.save("prod.yaml", &one("prod", "1.0.0", "protected: true,"));
    lives(&mayfly.etcd, "prod").await;
    mayfly.etcd.delete(&key("prod")).await.unwrap();
    lives(&mayfly.etcd, "prod").await;
    mayfly.remove("prod.yaml");
    ended(&mayfly, "prod.yaml:prod", "stays because it is protected").await;
    throughout(WHILE, "it stays", async || {
        mayfly.etcd.get(&key("prod")).await.unwrap().is_some()
    })
    .await;
    restart_registrar(&mut mayfly).await;
    ended(&mayfly, "prod.yaml:prod", "stays because it is protected").await;
    // Not protected any more, it goes with its file.
    mayfly.save("prod.yaml", &one("prod", "1.0.0", ""));
    eventually(SOON, "it is not protected", async || -> Result<()> {
        let record = mayfly.etcd.get_json(&key("prod")).await?;
        ensure!(record["protected"].is_null(), "{record}");
        Ok(())
    })
    .await;
    mayfly.remove("prod.yaml");
    vanishes(&mayfly.etcd, "prod").await;
    // And by force it goes in any case.
    mayfly.save("prod.yaml", &one("prod", "1.0.0", "protected: true,"));
    lives(&mayfly.etcd, "prod").await;
    mayfly.remove("prod.yaml");
    ended(&mayfly, "prod.yaml:prod", "`watch --force`").await;
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    mayfly.start_registrar(&["--force"]).unwrap();
    vanishes(&mayfly.etcd, "prod").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_renamed_file_and_a_moved_environment_make_no_gap_and_begin_no_new_life() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "1.0.0").await.unwrap();
    mayfly.save("a.yaml", &one("a", "1.0.0", "expires: 8h,"));
    mayfly.answers("www-a.example.com", "frontend@1.0.0").await;
    let life = lives(&mayfly.etcd, "a").await["life"].take();
    let load = Load::start(mayfly.edge, Request::get("www-a.example.com", "/"));
    let comes_from = async |file: &str| {
        eventually(SOON, file, async || -> Result<()> {
            let record = mayfly.etcd.get_json(&key("a")).await?;
            ensure!(record["source"]["file"] == file, "{record}");
            Ok(())
        })
        .await;
    };
    let directory = mayfly.environments();
    std::fs::rename(directory.join("a.yaml"), directory.join("b.yaml")).unwrap();
    comes_from("b.yaml").await;
    mayfly.save(
        "list.yaml",
        &format!("- {{name: other}}\n- {}", one("a", "1.0.0", "expires: 8h,")),
    );
    lives(&mayfly.etcd, "other").await;
    mayfly.remove("b.yaml");
    comes_from("list.yaml").await;
    load.stop().await.assert_flawless(1);
    assert_eq!(lives(&mayfly.etcd, "a").await["life"], life);
}

/// A registrar of another node, on a directory of its own.
fn second(mayfly: &Mayfly) -> Process {
    let mut command = Command::new(binary("environment-registrar").unwrap());
    command.args(["--etcd", &mayfly.etcd.endpoint(), "--node", "second", "watch"]);
    command.arg(mayfly.directory().join("second"));
    mayfly.spawn("second", &command).unwrap()
}

#[tokio::test]
async fn the_second_of_two_takes_over_when_the_first_ends_across_files_and_registrars() {
    let mut mayfly = Mayfly::start().await.unwrap();
    // Its file would move into the archive, and be set aside no more.
    restart_registrar(&mut mayfly).await;
    let _one = mayfly.instance("frontend", "1.0.0").await.unwrap();
    let _two = mayfly.instance("frontend", "2.0.0").await.unwrap();
    mayfly.save("a.yaml", &one("a", "1.0.0", "expires: 7s, prefix: www-shared,"));
    mayfly.answers("www-shared.example.com", "frontend@1.0.0").await;
    let directory = mayfly.directory().join("second");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join("c.yaml"), one("c", "2.0.0", "prefix: www-shared,")).unwrap();
    std::fs::write(
        directory.join("name.yaml"),
        one("a", "2.0.0", "prefix: www-name, header: other,"),
    )
    .unwrap();
    mayfly.save("header.yaml", &one("b", "2.0.0", "header: a,"));
    let _second = second(&mayfly);
    let told = async |key: &str, reason: &str| {
        eventually(SOON, reason, async || -> Result<()> {
            let status = mayfly
                .etcd
                .get_json("/mayfly/status/environment-registrar/second")
                .await?;
            let all = status["set_aside"].as_array().cloned().unwrap_or_default();
            let is_it = |entry: &Value| entry["key"] == key && entry["reason"].to_string().contains(reason);
            ensure!(all.iter().any(is_it), "{status}");
            Ok(())
        })
        .await;
    };
    told(
        "c.yaml:c",
        "prefix www-shared is taken by environment a of the registrar of node test",
    )
    .await;
    told(
        "name.yaml:a",
        "environment a is registered by the registrar of node test",
    )
    .await;
    ended(
        &mayfly,
        "header.yaml:b",
        "header a is taken by environment a of a.yaml",
    )
    .await;
    // The first ends by its lease: each of the three gets what it waits for.
    mayfly.answers("www-shared.example.com", "frontend@2.0.0").await;
    mayfly.answers("www-name.example.com", "frontend@2.0.0").await;
    mayfly.calls("a", "frontend", "frontend@2.0.0").await;
    mayfly.calls("other", "frontend", "frontend@2.0.0").await;
    ended(&mayfly, "a.yaml:a", "environment a").await;
    let all = mayfly.set_aside("haproxy-updater").await.unwrap();
    assert!(all.is_empty(), "{all:#?}");
}

#[tokio::test]
async fn a_rival_that_others_put_into_etcd_is_set_aside_by_router_and_registrar() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "1.0.0").await.unwrap();
    mayfly.save("a.yaml", &one("a", "1.0.0", "prefix: www-shared,"));
    mayfly.answers("www-shared.example.com", "frontend@1.0.0").await;
    let rival = r#"{"name":"rival","prefix":"www-shared","header":"rival","services":[{"name":"frontend","version":"1.0.0","routes":["/"]}]}"#;
    mayfly.etcd.put(&key("rival"), rival).await.unwrap();
    set_aside(&mayfly, "haproxy-updater", &key("rival"), "www-shared").await;
    ended(
        &mayfly,
        &key("rival"),
        "prefix www-shared is taken by environment a of a.yaml, which was registered first",
    )
    .await;
    let inside = mayfly.get("www-shared.example.com", "/").await.unwrap();
    assert_eq!(inside.echo().unwrap().header("x-mayfly"), "a");
    mayfly.remove("a.yaml");
    eventually(SOON, "the rival takes over", async || -> Result<()> {
        let answer = mayfly.get("www-shared.example.com", "/").await?;
        ensure!(answer.status == 200 && answer.echo()?.header("x-mayfly") == "rival");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn of_five_environments_in_a_file_the_broken_one_keeps_its_last_good_version() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "1.0.0").await.unwrap();
    let _two = mayfly.instance("frontend", "2.0.0").await.unwrap();
    let list = |version: &str, broken: &str| -> String {
        let line = |name: &str| match name {
            "c" => format!("- {}", one("c", version, broken)),
            _ => format!("- {}", one(name, version, "")),
        };
        ["a", "b", "c", "d", "e"].map(line).concat()
    };
    mayfly.save("five.yaml", &list("1.0.0", ""));
    for name in ["a", "b", "c", "d", "e"] {
        mayfly
            .answers(&format!("www-{name}.example.com"), "frontend@1.0.0")
            .await;
    }
    mayfly.save("five.yaml", &list("2.0.0", "owner: me,"));
    for name in ["a", "b", "d", "e"] {
        mayfly
            .answers(&format!("www-{name}.example.com"), "frontend@2.0.0")
            .await;
    }
    ended(
        &mayfly,
        "five.yaml:c",
        "line 3, column 13, [2].owner: unknown field",
    )
    .await;
    // The router sees no files: the registrar tells it in the record.
    set_aside(
        &mayfly,
        "haproxy-updater",
        &key("c"),
        "the newest content of this environment was refused: five.yaml:3:13: [2].owner: unknown \
         field",
    )
    .await;
    mayfly.answers("www-c.example.com", "frontend@1.0.0").await;
    let life = |record: Value| record["life"]["registered_at"].clone();
    let since = life(lives(&mayfly.etcd, "c").await);
    assert_eq!(mayfly.set_aside("haproxy-updater").await.unwrap().len(), 1);

    // A part that is no YAML may be about any of them: the older version of each stays, and it is told of each.
    mayfly.save("five.yaml", &list("1.0.0", "["));
    for name in ["a", "b", "c", "d", "e"] {
        set_aside(&mayfly, "haproxy-updater", &key(name), "refused: five.yaml:").await;
    }
    mayfly.answers("www-a.example.com", "frontend@2.0.0").await;

    mayfly.save("five.yaml", &list("2.0.0", ""));
    mayfly.answers("www-c.example.com", "frontend@2.0.0").await;
    nothing_aside(&mayfly).await;
    eventually(SOON, "the router has nothing to tell", async || -> Result<()> {
        let all = mayfly.set_aside("haproxy-updater").await?;
        ensure!(all.is_empty(), "{all:#?}");
        Ok(())
    })
    .await;
    let record = lives(&mayfly.etcd, "c").await;
    assert!(record["life"]["refused"].is_null());
    assert_eq!(life(record), since);
}
