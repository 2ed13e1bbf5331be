//! What the registrars do not fall over: each test looks for what the log says, and for the recovery by itself.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::instance::Service;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::poll::throughout;
use mayfly_e2e::process::binary;
use mayfly_e2e::process::{self, Process};

const STATUS: &str = "/mayfly/status/environment-registrar/test";
const BACKENDS: &str = "/mayfly/backends/";

fn one(name: &str, version: &str) -> String {
    format!("name: {name}\nexpires: 8h\nservices:\n  - {{name: frontend, version: {version}, route: /}}\n")
}

/// The version that an environment chooses in etcd.
async fn version(mayfly: &Mayfly, name: &str) -> Result<String> {
    let key = format!("/mayfly/environments/{name}");
    let found = mayfly.etcd.get_json(&key).await?;
    Ok(found["services"][0]["version"]
        .as_str()
        .unwrap_or_default()
        .to_owned())
}

async fn becomes(mayfly: &Mayfly, name: &str, wanted: &str) {
    eventually(
        SOON,
        &format!("{name} chooses {wanted}"),
        async || -> Result<()> {
            let found = version(mayfly, name).await?;
            ensure!(found == wanted, "it chooses {found}");
            Ok(())
        },
    )
    .await;
}

async fn stays(mayfly: &Mayfly, name: &str, wanted: &str, span: Duration) {
    throughout(
        span,
        &format!("{name} chooses {wanted}"),
        async || -> Result<()> {
            let found = version(mayfly, name).await?;
            ensure!(found == wanted, "it chooses {found}");
            Ok(())
        },
    )
    .await;
}

/// Waits until a line of the log holds all these words.
async fn says(process: &Process, words: &[&str]) {
    eventually(SOON, &format!("{} says {words:?}", process.name()), async || {
        let output = process.output();
        output
            .lines()
            .any(|line| words.iter().all(|word| line.contains(word)))
    })
    .await;
}

async fn registered(mayfly: &Mayfly, count: usize) {
    eventually(SOON, "the instance is registered", async || -> Result<()> {
        let found = mayfly.etcd.list(BACKENDS).await?;
        ensure!(found.len() == count, "registered are {found:?}");
        Ok(())
    })
    .await;
}

/// etcd and a registrar on a directory with `a.yaml`.
async fn registrar(arguments: &[&str]) -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly.save("a.yaml", &one("a", "1"));
    mayfly.start_registrar(arguments).unwrap();
    becomes(&mayfly, "a", "1").await;
    mayfly
}

#[tokio::test]
async fn etcd_gone_at_start_and_later_is_waited_for_with_short_pauses() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.save("a.yaml", &one("a", "1"));
    mayfly.start_registrar(&[]).unwrap();
    let service = Service::start("backend", "0.0.1").await.unwrap();
    let mut instance = mayfly
        .register("backend", "0.0.1", service.address(), &[])
        .unwrap();
    // The second one is longer than any pause.
    for (version, outage) in [("2", 3), ("3", 6)] {
        let log = |process: &Process| process.output().lines().count();
        let before = (log(mayfly.registrar.as_ref().unwrap()), log(&instance));
        tokio::time::sleep(Duration::from_secs(outage)).await;
        for process in [mayfly.registrar.as_ref().unwrap(), &instance] {
            says(process, &["WARN", "etcd", "retrying"]).await;
        }
        let after = (log(mayfly.registrar.as_ref().unwrap()), log(&instance));
        let lines = (after.0 - before.0).max(after.1 - before.1);
        assert!(lines < 20, "{lines} lines in {outage} s");
        mayfly.save("a.yaml", &one("a", version));
        mayfly.etcd.restart().await.unwrap();
        becomes(&mayfly, "a", version).await;
        registered(&mayfly, 1).await;
        // At the start it was not in step before.
        let again = if version == "2" { "" } else { " again" };
        let words = ["INFO", &format!("in sync with etcd{again}")];
        says(mayfly.registrar.as_ref().unwrap(), &words).await;
        mayfly.etcd.kill9().await.unwrap();
    }
    assert!(instance.is_running() && mayfly.registrar.as_mut().unwrap().is_running());
}

