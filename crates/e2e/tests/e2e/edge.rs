//! Traffic from outside: the environment comes from the host and from nothing else.

use mayfly_e2e::eventually;
use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::{Mayfly, SOON};

const PROD: &str = "
name: prod
prefix: www
services:
  - {name: frontend, version: 0.0.1, route: /}
";

const DEV: &str = "
name: dev
services:
  - {name: frontend, version: 0.0.2, route: /}
";

#[tokio::test]
async fn two_environments_answer_from_different_versions_at_the_same_time() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "0.0.1").await.unwrap();
    let _two = mayfly.instance("frontend", "0.0.2").await.unwrap();
    mayfly.save("prod.yaml", PROD);
    mayfly.answers("www.example.com", "frontend@0.0.1").await;
    mayfly.save("dev.yaml", DEV);
    mayfly.answers("www-dev.example.com", "frontend@0.0.2").await;
    for _ in 0..50 {
        let (www, dev) = tokio::join!(
            mayfly.get("www.example.com", "/"),
            mayfly.get("www-dev.example.com", "/")
        );
        assert_eq!(www.unwrap().backend().unwrap(), "frontend@0.0.1");
        assert_eq!(dev.unwrap().backend().unwrap(), "frontend@0.0.2");
    }
}

#[tokio::test]
async fn the_host_counts_in_any_case_and_with_a_port() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "0.0.1").await.unwrap();
    mayfly.save("prod.yaml", PROD);
    for host in [
        "www.example.com",
        "WWW.Example.COM",
        "www.example.com:8080",
        "www",
        "www.another.domain",
    ] {
        mayfly.answers(host, "frontend@0.0.1").await;
    }
}

#[tokio::test]
async fn both_headers_are_set() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "0.0.1").await.unwrap();
    mayfly.save("prod.yaml", &format!("{PROD}header: live.1\n"));
    mayfly.answers("www.example.com", "frontend@0.0.1").await;
    let echo = mayfly.get("www.example.com", "/").await.unwrap().echo().unwrap();
    assert_eq!(
        (echo.header("x-mayfly").as_str(), echo.header("baggage").as_str()),
        ("live.1", "mayfly=live.1")
    );
    assert_eq!(echo.header("host"), "www.example.com");
}

#[tokio::test]
async fn spoofed_headers_are_replaced() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "0.0.1").await.unwrap();
    let _two = mayfly.instance("frontend", "0.0.2").await.unwrap();
    mayfly.save("prod.yaml", PROD);
    mayfly.save("dev.yaml", DEV);
    mayfly.answers("www.example.com", "frontend@0.0.1").await;
    mayfly.answers("www-dev.example.com", "frontend@0.0.2").await;

    let www = || Request::get("www.example.com", "/");
    let mut attempts = vec![
        www().header("x-mayfly", "dev"),
        www().header("X-MAYFLY", "dev").header("x-mayfly", "qa"),
        www().header("x-mayfly", "").header("x-mayfly", "dev"),
    ];
    for baggage in [
        "mayfly=dev",
        "mayfly = dev",
        " mayfly=dev ,mayfly=qa",
        "mayfly=dev;ttl=3",
        "mayfly=dev,mayfly=dev,mayfly=dev",
        ",,mayfly=dev,",
        "mayfly",
        "mayfly=",
    ] {
        attempts.push(www().header("baggage", baggage));
        attempts.push(
            www()
                .header("x-mayfly", "dev")
                .header("baggage", "a=b")
                .header("baggage", baggage),
        );
    }
    for attempt in attempts {
        let echo = attempt.send(mayfly.edge).await.unwrap().echo().unwrap();
        assert_eq!(echo.version, "0.0.1", "{attempt:?}");
        assert_eq!(echo.headers["x-mayfly"], ["prod"], "{attempt:?}");
        let baggage = echo.header("baggage");
        let ours: Vec<&str> = baggage
            .split(',')
            .map(str::trim)
            .filter(|member| {
                member
                    .split(['=', ';'])
                    .next()
                    .is_some_and(|key| key.trim() == "mayfly")
            })
            .collect();
        assert_eq!(ours, ["mayfly=prod"], "{attempt:?} became {baggage}");
    }
}

#[tokio::test]
async fn what_else_is_in_baggage_passes_unharmed() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "0.0.1").await.unwrap();
    mayfly.save("prod.yaml", PROD);
    mayfly.answers("www.example.com", "frontend@0.0.1").await;
    for (sent, kept) in [
        ("user=7;secret;level=2", vec!["user=7;secret;level=2"]),
        ("user=7,mayfly=dev,session=a%20b", vec!["user=7", "session=a%20b"]),
        (
            "mayfly=dev;p=1,notmayfly=1,mayfly2=2,x-mayfly=3",
            vec!["notmayfly=1", "mayfly2=2", "x-mayfly=3"],
        ),
        ("a=mayfly=dev, b=2", vec!["a=mayfly=dev", "b=2"]),
    ] {
        let request = Request::get("www.example.com", "/").header("baggage", sent);
        let baggage = request
            .send(mayfly.edge)
            .await
            .unwrap()
            .echo()
            .unwrap()
            .header("baggage");
        let mut members: Vec<&str> = baggage
            .split(',')
            .map(str::trim)
            .filter(|m| !m.is_empty())
            .collect();
        members.retain(|member| *member != "mayfly=prod");
        assert_eq!(members, kept, "{sent} became {baggage}");
    }
}

