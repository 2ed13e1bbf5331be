//! Garbage in etcd is set aside with its key and reason, and nobody else is delayed by it.

use std::fs;

use anyhow::Result;
use mayfly_e2e::eventually;
use mayfly_e2e::mayfly::{Mayfly, SOON};

const GOOD: &str = "{name: good, services: [{name: frontend, version: 1.0.0, route: /}]}";

/// Waits until haproxy-updater has set `key` aside.
async fn set_aside(mayfly: &Mayfly, daemon: &str, key: &str) -> String {
    eventually(
        SOON,
        &format!("{daemon} sets {key} aside"),
        async || -> Result<String> {
            let all = mayfly.set_aside(daemon).await?;
            let found = all
                .iter()
                .find(|(found, reason)| found == key && !reason.is_empty());
            found
                .map(|(_, reason)| reason.clone())
                .ok_or_else(|| anyhow::anyhow!("set aside are {all:#?}"))
        },
    )
    .await
}

/// Every file that HAProxy or dnsmasq reads, in one text.
fn everything(mayfly: &Mayfly) -> String {
    let mut text = fs::read_to_string(mayfly.haproxy_directory().join("haproxy.cfg")).unwrap();
    for directory in [
        mayfly.haproxy_directory().join("maps"),
        mayfly.directory().join("hosts"),
    ] {
        for entry in fs::read_dir(directory).unwrap() {
            // A file that is being replaced may be gone again.
            let bytes = fs::read(entry.unwrap().path()).unwrap_or_default();
            text += &String::from_utf8_lossy(&bytes);
        }
    }
    text
}

#[tokio::test]
async fn environments_that_are_garbage_are_set_aside_and_others_go_on() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "1.0.0").await.unwrap();
    let bad = [
        ("/mayfly/environments/not-json", "name: yaml"),
        ("/mayfly/environments/empty", ""),
        ("/mayfly/environments/number", "42"),
        ("/mayfly/environments/list", "[]"),
        (
            "/mayfly/environments/truncated",
            r#"{"name":"truncated","prefix":"www-tr"#,
        ),
        (
            "/mayfly/environments/other-name",
            r#"{"name":"good","prefix":"p1","header":"h1","services":[]}"#,
        ),
        (
            "/mayfly/environments/UPPER",
            r#"{"name":"UPPER","prefix":"p2","header":"h2","services":[]}"#,
        ),
        (
            "/mayfly/environments/a/b",
            r#"{"name":"a","prefix":"p3","header":"h3","services":[]}"#,
        ),
        (
            "/mayfly/environments/prefix",
            r#"{"name":"prefix","prefix":"evil.prefix","header":"h4","services":[]}"#,
        ),
        (
            "/mayfly/environments/header",
            r#"{"name":"header","prefix":"p5","header":"evil 5","services":[]}"#,
        ),
        (
            "/mayfly/environments/hash",
            r##"{"name":"hash","prefix":"p6","header":"#evil","services":[]}"##,
        ),
        (
            "/mayfly/environments/newline",
            r#"{"name":"newline","prefix":"p7\nevil x","header":"h7","services":[]}"#,
        ),
        (
            "/mayfly/environments/service",
            r#"{"name":"service","prefix":"p8","header":"h8","services":[{"name":"a;evil","version":"1"}]}"#,
        ),
        (
            "/mayfly/environments/version",
            r#"{"name":"version","prefix":"p9","header":"h9","services":[{"name":"a","version":"1 evil"}]}"#,
        ),
        (
            "/mayfly/environments/route",
            r#"{"name":"route","prefix":"p0","header":"h0","services":[{"name":"a","version":"1","routes":["/x\nevil"]}]}"#,
        ),
    ];
    for (key, value) in bad {
        mayfly.etcd.put(key, value).await.unwrap();
    }
    mayfly
        .etcd
        .put_bytes(b"/mayfly/environments/bytes", b"\xff\xfe{")
        .await
        .unwrap();
    mayfly.save("good.yaml", GOOD);
    mayfly.answers("www-good.example.com", "frontend@1.0.0").await;
    for (key, _) in bad.iter().chain([&("/mayfly/environments/bytes", "")]) {
        let reason = set_aside(&mayfly, "haproxy-updater", key).await;
        assert!(!reason.contains('\n'), "{reason:?}");
    }
    assert!(!everything(&mayfly).contains("evil"), "{}", everything(&mayfly));
    // Mended or deleted, it is set aside no more.
    mayfly
        .etcd
        .put(
            "/mayfly/environments/empty",
            r#"{"name":"empty","prefix":"www-empty","header":"empty"}"#,
        )
        .await
        .unwrap();
    for (key, _) in bad.iter().filter(|(key, _)| !key.ends_with("/empty")) {
        mayfly.etcd.delete(key).await.unwrap();
    }
    mayfly.etcd.delete("/mayfly/environments/bytes").await.unwrap();
    eventually(SOON, "nothing is set aside", async || {
        mayfly
            .set_aside("haproxy-updater")
            .await
            .is_ok_and(|all| all.is_empty())
    })
    .await;
}

#[tokio::test]
async fn a_good_environment_survives_a_bad_value_under_its_key() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "1.0.0").await.unwrap();
    let good = r#"{"name":"byhand","prefix":"www-byhand","header":"byhand","services":[{"name":"frontend","version":"1.0.0","routes":["/"]}]}"#;
    mayfly
        .etcd
        .put("/mayfly/environments/byhand", good)
        .await
        .unwrap();
    mayfly.answers("www-byhand.example.com", "frontend@1.0.0").await;
    mayfly
        .etcd
        .put("/mayfly/environments/byhand", "garbage")
        .await
        .unwrap();
    set_aside(&mayfly, "haproxy-updater", "/mayfly/environments/byhand").await;
    assert_eq!(
        mayfly
            .get("www-byhand.example.com", "/")
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "frontend@1.0.0"
    );
}

