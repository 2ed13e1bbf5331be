//! haproxy-updater itself: its status record, templates of the operator's, the pool of slots, and refusals.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::load::Load;
use mayfly_e2e::mayfly::{Mayfly, SOON};

const DEV: &str = "{name: dev, services: [{name: web, version: 1.0.0, route: /}]}";

/// The template that stands in the repository.
fn template() -> String {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../haproxy-updater/templates/haproxy.cfg.tera"
    );
    fs::read_to_string(path).unwrap()
}

#[tokio::test]
async fn its_status_tells_revision_reloads_and_readiness() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("dev.yaml", DEV);
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    let environment = mayfly.etcd.revision().await.unwrap();
    eventually(SOON, "the status is written", async || -> Result<()> {
        let status = mayfly.status("haproxy-updater").await?;
        // Status records move etcd's revision too, but no environment's.
        let applied = status["applied_revision"].as_i64().unwrap_or_default();
        ensure!(
            applied > 0 && applied <= mayfly.etcd.revision().await?,
            "{status} at {environment}"
        );
        ensure!(
            status["ready"] == true && status["applied_at"].is_string(),
            "{status}"
        );
        ensure!(
            status["set_aside"].as_array().is_none_or(Vec::is_empty),
            "{status}"
        );
        Ok(())
    })
    .await;
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
    assert!(
        mayfly
            .etcd
            .lease_of("/mayfly/status/haproxy-updater/test")
            .await
            .unwrap()
            .is_some()
    );
    let before = mayfly.status("haproxy-updater").await.unwrap()["applied_revision"].as_i64();
    mayfly.save("dev.yaml", &DEV.replace("1.0.0", "2.0.0"));
    eventually(SOON, "the applied revision moves on", async || {
        mayfly.status("haproxy-updater").await.unwrap()["applied_revision"].as_i64() > before
    })
    .await;
}

#[tokio::test]
async fn the_router_record_names_the_internal_side_and_haproxys_version() {
    let mayfly = Mayfly::start().await.unwrap();
    let router = eventually(SOON, "the router's record", async || {
        mayfly
            .etcd
            .get_json("/mayfly/routers/test")
            .await
            .ok()
            .filter(|record| record["haproxy_version"] != "")
    })
    .await;
    assert_eq!(router["address"], mayfly.internal.ip().to_string());
    let version = mayfly.haproxy.info().await.unwrap()["Version"].clone();
    let told = router["haproxy_version"].as_str().unwrap();
    assert!(
        version.starts_with(told) || told.starts_with(&version),
        "{told} and {version}"
    );
    assert!(
        mayfly
            .etcd
            .lease_of("/mayfly/routers/test")
            .await
            .unwrap()
            .is_some()
    );
}

