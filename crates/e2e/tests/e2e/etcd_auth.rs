//! An etcd that asks for users: deploy/etcd-roles.sh gives each program a role, which lets it do its work and nothing else;
//! logins that end, and a wrong password, are survived; and no password is seen anywhere.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::run;
use mayfly_e2e::{eventually, port};

const HOST: &str = "www-dev.example.com";
/// etcd's logins end after a second without a call, and are cheap to make.
const ETCD: [&str; 4] = ["--auth-token-ttl", "1", "--bcrypt-cost", "4"];

/// Runs the script; the arguments of each etcdctl that it calls come into the file `calls` in `directory`.
async fn roles(etcd: &Etcd, directory: &Path, arguments: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/etcd-roles.sh");
    let wrapper = directory.join("bin/etcdctl");
    std::fs::create_dir_all(directory.join("bin")).unwrap();
    let path = std::env::var("PATH").unwrap();
    let text = format!(
        "#!/bin/sh\necho \"$*\" >>'{}'\nPATH='{path}' exec etcdctl \"$@\"\n",
        directory.join("calls").display()
    );
    std::fs::write(&wrapper, text).unwrap();
    std::fs::set_permissions(&wrapper, PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(script);
    command.env("PATH", format!("{}:{path}", directory.join("bin").display()));
    command
        .arg("--passwords")
        .arg(directory.join("passwords"))
        .args(["--etcd", &etcd.plain()]);
    let finished = run(command.args(arguments), Duration::from_secs(30))
        .await
        .unwrap();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    finished.stderr
}

fn passwords(directory: &Path) -> BTreeMap<String, String> {
    let files = std::fs::read_dir(directory.join("passwords")).unwrap();
    files
        .map(|file| {
            let path = file.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, std::fs::read_to_string(path).unwrap().trim().to_owned())
        })
        .collect()
}

