//! `mayfly local`: an environment with a process on a developer's machine in it, which only ssh
//! leads out of, or which routers reach. Needs root.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::load::{Expected, Load, Target};
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::network::{Host, Network};
use mayfly_e2e::poll::throughout;
use mayfly_e2e::port;
use mayfly_e2e::process::{Finished, Process, Signal, binary, run};
use mayfly_e2e::sshd::Sshd;

const FILES: &str = "
- name: prod
  prefix: www
  services:
  - {name: frontend, version: 1.0.0, route: /}
  - {name: backend, version: 1.0.0, route: /api}
- name: temp-1
  extends: prod
";
const BASE: &str = "www-temp-1.example.com";
const OWN: &str = "www-local-ada.example.com";
/// The port of the process, on a host of its own.
const PORT: u16 = 8080;
/// How long the environment goes on with its base after Ctrl-C.
const DRAIN: Duration = Duration::from_secs(5);

/// All of etcd that a session may touch: what daemons say of themselves changes all the time.
async fn registered(mayfly: &Mayfly) -> Result<BTreeMap<String, String>> {
    let mut all = mayfly.etcd.list("/").await?;
    let of_daemons = ["/mayfly/status/", "/mayfly/traffic/", "/mayfly/routers/"];
    all.retain(|key, _| !of_daemons.iter().any(|own| key.starts_with(own)));
    Ok(all)
}

async fn is_as_before(mayfly: &Mayfly, before: &BTreeMap<String, String>) {
    eventually(SOON, "etcd is as before", async || -> Result<()> {
        let now = registered(mayfly).await?;
        let news: Vec<_> = now.keys().filter(|key| !before.contains_key(*key)).collect();
        ensure!(now == *before, "new are {news:?}");
        Ok(())
    })
    .await;
}

async fn says(process: &Process, part: &str) {
    eventually(SOON, &format!("it says {part:?}"), async || -> Result<()> {
        let output = process.output();
        ensure!(output.contains(part), "{output}");
        Ok(())
    })
    .await;
}

/// Waits until the path of `backend` is answered by this `service@version`.
async fn answers(mayfly: &Mayfly, host: &str, backend: &str) {
    eventually(
        SOON,
        &format!("{host} is answered by {backend}"),
        async || -> Result<()> {
            let found = mayfly.get(host, "/api").await?.backend()?;
            ensure!(found == backend, "{found} answers");
            Ok(())
        },
    )
    .await;
}

/// Which backend the frontend of an environment gets.
async fn called(mayfly: &Mayfly, host: &str) -> Result<String> {
    let echo = mayfly.get(host, "/?call=backend").await?.echo()?;
    let called = echo.called.with_context(|| format!("{:?}", echo.call_failed))?;
    Ok(format!("{}@{}", called.service, called.version))
}

/// A developer's machine: a network of its own, on which nothing but sshd is reached.
struct Laptop<'a> {
    mayfly: &'a Mayfly,
    host: &'a Host,
    sshd: &'a Sshd,
}

impl Laptop<'_> {
    fn command(&self, ssh: &str, via: &str, base: &str, arguments: &[&str]) -> Command {
        let mut command = self.mayfly.command("mayfly").unwrap();
        let internal = self.mayfly.internal.to_string();
        command.args(["local", "backend", "8080", "--environment", base]);
        command.args(["--via", via, "--ssh-config", &self.sshd.config(ssh)]);
        command.args(["--internal", &internal, "--ttl", "2s"]);
        command.args(arguments).env("USER", "ada");
        self.host.wrap(&command)
    }

    fn start(&self, name: &str) -> Process {
        let drain = format!("{}s", DRAIN.as_secs());
        let arguments = ["--url", "http://www.example.com:8000", "--drain", &drain];
        let command = self.command("client", &self.sshd.url(), "temp-1", &arguments);
        self.mayfly.spawn(name, &command).unwrap()
    }

    /// What it says when it does not even begin.
    async fn fails(&self, ssh: &str, via: &str, base: &str) -> String {
        let command = self.command(ssh, via, base, &[]);
        let Finished { code, stderr, .. } = run(&command, SOON * 2).await.unwrap();
        assert_eq!(code, Some(1), "{stderr}");
        stderr
    }

    /// Starts the process, which nobody else reaches.
    fn process(&self) -> Process {
        let mut command = Command::new(binary("e2e-instance").unwrap());
        command.args([&format!("127.0.0.1:{PORT}"), "backend", "mine"]);
        self.mayfly.spawn("mine", &self.host.wrap(&command)).unwrap()
    }

    async fn curl(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new("curl");
        command.args(["--silent", "--max-time", "5"]).args(arguments);
        run(&self.host.wrap(&command), SOON).await.unwrap()
    }
}

/// The ids of the processes that a process has started.
fn children(process: &Process) -> Vec<i32> {
    let id = process.id();
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).unwrap();
    let of_thread = |thread: std::io::Result<std::fs::DirEntry>| {
        let path = thread.unwrap().path().join("children");
        std::fs::read_to_string(path).unwrap_or_default()
    };
    let all: Vec<String> = threads.map(of_thread).collect();
    all.iter()
        .flat_map(|ids| ids.split_whitespace())
        .map(|id| id.parse().unwrap())
        .collect()
}

