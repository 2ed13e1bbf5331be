//! What clients and proxies may say to a real HAProxy: forwarding headers, paths, doubled values, large
//! headers, and what its own answers say.

use mayfly_e2e::http::{Answer, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::support::Router;
use super::support::town::{Town, assert_plain, passed_on};

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

/// A client without a proxy in front of it cannot say where it is, in any spelling; a proxy can,
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
        "x-request-uri",
        "client-ip",
        "proxy-client-ip",
        "wl-proxy-client-ip",
        "fly-client-ip",
        "remote-addr",
        "remote-user",
        "remote-groups",
        "x-remote-user",
        "x-remote-extra-scopes",
        "ssl-client-verify",
        "x-ssl-client-s-dn",
        "cf-connecting-ipv6",
        "cf-visitor",
        "cf-access-jwt-assertion",
        "cloudfront-viewer-address",
        "x-envoy-external-address",
        "x-envoy-original-path",
        "x-arr-ssl",
        "x-azure-clientip",
        "x-appengine-user-email",
        "x-auth-request-user",
        "x-auth-request-email",
        "x-webauth-user",
        "x-authentik-username",
        "x-pomerium-jwt-assertion",
        "x-consumer-username",
        "x-authenticated-userid",
        "x-userinfo",
        "x-goog-authenticated-user-email",
        "x-goog-iap-jwt-assertion",
        "x-amzn-oidc-identity",
        "x-ms-client-principal",
        "x-ms-client-principal-name",
        "tailscale-user-login",
        "iv-user",
        "sm-user",
    ];
    let spelt = |name: &str, by: &str| name.replace('-', by);
    let innocent = [
        "x-original-filename",
        "x-realm",
        "x-client-version",
        "x-forwardedx",
        "via",
        "host-id",
        "authorization",
        "x-auth-token",
        "x-request-id",
        "x-amzn-trace-id",
        "x-client-id",
        "x-remote-control",
        "cf-turnstile",
        "proxy-connection-id",
    ];
    for (flags, proxy) in [(&[][..], false), (&["--behind-proxy"], true)] {
        let town = Town::with(flags).await;
        // As many lines as HAProxy takes.
        for some in family.chunks(25) {
            let mut request = Request::get("www-qa.example.com", "/").header("Proxy", "a-lie");
            for name in some {
                for by in ["-", "_", "."] {
                    request = request.header(&spelt(name, by), "a-lie");
                }
            }
            for name in innocent {
                request = request.header(name, "kept");
            }
            let echo = town.outside(request).await.echo().unwrap();
            for name in some {
                // Some have a single spelling.
                for by in ["_", "."].iter().filter(|_| name.contains('-')) {
                    assert_eq!(echo.header(&spelt(name, by)), "", "{name} by {by}, {flags:?}");
                }
                let own = echo.header(name);
                assert_eq!(own.contains("a-lie"), proxy, "{name}: {own}, {flags:?}");
            }
            for name in innocent {
                assert_eq!(echo.header(name), "kept", "{name}, {flags:?}");
            }
            // A service that is run by CGI would send its own calls there.
            assert_eq!(echo.header("proxy"), "", "{flags:?}");
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
        "/api/%25%32%65%25%32%65/secret",
        "/api/.%252%65/secret",
        "/api/%%32e%%32e/secret",
        "/api/%25%2532%2565./secret",
        "/api/%u002e%u002e/secret",
        "/api/%c0%ae%C0%AE/secret",
        "/api/..%25c0%25afsecret",
        "/api/%e0%80%ae./secret",
    ] {
        let answer = town.router.outside("www-prod.example.com", path).await;
        assert_plain(&answer, 400, &["`..`", path]);
    }
    // Of so many steps that PCRE gave up, and matched nothing.
    for path in [
        format!("/api/%{}x/../secret", "25".repeat(6_000)),
        format!("/api/%{}2f../secret", "25".repeat(6_000)),
    ] {
        let answer = town.router.outside("www-prod.example.com", &path).await;
        assert_eq!(answer.status, 400, "{answer:?}");
    }
    for path in [
        "/api/...",
        "/api/..a",
        "/api/a..",
        "/api/.",
        "/api/.well-known/x",
        "/api/x?a=/../b",
        "/api/%2e",
        "/api/100%25%20off",
        "/api/50%25%3Aoff",
        "/api/a%252Fb",
        "/api/100%%",
        "/api/%e3%81%82%C3%A9%e0%b8%81%f0%9f%98%80",
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
        // A sixth line is not read and may say anything.
        (
            &["h-qa", "h-qa", "h-qa", "h-qa", "h-qa", "h-prod"],
            "more than one value",
        ),
    ] {
        for answer in [
            town.inside(with("frontend.service", lines)).await,
            town.outside(with("www-prod.x", lines)).await,
        ] {
            assert_plain(
                &answer,
                400,
                &[
                    "x-mayfly or the baggage member mayfly has more than one value",
                    told,
                ],
            );
        }
    }
}

