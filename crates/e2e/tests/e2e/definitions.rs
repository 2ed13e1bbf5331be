//! Service definitions: files of a directory of their own become keys, with all that holds for environment files. What
//! comes by `git push` stands in `git.rs`.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::poll::throughout;
use mayfly_e2e::process::Process;
use serde_json::{Value, json};

/// Longer than the grace of the registrars here.
const A_WHILE: Duration = Duration::from_millis(1500);
const GRACE: [&str; 2] = ["--grace", "300ms"];

fn definition(name: &str, port: u16) -> String {
    format!("name: {name}\nimage: 'team/{name}:{{{{ version }}}}'\nport: {port}\n")
}

fn directory(mayfly: &Mayfly) -> PathBuf {
    mayfly.directory().join("services")
}

/// Saves a definition as careful programs do: written beside, then renamed.
fn save(mayfly: &Mayfly, file: &str, text: &str) {
    let beside = mayfly.directory().join(format!("{file}.new"));
    fs::write(&beside, text).unwrap();
    fs::rename(beside, directory(mayfly).join(file)).unwrap();
}

fn remove(mayfly: &Mayfly, file: &str) {
    fs::remove_file(directory(mayfly).join(file)).unwrap();
}

/// etcd, and a registrar that has nothing to do yet.
async fn mayfly(arguments: &[&str]) -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    fs::create_dir(directory(&mayfly)).unwrap();
    start(&mut mayfly, arguments);
    mayfly
}

fn start(mayfly: &mut Mayfly, arguments: &[&str]) {
    mayfly.start_registrar(&[&GRACE[..], arguments].concat()).unwrap();
}

/// Kills the registrar and starts another, whose status record is nobody else's.
async fn start_anew(mayfly: &mut Mayfly) {
    mayfly.registrar.as_mut().unwrap().kill9().await.unwrap();
    let status = "/mayfly/status/environment-registrar/test";
    mayfly.etcd.delete(status).await.unwrap();
    start(mayfly, &[]);
}

/// What is registered, as `service:port@file`, each with a blank before it.
async fn all(mayfly: &Mayfly) -> Result<String> {
    let mut all = String::new();
    for (key, value) in mayfly.etcd.list("/mayfly/services/").await? {
        let record: Value = serde_json::from_str(&value)?;
        let name = key.rsplit('/').next().unwrap_or_default();
        let file = record["source"]["file"].as_str().unwrap_or("?");
        all += &format!(" {name}:{}@{file}", record["port"]);
    }
    Ok(all)
}

async fn becomes(mayfly: &Mayfly, expected: &str) {
    eventually(
        SOON,
        &format!("registered is{expected}"),
        async || -> Result<()> {
            let found = all(mayfly).await?;
            ensure!(found == expected, "registered is{found}");
            Ok(())
        },
    )
    .await;
}

async fn stays(mayfly: &Mayfly, expected: &str) {
    throughout(
        A_WHILE,
        &format!("registered is{expected}"),
        async || -> Result<()> {
            let found = all(mayfly).await?;
            ensure!(found == expected, "registered is{found}");
            Ok(())
        },
    )
    .await;
}

/// Waits until this is set aside in the status record, and told in the log, for a reason that holds all these words.
async fn told(mayfly: &Mayfly, key: &str, words: &[&str]) {
    let holds = |text: &str| words.iter().all(|word| text.contains(word));
    eventually(
        SOON,
        &format!("{key} is set aside: {words:?}"),
        async || -> Result<()> {
            let all = mayfly.set_aside("environment-registrar").await?;
            ensure!(
                all.iter().any(|(found, reason)| found == key && holds(reason)),
                "{all:#?}"
            );
            Ok(())
        },
    )
    .await;
    let log = mayfly.registrar.as_ref().unwrap().output();
    let subject = match key.split_once(':') {
        Some((file, name)) => format!("`{name}` of {file}"),
        None => key.to_owned(),
    };
    let line = |line: &str| line.contains("WARN") && line.contains(&subject) && holds(line);
    assert!(log.lines().any(line), "{log}");
}

async fn nothing_is_told(mayfly: &Mayfly) {
    eventually(SOON, "nothing is set aside", async || -> Result<()> {
        let all = mayfly.set_aside("environment-registrar").await?;
        ensure!(all.is_empty(), "{all:#?}");
        Ok(())
    })
    .await;
}

async fn says(process: &Process, words: &str) {
    eventually(SOON, &format!("{} says {words}", process.name()), async || {
        process.output().contains(words)
    })
    .await;
}