#[tokio::test]
async fn the_roles_cover_what_each_program_needs_and_nothing_else() {
    let mut etcd = Etcd::start_with(&ETCD).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let prefix = "/team/mayfly";
    let first = roles(&etcd, directory.path(), &["--prefix", prefix, "--enable"]).await;
    assert!(first.contains("readwrite /team/mayfly/backends/"), "{first}");
    // In a directory where no password can be made, a user is left out and all else goes on.
    let blocked = directory.path().join("passwords/other-local.new");
    std::fs::create_dir(&blocked).unwrap();
    let other = roles(&etcd, directory.path(), &["--prefix", "/other"]).await;
    assert!(other.contains("warning: no user other-local: "), "{other}");
    assert!(
        other.contains("ok: other-web") && !other.contains("ok: other-local"),
        "{other}"
    );
    std::fs::remove_dir(&blocked).unwrap();
    for (name, _) in passwords(directory.path()) {
        if name.starts_with("other-") {
            std::fs::remove_file(directory.path().join("passwords").join(name)).unwrap();
        }
    }
    let made = passwords(directory.path());
    etcd.log_in(&made["root"]);
    // Again: nothing to give or to take, and the same passwords.
    let again = roles(&etcd, directory.path(), &["--prefix", prefix, "--enable"]).await;
    assert!(
        !again.contains("readwrite") && !again.contains("no more"),
        "{again}"
    );
    assert_eq!(passwords(directory.path()), made);
    for name in made.keys() {
        let mode = std::fs::metadata(directory.path().join("passwords").join(name)).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600, "{name}");
    }
    let calls = std::fs::read_to_string(directory.path().join("calls")).unwrap();
    for password in made.values() {
        assert!(
            calls.contains("user add") && !calls.contains(password.as_str()),
            "{calls}"
        );
    }

    // What each may read, in one range where it reads so, and what it may write; all else is refused.
    let (backends, own) = ("backends/a/1/x", |user: &str| format!("status/{user}/n"));
    let keys = [
        backends,
        "confirmations/container-launcher",
        "confirmations/haproxy-updater",
        "dns/a.b",
        "drains/a/1/x",
        "ended/a",
        "environments/a",
        "environments/local-a",
        "environments/locals",
        "history/a",
        "leaders/container-launcher",
        "relaunches/a/1",
        "routers/n",
        "services/a",
        "traffic/n",
    ];
    for (user, reads, writes) in [
        (
            "environment-registrar",
            ("environments/", "history0"),
            "environments ended history services",
        ),
        ("container-registrar", ("backends/", "backends0"), "backends"),
        (
            "container-launcher",
            ("backends/", "services0"),
            "drains leaders confirmations/container-launcher relaunches",
        ),
        (
            "haproxy-updater",
            ("backends/", "environments0"),
            "routers traffic",
        ),
        ("dns-updater", ("backends/", "routers0"), ""),
        (
            "operator",
            ("backends/", "traffic0"),
            "environments ended history confirmations relaunches backends dns",
        ),
        ("local", ("backends/", "traffic0"), "environments/local- backends"),
        ("web", ("backends/", "traffic0"), ""),
    ] {
        let name = format!("team+mayfly-{user}");
        // Each call makes the login live on.
        let token = etcd.token(&name, &made[&name]).await.unwrap();
        let text = |key: &str| format!("{prefix}/{key}");
        etcd.read_as(&token, &text(reads.0), Some(&text(reads.1)))
            .await
            .unwrap();
        let others = [own("environment-registrar"), own("operator"), own(user)];
        let all = keys.iter().copied().chain(others.iter().map(String::as_str));
        for key in all {
            let writes_it = writes
                .split(' ')
                .any(|kind| !kind.is_empty() && key.starts_with(kind))
                || (key == own(user) && !["operator", "local", "web"].contains(&user));
            // It finds out whether a new version has answered.
            let looks = user == "environment-registrar" && key.starts_with("backends/");
            let reads_it = writes_it || looks || (text(reads.0) <= text(key) && text(key) < text(reads.1));
            let put = etcd.put_as(&token, &text(key), "x").await;
            let read = etcd.read_as(&token, &text(key), None).await;
            for (what, may, outcome) in [("write", writes_it, put), ("read", reads_it, read)] {
                match outcome {
                    Ok(()) => assert!(may, "{user} may {what} {key}"),
                    Err(error) => assert!(
                        !may && format!("{error:#}").contains("permission denied"),
                        "{user} may not {what} {key}: {error:#}"
                    ),
                }
            }
        }
        for foreign in [
            "/mayfly/backends/a/1/x",
            "/team/mayfly",
            "/team/mayfly2/backends/a/1/x",
        ] {
            assert!(
                etcd.put_as(&token, foreign, "x").await.is_err(),
                "{user}: {foreign}"
            );
            assert!(
                etcd.read_as(&token, foreign, None).await.is_err(),
                "{user}: {foreign}"
            );
        }
    }
}

