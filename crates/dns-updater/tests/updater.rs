//! The real binary with a real etcd and a real dnsmasq: names appear, change and disappear without a restart.

// The lint's exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use mayfly_e2e::dnsmasq::Dnsmasq;
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::http::Request;
use mayfly_e2e::poll::throughout;
use mayfly_e2e::process::{Finished, Process, run};
use mayfly_e2e::{eventually, port};
use serde_json::Value;
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_dns-updater");
const SOON: Duration = Duration::from_secs(20);
const STATUS: &str = "/mayfly/status/dns-updater/node-1";

struct Bench {
    etcd: Etcd,
    directory: TempDir,
}

impl Bench {
    async fn new() -> Self {
        Self {
            etcd: Etcd::start().await.unwrap(),
            directory: tempfile::tempdir().unwrap(),
        }
    }

    fn hosts_file(&self) -> PathBuf {
        self.directory.path().join("hosts/mayfly.hosts")
    }

    fn hosts(&self) -> String {
        std::fs::read_to_string(self.hosts_file()).unwrap_or_default()
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(line.split_whitespace())
            .args(["--node", "node-1", "--etcd", &self.etcd.endpoint()]);
        command
    }

    fn watch(&self, line: &str) -> Process {
        let mut command = self.command(&format!("watch {line}"));
        command.arg("--hosts-file").arg(self.hosts_file());
        Process::spawn(
            "dns-updater",
            &command,
            &self.directory.path().join("updater.log"),
        )
        .unwrap()
    }

    async fn dnsmasq(&self) -> Dnsmasq {
        let hosts = self.directory.path().join("hosts");
        std::fs::create_dir_all(&hosts).unwrap();
        Dnsmasq::start(&hosts, "service", self.directory.path())
            .await
            .unwrap()
    }

    async fn run(&self, line: &str) -> Finished {
        run(&self.command(line), SOON).await.unwrap()
    }