#[tokio::test]
async fn instances_that_are_garbage_are_set_aside_and_others_go_on() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "1.0.0").await.unwrap();
    mayfly.save("good.yaml", GOOD);
    mayfly.answers("www-good.example.com", "frontend@1.0.0").await;
    let bad = [
        ("/mayfly/backends/frontend/1.0.0/not-json", "nonsense"),
        ("/mayfly/backends/frontend/1.0.0/no-address", "{}"),
        (
            "/mayfly/backends/frontend/1.0.0/name",
            r#"{"address":"evil.example.com:80 check"}"#,
        ),
        (
            "/mayfly/backends/frontend/1.0.0/port",
            r#"{"address":"127.0.0.1:0"}"#,
        ),
        (
            "/mayfly/backends/frontend/1.0.0/big-port",
            r#"{"address":"127.0.0.1:99999"}"#,
        ),
        (
            "/mayfly/backends/frontend/1.0.0/options",
            r#"{"address":"127.0.0.1:80 backup evil"}"#,
        ),
        (
            "/mayfly/backends/frontend/1.0.0/newline",
            r#"{"address":"127.0.0.1:80\nshow evil"}"#,
        ),
        (
            "/mayfly/backends/frontend/1.0.0/state",
            r#"{"address":"127.0.0.1:80","state":"evil"}"#,
        ),
        (
            "/mayfly/backends/frontend/1.0.0/weight",
            r#"{"address":"127.0.0.1:80","weight":257}"#,
        ),
        (
            "/mayfly/backends/frontend/1.0.0/protocol",
            r#"{"address":"127.0.0.1:80","protocol":"evil"}"#,
        ),
        (
            "/mayfly/backends/front;evil/1.0.0/a",
            r#"{"address":"127.0.0.1:80"}"#,
        ),
        (
            "/mayfly/backends/frontend/1 evil/a",
            r#"{"address":"127.0.0.1:80"}"#,
        ),
        (
            "/mayfly/backends/frontend/1.0.0/evil instance",
            r#"{"address":"127.0.0.1:80"}"#,
        ),
        (
            "/mayfly/backends/frontend/1.0.0/a/b",
            r#"{"address":"127.0.0.1:80"}"#,
        ),
        ("/mayfly/backends/frontend", r#"{"address":"127.0.0.1:80"}"#),
    ];
    for (key, value) in bad {
        mayfly.etcd.put(key, value).await.unwrap();
    }
    for (key, _) in bad {
        set_aside(&mayfly, "haproxy-updater", key).await;
    }
    assert!(!everything(&mayfly).contains("evil"), "{}", everything(&mayfly));
    let servers = mayfly.haproxy.servers().await.unwrap();
    assert_eq!(servers.len(), 1, "{servers:?}");
    for _ in 0..20 {
        assert_eq!(
            mayfly
                .get("www-good.example.com", "/")
                .await
                .unwrap()
                .backend()
                .unwrap(),
            "frontend@1.0.0"
        );
    }
}

#[tokio::test]
async fn names_for_dnsmasq_that_are_garbage_are_set_aside() {
    let mut mayfly = Mayfly::start().await.unwrap();
    mayfly.start_dns().await.unwrap();
    let _one = mayfly.instance("frontend", "1.0.0").await.unwrap();
    mayfly.resolves("frontend.service", &[mayfly.internal.ip()]).await;
    let bad = [
        ("/mayfly/dns/not-json.example", "nonsense"),
        ("/mayfly/dns/address.example", r#"{"addresses":["1.2.3.4 evil"]}"#),
        (
            "/mayfly/dns/newline.example",
            r#"{"addresses":["1.2.3.4\n6.6.6.6 evil.example"]}"#,
        ),
        ("/mayfly/dns/evil host", r#"{"addresses":["1.2.3.4"]}"#),
        ("/mayfly/dns/evil\nhost", r#"{"addresses":["1.2.3.4"]}"#),
        ("/mayfly/routers/not-json", "nonsense"),
        ("/mayfly/routers/address", r#"{"address":"evil"}"#),
        (
            "/mayfly/backends/evil_service/1/a",
            r#"{"address":"127.0.0.1:80"}"#,
        ),
    ];
    for (key, value) in bad {
        mayfly.etcd.put(key, value).await.unwrap();
    }
    for (key, _) in bad {
        set_aside(&mayfly, "dns-updater", key).await;
    }
    assert!(!everything(&mayfly).contains("evil"), "{}", everything(&mayfly));
    let _two = mayfly.instance("backend", "1.0.0").await.unwrap();
    mayfly.resolves("backend.service", &[mayfly.internal.ip()]).await;
    mayfly.resolves("frontend.service", &[mayfly.internal.ip()]).await;
}

#[tokio::test]
async fn keys_of_other_programs_are_no_concern() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "1.0.0").await.unwrap();
    mayfly
        .etcd
        .put("/mayflies/environments/x", "garbage")
        .await
        .unwrap();
    mayfly.etcd.put("/other", "garbage").await.unwrap();
    mayfly.save("good.yaml", GOOD);
    mayfly.answers("www-good.example.com", "frontend@1.0.0").await;
    assert_eq!(mayfly.set_aside("haproxy-updater").await.unwrap(), []);
}
