//! `mayfly doctor` on a whole installation with an engine: it finds nothing, and then each planted
//! fault.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use mayfly_e2e::clock::Clock;
use mayfly_e2e::disk::Disk;
use mayfly_e2e::dnsmasq::Dnsmasq;
use mayfly_e2e::docker::{DockerEngine, NETWORK};
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::{self, Finished, Process};
use mayfly_e2e::tls::Authority;
use mayfly_e2e::{eventually, launching, port};
use serde_json::{Value, json};

/// For what containers do, while other tests use the machine.
const LATER: Duration = Duration::from_secs(90);
/// A name that dnsmasq knows besides those of services.
const OUTSIDE: &str = "shop.example.org";
const PROD: &str = "name: prod\nprefix: www\nprotected: true\nservices:\n  - {name: web, version: 0.0.1, route: /}\n  \
                    - {name: backend, version: 0.0.1}\n";
const QA: &str = "{name: qa, extends: prod}";

/// What makes a container an instance.
const WEB: [&str; 4] = ["--label", "mayfly.service=web", "--label", "mayfly.version=0.0.1"];

/// A Mayfly whose router, dnsmasq and containers meet on the engine's way to the host.
struct Installation {
    launcher: Process,
    _containers: Process,
    mayfly: Mayfly,
    engine: DockerEngine,
}

impl Installation {
    async fn start() -> Self {
        let engine = DockerEngine::start().await.unwrap();
        for image in ["team/web:0.0.1", "team/backend:0.0.1"] {
            engine.image(image).await.unwrap();
        }
        let mut mayfly = Mayfly::bare(&[]).unwrap();
        let host = engine.host_ip().to_string();
        // Services call each other at port 80, and resolvers ask at port 53.
        mayfly.internal = SocketAddr::new(engine.host_ip().into(), 80);
        mayfly.start_all().await.unwrap();
        mayfly.dns_updater = Some(mayfly.spawn("dns-updater", &mayfly.dns_watch().unwrap()).unwrap());
        let outside = format!("--address=/{OUTSIDE}/10.9.9.9");
        let dnsmasq = Dnsmasq::start_at(
            SocketAddr::new(engine.host_ip().into(), 53),
            &mayfly.directory().join("hosts"),
            "service",
            mayfly.directory(),
            &[&outside],
        )
        .await
        .unwrap();
        mayfly.dnsmasq = Some(dnsmasq);
        let containers = launching::registrar(&mayfly, &engine, NETWORK).unwrap();
        launching::define(&mayfly, "backend", "team/backend", NETWORK, "").unwrap();
        let command = launching::launcher(&mayfly, &engine, "test", &["--dns", &host]).unwrap();
        let launcher = mayfly.spawn("container-launcher", &command).unwrap();
        let web = [&WEB[..], &["--dns", &host]].concat();
        engine.run("web", "team/web:0.0.1", &web).await.unwrap();
        mayfly.save("prod.yaml", PROD);
        mayfly.save("qa.yaml", QA);
        let installation = Self {
            launcher,
            _containers: containers,
            mayfly,
            engine,
        };
        installation.waits_for("qa").await;
        for name in ["web.service", "backend.service"] {
            installation
                .mayfly
                .resolves(name, &[engine_host(&installation)])
                .await;
        }
        installation
    }

    async fn waits_for(&self, environment: &str) {
        let arguments = ["wait", environment, "--timeout", "80s"];
        let mut command = self.mayfly.command("mayfly").unwrap();
        let ended = process::run(command.args(arguments), LATER).await.unwrap();
        ended.ok().unwrap();
    }

    async fn doctor(&self, arguments: &[&str]) -> Finished {
        let url = self.engine.host_url();
        let mut command = self.mayfly.command("mayfly").unwrap();
        command
            .args(["doctor", "--docker", &url])
            .args(arguments)
            .env("MAYFLY_OUTSIDE", OUTSIDE);
        process::run(&command, LATER).await.unwrap()
    }

    /// What it finds, as JSON.
    async fn finds(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let ended = self.doctor(&[arguments, &["--format", "json"]].concat()).await;
        let found = serde_json::from_str(&ended.stdout);
        let found = found.unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        (ended.code, found)
    }
}

fn engine_host(installation: &Installation) -> std::net::IpAddr {
    installation.engine.host_ip().into()
}