#[tokio::test]
async fn a_router_with_a_user_of_its_own_cannot_touch_the_others() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.set_arguments(&ETCD);
    mayfly.etcd.restart().await.unwrap();
    let directory = mayfly.directory().to_owned();
    // The name of the node of a Mayfly, and another one.
    roles(&mayfly.etcd, &directory, &["--router", "test,edge-2", "--enable"]).await;
    let made = passwords(&directory);
    mayfly.etcd.log_in(&made["root"]);
    assert!(
        !made.contains_key("mayfly-haproxy-updater"),
        "one for all: {made:?}"
    );

    let user = "mayfly-haproxy-updater@edge-2";
    let token = mayfly.etcd.token(user, &made[user]).await.unwrap();
    let text = |key: &str| format!("/mayfly/{key}");
    let (from, to) = (text("backends/"), text("environments0"));
    mayfly.etcd.read_as(&token, &from, Some(&to)).await.unwrap();
    for (key, may) in [
        ("routers/edge-2", true),
        ("status/haproxy-updater/edge-2", true),
        ("traffic/edge-2", true),
        ("traffic/test", false),
        ("routers/test", false),
        ("routers/edge-20", false),
        ("status/haproxy-updater/test", false),
        ("status/environment-registrar/edge-2", false),
        ("backends/a/1/x", false),
        ("ended/a", false),
        ("environments/a", false),
        ("history/a", false),
        ("confirmations/haproxy-updater", false),
        ("leaders/container-launcher", false),
        ("relaunches/a/1", false),
    ] {
        let put = mayfly.etcd.put_as(&token, &text(key), "{}").await;
        assert_eq!(put.is_ok(), may, "{key}: {put:?}");
    }

    // The real one works with its user, and routes.
    mayfly.passwords = Some(directory.join("passwords"));
    mayfly.start_updater().unwrap();
    mayfly.start_registrar(&[]).unwrap();
    mayfly.haproxy.start().await.unwrap();
    let _one = mayfly.instance("frontend", "0.0.1").await.unwrap();
    choose(&mayfly, "0.0.1").await;
    eventually(SOON, "the router says where it is", async || {
        mayfly.etcd.get("/mayfly/routers/test").await.ok().flatten()
    })
    .await;
    mayfly.status("haproxy-updater").await.unwrap();

    // A later run knows them, and one without passwords of the routers does not mind.
    for name in ["test", "edge-2"] {
        let file = format!("passwords/mayfly-haproxy-updater@{name}");
        std::fs::rename(directory.join(&file), directory.join(name)).unwrap();
    }
    let again = roles(&mayfly.etcd, &directory, &[]).await;
    assert!(again.contains("ok: mayfly-haproxy-updater@edge-2"), "{again}");
    assert!(!passwords(&directory).contains_key("mayfly-haproxy-updater"));
}

/// A whole Mayfly on an etcd that asks for users, which logs all that it can.
async fn guarded() -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.set_arguments(&ETCD);
    mayfly.etcd.restart().await.unwrap();
    // But not the events of its own log, which lies beside what it watches.
    mayfly.arguments = ["--log", "trace,notify=warn"].map(str::to_owned).to_vec();
    let directory = mayfly.directory().to_owned();
    roles(&mayfly.etcd, &directory, &[]).await;
    mayfly.passwords = Some(directory.join("passwords"));
    // As in an installation that goes over to users: the daemons have theirs before etcd asks for them.
    mayfly.start_updater().unwrap();
    mayfly.start_registrar(&[]).unwrap();
    mayfly.haproxy.start().await.unwrap();
    mayfly.start_dns().await.unwrap();
    mayfly
}

async fn choose(mayfly: &Mayfly, version: &str) {
    mayfly.save(
        "dev.yaml",
        &format!("{{name: dev, idle: 2h, services: [{{name: frontend, version: {version}, route: /}}]}}"),
    );
    mayfly.answers(HOST, &format!("frontend@{version}")).await;
}

fn log(mayfly: &Mayfly, name: &str) -> String {
    std::fs::read_to_string(mayfly.directory().join(format!("{name}.log"))).unwrap_or_default()
}