/// Between services, where `x-mayfly` is missing.
#[tokio::test]
async fn members_of_baggage_are_held_to_the_same_rule() {
    let town = Town::new().await;
    let with = |lines: &[&str]| {
        let request = Request::get("frontend.service", "/");
        lines
            .iter()
            .fold(request, |request, line| request.header("baggage", line))
    };
    for (lines, kept) in [
        (&["mayfly=h-qa"][..], ""),
        (&["mayfly=h-qa,mayfly=h-qa"], ""),
        (&["a=1, mayfly = h-qa;p ,b=2,MAYFLY=h-qa"], ",a=1,b=2"),
        (&["mayfly=h-qa", "a=mayfly=1", "mayfly=h-qa"], ",a=mayfly=1"),
        (&["mayfly=,mayfly=h-qa,,mayfly=h-qa,"], ""),
        (&["mayfly=%68-qa"], ""),
    ] {
        let answer = town.inside(with(lines)).await;
        assert_eq!(answer.backend().unwrap(), "frontend@2", "{lines:?}");
        let expected = ("h-qa".to_owned(), format!("mayfly=h-qa{kept}"));
        assert_eq!(passed_on(&answer), expected, "{lines:?}");
    }
    for (lines, told) in [
        (&["mayfly=h-qa,mayfly=h-prod"][..], "(h-qa,h-prod)"),
        (&["mayfly=h-prod", "a=1", "mayfly=h-qa;p"], "(h-prod,"),
        (&["mayfly=h-qa,mayfly=h-q"], "(h-qa,h-q)"),
        (&["mayfly=h-q,mayfly=h-qa"], "(h-q,h-qa)"),
        (&["mayfly=h-qa,mayfly=h-qa,mayfly=h-prod"], "h-prod)"),
    ] {
        let answer = town.inside(with(lines)).await;
        assert_plain(&answer, 400, &["has more than one value", told]);
    }
    // The header decides where it says anything.
    let both = with(&["mayfly=h-prod,mayfly=x"]).header("x-mayfly", "h-qa");
    assert_eq!(town.inside(both).await.backend().unwrap(), "frontend@2");
    // No text becomes a value by its length.
    let long = format!("mayfly=h-prod,{}mayfly=h-qa", "a,".repeat(5_000));
    assert_plain(
        &town.inside(with(&[&long])).await,
        400,
        &["has more than one value"],
    );
    let same = format!("mayfly=h-qa,{}a=1", "mayfly=h-qa,".repeat(900));
    assert_eq!(town.inside(with(&[&same])).await.backend().unwrap(), "frontend@2");
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

/// A cache between services keeps environments apart, and HAProxy's own answers are not cached.
#[tokio::test]
async fn answers_have_vary_and_error_answers_are_not_cached() {
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

/// A load balancer asks by address, and its requests keep no environment alive.
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
    assert_eq!(router.applier.uses().await.unwrap(), Some(Default::default()));
    assert_eq!(router.outside("www-a.x", "/.mayfly/healthy").await.status, 503);
    let town = Town::with(&["--edge-health-path", "/up"]).await;
    assert_eq!(town.router.outside("", "/up").await.status, 200);
    assert_eq!(town.router.outside("x", "/.mayfly/health").await.status, 404);
}

/// HAProxy's own expressions end at a NUL: what follows one was not compared.
#[tokio::test]
async fn a_value_behind_a_nul_is_another_one() {
    let town = Town::new().await;
    let mut client = TcpStream::connect(town.router.internal).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: backend.service\r\nx-mayfly: h-qa\r\nx-mayfly: \0h-dev\r\nconnection: close\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut heard = String::new();
    client.read_to_string(&mut heard).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 400 "), "{heard}");
}

/// Some clients keep connections ready, and take what comes unasked as the answer to their next request.
#[tokio::test]
async fn a_connection_that_has_sent_nothing_is_closed_without_a_word() {
    let place = tempfile::tempdir().unwrap();
    let template = crate::haproxy::render::TEMPLATE;
    let hasty = template.replacen("timeout http-request 10s", "timeout http-request 200ms", 1);
    let path = place.path().join("own.tera");
    std::fs::write(&path, &hasty).unwrap();
    let mut router = Router::new(&["--slots", "2", "--template", path.to_str().unwrap()]);
    router.run().await;
    for address in [router.edge, router.internal] {
        for (said, answer) in [("", ""), ("GET / HTTP/1.1\r\n", "HTTP/1.1 408 ")] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(said.as_bytes()).await.unwrap();
            let mut heard = String::new();
            client.read_to_string(&mut heard).await.unwrap();
            assert_eq!(heard.get(..answer.len()), Some(answer), "{said:?}: {heard:?}");
            assert_eq!(heard.is_empty(), answer.is_empty(), "{said:?}: {heard:?}");
        }
    }
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
