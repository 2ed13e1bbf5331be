//! The real binary against a real etcd and real instances: what is registered when, and what the commands answer.

// The lint's exception for tests does not reach their helpers.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::poll::throughout;
use mayfly_e2e::process::{Finished, Process, Signal, run};
use mayfly_e2e::{eventually, port};
use serde_json::{Value, json};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_container-registrar");
const SOON: Duration = Duration::from_secs(20);

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

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(line.split_whitespace())
            .args(["--etcd", &self.etcd.endpoint()]);
        command
    }

    fn register(&self, line: &str) -> Process {
        let command = self.command(&format!("register {line}"));
        Process::spawn(
            "container-registrar",
            &command,
            &self.directory.path().join("registrar.log"),
        )
        .unwrap()
    }

    async fn run(&self, line: &str) -> Finished {
        run(&self.command(line), SOON).await.unwrap()
    }

    async fn registered(&self, address: &str) -> Option<Value> {
        let key = format!("/mayfly/backends/backend/0.0.2/{address}");
        let text = self.etcd.get(&key).await.ok().flatten()?;
        Some(serde_json::from_str(&text).unwrap())
    }

    async fn until_registered(&self, address: &str) {
        eventually(SOON, "registered", async || self.registered(address).await).await;
    }

    async fn until_gone(&self, address: &str) {
        eventually(SOON, "no longer registered", async || {
            self.registered(address).await.is_none()
        })
        .await;
    }
}

fn split(address: SocketAddr) -> String {
    format!("{} {}", address.ip(), address.port())
}

