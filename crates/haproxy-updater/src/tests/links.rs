//! Links and their cookie with a real HAProxy: who is led where, what the browser is to keep, and what instances see.

use mayfly_e2e::http::{Answer, Request};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::support::town::{Town, assert_plain};

const HOST: &str = "www-prod.example.com";
const CLEARED: &str = "mayfly=; Max-Age=0; Path=/; HttpOnly; SameSite=Lax";

fn kept(name: &str) -> String {
    format!("mayfly={name}; Path=/; HttpOnly; SameSite=Lax")
}

async fn get(town: &Town, host: &str, path: &str, cookie: &str) -> Answer {
    let mut request = Request::get(host, path);
    if !cookie.is_empty() {
        request = request.header("cookie", cookie);
    }
    town.outside(request).await
}

/// Which backend answered, what it saw, and what the browser is to keep.
async fn led(town: &Town, host: &str, path: &str, cookie: &str) -> (String, String, String, String) {
    let answer = get(town, host, path, cookie).await;
    let echo = answer.echo().unwrap();
    let header = |name: &str| answer.headers.get(name).cloned().unwrap_or_default();
    let is_news = answer.headers.contains_key("set-cookie") || header("cache-control") == "no-store";
    assert_eq!(is_news, header("cache-control") == "no-store", "{answer:?}");
    (
        format!("{}@{} {}", echo.service, echo.version, echo.header("x-mayfly")),
        echo.path.clone(),
        echo.header("cookie"),
        header("set-cookie"),
    )
}

fn seen(backend: &str, path: &str, cookie: &str, keep: &str) -> (String, String, String, String) {
    (
        backend.to_owned(),
        path.to_owned(),
        cookie.to_owned(),
        keep.to_owned(),
    )
}

#[tokio::test]
async fn a_link_leads_and_its_cookie_keeps_it_on_any_host() {
    let town = Town::with(&["--share-links", "all"]).await;
    let (prod, qa) = ("frontend@1 h-prod", "frontend@2 h-qa");
    for (host, path, cookie, expected) in [
        (HOST, "/x?a=1", "b=2", seen(prod, "/x?a=1", "b=2", "")),
        (HOST, "/x?mayfly=qa", "", seen(qa, "/x", "", &kept("qa"))),
        (
            HOST,
            "/x?a=1&mayfly=qa&c",
            "b=2",
            seen(qa, "/x?a=1&c", "b=2", &kept("qa")),
        ),
        (HOST, "/x", "b=2; mayfly=qa; c=3", seen(qa, "/x", "b=2; c=3", "")),
        ("nobody.example.com", "/x", "mayfly=qa", seen(qa, "/x", "", "")),
        // A link goes before a cookie, a cookie before the host.
        (
            HOST,
            "/x?mayfly=qa",
            "mayfly=dev",
            seen(qa, "/x", "", &kept("qa")),
        ),
        ("www-dev.x", "/x", "mayfly=prod", seen(prod, "/x", "", "")),
        (
            "www-qa.x",
            "/x?mayfly=prod",
            "",
            seen(prod, "/x", "", &kept("prod")),
        ),
        // Without a value it ends.
        (
            HOST,
            "/x?mayfly=",
            "b=2; mayfly=qa",
            seen(prod, "/x", "b=2", CLEARED),
        ),
        (HOST, "/x?mayfly&a", "mayfly=qa", seen(prod, "/x?a", "", CLEARED)),
        // What names nothing is cleared.
        (HOST, "/x", "mayfly=gone", seen(prod, "/x", "", CLEARED)),
        (HOST, "/x", "mayfly=h-qa", seen(prod, "/x", "", CLEARED)),
        (HOST, "/x", "mayfly=", seen(prod, "/x", "", CLEARED)),
    ] {
        assert_eq!(
            led(&town, host, path, cookie).await,
            expected,
            "{host}{path} {cookie}"
        );
    }
}