/// The checks that a look into containers needs.
const INSIDE: &str = "names,router,outside-names,etcd";

/// Lets connections of containers through to etcd, as a forgotten port does.
async fn open_etcd(at: SocketAddr, etcd: SocketAddr) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::TcpListener::bind(at).await.unwrap();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = tokio::net::TcpStream::connect(etcd).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_finds_nothing_in_a_healthy_installation_and_each_planted_fault() {
    let mut installation = Installation::start().await;
    apply(&installation).await;
    leave_an_image(&installation).await;

    // This machine may have an HAProxy with known faults, or temporary files in memory. Those are
    // real findings.
    let mut real = Vec::new();
    for (daemon, check) in [
        ("haproxy-updater", "haproxy"),
        ("environment-registrar", "archive"),
    ] {
        let status = installation.mayfly.status(daemon).await.unwrap();
        let notes = status["detail"]["notes"].as_array().cloned().unwrap_or_default();
        real.extend((!notes.is_empty()).then_some(check));
    }
    let (code, found) = installation
        .finds(&["--ignore", &real.join(",")][..2 * usize::from(!real.is_empty())])
        .await;
    assert_eq!(
        (code, &found["findings"], &found["unchecked"]),
        (Some(0), &json!([]), &json!([])),
        "{found}"
    );
    let images = installation
        .engine
        .docker(&["images", "--quiet", "--all"])
        .await
        .unwrap();
    assert_eq!(images.lines().count(), 2, "nothing is left: {images}");
    let names = installation
        .engine
        .docker(&["ps", "--all", "--format", "{{.Names}}"])
        .await
        .unwrap();
    assert!(!names.contains("doctor"), "nothing is left: {names}");

    without_an_engine(&installation, &real).await;
    a_wrong_prefix(&installation).await;
    a_wrong_clock(&mut installation).await;
    let _planted = plant(&mut installation).await;
    let at = port::free_at(engine_host(&installation));
    let etcd = installation.mayfly.etcd.endpoint();
    let etcd = etcd.trim_start_matches("http://").parse().unwrap();
    let _open = open_etcd(at, etcd).await;

    let (code, found) = installation
        .finds(&[
            "--outside",
            "nothing.example.org",
            "--etcd",
            &format!("http://{at}"),
        ])
        .await;
    assert_eq!(code, Some(1), "{found}");
    let findings = found["findings"].as_array().unwrap();
    let text = |one: &Value, field: &str| one[field].as_str().unwrap().to_owned();
    for (check, place, what) in [
        ("archive", "environment-registrar of test", "is in memory"),
        ("certificates", "haproxy-updater of test", "certificate short.pem"),
        ("daemons", "dns-updater", "no dns-updater reports"),
        ("engine", "container ", "the Mayfly of /other uses this engine"),
        ("environments", "half", "ghost@1"),
        (
            "etcd",
            "web@0.0.1 (container web)",
            "the container reaches etcd at",
        ),
        ("haproxy", "haproxy-updater of old", "can crash"),
        ("header", "web@0.0.1", "dropped x-mayfly"),
        ("names", "web@0.0.1 (container deaf)", "backend.service"),
        (
            "names",
            "web@0.0.1 (container astray)",
            "backend.service resolves to 10.1.2.3",
        ),
        (
            "outside-names",
            "(container web)",
            "nothing.example.org does not resolve",
        ),
        ("parents", "prod", "is not protected"),
        ("parents", "orphan", "nowhere"),
        (
            "versions",
            "container-registrar of old",
            "does not report its number",
        ),
    ] {
        let is_it = |one: &&Value| {
            one["check"] == check && text(one, "where").contains(place) && text(one, "what").contains(what)
        };
        let one = findings.iter().find(is_it);
        let one = one.unwrap_or_else(|| panic!("no {check} of {place}: {found:#}"));
        assert!(text(one, "cure").len() > 10, "{one}");
    }
    let planted: BTreeSet<&str> = [
        "archive",
        "certificates",
        "daemons",
        "engine",
        "environments",
        "etcd",
        "haproxy",
        "header",
        "names",
        "outside-names",
        "parents",
        "versions",
    ]
    .into();
    let checks: BTreeSet<&str> = findings
        .iter()
        .map(|one| one["check"].as_str().unwrap())
        .collect();
    assert_eq!(checks, planted, "{found:#}");

    // Of one environment only.
    let (_, found) = installation.finds(&["half", "--ignore", INSIDE]).await;
    let about = |place: &str| {
        found["findings"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["where"] == place)
    };
    assert!(about("half") && !about("orphan") && !about("prod"), "{found:#}");
}