#[tokio::test]
async fn registers_drains_and_goes() {
    let bench = Bench::new().await;
    let mut registrar = bench
        .register("backend.service 0.0.2 10.0.0.5 8080 --drain 1s --weight 50 --meta zone=north --node n1");
    bench.until_registered("10.0.0.5:8080").await;
    let mut expected = json!({
        "address": "10.0.0.5:8080", "state": "up", "protocol": "http", "weight": 50,
        "metadata": {"zone": "north", "node": "n1"}
    });
    assert_eq!(bench.registered("10.0.0.5:8080").await.unwrap(), expected);

    let start = Instant::now();
    registrar.signal(Signal::Term).unwrap();
    expected["state"] = "draining".into();
    eventually(SOON, "draining", async || {
        bench.registered("10.0.0.5:8080").await == Some(expected.clone())
    })
    .await;
    assert_eq!(registrar.wait(SOON).await.unwrap().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert_eq!(bench.registered("10.0.0.5:8080").await, None);
}

/// The status records of registrars, and the revision at which each was put last.
async fn complaints(bench: &Bench) -> Vec<(String, Value)> {
    let all = bench
        .etcd
        .list("/mayfly/status/container-registrar/")
        .await
        .unwrap();
    let parsed = all
        .into_iter()
        .map(|(key, text)| (key, serde_json::from_str(&text).unwrap()));
    parsed.collect()
}

#[tokio::test]
async fn asks_as_callers_do() {
    let bench = Bench::new().await;
    let service = Service::start("backend", "0.0.2").await.unwrap();
    let at = split(service.address());
    for protocol in ["http", "h2c"] {
        let line =
            format!("backend.service 0.0.2 {at} --check /health?host=backend.service --protocol {protocol}");
        let registrar = bench.register(&line);
        bench.until_registered(&service.address().to_string()).await;
        drop(registrar);
        bench.run(&format!("deregister backend 0.0.2 {at}")).await;
    }
    assert!(complaints(&bench).await.is_empty(), "nothing to complain about");
    let line = format!("register --permanent backend 0.0.2 {at} --check /?host=backend.service");
    let done = bench.run(&line).await;
    assert_eq!(done.code, Some(0), "{}", done.stderr);
}

#[tokio::test]
async fn the_reason_of_a_failed_check_is_reported_and_another_host_can_be_given() {
    let bench = Bench::new().await;
    let service = Service::start("backend", "0.0.2").await.unwrap();
    let line = format!(
        "backend 0.0.2 {} --node host-1 --check /?host=shop.example.com --check-interval 100ms",
        split(service.address())
    );
    let mut refused = bench.register(&line);
    let reported = eventually(SOON, "the reason is reported", async || {
        complaints(&bench).await.pop()
    })
    .await;
    let address = service.address().to_string();
    assert_eq!(
        reported.0,
        format!(
            "/mayfly/status/container-registrar/host-1.backend.0.0.2.{}",
            address.replace(':', "-")
        )
    );
    let reason = "/?host=shop.example.com answers 400 Bad Request to a request with Host \
                  backend.service; if the service expects another Host, set --check-host";
    let expected = json!([{"backend": "backend@0.0.2", "address": address, "reason": reason}]);
    assert_eq!(reported.1["detail"]["failing"], expected);
    // Each further check fails for the same reason, and is no write.
    let asked = service.requests();
    let revision = bench.etcd.revision().await.unwrap();
    eventually(SOON, "ten more checks", async || service.requests() >= asked + 10).await;
    assert_eq!(bench.etcd.revision().await.unwrap(), revision);
    refused.signal(Signal::Term).unwrap();
    refused.wait(SOON).await.unwrap();
    assert!(complaints(&bench).await.is_empty(), "it goes with its registrar");

    let _registrar = bench.register(&format!("{line} --check-host shop.example.com"));
    bench.until_registered(&address).await;
}

#[tokio::test]
async fn a_complaint_ends_in_the_step_in_which_the_instance_is_registered() {
    let bench = Bench::new().await;
    let address = port::free();
    let line = format!(
        "backend 0.0.2 {} --node host-1 --check tcp --check-interval 100ms --fall 2 --rise 1",
        split(address)
    );
    let _registrar = bench.register(&line);
    let complained = async || {
        eventually(SOON, "a complaint", async || complaints(&bench).await.pop()).await;
        assert_eq!(
            bench.etcd.leases().await.unwrap(),
            1,
            "one lease keeps both records"
        );
        bench.etcd.revision().await.unwrap()
    };
    for _ in 0..2 {
        let before = complained().await;
        let service = Service::start_at(address, "backend", "0.0.2", None)
            .await
            .unwrap();
        bench.until_registered(&address.to_string()).await;
        assert!(complaints(&bench).await.is_empty());
        assert_eq!(bench.etcd.revision().await.unwrap(), before + 1);
        drop(service);
        eventually(SOON, "it is deregistered", async || {
            bench.registered(&address.to_string()).await.is_none()
        })
        .await;
    }
}

#[tokio::test]
async fn advertises_only_what_answers() {
    let bench = Bench::new().await;
    let (address, admin) = (port::free(), port::free());
    let line = "--check /health --check-interval 100ms --check-timeout 500ms --fall 3 --rise 2 --drain 0";
    let _registrar = bench.register(&format!(
        "backend 0.0.2 {} {line} --admin {admin}",
        split(address)
    ));
    eventually(SOON, "the admin endpoint", async || {
        Request::get("x", "/healthz").send(admin).await
    })
    .await;
    throughout(
        Duration::from_secs(1),
        "what does not answer is not registered",
        async || bench.registered(&address.to_string()).await.is_none(),
    )
    .await;
    assert_eq!(
        Request::get("x", "/readyz").send(admin).await.unwrap().status,
        503
    );

    let back = Service::start_at(address, "backend", "0.0.2", None)
        .await
        .unwrap();
    bench.until_registered(&address.to_string()).await;
    eventually(SOON, "ready", async || {
        Request::get("x", "/readyz").send(admin).await.unwrap().status == 200
    })
    .await;
    drop(back);
    bench.until_gone(&address.to_string()).await;
    let _again = Service::start_at(address, "backend", "0.0.2", None)
        .await
        .unwrap();
    bench.until_registered(&address.to_string()).await;
    let metrics = Request::get("x", "/metrics").send(admin).await.unwrap().body;
    mayfly_e2e::metrics::check(&metrics).unwrap();
    assert!(metrics.contains("\nmayfly_registered 1\n"), "{metrics}");
}

#[tokio::test]
async fn survives_the_loss_of_its_lease_of_etcd_and_of_all_data() {
    let mut bench = Bench::new().await;
    let _registrar = bench.register("backend 0.0.2 10.0.0.5 8080 --ttl 3s");
    bench.until_registered("10.0.0.5:8080").await;

    let key = "/mayfly/backends/backend/0.0.2/10.0.0.5:8080";
    let lease = bench.etcd.lease_of(key).await.unwrap().unwrap();
    bench.etcd.revoke(&lease).await.unwrap();
    bench.until_registered("10.0.0.5:8080").await;
    bench.etcd.restart_emptied().await.unwrap();
    bench.until_registered("10.0.0.5:8080").await;
    bench.etcd.kill9().await.unwrap();
    bench.etcd.restart().await.unwrap();
    throughout(
        Duration::from_secs(5),
        "it lives on after a restart of etcd",
        async || bench.registered("10.0.0.5:8080").await.is_some(),
    )
    .await;
}

#[tokio::test]
async fn may_start_before_etcd_and_vanishes_by_itself_when_it_dies() {
    let mut bench = Bench {
        etcd: Etcd::reserve().unwrap(),
        directory: tempfile::tempdir().unwrap(),
    };
    let address = "127.0.0.1:8080";
    let mut registrar = bench.register("backend 0.0.2 localhost 8080 --ttl 2s");
    bench.etcd.restart().await.unwrap();
    eventually(SOON, "registered by name", async || {
        bench.registered(address).await
    })
    .await;
    registrar.kill9().await.unwrap();
    bench.until_gone(address).await;
}

#[tokio::test]
async fn a_successor_takes_over_at_once_without_a_gap() {
    let bench = Bench::new().await;
    let mut first = bench.register("backend 0.0.2 10.0.0.5 8080 --ttl 2s");
    bench.until_registered("10.0.0.5:8080").await;
    let key = "/mayfly/backends/backend/0.0.2/10.0.0.5:8080";
    let lease = bench.etcd.lease_of(key).await.unwrap();
    first.kill9().await.unwrap();
    let _second = bench.register("backend 0.0.2 10.0.0.5 8080 --ttl 2s");
    eventually(SOON, "another lease", async || {
        bench.etcd.lease_of(key).await.unwrap() != lease
    })
    .await;
    throughout(
        Duration::from_secs(4),
        "the entry outlives the old lease",
        async || bench.registered("10.0.0.5:8080").await.is_some(),
    )
    .await;
}

#[tokio::test]
async fn ends_in_bounded_time_without_etcd_and_at_once_at_a_second_signal() {
    let mut bench = Bench::new().await;
    let mut patient = bench.register("backend 0.0.2 10.0.0.5 8080 --drain 10min");
    bench.until_registered("10.0.0.5:8080").await;
    patient.signal(Signal::Term).unwrap();
    eventually(SOON, "draining", async || patient.output().contains("drains for")).await;
    patient.signal(Signal::Term).unwrap();
    assert_eq!(patient.wait(SOON).await.unwrap().code(), Some(143));

    let mut registrar = bench.register("backend 0.0.2 10.0.0.6 8080 --drain 10min");
    bench.until_registered("10.0.0.6:8080").await;
    bench.etcd.freeze().unwrap();
    let start = Instant::now();
    assert_eq!(registrar.terminate(SOON).await.unwrap().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(9), "{:?}", start.elapsed());
    bench.etcd.thaw().unwrap();
}

/// Started by a shell that runs `before` it, whatever this test was started with.
fn register_by_shell(bench: &Bench, before: &str, address: &str) -> Process {
    let line = format!("register backend 0.0.2 {address} 8080 --drain 1s");
    let registrar = bench.command(&line);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("exec {before}")])
        .arg(registrar.get_program());
    command.args(registrar.get_args());
    let log = bench.directory.path().join("shell.log");
    Process::spawn("container-registrar", &command, &log).unwrap()
}

