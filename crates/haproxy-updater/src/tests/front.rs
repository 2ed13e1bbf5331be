//! What stands before the edge, and what the edge says itself: balancers that speak the PROXY
//! protocol, heads as large as a limit, and errors as a sentence or a page.

use mayfly_e2e::http::{Answer, Request};
use mayfly_e2e::instance::Service;
use mayfly_e2e::mayfly::SOON;
use mayfly_e2e::port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::support::Router;
use super::support::town::{Town, assert_plain};

const HOST: &str = "www-qa.example.com";

async fn raw(to: std::net::SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect(to).await.unwrap();
    client.write_all(request.as_bytes()).await.unwrap();
    let mut heard = Vec::new();
    // A connection that is reset is at its end, too.
    let _ = within(client.read_to_end(&mut heard)).await;
    String::from_utf8_lossy(&heard).into_owned()
}

/// Fails rather than waits for ever.
async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(SOON, future).await.expect("it comes soon")
}

#[tokio::test]
async fn a_balancer_says_in_the_proxy_protocol_who_asks() {
    let behind = port::free();
    let binds = format!("{} accept-proxy", behind);
    let mut router = Router::new(&["--slots", "2", "--edge-bind", &binds]);
    let instance = Service::start("s", "1").await.unwrap();
    router.instance("s@1", instance.address());
    router.environment("a", None, &["s@1/"]);
    router.run().await;
    let request = "GET / HTTP/1.1\r\nhost: www-a.x\r\nconnection: close\r\n\r\n";
    let said = format!("PROXY TCP4 192.0.2.7 192.0.2.8 4711 8443\r\n{request}");
    let heard = raw(behind, &said).await;
    assert!(heard.starts_with("HTTP/1.1 200 "), "{heard}");
    for part in [
        r#""x-forwarded-for":["192.0.2.7"]"#,
        r#""x-forwarded-port":["8443"]"#,
    ] {
        assert!(heard.contains(part), "{part}: {heard}");
    }
    let heard = raw(behind, request).await;
    assert!(!heard.contains(" 200 "), "nobody speaks for himself: {heard}");
    // Elsewhere what looks like it is no HTTP.
    let heard = raw(router.edge, &said).await;
    assert!(!heard.contains(" 200 "), "{heard}");
}

#[tokio::test]
async fn an_edge_tells_the_port_and_believes_a_proxy() {
    let town = Town::new().await;
    let port = |answer: Answer| answer.echo().unwrap().header("x-forwarded-port");
    let own = town.router.edge.port().to_string();
    let lie = || Request::get(HOST, "/").header("x-forwarded-port", "1");
    assert_eq!(port(town.outside(lie()).await), own);
    let town = Town::with(&["--behind-proxy"]).await;
    let own = town.router.edge.port().to_string();
    assert_eq!(port(town.outside(lie()).await), "1");
    assert_eq!(port(town.outside(Request::get(HOST, "/")).await), own);
    let https = Request::get(HOST, "/").header("x-forwarded-proto", "https");
    assert_eq!(port(town.outside(https).await), "", "only that proxy knows");
}

#[tokio::test]
async fn heads_pass_up_to_the_limit_in_both_protocols() {
    for (flags, limit) in [(&[][..], 14_800), (&["--large-heads"], 32_768)] {
        let mut router = Router::new(&[&["--slots", "2"], flags].concat());
        // Most servers take fewer lines than HAProxy.
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        router.instance("s@1", instance(answer.to_owned()).await);
        router.environment("qa", None, &["s@1/"]);
        router.run().await;
        let edge = router.edge;
        let of = |bytes: usize| Request::get(HOST, "/").header("cookie", &"c".repeat(bytes));
        // The line of the request, and those that the client adds.
        let largest = of(limit - 100);
        assert_eq!(largest.send(edge).await.unwrap().status, 200, "{flags:?}");
        assert_eq!(largest.send_h2c(edge).await.unwrap().status, 200, "{flags:?}");
        let mut many = Request::get(HOST, "/");
        for number in 0..200 {
            many = many.header(&format!("x-{number}"), &"v".repeat(limit / 200 - 30));
        }
        assert_eq!(many.send(edge).await.unwrap().status, 200, "{flags:?}");
        assert_eq!(many.send_h2c(edge).await.unwrap().status, 200, "{flags:?}");
    }
}