#[tokio::test]
async fn a_template_of_the_operators_is_used() {
    let path = std::env::temp_dir().join(format!("mayfly-template-{}.tera", std::process::id()));
    let own = template().replacen(
        "frontend {{ side }} from common\n",
        "frontend {{ side }} from common\n    http-after-response set-header x-site alpha\n",
        1,
    );
    assert!(
        own.contains("x-site"),
        "the default template has changed its shape"
    );
    fs::write(&path, own).unwrap();
    let mayfly = Mayfly::start_with(&["--template", path.to_str().unwrap()])
        .await
        .unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("dev.yaml", DEV);
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    let answer = mayfly.get("www-dev.example.com", "/").await.unwrap();
    assert_eq!(
        answer.headers.get("x-site").map(String::as_str),
        Some("alpha"),
        "{answer:?}"
    );
    fs::remove_file(path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_template_is_taken_by_a_reload_and_a_broken_one_is_not() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    let path = mayfly.directory().join("own.tera");
    fs::write(&path, template()).unwrap();
    mayfly.etcd.restart().await.unwrap();
    let start = async |mayfly: &mut Mayfly| {
        if let Some(mut updater) = mayfly.updater.take() {
            // One that refused its template may have ended by itself.
            if updater.is_running() {
                updater.terminate(SOON).await.unwrap();
            }
        }
        mayfly
            .start_updater_with(&["--template", path.to_str().unwrap()])
            .unwrap();
    };
    start(&mut mayfly).await;
    mayfly.start_registrar(&[]).unwrap();
    mayfly.haproxy.start().await.unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("dev.yaml", DEV);
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    let load = Load::start(mayfly.edge, Request::get("www-dev.example.com", "/"));

    let good = template();
    fs::write(
        &path,
        good.replacen("    mode http\n", "    mode http\n    no such keyword\n", 1),
    )
    .unwrap();
    start(&mut mayfly).await;
    eventually(SOON, "the refusal is told", async || {
        let status = mayfly
            .status("haproxy-updater")
            .await
            .unwrap_or_default()
            .to_string();
        let output = mayfly.updater.as_ref().unwrap().output();
        (status + &output).contains("no such keyword") || output.contains("unknown keyword")
    })
    .await;
    assert_eq!(mayfly.get("www-dev.example.com", "/").await.unwrap().status, 200);
    assert!(mayfly.haproxy.is_running());
    // What lies on disk still is what HAProxy can be started from.
    let config = mayfly.haproxy_directory().join("haproxy.cfg");
    let mut check = std::process::Command::new("haproxy");
    mayfly_e2e::process::run(check.args(["-c", "-f"]).arg(&config), SOON)
        .await
        .unwrap()
        .ok()
        .unwrap();

    let worker = mayfly.haproxy.worker().await.unwrap();
    fs::write(
        &path,
        good.replacen(
            "    mode http\n",
            "    mode http\n    timeout http-request 11s\n",
            1,
        ),
    )
    .unwrap();
    start(&mut mayfly).await;
    eventually(SOON, "the new settings are loaded", async || {
        mayfly.haproxy.worker().await.is_ok_and(|now| now != worker)
    })
    .await;
    // Changes arrive as ever.
    let _two = mayfly.instance("web", "2.0.0").await.unwrap();
    mayfly.save("qa.yaml", &DEV.replace("dev", "qa").replace("1.0.0", "2.0.0"));
    mayfly.answers("www-qa.example.com", "web@2.0.0").await;
    load.stop().await.assert_flawless(50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_pool_runs_low_it_grows_by_few_reloads_without_a_failed_request() {
    let mayfly = Mayfly::start_with(&["--slots", "8"]).await.unwrap();
    let _still = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("dev.yaml", DEV);
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    let load = Load::start(mayfly.edge, Request::get("www-dev.example.com", "/"));
    // Instances need not answer to take a slot.
    for n in 0..40 {
        let key = format!("/mayfly/backends/pool/1.{n}.0/a");
        mayfly
            .etcd
            .put(&key, &format!(r#"{{"address":"127.0.0.1:{}"}}"#, 40_000 + n))
            .await
            .unwrap();
    }
    eventually(SOON, "every version has a slot", async || -> Result<()> {
        let slots = mayfly.haproxy.map(&mayfly.map_file("slots")).await?;
        ensure!(slots.len() == 41, "{} slots are taken", slots.len());
        ensure!(mayfly.haproxy.servers().await?.len() == 41, "servers are missing");
        Ok(())
    })
    .await;
    load.stop().await.assert_flawless(20);
    let worker = mayfly.haproxy.worker().await.unwrap();
    // From 8 to at least 55: growth is geometric.
    eventually(SOON, "the reloads are counted", async || {
        mayfly
            .reloads()
            .await
            .is_ok_and(|reloads| (1..=4).contains(&reloads))
    })
    .await;
    // Free again, slots are used again.
    mayfly.etcd.delete_all("/mayfly/backends/pool/").await.unwrap();
    eventually(SOON, "slots are free again", async || {
        mayfly
            .haproxy
            .map(&mayfly.map_file("slots"))
            .await
            .is_ok_and(|slots| slots.len() == 1)
    })
    .await;
    for n in 0..20 {
        let key = format!("/mayfly/backends/pool/2.{n}.0/a");
        mayfly
            .etcd
            .put(&key, &format!(r#"{{"address":"127.0.0.1:{}"}}"#, 41_000 + n))
            .await
            .unwrap();
    }
    eventually(SOON, "new versions have slots", async || {
        mayfly
            .haproxy
            .map(&mayfly.map_file("slots"))
            .await
            .is_ok_and(|slots| slots.len() == 21)
    })
    .await;
    assert_eq!(
        mayfly.haproxy.worker().await.unwrap(),
        worker,
        "HAProxy was reloaded"
    );
}

#[tokio::test]
async fn weights_share_the_requests() {
    let mayfly = Mayfly::start().await.unwrap();
    let (light, heavy) = (
        mayfly_e2e::instance::Service::start("web", "1.0.0")
            .await
            .unwrap(),
        mayfly_e2e::instance::Service::start("web", "1.0.0")
            .await
            .unwrap(),
    );
    let _light = mayfly
        .register("web", "1.0.0", light.address(), &["--weight", "20"])
        .unwrap();
    let _heavy = mayfly
        .register("web", "1.0.0", heavy.address(), &["--weight", "80"])
        .unwrap();
    mayfly.save("dev.yaml", DEV);
    eventually(SOON, "both answer", async || {
        let _ = mayfly.get("www-dev.example.com", "/").await;
        light.requests() > 0 && heavy.requests() > 0
    })
    .await;
    let (l, h) = (light.requests(), heavy.requests());
    for _ in 0..100 {
        assert_eq!(mayfly.get("www-dev.example.com", "/").await.unwrap().status, 200);
    }
    let (l, h) = (light.requests() - l, heavy.requests() - h);
    assert!((10..=30).contains(&l) && l + h == 100, "{l} and {h}");
}

#[tokio::test]
async fn files_on_disk_always_start_haproxy() {
    let mayfly = Mayfly::start().await.unwrap();
    let config = mayfly.haproxy_directory().join("haproxy.cfg");
    let mut instances = Vec::new();
    for n in 0..10 {
        instances.push(mayfly.instance("web", &format!("1.{n}.0")).await.unwrap());
        mayfly.save("dev.yaml", &DEV.replace("1.0.0", &format!("1.{n}.0")));
        let mut check = std::process::Command::new("haproxy");
        mayfly_e2e::process::run(check.args(["-c", "-f"]).arg(&config), SOON)
            .await
            .unwrap()
            .ok()
            .unwrap();
        mayfly
            .answers("www-dev.example.com", &format!("web@1.{n}.0"))
            .await;
    }
    // A file that is just being written has a temporary one beside it.
    eventually(SOON, "no temporary file is left", async || -> Result<()> {
        let left = fs::read_dir(mayfly.map_file("x").parent().unwrap())?;
        let names = left.map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()));
        let names = names.collect::<Result<Vec<_>, _>>()?;
        let odd: Vec<_> = names.iter().filter(|name| !name.ends_with(".map")).collect();
        ensure!(odd.is_empty(), "{odd:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_operator_may_allow_the_header_at_the_edge_and_show_who_answered() {
    let mayfly = Mayfly::start_with(&["--allow-header-at-edge", "--answered-by", "everywhere"])
        .await
        .unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    let _two = mayfly.instance("web", "2.0.0").await.unwrap();
    mayfly.save("dev.yaml", DEV);
    mayfly.save("qa.yaml", &DEV.replace("dev", "qa").replace("1.0.0", "2.0.0"));
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    mayfly.answers("www-qa.example.com", "web@2.0.0").await;
    let chosen = Request::get("www-dev.example.com", "/").header("x-mayfly", "qa");
    let answer = chosen.send(mayfly.edge).await.unwrap();
    assert_eq!(answer.backend().unwrap(), "web@2.0.0");
    assert_eq!(answer.echo().unwrap().headers["x-mayfly"], ["qa"]);
    let told = answer.headers.get("x-mayfly-answered-by").map(String::as_str);
    assert!(
        told.is_some_and(|told| told.contains("web@2.0.0") && told.contains("own")),
        "{answer:?}"
    );
    // Baggage is not the header: it stays what the edge makes of it.
    let baggage = Request::get("www-dev.example.com", "/").header("baggage", "mayfly=qa");
    assert_eq!(
        baggage.send(mayfly.edge).await.unwrap().backend().unwrap(),
        "web@1.0.0"
    );
}

#[tokio::test]
async fn who_answered_can_be_hidden_everywhere() {
    let mayfly = Mayfly::start_with(&["--answered-by", "never"]).await.unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("dev.yaml", DEV);
    mayfly.calls("dev", "web", "web@1.0.0").await;
    let answer = mayfly.call("dev", "web").await.unwrap();
    assert!(
        !answer.headers.keys().any(|name| name.starts_with("x-mayfly")),
        "{:?}",
        answer.headers
    );
}

#[tokio::test]
async fn services_may_stand_in_another_domain() {
    let mayfly = Mayfly::start_with(&["--domain", "mesh.example"]).await.unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("dev.yaml", DEV);
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    let at = |host: &str| Request::get(host, "/").header("x-mayfly", "dev");
    assert_eq!(
        at("web.mesh.example")
            .send(mayfly.internal)
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@1.0.0"
    );
    assert_eq!(at("web.service").send(mayfly.internal).await.unwrap().status, 404);
}

#[tokio::test]
async fn the_edge_tells_the_instance_where_a_request_came_from() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("dev.yaml", DEV);
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    let spoof = Request::get("www-dev.example.com", "/")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-host", "evil.example.com")
        .header("x-forwarded-proto", "https")
        .header("forwarded", "for=6.6.6.6");
    let echo = spoof.send(mayfly.edge).await.unwrap().echo().unwrap();
    assert_eq!(echo.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(echo.header("x-forwarded-host"), "www-dev.example.com");
    assert_eq!(
        (
            echo.header("x-forwarded-proto").as_str(),
            echo.header("forwarded").as_str()
        ),
        ("http", "")
    );
}

#[tokio::test]
async fn render_prints_a_configuration_without_touching_anything() {
    let mayfly = Mayfly::bare(&[]).unwrap();
    let directory = mayfly.haproxy_directory();
    let arguments = [
        "--dir",
        directory.to_str().unwrap(),
        "--edge-bind",
        "127.0.0.1:8000",
        "--advertise",
        "192.0.2.7",
        "render",
    ];
    let config = mayfly
        .run("haproxy-updater", &arguments)
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert!(config.contains("bind 127.0.0.1:8000"), "{config}");
    assert!(!directory.join("haproxy.cfg").exists());
    // Without a word of it the internal side is where it is advertised, and nowhere else.
    let told = ["--advertise", "192.0.2.7", "render"];
    let config = mayfly.run("haproxy-updater", &told).await.unwrap().ok().unwrap();
    let binds: Vec<&str> = config
        .lines()
        .filter(|line| line.starts_with("    bind "))
        .collect();
    assert_eq!(binds, ["    bind *:80", "    bind 192.0.2.7:8080"]);
    let nowhere = ["--advertise", "no-such-host.invalid", "render"];
    let finished = mayfly.run("haproxy-updater", &nowhere).await.unwrap();
    assert!(
        finished.code == Some(1) && finished.stderr.contains("--internal-bind is not set"),
        "{finished:?}"
    );
    for wrong in [
        &["--edge-bind", "127.0.0.1:80\n    evil"][..],
        &["--slots", "0"],
        &["--default-environment", "a b"],
    ] {
        let finished = mayfly
            .run("haproxy-updater", &[wrong, &["render"]].concat())
            .await
            .unwrap();
        assert_eq!(finished.code, Some(2), "{wrong:?}: {finished:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_an_instance_are_kept() {
    let mayfly = Mayfly::start().await.unwrap();
    let instance = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save(
        "prod.yaml",
        "{name: prod, services: [{name: web, version: 1.0.0, route: /}]}",
    );
    mayfly.answers("www-prod.example.com", "web@1.0.0").await;
    let before = (instance.service.requests(), instance.service.connections());
    let load = Load::start(mayfly.edge, Request::get("www-prod.example.com", "/"));
    eventually(SOON, "300 requests", async || {
        instance.service.requests() > before.0 + 300
    })
    .await;
    load.stop().await.assert_flawless(300);
    // One for each of the load's four, and those of health checks, which come twice a second at most.
    let opened = instance.service.connections() - before.1;
    assert!(
        opened < 60,
        "{opened} connections for {} requests",
        instance.service.requests() - before.0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damage_to_its_files_is_repaired_and_told_once_whether_haproxy_runs_or_not() {
    let mut mayfly = Mayfly::start_with(&["--verify", "200ms"]).await.unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("dev.yaml", DEV);
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    let config = mayfly.haproxy_directory().join("haproxy.cfg");
    let maps = ["edge", "versions", "slots"].map(|name| mayfly.map_file(name));
    eventually(SOON, "the files are written", async || {
        let text = |file| fs::read_to_string(file).unwrap_or_default();
        text(&config).contains("server ")
            && maps
                .iter()
                .all(|map| text(map).contains("1.0.0") || text(map).contains("www-dev"))
    })
    .await;
    let worker = mayfly.haproxy.worker().await.unwrap();
    for times in 1..=2 {
        for (file, damage) in [
            (&config, "cut"),
            (&maps[0], "emptied"),
            (&maps[1], "removed"),
            (&maps[2], "hidden"),
        ] {
            let good = fs::read(file).unwrap();
            match damage {
                "cut" => fs::write(file, &good[..good.len() / 2]).unwrap(),
                "emptied" => fs::write(file, "").unwrap(),
                "removed" => fs::remove_file(file).unwrap(),
                _ => fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap(),
            }
            let what = format!("{} is {damage}, repaired, and that is told", file.display());
            eventually(SOON, &what, async || -> Result<()> {
                ensure!(fs::read(file)? == good, "it is not as it was");
                let mode = fs::metadata(file)?.permissions().mode() & 0o777;
                ensure!(mode == 0o644, "its mode is {mode:o}");
                ensure!(repairs(&mayfly, file) == times, "{}", updater_log(&mayfly));
                Ok(())
            })
            .await;
        }
        if times == 1 {
            // Nothing of this is a reason for a reload, and HAProxy goes on.
            assert_eq!(mayfly.haproxy.worker().await.unwrap(), worker);
            mayfly.haproxy.kill9().await.unwrap();
            eventually(SOON, "HAProxy is missed", async || {
                let log = updater_log(&mayfly);
                // The last one when it was killed within an answer.
                let words = [
                    "HAProxy is not running",
                    "HAProxy does not listen",
                    "is incomplete: ",
                ];
                words.iter().any(|word| log.contains(word))
            })
            .await;
        }
    }
    for file in maps.iter().chain([&config]) {
        assert_eq!(repairs(&mayfly, file), 2, "{}", updater_log(&mayfly));
    }
    mayfly.haproxy.start().await.unwrap();
    let answer = mayfly.get("www-dev.example.com", "/").await.unwrap();
    assert_eq!(answer.backend().unwrap(), "web@1.0.0");
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_starts_all_at_once_is_warned_of_nothing() {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly.start_dns().await.unwrap();
    mayfly.start_updater().unwrap();
    mayfly.start_registrar(&[]).unwrap();
    mayfly.save("dev.yaml", DEV);
    // HAProxy waits for its first configuration, which comes as soon as etcd has been listed.
    mayfly.haproxy.start().await.unwrap();
    let _one = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    mayfly.resolves("web.service", &[mayfly.internal.ip()]).await;
    for process in [&mayfly.dns_updater, &mayfly.updater, &mayfly.registrar] {
        let output = process.as_ref().unwrap().output();
        // It is one here, which is said rightly.
        let lines = output.lines().filter(|line| !line.contains("a loopback address"));
        let output: String = lines.collect::<Vec<_>>().join("\n");
        for word in ["WARN", "ERROR", "in sync again", "count as deleted"] {
            assert!(!output.contains(word), "{word} in {output}");
        }
    }
}

fn updater_log(mayfly: &Mayfly) -> String {
    mayfly.updater.as_ref().unwrap().output()
}

/// How often the log says that this file was repaired.
fn repairs(mayfly: &Mayfly, file: &Path) -> usize {
    let words = [file.to_str().unwrap(), "another program ", "wrote it again"];
    let log = updater_log(mayfly);
    let told = |line: &&str| words.iter().all(|word| line.contains(word));
    log.lines().filter(told).count()
}
