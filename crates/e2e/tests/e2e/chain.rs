//! The whole chain: a file is dropped, a browser asks at the edge, the service calls another one by its name, and
//! both answer from the versions of the environment.

use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_file_decides_the_versions_along_the_chain() {
    let mut mayfly = Mayfly::start().await.unwrap();
    mayfly.start_dns().await.unwrap();
    let mut instances = Vec::new();
    for (service, version) in [
        ("frontend", "0.0.1"),
        ("frontend", "0.0.2"),
        ("backend", "0.0.1"),
        ("backend", "0.0.2"),
    ] {
        instances.push(mayfly.instance(service, version).await.unwrap());
    }
    mayfly.resolves("backend.service", &[mayfly.internal.ip()]).await;
    let chain = async |host: &str| {
        let echo = mayfly
            .get(host, "/?call=backend")
            .await
            .unwrap()
            .echo()
            .map_err(|e| format!("{e:#}"))?;
        let failed = echo.call_failed.clone();
        let called = echo.called.ok_or_else(|| failed.unwrap_or_default())?;
        assert_eq!(
            called.header("x-mayfly"),
            echo.headers["x-mayfly"].join(","),
            "the header is forwarded"
        );
        Ok::<_, String>(format!(
            "{} {} {}",
            echo.headers["x-mayfly"][0], echo.version, called.version
        ))
    };
    let becomes = async |host: &str, expected: &str| {
        eventually(SOON, &format!("{host} is {expected}"), async || {
            let found = chain(host).await?;
            if found == expected { Ok(()) } else { Err(found) }
        })
        .await;
    };
    mayfly.save(
        "prod.yaml",
        "{name: prod, prefix: www, services: [{name: frontend, version: 0.0.1, route: /}, {name: backend, version: 0.0.1}]}",
    );
    becomes("www.example.com", "prod 0.0.1 0.0.1").await;
    mayfly.save(
        "dev.yaml",
        "{name: dev, services: [{name: frontend, route: /}, backend]}",
    );
    becomes("www-dev.example.com", "dev 0.0.2 0.0.2").await;
    mayfly.save(
        "qa.yaml",
        "{name: qa, extends: prod, services: [{name: backend, version: 0.0.2}]}",
    );
    becomes("www-qa.example.com", "qa 0.0.1 0.0.2").await;
    becomes("www.example.com", "prod 0.0.1 0.0.1").await;
    // `dev` deploys itself when a newer backend appears; the others stay.
    instances.push(mayfly.instance("backend", "0.0.3").await.unwrap());
    becomes("www-dev.example.com", "dev 0.0.2 0.0.3").await;
    becomes("www-qa.example.com", "qa 0.0.1 0.0.2").await;
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn baggage_alone_leads_a_service_that_forwards_nothing_else() {
    let mut mayfly = Mayfly::start().await.unwrap();
    mayfly.start_dns().await.unwrap();
    let _one = mayfly.instance("backend", "0.0.1").await.unwrap();
    mayfly.save(
        "dev.yaml",
        "{name: dev, services: [{name: backend, version: 0.0.1}]}",
    );
    mayfly.calls("dev", "backend", "backend@0.0.1").await;
    let request =
        mayfly_e2e::http::Request::get("backend.service", "/?call=backend").header("baggage", "mayfly=dev");
    mayfly.resolves("backend.service", &[mayfly.internal.ip()]).await;
    let echo = request.send(mayfly.internal).await.unwrap().echo().unwrap();
    let called = echo.called.unwrap_or_else(|| panic!("{:?}", echo.call_failed));
    assert_eq!(
        (called.header("x-mayfly").as_str(), called.version.as_str()),
        ("dev", "0.0.1")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_daemon_tells_that_it_is_ready_and_what_it_counts() {
    let mut mayfly = Mayfly::start().await.unwrap();
    let mut admins = Vec::new();
    for (daemon, arguments) in [
        (
            "environment-registrar",
            vec!["watch".to_owned(), mayfly.environments().display().to_string()],
        ),
        (
            "dns-updater",
            vec![
                "watch".to_owned(),
                "--hosts-file".to_owned(),
                mayfly.directory().join("hosts/x").display().to_string(),
            ],
        ),
        (
            "container-registrar",
            ["register", "web", "1", "127.0.0.1", "9"]
                .map(str::to_owned)
                .to_vec(),
        ),
    ] {
        let admin = mayfly_e2e::port::free();
        let mut command = mayfly.command(daemon).unwrap();
        command
            .args(arguments)
            .args(["--node", "other", "--admin", &admin.to_string()]);
        admins.push((
            daemon,
            admin,
            mayfly.spawn(&format!("{daemon}-other"), &command).unwrap(),
        ));
    }
    let ready = async |daemon: &str, admin| {
        eventually(SOON, &format!("{daemon} is ready"), async || {
            mayfly_e2e::http::Request::get("admin", "/readyz")
                .send(admin)
                .await
                .is_ok_and(|answer| answer.status == 200)
        })
        .await;
        let metrics = mayfly_e2e::http::Request::get("admin", "/metrics")
            .send(admin)
            .await
            .unwrap();
        assert!(metrics.body.contains("mayfly_"), "{daemon}: {}", metrics.body);
        mayfly_e2e::metrics::check(&metrics.body).unwrap();
    };
    for (daemon, admin, _process) in &admins {
        ready(daemon, *admin).await;
    }
    // Alive is not ready: without etcd a new daemon lives, and is not ready.
    mayfly.etcd.kill9().await.unwrap();
    let admin = mayfly_e2e::port::free();
    let mut command = mayfly.command("environment-registrar").unwrap();
    command
        .arg("watch")
        .arg(mayfly.environments())
        .args(["--admin", &admin.to_string()]);
    let _late = mayfly.spawn("late", &command).unwrap();
    eventually(SOON, "it lives", async || {
        mayfly_e2e::http::Request::get("admin", "/healthz")
            .send(admin)
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let status = mayfly_e2e::http::Request::get("admin", "/readyz")
        .send(admin)
        .await
        .unwrap()
        .status;
    assert_eq!(status, 503);
    mayfly.etcd.restart().await.unwrap();
    ready("the late one", admin).await;
}
