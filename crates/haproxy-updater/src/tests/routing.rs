//! Every sentence of the routing design about the edge and the internal side, asked of a real HAProxy.

use mayfly_e2e::http::{Answer, Request, websocket};
use mayfly_e2e::instance::Service;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::support::Router;
use super::support::town::{Town, assert_plain, passed_on};

const ANSWERED_BY: &str = "x-mayfly-answered-by";

#[tokio::test]
async fn the_host_decides_the_environment_at_the_edge() {
    let town = Town::new().await;
    for (host, version, value) in [
        ("www-prod.example.com", "frontend@1", "h-prod"),
        ("www-qa.example.com", "frontend@2", "h-qa"),
        ("WWW-QA.Example.COM:8000", "frontend@2", "h-qa"),
        ("www-qa.example.com.", "frontend@2", "h-qa"),
        ("www-dev", "frontend@2", "h-dev"),
    ] {
        let answer = town.router.outside(host, "/").await;
        assert_eq!(answer.backend().unwrap(), version, "{host}");
        assert_eq!(
            passed_on(&answer),
            (value.to_owned(), format!("mayfly={value}")),
            "{host}"
        );
    }
}

/// What some services read as x-mayfly.
const SPELLINGS: [&str; 9] = [
    "x-mayfly", "x_mayfly", "X.Mayfly", "x~mayfly", "x!mayfly", "x-Mayfly", "x|mayfly", "x_MAYFLY",
    "x.mayfly",
];

#[tokio::test]
async fn what_claims_to_come_from_mayfly_is_replaced_at_the_edge() {
    let town = Town::new().await;
    for (sent, kept) in [
        (vec!["mayfly=h-prod"], ""),
        (vec!["a=1,mayfly=h-prod;p=1,b=2;q=3"], ",a=1,b=2;q=3"),
        (vec!["a=1", "mayfly=h-prod", "b=2;mayfly=3"], ",a=1,b=2;mayfly=3"),
        (vec![" MayFly \t= h-prod , c=3"], ",c=3"),
        (vec!["mayfly=x,mayfly=y,mayfly=z;p,d=4,mayfly=w"], ",d=4"),
        (
            vec!["%6dayf%4Cy=h-prod,%20mayfly=h-prod,+mayfly=h-prod,e=%2C"],
            ",e=%2C",
        ),
        (vec!["x=\"a, mayfly=h-prod\""], ",x=\"a"),
        (vec!["\"mayfly\"=h-prod,;mayfly=h-prod,mayfly,mayfly;p=1"], ""),
        (
            vec!["mayflyx=1,xmayfly=2,my-mayfly=3,mayfly-x=4,mayfly.y=5"],
            ",mayflyx=1,xmayfly=2,my-mayfly=3,mayfly-x=4,mayfly.y=5",
        ),
        (vec!["mayfly=a,bmayfly=1,,"], ",bmayfly=1"),
    ] {
        let mut request = Request::get("www-qa.example.com", "/");
        for name in SPELLINGS {
            request = request.header(name, "h-prod");
        }
        for line in &sent {
            request = request.header("baggage", line);
        }
        let answer = town.outside(request).await;
        assert_eq!(answer.backend().unwrap(), "frontend@2", "{sent:?}");
        assert_eq!(
            passed_on(&answer),
            ("h-qa".to_owned(), format!("mayfly=h-qa{kept}")),
            "{sent:?}"
        );
        for name in &SPELLINGS[1..] {
            assert_eq!(answer.echo().unwrap().header(name), "", "{name}");
        }
    }
    // Not UTF-8, and a blank when it is decoded as Latin-1.
    let raw =
        b"GET / HTTP/1.1\r\nHost: www-qa.x\r\nBaggage: \xa0mayfly=h-prod, a=1\r\nConnection: close\r\n\r\n";
    let mut stream = TcpStream::connect(town.router.edge).await.unwrap();
    stream.write_all(raw).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("\"baggage\":[\"mayfly=h-qa,a=1\"]"), "{answer}");
}

#[tokio::test]
async fn the_operator_may_allow_the_header_at_the_edge() {
    let town = Town::with(&["--allow-header-at-edge"]).await;
    let with = |value: &str| Request::get("www-prod.example.com", "/").header("x-mayfly", value);
    let answer = town.outside(with("h-qa")).await;
    assert_eq!(answer.backend().unwrap(), "frontend@2");
    assert_eq!(passed_on(&answer), ("h-qa".to_owned(), "mayfly=h-qa".to_owned()));
    assert_plain(&town.outside(with("nope")).await, 404, &["nope"]);
    assert_eq!(
        town.router
            .outside("www-prod.example.com", "/")
            .await
            .backend()
            .unwrap(),
        "frontend@1"
    );
    let answer = town
        .outside(Request::get("no.such.host", "/").header("x-mayfly", "h-qa"))
        .await;
    assert_eq!(answer.backend().unwrap(), "frontend@2");
    // The header only, not baggage.
    let answer = town
        .outside(Request::get("www-prod.x", "/").header("baggage", "mayfly=h-qa"))
        .await;
    assert_eq!(answer.backend().unwrap(), "frontend@1");
}

