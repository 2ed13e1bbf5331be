//! What core decides for consumers of queues is what the internal side of a real HAProxy does: for
//! 10,000 generated calls the same version, or a refusal in the same words.

use std::net::SocketAddr;

use mayfly_core::explain::{Settings, ShareLinks};
use mayfly_e2e::instance::Service;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::support::Router;

/// Worlds of environments for each of two routers.
const WORLDS: usize = 10;
/// How many calls in each world.
const CALLS: usize = 500;

/// Sixty environments, which extend each other more often than may be.
fn an_environment(number: usize) -> impl Strategy<Value = Value> {
    let name = format!("e{number}");
    let service = ("[stu]", "[12]|9|latest|\\^1|\\^7|\\*")
        .prop_map(|(name, version)| json!({"name": name, "version": version}));
    let parent = prop_oneof![2 => Just(None), 3 => (0..60_usize).prop_map(|at| Some(format!("e{at}")))];
    (parent, proptest::collection::vec(service, 0..5)).prop_map(move |(extends, services)| {
        json!({"name": name, "extends": extends, "prefix": format!("www-{name}"), "header": format!("h.{name}"),
            "services": services})
    })
}

/// Values of environments, values that are nearly some, lists, and what nobody should send.
fn a_value() -> impl Strategy<Value = String> {
    let header = || (0..66_usize).prop_map(|at| format!("h.e{at}"));
    prop_oneof![
        12 => header(),
        1 => Just(String::new()),
        2 => (header(), "(,|, | ,|,,)", 1..4_usize)
            .prop_map(|(value, comma, times)| vec![value; times].join(&comma)),
        2 => (header(), "(,|, | , ,)", header()).prop_map(|(one, comma, other)| one + &comma + &other),
        1 => (header(), "(,|, |,,, )").prop_map(|(value, end)| value + &end),
        1 => header().prop_map(|value| value.to_uppercase()),
        1 => header().prop_map(|value| format!("{value}.")),
        1 => header().prop_map(|value| value.replacen('e', "%65", 1)),
        2 => "[a-z0-9.%\"'\\\\ ;=<>\\[\\](){}$&|/?#@!*+:~^`_-]{0,40}",
        1 => "[äßé€漢\u{202e}]{1,12}",
        1 => Just("h.e1".repeat(60)),
    ]
}

fn a_service() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[stu]", 1 => "[STUx]", 1 => "s\\.t|s-|-|s_|s\\.|[a-z]{63,64}"]
}

/// A connection on which one call follows the other.
struct Caller(BufReader<TcpStream>);

impl Caller {
    async fn connect(to: SocketAddr) -> Self {
        Self(BufReader::new(TcpStream::connect(to).await.unwrap()))
    }

    /// Who has answered, or the text of the refusal.
    async fn call(&mut self, service: &str, value: &str) -> String {
        let head = format!("GET / HTTP/1.1\r\nhost: {service}.service\r\nx-mayfly: {value}\r\n\r\n");
        self.0.get_mut().write_all(head.as_bytes()).await.unwrap();
        let (mut length, mut by, mut is_good) = (0, None, false);
        loop {
            let mut line = String::new();
            let read = self.0.read_line(&mut line).await.unwrap();
            assert!(read > 0, "the connection was closed after {service:?} {value:?}");
            let line = line.trim_end();
            is_good |= line.starts_with("HTTP/1.1 200");
            match line.split_once(": ") {
                _ if line.is_empty() => break,
                Some(("content-length", text)) => length = text.parse().unwrap(),
                Some(("x-mayfly-answered-by", text)) => by = Some(text.to_owned()),
                _ => {}
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).await.unwrap();
        match by.filter(|_| is_good) {
            Some(by) => by,
            None => String::from_utf8_lossy(&body).trim_end().to_owned(),
        }
    }
}

async fn agree(flags: &[&str], settings: &Settings) {
    let mut router = Router::new(&[&["--slots", "32", "--answered-by", "everywhere"], flags].concat());
    let mut instances = Vec::new();
    // Nothing runs of some versions: a version is decided all the same.
    for backend in ["s@1", "s@2", "t@1", "u@2", "u@latest"] {
        let (name, version) = backend.split_once('@').unwrap();
        let instance = Service::start(name, version).await.unwrap();
        router.instance(backend, instance.address());
        instances.push(instance);
    }
    router.run().await;
    let mut caller = Caller::connect(router.internal).await;
    let mut runner = TestRunner::deterministic();
    let (mut decided, mut inherited, mut refused) = (0, 0, 0);
    for _ in 0..WORLDS {
        for number in 0..60 {
            let environment = an_environment(number).new_tree(&mut runner).unwrap().current();
            router.put(&format!("environments/e{number}"), &environment);
        }
        router.apply().await;
        for _ in 0..CALLS {
            let service = a_service().new_tree(&mut runner).unwrap().current();
            let value = a_value().new_tree(&mut runner).unwrap().current();
            let found = caller.call(&service, &value).await;
            let expected = match router.index.decide(settings, &service, &value) {
                Ok(decision) => {
                    decided += 1;
                    let backend = format!("{}@{}", decision.service, decision.version);
                    let origin = decision
                        .inherited_from
                        .map_or("own".to_owned(), |origin| format!("inherited from {origin}"));
                    inherited += usize::from(origin != "own");
                    match found.starts_with("503: ") {
                        true => format!(
                            "503: no instance of {backend} answers (environment {}, service {}, version {}).",
                            decision.environment, decision.service, decision.version
                        ),
                        false => format!("{backend}; {origin}"),
                    }
                }
                Err(refusal) => {
                    refused += 1;
                    format!("{}: {}", refusal.status, refusal.text)
                }
            };
            assert_eq!(found, expected, "service {service:?}, value {value:?}");
        }
    }
    // Else the generator has become blind for one or the other.
    assert!(
        decided > 600 && inherited > 150 && refused > 1_000,
        "{decided} decided, {inherited} of them inherited, {refused} refused"
    );
}

#[tokio::test]
async fn what_is_decided_is_what_haproxy_does() {
    let settings = |default: Option<&str>| Settings {
        domain: "service".parse().unwrap(),
        default_environment: default.map(|name| name.parse().unwrap()),
        allow_header_at_edge: false,
        share_links: ShareLinks::Off,
        health_path: None,
        redirect_to_https: None,
    };
    agree(&[], &settings(None)).await;
    agree(&["--default-environment", "e1"], &settings(Some("e1"))).await;
}