    async fn instance(&self, service: &str) {
        let key = format!("/mayfly/backends/{service}/0.0.1/10.0.0.5:80");
        self.etcd
            .put(&key, r#"{"address": "10.0.0.5:80"}"#)
            .await
            .unwrap();
    }

    async fn router(&self, node: &str, address: &str) {
        let record = format!(r#"{{"address": "{address}", "haproxy_version": "2.6.12"}}"#);
        self.etcd
            .put(&format!("/mayfly/routers/{node}"), &record)
            .await
            .unwrap();
    }

    async fn until_hosts(&self, part: &str) {
        eventually(SOON, part, async || {
            let hosts = self.hosts();
            if hosts.contains(part) { Ok(()) } else { Err(hosts) }
        })
        .await;
    }

    async fn status(&self) -> Value {
        self.etcd.get_json(STATUS).await.unwrap_or_default()
    }
}

async fn until_resolved(dnsmasq: &Dnsmasq, name: &str, addresses: &[&str]) {
    let addresses: Vec<IpAddr> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    eventually(SOON, name, async || {
        let found = dnsmasq.lookup(name).await.unwrap();
        if found == addresses { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test]
async fn names_follow_etcd_without_a_restart_of_dnsmasq() {
    let bench = Bench::new().await;
    let dnsmasq = bench.dnsmasq().await;
    let id = dnsmasq.id();
    let mut updater = bench.watch("");
    bench.router("host-1", "10.0.0.1").await;
    bench.instance("backend").await;
    until_resolved(&dnsmasq, "backend.service", &["10.0.0.1"]).await;
    until_resolved(&dnsmasq, "BACKEND.service", &["10.0.0.1"]).await;

    bench.router("host-2", "10.0.0.2").await;
    until_resolved(&dnsmasq, "backend.service", &["10.0.0.1", "10.0.0.2"]).await;
    bench.router("host-3", "fd00::3").await;
    eventually(SOON, "an IPv6 address", async || {
        !dnsmasq.lookup_v6("backend.service").await.unwrap().is_empty()
    })
    .await;

    let environment = r#"{"name": "dev", "prefix": "d", "header": "d", "services": [{"name": "frontend", "version": "latest"}]}"#;
    bench
        .etcd
        .put("/mayfly/environments/dev", environment)
        .await
        .unwrap();
    until_resolved(&dnsmasq, "frontend.service", &["10.0.0.1", "10.0.0.2"]).await;
    // Names stay as long as routers keep environments: all of them at once is more often a fault than a wish.
    bench
        .etcd
        .put("/mayfly/environments/qa", &environment.replace("dev", "qa"))
        .await
        .unwrap();
    bench.etcd.delete_all("/mayfly/environments/").await.unwrap();
    eventually(SOON, "it is reported", async || {
        let status = bench.status().await;
        let guard = status["detail"]["guard"].as_str().unwrap_or_default().to_owned();
        updater.output().contains("2 of 2 environments vanished") && guard.contains("still resolve until")
    })
    .await;
    until_resolved(&dnsmasq, "frontend.service", &["10.0.0.1", "10.0.0.2"]).await;
    // One comes back, the loss of the other one is confirmed.
    bench
        .etcd
        .put(
            "/mayfly/environments/dev",
            &environment.replace("frontend", "other"),
        )
        .await
        .unwrap();
    until_resolved(&dnsmasq, "other.service", &["10.0.0.1", "10.0.0.2"]).await;
    bench
        .etcd
        .put("/mayfly/confirmations/haproxy-updater", "{}")
        .await
        .unwrap();
    until_resolved(&dnsmasq, "frontend.service", &[]).await;
    bench.etcd.delete("/mayfly/routers/host-2").await.unwrap();
    until_resolved(&dnsmasq, "backend.service", &["10.0.0.1"]).await;

    bench.run("update backend.service 10.9.9.9").await.ok().unwrap();
    until_resolved(&dnsmasq, "backend.service", &["10.9.9.9"]).await;
    bench.run("delete backend.service").await.ok().unwrap();
    until_resolved(&dnsmasq, "backend.service", &["10.0.0.1"]).await;
    bench.etcd.delete_all("/mayfly/backends/").await.unwrap();
    until_resolved(&dnsmasq, "backend.service", &[]).await;

    assert_eq!(dnsmasq.id(), id);
    assert_eq!(updater.terminate(SOON).await.unwrap().code(), Some(0));
    assert_eq!(
        bench.etcd.get(STATUS).await.unwrap(),
        None,
        "a daemon that ended says nothing"
    );
}

#[tokio::test]
async fn without_a_live_router_names_stay_also_over_a_restart() {
    let bench = Bench::new().await;
    bench.router("host-1", "10.0.0.1").await;
    bench.instance("backend").await;
    let mut updater = bench.watch("");
    bench.until_hosts("10.0.0.1 backend.service").await;
    bench.etcd.delete("/mayfly/routers/host-1").await.unwrap();
    eventually(SOON, "the status says so", async || {
        bench.status().await["detail"]["routers_live"] == false
    })
    .await;
    bench.instance("frontend").await;
    bench.until_hosts("10.0.0.1 frontend.service").await;
    updater.kill9().await.unwrap();

    bench.instance("third").await;
    let _updater = bench.watch("");
    bench.until_hosts("10.0.0.1 third.service").await;
    assert!(bench.hosts().contains("10.0.0.1 backend.service"));
    bench.router("host-2", "10.0.0.2").await;
    bench.until_hosts("10.0.0.2 third.service").await;
    assert!(!bench.hosts().contains("10.0.0.1"));
}

#[tokio::test]
async fn losing_etcd_or_its_data_empties_nothing() {
    let mut bench = Bench::new().await;
    bench.router("host-1", "10.0.0.1").await;
    bench.instance("backend").await;
    let mut updater = bench.watch("--distrust 1h");
    bench.until_hosts("10.0.0.1 backend.service").await;
    bench.etcd.restart_emptied().await.unwrap();
    eventually(SOON, "the status says what is held", async || {
        bench.status().await["detail"]["held"] == 2
    })
    .await;
    assert!(bench.hosts().contains("10.0.0.1 backend.service"));
    bench.etcd.kill9().await.unwrap();
    updater.kill9().await.unwrap();
    let _updater = bench.watch("");
    throughout(
        Duration::from_secs(2),
        "without etcd the file is left alone",
        async || bench.hosts().contains("10.0.0.1 backend.service"),
    )
    .await;
    bench.etcd.restart().await.unwrap();
    bench.instance("frontend").await;
    bench.until_hosts("10.0.0.1 frontend.service").await;
}

#[tokio::test]
async fn a_bad_record_is_set_aside_and_harms_nobody() {
    let bench = Bench::new().await;
    bench.router("host-1", "10.0.0.1").await;
    bench
        .etcd
        .put("/mayfly/dns/db.service", r#"{"addresses": ["10.0.9.1"]}"#)
        .await
        .unwrap();
    let _updater = bench.watch("");
    bench.until_hosts("10.0.9.1 db.service").await;
    bench
        .etcd
        .put(
            "/mayfly/dns/db.service",
            r#"{"addresses": ["10.0.9.1\n10.6.6.6 x"]}"#,
        )
        .await
        .unwrap();
    bench
        .etcd
        .put("/mayfly/routers/evil", r#"{"address": "10.6.6.6\n"}"#)
        .await
        .unwrap();
    bench.instance("backend").await;
    bench.until_hosts("10.0.0.1 backend.service").await;
    assert!(
        bench.hosts().contains("10.0.9.1 db.service") && !bench.hosts().contains("10.6.6.6"),
        "{}",
        bench.hosts()
    );
    let revision = bench.etcd.revision().await.unwrap();
    eventually(SOON, "the status", async || {
        let status = bench.status().await;
        let named = status["set_aside"][0]["key"] == "/mayfly/dns/db.service"
            && status["set_aside"][1]["key"] == "/mayfly/routers/evil";
        // Its own writes of the status raise etcd's revision too.
        let applied = status["applied_revision"]
            .as_i64()
            .is_some_and(|applied| applied > 0 && applied <= revision + 9);
        if named && applied && status["ready"] == true {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
}

#[tokio::test]
async fn a_file_that_somebody_changed_or_removed_is_mended() {
    let bench = Bench::new().await;
    bench.router("host-1", "10.0.0.1").await;
    bench.instance("backend").await;
    let admin = port::free();
    let updater = bench.watch(&format!("--admin {admin}"));
    bench.until_hosts("10.0.0.1 backend.service").await;
    std::fs::write(bench.hosts_file(), "10.6.6.6 backend.service\n").unwrap();
    bench.until_hosts("10.0.0.1 backend.service").await;
    std::fs::remove_file(bench.hosts_file()).unwrap();
    bench.until_hosts("10.0.0.1 backend.service").await;

    // It cannot be written: a directory has its name.
    std::fs::remove_file(bench.hosts_file()).unwrap();
    std::fs::create_dir(bench.hosts_file()).unwrap();
    eventually(SOON, "the reason in the status", async || {
        let status = bench.status().await;
        if status["error"]
            .as_str()
            .is_some_and(|error| error.contains("mayfly.hosts"))
        {
            Ok(())
        } else {
            Err(status)
        }
    })
    .await;
    std::fs::remove_dir(bench.hosts_file()).unwrap();
    bench.until_hosts("10.0.0.1 backend.service").await;
    eventually(SOON, "no reason any more", async || {
        bench.status().await["error"].is_null()
    })
    .await;

    // dnsmasq would notice nothing in a directory that takes the place of the one that it watches.
    let notes = async || bench.status().await["detail"]["notes"].clone();
    assert!(notes().await.is_null(), "the first start makes the directory");
    let moved = bench.directory.path().join("moved");
    std::fs::rename(bench.hosts_file().parent().unwrap(), moved).unwrap();
    bench.until_hosts("10.0.0.1 backend.service").await;
    eventually(SOON, "a note in the status, logged once", async || {
        let notes = notes().await;
        let note = notes[0].as_str().unwrap_or_default();
        let logged = updater.output().matches("was replaced: dnsmasq").count();
        if note.contains("hosts` was replaced: dnsmasq no longer notices changes") && logged == 1 {
            Ok(())
        } else {
            Err(notes)
        }
    })
    .await;

    assert_eq!(
        Request::get("x", "/readyz").send(admin).await.unwrap().status,
        200
    );
    let metrics = Request::get("x", "/metrics").send(admin).await.unwrap().body;
    mayfly_e2e::metrics::check(&metrics).unwrap();
    assert!(
        metrics.contains("mayfly_hosts_writes_total") && metrics.contains("\nmayfly_etcd_connected 1\n"),
        "{metrics}"
    );
}

#[tokio::test]
async fn commands_for_static_records() {
    let mut bench = Bench::new().await;
    bench
        .run("update db.service 10.0.0.8 10.0.0.7 10.0.0.8")
        .await
        .ok()
        .unwrap();
    bench.run("update mail.service fd00::7").await.ok().unwrap();
    bench.etcd.put("/mayfly/dns/Bad", "{}").await.unwrap();
    let list = bench.run("list").await;
    let expected = "HOST          ADDRESSES\ndb.service    10.0.0.7 10.0.0.8\nmail.service  fd00::7\n";
    assert_eq!((list.code, list.stdout.as_str()), (Some(0), expected));
    assert!(
        list.stderr.starts_with("warning: /mayfly/dns/Bad: "),
        "{}",
        list.stderr
    );
    let json: Value = serde_json::from_str(&bench.run("list --format json").await.ok().unwrap()).unwrap();
    assert_eq!(json[1]["addresses"][0], "fd00::7");

    let delete = bench.run("delete nobody.service db.service").await;
    assert_eq!(delete.code, Some(1));
    assert_eq!(
        delete.stderr,
        "error: there is no static record `nobody.service`\n"
    );
    let reset = bench.run("reset").await.ok().unwrap();
    assert_eq!(reset, "deleted 2 static records\n");
    assert!(bench.etcd.list("/mayfly/dns/").await.unwrap().is_empty());

    assert_eq!(bench.run("update db.service").await.code, Some(2));
    bench.etcd.kill9().await.unwrap();
    let away = bench.run("update db.service 10.0.0.7").await;
    assert_eq!(away.code, Some(1));
    assert!(
        away.stderr
            .starts_with("error: cannot put /mayfly/dns/db.service: etcd at "),
        "{}",
        away.stderr
    );
}
