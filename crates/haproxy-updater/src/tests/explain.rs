//! What core explains is what a real HAProxy does: for generated environments and requests, the same backend or the same
//! refusal in the same words.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use mayfly_core::explain::{Login, Request, Responder, Settings, ShareLinks, Side, Step};
use mayfly_core::records::access::PasswordHash;
use mayfly_core::records::ended::Why;
use mayfly_e2e::http;
use mayfly_e2e::instance::Service;
use mayfly_e2e::port;
use mayfly_e2e::tls::{Authority, TlsClient};
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use super::support::Router;

/// How many worlds of environments, and how many requests in each.
const WORLDS: usize = 25;
const REQUESTS: usize = 60;
/// So many worlds are enough where every request takes a handshake.
const WORLDS_BY_TLS: usize = 8;

/// Most environments are open to all; the tests ask from 127.0.0.1.
fn an_access() -> impl Strategy<Value = Value> {
    let users = json!({"guest": PasswordHash::of("right", [7; 16])});
    prop_oneof![
        16 => Just(Value::Null),
        1 => Just(json!({"users": users})),
        1 => Just(json!({"users": users, "from": ["10.0.0.0/8"]})),
        1 => Just(json!({"users": users, "from": ["127.0.0.0/9"]})),
        1 => Just(json!({"from": ["::/0", "128.0.0.0/1"]})),
        1 => Just(json!({"from": ["127.0.0.1"]})),
    ]
}

/// Who says who he is, with what the header says of it.
const LOGINS: [(&str, &str, &str); 4] = [
    ("guest", "right", "Z3Vlc3Q6cmlnaHQ="),
    ("guest", "wrong", "Z3Vlc3Q6d3Jvbmc="),
    ("other", "right", "b3RoZXI6cmlnaHQ="),
    ("", "", "Og=="),
];

/// `outside` is where a server outside answers.
fn an_environment(outside: SocketAddr) -> impl Strategy<Value = Value> {
    let version = prop_oneof![
        8 => "[12]|1\\.5|9|latest|\\^1|\\*",
        1 => Just(format!("http://{outside}")),
        1 => Just("http://own.service:80".to_owned()),
    ];
    let service = (
        "[st]",
        version,
        proptest::collection::vec("/|/[ab]|/[ab]/[ab]|/a/b/a", 0..3),
    )
        .prop_map(|(name, version, routes)| json!({"name": name, "version": version, "routes": routes}));
    (
        "[a-e]",
        proptest::option::of("[a-e]"),
        prop_oneof![4 => Just(None), 1 => "www-[a-e]".prop_map(Some)],
        prop_oneof![4 => Just(None), 1 => "[a-e]|h-[a-e]".prop_map(Some)],
        proptest::bool::weighted(0.2),
        an_access(),
        proptest::collection::vec(service, 0..6),
    )
        .prop_map(|(name, extends, prefix, header, protected, access, services)| {
            let prefix = prefix.unwrap_or_else(|| format!("www-{name}"));
            let header = header.unwrap_or_else(|| name.clone());
            json!({"name": name, "extends": extends, "prefix": prefix, "header": header, "protected": protected, "access": access, "services": services})
        })
}

/// Segments that a server may take for `..`, and those that none does.
const A_CLIMBING_PATH: &str = "(/|\\\\|%2[fF]|%5c|%25(25)?2f)?/?(a|b)?(/|\\\\|%2f|%5C|%252F)(\\.|%2[eE]|%252e|%25%32%65|%2%45|%%32e|%u002e|%c0%ae|%25c0%2e|%25%3A|%2541|%c3%a9){1,3}(/|\\\\|;|;x|%2f|%5c|%3b|%00|%3F|%23|a|%)?(a|/b)?";

