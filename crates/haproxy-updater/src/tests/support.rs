//! One HAProxy, one applier and instances on loopback, without etcd: records go straight into the applier's index.
//! `MAYFLY_TEST_HAPROXY` names another haproxy program than the one in PATH, to run the same tests with 3.0.

pub mod town;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::apply::{Applier, Parts, write};
use crate::args::Arguments;
use crate::haproxy::files::HaproxyFiles;
use crate::haproxy::sockets::Runtime;
use crate::haproxy::tokens::ConfigPath;
use crate::metrics::Metrics;
use clap::Parser as _;
use mayfly_core::index::Index;
use mayfly_core::keys::{Key, KeySpace};
use mayfly_core::records::Record;
use mayfly_e2e::http::{Answer, Request};
use mayfly_e2e::process::Process;
use mayfly_e2e::{eventually, port};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

pub const LIMIT: Duration = Duration::from_secs(10);

/// The haproxy program of this run.
pub fn program() -> String {
    std::env::var("MAYFLY_TEST_HAPROXY").unwrap_or_else(|_| "haproxy".to_owned())
}

/// A router in a directory of its own.
pub struct Router {
    pub dir: TempDir,
    pub index: Index,
    pub applier: Applier,
    pub edge: SocketAddr,
    pub internal: SocketAddr,
    arguments: Arguments,
    haproxy: Option<Process>,
    revision: i64,
}

impl Router {
    /// A router with these further flags; HAProxy does not run yet.
    pub fn new(flags: &[&str]) -> Self {
        let dir = tempfile::Builder::new().prefix("mayfly-").tempdir().unwrap();
        Self::at(dir, port::free(), port::free(), flags)
    }

    /// A router in a directory that exists, as a second updater would find it.
    pub fn at(dir: TempDir, edge: SocketAddr, internal: SocketAddr, flags: &[&str]) -> Self {
        let path = dir.path().to_str().unwrap().to_owned();
        let (edge_text, internal_text, haproxy) = (edge.to_string(), internal.to_string(), program());
        let mut arguments = vec!["haproxy-updater", "--dir", &path, "--edge-bind", &edge_text];
        arguments.extend(["--internal-bind", &internal_text, "--haproxy", &haproxy]);
        arguments.extend(flags);
        let arguments = Arguments::try_parse_from(arguments).unwrap();
        let (index, applier) = applier(&arguments, "first");
        Self {
            dir,
            index,
            applier,
            edge,
            internal,
            arguments,
            haproxy: None,
            revision: 0,
        }
    }

    /// Another updater takes over: nothing in memory survives. The records have to be given again.
    pub fn replace_updater(&mut self, flags: &[&str]) {
        let mut arguments = vec!["haproxy-updater".to_owned()];
        arguments.extend(["--dir".to_owned(), self.dir.path().to_str().unwrap().to_owned()]);
        if !flags.contains(&"--edge-bind") {
            arguments.extend(["--edge-bind".to_owned(), self.edge.to_string()]);
        }
        arguments.extend(["--internal-bind".to_owned(), self.internal.to_string()]);
        arguments.extend(["--haproxy".to_owned(), program()]);
        arguments.extend(flags.iter().map(|&flag| flag.to_owned()));
        self.arguments = Arguments::try_parse_from(arguments).unwrap();
        (self.index, self.applier) = applier(&self.arguments, "second");
    }

    /// Gives the applier a record.
    pub fn put(&mut self, key: &str, value: &Value) {
        self.revision += 1;
        let key = parse(key);
        let record = Record::decode(&key, value.to_string().as_bytes()).unwrap();
        self.index.put(record, self.revision);
    }

    /// Tells the applier that a record is gone.
    pub fn delete(&mut self, key: &str) {
        self.index.gone(&parse(key));
    }

    /// An environment: its services as `name@version` with an optional route, as `backend@0.0.1/api`.
    pub fn environment(&mut self, name: &str, extends: Option<&str>, services: &[&str]) {
        let services: Vec<Value> = services.iter().map(|text| service(text)).collect();
        let mut record = json!({"name": name, "prefix": format!("www-{name}"), "header": format!("h-{name}"), "services": services});
        if let Some(parent) = extends {
            record["extends"] = json!(parent);
        }
        self.put(&format!("environments/{name}"), &record);
    }

    /// An instance of `service@version`.
    pub fn instance(&mut self, backend: &str, address: SocketAddr) {
        self.instance_with(backend, address, json!({}));
    }

    /// An instance with further fields.
    pub fn instance_with(&mut self, backend: &str, address: SocketAddr, more: Value) {
        // In these tests one process stands in for many backends.
        let mut record = json!({"address": address.to_string(), "shared": true});
        record
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        self.put(
            &format!("backends/{}/{address}", backend.replace('@', "/")),
            &record,
        );
    }