#[tokio::test]
async fn every_spelling_of_a_link_counts_and_a_hostile_one_is_refused() {
    let town = Town::with(&["--share-links", "all"]).await;
    for (query, left) in [
        ("mayfly=qa&mayfly=qa", ""),
        ("mayfly=&mayfly=qa", ""),
        ("&mayfly=qa&", ""),
        ("%6dayfl%79=q%61", ""),
        (
            "a=mayfly&xmayfly=1&mayfly=qa&mayflyx=2&MAYFLY=3",
            "?a=mayfly&xmayfly=1&mayflyx=2&MAYFLY=3",
        ),
    ] {
        let expected = seen("frontend@2 h-qa", &format!("/x{left}"), "", &kept("qa"));
        assert_eq!(
            led(&town, HOST, &format!("/x?{query}"), "").await,
            expected,
            "{query}"
        );
    }
    let no_name = "404: the parameter mayfly of this link is not the name of an environment";
    for (value, status, words) in [
        (
            "nobody",
            404,
            "404: no environment has the name nobody; ask for the link again, or remove mayfly=nobody",
        ),
        ("h-qa", 404, "404: no environment has the name h-qa"),
        ("qa&mayfly=prod", 400, "names more than one environment"),
        ("qa,prod", 400, "names more than one environment"),
        ("QA", 404, no_name),
        ("qa%00", 404, no_name),
        ("qa%0a", 404, no_name),
        ("qa%0d%0aset-cookie:%20a=b", 404, no_name),
        ("%3Cscript%3E", 404, no_name),
        ("qa.service", 404, no_name),
        ("q%2561", 404, no_name),
        ("q%", 404, no_name),
    ] {
        for cookie in ["", "mayfly=qa"] {
            let answer = get(&town, HOST, &format!("/?mayfly={value}"), cookie).await;
            assert_plain(&answer, status, &[words]);
            assert_eq!(answer.headers["cache-control"], "no-store", "{value}");
            assert!(!answer.headers.contains_key("set-cookie"), "{value}: {answer:?}");
        }
    }
    let long = get(&town, HOST, &format!("/?mayfly={}", "q".repeat(4_000)), "").await;
    assert_eq!(long.status, 404);
}