/// Links, and what is none.
const A_QUERY: &str = "mayfly=[a-f]|(x=1&|&&|)m(a|%61)yfly=([a-e]|%6[1-5])(&|&y|)|mayfly=[ab](&mayfly=|,)[ab]|mayfly=?|mayfly=(A|h-[a-e]|[a-e]%0[0a]|[a-e]\\.service|%253C|%|-|zz|,+|[a-e],+)|xmayfly=[a-e]|MAYFLY=[a-e]|a?";
const A_COOKIE: &str = "mayfly=[a-f]|(x=1;|; ;|) ?mayfly ?=([a-e])(;|; y=2|)|mayfly=[ab](; mayfly=|,)[ab]|mayfly=?|mayfly=(A|h-[a-e]|%61|\"a\"|a b)|xmayfly=[a-e]|MAYFLY=[a-e]|x=1";

fn a_request() -> impl Strategy<Value = Request> {
    let outside = (
        prop_oneof![3 => "www-[a-e]\\.x", 1 => "(www-[a-f]|WWW-[A-E]|a|)(\\.example\\.com)?\\.?(:80)?"],
        prop_oneof![6 => "(/[ab](;|;x|;a=b)?){0,4}(/|/ab|//a|/;|;)?", 1 => A_CLIMBING_PATH],
        proptest::option::weighted(0.3, "[a-e]|[a-e](,|, )[a-e]"),
        prop_oneof![1 => A_QUERY, 2 => Just(String::new())],
        prop_oneof![1 => A_COOKIE, 2 => Just(String::new())],
        proptest::option::weighted(0.3, 0..LOGINS.len()),
        proptest::bool::weighted(0.75),
    )
        .prop_map(|(host, path, value, query, cookie, login, tls)| {
            let login = login.map(|at| Login {
                user: LOGINS[at].0.to_owned(),
                password: Some(LOGINS[at].1.to_owned()),
            });
            (Side::Edge, host, path, value, query, cookie, login, tls)
        });
    let inside = (
        "[st]\\.service|[stu]\\.service(:80)?|S\\.Service\\.|[stu]|S:80|service|s\\.t\\.service|s\\.example\\.com",
        "/",
        proptest::option::weighted(0.8, "[a-e]|[a-f]|h-[a-e]|[ab](,|, | ,)[ab]|[a-e],|,+[a-e],,"),
    )
        .prop_map(|(host, path, value)| (Side::Internal, host, path.to_owned(), value, String::new(), String::new(), None, false));
    prop_oneof![2 => outside, 1 => inside].prop_map(|(side, host, path, value, query, cookie, login, tls)| {
        Request {
            side,
            tls,
            // An empty host is no host to the client of these tests.
            host: if host.starts_with(['.', ':']) {
                "x".to_owned() + &host
            } else {
                host
            },
            path: if path.starts_with('/') {
                path
            } else {
                format!("/{path}")
            },
            value,
            query,
            cookie,
            from: Some(IpAddr::from([127, 0, 0, 1])),
            login,
        }
    })
}

/// The same said by members of baggage, among others.
fn as_members(value: &str) -> String {
    let members = value.split(',').map(|one| format!("mayfly={one}"));
    format!("a=1,{}", members.collect::<Vec<_>>().join(", b=2 ,"))
}

/// The host of the certificate; requests name any.
const TLS_HOST: &str = "tls.test";

/// Where the edge serves TLS, and a client that believes its certificate.
struct Tls {
    at: SocketAddr,
    client: TlsClient,
    authority: Authority,
}

impl Tls {
    /// The listener is not there yet.
    async fn new(place: &Path) -> Self {
        let authority = Authority::new(place, "authority").await.unwrap();
        Self {
            at: port::free(),
            client: authority.client().unwrap(),
            authority,
        }
    }

    /// Puts a certificate where HAProxy starts from.
    async fn keep(&self, router: &mut Router) {
        let certificate = self.authority.certify(TLS_HOST).await.unwrap();
        let kept = router.path("tls");
        std::fs::create_dir(&kept).unwrap();
        std::fs::copy(certificate, format!("{kept}/default")).unwrap();
        std::fs::write(format!("{kept}/crt-list"), format!("{kept}/default\n")).unwrap();
        assert!(router.applier.serve_tls());
    }
}