/// HAProxy keeps 1 kB of a buffer for what is added, and a long host is added once more.
#[tokio::test]
async fn a_head_that_fits_without_what_is_added_is_refused_in_words() {
    let town = Town::new().await;
    let host = format!("www-qa.{}", "h".repeat(1_000));
    let mut told = 0;
    for bytes in (12_000..15_000).step_by(50) {
        let request = Request::get(&host, "/").header("cookie", &"c".repeat(bytes));
        let answer = request.send(town.router.edge).await.ok();
        if let Some(answer) = answer.filter(|answer| answer.status == 500) {
            assert_plain(&answer, 500, &["no room for the headers that Mayfly adds"]);
            told += 1;
        }
    }
    assert!(told > 0);
}

/// Answers every request with these bytes.
/// A server that gives everybody this answer.
pub(super) async fn instance(answer: String) -> std::net::SocketAddr {
    let listener = TcpListener::bind(port::free()).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    // Checks connect and say nothing.
                    if !stream.read_buf(&mut head).await.is_ok_and(|length| length > 0) {
                        return;
                    }
                }
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn a_browser_gets_a_page_and_an_instance_keeps_its_own() {
    let own = "HTTP/1.1 503 Own\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
    let answers = [own, "garbage\r\n\r\n"].map(str::to_owned);
    let long = format!("HTTP/1.1 200 OK\r\nx-long: {}\r\n\r\n", "a".repeat(20_000));
    let mut router = Router::new(&["--slots", "8", "--idle-timeout", "1s"]);
    let [own, garbage] = answers.map(instance);
    let slow = TcpListener::bind(port::free()).await.unwrap();
    for (backend, address) in [
        ("own@1", own.await),
        ("garbage@1", garbage.await),
        ("long@1", instance(long).await),
        ("slow@1", slow.local_addr().unwrap()),
    ] {
        router.instance(backend, address);
    }
    let services = [
        "own@1/",
        "garbage@1/garbage",
        "long@1/long",
        "slow@1/slow",
        "none@1/none",
    ];
    router.environment("a", None, &services);
    router.run().await;
    let ask = async |path: &str, accept: &str| {
        let request = Request::get("www-a.x", path).header("accept", accept);
        request.send(router.edge).await.unwrap()
    };
    let browser = "text/html,application/xhtml+xml,*/*;q=0.8";
    for (path, status, words) in [
        (
            "/garbage",
            502,
            "502: the instance of garbage@1 that was asked broke off",
        ),
        (
            "/long",
            502,
            "whose head has more than 14,800 bytes or 200 lines (environment a).",
        ),
        (
            "/slow",
            504,
            "504: the instance of slow@1 that was asked gave no answer in time",
        ),
        (
            "/none",
            503,
            "503: no instance of none@1 answers (environment a, service none",
        ),
    ] {
        assert_plain(&ask(path, "*/*").await, status, &[words]);
        let page = ask(path, browser).await;
        assert_eq!(
            (page.status, page.headers["content-type"].as_str()),
            (status, "text/html; charset=utf-8")
        );
        assert!(
            page.body.starts_with("<!doctype html>") && page.body.contains(words),
            "{page:?}"
        );
        assert_eq!(page.headers["cache-control"], "no-store");
    }
    for accept in ["*/*", browser] {
        let answer = ask("/", accept).await;
        assert_eq!((answer.status, answer.body.as_str()), (503, "{}"), "{accept}");
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    // What a client has sent stands in plain text only.
    let request = Request::get("<script>.x", "/").header("accept", browser);
    assert_plain(&request.send(router.edge).await.unwrap(), 404, &["<script>"]);
    drop(slow);
}

/// A head that is none is refused at once, in words of HAProxy's own.
#[tokio::test]
async fn a_body_that_is_no_http_is_told_of() {
    let listener = TcpListener::bind(port::free()).await.unwrap();
    let mut router = Router::new(&["--slots", "2"]);
    router.instance("s@1", listener.local_addr().unwrap());
    router.environment("a", None, &["s@1/"]);
    router.run().await;
    let mut client = TcpStream::connect(router.edge).await.unwrap();
    let request = "POST / HTTP/1.1\r\nhost: www-a.x\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    // Checks connect and say nothing.
    let _server = loop {
        let (mut stream, _) = within(listener.accept()).await.unwrap();
        let mut head = [0; 4096];
        if within(stream.read(&mut head))
            .await
            .is_ok_and(|length| length > 0)
        {
            break stream;
        }
    };
    client.write_all(b"xyz\r\n").await.unwrap();
    let mut heard = String::new();
    within(client.read_to_string(&mut heard)).await.unwrap();
    assert!(heard.starts_with("HTTP/1.1 400 "), "{heard}");
    let words = "400: the body of this request is not HTTP as HAProxy reads it.\n";
    assert!(heard.ends_with(words), "{heard}");
}