#[tokio::test]
async fn a_closed_terminal_ends_it_in_good_order_unless_it_is_to_outlive_that() {
    let bench = Bench::new().await;
    let mut registrar = register_by_shell(&bench, "env --default-signal=HUP \"$0\" \"$@\"", "10.0.0.5");
    bench.until_registered("10.0.0.5:8080").await;
    registrar.signal(Signal::Hup).unwrap();
    assert_eq!(registrar.wait(SOON).await.unwrap().code(), Some(0));
    assert_eq!(bench.registered("10.0.0.5:8080").await, None);

    let mut registrar = register_by_shell(&bench, "env --ignore-signal=HUP \"$0\" \"$@\"", "10.0.0.5");
    bench.until_registered("10.0.0.5:8080").await;
    registrar.signal(Signal::Hup).unwrap();
    registrar.signal(Signal::Term).unwrap();
    eventually(SOON, "ended", async || {
        registrar.output().contains("SIGTERM: shutting down")
    })
    .await;
    // That of the first one, which logged to the same file.
    assert_eq!(registrar.output().matches("SIGHUP").count(), 1);
}

#[tokio::test]
async fn a_log_that_cannot_be_written_changes_nothing() {
    let bench = Bench::new().await;
    let mut registrar = register_by_shell(&bench, "\"$0\" \"$@\" 2>/dev/full", "10.0.0.5");
    bench.until_registered("10.0.0.5:8080").await;
    registrar.signal(Signal::Term).unwrap();
    assert_eq!(registrar.wait(SOON).await.unwrap().code(), Some(0));
    assert_eq!(bench.registered("10.0.0.5:8080").await, None);
}