/// What HAProxy does with a request, as `backend; origin`, or the text of its refusal, before it
/// the address of a redirect.
async fn ask(router: &Router, tls: Option<&Tls>, request: &Request) -> String {
    let target = match request.query.is_empty() {
        true => request.path.clone(),
        false => format!("{}?{}", request.path, request.query),
    };
    let mut sent = http::Request::get(&request.host, &target);
    if !request.cookie.is_empty() {
        sent = sent.header("cookie", &request.cookie);
    }
    if let Some(login) = &request.login {
        let said = LOGINS
            .iter()
            .find(|(user, password, _)| login.user == *user && login.password.as_deref() == Some(password));
        sent = sent.header("authorization", &format!("Basic {}", said.unwrap().2));
    }
    if let Some(value) = &request.value {
        // On the internal side, members of baggage say the same; some texts are possible only in a
        // header.
        let is_list = value.split(',').all(|one| !one.is_empty() && !one.contains(' '));
        sent = match request.side == Side::Internal && is_list && value.as_bytes()[0] % 2 == 0 {
            true => sent.header("baggage", &as_members(value)),
            false => sent.header("x-mayfly", value),
        };
    }
    let to = match request.side {
        Side::Edge => router.edge,
        Side::Internal => router.internal,
    };
    let answer = match tls.filter(|_| request.tls) {
        Some(tls) => {
            let stream = tls.client.connect(tls.at, TLS_HOST, "http/1.1").await;
            sent.send_on(stream.unwrap()).await.unwrap()
        }
        None => sent.send(to).await.unwrap(),
    };
    match answer.headers.get("x-mayfly-answered-by") {
        Some(by) if answer.status == 200 => by.clone(),
        _ => {
            let location = answer.headers.get("location").map(|to| format!("{to} "));
            location.unwrap_or_default() + answer.body.trim_end()
        }
    }
}

async fn agree(flags: &[&str], settings: &Settings) {
    agree_by(None, flags, settings).await;
}

async fn agree_by(tls: Option<&Tls>, flags: &[&str], settings: &Settings) {
    // The external service is at loopback.
    let common = [
        "--slots",
        "32",
        "--answered-by",
        "everywhere",
        "--allow-address",
        "127.0.0.0/8",
    ];
    let mut router = Router::new(&[&common, flags].concat());
    let mut instances = Vec::new();
    for backend in ["s@1", "s@2", "t@1", "t@1.5"] {
        let (name, version) = backend.split_once('@').unwrap();
        let instance = Service::start(name, version).await.unwrap();
        router.instance(backend, instance.address());
        instances.push(instance);
    }
    let outside = Service::start("outside", "0").await.unwrap();
    let draining = instances[1].address();
    router.instance_with("t@3", draining, json!({"state": "draining"}));
    router.instance_with("s@9", draining, json!({"weight": 0}));
    // What no environment names any more keeps its slot until its connections have ended.
    let address = format!("http://{}", outside.address());
    let services = ["s", "t"].map(|name| json!({"name": name, "version": address}));
    router.put(
        "environments/keeper",
        &json!({"name": "keeper", "prefix": "keeper", "header": "keeper", "services": services}),
    );
    if let Some(tls) = tls {
        tls.keep(&mut router).await;
    }
    router.run().await;
    let mut runner = TestRunner::deterministic();
    let (mut answered, mut refused) = (0, 0);
    let (mut ended, mut shared, mut no_link) = (0, 0, 0);
    let (mut let_in, mut shut_out) = (0, 0);
    let mut redirected = 0;
    let worlds = if tls.is_some() { WORLDS_BY_TLS } else { WORLDS };
    let least = |count: usize| count * worlds / WORLDS;
    for world in 0..worlds {
        for (place, name) in ["a", "b", "c", "d", "e", "f"].into_iter().enumerate() {
            let why = Why::ALL[(world + place) % Why::ALL.len()];
            let record = json!({"prefix": format!("www-{name}"), "at": "2026-11-29T02:00:00Z", "why": why});
            match (world + place) % 3 {
                0 => router.delete(&format!("ended/{name}")),
                _ => router.put(&format!("ended/{name}"), &record),
            }
        }
        for name in ["a", "b", "c", "d", "e"] {
            router.delete(&format!("environments/{name}"));
        }
        let world = proptest::collection::vec(an_environment(outside.address()), 3..9);
        let world = world.new_tree(&mut runner).unwrap().current();
        for environment in &world {
            let key = format!("environments/{}", environment["name"].as_str().unwrap());
            router.put(&key, environment);
        }
        router.apply().await;
        for _ in 0..REQUESTS {
            let request = a_request().new_tree(&mut runner).unwrap().current();
            let explanation = router.index.explain(settings, &request);
            let expected = match &explanation.answer {
                Responder::Backend { backend, origin, .. } => format!("{backend}; {origin}"),
                Responder::Router { status: 308, text } => {
                    redirected += 1;
                    let to = explanation.steps.last().and_then(|step| step.found.as_ref());
                    format!("{} {text}", to.unwrap())
                }
                Responder::Router { text, .. } => text.clone(),
            };
            ended += usize::from(matches!(
                explanation.answer,
                Responder::Router { status: 410, .. }
            ));
            let found = |step: &Step| ["link", "cookie"].contains(&step.step) && step.found.is_some();
            shared += usize::from(explanation.steps.iter().any(found));
            if let Some(step) = explanation.steps.iter().find(|step| step.step == "access") {
                *if step.found.is_some() {
                    &mut let_in
                } else {
                    &mut shut_out
                } += 1;
            }
            let last = explanation.steps.last().is_some_and(|step| step.step == "link");
            no_link += usize::from(last);
            *if explanation.answer.is_good() {
                &mut answered
            } else {
                &mut refused
            } += 1;
            let found = ask(&router, tls, &request).await;
            assert_eq!(found, expected, "{request:?}\n{world:#?}\n{explanation:#?}");
        }
    }
    // Else the generator has become blind for one or the other.
    assert!(
        answered > least(60) && refused > least(100) && ended > least(20),
        "{answered} answered, {refused} refused, {ended} of them since they had ended"
    );
    assert!(
        let_in > least(30) && shut_out > least(50),
        "{let_in} let in, {shut_out} not"
    );
    let redirects = settings.redirect_to_https.is_some();
    assert_eq!(redirected > least(100), redirects, "{redirected} redirected");
    let links = settings.share_links != ShareLinks::Off;
    assert_eq!(
        shared > least(40) && no_link > least(40),
        links,
        "{shared} by a link, {no_link} by none"
    );
}

