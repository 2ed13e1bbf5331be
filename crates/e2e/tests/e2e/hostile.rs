//! Requests from hostile clients at both listeners of a real HAProxy: whatever they look like, an instance that answers is one
//! of the environment that the request is entitled to, has seen the headers of that environment and no others, and no answer
//! of HAProxy's own reflects what was sent so that a browser could take it for markup.
//!
//! `MAYFLY_HOSTILE_REQUESTS` says how many requests (2,000), `MAYFLY_HOSTILE_SEED` which ones; a failure says the seed.

mod generate;
mod h2;
mod oracle;
mod parrot;
mod parts;
mod wire;

use std::net::SocketAddr;
use std::time::Instant;

use mayfly_e2e::http::Request;
use mayfly_e2e::mayfly::Mayfly;
use mayfly_e2e::process::Process;
use mayfly_e2e::tls::{Authority, TlsClient};
use mayfly_e2e::{eventually, mayfly::SOON, port};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;

use generate::{Conversation, conversation, streams};
use oracle::{ALL, FILES, Side, judge, members};
use parrot::Parrot;
use parts::Dice;
use wire::{Answer, exchange, exchange_over, text};

/// Conversations that go on at the same time, two of each way.
const TASKS: u64 = 2 * WAYS.len() as u64;
/// So many requests has a conversation at least.
const REQUESTS_EACH: u64 = 3;

/// Environments that extend each other, some of which are not open to all, and instances that trust everybody.
async fn hostile_world(arguments: &[&str]) -> (Mayfly, Vec<(Process, Parrot)>) {
    let mayfly = Mayfly::start_with(arguments).await.unwrap();
    let mut instances = Vec::new();
    for backend in [
        "frontend@0.0.1",
        "frontend@0.0.2",
        "api@0.0.1",
        "backend@0.0.1",
        "backend@0.0.2",
        "secret@0.0.2",
        "frontend@0.0.3",
        "backend@0.0.3",
        "frontend@0.0.4",
        "frontend@0.0.5",
    ] {
        let parrot = Parrot::start(backend).await.unwrap();
        let (service, version) = backend.split_once('@').unwrap();
        let registrar = mayfly.register(service, version, parrot.address, &[]).unwrap();
        instances.push((registrar, parrot));
    }
    mayfly.save("all.yaml", FILES);
    for environment in ALL {
        for (service, _) in environment.versions {
            let what = format!("{service} answers in {}", environment.prefix);
            let request = format!(
                "GET / HTTP/1.1\r\nhost: {service}.service\r\nx-mayfly: {}\r\n\r\n",
                environment.header
            );
            eventually(SOON, &what, async || {
                let answers = exchange(mayfly.internal, request.as_bytes()).await.ok()?;
                let answered =
                    answers.first()?.header("x-instance") == environment.backend(service).as_deref();
                answered.then_some(())
            })
            .await;
        }
    }
    (mayfly, instances)
}

fn number(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().expect(variable),
        Err(_) => default,
    }
}

/// Answers of instances and of HAProxy itself.
#[derive(Debug, Default, Clone, Copy)]
struct Count {
    conversations: u64,
    requests: usize,
    answered: usize,
    refused: usize,
}

/// How requests come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// HTTP/1.1 in clear text.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls,
    /// HTTP/2, over TLS at the edge and in clear text inside.
    H2,
}

const WAYS: [(Side, Way); 5] = [
    (Side::Edge, Way::Plain),
    (Side::Internal, Way::Plain),
    (Side::Edge, Way::Tls),
    (Side::Edge, Way::H2),
    (Side::Internal, Way::H2),
];

/// The listeners.
#[derive(Debug, Clone)]
struct Listeners {
    edge: SocketAddr,
    internal: SocketAddr,
    tls: SocketAddr,
    client: TlsClient,
}

impl Listeners {
    fn plain(&self, side: Side) -> SocketAddr {
        match side {
            Side::Edge => self.edge,
            Side::Internal => self.internal,
        }
    }

    async fn tls(&self, protocol: &str) -> TlsStream<TcpStream> {
        let connected = self.client.connect(self.tls, "www.example.com", protocol).await;
        connected.expect("a connection by TLS")
    }
}