#[tokio::test]
async fn routes_are_the_longest_prefix_on_whole_segments_own_or_inherited() {
    let town = Town::new().await;
    for (path, prod, qa, dev) in [
        ("/", "frontend@1", "frontend@2", "frontend@2"),
        ("/api", "backend@1", "backend@2", "backend@2"),
        ("/api/", "backend@1", "backend@2", "backend@2"),
        ("/api/x?y=/api/v2", "backend@1", "backend@2", "backend@2"),
        ("/apix", "frontend@1", "frontend@2", "frontend@2"),
        ("/api/v2", "api2@1", "api2@1", "api2@1"),
        ("/api/v22", "backend@1", "backend@2", "backend@2"),
        ("/api/v2/dev", "api2@1", "api2@1", "only-dev@1"),
        ("/api/v2/dev/x", "api2@1", "api2@1", "only-dev@1"),
        // Parameters are no part of a segment's name, and reach the service all the same.
        ("/api;jsessionid=A", "backend@1", "backend@2", "backend@2"),
        ("/api;a=1;b/v2;c/x;d", "api2@1", "api2@1", "api2@1"),
        ("/apix;/api", "frontend@1", "frontend@2", "frontend@2"),
        ("/;x", "frontend@1", "frontend@2", "frontend@2"),
    ] {
        for (environment, backend) in [("prod", prod), ("qa", qa), ("dev", dev), ("leaf", dev)] {
            let answer = town
                .router
                .outside(&format!("www-{environment}.example.com"), path)
                .await;
            assert_eq!(answer.backend().unwrap(), backend, "{environment} {path}");
            assert_eq!(answer.echo().unwrap().path, path);
        }
    }
}

#[tokio::test]
async fn the_edge_says_what_is_wrong() {
    let mut router = Router::new(&["--slots", "2"]);
    router.environment("prod", None, &["backend@1/api"]);
    router.run().await;
    assert_plain(
        &router.outside("nope.example.com:80", "/").await,
        404,
        &["nope.example.com"],
    );
    assert_plain(
        &router.outside("www-prod.example.com", "/apix").await,
        404,
        &["prod", "/apix"],
    );
    assert_plain(
        &router.outside("www-prod.example.com", "/api").await,
        503,
        &["prod", "backend", "version 1"],
    );
    assert_plain(
        &Request::get("", "/").send(router.edge).await.unwrap(),
        404,
        &["no host"],
    );
    // And on after each: the connection stays.
    let mut stream = TcpStream::connect(router.edge).await.unwrap();
    for _ in 0..3 {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: nope\r\n\r\n")
            .await
            .unwrap();
        let mut buffer = [0; 2048];
        let length = stream.read(&mut buffer).await.unwrap();
        assert!(buffer[..length].starts_with(b"HTTP/1.1 404"));
    }
}

#[tokio::test]
async fn header_then_baggage_decides_inside() {
    let town = Town::new().await;
    for (headers, backend, value, members) in [
        (vec![("x-mayfly", "h-qa")], "frontend@2", "h-qa", ""),
        (
            vec![("X-Mayfly", "h-prod"), ("baggage", "mayfly=h-qa,a=b")],
            "frontend@1",
            "h-prod",
            ",a=b",
        ),
        (
            vec![("x-mayfly", ""), ("baggage", "mayfly=h-qa")],
            "frontend@2",
            "h-qa",
            "",
        ),
        (vec![("baggage", "mayfly=h-qa")], "frontend@2", "h-qa", ""),
        (
            vec![("baggage", "a=1, mayfly = h-qa ;p=1,b=2")],
            "frontend@2",
            "h-qa",
            ",a=1,b=2",
        ),
        (
            vec![("baggage", "a=1"), ("baggage", "MAYFLY=h%2Dqa;x")],
            "frontend@2",
            "h-qa",
            ",a=1",
        ),
        (
            vec![("x-mayfly", ""), ("x-mayfly", ""), ("baggage", "mayfly=h-qa")],
            "frontend@2",
            "h-qa",
            "",
        ),
    ] {
        let mut request = Request::get("frontend.service", "/any/path");
        for (name, text) in &headers {
            request = request.header(name, text);
        }
        let answer = town.inside(request).await;
        assert_eq!(answer.backend().unwrap(), backend, "{headers:?}");
        assert_eq!(
            passed_on(&answer),
            (value.to_owned(), format!("mayfly={value}{members}")),
            "{headers:?}"
        );
    }
}