/// A cookie leads to what it names, or nowhere; the instance never sees it, and always the others.
#[tokio::test]
async fn a_hostile_cookie_leads_nowhere() {
    let town = Town::with(&["--share-links", "all"]).await;
    let long = format!("mayfly={}; a=1", "q".repeat(4_000));
    let many = format!("{}a=1", "mayfly=qa; mayfly=dev; ".repeat(150));
    for cookie in [
        "mayfly=qa; a=1; mayfly=prod",
        "mayfly=qa,prod; a=1",
        "mayfly=\"qa\"; a=1",
        "mayfly=QA; a=1",
        "mayfly=q%61; a=1",
        "mayfly=qa ; a=1",
        "mayfly=qa.service; a=1",
        "a=1;mayfly=",
        "a=1 ;  mayfly  ",
        &long,
        &many,
    ] {
        let expected = seen("frontend@1 h-prod", "/", "a=1", CLEARED);
        assert_eq!(led(&town, HOST, "/", cookie).await, expected, "{cookie:.80}");
    }
    // In several lines, and with a NUL.
    for (lines, backend, cookie) in [
        (
            "cookie: a=1\r\ncookie: mayfly=qa\r\ncookie: b=2",
            "frontend",
            "a=1; b=2",
        ),
        ("cookie: mayfly=qa\0x; a=1", "frontend", ""),
    ] {
        let mut stream = TcpStream::connect(town.router.edge).await.unwrap();
        let request = format!("GET / HTTP/1.1\r\nhost: {HOST}\r\n{lines}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        // HAProxy 3.0 refuses a NUL in a header, which HAProxy 2.6 accepts.
        if lines.contains('\0') && answer.starts_with("HTTP/1.1 400 ") {
            continue;
        }
        assert!(
            answer.contains(backend) && !answer.contains("mayfly=qa"),
            "{answer}"
        );
        assert_eq!(
            answer.contains(&format!("[\"{cookie}\"]")),
            !cookie.is_empty(),
            "{answer}"
        );
        let version = if lines.contains('\0') { "\"1\"" } else { "\"2\"" };
        assert!(answer.contains(version), "{answer}");
    }
}

/// An instance never gets a request without a host, which a link would let pass.
#[tokio::test]
async fn a_request_without_a_host_follows_no_link() {
    let town = Town::with(&["--share-links", "all"]).await;
    for (path, cookie) in [("/?mayfly=qa", "a=1"), ("/", "mayfly=qa")] {
        let answer = get(&town, "", path, cookie).await;
        assert_plain(&answer, 404, &["names no host"]);
    }
}

#[tokio::test]
async fn links_leave_the_hosts_of_protected_environments_alone() {
    let mut town = Town::with(&["--share-links", "unprotected"]).await;
    let record = json!({"name": "prod", "prefix": "www-prod", "header": "h-prod", "protected": true, "services": [
        {"name": "frontend", "version": "1", "routes": ["/"]}]});
    town.router.put("environments/prod", &record);
    town.router.apply().await;
    let alone = seen("frontend@1 h-prod", "/x?mayfly=qa", "a=1; mayfly=qa", "");
    for host in [HOST, "WWW-Prod.x.:80"] {
        assert_eq!(
            led(&town, host, "/x?mayfly=qa", "a=1; mayfly=qa").await,
            alone,
            "{host}"
        );
    }
    let to_prod = seen("frontend@1 h-prod", "/", "", &kept("prod"));
    assert_eq!(led(&town, "www-qa.x", "/?mayfly=prod", "").await, to_prod);
    // A change is in force like any other.
    let mut open = record.clone();
    open["protected"] = json!(false);
    town.router.put("environments/prod", &open);
    town.router.apply().await;
    let led_away = seen("frontend@2 h-qa", "/x", "a=1", &kept("qa"));
    assert_eq!(led(&town, HOST, "/x?mayfly=qa", "a=1").await, led_away);
    assert_eq!(town.router.reloads(), 0);
    // Where links lead everywhere, they do so here.
    let mut town = Town::with(&["--share-links", "all"]).await;
    town.router.put("environments/prod", &record);
    town.router.apply().await;
    assert_eq!(led(&town, HOST, "/x?mayfly=qa", "a=1").await, led_away);
}

#[tokio::test]
async fn without_links_parameter_and_cookie_are_the_services_own() {
    let town = Town::new().await;
    let (path, cookie) = ("/x?mayfly=qa&a", "mayfly=qa; b=1");
    assert_eq!(
        led(&town, HOST, path, cookie).await,
        seen("frontend@1 h-prod", path, cookie, "")
    );
}

#[tokio::test]
async fn the_header_at_the_edge_goes_between_link_and_cookie() {
    let town = Town::with(&["--share-links", "all", "--allow-header-at-edge"]).await;
    let ask = async |path: &str, cookie: &str| {
        let request = Request::get("www-dev.x", path).header("x-mayfly", "h-prod");
        town.outside(request.header("cookie", cookie)).await
    };
    let backend = |answer: &Answer| answer.echo().unwrap().header("x-mayfly");
    assert_eq!(backend(&ask("/?mayfly=qa", "a=1").await), "h-qa");
    assert_eq!(backend(&ask("/?mayfly=", "mayfly=qa").await), "h-prod");
    let by_header = ask("/", "mayfly=qa").await;
    assert_eq!(backend(&by_header), "h-prod");
    assert!(!by_header.headers.contains_key("set-cookie"), "{by_header:?}");
    assert_plain(
        &ask("/?mayfly=nobody", "a=1").await,
        404,
        &["no environment has the name nobody"],
    );
}

#[tokio::test]
async fn behind_a_proxy_with_tls_the_cookie_is_secure() {
    for (flags, proto, secure) in [
        (&["--share-links", "all", "--behind-proxy"][..], "https", true),
        (&["--share-links", "all", "--behind-proxy"], "http, https", true),
        (&["--share-links", "all", "--behind-proxy"], "https, http", false),
        (&["--share-links", "all", "--behind-proxy"], "http", false),
        // Nobody stands before this one.
        (&["--share-links", "all"], "https", false),
    ] {
        let town = Town::with(flags).await;
        let request = Request::get(HOST, "/?mayfly=qa").header("x-forwarded-proto", proto);
        let answer = town.outside(request).await;
        let (more, expected) = (if secure { "; Secure" } else { "" }, kept("qa"));
        let expected = expected.replacen("qa;", &format!("qa{more};"), 1);
        assert_eq!(answer.headers["set-cookie"], expected, "{flags:?} {proto}");
    }
}

/// Where a service says what is to be kept, only its own cookies are.
#[tokio::test]
async fn a_service_keeps_nobody_in_an_environment_and_nothing_in_a_cache() {
    let mut town = Town::with(&["--share-links", "all"]).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    town.router.instance("chatty@1", listener.local_addr().unwrap());
    town.router.environment("chatty", None, &["chatty@1/"]);
    town.router.apply().await;
    let server = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 4_096];
                if stream.read(&mut head).await.is_ok_and(|length| length > 0) {
                    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nset-cookie: mayfly=chatty; Domain=x\r\n\
                        set-cookie: mayfly; Path=/\r\nset-cookie: =mayfly=chatty\r\nset-cookie: = mayfly =chatty\r\n\
                        set-cookie: mayflyer=1\r\n\
                        set-cookie: own=1\r\ncache-control: public, max-age=60\r\nexpires: later\r\nSurrogate-Control: max-age=60\r\n\
                        CDN-Cache-Control: max-age=60\r\nsome-cdn-cache-control: max-age=60\r\netag: a\r\nconnection: close\r\n\r\n";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                }
            });
        }
    });
    let plain = get(&town, "www-chatty.x", "/", "").await;
    assert_eq!(plain.headers["set-cookie"], ", , , , mayflyer=1, own=1");
    assert_eq!(plain.headers["cache-control"], "public, max-age=60");
    assert!(plain.headers.contains_key("surrogate-control"), "{plain:?}");
    let shared = get(&town, HOST, "/", "mayfly=chatty").await;
    assert_eq!(shared.headers["cache-control"], "no-store");
    for name in [
        "expires",
        "surrogate-control",
        "cdn-cache-control",
        "some-cdn-cache-control",
    ] {
        assert!(!shared.headers.contains_key(name), "{shared:?}");
    }
    assert!(shared.headers.contains_key("etag"), "{shared:?}");
    server.abort();
}
