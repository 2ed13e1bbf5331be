//! haproxy-updater itself: its status record, templates of the operator's, the pool of slots, and refusals.

use std::fs;

use anyhow::{Result, ensure};
use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::load::Load;
use mayfly_e2e::world::{SOON, World};

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
    let world = World::start().await.unwrap();
    let _one = world.instance("web", "1.0.0").await.unwrap();
    world.save("dev.yaml", DEV);
    world.answers("www-dev.example.com", "web@1.0.0").await;
    let environment = world.etcd.revision().await.unwrap();
    eventually(SOON, "the status is written", async || -> Result<()> {
        let status = world.status("haproxy-updater").await?;
        // Status records move etcd's revision too, but no environment's.
        let applied = status["applied_revision"].as_i64().unwrap_or_default();
        ensure!(
            applied > 0 && applied <= world.etcd.revision().await?,
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
    assert_eq!(world.reloads().await.unwrap(), 0);
    assert!(
        world
            .etcd
            .lease_of("/mayfly/status/haproxy-updater/test")
            .await
            .unwrap()
            .is_some()
    );
    let before = world.status("haproxy-updater").await.unwrap()["applied_revision"].as_i64();
    world.save("dev.yaml", &DEV.replace("1.0.0", "2.0.0"));
    eventually(SOON, "the applied revision moves on", async || {
        world.status("haproxy-updater").await.unwrap()["applied_revision"].as_i64() > before
    })
    .await;
}

#[tokio::test]
async fn the_router_record_names_the_internal_side_and_haproxys_version() {
    let world = World::start().await.unwrap();
    let router = eventually(SOON, "the router's record", async || {
        world
            .etcd
            .get_json("/mayfly/routers/test")
            .await
            .ok()
            .filter(|record| record["haproxy_version"] != "")
    })
    .await;
    assert_eq!(router["address"], world.internal.ip().to_string());
    let version = world.haproxy.info().await.unwrap()["Version"].clone();
    let told = router["haproxy_version"].as_str().unwrap();
    assert!(
        version.starts_with(told) || told.starts_with(&version),
        "{told} and {version}"
    );
    assert!(
        world
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
    let world = World::start_with(&["--template", path.to_str().unwrap()])
        .await
        .unwrap();
    let _one = world.instance("web", "1.0.0").await.unwrap();
    world.save("dev.yaml", DEV);
    world.answers("www-dev.example.com", "web@1.0.0").await;
    let answer = world.get("www-dev.example.com", "/").await.unwrap();
    assert_eq!(
        answer.headers.get("x-site").map(String::as_str),
        Some("alpha"),
        "{answer:?}"
    );
    fs::remove_file(path).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_template_is_taken_by_a_reload_and_a_broken_one_is_not() {
    let mut world = World::bare(&[]).unwrap();
    let path = world.directory().join("own.tera");
    fs::write(&path, template()).unwrap();
    world.etcd.restart().await.unwrap();
    let start = async |world: &mut World| {
        if let Some(mut updater) = world.updater.take() {
            // One that refused its template may have ended by itself.
            if updater.is_running() {
                updater.terminate(SOON).await.unwrap();
            }
        }
        world
            .start_updater_with(&["--template", path.to_str().unwrap()])
            .unwrap();
    };
    start(&mut world).await;
    world.start_registrar(&[]).unwrap();
    world.haproxy.start().await.unwrap();
    let _one = world.instance("web", "1.0.0").await.unwrap();
    world.save("dev.yaml", DEV);
    world.answers("www-dev.example.com", "web@1.0.0").await;
    let load = Load::start(world.edge, Request::get("www-dev.example.com", "/"));

    let good = template();
    fs::write(
        &path,
        good.replacen("    mode http\n", "    mode http\n    no such keyword\n", 1),
    )
    .unwrap();
    start(&mut world).await;
    eventually(SOON, "the refusal is told", async || {
        let status = world
            .status("haproxy-updater")
            .await
            .unwrap_or_default()
            .to_string();
        let output = world.updater.as_ref().unwrap().output();
        (status + &output).contains("no such keyword") || output.contains("unknown keyword")
    })
    .await;
    assert_eq!(world.get("www-dev.example.com", "/").await.unwrap().status, 200);
    assert!(world.haproxy.is_running());
    // What lies on disk still is what HAProxy can be started from.
    let config = world.haproxy_directory().join("haproxy.cfg");
    let mut check = std::process::Command::new("haproxy");
    mayfly_e2e::process::run(check.args(["-c", "-f"]).arg(&config), SOON)
        .await
        .unwrap()
        .ok()
        .unwrap();

    let worker = world.haproxy.worker().await.unwrap();
    fs::write(
        &path,
        good.replacen(
            "    mode http\n",
            "    mode http\n    timeout http-request 11s\n",
            1,
        ),
    )
    .unwrap();
    start(&mut world).await;
    eventually(SOON, "the new settings are loaded", async || {
        world.haproxy.worker().await.is_ok_and(|now| now != worker)
    })
    .await;
    // Changes arrive as ever.
    let _two = world.instance("web", "2.0.0").await.unwrap();
    world.save("qa.yaml", &DEV.replace("dev", "qa").replace("1.0.0", "2.0.0"));
    world.answers("www-qa.example.com", "web@2.0.0").await;
    load.stop().await.assert_flawless(50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_pool_runs_low_it_grows_by_few_reloads_without_a_failed_request() {
    let world = World::start_with(&["--slots", "8"]).await.unwrap();
    let _still = world.instance("web", "1.0.0").await.unwrap();
    world.save("dev.yaml", DEV);
    world.answers("www-dev.example.com", "web@1.0.0").await;
    let load = Load::start(world.edge, Request::get("www-dev.example.com", "/"));
    // Instances need not answer to take a slot.
    for n in 0..40 {
        let key = format!("/mayfly/backends/pool/1.{n}.0/a");
        world
            .etcd
            .put(&key, &format!(r#"{{"address":"127.0.0.1:{}"}}"#, 40_000 + n))
            .await
            .unwrap();
    }
    eventually(SOON, "every version has a slot", async || -> Result<()> {
        let slots = world.haproxy.map(&world.map_file("slots")).await?;
        ensure!(slots.len() == 41, "{} slots are taken", slots.len());
        ensure!(world.haproxy.servers().await?.len() == 41, "servers are missing");
        Ok(())
    })
    .await;
    load.stop().await.assert_flawless(20);
    let worker = world.haproxy.worker().await.unwrap();
    // From 8 to at least 55: growth is geometric.
    eventually(SOON, "the reloads are counted", async || {
        world
            .reloads()
            .await
            .is_ok_and(|reloads| (1..=4).contains(&reloads))
    })
    .await;
    // Free again, slots are used again.
    world.etcd.delete_all("/mayfly/backends/pool/").await.unwrap();
    eventually(SOON, "slots are free again", async || {
        world
            .haproxy
            .map(&world.map_file("slots"))
            .await
            .is_ok_and(|slots| slots.len() == 1)
    })
    .await;
    for n in 0..20 {
        let key = format!("/mayfly/backends/pool/2.{n}.0/a");
        world
            .etcd
            .put(&key, &format!(r#"{{"address":"127.0.0.1:{}"}}"#, 41_000 + n))
            .await
            .unwrap();
    }
    eventually(SOON, "new versions have slots", async || {
        world
            .haproxy
            .map(&world.map_file("slots"))
            .await
            .is_ok_and(|slots| slots.len() == 21)
    })
    .await;
    assert_eq!(
        world.haproxy.worker().await.unwrap(),
        worker,
        "HAProxy was reloaded"
    );
}

#[tokio::test]
async fn weights_share_the_requests() {
    let world = World::start().await.unwrap();
    let (light, heavy) = (
        mayfly_e2e::instance::Service::start("web", "1.0.0")
            .await
            .unwrap(),
        mayfly_e2e::instance::Service::start("web", "1.0.0")
            .await
            .unwrap(),
    );
    let _light = world
        .register("web", "1.0.0", light.address(), &["--weight", "20"])
        .unwrap();
    let _heavy = world
        .register("web", "1.0.0", heavy.address(), &["--weight", "80"])
        .unwrap();
    world.save("dev.yaml", DEV);
    eventually(SOON, "both answer", async || {
        let _ = world.get("www-dev.example.com", "/").await;
        light.requests() > 0 && heavy.requests() > 0
    })
    .await;
    let (l, h) = (light.requests(), heavy.requests());
    for _ in 0..100 {
        assert_eq!(world.get("www-dev.example.com", "/").await.unwrap().status, 200);
    }
    let (l, h) = (light.requests() - l, heavy.requests() - h);
    assert!((10..=30).contains(&l) && l + h == 100, "{l} and {h}");
}

#[tokio::test]
async fn files_on_disk_always_start_haproxy() {
    let world = World::start().await.unwrap();
    let config = world.haproxy_directory().join("haproxy.cfg");
    let mut instances = Vec::new();
    for n in 0..10 {
        instances.push(world.instance("web", &format!("1.{n}.0")).await.unwrap());
        world.save("dev.yaml", &DEV.replace("1.0.0", &format!("1.{n}.0")));
        let mut check = std::process::Command::new("haproxy");
        mayfly_e2e::process::run(check.args(["-c", "-f"]).arg(&config), SOON)
            .await
            .unwrap()
            .ok()
            .unwrap();
        world
            .answers("www-dev.example.com", &format!("web@1.{n}.0"))
            .await;
    }
    let left = fs::read_dir(world.map_file("x").parent().unwrap()).unwrap();
    let odd: Vec<_> = left
        .map(|e| e.unwrap().file_name())
        .filter(|n| !n.to_string_lossy().ends_with(".map"))
        .collect();
    assert!(odd.is_empty(), "temporary files are left: {odd:?}");
}

#[tokio::test]
async fn the_operator_may_allow_the_header_at_the_edge_and_show_who_answered() {
    let world = World::start_with(&["--allow-header-at-edge", "--answered-by", "everywhere"])
        .await
        .unwrap();
    let _one = world.instance("web", "1.0.0").await.unwrap();
    let _two = world.instance("web", "2.0.0").await.unwrap();
    world.save("dev.yaml", DEV);
    world.save("qa.yaml", &DEV.replace("dev", "qa").replace("1.0.0", "2.0.0"));
    world.answers("www-dev.example.com", "web@1.0.0").await;
    world.answers("www-qa.example.com", "web@2.0.0").await;
    let chosen = Request::get("www-dev.example.com", "/").header("x-mayfly", "qa");
    let answer = chosen.send(world.edge).await.unwrap();
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
        baggage.send(world.edge).await.unwrap().backend().unwrap(),
        "web@1.0.0"
    );
}

#[tokio::test]
async fn who_answered_can_be_hidden_everywhere() {
    let world = World::start_with(&["--answered-by", "never"]).await.unwrap();
    let _one = world.instance("web", "1.0.0").await.unwrap();
    world.save("dev.yaml", DEV);
    world.calls("dev", "web", "web@1.0.0").await;
    let answer = world.call("dev", "web").await.unwrap();
    assert!(
        !answer.headers.keys().any(|name| name.starts_with("x-mayfly")),
        "{:?}",
        answer.headers
    );
}

#[tokio::test]
async fn services_may_stand_in_another_domain() {
    let world = World::start_with(&["--domain", "mesh.example"]).await.unwrap();
    let _one = world.instance("web", "1.0.0").await.unwrap();
    world.save("dev.yaml", DEV);
    world.answers("www-dev.example.com", "web@1.0.0").await;
    let at = |host: &str| Request::get(host, "/").header("x-mayfly", "dev");
    assert_eq!(
        at("web.mesh.example")
            .send(world.internal)
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "web@1.0.0"
    );
    assert_eq!(at("web.service").send(world.internal).await.unwrap().status, 404);
}

#[tokio::test]
async fn the_edge_tells_the_instance_where_a_request_came_from() {
    let world = World::start().await.unwrap();
    let _one = world.instance("web", "1.0.0").await.unwrap();
    world.save("dev.yaml", DEV);
    world.answers("www-dev.example.com", "web@1.0.0").await;
    let spoof = Request::get("www-dev.example.com", "/")
        .header("x-forwarded-for", "6.6.6.6")
        .header("x-forwarded-host", "evil.example.com")
        .header("x-forwarded-proto", "https")
        .header("forwarded", "for=6.6.6.6");
    let echo = spoof.send(world.edge).await.unwrap().echo().unwrap();
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
    let world = World::bare(&[]).unwrap();
    let directory = world.haproxy_directory();
    let arguments = [
        "--dir",
        directory.to_str().unwrap(),
        "--edge-bind",
        "127.0.0.1:8000",
        "render",
    ];
    let config = world
        .run("haproxy-updater", &arguments)
        .await
        .unwrap()
        .ok()
        .unwrap();
    assert!(config.contains("bind 127.0.0.1:8000"), "{config}");
    assert!(!directory.join("haproxy.cfg").exists());
    // Without a word of it the internal side is where it is advertised, and nowhere else.
    let told = ["--advertise", "192.0.2.7", "render"];
    let config = world.run("haproxy-updater", &told).await.unwrap().ok().unwrap();
    let binds: Vec<&str> = config
        .lines()
        .filter(|line| line.starts_with("    bind "))
        .collect();
    assert_eq!(binds, ["    bind *:80", "    bind 192.0.2.7:8080"]);
    let nowhere = ["--advertise", "no-such-host.invalid", "render"];
    let finished = world.run("haproxy-updater", &nowhere).await.unwrap();
    assert!(
        finished.code == Some(1) && finished.stderr.contains("give --internal-bind"),
        "{finished:?}"
    );
    for wrong in [
        &["--edge-bind", "127.0.0.1:80\n    evil"][..],
        &["--slots", "0"],
        &["--default-environment", "a b"],
    ] {
        let finished = world
            .run("haproxy-updater", &[wrong, &["render"]].concat())
            .await
            .unwrap();
        assert_eq!(finished.code, Some(2), "{wrong:?}: {finished:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_an_instance_are_kept() {
    let world = World::start().await.unwrap();
    let instance = world.instance("web", "1.0.0").await.unwrap();
    world.save(
        "prod.yaml",
        "{name: prod, services: [{name: web, version: 1.0.0, route: /}]}",
    );
    world.answers("www-prod.example.com", "web@1.0.0").await;
    let before = (instance.service.requests(), instance.service.connections());
    let load = Load::start(world.edge, Request::get("www-prod.example.com", "/"));
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