/// Holds conversations until there were enough requests.
async fn converse(side: Side, way: Way, to: Listeners, seed: u64, conversations: u64) -> Count {
    let mut count = Count::default();
    for number in 0..conversations {
        // Each by a seed of its own, so that one alone can be held again.
        let own = seed.wrapping_add(number);
        let mut dice = Dice::new(own);
        match way {
            Way::H2 => hold_h2(side, &to, own, &mut dice, &mut count).await,
            _ => {
                let conversation = conversation(&mut dice, side);
                hold(side, way, &to, own, &conversation, &mut count).await;
            }
        }
    }
    count
}

async fn hold_h2(side: Side, to: &Listeners, seed: u64, dice: &mut Dice, count: &mut Count) {
    let (requests, allowed) = streams(dice, side);
    let what = || format!("seed {seed}, {side:?} by HTTP/2: {requests:?}");
    let answers = match side {
        Side::Edge => h2::exchange(to.tls("h2").await, &requests).await,
        Side::Internal => h2::exchange(TcpStream::connect(to.internal).await.unwrap(), &requests).await,
    };
    let answers = answers.unwrap_or_else(|error| panic!("{error:#}\n{}", what()));
    count.conversations += 1;
    count.requests += requests.len();
    // A stream that is reset is refused, too.
    count.refused += requests.len() - answers.len();
    for (number, answer) in &answers {
        match judge(side, answer, |case| allowed.get(case).cloned()) {
            Ok(Some(case)) if case == *number => count.answered += 1,
            Ok(Some(case)) => panic!("stream {number} got the answer to {case}\n{}", what()),
            Ok(None) => count.refused += 1,
            Err(fault) => panic!("{fault}\n{}\n{:?}", what(), shown(answer)),
        }
    }
    let demanded = allowed[0].demanded.as_deref();
    let backend = answers.get(&0).and_then(|answer| answer.header("x-instance"));
    // The connection may have ended before, by what came after it.
    assert!(
        backend.is_none() || backend == demanded,
        "the good request at the beginning\n{}\n{answers:?}",
        what()
    );
}

async fn hold(
    side: Side,
    way: Way,
    to: &Listeners,
    seed: u64,
    conversation: &Conversation,
    count: &mut Count,
) {
    let what = || format!("seed {seed}, {side:?} {way:?}: {:?}", text(&conversation.octets));
    let start = Instant::now();
    let answers = match way {
        Way::Tls => exchange_over(to.tls("http/1.1").await, &conversation.octets).await,
        _ => exchange(to.plain(side), &conversation.octets).await,
    };
    let answers = match answers {
        Ok(answers) => answers,
        Err(error) => panic!("{error:#}\n{}", what()),
    };
    assert!(
        start.elapsed().as_secs() < 12,
        "it took {:?}\n{}",
        start.elapsed(),
        what()
    );
    count.conversations += 1;
    count.requests += conversation.allowed.len();
    let mut first = None;
    for (at, answer) in answers.iter().enumerate() {
        match judge(side, answer, |case| conversation.allowed.get(case).cloned()) {
            Ok(case) => {
                count.answered += usize::from(case.is_some());
                count.refused += usize::from(case.is_none());
                if at == 0 {
                    first = Some(case);
                }
            }
            Err(fault) => panic!("{fault}\n{}\n{:?}", what(), shown(answer)),
        }
    }
    // The first request is flawless, and nothing came before it.
    let demanded = conversation.allowed[0].demanded.is_some().then_some(0);
    assert_eq!(
        first,
        Some(demanded),
        "the good request at the beginning\n{}\n{answers:?}",
        what()
    );
}

fn shown(answer: &Answer) -> String {
    format!("{} {:?}\n{}", answer.status, answer.headers, text(&answer.body))
}