#[tokio::test]
async fn what_is_explained_is_what_haproxy_does() {
    let settings = Settings {
        domain: "service".parse().unwrap(),
        default_environment: None,
        allow_header_at_edge: false,
        share_links: ShareLinks::Off,
        health_path: None,
        redirect_to_https: None,
    };
    agree(&[], &settings).await;
}

#[tokio::test]
async fn with_links_too() {
    let settings = Settings {
        domain: "service".parse().unwrap(),
        default_environment: None,
        allow_header_at_edge: false,
        share_links: ShareLinks::Unprotected,
        health_path: None,
        redirect_to_https: None,
    };
    agree(&["--share-links", "unprotected"], &settings).await;
}

/// One half of the requests comes by TLS, the other is redirected.
#[tokio::test]
async fn with_the_redirect_to_https_too() {
    let place = tempfile::tempdir().unwrap();
    let tls = Tls::new(place.path()).await;
    let settings = Settings {
        domain: "service".parse().unwrap(),
        default_environment: None,
        allow_header_at_edge: false,
        share_links: ShareLinks::All,
        health_path: None,
        redirect_to_https: Some(tls.at.port()),
    };
    let (bind, unused) = (tls.at.to_string(), place.path().to_str().unwrap());
    let flags = ["--edge-tls-bind", &bind, "--edge-certificates", unused];
    let more = ["--redirect-to-https", "--share-links", "all"];
    agree_by(Some(&tls), &[&flags[..], &more].concat(), &settings).await;
}

#[tokio::test]
async fn with_other_settings_too() {
    let settings = Settings {
        domain: "service".parse().unwrap(),
        default_environment: Some("a".parse().unwrap()),
        allow_header_at_edge: true,
        share_links: ShareLinks::All,
        health_path: None,
        redirect_to_https: None,
    };
    agree(
        &[
            "--default-environment",
            "a",
            "--allow-header-at-edge",
            "--share-links",
            "all",
        ],
        &settings,
    )
    .await;
}
