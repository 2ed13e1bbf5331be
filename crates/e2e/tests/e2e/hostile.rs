//! Requests from hostile clients at both listeners of a real HAProxy: whatever they look like, an instance that answers is one
//! of the environment that the request is entitled to, has seen the headers of that environment and no others, and no answer
//! of HAProxy's own reflects what was sent so that a browser could take it for markup.
//!
//! `MAYFLY_HOSTILE_REQUESTS` says how many requests (2,000), `MAYFLY_HOSTILE_SEED` which ones; a failure says the seed.

mod generate;
mod oracle;
mod parrot;
mod parts;
mod wire;

use std::net::SocketAddr;
use std::time::Instant;

use mayfly_e2e::http::Request;
use mayfly_e2e::process::Process;
use mayfly_e2e::world::World;
use mayfly_e2e::{eventually, world::SOON};
use tokio::task::JoinSet;

use generate::{Conversation, conversation};
use oracle::{BASE, FILES, HEIR, Side, judge, members};
use parrot::Parrot;
use parts::Dice;
use wire::{Answer, exchange, text};

/// Conversations that go on at the same time.
const TASKS: u64 = 8;
/// So many requests has a conversation at least.
const REQUESTS_EACH: u64 = 3;

/// Two environments, one of which extends the other, and instances that trust everybody.
async fn hostile_world(arguments: &[&str]) -> (World, Vec<(Process, Parrot)>) {
    let world = World::start_with(arguments).await.unwrap();
    let mut instances = Vec::new();
    for backend in [
        "frontend@0.0.1",
        "frontend@0.0.2",
        "api@0.0.1",
        "backend@0.0.1",
        "backend@0.0.2",
        "secret@0.0.2",
    ] {
        let parrot = Parrot::start(backend).await.unwrap();
        let (service, version) = backend.split_once('@').unwrap();
        let registrar = world.register(service, version, parrot.address, &[]).unwrap();
        instances.push((registrar, parrot));
    }
    world.save("all.yaml", FILES);
    for environment in [&BASE, &HEIR] {
        for (service, _) in environment.versions {
            let what = format!("{service} answers in {}", environment.prefix);
            let request = format!(
                "GET / HTTP/1.1\r\nhost: {service}.service\r\nx-mayfly: {}\r\n\r\n",
                environment.header
            );
            eventually(SOON, &what, async || {
                let answers = exchange(world.internal, request.as_bytes()).await.ok()?;
                let answered =
                    answers.first()?.header("x-instance") == environment.backend(service).as_deref();
                answered.then_some(())
            })
            .await;
        }
    }
    (world, instances)
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

/// Holds conversations until there were enough requests.
async fn converse(side: Side, to: SocketAddr, seed: u64, conversations: u64) -> Count {
    let mut count = Count::default();
    for number in 0..conversations {
        // Each by a seed of its own, so that one alone can be held again.
        let own = seed.wrapping_add(number);
        let conversation = conversation(&mut Dice::new(own), side);
        hold(side, to, own, &conversation, &mut count).await;
    }
    count
}

async fn hold(side: Side, to: SocketAddr, seed: u64, conversation: &Conversation, count: &mut Count) {
    let what = || format!("seed {seed}, {side:?}: {:?}", text(&conversation.octets));
    let start = Instant::now();
    let answers = match exchange(to, &conversation.octets).await {
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
    let (mut world, _instances) = hostile_world(&[]).await;
    let before = world.haproxy.info().await.unwrap()["Pid"].clone();
    let requests = number("MAYFLY_HOSTILE_REQUESTS", 2_000);
    let seed = number("MAYFLY_HOSTILE_SEED", 1);
    let each = requests / (TASKS * REQUESTS_EACH) + 1;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (side, to) = match task % 2 {
            0 => (Side::Edge, world.edge),
            _ => (Side::Internal, world.internal),
        };
        // Far apart, so that no two tasks hold the same conversation.
        let seed = seed.wrapping_mul(1 << 32).wrapping_add(task * each);
        tasks.spawn(async move { (side, converse(side, to, seed, each).await) });
    }
    let mut total = Count::default();
    while let Some(done) = tasks.join_next().await {
        let (side, count) = match done {
            Ok(done) => done,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        // Else the generator has become blind for one or the other.
        let least = count.requests / 10;
        assert!(
            count.answered > least && count.refused > least,
            "{side:?} {count:?}"
        );
        total.conversations += count.conversations;
        total.requests += count.requests;
        total.answered += count.answered;
        total.refused += count.refused;
    }
    println!("seed {seed}: {total:?} in {:?}", start.elapsed());
    assert_eq!(
        world.haproxy.info().await.unwrap()["Pid"],
        before,
        "it is the same process"
    );
    assert!(world.haproxy.is_running());
    assert_eq!(world.reloads().await.unwrap(), 0);
    let request = b"GET / HTTP/1.1\r\nhost: www.x\r\n\r\nGET / HTTP/1.1\r\nhost: www-heir.x\r\n\r\n";
    let answers = exchange(world.edge, request).await.unwrap();
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
    let (world, _instances) = hostile_world(&[]).await;
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
            let (backend, head) = seen(world.edge, &request).await;
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
    let (world, _instances) = hostile_world(&[]).await;
    let inner = "GET / HTTP/1.1\r\nx-mayfly: H.heir\r\nx-tunnel: yes\r\n\r\n";
    for (to, host) in [(world.edge, "www.x"), (world.internal, "frontend.service")] {
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
    let (world, _instances) = hostile_world(&[]).await;
    for connection in [
        "x-mayfly, baggage",
        "keep-alive, X-Mayfly",
        "BAGGAGE",
        "a\r\nconnection: x-mayfly",
        "x-mayfly\r\nupgrade: h2c",
    ] {
        let request = format!("GET / HTTP/1.1\r\nhost: www-heir.x\r\nconnection: {connection}\r\n\r\n");
        let (backend, head) = seen(world.edge, &request).await;
        assert_eq!(backend, "frontend@0.0.2");
        assert!(
            head.contains("\r\nx-mayfly: H.heir\r\n") && !head.contains("connection:"),
            "{head}"
        );
    }
}

#[tokio::test]
async fn a_name_is_the_whole_text() {
    let (world, _instances) = hostile_world(&[]).await;
    for host in [
        "www-heir\0",
        "www-heir\0.x",
        "www\0-heir.x",
        "nobody.x,www-heir",
        "nobody.x, www-heir.x",
        "www,www-heir",
    ] {
        let (backend, _) = seen(world.edge, &format!("GET / HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
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
        let (backend, head) = seen(world.internal, &request).await;
        assert_eq!(backend, "", "{host:?} {header:?} {head}");
    }
    // The header at the edge is held to the same.
    let (world, _instances) = hostile_world(&["--allow-header-at-edge"]).await;
    for (value, expected) in [
        ("H.heir", "frontend@0.0.2"),
        ("H.heir\0x", ""),
        ("base,H.heir", ""),
    ] {
        let request = format!("GET / HTTP/1.1\r\nhost: nobody.x\r\nx-mayfly: {value}\r\n\r\n");
        assert_eq!(seen(world.edge, &request).await.0, expected, "{value:?}");
    }
}

/// By HTTP/2 the host is `:authority`, whatever Host says beside it.
#[tokio::test]
async fn by_http_2_the_authority_decides_and_the_headers_from_outside_do_not() {
    let (world, _instances) = hostile_world(&[]).await;
    let long = format!("a=1,{}mayfly=H.heir", " ".repeat(5_000));
    for (header, value) in [
        ("host", "www-heir.x"),
        ("x-mayfly", "H.heir"),
        ("x_mayfly", "H.heir"),
        ("baggage", "mayfly=H.heir"),
        ("baggage", &long),
    ] {
        let request = Request::get("www.x", "/").header(header, value);
        let answer = request.send_h2c(world.edge).await;
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