#[tokio::test]
async fn a_file_becomes_a_key_changes_with_it_and_goes_with_it() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    start(&mut mayfly, &[]);
    eventually(SOON, "the registrar is ready", async || -> Result<()> {
        let status = mayfly.status("environment-registrar").await?;
        ensure!(status["ready"] == true, "{status}");
        Ok(())
    })
    .await;
    // Nobody has to have definitions.
    nothing_is_told(&mayfly).await;
    let log = mayfly.registrar.as_ref().unwrap().output();
    assert!(!log.contains("WARN"), "{log}");

    fs::create_dir(directory(&mayfly)).unwrap();
    let text = "\
name: backend.service
image: \"${DOCKER_ACCOUNT_NAME}/backend:{{ version }}\"
versions: \">=0.0.1\"
port: 8080
check: /health
instances: 2
command: [serve, --level, 1.10]
env: {LOG_LEVEL: info, RATIO: 1.10}
networks: mayfly
memory: 256m
volumes: [\"/srv/data:/data\"]
";
    save(&mayfly, "backend.yaml", text);
    becomes(&mayfly, " backend:8080@backend.yaml").await;
    let expected = json!({
        "name": "backend", "image": "${DOCKER_ACCOUNT_NAME}/backend:{{ version }}", "versions": ">=0.0.1", "port": 8080,
        "check": "/health", "protocol": "http", "instances": 2, "command": ["serve", "--level", "1.10"],
        "env": {"LOG_LEVEL": "info", "RATIO": "1.10"}, "networks": ["mayfly"], "memory": "256m",
        "volumes": ["/srv/data:/data"], "source": {"registrar": "test", "file": "backend.yaml"},
    });
    assert_eq!(
        mayfly.etcd.get_json("/mayfly/services/backend").await.unwrap(),
        expected
    );
    assert_eq!(
        mayfly.etcd.lease_of("/mayfly/services/backend").await.unwrap(),
        None
    );

    // Several in a file, one written in place, and what is none of ours.
    fs::write(
        directory(&mayfly).join("more.yml"),
        format!("{}---\n{}", definition("a", 1), definition("b", 2)),
    )
    .unwrap();
    fs::write(directory(&mayfly).join("backend.env"), "SERVICE=backend\n").unwrap();
    becomes(&mayfly, " a:1@more.yml b:2@more.yml backend:8080@backend.yaml").await;
    save(&mayfly, "backend.yaml", &definition("backend", 81));
    becomes(&mayfly, " a:1@more.yml b:2@more.yml backend:81@backend.yaml").await;
    save(&mayfly, "more.yml", &definition("b", 3));
    remove(&mayfly, "backend.yaml");
    becomes(&mayfly, " b:3@more.yml").await;
    // It moves silently.
    fs::rename(
        directory(&mayfly).join("more.yml"),
        directory(&mayfly).join("b.yaml"),
    )
    .unwrap();
    becomes(&mayfly, " b:3@b.yaml").await;
    nothing_is_told(&mayfly).await;
}

#[tokio::test]
async fn a_fault_is_told_with_its_place_and_the_last_good_version_stays() {
    let mut mayfly = mayfly(&[]).await;
    save(&mayfly, "backend.yaml", &definition("backend", 80));
    becomes(&mayfly, " backend:80@backend.yaml").await;
    let bad = "name: backend\nimage: 'backend:{{ version }}'\npot: 81\n";
    save(&mayfly, "backend.yaml", bad);
    let place = ["line 3, column 1, pot", "did you mean `port`?"];
    told(&mayfly, "services/backend.yaml:backend", &place).await;
    // Everything else goes on, also an environment of the same file name.
    save(&mayfly, "other.yaml", &definition("other", 1));
    mayfly.save("backend.yaml", "name: backend\nowner: me\n");
    told(&mayfly, "backend.yaml:backend", &["line 2, column 1, owner"]).await;
    becomes(&mayfly, " backend:80@backend.yaml other:1@other.yaml").await;
    // Also over a restart, and when nothing of it can be read any more.
    start_anew(&mut mayfly).await;
    told(&mayfly, "services/backend.yaml:backend", &place).await;
    save(&mayfly, "backend.yaml", "[");
    told(
        &mayfly,
        "services/backend.yaml",
        &["line 2, column 1", "not YAML"],
    )
    .await;
    stays(&mayfly, " backend:80@backend.yaml other:1@other.yaml").await;
    save(&mayfly, "backend.yaml", &definition("backend", 82));
    becomes(&mayfly, " backend:82@backend.yaml other:1@other.yaml").await;
    mayfly.remove("backend.yaml");
    nothing_is_told(&mayfly).await;
}

