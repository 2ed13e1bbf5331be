//! A Docker engine of a test's own with the launcher's engine on it, launches, and an image with a shell.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::engine::{Docker, Launch, Progress, Pull, Swarm};
use mayfly_core::labels::{DEFINITION, LAUNCHER, PORT, SERVICE, VERSION};
use mayfly_core::version::BackendId;
use mayfly_e2e::docker::DockerEngine;
use mayfly_e2e::process;
use serde_json::{Value, json};

/// The key prefix of the launcher.
pub const PREFIX: &str = "/mayfly";
/// The image of the tests' instance.
pub const IMAGE: &str = "team/backend:0.0.1";
/// An image with a shell and next to nothing else.
pub const SHELL: &str = "team/shell:0.0.1";
/// Limit for what engines do: they share two cores.
pub const LIMIT: Duration = Duration::from_secs(60);
/// Time of a container to end by itself.
pub const GRACE: Duration = Duration::from_secs(2);

/// An engine with the images [`IMAGE`] and [`SHELL`], and the launcher's view of it.
pub async fn bench() -> (DockerEngine, Docker) {
    let engine = DockerEngine::start().await.unwrap();
    images(&engine).await;
    let docker = handle(&engine);
    (engine, docker)
}

/// A swarm of one node with the same images, and the launcher's view of it.
pub async fn swarm_bench() -> (DockerEngine, Swarm) {
    let engine = DockerEngine::start().await.unwrap();
    engine.swarm_init().await.unwrap();
    images(&engine).await;
    let swarm = swarm_handle(&engine);
    (engine, swarm)
}

async fn images(engine: &DockerEngine) {
    engine.image(IMAGE).await.unwrap();
    shell_image(engine).await;
}

/// Another launcher's view of a swarm.
pub fn swarm_handle(engine: &DockerEngine) -> Swarm {
    Swarm::new(
        &engine.host_url().parse().unwrap(),
        &PREFIX.parse().unwrap(),
        GRACE,
    )
}

/// Another launcher's view of an engine.
pub fn handle(engine: &DockerEngine) -> Docker {
    Docker::new(&engine.host_url().parse().unwrap(), &PREFIX.parse().unwrap())
}

/// A launch of an image whose tag is the version, with further fields of its definition.
pub fn launch(name: &str, image: &str, fields: Value) -> Launch {
    let mut definition = json!({ "name": "backend", "image": "backend:{{ version }}", "port": 8080 });
    for (field, value) in fields.as_object().into_iter().flatten() {
        definition[field] = value.clone();
    }
    let version = image.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    Launch {
        name: name.to_owned(),
        backend: format!("backend@{version}").parse().unwrap(),
        labels: labels("backend", version),
        digest: "digest-1".to_owned(),
        image: image.parse().unwrap(),
        pull: Pull::Missing,
        definition: Arc::new(serde_json::from_value(definition).unwrap()),
        processes: 1024,
        dns: Vec::new(),
    }
}

/// A launch of a shell with a script, on the engine's network.
pub fn script(name: &str, text: &str) -> Launch {
    let fields = json!({ "command": ["/sh", "-c", text], "networks": [mayfly_e2e::docker::NETWORK] });
    launch(name, SHELL, fields)
}

/// The labels of a unit.
pub fn labels(service: &str, version: &str) -> BTreeMap<String, String> {
    let pairs = [
        (SERVICE, service),
        (VERSION, version),
        (PORT, "8080"),
        (LAUNCHER, PREFIX),
        (DEFINITION, "digest-1"),
    ];
    pairs
        .map(|(name, text)| (name.to_owned(), text.to_owned()))
        .into()
}

/// The backend of [`IMAGE`].
pub fn backend() -> BackendId {
    "backend@0.0.1".parse().unwrap()
}

/// CHOWN, DAC_OVERRIDE, FOWNER, KILL, SETGID, SETUID and NET_BIND_SERVICE, as the kernel says it: no NET_RAW (13).
pub const CAPABILITIES: &str = "CapEff: 00000000000004eb";

/// What the engine says of a container's host is no more than a launched one may have.
pub fn is_confined(host: &Value) {
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert_eq!(host["CapAdd"].as_array().unwrap().len(), 7);
    let log = json!({ "Type": "json-file", "Config": { "max-file": "2", "max-size": "10m" } });
    assert_eq!(host["LogConfig"], log);
}

/// The progress that was reported while a unit was started.
#[derive(Debug, Default)]
pub struct ProgressLog(Mutex<Vec<Progress>>);

impl ProgressLog {
    pub fn note(&self, progress: Progress) {
        self.0.lock().unwrap().push(progress);
    }

    pub fn all(&self) -> Vec<Progress> {
        self.0.lock().unwrap().clone()
    }
}

/// What `docker inspect` says of one thing.
pub async fn inspect(engine: &DockerEngine, name: &str) -> Value {
    let text = engine.docker(&["inspect", name]).await.unwrap();
    let mut all: Value = serde_json::from_str(&text).unwrap();
    all[0].take()
}

/// Names and states of all containers, sorted: `name state`.
pub async fn containers(engine: &DockerEngine) -> Vec<String> {
    let listed = engine
        .docker(&["ps", "--all", "--format", "{{.Names}} {{.State}}"])
        .await;
    let mut lines: Vec<String> = listed.unwrap().lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// Makes [`SHELL`]: `/sh`, `/sleep`, `/chown` and `/setpriv`, and the libraries that they need.
async fn shell_image(engine: &DockerEngine) {
    let root = engine.directory().join("shell");
    let mut files: Vec<(PathBuf, PathBuf)> = Vec::new();
    for (program, inside) in [
        ("/bin/sh", "sh"),
        ("/bin/sleep", "sleep"),
        ("/bin/chown", "chown"),
        ("/usr/bin/setpriv", "setpriv"),
    ] {
        files.push((program.into(), root.join(inside)));
        let mut ldd = Command::new("ldd");
        ldd.arg(program);
        let listed = process::run(&ldd, LIMIT).await.unwrap().ok().unwrap();
        let paths = listed
            .lines()
            .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
        files.extend(paths.map(|path| (Path::new(path).into(), root.join(path.trim_start_matches('/')))));
    }
    for (from, to) in files {
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(from, to).unwrap();
    }
    let tar = engine.directory().join("shell.tar").display().to_string();
    let mut command = Command::new("tar");
    command.arg("-C").arg(&root).args(["-cf", &tar, "."]);
    process::run(&command, LIMIT).await.unwrap().ok().unwrap();
    engine.docker(&["import", &tar, SHELL]).await.unwrap();
}