#[tokio::test]
async fn a_value_with_odd_letters_is_encoded_in_baggage_and_decoded_from_it() {
    let mut router = Router::new(&["--slots", "2"]);
    let instance = Service::start("backend", "1").await.unwrap();
    router.instance("backend@1", instance.address());
    let record = serde_json::json!({"name": "odd", "prefix": "odd", "header": "50%|it's#1!",
        "services": [{"name": "backend", "version": "1", "routes": ["/"]}]});
    router.put("environments/odd", &record);
    router.run().await;
    let answer = router.outside("odd.example.com", "/").await;
    let (value, baggage) = passed_on(&answer);
    assert_eq!(value, "50%|it's#1!");
    assert!(baggage.starts_with("mayfly=50%25"), "{baggage}");
    for baggage in [baggage.as_str(), "mayfly=50%|it's#1!"] {
        let request = Request::get("backend.service", "/").header("baggage", baggage);
        let answer = request.send(router.internal).await.unwrap();
        assert_eq!(passed_on(&answer).0, "50%|it's#1!", "{baggage}");
    }
}

#[tokio::test]
async fn the_default_environment_takes_internal_requests_that_name_none() {
    let town = Town::with(&["--default-environment", "qa"]).await;
    let answer = town.inside(Request::get("frontend.service", "/")).await;
    assert_eq!(answer.backend().unwrap(), "frontend@2");
    assert_eq!(passed_on(&answer), ("h-qa".to_owned(), "mayfly=h-qa".to_owned()));
    assert_plain(
        &town.router.outside("nope.example.com", "/").await,
        404,
        &["nope"],
    );
    assert_plain(&town.router.inside("frontend", "nope").await, 404, &["nope"]);

    let town = Town::with(&["--default-environment", "gone"]).await;
    assert_plain(
        &town.inside(Request::get("frontend.service", "/")).await,
        404,
        &["gone", "x-mayfly"],
    );
}

#[tokio::test]
async fn the_internal_side_says_what_is_wrong() {
    let town = Town::new().await;
    let bare = |host: &str| Request::get(host, "/");
    assert_plain(
        &town.inside(bare("frontend.service")).await,
        400,
        &["x-mayfly", "baggage", "missing"],
    );
    let empty = bare("frontend.service").header("baggage", "mayfly=,a=1");
    assert_plain(&town.inside(empty).await, 400, &["missing"]);
    assert_plain(&town.router.inside("frontend", "nope").await, 404, &["nope"]);
    assert_plain(
        &town.router.inside("billing", "h-dev").await,
        404,
        &["dev", "billing"],
    );
    assert_plain(
        &town.router.inside("ghost", "h-dev").await,
        503,
        &["environment dev", "service ghost", "version 1"],
    );
    assert_plain(
        &town.router.inside("soon", "h-leaf").await,
        503,
        &["environment leaf", "service soon", "^3"],
    );
    for host in [
        "frontend.service.com",
        "a.frontend.service",
        "[::1]:80",
        "10.0.0.1",
    ] {
        let answer = town.inside(bare(host).header("x-mayfly", "h-qa")).await;
        assert_plain(&answer, 404, &["<service>.service"]);
    }
}

#[tokio::test]
async fn the_service_is_the_host_in_any_case_with_or_without_port() {
    let town = Town::new().await;
    for host in [
        "frontend",
        "FrontEnd:8080",
        "frontend.",
        "frontend.service",
        "FrontEnd.SERVICE:8080",
        "frontend.service.",
        "frontend.service.:80",
    ] {
        let answer = town
            .inside(Request::get(host, "/").header("x-mayfly", "h-qa"))
            .await;
        assert_eq!(answer.backend().unwrap(), "frontend@2", "{host}");
    }
    let mut router = Router::new(&["--slots", "2", "--domain", "mesh.example"]);
    let instance = Service::start("backend", "1").await.unwrap();
    router.instance("backend@1", instance.address());
    router.environment("prod", None, &["backend@1"]);
    router.run().await;
    let ask = |host: &str| Request::get(host, "/").header("x-mayfly", "h-prod");
    assert_eq!(
        ask("backend.mesh.example")
            .send(router.internal)
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "backend@1"
    );
    assert_eq!(
        ask("backend")
            .send(router.internal)
            .await
            .unwrap()
            .backend()
            .unwrap(),
        "backend@1"
    );
    for host in ["backend.service", "backend.meshxexample"] {
        assert_plain(
            &ask(host).send(router.internal).await.unwrap(),
            404,
            &["<service>.mesh.example"],
        );
    }
}

