//! Traffic between services: the environment comes from the header or from baggage, the service from the host.

use mayfly_e2e::http::{Echo, Request};
use mayfly_e2e::mayfly::Mayfly;

const TWO: &str = "
- name: prod
  prefix: www
  services: [{name: backend, version: 0.0.1}]
- name: dev
  header: dev_header
  services: [{name: backend, version: 0.0.2}]
";

async fn two(arguments: &[&str]) -> (Mayfly, Vec<impl Sized>) {
    let mayfly = Mayfly::start_with(arguments).await.unwrap();
    let mut instances = Vec::new();
    for version in ["0.0.1", "0.0.2"] {
        instances.push(mayfly.instance("backend", version).await.unwrap());
    }
    mayfly.save("two.yaml", TWO);
    mayfly.calls("prod", "backend", "backend@0.0.1").await;
    mayfly.calls("dev_header", "backend", "backend@0.0.2").await;
    (mayfly, instances)
}

async fn call(mayfly: &Mayfly, headers: &[(&str, &str)]) -> Echo {
    let mut request = Request::get("backend.service", "/");
    for (name, value) in headers {
        request = request.header(name, value);
    }
    request.send(mayfly.internal).await.unwrap().echo().unwrap()
}

#[tokio::test]
async fn the_header_or_baggage_choose_and_each_repairs_the_other() {
    let (mayfly, _instances) = two(&[]).await;
    for headers in [
        &[("x-mayfly", "dev_header")][..],
        &[("X-Mayfly", "dev_header")],
        &[("baggage", "mayfly=dev_header")],
        &[("baggage", "user=7,mayfly=dev_header;ttl=3 , a=b")],
        &[("baggage", "user=7"), ("baggage", "mayfly=dev_header")],
        &[("baggage", "user=7 , mayfly = dev_header ;p")],
        // The header is the stronger one.
        &[("x-mayfly", "dev_header"), ("baggage", "mayfly=prod")],
    ] {
        let echo = call(&mayfly, headers).await;
        assert_eq!(echo.version, "0.0.2", "{headers:?}");
        assert_eq!(echo.headers["x-mayfly"], ["dev_header"], "{headers:?}");
        let baggage = echo.header("baggage");
        let members: Vec<&str> = baggage.split(',').map(str::trim).collect();
        let ours: Vec<_> = members
            .iter()
            .filter(|member| member.starts_with("mayfly"))
            .collect();
        assert_eq!(ours.len(), 1, "{headers:?} became {baggage}");
        let value = ours[0]
            .split([';', ' '])
            .filter(|part| !part.is_empty())
            .collect::<String>();
        assert!(
            value.starts_with("mayfly=dev_header"),
            "{headers:?} became {baggage}"
        );
        let others = headers
            .iter()
            .filter(|(name, value)| *name == "baggage" && value.contains("user=7"))
            .count();
        assert_eq!(
            members.iter().filter(|member| **member == "user=7").count(),
            others,
            "{baggage}"
        );
    }
}

#[tokio::test]
async fn a_missing_header_is_told() {
    let (mayfly, _instances) = two(&[]).await;
    for request in [
        Request::get("backend.service", "/"),
        Request::get("backend.service", "/").header("baggage", "user=7,mayfly2=dev_header"),
        Request::get("backend.service", "/").header("x-mayfly", ""),
    ] {
        let answer = request.send(mayfly.internal).await.unwrap();
        assert_eq!(answer.status, 400, "{request:?}: {}", answer.body);
        assert!(
            answer.body.contains("x-mayfly") && answer.body.contains("baggage"),
            "{}",
            answer.body
        );
        assert!(
            answer.headers["content-type"].starts_with("text/plain"),
            "{:?}",
            answer.headers
        );
    }
}

