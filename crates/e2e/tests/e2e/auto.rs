//! `auto`: which address is registered where nobody gives one, on hosts of the test's own.

use std::process::Command;

use anyhow::{Result, ensure};
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::SOON;
use mayfly_e2e::network::{Host, Network};
use mayfly_e2e::process::binary;
use mayfly_e2e::process::{Finished, Process, run};
use tempfile::TempDir;

/// As the units have it: a member of etcd, or a proxy to it, on each host.
const ETCD: &str = "http://127.0.0.1:2379";

struct MayflyWithEngine {
    network: Network,
    host: Host,
    directory: TempDir,
}

impl MayflyWithEngine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let network = Network::new(directory.path()).unwrap();
        let host = network.host().unwrap();
        Self {
            network,
            host,
            directory,
        }
    }

    fn command(&self, program: &str, etcd: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary(program).unwrap());
        command.args(["--etcd", etcd, "--node", "a"]).args(arguments);
        self.host.wrap(&command)
    }

    fn spawn(&self, name: &str, etcd: &str, arguments: &[&str]) -> Process {
        let command = self.command("container-registrar", etcd, arguments);
        let log = self.directory.path().join(format!("{name}.log"));
        Process::spawn(name, &command, &log).unwrap()
    }

    /// Where the internal side listens, and so what the router registers.
    async fn render(&self, arguments: &[&str]) -> Finished {
        let command = self.command("haproxy-updater", ETCD, &[arguments, &["render"]].concat());
        run(&command, SOON).await.unwrap()
    }
}

async fn says(process: &Process, part: &str) {
    eventually(SOON, &format!("it says {part:?}"), async || -> Result<()> {
        let output = process.output();
        ensure!(output.contains(part), "{output}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn auto_is_never_an_address_that_only_its_own_host_reaches() {
    let whole = MayflyWithEngine::new();
    let published = ["docker", "--published", "--docker", "unix:///no-such-engine.sock"];
    // Without a default route it is refused, with what to give.
    let finished = whole.render(&[]).await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    for part in [
        "127.0.0.1 (used to reach etcd) is a loopback address",
        "this host has no default route",
        "--advertise",
    ] {
        assert!(finished.stderr.contains(part), "{finished:?}");
    }
    let registrar = whole.spawn("docker", ETCD, &published);
    says(&registrar, "this host has no default route; retrying. Set --host").await;
    let instance = whole.spawn("instance", ETCD, &["register", "backend", "1", "auto", "80"]);
    says(&instance, "this host has no default route; retrying. Set HOST").await;

    // It may come later.
    whole.host.route_by_default().unwrap();
    let address = whole.host.address();
    says(
        &registrar,
        &format!("published ports are registered at {address}"),
    )
    .await;
    let config = whole.render(&[]).await.ok().unwrap();
    assert!(
        config.contains(&format!("\n    bind {address}:8080\n")),
        "{config}"
    );

    // What somebody says passes, with a warning.
    let given = [&published[..], &["--host", "127.0.0.1"]].concat();
    let given = whole.spawn("given", ETCD, &given);
    says(&given, "published ports are registered at 127.0.0.1").await;
    says(&given, "is 127.0.0.1, a loopback address").await;
    let config = whole.render(&["--advertise", "127.0.0.1"]).await.ok().unwrap();
    assert!(config.contains("\n    bind 127.0.0.1:8080\n"), "{config}");
}

#[tokio::test]
async fn auto_is_the_address_that_leads_to_etcd() {
    let whole = MayflyWithEngine::new();
    let mut etcd = Etcd::reserve_at(whole.network.own().into()).unwrap();
    etcd.restart().await.unwrap();
    let arguments = ["register", "backend", "1", "auto", "8080"];
    let registrar = whole.spawn("instance", &etcd.endpoint(), &arguments);
    let address = format!("{}:8080", whole.host.address());
    says(&registrar, &format!("backend@1 at {address} is registered")).await;
    let key = format!("/mayfly/backends/backend/1/{address}");
    let entry = etcd.get_json(&key).await.unwrap();
    assert_eq!(
        (&entry["address"], &entry["metadata"]["node"]),
        (&address.into(), &"a".into())
    );
}
