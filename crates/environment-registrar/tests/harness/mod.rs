//! A registrar as a process, on an etcd and a directory of its own.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use mayfly_core::keys::{Daemon, Key, KeySpace};
use mayfly_core::records::{self, Environment, Status};
use mayfly_daemon::store::{Entry, Guard, Store};
use mayfly_e2e::etcd::Etcd;
use mayfly_e2e::eventually;
use mayfly_e2e::process::{Process, Signal};
use tempfile::TempDir;

/// How long anything that has to happen may take.
pub const LIMIT: Duration = Duration::from_secs(20);
/// The grace that the registrars of the tests have.
pub const GRACE: Duration = Duration::from_millis(400);

pub struct World {
    // Dropped in this order: a failed test shows the ends of the logs, which lie in the last one.
    pub registrar: Option<Process>,
    pub etcd: Etcd,
    pub store: Store,
    pub root: TempDir,
}

impl World {
    /// An etcd, and a directory `envs` with these files; no registrar yet.
    pub async fn new(files: &[(&str, &str)]) -> Self {
        Self::new_on(Etcd::start().await.unwrap(), files)
    }

    /// The same, on this etcd.
    pub fn new_on(etcd: Etcd, files: &[(&str, &str)]) -> Self {
        let endpoint = etcd.endpoint().parse().unwrap();
        let store = Store::new(vec![endpoint], KeySpace::default());
        let world = Self {
            etcd,
            store,
            root: tempfile::tempdir().unwrap(),
            registrar: None,
        };
        std::fs::create_dir(world.path("envs")).unwrap();
        for (name, text) in files {
            world.write(name, text);
            // They lie there for long: nobody waits for them to stay the same.
            let file = std::fs::File::options()
                .append(true)
                .open(world.path("envs").join(name));
            let hour = std::time::Duration::from_secs(3600);
            file.unwrap()
                .set_modified(std::time::SystemTime::now() - hour)
                .unwrap();
        }
        world
    }

    /// The same, with a registrar that has brought etcd in sync.
    pub async fn started(files: &[(&str, &str)]) -> Self {
        let mut world = Self::new(files).await;
        world.start(&[]).await;
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes a file of the directory in place.
    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path("envs").join(name), text).unwrap();
    }

    pub fn remove(&self, name: &str) {
        std::fs::remove_file(self.path("envs").join(name)).unwrap();
    }

    /// A registrar of node `us` with further arguments; does not wait for anything.
    pub fn spawn(&mut self, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_environment-registrar"));
        command
            .arg("watch")
            .arg(self.path("envs"))
            .arg("--etcd")
            .arg(self.etcd.endpoint());
        command
            .args(["--node", "us", "--grace", &format!("{}ms", GRACE.as_millis())])
            .args(arguments);
        let log = self.path("registrar.log");
        self.registrar = Some(Process::spawn("environment-registrar", &command, &log).unwrap());
    }

    /// The same, and waits until etcd is in sync.
    pub async fn start(&mut self, arguments: &[&str]) {
        self.spawn(arguments);
        self.status("ready", |status| status.ready).await;
    }

    /// Ends the registrar as systemd does.
    pub async fn stop(&mut self) {
        let status = self.registrar.take().unwrap().terminate(LIMIT).await.unwrap();
        assert_eq!(status.code(), Some(0));
    }

    pub async fn kill(&mut self) {
        let mut registrar = self.registrar.take().unwrap();
        registrar.signal(Signal::Kill).unwrap();
        registrar.wait(LIMIT).await.unwrap();
        // So that nobody takes the old status record for the next registrar's.
        self.store.delete(&Self::status_key()).await.unwrap();
    }

    fn status_key() -> Key {
        Key::Status(Daemon::EnvironmentRegistrar, "us".parse().unwrap())
    }

    /// Waits until the status record is as wanted.
    pub async fn status(&self, what: &str, wanted: impl Fn(&Status) -> bool) -> Status {
        eventually(LIMIT, what, async || {
            let entry = self
                .store
                .get(&Self::status_key())
                .await
                .map_err(|error| error.to_string())?;
            let status: Status =
                records::parse(&entry.ok_or("no status")?.value).map_err(|error| error.to_string())?;
            if wanted(&status) {
                Ok(status)
            } else {
                Err(format!("{status:?}"))
            }
        })
        .await
    }

    /// Waits until this is set aside, for a reason that contains this.
    pub async fn set_aside(&self, key: &str, reason: &str) {
        self.status(&format!("{key} set aside: {reason}"), |status| {
            status
                .set_aside
                .iter()
                .any(|entry| entry.key == key && entry.reason.contains(reason))
        })
        .await;
    }

    pub fn key(name: &str) -> Key {
        Key::Environment(name.parse().unwrap())
    }

    pub async fn entry(&self, name: &str) -> Option<Entry> {
        self.store.get(&Self::key(name)).await.unwrap()
    }

    /// The revision at which the key of an environment was created: the same as long as it was never deleted.
    pub async fn created(&self, name: &str) -> i64 {
        self.entry(name).await.unwrap().create_revision
    }

    /// What is registered, as `name:version of backend` (`name` without that service).
    pub async fn all(&self) -> Vec<String> {
        let listing = self
            .store
            .list(&self.store.keyspace().environments())
            .await
            .unwrap();
        let record = |entry: Entry| match records::parse::<Environment>(&entry.value) {
            Ok(environment) => {
                let backend = environment
                    .services
                    .iter()
                    .find(|service| service.name.as_str() == "backend");
                let version = backend
                    .map(|service| format!(":{}", service.version))
                    .unwrap_or_default();
                format!("{}{version}", environment.name)
            }
            Err(_) => format!("{}!", entry.key),
        };
        listing.entries.into_iter().map(record).collect()
    }

    /// Waits until exactly this is registered.
    pub async fn until(&self, expected: &[&str]) {
        eventually(LIMIT, "the environments in etcd", async || {
            let all = self.all().await;
            if all == expected {
                Ok(())
            } else {
                Err(format!("{all:?}, not {expected:?}"))
            }
        })
        .await;
    }

    /// Registers an environment as another writer.
    pub async fn foreign(&self, name: &str, prefix: &str) {
        let source = serde_json::json!({"registrar": "them", "file": "theirs.yaml"});
        let record = serde_json::json!({"name": name, "prefix": prefix, "header": name, "services": [], "source": source});
        let done = self
            .store
            .put_if(&Self::key(name), records::to_json(&record), None, Guard::Absent)
            .await
            .unwrap();
        assert!(done.is_some());
    }

    /// Waits until the registrar has seen everything that happened in etcd and in the directory before this call.
    pub async fn settled(&self) {
        let marker = format!("marker-{}", self.etcd.revision().await.unwrap());
        self.write("zz-marker.yaml", &format!("name: {marker}"));
        eventually(LIMIT, "the marker", async || self.entry(&marker).await).await;
        self.remove("zz-marker.yaml");
        eventually(LIMIT, "the marker is gone", async || {
            self.entry(&marker).await.is_none()
        })
        .await;
    }
}

/// An environment of one service `backend`.
pub fn environment(name: &str, version: &str) -> String {
    format!("name: {name}\nservices:\n  - name: backend\n    version: {version}\n")
}