#[tokio::test]
async fn a_lost_lease_is_granted_anew() {
    let mayfly = registrar(&[]).await;
    let service = Service::start("backend", "0.0.1").await.unwrap();
    let instance = mayfly
        .register("backend", "0.0.1", service.address(), &["--ttl", "3s"])
        .unwrap();
    registered(&mayfly, 1).await;
    let backend = format!("{BACKENDS}backend/0.0.1/{}", service.address());
    for (key, process) in [
        (STATUS, mayfly.registrar.as_ref().unwrap()),
        (&backend, &instance),
    ] {
        let lease = eventually(SOON, "it hangs on a lease", async || {
            mayfly.etcd.lease_of(key).await.ok().flatten()
        })
        .await;
        mayfly.etcd.revoke(&lease).await.unwrap();
        says(
            process,
            &["etcd no longer has this daemon's lease: registering all of its records again"],
        )
        .await;
        eventually(SOON, "it hangs on another lease", async || {
            let now = mayfly.etcd.lease_of(key).await.ok().flatten();
            now.is_some_and(|now| now != lease)
        })
        .await;
    }
    assert_eq!(version(&mayfly, "a").await.unwrap(), "1");
}

#[tokio::test]
async fn a_directory_that_is_removed_replaced_or_switched_is_followed() {
    let mayfly = registrar(&[]).await;
    let (envs, process) = (mayfly.environments(), mayfly.registrar.as_ref().unwrap());
    // Away for longer than the grace.
    fs::remove_dir_all(&envs).unwrap();
    says(
        process,
        &[
            "cannot read the directory",
            "nothing is deleted from etcd until it can be read",
        ],
    )
    .await;
    stays(&mayfly, "a", "1", Duration::from_millis(1500)).await;
    fs::create_dir(&envs).unwrap();
    mayfly.save("a.yaml", &one("a", "2"));
    says(process, &["can be read again"]).await;
    becomes(&mayfly, "a", "2").await;
    // At once, when it often gets the same inode; what is saved later comes by events of the new one.
    for round in 3..8 {
        fs::remove_dir_all(&envs).unwrap();
        fs::create_dir(&envs).unwrap();
        mayfly.save("a.yaml", &one("a", &round.to_string()));
        becomes(&mayfly, "a", &round.to_string()).await;
        mayfly.save("a.yaml", &one("a", &format!("{round}.1")));
        becomes(&mayfly, "a", &format!("{round}.1")).await;
    }
    // Another one is put in its place, as `mv` does, and then a link that a deploy tool switches.
    let at = |name: &str| mayfly.directory().join(name);
    for (name, text) in [("next", "8"), ("release-1", "9"), ("release-2", "10")] {
        fs::create_dir(at(name)).unwrap();
        fs::write(at(name).join("a.yaml"), one("a", text)).unwrap();
    }
    fs::rename(&envs, at("before")).unwrap();
    fs::rename(at("next"), &envs).unwrap();
    becomes(&mayfly, "a", "8").await;
    fs::rename(&envs, at("before-2")).unwrap();
    symlink("release-1", &envs).unwrap();
    becomes(&mayfly, "a", "9").await;
    symlink("release-2", at("switch")).unwrap();
    fs::rename(at("switch"), &envs).unwrap();
    becomes(&mayfly, "a", "10").await;
    mayfly.save("a.yaml", &one("a", "11"));
    becomes(&mayfly, "a", "11").await;
}