#[tokio::test]
async fn what_may_not_be_had_is_refused_by_name_and_with_the_reason() {
    let mayfly = mayfly(&[]).await;
    for (field, reason) in [
        ("privileged: true", "container's privileges"),
        ("cap_add: [SYS_ADMIN]", "container's privileges"),
        ("devices: [/dev/sda]", "gives no device"),
        ("user: root", "user of its image"),
        ("network_mode: host", "no namespace"),
        ("pid: host", "no namespace"),
        ("ports: ['80:80']", "no port of the host"),
        (
            "mounts: [{type: bind, source: /, target: /host}]",
            "can only read files of the host",
        ),
        ("volumes: ['/etc:/etc:rw']", "volumes are read-only"),
        ("volumes: ['/srv/../etc:/etc']", "without `.` and `..`"),
        ("networks: [host]", "the host's network is not allowed"),
    ] {
        let asked = format!("- {{name: greedy, image: 'a:{{{{ version }}}}', port: 80, {field}}}\n");
        let port = u16::try_from(reason.len()).unwrap();
        let modest = format!("- {{name: modest, image: 'a:{{{{ version }}}}', port: {port}}}\n");
        save(&mayfly, "services.yaml", &(asked + &modest));
        let name = field.split(':').next().unwrap();
        told(
            &mayfly,
            "services/services.yaml:greedy",
            &["line 1, column", name, reason],
        )
        .await;
        becomes(&mayfly, &format!(" modest:{port}@services.yaml")).await;
    }
    // Aliases that stand for millions of values, and levels without an end.
    let mut bomb = "a0: &a0 [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for level in 1..20 {
        let aliases = vec![format!("*a{}", level - 1); 9].join(",");
        bomb += &format!("a{level}: &a{level} [{aliases}]\n");
    }
    save(&mayfly, "bomb.yaml", &bomb);
    told(&mayfly, "services/bomb.yaml", &["aliases expand to too much"]).await;
    save(&mayfly, "deep.yaml", &"[".repeat(100_000));
    told(&mayfly, "services/deep.yaml", &["too many levels"]).await;
    save(&mayfly, "last.yaml", &definition("last", 1));
    let port = "the host's network is not allowed".len();
    becomes(&mayfly, &format!(" last:1@last.yaml modest:{port}@services.yaml")).await;
}

#[tokio::test]
async fn of_two_files_the_one_that_was_registered_first_has_the_service() {
    let mut mayfly = mayfly(&[]).await;
    save(&mayfly, "b.yaml", &definition("backend", 80));
    becomes(&mayfly, " backend:80@b.yaml").await;
    save(&mayfly, "a.yaml", &definition("backend", 81));
    let reason = [
        "line 1, column 7",
        "service backend is already registered from b.yaml",
    ];
    told(&mayfly, "services/a.yaml:backend", &reason).await;
    // Who came first is known over a restart, and while that file has a fault.
    start_anew(&mut mayfly).await;
    told(&mayfly, "services/a.yaml:backend", &reason).await;
    save(&mayfly, "b.yaml", "name: backend\n");
    told(&mayfly, "services/b.yaml:backend", &["missing"]).await;
    stays(&mayfly, " backend:80@b.yaml").await;
    remove(&mayfly, "b.yaml");
    becomes(&mayfly, " backend:81@a.yaml").await;
    nothing_is_told(&mayfly).await;
}

#[tokio::test]
async fn what_somebody_else_registered_is_left_alone() {
    let mut mayfly = mayfly(&[]).await;
    let theirs = json!({
        "name": "theirs", "image": "a:{{ version }}", "port": 1,
        "source": {"registrar": "them", "file": "theirs.yaml"},
    });
    let by_hand = json!({"name": "by-hand", "image": "a:{{ version }}", "port": 2});
    for record in [&theirs, &by_hand] {
        let key = format!("/mayfly/services/{}", record["name"].as_str().unwrap());
        mayfly.etcd.put(&key, &record.to_string()).await.unwrap();
    }
    save(&mayfly, "theirs.yaml", &definition("theirs", 80));
    save(&mayfly, "by-hand.yaml", &definition("by-hand", 81));
    save(&mayfly, "mine.yaml", &definition("mine", 82));
    told(
        &mayfly,
        "services/theirs.yaml:theirs",
        &["is defined by the registrar of node them"],
    )
    .await;
    told(
        &mayfly,
        "services/by-hand.yaml:by-hand",
        &["is defined by a program other than a registrar"],
    )
    .await;
    let expected = " by-hand:2@? mine:82@mine.yaml theirs:1@theirs.yaml";
    becomes(&mayfly, expected).await;
    // What is written over ours by hand is put right, and what is no definition is told.
    for value in ["no JSON", &by_hand.to_string().replace("by-hand", "mine")] {
        mayfly.etcd.put("/mayfly/services/mine", value).await.unwrap();
        becomes(&mayfly, expected).await;
    }
    mayfly.etcd.put("/mayfly/services/%", "x").await.unwrap();
    told(&mayfly, "/mayfly/services/%", &["is not a service name"]).await;
    mayfly.etcd.delete("/mayfly/services/%").await.unwrap();
    // Without files of ours nothing but ours goes.
    for file in ["theirs.yaml", "by-hand.yaml", "mine.yaml"] {
        remove(&mayfly, file);
    }
    becomes(&mayfly, " by-hand:2@? theirs:1@theirs.yaml").await;
    start_anew(&mut mayfly).await;
    save(&mayfly, "mine.yaml", &definition("mine", 83));
    becomes(&mayfly, " by-hand:2@? mine:83@mine.yaml theirs:1@theirs.yaml").await;
}

