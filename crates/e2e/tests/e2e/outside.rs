//! Services that are no containers: at an address, under a host name that changes, behind TLS, registered for good. And
//! a service's name, which may have its suffix wherever it stands. They are at loopback addresses here, which routers ask
//! only where they are told to; `refused` is about what they refuse.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use mayfly_e2e::http::{Echo, Request};
use mayfly_e2e::instance::Service;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::poll::throughout;
use mayfly_e2e::tls::{Authority, Terminator};
use mayfly_e2e::{eventually, port};
use std::time::Duration;

/// Where everything of a test listens.
const LOOPBACK: [&str; 2] = ["--allow-address", "127.0.0.0/8"];

/// Waits until a call of `service` in environment dev is answered by the instance at `at`.
async fn reaches(mayfly: &Mayfly, service: &str, at: SocketAddr) -> Echo {
    eventually(SOON, &format!("{service} is at {at}"), async || -> Result<_> {
        let echo = mayfly.call("dev", service).await?.echo()?;
        ensure!(echo.address == at, "{} answers", echo.address);
        Ok(echo)
    })
    .await
}

/// Waits until a call of `service` in environment dev gets this status.
async fn answers(mayfly: &Mayfly, service: &str, status: u16) -> String {
    eventually(
        SOON,
        &format!("{service} answers {status}"),
        async || -> Result<_> {
            let answer = mayfly.call("dev", service).await?;
            ensure!(answer.status == status, "{answer:?}");
            Ok(answer.body)
        },
    )
    .await
}

#[tokio::test]
async fn an_environment_leads_to_a_service_outside() {
    let mayfly = Mayfly::start_with(&LOOPBACK).await.unwrap();
    let legacy = Service::start("legacy", "old").await.unwrap();
    let at = legacy.address();
    mayfly.save(
        "dev.yaml",
        &format!("{{name: dev, services: [{{name: legacy, address: \"{at}\", route: /}}, {{name: gone, address: \"127.0.0.1:1\"}}]}}"),
    );
    mayfly.save("qa.yaml", "{name: qa, extends: dev}");
    // Virtual hosts expect their own name, not that of the service or the environment.
    assert_eq!(
        reaches(&mayfly, "legacy", at).await.header("host"),
        at.to_string()
    );
    eventually(SOON, "an heir leads there", async || -> Result<_> {
        let echo = mayfly.get("www-qa.example.com", "/x").await?.echo()?;
        ensure!(echo.header("host") == at.to_string() && echo.path == "/x");
        ensure!(echo.header("x-forwarded-host") == "www-qa.example.com");
        Ok(())
    })
    .await;
    let request = Request::get("legacy.service", "/").header("x-mayfly", "dev");
    let answer = request.send_h2c(mayfly.internal).await.unwrap();
    assert_eq!(answer.echo().unwrap().header("host"), at.to_string());
    let told = answers(&mayfly, "gone", 503).await;
    assert!(told.contains("version http://127.0.0.1:1)"), "{told}");
    // HAProxy's check finds out, and who inherits it is not complete.
    eventually(
        SOON,
        "the router says that it does not answer",
        async || -> Result<_> {
            let status = mayfly.status("haproxy-updater").await?;
            let told = &status["detail"]["not_answering"];
            ensure!(*told == serde_json::json!(["gone@http://127.0.0.1:1"]), "{told}");
            Ok(())
        },
    )
    .await;
    let waited = mayfly
        .run("mayfly", &["wait", "qa", "--timeout", "300ms"])
        .await
        .unwrap();
    let reason = "gone does not answer: HAProxy's checks find http://127.0.0.1:1 dead (inherited from dev)";
    assert!(
        waited.code == Some(1) && waited.stderr.contains(reason),
        "{}",
        waited.stderr
    );
    // Where no environment names it, HAProxy has it no more.
    mayfly.save("dev.yaml", "{name: dev}");
    answers(&mayfly, "legacy", 404).await;
    eventually(SOON, "no server is left", async || -> Result<_> {
        let servers = mayfly.haproxy.servers().await?;
        ensure!(servers.is_empty(), "{servers:?}");
        Ok(())
    })
    .await;
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}

