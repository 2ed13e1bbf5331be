//! HTTP/1.1 keep-alive, WebSocket and HTTP/2 in clear text with gRPC pass through, on both sides.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use mayfly_e2e::http::{Answer, Request, websocket};
use mayfly_e2e::instance::Service;
use mayfly_e2e::mayfly::Mayfly;
use mayfly_e2e::process::Process;

const DEV: &str = "
name: dev
services:
  - {name: web, version: 1.0.0, route: /}
  - {name: grpc, version: 1.0.0, route: /pkg.Service}
";

/// `dev` with `web` by HTTP/1.1 and `grpc` by h2c.
async fn mayfly() -> (Mayfly, Vec<(Process, Service)>) {
    let mayfly = Mayfly::start().await.unwrap();
    let mut instances = Vec::new();
    for (service, arguments) in [("web", &[][..]), ("grpc", &["--protocol", "h2c"])] {
        let running = Service::start(service, "1.0.0").await.unwrap();
        let registrar = mayfly
            .register(service, "1.0.0", running.address(), arguments)
            .unwrap();
        instances.push((registrar, running));
    }
    mayfly.save("dev.yaml", DEV);
    mayfly.answers("www-dev.example.com", "web@1.0.0").await;
    mayfly.calls("dev", "grpc", "grpc@1.0.0").await;
    (mayfly, instances)
}

#[tokio::test]
async fn connections_are_kept_alive_on_both_sides_of_haproxy() {
    let (mayfly, _instances) = mayfly().await;
    for (to, host) in [
        (mayfly.edge, "www-dev.example.com"),
        (mayfly.internal, "web.service"),
    ] {
        let stream = tokio::net::TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        for _ in 0..20 {
            sender.ready().await.expect("the connection is kept alive");
            let request = Request::get(host, "/").header("x-mayfly", "dev").build();
            let answer = Answer::read(sender.send_request(request).await.unwrap())
                .await
                .unwrap();
            assert_eq!(answer.backend().unwrap(), "web@1.0.0");
        }
    }
}

#[tokio::test]
async fn websockets_pass_on_both_sides() {
    let (mayfly, _instances) = mayfly().await;
    let edge = websocket(
        mayfly.edge,
        "www-dev.example.com",
        "/socket",
        "hello from outside",
    )
    .await
    .unwrap();
    assert_eq!(edge, "hello from outside");
    // Inside, a browser's library may be able to set baggage or the header; the helper sets none, so the
    // default-less internal side must refuse rather than guess.
    let refused = websocket(mayfly.internal, "web.service", "/socket", "x")
        .await
        .unwrap_err();
    assert!(format!("{refused:#}").contains("400"), "{refused:#}");
}

#[tokio::test]
async fn websockets_pass_inside_with_a_default_environment() {
    let mayfly = Mayfly::start_with(&["--default-environment", "dev"])
        .await
        .unwrap();
    let _web = mayfly.instance("web", "1.0.0").await.unwrap();
    mayfly.save("dev.yaml", DEV);
    mayfly.calls("dev", "web", "web@1.0.0").await;
    let echo = websocket(mayfly.internal, "web.service", "/socket", "hello inside")
        .await
        .unwrap();
    assert_eq!(echo, "hello inside");
}

#[tokio::test]
async fn a_websocket_survives_changes_of_the_routing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (mayfly, _instances) = mayfly().await;
    let mut stream = tokio::net::TcpStream::connect(mayfly.edge).await.unwrap();
    let handshake = "GET /socket HTTP/1.1\r\nhost: www-dev.example.com\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                     sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(handshake.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(
        head.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&head)
    );
    for n in 0..5 {
        let version = format!("2.{n}.0");
        let _new = mayfly.instance("web", &version).await.unwrap();
        mayfly.save("dev.yaml", &DEV.replacen("1.0.0", &version, 1));
        mayfly
            .answers("www-dev.example.com", &format!("web@{version}"))
            .await;
        stream.write_all(&[0x81, 1, b'0' + n]).await.unwrap();
        let mut frame = [0; 3];
        tokio::time::timeout(Duration::from_secs(5), stream.read_exact(&mut frame))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(frame, [0x81, 1, b'0' + n]);
    }
}

#[tokio::test]
async fn grpc_passes_with_its_trailers() {
    let (mayfly, _instances) = mayfly().await;
    for (to, host) in [
        (mayfly.edge, "www-dev.example.com"),
        (mayfly.internal, "grpc.service"),
    ] {
        let request = Request::post(host, "/pkg.Service/Method", "\0\0\0\0\u{1}x")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-mayfly", "dev");
        let answer = request.send_h2c(to).await.unwrap();
        let echo = answer.echo().unwrap();
        assert_eq!(
            (answer.status, echo.service.as_str(), echo.protocol.as_str()),
            (200, "grpc", "HTTP/2.0"),
            "{host}"
        );
        assert_eq!(echo.path, "/pkg.Service/Method");
        assert_eq!((echo.header("x-mayfly").as_str(), echo.body_length), ("dev", 6));
        assert_eq!(
            answer.trailers.get("grpc-status").map(String::as_str),
            Some("0"),
            "{host}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn each_protocol_reaches_instances_of_the_other() {
    let (mayfly, _instances) = mayfly().await;
    let to_web = Request::get("web.service", "/").header("x-mayfly", "dev");
    let answer = to_web.send_h2c(mayfly.internal).await.unwrap().echo().unwrap();
    assert_eq!(
        (answer.service.as_str(), answer.protocol.as_str()),
        ("web", "HTTP/1.1")
    );
    let to_grpc = Request::get("grpc.service", "/").header("x-mayfly", "dev");
    let answer = to_grpc.send(mayfly.internal).await.unwrap().echo().unwrap();
    assert_eq!(
        (answer.service.as_str(), answer.protocol.as_str()),
        ("grpc", "HTTP/2.0")
    );
}

#[tokio::test]
async fn an_instance_that_changes_its_protocol_is_followed() {
    let (mayfly, mut instances) = mayfly().await;
    let (mut registrar, service) = instances.pop().unwrap();
    registrar.terminate(Duration::from_secs(30)).await.unwrap();
    let _registrar = mayfly
        .register("grpc", "1.0.0", service.address(), &["--protocol", "http"])
        .unwrap();
    let request = Request::get("grpc.service", "/").header("x-mayfly", "dev");
    mayfly_e2e::eventually(mayfly_e2e::mayfly::SOON, "HTTP/1.1 reaches it", async || {
        request
            .send(mayfly.internal)
            .await
            .unwrap()
            .echo()
            .is_ok_and(|echo| echo.protocol == "HTTP/1.1")
    })
    .await;
}

#[tokio::test]
async fn bodies_pass_whole() {
    let (mayfly, _instances) = mayfly().await;
    let body = "0123456789abcdef".repeat(64 * 1024);
    let request = Request::post("www-dev.example.com", "/upload", body.clone());
    let echo = request.send(mayfly.edge).await.unwrap().echo().unwrap();
    assert_eq!((echo.method.as_str(), echo.body_length), ("POST", body.len()));
}