#[tokio::test]
async fn what_etcd_lost_is_put_again_and_an_etcd_that_is_gone_is_waited_for() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    fs::create_dir(directory(&mayfly)).unwrap();
    save(&mayfly, "a.yaml", &definition("a", 1));
    save(&mayfly, "b.yaml", &definition("b", 2));
    start(&mut mayfly, &[]);
    says(mayfly.registrar.as_ref().unwrap(), "retrying").await;
    mayfly.etcd.restart().await.unwrap();
    becomes(&mayfly, " a:1@a.yaml b:2@b.yaml").await;
    // The last good version too, which stands nowhere else.
    save(&mayfly, "b.yaml", "name: b\n");
    told(&mayfly, "services/b.yaml:b", &["missing"]).await;
    mayfly.etcd.restart_emptied().await.unwrap();
    becomes(&mayfly, " a:1@a.yaml b:2@b.yaml").await;
    mayfly.etcd.delete_all("/mayfly/services/").await.unwrap();
    becomes(&mayfly, " a:1@a.yaml b:2@b.yaml").await;
    mayfly.etcd.kill9().await.unwrap();
    save(&mayfly, "a.yaml", &definition("a", 3));
    remove(&mayfly, "b.yaml");
    mayfly.etcd.restart().await.unwrap();
    becomes(&mayfly, " a:3@a.yaml").await;
}

#[tokio::test]
async fn while_the_directory_cannot_be_read_nothing_is_deleted() {
    let mut mayfly = mayfly(&["--poll", "50ms"]).await;
    save(&mayfly, "a.yaml", &definition("a", 1));
    save(&mayfly, "b.yaml", &definition("b", 2));
    becomes(&mayfly, " a:1@a.yaml b:2@b.yaml").await;
    let aside = mayfly.directory().join("aside");
    fs::rename(directory(&mayfly), &aside).unwrap();
    told(
        &mayfly,
        "services/",
        &["cannot be read", "nothing from it is deleted from etcd"],
    )
    .await;
    stays(&mayfly, " a:1@a.yaml b:2@b.yaml").await;
    // Neither by a registrar that has never seen it.
    start_anew(&mut mayfly).await;
    told(&mayfly, "services/", &["cannot be read"]).await;
    stays(&mayfly, " a:1@a.yaml b:2@b.yaml").await;
    fs::remove_file(aside.join("b.yaml")).unwrap();
    fs::rename(&aside, directory(&mayfly)).unwrap();
    becomes(&mayfly, " a:1@a.yaml").await;
    nothing_is_told(&mayfly).await;
}

#[tokio::test]
async fn of_two_registrars_of_one_node_the_first_stands_by_here_too() {
    let mayfly = mayfly(&[]).await;
    save(&mayfly, "a.yaml", &definition("a", 1));
    becomes(&mayfly, " a:1@a.yaml").await;
    let second = mayfly.directory().join("second");
    fs::create_dir_all(second.join("services")).unwrap();
    fs::write(second.join("services/b.yaml"), definition("b", 2)).unwrap();
    fs::create_dir(second.join("environments")).unwrap();
    let mut command = mayfly.command("environment-registrar").unwrap();
    command.arg("watch").arg(second.join("environments")).args(GRACE);
    let mut process = mayfly.spawn("second", &command).unwrap();
    says(mayfly.registrar.as_ref().unwrap(), "has started as node test").await;
    becomes(&mayfly, " b:2@b.yaml").await;
    save(&mayfly, "a.yaml", &definition("a", 3));
    stays(&mayfly, " b:2@b.yaml").await;
    process.terminate(SOON).await.unwrap();
    becomes(&mayfly, " a:3@a.yaml").await;
}