#[tokio::test]
async fn a_response_names_its_backend_inside_and_outside_only_if_allowed() {
    let town = Town::new().await;
    let answered_by = |answer: &Answer| answer.headers.get(ANSWERED_BY).cloned();
    for (service, header, who) in [
        ("frontend", "h-qa", "frontend@2; own"),
        ("frontend", "h-dev", "frontend@2; inherited from qa"),
        ("frontend", "h-leaf", "frontend@2; inherited from qa"),
        ("api2", "h-leaf", "api2@1; inherited from prod"),
        ("only-dev", "h-leaf", "only-dev@1; inherited from dev"),
    ] {
        assert_eq!(
            answered_by(&town.router.inside(service, header).await).as_deref(),
            Some(who)
        );
    }
    assert_eq!(answered_by(&town.router.outside("www-qa.x", "/").await), None);

    let town = Town::with(&["--answered-by", "everywhere"]).await;
    assert_eq!(
        answered_by(&town.router.outside("www-dev.x", "/").await).as_deref(),
        Some("frontend@2; inherited from qa")
    );
    let town = Town::with(&["--answered-by", "never"]).await;
    assert_eq!(answered_by(&town.router.inside("frontend", "h-qa").await), None);
}

#[tokio::test]
async fn a_service_cannot_forge_which_backend_answered() {
    let listener = TcpListener::bind(mayfly_e2e::port::free()).await.unwrap();
    let mut router = Router::new(&["--slots", "2"]);
    router.instance("liar@1", listener.local_addr().unwrap());
    router.environment("prod", None, &["liar@1/"]);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let answer = "HTTP/1.1 200 OK\r\nX-Mayfly-Answered-By: truth@9; own\r\nx-mayfly-answered-by: b\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    router.run().await;
    assert_eq!(
        router.outside("www-prod.x", "/").await.headers.get(ANSWERED_BY),
        None
    );
    assert_eq!(
        router.inside("liar", "h-prod").await.headers[ANSWERED_BY],
        "liar@1; own"
    );
}

#[tokio::test]
async fn websocket_h2c_and_grpc_pass_through_on_both_sides() {
    let mut router = Router::new(&["--slots", "4"]);
    let (plain, grpc) = (
        Service::start("plain", "1").await.unwrap(),
        Service::start("grpc", "1").await.unwrap(),
    );
    router.instance("plain@1", plain.address());
    router.instance_with("grpc@1", grpc.address(), serde_json::json!({"protocol": "h2c"}));
    router.environment("prod", None, &["plain@1/", "grpc@1/grpc"]);
    router.run().await;

    assert_eq!(
        websocket(router.edge, "www-prod.x", "/", "hello").await.unwrap(),
        "hello"
    );
    let inside = Request::get("grpc.service", "/").header("x-mayfly", "h-prod");
    for answer in [
        Request::get("www-prod.x", "/grpc")
            .send_h2c(router.edge)
            .await
            .unwrap(),
        Request::get("www-prod.x", "/grpc")
            .send(router.edge)
            .await
            .unwrap(),
        inside.send_h2c(router.internal).await.unwrap(),
        inside.send(router.internal).await.unwrap(),
    ] {
        assert_eq!(answer.echo().unwrap().protocol, "HTTP/2.0");
        assert_eq!(answer.backend().unwrap(), "grpc@1");
    }
    let call = Request::post("grpc.service", "/pkg.Service/Method", "12345").header("x-mayfly", "h-prod");
    let answer = call
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .send_h2c(router.internal)
        .await
        .unwrap();
    assert_eq!(answer.trailers["grpc-status"], "0");
    assert_eq!(answer.echo().unwrap().body_length, 5);
    // HTTP/2 from outside to an instance that speaks HTTP/1.1.
    let answer = Request::get("www-prod.x", "/")
        .send_h2c(router.edge)
        .await
        .unwrap();
    assert_eq!(answer.echo().unwrap().protocol, "HTTP/1.1");
}

#[tokio::test]
async fn connections_are_kept_alive_and_each_request_is_routed_by_itself() {
    let town = Town::new().await;
    let mut stream = TcpStream::connect(town.router.edge).await.unwrap();
    for (host, version) in [
        ("www-prod.x", "\"version\":\"1\""),
        ("www-qa.x", "\"version\":\"2\""),
        ("www-prod.x", "\"version\":\"1\""),
    ] {
        stream
            .write_all(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let mut answer = String::new();
        while !answer.ends_with('}') {
            let mut buffer = [0; 4096];
            let length = stream.read(&mut buffer).await.unwrap();
            assert!(length > 0, "closed after {answer}");
            answer.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.contains(version),
            "{host}: {answer}"
        );
    }
}