fn signal(id: i32, signal: rustix::process::Signal) {
    let id = rustix::process::Pid::from_raw(id).unwrap();
    rustix::process::kill_process(id, signal).unwrap();
}

#[tokio::test]
async fn a_process_that_only_ssh_leads_to_is_in_one_environment_and_leaves_nothing() {
    let mut mayfly = Mayfly::start_with(&["--share-links", "all"]).await.unwrap();
    mayfly.start_dns().await.unwrap();
    let mayfly = &mayfly;
    let _frontend = mayfly.instance("frontend", "1.0.0").await.unwrap();
    let _backend = mayfly.instance("backend", "1.0.0").await.unwrap();
    mayfly.save("all.yaml", FILES);
    answers(mayfly, BASE, "backend@1.0.0").await;
    mayfly.resolves("backend.service", &[mayfly.internal.ip()]).await;
    let before = registered(mayfly).await.unwrap();

    let network = Network::new(mayfly.directory()).unwrap();
    let host = network.host().unwrap();
    let sshd = Sshd::start(network.own().into(), mayfly.directory())
        .await
        .unwrap();
    let laptop = &Laptop {
        mayfly,
        host: &host,
        sshd: &sshd,
    };
    let edge = format!("http://{}/", mayfly.edge);
    assert_ne!(laptop.curl(&[&edge]).await.code, Some(0), "only ssh leads out");

    // What ssh refuses is explained.
    let (url, nowhere) = (sshd.url(), format!("ssh://root@{}:1", network.own()));
    for (ssh, via, base, part) in [
        ("stranger", &url, "temp-1", "the host does not accept your key"),
        ("unknown", &url, "temp-1", "the host key is unknown"),
        ("client", &nowhere, "temp-1", "no sshd listens at this address"),
        ("client", &url, "temp-2", "did you mean temp-1"),
    ] {
        let refused = laptop.fails(ssh, via, base).await;
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(registered(mayfly).await.unwrap(), before);

    // A closed port is named at once, and nothing is registered for it.
    let mut local = laptop.start("local-1");
    says(&local, "nothing listens at 127.0.0.1:8080").await;
    assert_eq!(registered(mayfly).await.unwrap(), before);
    let mut process = laptop.process();
    for part in [
        "local-ada is open: its service backend is your process, and its other services are those of temp-1",
        "http://www-local-ada.example.com:8000/",
        "http://www-temp-1.example.com:8000/?mayfly=local-ada",
        "export http_proxy=http://127.0.0.1:18080 ",
        "local-ada is in force everywhere",
    ] {
        says(&local, part).await;
    }

    // Through edge and frontend, and only there.
    assert_eq!(called(mayfly, OWN).await.unwrap(), "backend@mine");
    for host in [BASE, "www.example.com"] {
        assert_eq!(called(mayfly, host).await.unwrap(), "backend@1.0.0");
    }
    // What the process calls.
    let proxy = [
        "--proxy",
        "http://127.0.0.1:18080",
        "--header",
        "x-mayfly: local-ada",
    ];
    let call = [&proxy[..], &["http://frontend.service/"]].concat();
    let answer = laptop.curl(&call).await.ok().unwrap();
    assert!(answer.contains("\"version\":\"1.0.0\""), "{answer}");
    // The name belongs to one session.
    let taken = laptop.fails("client", &url, "temp-1").await;
    assert!(taken.contains("the name local-ada is taken"), "{taken}");

    // A process that does not answer is not called complete.
    process.kill9().await.unwrap();
    says(&local, "does not answer").await;
    let wait = ["wait", "local-ada", "--timeout", "1s"];
    eventually(SOON, "it is incomplete", async || -> Result<()> {
        let waited = mayfly.run("mayfly", &wait).await?;
        ensure!(
            waited.code == Some(1) && waited.stderr.contains("backend"),
            "{waited:?}"
        );
        Ok(())
    })
    .await;
    let _process = laptop.process();
    answers(mayfly, OWN, "backend@mine").await;

    ctrl_c(mayfly, &mut local).await;
    is_as_before(mayfly, &before).await;

    // Killed: all of it is gone with the lease, and ssh with the process.
    let mut local = laptop.start("local-2");
    says(&local, "is in force everywhere").await;
    let ssh = children(&local);
    assert_eq!(ssh.len(), 1, "one connection");
    local.kill9().await.unwrap();
    is_as_before(mayfly, &before).await;
    eventually(SOON, "ssh has ended", async || {
        let command = std::fs::read(format!("/proc/{}/cmdline", ssh[0]));
        command.unwrap_or_default().is_empty()
    })
    .await;

    // Asleep for longer than the lease, and than sshd waits.
    let mut local = laptop.start("local-3");
    answers(mayfly, OWN, "backend@mine").await;
    let ssh = children(&local);
    local.signal(Signal::Stop).unwrap();
    ssh.iter()
        .for_each(|id| signal(*id, rustix::process::Signal::STOP));
    is_as_before(mayfly, &before).await;
    ssh.iter()
        .for_each(|id| signal(*id, rustix::process::Signal::CONT));
    local.signal(Signal::Cont).unwrap();
    eventually(SOON * 2, "it is back", async || -> Result<()> {
        let found = mayfly.get(OWN, "/api").await?.backend()?;
        ensure!(found == "backend@mine", "{found}");
        Ok(())
    })
    .await;
    local.terminate(SOON * 2).await.unwrap();
    is_as_before(mayfly, &before).await;
}

/// Ends a session under load: the base answers within a second, and no request fails.
async fn ctrl_c(mayfly: &Mayfly, local: &mut Process) {
    let target = |host: &str, cookie: &str, expected: &Expected| Target {
        to: mayfly.edge,
        request: Request::get(host, "/api").header("cookie", cookie),
        expected: expected.clone(),
    };
    let own = Expected::only(&["backend@mine"]);
    let by_host = Load::steady(vec![target(OWN, "a=b", &own)], 100);
    let base = Expected::only(&["backend@1.0.0"]);
    let others = vec![target(BASE, "mayfly=local-ada", &own), target(BASE, "a=b", &base)];
    let others = Load::steady(others, 100);
    throughout(Duration::from_millis(500), "it answers", async || {
        mayfly.get(OWN, "/api").await?.backend()
    })
    .await;

    own.set(&["backend@mine", "backend@1.0.0"]);
    let begin = Instant::now();
    local.signal(Signal::Int).unwrap();
    answers(mayfly, OWN, "backend@1.0.0").await;
    let took = begin.elapsed();
    own.set(&["backend@1.0.0"]);
    // Its own host is there until the end, which a busy machine reaches during a longer look.
    by_host.stop().await.assert_flawless(20);
    throughout(
        Duration::from_millis(500),
        "the base answers",
        async || -> Result<()> {
            let found = mayfly.get(OWN, "/api").await?.backend()?;
            ensure!(found == "backend@1.0.0", "{found}");
            Ok(())
        },
    )
    .await;
    // The cookie and everybody else's host outlive the environment.
    assert_eq!(local.wait(SOON * 2).await.unwrap().code(), Some(0));
    let report = others.stop().await;
    report.assert_flawless(50);
    println!(
        "the base answers {took:?} after Ctrl-C; {} requests",
        report.requests
    );
    // It takes some 50 ms. What no busy machine changes is that the environment outlives it.
    assert!(took < DRAIN, "{took:?}");
    assert!(
        local.output().ends_with("local-ada has ended\n"),
        "{}",
        local.output()
    );
}

#[tokio::test]
async fn a_process_that_routers_reach_needs_no_ssh_and_an_operator_can_end_it() {
    let mayfly = &Mayfly::start().await.unwrap();
    let _frontend = mayfly.instance("frontend", "1.0.0").await.unwrap();
    let _backend = mayfly.instance("backend", "1.0.0").await.unwrap();
    mayfly.save("all.yaml", FILES);
    answers(mayfly, BASE, "backend@1.0.0").await;
    let before = registered(mayfly).await.unwrap();

    let process = |name: &str, at: SocketAddr| {
        let mut command = Command::new(binary("e2e-instance").unwrap());
        command.args([&at.to_string(), "backend", name]);
        mayfly.spawn(name, &command).unwrap()
    };
    let (at, beside) = (port::free(), port::free());
    let _processes = [process("mine", at), process("hers", beside)];
    let start = |name: &str, at: SocketAddr| {
        let mut command = mayfly.command("mayfly").unwrap();
        let (ip, port) = (at.ip().to_string(), at.port().to_string());
        command.args(["local", "backend", &port, "-e", "temp-1", "--address", &ip]);
        command.args(["--ttl", "2s", "--check", "/health", "--name", name]);
        mayfly.spawn(name, &command).unwrap()
    };
    let mut one = start("local-ada", at);
    answers(mayfly, OWN, "backend@mine").await;
    // Another session beside it.
    let mut two = start("local-bo", beside);
    answers(mayfly, "www-local-bo.example.com", "backend@hers").await;
    answers(mayfly, OWN, "backend@mine").await;
    answers(mayfly, BASE, "backend@1.0.0").await;
    two.terminate(SOON).await.unwrap();
    // An address belongs to one backend.
    let mut three = start("local-cy", at);
    assert_eq!(three.wait(SOON).await.unwrap().code(), Some(1));
    let output = three.output();
    assert!(
        output.contains("is registered already as backend@laptop-"),
        "{output}"
    );

    let deleted = mayfly.run("mayfly", &["delete", "local-ada"]).await.unwrap();
    assert_eq!(deleted.stdout, "local-ada deleted\n");
    let code = one.wait(SOON).await.unwrap().code();
    let output = one.output();
    assert_eq!(code, Some(1), "{output}");
    assert!(
        output.contains("another program deleted or replaced the environment local-ada"),
        "{output}"
    );
    mayfly.etcd.delete("/mayfly/ended/local-ada").await.unwrap();
    is_as_before(mayfly, &before).await;
}
