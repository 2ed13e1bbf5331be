//! What clients and proxies may say to a real HAProxy: forwarding headers, paths, doubled values, large
//! headers, and what its own answers say.

#![allow(clippy::unwrap_used)]

mod support;

use mayfly_e2e::http::{Answer, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use support::Router;
use support::town::{Town, assert_plain, passed_on};

#[tokio::test]
async fn the_edge_says_where_a_request_came_from() {
    let lies = |host: &str| {
        let request = Request::get(host, "/")
            .header("x-forwarded-for", "1.2.3.4")
            .header("forwarded", "for=1.2.3.4");
        request
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "lie")
    };
    let town = Town::new().await;
    let echo = town.outside(lies("www-qa.example.com:81")).await.echo().unwrap();
    assert_eq!(echo.header("x-forwarded-for"), "127.0.0.1");
    assert_eq!(echo.header("x-forwarded-proto"), "http");
    assert_eq!(echo.header("x-forwarded-host"), "www-qa.example.com:81");
    assert_eq!(
        (echo.header("forwarded"), echo.header("host")),
        (String::new(), "www-qa.example.com:81".to_owned())
    );

    let town = Town::with(&["--behind-proxy"]).await;
    let echo = town.outside(lies("www-qa.example.com")).await.echo().unwrap();
    assert_eq!(echo.header("x-forwarded-for"), "1.2.3.4, 127.0.0.1");
    assert_eq!(
        (echo.header("x-forwarded-proto"), echo.header("x-forwarded-host")),
        ("https".to_owned(), "lie".to_owned())
    );
}

/// A client before which no proxy stands says nothing of where it is, in no spelling; a proxy does,
/// in its own.
#[tokio::test]
async fn what_only_a_proxy_can_know_is_believed_of_a_proxy_only() {
    let family = [
        "forwarded",
        "x-forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-forwarded-port",
        "x-forwarded-prefix",
        "x-forwarded-server",
        "x-forwarded-scheme",
        "x-forwarded-ssl",
        "x-forwarded-client-cert",
        "x-real-ip",
        "x-original-url",
        "x-original-uri",
        "x-original-host",
        "x-original-forwarded-for",
        "x-rewrite-url",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-remote-addr",
        "x-originating-ip",
        "x-host",
        "x-scheme",
        "x-url-scheme",
        "x-script-name",
        "true-client-ip",
        "cf-connecting-ip",
        "front-end-https",
    ];
    let spelt = |name: &str, by: &str| name.replace('-', by);
    let mut request = Request::get("www-qa.example.com", "/");
    for name in family {
        for by in ["-", "_", "."] {
            request = request.header(&spelt(name, by), "a-lie");
        }
    }
    let innocent = [
        "x-original-filename",
        "x-realm",
        "x-client-version",
        "x-forwardedx",
        "via",
        "host-id",
    ];
    for name in innocent {
        request = request.header(name, "kept");
    }
    for (flags, proxy) in [(&[][..], false), (&["--behind-proxy"], true)] {
        let town = Town::with(flags).await;
        let echo = town.outside(request.clone()).await.echo().unwrap();
        for name in family {
            // This one has a single spelling.
            for by in ["_", "."].iter().filter(|_| name.contains('-')) {
                assert_eq!(echo.header(&spelt(name, by)), "", "{name} by {by}, {flags:?}");
            }
            let own = echo.header(name);
            assert_eq!(own.contains("a-lie"), proxy, "{name}: {own}, {flags:?}");
        }
        for name in innocent {
            assert_eq!(echo.header(name), "kept", "{name}, {flags:?}");
        }
    }
}