#[tokio::test]
async fn without_inotify_it_looks_every_second_until_the_limit_is_raised() {
    let mut probe = Command::new("unshare");
    probe.args(["-U", "-r", "true"]);
    let probed = process::run(&probe, SOON).await.unwrap();
    assert_eq!(
        probed.code,
        Some(0),
        "this test needs a user namespace: run it as root, or where they are allowed"
    );
    for limit in ["max_inotify_instances", "max_inotify_watches"] {
        let mut mayfly = Mayfly::bare(&[]).unwrap();
        mayfly.etcd.restart().await.unwrap();
        mayfly.save("a.yaml", &one("a", "1"));
        let raise = mayfly.directory().join("raise");
        let script = format!(
            "echo 0 >/proc/sys/user/{limit}; \
             (until [ -e \"$0\" ]; do sleep 0.1; done; echo 1000 >/proc/sys/user/{limit}) & exec \"$@\""
        );
        let program = mayfly.command("environment-registrar").unwrap();
        let mut command = Command::new("unshare");
        command.args(["-U", "-r", "--", "sh", "-c", &script]).arg(&raise);
        command.arg(program.get_program()).args(program.get_args());
        command.arg("watch").arg(mayfly.environments());
        mayfly.registrar = Some(mayfly.spawn("environment-registrar", &command).unwrap());
        let process = mayfly.registrar.as_ref().unwrap();
        let words = [
            "WARN",
            "cannot get events of",
            "scanning the directory every 1s instead",
            "retrying every 5s",
            "fs.inotify.max_user_watches",
        ];
        says(process, &words).await;
        becomes(&mayfly, "a", "1").await;
        mayfly.save("a.yaml", &one("a", "2"));
        becomes(&mayfly, "a", "2").await;
        fs::write(&raise, "").unwrap();
        says(process, &["INFO", "receiving events of ", "again"]).await;
        mayfly.save("a.yaml", &one("a", "3"));
        becomes(&mayfly, "a", "3").await;
        let told = process.output().matches("cannot get events of").count();
        assert_eq!(told, 1, "it is told once");
    }
}

#[tokio::test]
async fn a_file_that_may_not_be_read_is_named_and_read_as_soon_as_it_may() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    // For root no permission holds: the registrar runs as nobody, for whom the program has to be in reach.
    mode(mayfly.directory(), 0o755);
    let own = mayfly.directory().join("environment-registrar");
    fs::copy(binary("environment-registrar").unwrap(), &own).unwrap();
    let mut command = if rustix::process::geteuid().is_root() {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(&own);
        command
    } else {
        Command::new(&own)
    };
    command.args(["--etcd", &mayfly.etcd.endpoint(), "--node", "test", "watch"]);
    // Nobody may write to an archive either, which is another test's matter.
    command.arg(mayfly.environments()).args(["--archive-keep", "0"]);
    // Where links lead out of the directory nothing is read at all.
    let secret = mayfly.environments().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("b.yaml"), one("b", "1")).unwrap();
    symlink("secret/b.yaml", mayfly.environments().join("b.yaml")).unwrap();
    mayfly.save("a.yaml", &one("a", "1"));
    mayfly.registrar = Some(mayfly.spawn("environment-registrar", &command).unwrap());
    let process = mayfly.registrar.as_ref().unwrap();
    becomes(&mayfly, "a", "1").await;
    becomes(&mayfly, "b", "1").await;

    // The file comes without permission, and says something else.
    let beside = mayfly.directory().join("a.new");
    fs::write(&beside, one("a", "2")).unwrap();
    mode(&beside, 0o000);
    fs::rename(&beside, mayfly.environments().join("a.yaml")).unwrap();
    let words = [
        "a.yaml",
        "cannot be read: Permission denied",
        "let the user of environment-registrar read it",
    ];
    says(process, &words).await;
    // The way to a file is barred.
    mode(&secret, 0o000);
    mayfly.save("c.yaml", &one("c", "1"));
    becomes(&mayfly, "c", "1").await;
    fs::remove_file(mayfly.environments().join("b.yaml")).unwrap();
    symlink("secret/b.yaml", mayfly.environments().join("b.yaml")).unwrap();
    says(
        process,
        &[
            "b.yaml",
            "cannot be read: Permission denied",
            "the directories on the way",
        ],
    )
    .await;
    stays(&mayfly, "a", "1", Duration::from_secs(2)).await;
    stays(&mayfly, "b", "1", Duration::ZERO).await;

    mode(&mayfly.environments().join("a.yaml"), 0o644);
    becomes(&mayfly, "a", "2").await;
    // No event tells of this.
    mode(&secret, 0o755);
    eventually(SOON, "no file is set aside", async || -> Result<()> {
        let aside = mayfly.set_aside("environment-registrar").await?;
        ensure!(aside.is_empty(), "set aside are {aside:?}");
        Ok(())
    })
    .await;
    fs::write(secret.join("b.yaml"), one("b", "2")).unwrap();
    becomes(&mayfly, "b", "2").await;
}