#[tokio::test]
async fn no_request_reaches_an_environment_that_it_is_not_entitled_to() {
    let place = tempfile::tempdir().unwrap();
    let authority = Authority::new(place.path(), "authority").await.unwrap();
    let certificate = authority.certify("*.example.com").await.unwrap();
    let certificates = place.path().join("certificates");
    std::fs::create_dir(&certificates).unwrap();
    std::fs::copy(certificate, certificates.join("a.pem")).unwrap();
    let tls = port::free();
    let (bind, certificates) = (tls.to_string(), certificates.to_str().unwrap());
    let arguments = [
        "--edge-tls-bind",
        &bind,
        "--edge-certificates",
        certificates,
        "--share-links",
        "unprotected",
        "--tracestate",
        "--traceparent",
        "50%",
    ];
    let (mut mayfly, _instances) = hostile_world(&arguments).await;
    let listeners = Listeners {
        edge: mayfly.edge,
        internal: mayfly.internal,
        tls,
        client: authority.client().unwrap(),
    };
    let before = mayfly.haproxy.info().await.unwrap()["Pid"].clone();
    let requests = number("MAYFLY_HOSTILE_REQUESTS", 2_000);
    let seed = number("MAYFLY_HOSTILE_SEED", 1);
    let each = requests / (TASKS * REQUESTS_EACH) + 1;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (side, way) = WAYS[usize::try_from(task).unwrap() % WAYS.len()];
        let to = listeners.clone();
        // Far apart, so that no two tasks hold the same conversation.
        let seed = seed.wrapping_mul(1 << 32).wrapping_add(task * each);
        tasks.spawn(async move { (side, way, converse(side, way, to, seed, each).await) });
    }
    let mut total = Count::default();
    while let Some(done) = tasks.join_next().await {
        let (side, way, count) = match done {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        // Else the generator has become blind for one or the other.
        let least = count.requests / 10;
        assert!(
            count.answered > least && count.refused > least,
            "{side:?} {way:?} {count:?}"
        );
        total.conversations += count.conversations;
        total.requests += count.requests;
        total.answered += count.answered;
        total.refused += count.refused;
    }
    println!("seed {seed}: {total:?} in {:?}", start.elapsed());
    assert_eq!(
        mayfly.haproxy.info().await.unwrap()["Pid"],
        before,
        "it is the same process"
    );
    assert!(mayfly.haproxy.is_running());
    assert_eq!(mayfly.reloads().await.unwrap(), 0);
    let request = b"GET / HTTP/1.1\r\nhost: www.x\r\n\r\nGET / HTTP/1.1\r\nhost: www-heir.x\r\n\r\n";
    let answers = exchange(mayfly.edge, request).await.unwrap();
    let backends: Vec<_> = answers.iter().map(|answer| answer.header("x-instance")).collect();
    assert_eq!(backends, [Some("frontend@0.0.1"), Some("frontend@0.0.2")]);
}

/// What the instance saw that answered the first request, and which one it was.
async fn seen(to: SocketAddr, request: &str) -> (String, String) {
    let answers = exchange(to, request.as_bytes()).await.unwrap();
    let answer = answers.first().expect("an answer");
    (
        answer.header("x-instance").unwrap_or_default().to_owned(),
        text(&answer.body),
    )
}

/// PCRE's stack holds some thousand steps of an expression that may have to go back; one that needs more matches nothing.
#[tokio::test]
async fn baggage_that_is_made_to_exhaust_an_expression_loses_its_member_all_the_same() {
    let (mayfly, _instances) = hostile_world(&[]).await;
    for (unit, times) in [
        (" ", 14_000),
        ("%20", 4_000),
        ("%e2%80%83", 1_000),
        ("+", 12_000),
        ("@", 12_000),
        ("mayfly=H.heir,", 900),
        (",", 12_000),
    ] {
        for baggage in [
            format!("a=1,{}mayfly=H.heir", unit.repeat(times)),
            format!("{}mayfly{0}=H.heir,b=2", unit.repeat(times / 2)),
        ] {
            let request = format!("GET / HTTP/1.1\r\nhost: www.x\r\nbaggage: {baggage}\r\n\r\n");
            let (backend, head) = seen(mayfly.edge, &request).await;
            assert_eq!(backend, "frontend@0.0.1", "{unit}");
            let line = head
                .lines()
                .find_map(|line| line.strip_prefix("baggage: "))
                .unwrap();
            assert_eq!(members(line), ["base"], "{unit}: {line:.100}");
        }
    }
}

/// In a tunnel a client talks to the instance itself, and gives it whatever headers it likes.
#[tokio::test]
async fn no_tunnel_leads_past_the_rules() {
    let (mayfly, _instances) = hostile_world(&[]).await;
    let inner = "GET / HTTP/1.1\r\nx-mayfly: H.heir\r\nx-tunnel: yes\r\n\r\n";
    for (to, host) in [(mayfly.edge, "www.x"), (mayfly.internal, "frontend.service")] {
        let name = host;
        let host = format!("host: {name}\r\nx-mayfly: base\r\n");
        for upgrade in [
            "h2c",
            "H2C",
            "foo",
            "websocket, h2c",
            "h2c, websocket",
            "websocket\r\nupgrade: h2c",
            "h2c\r\nupgrade: websocket",
        ] {
            for connection in [
                "connection: upgrade, http2-settings\r\n",
                "connection: upgrade\r\nconnection: http2-settings\r\n",
                "",
            ] {
                let outer = format!(
                    "GET / HTTP/1.1\r\n{host}{connection}upgrade: {upgrade}\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n"
                );
                let answers = exchange(to, format!("{outer}{inner}").as_bytes()).await.unwrap();
                assert_ne!(answers[0].status, 101, "{upgrade} {connection}");
                assert!(
                    !answers
                        .iter()
                        .any(|answer| text(&answer.body).contains("x-tunnel")),
                    "{upgrade} {connection}: {answers:?}"
                );
            }
        }
        let outer = format!("CONNECT {name}:80 HTTP/1.1\r\n{host}\r\n");
        let answers = exchange(to, format!("{outer}{inner}").as_bytes()).await.unwrap();
        assert_eq!(answers[0].status, 405, "{answers:?}");
        assert!(
            answers.iter().all(|answer| answer.header("x-instance").is_none()),
            "{answers:?}"
        );
    }
}