/// Registers an environment that no registrar reads.
async fn apply(installation: &Installation) {
    let file = installation.mayfly.directory().join("applied.yaml");
    std::fs::write(&file, "{name: applied, extends: prod}").unwrap();
    let arguments = ["apply", "--file", &file.display().to_string()];
    let applied = installation.mayfly.run("mayfly", &arguments).await.unwrap();
    applied.ok().unwrap();
    installation.waits_for("applied").await;
}

/// What a doctor that was killed long ago left on the engine.
async fn leave_an_image(installation: &Installation) {
    let directory = installation.mayfly.directory().join("left");
    std::fs::create_dir(&directory).unwrap();
    let manifest = json!([{"Config": "config.json", "RepoTags": null, "Layers": []}]);
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": {"Labels": {"mayfly.doctor": ""}},
        "rootfs": {"type": "layers", "diff_ids": []},
    });
    for (name, content) in [("manifest.json", manifest), ("config.json", config)] {
        std::fs::write(directory.join(name), content.to_string()).unwrap();
    }
    let tar = directory.with_extension("tar").display().to_string();
    let mut pack = std::process::Command::new("tar");
    pack.arg("-C").arg(&directory).args(["-cf", &tar, "."]);
    process::run(&pack, LATER).await.unwrap().ok().unwrap();
    let engine = &installation.engine;
    engine.docker(&["load", "--input", &tar]).await.unwrap();
    let left = ["images", "--quiet", "--filter", "label=mayfly.doctor"];
    assert_ne!(engine.docker(&left).await.unwrap(), "");
}

async fn without_an_engine(installation: &Installation, real: &[&str]) {
    let mut arguments = vec!["--docker", "unix:///none.sock"];
    let real = real.join(",");
    if !real.is_empty() {
        arguments.extend(["--ignore", &real]);
    }
    let mut command = installation.mayfly.command("mayfly").unwrap();
    let ended = process::run(command.arg("doctor").args(&arguments), LATER)
        .await
        .unwrap();
    assert_eq!(ended.code, Some(3), "{ended:?}");
    let line =
        "not checked: engine, names, router, outside-names, etcd: no engine answers at unix:///none.sock";
    assert!(ended.stdout.contains(line), "{ended:?}");
    let sum = "nothing was found, but 5 checks could not be made in full\n";
    assert!(ended.stdout.ends_with(sum), "{ended:?}");
}

