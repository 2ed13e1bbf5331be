//! Addresses that a pushed file names and that no router asks: those of its own host, of itself, too many, and names that
//! resolve to any of these. A router in these tests has no flag, or as narrow a one as it needs.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use mayfly_e2e::http::Request;
use mayfly_e2e::instance::Service;
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::{eventually, port};

/// Waits until haproxy-updater has set an environment aside for a reason.
async fn told(mayfly: &Mayfly, environment: &str, text: &str) {
    eventually(
        SOON,
        &format!("{environment} is set aside: {text}"),
        async || -> Result<_> {
            let aside = mayfly.set_aside("haproxy-updater").await?;
            let key = format!("/environments/{environment}");
            let is_it = |(at, reason): &(String, String)| at.ends_with(&key) && reason.contains(text);
            ensure!(aside.iter().any(is_it), "{aside:?}");
            Ok(())
        },
    )
    .await;
}

/// The status of a request at the edge.
async fn status(mayfly: &Mayfly, host: &str, path: &str) -> u16 {
    mayfly.get(host, path).await.map_or(0, |answer| answer.status)
}

#[tokio::test]
async fn no_file_reaches_what_only_the_host_reaches() {
    let mut mayfly = Mayfly::start().await.unwrap();
    let other = mayfly.instance("front", "1").await.unwrap();
    let etcd: SocketAddr = mayfly.etcd.address();
    let services = [
        format!("{{name: store, address: '{etcd}', route: /}}"),
        format!(
            "{{name: same, address: '[::ffff:{}]:{}', route: /same}}",
            etcd.ip(),
            etcd.port()
        ),
        format!("{{name: self, address: '{}', route: /self}}", mayfly.internal),
        "{name: meta, address: '169.254.169.254:80', route: /latest}".to_owned(),
        format!(
            "{{name: local, address: 'localhost:{}', route: /local}}",
            etcd.port()
        ),
        "{name: front, version: 1, route: /front}".to_owned(),
    ];
    mayfly.save(
        "x.yaml",
        &format!("{{name: x, services: [{}]}}", services.join(", ")),
    );
    eventually(SOON, "the rest of it answers", async || {
        status(&mayfly, "www-x.y", "/front").await == 200
    })
    .await;
    for text in [
        format!("store cannot be reached: {etcd} is a loopback address"),
        "meta cannot be reached: 169.254.169.254:80 is a link-local address".to_owned(),
        format!(
            "self cannot be reached: {} is where the router itself listens",
            mayfly.internal
        ),
        "local cannot be reached: localhost is a loopback address".to_owned(),
    ] {
        told(&mayfly, "x", &text).await;
    }
    // As an anonymous client would put a key.
    let put = Request::post("www-x.y", "/v3/kv/put", r#"{"key": "L3B3bmVk", "value": "eA=="}"#);
    assert_eq!(put.send(mayfly.edge).await.unwrap().status, 503);
    assert_eq!(mayfly.etcd.get("/pwned").await.unwrap(), None);
    for path in ["/same", "/self", "/latest/meta-data", "/local"] {
        assert_eq!(status(&mayfly, "www-x.y", path).await, 503, "{path}");
    }
    assert_eq!(mayfly.haproxy.servers().await.unwrap().len(), 1);
    // Whoever asks learns why, by what the router says of itself.
    let explained = mayfly
        .run("mayfly", &["explain", "http://www-x.y/"])
        .await
        .unwrap();
    assert!(
        explained.stdout.contains("is a loopback address"),
        "{}",
        explained.stdout
    );
    let shown = mayfly
        .run("mayfly", &["status", "x"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    for text in ["is a link-local address", "where the router itself listens"] {
        assert!(shown.contains(text), "{shown}");
    }
    // Where an operator allows it, it is reached: nothing else was in the way.
    mayfly.updater.take();
    let ip = etcd.ip().to_string();
    mayfly.start_updater_with(&["--allow-address", &ip]).unwrap();
    eventually(SOON, "etcd answers", async || -> Result<_> {
        let answer = put.send(mayfly.edge).await?;
        ensure!(answer.status == 200, "{answer:?}");
        Ok(())
    })
    .await;
    eventually(SOON, "what is said follows the flag", async || -> Result<_> {
        let explained = mayfly.run("mayfly", &["explain", "http://www-x.y/"]).await?;
        ensure!(explained.code == Some(0), "{}", explained.stdout);
        Ok(())
    })
    .await;
    drop(other);
}

#[tokio::test]
async fn a_name_that_is_rebound_leads_nowhere() {
    let at = SocketAddr::new(port::another_ip().into(), port::free().port());
    let ip = at.ip().to_string();
    let mut mayfly = Mayfly::start_with_names(&["--resolve", "100ms", "--allow-address", &ip])
        .await
        .unwrap();
    let names = mayfly.names.clone().unwrap();
    let good = Service::start_at(at, "good", "1", None).await.unwrap();
    let secret = Service::start_at(
        SocketAddr::new([127, 0, 0, 1].into(), at.port()),
        "secret",
        "1",
        None,
    )
    .await
    .unwrap();
    names.set(&[("evil.test", at.ip())]).unwrap();
    mayfly.save(
        "x.yaml",
        &format!(
            "{{name: x, services: [{{name: evil, address: 'evil.test:{}', route: /}}]}}",
            at.port()
        ),
    );
    eventually(SOON, "it answers", async || {
        status(&mayfly, "www-x.y", "/").await == 200
    })
    .await;
    names.set(&[("evil.test", [127, 0, 0, 1].into())]).unwrap();
    let reason = "evil.test resolves to 127.0.0.1, which is a loopback address";
    told(&mayfly, "x", reason).await;
    let leads_nowhere = async |mayfly: &Mayfly| {
        eventually(SOON, "it leads nowhere", async || -> Result<_> {
            ensure!(status(mayfly, "www-x.y", "/").await == 503);
            let servers = mayfly.haproxy.servers().await?;
            ensure!(servers.is_empty(), "{servers:?}");
            Ok(())
        })
        .await;
    };
    leads_nowhere(&mayfly).await;
    let waited = mayfly
        .run("mayfly", &["wait", "x", "--timeout", "300ms"])
        .await
        .unwrap();
    assert!(
        waited.code == Some(1) && waited.stderr.contains(reason),
        "{}",
        waited.stderr
    );
    // Nor does the next updater believe what was remembered, though the name cannot be resolved by now.
    let remembered = mayfly.haproxy_directory().join("names.json");
    eventually(SOON, "it is remembered", async || {
        std::fs::read_to_string(&remembered).is_ok_and(|text| text.contains("127.0.0.1"))
    })
    .await;
    names.set(&[]).unwrap();
    mayfly.updater.take();
    mayfly.haproxy.restart().await.unwrap();
    mayfly.start_updater().unwrap();
    told(&mayfly, "x", reason).await;
    leads_nowhere(&mayfly).await;
    assert_eq!(secret.requests(), 0);
    drop(good);
}

#[tokio::test]
async fn a_file_of_addresses_takes_a_hundred_and_others_go_on() {
    let mayfly = Mayfly::start_with(&["--allow-address", "127.0.0.0/8", "--max-addresses", "120"])
        .await
        .unwrap();
    let front = mayfly.instance("front", "1").await.unwrap();
    let flood = |name: &str, network: u8| {
        let services: String = (0..500)
            .map(|n| {
                format!(
                    "\n- {{name: s{n}, address: '127.{network}.{}.{}:9'}}",
                    n / 250,
                    n % 250 + 1
                )
            })
            .collect();
        format!("name: {name}\nservices:{services}\n")
    };
    mayfly.save("flood.yaml", &flood("flood", 101));
    told(&mayfly, "flood", "more than the limit of 100: s100 and 399 more").await;
    mayfly.save("more.yaml", &flood("more", 102));
    told(&mayfly, "more", "routers accept at most 120 addresses").await;
    mayfly.save(
        "good.yaml",
        "{name: good, services: [{name: front, version: 1, route: /}]}",
    );
    eventually(SOON, "another environment is in force", async || {
        status(&mayfly, "www-good.y", "/").await == 200
    })
    .await;
    assert_eq!(mayfly.haproxy.servers().await.unwrap().len(), 121);
    // With its file what it had passes to the next.
    mayfly.remove("flood.yaml");
    eventually(SOON, "the next has its hundred", async || -> Result<_> {
        let servers = mayfly.haproxy.servers().await?;
        ensure!(servers.len() == 101, "{}", servers.len());
        Ok(())
    })
    .await;
    drop(front);
}