    /// The end of an instance's record.
    pub fn no_instance(&mut self, backend: &str, address: SocketAddr) {
        self.delete(&format!("backends/{}/{address}", backend.replace('@', "/")));
    }

    pub fn resolve(&mut self) {
        let touched = self.index.resolve();
        self.applier.note(touched, self.index.routing());
    }

    /// Resolves and applies the given records.
    pub async fn apply(&mut self) {
        self.resolve();
        self.applier.apply(self.index.routing()).await.unwrap();
    }

    /// Writes the files as they should be.
    pub async fn write(&mut self) {
        self.resolve();
        let state = self.applier.state(self.index.routing()).unwrap().unwrap();
        write(self.applier.files(), state).await.unwrap();
    }

    /// Starts HAProxy from the files and waits until it answers.
    pub async fn start(&mut self) {
        let log = self.path("haproxy.log");
        let mut command = Command::new(program());
        command
            .args(["-W", "-db", "-S"])
            .arg(self.path("run/master.sock"))
            .arg("-f")
            .arg(self.path("haproxy.cfg"));
        let mut haproxy = Process::spawn("haproxy", &command, log.as_ref()).unwrap();
        let this = &*self;
        eventually(LIMIT, "haproxy answers", async || {
            assert!(
                haproxy.is_running(),
                "haproxy does not start: {}",
                haproxy.output()
            );
            this.ask("show info").await
        })
        .await;
        self.haproxy = Some(haproxy);
    }

    /// Writes the files, starts HAProxy from them and brings it in sync.
    pub async fn run(&mut self) {
        self.write().await;
        self.start().await;
        self.apply().await;
    }

    /// Kills HAProxy as a crash would.
    pub async fn kill(&mut self) {
        self.haproxy.take().unwrap().kill9().await.unwrap();
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Says something to the process at the run-time socket, past the applier.
    pub async fn ask(&self, command: &str) -> std::io::Result<String> {
        let mut stream = UnixStream::connect(self.path("run/haproxy.sock")).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    pub fn reloads(&self) -> u64 {
        self.applier.metrics().reloads.get()
    }

    /// How many rows a map has in the running process.
    pub async fn rows(&self, map: &str) -> usize {
        let answer = self
            .ask(&format!("show map {}", self.path(&format!("maps/{map}.map"))))
            .await
            .unwrap();
        answer.lines().filter(|line| !line.is_empty()).count()
    }

    /// How many servers the running process has.
    pub async fn servers(&self) -> usize {
        let answer = self.ask("show servers state").await.unwrap();
        answer.lines().filter(|line| line.contains(" slot-")).count()
    }

    /// Sees servers off until `left` are left.
    pub async fn see_off(&mut self, left: usize) {
        let deadline = tokio::time::Instant::now() + LIMIT;
        while self.servers().await > left {
            assert!(
                tokio::time::Instant::now() < deadline,
                "{} servers are left",
                self.servers().await
            );
            // As if the disabled ones had been so for long.
            let later = tokio::time::Instant::now() + Duration::from_secs(3600);
            self.applier.remove_leaving(later).await.unwrap();
            self.applier
                .remove_leaving(later + Duration::from_secs(3600))
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// GET at the edge.
    pub async fn outside(&self, host: &str, path: &str) -> Answer {
        Request::get(host, path).send(self.edge).await.unwrap()
    }

    /// GET on the internal side with `x-mayfly`.
    pub async fn inside(&self, service: &str, header: &str) -> Answer {
        let request = Request::get(&format!("{service}.service"), "/").header("x-mayfly", header);
        request.send(self.internal).await.unwrap()
    }
}

fn applier(arguments: &Arguments, token: &str) -> (Index, Applier) {
    let options = &arguments.options;
    let dir: ConfigPath = options.dir().unwrap();
    let mut renderer = arguments.renderer().unwrap();
    // There are no certificates here.
    renderer.serve_tls(false);
    let parts = Parts {
        renderer,
        files: HaproxyFiles::open(&dir, Path::new(&options.haproxy)).unwrap(),
        runtime: Runtime::new(&options.runtime_socket().unwrap(), dir.join("maps")),
        master: options.master_socket().unwrap(),
        slots: options.slots,
        token: token.parse().unwrap(),
        metrics: Metrics::register(&mut Registry::default()),
    };
    let index = Index::new(KeySpace::default()).with_rule(options.reach().rule(None));
    (index, Applier::new(parts))
}

fn service(text: &str) -> Value {
    let (backend, route) = match text.split_once('/') {
        Some((backend, route)) => (backend, vec![format!("/{route}")]),
        None => (text, vec![]),
    };
    let (name, version) = backend.split_once('@').unwrap();
    json!({"name": name, "version": version, "routes": route})
}

/// `environments/dev`
fn parse(key: &str) -> Key {
    KeySpace::default().parse(&format!("/mayfly/{key}")).unwrap()
}