/// A proxy takes away what `Connection` lists: without x-mayfly and baggage a request would be one of the default environment.
#[tokio::test]
async fn no_client_has_the_headers_taken_away_on_the_way() {
    let (mayfly, _instances) = hostile_world(&[]).await;
    for connection in [
        "x-mayfly, baggage",
        "keep-alive, X-Mayfly",
        "BAGGAGE",
        "a\r\nconnection: x-mayfly",
        "x-mayfly\r\nupgrade: h2c",
    ] {
        let request = format!("GET / HTTP/1.1\r\nhost: www-heir.x\r\nconnection: {connection}\r\n\r\n");
        let (backend, head) = seen(mayfly.edge, &request).await;
        assert_eq!(backend, "frontend@0.0.2");
        assert!(
            head.contains("\r\nx-mayfly: H.heir\r\n") && !head.contains("connection:"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_name_is_the_whole_text() {
    let (mayfly, _instances) = hostile_world(&[]).await;
    for host in [
        "www-heir\0",
        "www-heir\0.x",
        "www\0-heir.x",
        "nobody.x,www-heir",
        "nobody.x, www-heir.x",
        "www,www-heir",
    ] {
        let (backend, _) = seen(mayfly.edge, &format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(backend, "", "{host:?}");
    }
    for (host, header) in [
        ("frontend.service", "x-mayfly: H.heir\0"),
        ("frontend.service", "x-mayfly: H.heir\0x"),
        ("frontend.service", "x-mayfly: base,H.heir"),
        ("frontend.service", "baggage: mayfly=H.heir%00x"),
        ("frontend\0.service", "x-mayfly: base"),
        ("frontend.service\0", "x-mayfly: base"),
        ("nobody.x,frontend.service", "x-mayfly: base"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\n{header}\r\n\r\n");
        let (backend, head) = seen(mayfly.internal, &request).await;
        assert_eq!(backend, "", "{host:?} {header:?} {head}");
    }
    // The header at the edge is held to the same.
    let (mayfly, _instances) = hostile_world(&["--allow-header-at-edge"]).await;
    for (value, expected) in [
        ("H.heir", "frontend@0.0.2"),
        ("H.heir\0x", ""),
        ("base,H.heir", ""),
    ] {
        let request = format!("GET / HTTP/1.1\r\nhost: nobody.x\r\nx-mayfly: {value}\r\n\r\n");
        assert_eq!(seen(mayfly.edge, &request).await.0, expected, "{value:?}");
    }
}

/// By HTTP/2 the host is `:authority`, whatever Host says beside it.
#[tokio::test]
async fn by_http_2_the_authority_decides_and_the_headers_from_outside_do_not() {
    let (mayfly, _instances) = hostile_world(&[]).await;
    let long = format!("a=1,{}mayfly=H.heir", " ".repeat(5_000));
    for (header, value) in [
        ("host", "www-heir.x"),
        ("x-mayfly", "H.heir"),
        ("x_mayfly", "H.heir"),
        ("baggage", "mayfly=H.heir"),
        ("baggage", &long),
    ] {
        let request = Request::get("www.x", "/").header(header, value);
        let answer = request.send_h2c(mayfly.edge).await;
        let Ok(answer) = answer else {
            assert_eq!(header, "host", "{answer:?}");
            continue;
        };
        assert_eq!(
            answer.headers.get("x-instance").map(String::as_str),
            Some("frontend@0.0.1"),
            "{header}: {answer:?}"
        );
        assert!(
            answer.body.contains("\r\nx-mayfly: base\r\n") && !answer.body.contains("H.heir"),
            "{header}: {answer:?}"
        );
    }
}