#[tokio::test]
async fn commands_answer_and_say_what_is_wrong() {
    let mut bench = Bench::new().await;
    let etcd = &bench.etcd;
    for (service, version, address, more) in [
        ("backend", "0.0.1", "10.0.0.4:80", ""),
        (
            "backend",
            "0.0.2",
            "10.0.0.5:80",
            r#", "state": "draining", "metadata": {"a": "b\u001b"}"#,
        ),
        ("backend2", "0.0.2", "10.0.0.6:80", r#", "protocol": "h2c""#),
    ] {
        let record = format!(r#"{{"address": "{address}"{more}}}"#);
        etcd.put(
            &format!("/mayfly/backends/{service}/{version}/{address}"),
            &record,
        )
        .await
        .unwrap();
    }
    etcd.put("/mayfly/backends/backend/0.0.1/bad", "{}")
        .await
        .unwrap();
    etcd.put("/mayfly/backends/Bad/0.0.1/x", "{}").await.unwrap();

    let all = bench.run("list").await;
    assert_eq!(all.code, Some(0));
    let expected = [
        "SERVICE   VERSION  ADDRESS      STATE     ENTRY      PROTOCOL  WEIGHT  NOTES",
        "backend   0.0.1    10.0.0.4:80  up        permanent  http      100",
        "backend   0.0.2    10.0.0.5:80  draining  permanent  http      100     a=b\\u{1b}",
        "backend2  0.0.2    10.0.0.6:80  up        permanent  h2c       100",
        "",
    ];
    assert_eq!(all.stdout, expected.join("\n"));
    assert!(
        all.stderr.contains("/mayfly/backends/backend/0.0.1/bad: "),
        "{}",
        all.stderr
    );
    assert!(
        all.stderr.contains("/mayfly/backends/Bad/0.0.1/x: "),
        "{}",
        all.stderr
    );

    let one: Value = serde_json::from_str(
        &bench
            .run("list backend.service 0.0.2 --format json")
            .await
            .ok()
            .unwrap(),
    )
    .unwrap();
    assert_eq!(one.as_array().unwrap().len(), 1);
    assert_eq!(
        (&one[0]["version"], &one[0]["state"]),
        (&json!("0.0.2"), &json!("draining"))
    );

    let removed = bench
        .run("deregister backend 0.0.2 10.0.0.5 80")
        .await
        .ok()
        .unwrap();
    assert!(
        removed.contains("backend@0.0.2 at 10.0.0.5:80 is deregistered"),
        "{removed}"
    );
    let again = bench.run("deregister backend 0.0.2 10.0.0.5 80").await;
    assert_eq!(again.code, Some(1));
    assert_eq!(
        again.stderr,
        "error: backend@0.0.2 at 10.0.0.5:80 is not registered\n"
    );

    let usage = bench.run("register Backend 0.0.2 auto 80").await;
    assert_eq!(usage.code, Some(2));
    bench.etcd.kill9().await.unwrap();
    let away = bench.run("list").await;
    assert_eq!((away.code, away.stdout.as_str()), (Some(1), ""));
    assert!(
        away.stderr
            .starts_with("error: cannot list /mayfly/backends/: etcd at "),
        "{}",
        away.stderr
    );
    assert_eq!(away.stderr.lines().count(), 1, "{}", away.stderr);
}

#[tokio::test]
async fn one_that_never_reached_etcd_does_not_claim_so() {
    let bench = Bench {
        etcd: Etcd::reserve().unwrap(),
        directory: tempfile::tempdir().unwrap(),
    };
    let mut registrar = bench.register("backend 0.0.2 10.0.0.5 8080 --drain 10min");
    eventually(SOON, "the first try", async || {
        registrar.output().contains("retrying")
    })
    .await;
    assert_eq!(registrar.terminate(SOON).await.unwrap().code(), Some(0));
    let log = registrar.output();
    assert!(
        !log.contains("is registered") && log.contains("cannot mark"),
        "{log}"
    );
}

#[tokio::test]
async fn a_permanent_entry_is_written_once_and_stays_until_it_is_deregistered() {
    let bench = Bench::new().await;
    for (host, port, address, key) in [
        ("10.0.0.5", 8080, "10.0.0.5:8080", "10.0.0.5:8080"),
        (
            "Billing.Internal",
            8080,
            "billing.internal:8080",
            "billing.internal:8080",
        ),
        (
            "https://billing.internal",
            443,
            "https://billing.internal:443",
            "billing.internal:443",
        ),
        ("https://[fd00::5]", 443, "https://[fd00::5]:443", "fd00::5:443"),
    ] {
        let line = format!("register --permanent backend.service 0.0.2 {host} {port} --weight 7");
        let told = bench.run(&line).await.ok().unwrap();
        let expected = json!({"address": address, "state": "up", "protocol": "http", "weight": 7});
        assert_eq!(bench.registered(key).await, Some(expected), "{told}");
        let lease = bench
            .etcd
            .lease_of(&format!("/mayfly/backends/backend/0.0.2/{key}"))
            .await;
        assert_eq!(lease.unwrap(), None);
        let list = bench.run("list backend").await.ok().unwrap();
        assert!(list.contains("permanent"), "{list}");
        let (_, command) = told.trim().split_once("container-registrar ").unwrap();
        bench.run(command).await.ok().unwrap();
        assert_eq!(bench.registered(key).await, None);
        assert_eq!(bench.run(command).await.code, Some(1), "{command}");
    }
}

#[tokio::test]
async fn a_permanent_entry_is_refused_when_its_check_fails_or_a_registrar_has_it() {
    let bench = Bench::new().await;
    let here = port::free_at([127, 0, 0, 1].into());
    let port = here.port();
    let _service = Service::start_at(here, "backend", "0.0.2", None).await.unwrap();
    let place = format!("localhost {port}");
    let line = |check: &str| format!("register --permanent backend 0.0.2 {place} --check {check}");
    let refused = bench.run(&line("/x?status=500")).await;
    assert_eq!(refused.code, Some(1));
    let expected = format!(
        "error: backend@0.0.2 is not registered: localhost:{port} does not pass the check: 127.0.0.1:{port}: /x?status=500 answers 500"
    );
    assert!(refused.stderr.starts_with(&expected), "{}", refused.stderr);
    let nowhere = bench
        .run("register --permanent backend 0.0.2 no-such-host.invalid 80 --check tcp")
        .await;
    assert!(
        nowhere
            .stderr
            .contains("cannot resolve host name `no-such-host.invalid`"),
        "{}",
        nowhere.stderr
    );
    assert_eq!(bench.registered(&format!("localhost:{port}")).await, None);
    bench.run(&line("/health")).await.ok().unwrap();
    assert!(bench.registered(&format!("localhost:{port}")).await.is_some());

    let _registrar = bench.register("backend 0.0.2 10.0.0.5 8080");
    bench.until_registered("10.0.0.5:8080").await;
    let taken = bench
        .run("register --permanent backend 0.0.2 10.0.0.5 8080")
        .await;
    assert!(
        taken
            .stderr
            .contains("already registered by a running container-registrar"),
        "{}",
        taken.stderr
    );
    let usage = bench
        .run("register backend 0.0.2 https://billing.internal 443")
        .await;
    assert_eq!(usage.code, Some(2));
    assert!(usage.stderr.contains("needs --permanent"), "{}", usage.stderr);
}