#[tokio::test]
async fn an_unknown_host_is_told_by_name() {
    let mayfly = Mayfly::start().await.unwrap();
    let _one = mayfly.instance("frontend", "0.0.1").await.unwrap();
    mayfly.save("prod.yaml", PROD);
    mayfly.answers("www.example.com", "frontend@0.0.1").await;
    for host in [
        "www-nothing.example.com",
        "example.com",
        "wwww.example.com",
        "slot-1.example.com",
    ] {
        let answer = mayfly.get(host, "/").await.unwrap();
        assert_eq!(answer.status, 404, "{host}: {}", answer.body);
        assert!(answer.body.contains(host), "{host}: {}", answer.body);
        assert!(
            answer.headers["content-type"].starts_with("text/plain"),
            "{:?}",
            answer.headers
        );
    }
    // The header alone leads nowhere from outside.
    let spoof = Request::get("www-nothing.example.com", "/").header("x-mayfly", "prod");
    assert_eq!(spoof.send(mayfly.edge).await.unwrap().status, 404);
    // No host at all: HTTP/1.0 may leave it out.
    let none = Request::get("", "/").send(mayfly.edge).await.unwrap();
    assert!((400..500).contains(&none.status), "{none:?}");
}

#[tokio::test]
async fn what_a_client_sends_as_host_does_not_become_markup_or_a_header() {
    let mayfly = Mayfly::start().await.unwrap();
    for host in [
        "<script>alert(1)</script>.example.com",
        "a b",
        "\"quoted\"",
        "x{y}%[src]",
    ] {
        let Ok(answer) = mayfly.get(host, "/").await else {
            continue;
        };
        assert!((400..500).contains(&answer.status), "{host}: {answer:?}");
        let html = answer
            .headers
            .get("content-type")
            .is_some_and(|kind| kind.contains("html"));
        assert!(!(html && answer.body.contains("<script>")), "{host}: {answer:?}");
    }
}

#[tokio::test]
async fn the_longest_route_wins_on_whole_segments() {
    let mayfly = Mayfly::start().await.unwrap();
    let names = ["frontend", "api", "apinew", "files"];
    let mut instances = Vec::new();
    for name in names {
        instances.push(mayfly.instance(name, "1.0.0").await.unwrap());
    }
    mayfly.save(
        "shop.yaml",
        "
name: shop
services:
  - {name: frontend, version: 1.0.0, route: /}
  - {name: api, version: 1.0.0, route: /api/}
  - {name: apinew, version: 1.0.0, route: /api/v2}
  - {name: files, version: 1.0.0, routes: [/static, /images/public]}
",
    );
    for name in names {
        mayfly.calls("shop", name, &format!("{name}@1.0.0")).await;
    }
    mayfly.answers("www-shop.example.com", "frontend@1.0.0").await;
    for (path, service) in [
        ("/", "frontend"),
        ("/anything/else", "frontend"),
        ("/api", "api"),
        ("/api/", "api"),
        ("/api?x=/api/v2", "api"),
        ("/api/v1/users", "api"),
        ("/api/v2", "apinew"),
        ("/api/v2/", "apinew"),
        ("/api/v2/users?q=1", "apinew"),
        ("/api/v21", "api"),
        ("/apix", "frontend"),
        ("/api.html", "frontend"),
        ("/API", "frontend"),
        ("/static/a.css", "files"),
        ("/images/public/a.png", "files"),
        ("/images/private/a.png", "frontend"),
        ("/images", "frontend"),
    ] {
        let echo = mayfly
            .get("www-shop.example.com", path)
            .await
            .unwrap()
            .echo()
            .unwrap();
        assert_eq!(echo.service, service, "{path}");
        assert_eq!(echo.path, path);
    }
}

#[tokio::test]
async fn a_path_without_a_route_is_told() {
    let mayfly = Mayfly::start().await.unwrap();
    let _api = mayfly.instance("api", "1.0.0").await.unwrap();
    mayfly.save(
        "shop.yaml",
        "{name: shop, services: [{name: api, version: 1.0.0, route: /api}, other]}",
    );
    eventually(SOON, "the route answers", async || {
        mayfly
            .get("www-shop.example.com", "/api/x")
            .await
            .is_ok_and(|answer| answer.status == 200)
    })
    .await;
    for path in ["/", "/ap", "/apix", "/other"] {
        let answer = mayfly.get("www-shop.example.com", path).await.unwrap();
        assert_eq!(answer.status, 404, "{path}: {}", answer.body);
        assert!(
            answer.body.contains(path) && answer.body.contains("shop"),
            "{path}: {}",
            answer.body
        );
    }
}

#[tokio::test]
async fn a_service_behind_the_edge_without_an_instance_is_told() {
    let mayfly = Mayfly::start().await.unwrap();
    mayfly.save("dev.yaml", DEV);
    let answer = eventually(SOON, "the environment is known", async || {
        mayfly
            .get("www-dev.example.com", "/")
            .await
            .ok()
            .filter(|answer| answer.status != 404)
    })
    .await;
    assert_eq!(answer.status, 503, "{answer:?}");
    for part in ["dev", "frontend", "0.0.2"] {
        assert!(answer.body.contains(part), "{part} in {}", answer.body);
    }
    let _two = mayfly.instance("frontend", "0.0.2").await.unwrap();
    mayfly.answers("www-dev.example.com", "frontend@0.0.2").await;
}