#[tokio::test]
async fn an_unknown_header_is_told_by_its_value() {
    let (mayfly, _instances) = two(&[]).await;
    // `dev` is the environment's name, not its header.
    for value in ["dev", "nothing"] {
        let answer = mayfly.call(value, "backend").await.unwrap();
        assert!((400..500).contains(&answer.status), "{value}: {answer:?}");
        assert!(answer.body.contains(value), "{value}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_default_environment_takes_requests_without_a_header() {
    let (mayfly, _instances) = two(&["--default-environment", "prod"]).await;
    let echo = call(&mayfly, &[]).await;
    assert_eq!(
        (echo.version.as_str(), echo.header("x-mayfly").as_str()),
        ("0.0.1", "prod")
    );
    assert_eq!(echo.header("baggage"), "mayfly=prod");
    assert_eq!(
        call(&mayfly, &[("x-mayfly", "dev_header")]).await.version,
        "0.0.2"
    );
    assert_eq!(
        call(&mayfly, &[("baggage", "mayfly=dev_header")]).await.version,
        "0.0.2"
    );
}

#[tokio::test]
async fn the_service_is_read_from_the_host_in_any_case_and_with_a_port() {
    let (mayfly, _instances) = two(&[]).await;
    for host in [
        "backend.service",
        "BackEnd.SERVICE",
        "backend.service:80",
        "backend.service:8080",
        "backend",
    ] {
        let request = Request::get(host, "/some/path?q=1").header("x-mayfly", "prod");
        let echo = request.send(mayfly.internal).await.unwrap().echo().unwrap();
        assert_eq!(
            (echo.version.as_str(), echo.path.as_str()),
            ("0.0.1", "/some/path?q=1"),
            "{host}"
        );
        assert_eq!(echo.header("host"), host);
    }
    for host in ["backend.example.com", "x.backend.service", "www.example.com"] {
        let answer = Request::get(host, "/")
            .header("x-mayfly", "prod")
            .send(mayfly.internal)
            .await
            .unwrap();
        assert!((400..500).contains(&answer.status), "{host}: {answer:?}");
        assert!(answer.body.contains(host), "{host}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_service_that_the_environment_lacks_is_told() {
    let (mayfly, _instances) = two(&[]).await;
    let answer = mayfly.call("dev_header", "payment").await.unwrap();
    assert_eq!(answer.status, 404, "{answer:?}");
    assert!(
        answer.body.contains("dev") && answer.body.contains("payment"),
        "{}",
        answer.body
    );
    assert!(
        answer.headers["content-type"].starts_with("text/plain"),
        "{:?}",
        answer.headers
    );
}

#[tokio::test]
async fn a_backend_without_a_live_instance_is_told() {
    let (mayfly, instances) = two(&[]).await;
    mayfly.save(
        "qa.yaml",
        "{name: qa, services: [{name: backend, version: 9.9.9}, latest-only]}",
    );
    let told = |answer: mayfly_e2e::http::Answer, parts: [&str; 3]| {
        answer.status == 503 && parts.iter().all(|part| answer.body.contains(part))
    };
    // A version that nobody ever registered.
    mayfly_e2e::eventually(mayfly_e2e::mayfly::SOON, "503 for qa", async || {
        told(
            mayfly.call("qa", "backend").await.unwrap(),
            ["qa", "backend", "9.9.9"],
        )
    })
    .await;
    let answer = mayfly.call("qa", "latest-only").await.unwrap();
    assert!(
        told(answer.clone(), ["qa", "latest-only", "latest"]),
        "{answer:?}"
    );
    // A version whose last instance went.
    drop(instances);
    mayfly
        .etcd
        .delete_all("/mayfly/backends/backend/0.0.2/")
        .await
        .unwrap();
    mayfly_e2e::eventually(mayfly_e2e::mayfly::SOON, "503 for dev", async || {
        told(
            mayfly.call("dev_header", "backend").await.unwrap(),
            ["dev", "backend", "0.0.2"],
        )
    })
    .await;
}

#[tokio::test]
async fn one_connection_serves_several_environments() {
    let (mayfly, _instances) = two(&[]).await;
    let stream = tokio::net::TcpStream::connect(mayfly.internal).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.unwrap();
    tokio::spawn(connection);
    for (environment, version) in [("prod", "0.0.1"), ("dev_header", "0.0.2"), ("prod", "0.0.1")].repeat(5) {
        sender.ready().await.expect("the connection is kept alive");
        let request = Request::get("backend.service", "/")
            .header("x-mayfly", environment)
            .build();
        let answer = mayfly_e2e::http::Answer::read(sender.send_request(request).await.unwrap())
            .await
            .unwrap();
        assert_eq!(answer.echo().unwrap().version, version);
    }
}