/// A server that resolves dots would take such a path for one of another route.
#[tokio::test]
async fn no_path_leaves_its_route() {
    let town = Town::new().await;
    for path in [
        "/api/../secret",
        "/api/..",
        "/api/%2e%2E/secret",
        "/api/.%2e/secret",
        "/api/..%2fsecret",
        "/api%2F..%2fsecret",
        "/api/..\\secret",
        "/api/%5c..%5Csecret",
        "/api/..;/secret",
        "/api/%252e%252e%252fsecret",
        "/api/..%3b/x",
        "/api/x/..%00/y",
        "/../api",
    ] {
        let answer = town.router.outside("www-prod.example.com", path).await;
        assert_plain(&answer, 400, &["`..`", path]);
    }
    for path in [
        "/api/...",
        "/api/..a",
        "/api/a..",
        "/api/.",
        "/api/.well-known/x",
        "/api/x?a=/../b",
        "/api/%2e",
    ] {
        let answer = town.router.outside("www-prod.example.com", path).await;
        assert_eq!(answer.backend().unwrap(), "backend@1", "{path}");
    }
    // Routes are the edge's: between services any path goes on.
    let inside = Request::get("backend.service", "/a/../b").header("x-mayfly", "h-prod");
    assert_eq!(town.inside(inside).await.backend().unwrap(), "backend@1");
}

#[tokio::test]
async fn a_value_said_again_is_one_and_different_ones_are_refused() {
    let town = Town::with(&["--allow-header-at-edge"]).await;
    let with = |host: &str, lines: &[&str]| {
        lines.iter().fold(Request::get(host, "/"), |request, line| {
            request.header("x-mayfly", line)
        })
    };
    for lines in [
        &["h-qa, h-qa"][..],
        &["h-qa,h-qa"],
        &["h-qa,"],
        &[",h-qa"],
        &["h-qa", "h-qa"],
        &["", "h-qa"],
        &["h-qa", ""],
        &["h-qa , h-qa", "h-qa"],
        &["h-qa"; 5],
    ] {
        for answer in [
            town.inside(with("frontend.service", lines)).await,
            town.outside(with("www-prod.x", lines)).await,
        ] {
            assert_eq!(answer.backend().unwrap(), "frontend@2", "{lines:?}");
            assert_eq!(
                passed_on(&answer),
                ("h-qa".to_owned(), "mayfly=h-qa".to_owned()),
                "{lines:?}"
            );
        }
    }
    for (lines, told) in [
        (&["h-qa", "h-prod"][..], "(h-qa,h-prod)"),
        (&["h-prod, h-qa"], "(h-prod, h-qa)"),
        (&["h-qa,h-q"], "(h-qa,h-q)"),
        (&["h-q,h-qa"], "(h-q,h-qa)"),
        // A sixth line that nobody reads may say anything.
        (
            &["h-qa", "h-qa", "h-qa", "h-qa", "h-qa", "h-prod"],
            "more than one value",
        ),
    ] {
        for answer in [
            town.inside(with("frontend.service", lines)).await,
            town.outside(with("www-prod.x", lines)).await,
        ] {
            assert_plain(&answer, 400, &["x-mayfly has more than one value", told]);
        }
    }
}

/// Libraries of OpenTelemetry drop all of a baggage that is longer.
#[tokio::test]
async fn baggage_never_leaves_with_more_than_8192_bytes() {
    let town = Town::new().await;
    let members = |length: usize| {
        let all: String = (0..200).map(|n| format!("k{n}={},", "v".repeat(90))).collect();
        all[..length].to_owned()
    };
    for length in [7_700, 7_800, 8_000, 8_178, 8_179, 8_180, 8_192, 9_000, 13_000] {
        let request = Request::get("frontend.service", "/").header("x-mayfly", "h-qa");
        let (_, baggage) = passed_on(&town.inside(request.header("baggage", &members(length))).await);
        assert!(baggage.starts_with("mayfly=h-qa,k0=v"), "{length}: {baggage:.30}");
        let whole = format!("mayfly=h-qa,{}", members(length));
        if whole.len() <= 8_192 {
            assert_eq!(baggage, whole, "{length}");
        } else {
            assert!(
                (8_000..=8_192).contains(&baggage.len()),
                "{length}: {}",
                baggage.len()
            );
            let after = whole.strip_prefix(&baggage).unwrap();
            assert!(after.starts_with(','), "{length}: whole members are left out");
        }
    }
    let single = Request::get("www-qa.x", "/").header("baggage", &format!("a={}", "x".repeat(9_000)));
    assert_eq!(passed_on(&town.outside(single).await).1, "mayfly=h-qa");
}