async fn a_wrong_prefix(installation: &Installation) {
    let ended = installation.doctor(&["--prefix", "/team"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let line = "prefix: prefix /team: there is no record; the daemons report below /mayfly";
    assert!(ended.stdout.contains(line), "{ended:?}");
    assert!(
        ended.stdout.contains("the daemons: --prefix /mayfly"),
        "{ended:?}"
    );
    let ended = installation.doctor(&["nobody"]).await;
    assert_eq!((ended.code, &*ended.stdout), (Some(1), ""), "{ended:?}");
}

async fn a_wrong_clock(installation: &mut Installation) {
    let clock = Clock::new(installation.mayfly.directory()).unwrap();
    for (seconds, way) in [(600, "behind"), (-600, "ahead of")] {
        clock.set(seconds).unwrap();
        installation.mayfly.clock = Some(clock.clone());
        let (code, found) = installation.finds(&["--ignore", INSIDE]).await;
        installation.mayfly.clock = None;
        let findings = found["findings"].as_array().unwrap();
        let of_engine = findings
            .iter()
            .find(|one| one["check"] == "clock" && one["where"].as_str().unwrap().starts_with("engine "));
        let what = of_engine.unwrap_or_else(|| panic!("{found}"))["what"]
            .as_str()
            .unwrap();
        assert!(code == Some(1) && what.contains(way), "{found}");
    }
}

/// Plants all faults that do not hide each other. What is given back has to live on.
async fn plant(installation: &mut Installation) -> (Disk, Authority) {
    let Installation {
        mayfly,
        engine,
        launcher,
        ..
    } = installation;
    // Environments: one that others extend is open to deletion, one extends nothing that is there,
    // and one needs what nobody can start.
    mayfly.save("prod.yaml", &PROD.replace("protected: true\n", ""));
    mayfly.save("orphan.yaml", "{name: orphan, extends: nowhere}");
    mayfly.save(
        "half.yaml",
        "{name: half, services: [{name: ghost, version: 1, route: /}]}",
    );
    mayfly.resolves("ghost.service", &[engine.host_ip().into()]).await;

    // Containers: one asks no dnsmasq, in one a name of a service is something else, and one is of
    // another Mayfly.
    let host = engine.host_ip().to_string();
    for (name, options) in [
        ("deaf", &[][..]),
        (
            "astray",
            &["--dns", &host, "--add-host", "backend.service:10.1.2.3"],
        ),
        ("other", &["--label", "mayfly.prefix=/other"]),
    ] {
        let options = [&WEB[..], options].concat();
        engine.run(name, "team/web:0.0.1", &options).await.unwrap();
    }

    // A certificate that ends tomorrow.
    let authority = Authority::new(mayfly.directory(), "authority").await.unwrap();
    let certificates = mayfly.directory().join("certificates");
    std::fs::create_dir(&certificates).unwrap();
    let short = authority
        .certify_as("short", &["DNS:www.example.com"], &["-days", "1"])
        .await
        .unwrap();
    std::fs::write(certificates.join("short.pem"), short.both().unwrap()).unwrap();
    let bind = port::free().to_string();
    let certificates = certificates.display().to_string();
    mayfly.updater.take().unwrap().terminate(SOON).await.unwrap();
    mayfly
        .start_updater_with(&["--edge-tls-bind", &bind, "--edge-certificates", &certificates])
        .unwrap();

    // An archive in memory.
    let archive = mayfly.directory().join("in-memory");
    std::fs::create_dir(&archive).unwrap();
    let disk = Disk::over(&archive, 1).unwrap();
    mayfly.registrar.take().unwrap().terminate(SOON).await.unwrap();
    mayfly
        .start_registrar(&["--archive", &archive.display().to_string()])
        .unwrap();

    // Daemons: one is missing, one is of an old version, and one has an HAProxy with a fault.
    mayfly.dns_updater.take().unwrap().terminate(SOON).await.unwrap();
    let ready = json!({"applied_revision": 1_000_000, "ready": true});
    let old = |detail: Value| {
        let mut record = ready.clone();
        record["detail"] = detail;
        record.to_string()
    };
    let version = mayfly.status("haproxy-updater").await.unwrap()["detail"]["version"].clone();
    let notes = ["HAProxy 2.6.0 can crash; fixed in 2.6.20"];
    let crashes = json!({"version": version, "notes": notes});
    mayfly
        .etcd
        .put("/mayfly/status/haproxy-updater/old", &old(crashes))
        .await
        .unwrap();
    mayfly
        .etcd
        .put("/mayfly/status/container-registrar/old", &old(json!({})))
        .await
        .unwrap();

    assert!(launcher.is_running());
    // And calls without a header, from the address of one instance. A reload of HAProxy forgets some.
    let router = format!("{host}:80");
    eventually(LATER, "everything is reported", async || -> Result<()> {
        let _ = engine
            .docker(&["exec", "web", "/e2e-instance", "ask", &router, "/"])
            .await;
        let shown = mayfly.run("mayfly", &["status", "--format", "json"]).await?;
        let status: Value = serde_json::from_str(&shown.stdout)?;
        let daemons = status["daemons"].as_array().cloned().unwrap_or_default();
        let notes = |daemon: &str| {
            let one = daemons
                .iter()
                .find(|one| one["daemon"] == daemon && one["node"] == "test");
            one.map(|one| (one["ready"] == true, one["lag"] == 0, one["notes"].to_string()))
        };
        let router = notes("haproxy-updater").unwrap_or_default();
        let registrar = notes("environment-registrar").unwrap_or_default();
        ensure!(
            router.0 && router.1 && router.2.contains("short.pem"),
            "{router:?}"
        );
        ensure!(
            registrar.0 && registrar.1 && registrar.2.contains("in memory"),
            "{registrar:?}"
        );
        ensure!(
            status["lost_headers"] != json!([]),
            "no header was lost: {status}"
        );
        Ok(())
    })
    .await;
    (disk, authority)
}
