//! HAProxy is upgraded while requests come, and none fails: the program is replaced and the master
//! executes it, or a new HAProxy takes over the sockets of the old one.
//!
//! Both are of the version in PATH. `MAYFLY_TEST_NEW_HAPROXY` names the program of another one:
//! `MAYFLY_TEST_NEW_HAPROXY=$(scripts/versions.sh other)/haproxy cargo nextest run -p mayfly-e2e -E
//! 'test(haproxy_upgrade)'`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::load::{Expected, Load, Target};
use mayfly_e2e::mayfly::{Instance, Mayfly, SOON};
use mayfly_e2e::process::{Process, Signal};

const WWW: &str = "www.example.com";

/// The program `haproxy` that the shell would start.
fn installed() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut all = std::env::split_paths(&path).map(|directory| directory.join("haproxy"));
    all.find(|program| program.is_file()).expect("haproxy is in PATH")
}

/// Puts a program in the place of another, as a package manager does.
fn replace(program: &Path, with: &Path) {
    let beside = program.with_extension("new");
    fs::copy(with, &beside).unwrap();
    fs::rename(beside, program).unwrap();
}

struct Upgrade {
    mayfly: Mayfly,
    _web: Instance<Service>,
    program: PathBuf,
    running: Process,
    worker: u32,
    load: Load,
}

impl Upgrade {
    /// HAProxy runs from a file of its own under load, and that file is replaced.
    async fn start() -> Self {
        let mut mayfly = Mayfly::start().await.unwrap();
        mayfly.haproxy.kill9().await.unwrap();
        let program = mayfly.directory().join("haproxy-program");
        replace(&program, &installed());
        let running = haproxy(&mayfly, &program, &[]).unwrap();
        mayfly.save(
            "prod.yaml",
            "{name: prod, prefix: www, services: [{name: web, version: 1, route: /}]}",
        );
        let web = mayfly.instance("web", "1").await.unwrap();
        mayfly.answers(WWW, "web@1").await;
        // A new process begins with the files, which follow a change within seconds.
        let config = mayfly.haproxy_directory().join("haproxy.cfg");
        let address = web.service.address().to_string();
        let slots = mayfly.map_file("slots");
        let maps = ["edge", "headers", "versions", "routes"].map(|map| mayfly.map_file(map));
        eventually(SOON, "the files have prod and its server", async || {
            let has =
                |file: &Path, part: &str| fs::read_to_string(file).is_ok_and(|text| text.contains(part));
            has(&config, &address) && has(&slots, "web@1") && maps.iter().all(|map| has(map, "prod"))
        })
        .await;
        let worker = mayfly.haproxy.worker().await.unwrap();
        let target = |close: bool| Target {
            to: mayfly.edge,
            request: match close {
                true => Request::get(WWW, "/").header("connection", "close"),
                false => Request::get(WWW, "/"),
            },
            expected: Expected::only(&["web@1"]),
        };
        let load = Load::steady(vec![target(true), target(false)], 300);
        let new = std::env::var_os("MAYFLY_TEST_NEW_HAPROXY").map_or_else(installed, PathBuf::from);
        replace(&program, &new);
        Self {
            mayfly,
            _web: web,
            program,
            running,
            worker,
            load,
        }
    }

    /// Another worker serves.
    async fn is_served_by_another(&self) {
        eventually(SOON, "a new worker answers", async || -> Result<()> {
            let worker = self.mayfly.haproxy.worker().await?;
            ensure!(worker != self.worker, "{worker} still answers");
            Ok(())
        })
        .await;
    }

    /// The updater goes on with it, and no request has failed.
    async fn end(self) {
        self.mayfly.save("dev.yaml", "{name: dev, extends: prod}");
        self.mayfly.answers("www-dev.example.com", "web@1").await;
        let info = self.mayfly.haproxy.info().await.unwrap();
        let report = self.load.stop().await;
        let version = info.get("Version").cloned().unwrap_or_default();
        println!(
            "{version}: {} requests, {} failed",
            report.requests,
            report.failures.len()
        );
        report.assert_flawless(20);
    }
}

fn haproxy(mayfly: &Mayfly, program: &Path, more: &[&str]) -> Result<Process> {
    let run = mayfly.haproxy_directory().join("run/master.sock");
    let mut command = Command::new(program);
    command.args(["-W", "-db", "-S"]);
    command.arg(format!("{},mode,660", run.display()));
    command
        .arg("-f")
        .arg(mayfly.haproxy_directory().join("haproxy.cfg"));
    command.args(more);
    mayfly
        .spawn("haproxy-upgraded", &command)
        .context("start HAProxy")
}

#[tokio::test]
async fn the_master_executes_a_replaced_program() {
    let mut upgrade = Upgrade::start().await;
    upgrade.running.signal(Signal::Usr2).unwrap();
    upgrade.is_served_by_another().await;
    upgrade.end().await;
}

#[tokio::test]
async fn a_new_haproxy_takes_over_the_sockets_of_the_old_one() {
    let mut upgrade = Upgrade::start().await;
    let socket = upgrade.mayfly.haproxy_directory().join("run/haproxy.sock");
    let from = socket.display().to_string();
    let new = haproxy(&upgrade.mayfly, &upgrade.program, &["-x", &from]).unwrap();
    upgrade.is_served_by_another().await;
    upgrade.running.signal(Signal::Usr1).unwrap();
    upgrade.running.wait(Duration::from_secs(60)).await.unwrap();
    upgrade.end().await;
    drop(new);
}