/// A cache between services tells environments apart, and nobody keeps what HAProxy says itself.
#[tokio::test]
async fn answers_say_what_they_vary_by_and_refusals_that_they_are_not_to_be_kept() {
    let vary = |answer: &Answer| answer.headers.get("vary").cloned();
    let town = Town::new().await;
    let inside = town.router.inside("frontend", "h-qa").await;
    assert_eq!(vary(&inside).as_deref(), Some("x-mayfly, baggage"));
    assert_eq!(vary(&town.router.outside("www-qa.x", "/").await), None);
    for answer in [
        town.router.outside("nobody.x", "/").await,
        town.router.outside("www-qa.x", "/api/..").await,
        town.router.outside("www-qa.x", "/ghost").await,
        town.router.inside("frontend", "nobody").await,
        town.router.inside("nobody", "h-qa").await,
        town.inside(Request::get("frontend.service", "/")).await,
    ] {
        assert_eq!(
            answer.headers.get("cache-control").map(String::as_str),
            Some("no-store"),
            "{answer:?}"
        );
    }
    let town = Town::with(&["--allow-header-at-edge"]).await;
    assert_eq!(
        vary(&town.router.outside("www-qa.x", "/").await).as_deref(),
        Some("x-mayfly")
    );
}

/// A balancer asks by address, and whoever asks keeps no environment alive.
#[tokio::test]
async fn haproxy_itself_says_at_the_edge_that_it_serves() {
    let mut router = Router::new(&["--slots", "2"]);
    router.environment("a", None, &["s@1/"]);
    router.run().await;
    for host in ["10.0.0.10", "", "www-a.x"] {
        let probe = Request::get(host, "/.mayfly/health");
        assert_eq!(probe.send(router.edge).await.unwrap().status, 200, "{host}");
    }
    let probe = Request::get("x", "/.mayfly/health")
        .send_h2c(router.edge)
        .await
        .unwrap();
    assert_eq!(probe.status, 200);
    assert_eq!(router.engine.uses().await.unwrap(), Some(Default::default()));
    assert_eq!(router.outside("www-a.x", "/.mayfly/healthy").await.status, 503);
    let town = Town::with(&["--edge-health-path", "/up"]).await;
    assert_eq!(town.router.outside("", "/up").await.status, 200);
    assert_eq!(town.router.outside("x", "/.mayfly/health").await.status, 404);
}

/// A handshake that is answered by a process that is being replaced.
#[tokio::test]
async fn a_websocket_that_opens_during_a_reload_keeps_its_connection_header() {
    let listener = TcpListener::bind(mayfly_e2e::port::free()).await.unwrap();
    let mut router = Router::new(&["--slots", "2"]);
    router.instance("s@1", listener.local_addr().unwrap());
    router.environment("a", None, &["s@1/"]);
    router.run().await;
    let mut client = TcpStream::connect(router.edge).await.unwrap();
    let handshake = "GET / HTTP/1.1\r\nHost: www-a.x\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    client.write_all(handshake.as_bytes()).await.unwrap();
    // Checks connect and say nothing.
    let mut server = loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 4096];
        if stream.read(&mut head).await.is_ok_and(|length| length > 0) {
            break stream;
        }
    };
    // More versions than there are slots.
    for version in 1..4 {
        router.instance(&format!("t@{version}"), listener.local_addr().unwrap());
        router.environment(&format!("e{version}"), None, &[&format!("t@{version}/")]);
        router.apply().await;
    }
    assert!(router.reloads() > 0);
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    server.write_all(answer.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(
        head.starts_with("http/1.1 101") && head.contains("connection: upgrade"),
        "{head}"
    );
}