#[tokio::test]
async fn however_many_do_not_answer_all_readers_count_them() {
    let mayfly = Mayfly::start_with(&LOOPBACK).await.unwrap();
    // More than a record lists of what is missing.
    let many = 25;
    for number in 1..=many {
        let services = format!("[{{name: gone, address: \"127.0.0.1:{number}\"}}]");
        let environment = format!("{{name: e{number}, services: {services}}}");
        mayfly.save(&format!("e{number}.yaml"), &environment);
    }
    eventually(
        SOON,
        "the router finds all of them dead",
        async || -> Result<_> {
            let missing = &mayfly.status("haproxy-updater").await?["detail"]["missing"];
            ensure!(missing["environments"] == many, "{missing}");
            Ok(())
        },
    )
    .await;
    eventually(SOON, "the tool counts as many", async || -> Result<_> {
        let told = mayfly.run("mayfly", &["status", "--format", "json"]).await?;
        let told: serde_json::Value = serde_json::from_str(&told.stdout)?;
        let environments = told["environments"].as_array().into_iter().flatten();
        let incomplete = environments.filter(|environment| environment["complete"] == false);
        let incomplete = incomplete.count();
        ensure!(incomplete == many, "{incomplete}: {}", told["shortage"]);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_host_name_is_followed_as_it_changes() {
    let mut mayfly = Mayfly::start_with_names(&[&LOOPBACK[..], &["--resolve", "100ms"]].concat())
        .await
        .unwrap();
    let names = mayfly.names.clone().unwrap();
    let first = Service::start("legacy", "1").await.unwrap();
    let at = first.address();
    let moved = SocketAddr::new(port::another_ip().into(), at.port());
    let second = Service::start_at(moved, "legacy", "2", None).await.unwrap();
    let service = |name: &str| format!("{{name: {name}, address: \"{name}.test:{}\"}}", at.port());
    let own = format!(
        "{{name: own, address: \"own.service:{}\"}}",
        mayfly.internal.port()
    );
    mayfly.save(
        "dev.yaml",
        &format!(
            "{{name: dev, services: [{}, {}]}}",
            service("legacy"),
            service("later")
        ),
    );
    mayfly.save("loop.yaml", &format!("{{name: loop, services: [{own}]}}"));

    // Nothing is known of the names yet: that is told, and harms nobody.
    answers(&mayfly, "legacy", 503).await;
    eventually(SOON, "the names are set aside", async || -> Result<_> {
        let aside = mayfly.set_aside("haproxy-updater").await?;
        let is_told =
            |(key, reason): &(String, String)| key.ends_with("/dev") && reason.contains("legacy.test");
        ensure!(aside.len() == 3 && aside.iter().any(is_told), "{aside:?}");
        Ok(())
    })
    .await;
    let waited = mayfly
        .run("mayfly", &["wait", "dev", "--timeout", "300ms"])
        .await
        .unwrap();
    let told = "legacy cannot be reached: there is no known address of legacy.test";
    assert!(
        waited.code == Some(1) && waited.stderr.contains(told),
        "{}",
        waited.stderr
    );
    names
        .set(&[("legacy.test", at.ip()), ("own.service", mayfly.internal.ip())])
        .unwrap();
    // A name that resolves to the router must not make it ask itself for ever.
    eventually(SOON, "the router does not ask itself", async || -> Result<_> {
        let aside = mayfly.set_aside("haproxy-updater").await?;
        let is_told = |(_, reason): &(String, String)| reason.contains("where the router itself listens");
        ensure!(aside.iter().any(is_told), "{aside:?}");
        Ok(())
    })
    .await;
    let answer = mayfly.call("loop", "own").await.unwrap();
    assert!(
        answer.status == 508 && answer.body.contains("routes back to this router"),
        "{answer:?}"
    );
    let host = format!("legacy.test:{}", at.port());
    assert_eq!(reaches(&mayfly, "legacy", at).await.header("host"), host);
    // It moves; then it has two addresses; then it cannot be resolved any more, and stays where it was.
    names.set(&[("legacy.test", moved.ip())]).unwrap();
    reaches(&mayfly, "legacy", moved).await;
    names
        .set(&[("legacy.test", at.ip()), ("legacy.test", moved.ip())])
        .unwrap();
    reaches(&mayfly, "legacy", at).await;
    reaches(&mayfly, "legacy", moved).await;
    names.set(&[("legacy.test", at.ip())]).unwrap();
    eventually(SOON, "one server is left", async || -> Result<_> {
        ensure!(mayfly.haproxy.servers().await?.len() == 1);
        Ok(())
    })
    .await;
    names.set(&[("later.test", moved.ip())]).unwrap();
    reaches(&mayfly, "later", moved).await;
    // A tool resolves no names, and takes them for what the router makes of them.
    for arguments in [&["wait", "dev"][..], &["explain", "dev", "later"]] {
        mayfly.run("mayfly", arguments).await.unwrap().ok().unwrap();
    }
    eventually(SOON, "the failure is told", async || -> Result<_> {
        let status = mayfly.status("haproxy-updater").await?;
        ensure!(
            status["detail"]["host_names_failing"]["legacy.test"].is_string(),
            "{status}"
        );
        Ok(())
    })
    .await;
    throughout(Duration::from_millis(500), "it stays where it was", async || {
        mayfly
            .call("dev", "legacy")
            .await
            .is_ok_and(|answer| answer.echo().is_ok_and(|echo| echo.address == at))
    })
    .await;
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
    // So too for a haproxy-updater that is started anew, and for an HAProxy that is.
    mayfly.updater.take();
    mayfly.start_updater().unwrap();
    mayfly.haproxy.restart().await.unwrap();
    reaches(&mayfly, "legacy", at).await;
    drop((first, second));
}

#[tokio::test]
async fn https_is_verified_and_never_falls_back_to_clear_text() {
    let place = tempfile::Builder::new().prefix("mayfly-").tempdir().unwrap();
    let ours = Authority::new(place.path(), "ours").await.unwrap();
    let theirs = Authority::new(place.path(), "theirs").await.unwrap();
    let certificate = ours.certificate();
    let arguments = [&LOOPBACK[..], &["--resolve", "100ms", "--ca-file", &certificate]].concat();
    let mut mayfly = Mayfly::start_with_names(&arguments).await.unwrap();
    let (good, bad) = (
        Service::start("good", "1").await.unwrap(),
        Service::start("bad", "1").await.unwrap(),
    );
    let (here, there) = (port::free(), port::free());
    let certificate = ours.certify("legacy.test").await.unwrap();
    let _good = Terminator::start(place.path(), here, &certificate, good.address())
        .await
        .unwrap();
    let certificate = theirs.certify("stranger.test").await.unwrap();
    let _bad = Terminator::start(place.path(), there, &certificate, bad.address())
        .await
        .unwrap();
    let names = mayfly.names.clone().unwrap();
    let all = ["legacy.test", "impostor.test", "stranger.test", "clear.test"];
    names.set(&all.map(|name| (name, here.ip()))).unwrap();
    let services = [
        format!(
            "{{name: legacy, address: \"https://legacy.test:{}\"}}",
            here.port()
        ),
        // Our authority, but the certificate of another name.
        format!(
            "{{name: impostor, address: \"https://impostor.test:{}\"}}",
            here.port()
        ),
        // The right name, but an authority that nobody knows here.
        format!(
            "{{name: stranger, address: \"https://stranger.test:{}\"}}",
            there.port()
        ),
        // No TLS at all.
        format!(
            "{{name: clear, address: \"https://clear.test:{}\"}}",
            bad.address().port()
        ),
    ];
    mayfly.save(
        "dev.yaml",
        &format!("{{name: dev, services: [{}]}}", services.join(", ")),
    );

    let verified = async |mayfly: &Mayfly| {
        let echo = reaches(mayfly, "legacy", good.address()).await;
        assert_eq!(echo.header("host"), format!("legacy.test:{}", here.port()));
        let answer = mayfly.call("dev", "legacy").await.unwrap();
        assert_eq!(answer.headers["x-sni"], "legacy.test");
        for service in ["impostor", "stranger", "clear"] {
            answers(mayfly, service, 503).await;
        }
    };
    verified(&mayfly).await;
    // The checks find out, too; and an HAProxy that starts from the files has the same.
    let states = async |mayfly: &Mayfly| -> Result<Vec<String>> {
        let text = mayfly.haproxy.ask("show stat").await?;
        let rows = text
            .lines()
            .filter(|line| line.starts_with("slot-") && line.contains("-tls-"));
        let fields = rows.map(|line| line.split(',').collect::<Vec<_>>());
        Ok(fields
            .map(|row| format!("{} {}", row[1].rsplit('-').next().unwrap_or_default(), row[17]))
            .collect())
    };
    eventually(SOON, "only the right one is up", async || -> Result<_> {
        let states = states(&mayfly).await?;
        let (up, down): (Vec<_>, Vec<_>) = states.iter().partition(|state| state.contains("UP"));
        ensure!(
            up.len() == 1 && up[0].starts_with("legacy.test") && down.len() == 3,
            "{states:?}"
        );
        Ok(())
    })
    .await;
    let config = mayfly.haproxy_directory().join("haproxy.cfg");
    eventually(SOON, "the servers stand in the files", async || {
        std::fs::read_to_string(&config).is_ok_and(|text| text.matches(" sni str(").count() == 4)
    })
    .await;
    mayfly.updater.take();
    mayfly.haproxy.restart().await.unwrap();
    verified(&mayfly).await;
    assert_eq!(
        bad.requests(),
        0,
        "something was sent in clear text, or to a stranger"
    );
}

#[tokio::test]
async fn a_permanent_registration_stays_until_it_is_removed() {
    let mut mayfly = Mayfly::start_with_names(&[&LOOPBACK[..], &["--resolve", "100ms"]].concat())
        .await
        .unwrap();
    let service = Service::start("billing", "7").await.unwrap();
    let port = service.address().port().to_string();
    let names = mayfly.names.clone().unwrap();
    names.set(&[("billing.test", service.address().ip())]).unwrap();
    let place = ["billing.service", "7", "billing.test", &port];
    let registrar = async |mayfly: &Mayfly, words: &[&str]| {
        mayfly
            .run("container-registrar", words)
            .await
            .unwrap()
            .ok()
            .unwrap()
    };
    let told = registrar(&mayfly, &[&["register", "--permanent"], &place[..]].concat()).await;
    assert!(
        told.contains("to deregister it: container-registrar deregister billing 7 billing.test"),
        "{told}"
    );
    mayfly.save(
        "dev.yaml",
        "{name: dev, services: [{name: billing, version: ^7}]}",
    );
    let echo = reaches(&mayfly, "billing", service.address()).await;
    assert_eq!(echo.header("host"), format!("billing.test:{port}"));
    assert!(registrar(&mayfly, &["list"]).await.contains("permanent"));
    mayfly.etcd.kill9().await.unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly.updater.take();
    mayfly.haproxy.kill9().await.unwrap();
    mayfly.start_updater().unwrap();
    mayfly.haproxy.start().await.unwrap();
    reaches(&mayfly, "billing", service.address()).await;
    registrar(&mayfly, &[&["deregister"], &place[..]].concat()).await;
    answers(&mayfly, "billing", 503).await;
}

#[tokio::test]
async fn the_name_of_a_service_may_have_its_suffix_everywhere() {
    let mut mayfly = Mayfly::start().await.unwrap();
    mayfly.start_dns().await.unwrap();
    let (one, two) = (
        Service::start("one", "1").await.unwrap(),
        Service::start("two", "1").await.unwrap(),
    );
    // Arguments.
    let _registrar = mayfly.register("one.service", "1", one.address(), &[]).unwrap();
    // A key that somebody put, with the suffix in it.
    let value = format!("{{\"address\":\"{}\"}}", two.address());
    mayfly
        .etcd
        .put("/mayfly/backends/two.service/1/x", &value)
        .await
        .unwrap();
    // YAML.
    mayfly.save(
        "dev.yaml",
        "{name: dev, services: [{name: one.service, version: 1, route: /}, two.service]}",
    );
    reaches(&mayfly, "one", one.address()).await;
    reaches(&mayfly, "two", two.address()).await;
    for name in ["one.service", "two.service"] {
        mayfly.resolves(name, &[mayfly.internal.ip()]).await;
        mayfly.resolves(&format!("{name}.service"), &[]).await;
    }
    for name in ["two", "two.service"] {
        let list = mayfly
            .run("container-registrar", &["list", name])
            .await
            .unwrap()
            .ok()
            .unwrap();
        assert!(list.contains(&two.address().to_string()), "{name}:\n{list}");
    }
    mayfly
        .etcd
        .put("/mayfly/backends/two.service/1/10.0.0.5:80", &value)
        .await
        .unwrap();
    let arguments = ["deregister", "two", "1", "10.0.0.5", "80"];
    mayfly
        .run("container-registrar", &arguments)
        .await
        .unwrap()
        .ok()
        .unwrap();
}