/// Waits until nobody's login of a while ago is known to etcd any more: it forgets those that are not used.
async fn logins_end(mayfly: &Mayfly, user: &str, password: &str) {
    eventually(Duration::from_secs(20), "logins end", async || -> Result<()> {
        let token = mayfly.etcd.token(user, password).await?;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        let read = mayfly.etcd.read_as(&token, "/mayfly/routers/x", None).await;
        ensure!(read.is_err(), "the login lives");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn every_daemon_works_with_its_user_and_survives_the_end_of_its_login() {
    let mut mayfly = guarded().await;
    let directory = mayfly.directory().to_owned();
    let _one = mayfly.instance("frontend", "0.0.1").await.unwrap();
    choose(&mayfly, "0.0.1").await;
    assert!(log(&mayfly, "haproxy-updater").contains("continuing without a login"));

    // Now etcd asks for users: nobody has to be restarted.
    roles(&mayfly.etcd, &directory, &["--enable"]).await;
    let made = passwords(&directory);
    mayfly.etcd.log_in(&made["root"]);
    let _two = mayfly.instance("frontend", "0.0.2").await.unwrap();
    choose(&mayfly, "0.0.2").await;
    let internal = [mayfly.internal.ip()];
    mayfly.resolves("frontend.service", &internal).await;
    let mut launcher = mayfly.command("container-launcher").unwrap();
    launcher.args(["--docker", "unix:///nowhere/docker.sock"]);
    let _launcher = mayfly.spawn("container-launcher", &launcher).unwrap();
    for daemon in [
        "environment-registrar",
        "haproxy-updater",
        "dns-updater",
        "container-launcher",
    ] {
        eventually(SOON, &format!("{daemon} tells its status"), async || {
            mayfly.status(daemon).await
        })
        .await;
    }
    eventually(SOON, "the launcher leads", async || {
        mayfly
            .etcd
            .get("/mayfly/leaders/container-launcher")
            .await
            .ok()
            .flatten()
    })
    .await;
    let page = port::free();
    let mut web = mayfly.command("mayfly-web").unwrap();
    web.args(["--bind", &page.to_string()]);
    let _web = mayfly.spawn("mayfly-web", &web).unwrap();
    eventually(SOON, "mayfly-web reads all", async || -> Result<()> {
        let state = Request::get(&page.to_string(), "/v1/state").send(page).await?;
        ensure!(state.body.contains("\"dev\""), "{}", state.body);
        Ok(())
    })
    .await;
    for arguments in [
        vec!["status"],
        vec!["keep", "dev", "8h"],
        vec!["explain", "dev", "frontend"],
    ] {
        mayfly.run("mayfly", &arguments).await.unwrap().ok().unwrap();
    }
    let beyond = mayfly.run("environment-registrar", &["list"]).await.unwrap();
    let told =
        "cannot list /mayfly/backends/: etcd does not permit this to user mayfly-environment-registrar";
    assert!(beyond.stderr.contains(told), "{beyond:?}");

    // A login that has ended: the next call brings a new one along, and nobody hears of it.
    let user = "mayfly-operator";
    logins_end(&mayfly, user, &made[user]).await;
    choose(&mayfly, "0.0.1").await;
    let text = log(&mayfly, "environment-registrar");
    assert!(text.contains("invalid auth token"), "no login has ended");
    assert!(!text.contains("retrying"), "{text}");
    // All logins are forgotten when etcd starts anew.
    mayfly.etcd.kill9().await.unwrap();
    mayfly.etcd.restart().await.unwrap();
    choose(&mayfly, "0.0.2").await;

    for password in made.values() {
        for name in std::fs::read_dir(&directory).unwrap() {
            let path = name.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "log") {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(!text.contains(password.as_str()), "{}", path.display());
            }
        }
        for arguments in command_lines() {
            assert!(!arguments.contains(password.as_str()), "{arguments}");
        }
    }
}

/// The arguments of all processes of the machine.
fn command_lines() -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap();
    let files = processes.map(|entry| entry.unwrap().path().join("cmdline"));
    files
        .filter_map(|file| std::fs::read(file).ok())
        .map(|octets| String::from_utf8_lossy(&octets).replace('\0', " "))
        .collect()
}

#[tokio::test]
async fn a_wrong_password_is_told_and_a_right_one_is_taken_without_a_restart() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    let directory = mayfly.directory().to_owned();
    // Logins of the other kind that etcd knows: signed ones, which any change of a user or role ends.
    let jwt = signed_logins(&directory).await;
    mayfly
        .etcd
        .set_arguments(&["--bcrypt-cost", "4", "--auth-token", &jwt]);
    mayfly.etcd.restart().await.unwrap();
    roles(&mayfly.etcd, &directory, &["--enable"]).await;
    let made = passwords(&directory);
    mayfly.etcd.log_in(&made["root"]);
    let wrong = directory.join("wrong");
    std::fs::write(&wrong, "not-the-password\n").unwrap();
    let admin = port::free();
    let mut command = dns_updater(&mayfly, &wrong);
    command.args(["--admin", &admin.to_string(), "--log", "debug"]);
    let mut updater = mayfly.spawn("dns-updater", &command).unwrap();
    let told = "etcd refuses the login of user mayfly-dns-updater with --etcd-password-file";
    eventually(SOON, "the log says it", async || updater.output().contains(told)).await;
    // etcd is not away: it answers.
    let connected = async || -> Result<String> {
        let metrics = Request::get("admin", "/metrics").send(admin).await?.body;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("mayfly_etcd_connected "));
        Ok(line.context("the metric")?.to_owned())
    };
    assert_eq!(connected().await.unwrap(), "mayfly_etcd_connected 1");
    std::fs::write(&wrong, &made["mayfly-dns-updater"]).unwrap();
    eventually(SOON, "it works", async || mayfly.status("dns-updater").await).await;
    // The script sets all passwords again, which are the same: a change that ends every login.
    roles(&mayfly.etcd, &directory, &[]).await;
    let before = mayfly.status("dns-updater").await.unwrap()["applied_revision"].as_i64();
    let router = r#"{"address":"10.0.0.1","haproxy_version":"2.6"}"#;
    mayfly.etcd.put("/mayfly/routers/one", router).await.unwrap();
    eventually(SOON, "the status follows", async || -> Result<()> {
        let status = mayfly.status("dns-updater").await?;
        ensure!(status["applied_revision"].as_i64() > before, "{status}");
        Ok(())
    })
    .await;
    let text = updater.output();
    assert!(text.contains("etcd requires a new login"), "{text}");
    assert!(updater.is_running());

    // Without a user, and with a file that is missing.
    let tool = || {
        let mut command = Command::new(mayfly_e2e::process::binary("mayfly").unwrap());
        command.args(["status", "--etcd", &mayfly.etcd.plain()]);
        command
    };
    let message = run(&tool(), SOON).await.unwrap().stderr;
    assert!(
        message.contains("etcd requires a user. Set --etcd-user"),
        "{message}"
    );
    let missing = directory.join("missing");
    let mut command = tool();
    command.args(["--etcd-user", "x", "--etcd-password-file"]);
    let message = run(command.arg(&missing), SOON).await.unwrap().stderr;
    let told = format!("cannot read --etcd-password-file {}", missing.display());
    assert!(message.contains(&told), "{message}");
    // From the environment.
    let mut command = tool();
    command.args(["--etcd-user", "mayfly-operator"]);
    command.env("MAYFLY_ETCD_PASSWORD", &made["mayfly-operator"]);
    run(&command, SOON).await.unwrap().ok().unwrap();
}

/// The argument of `--auth-token` for logins that etcd signs.
async fn signed_logins(directory: &Path) -> String {
    let [private, public] = ["jwt.key", "jwt.pub"].map(|name| directory.join(name).display().to_string());
    for arguments in [
        vec!["genrsa", "-out", &private, "2048"],
        vec!["rsa", "-in", &private, "-pubout", "-out", &public],
    ] {
        run(Command::new("openssl").args(arguments), SOON)
            .await
            .unwrap()
            .ok()
            .unwrap();
    }
    format!("jwt,pub-key={public},priv-key={private},sign-method=RS256,ttl=5m")
}

fn dns_updater(mayfly: &Mayfly, password: &Path) -> Command {
    let mut command = mayfly.dns_watch().unwrap();
    command.args(["--etcd-user", "mayfly-dns-updater", "--etcd-password-file"]);
    command.arg(password);
    command
}
