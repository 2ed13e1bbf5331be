//! The page and the read API: mayfly-web on a real etcd answers what the tool says, follows changes,
//! and refuses in JSON whatever is sent to it.

mod description;
mod events;
mod waits;

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use mayfly_e2e::http::{Answer, Request};
use mayfly_e2e::mayfly::{Mayfly, SOON};
use mayfly_e2e::process::Process;
use mayfly_e2e::tls::Authority;
use mayfly_e2e::{eventually, port};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use description::Description;
use events::Events;

/// A running mayfly-web.
struct Web {
    process: Process,
    address: SocketAddr,
}

impl Web {
    /// Starts it, and waits until it answers.
    async fn start(mayfly: &Mayfly, arguments: &[&str]) -> Self {
        let address = port::free();
        let mut command = mayfly.command("mayfly-web").unwrap();
        command.args(["--bind", &address.to_string()]).args(arguments);
        let mut process = mayfly.spawn("mayfly-web", &command).unwrap();
        eventually(SOON, "mayfly-web listens", async || {
            assert!(process.is_running(), "{}", process.output());
            TcpStream::connect(address).await
        })
        .await;
        Self { process, address }
    }

    /// Starts it, and waits until it knows what etcd has, with the settings of the router.
    async fn in_sync(mayfly: &Mayfly) -> Self {
        let web = Self::start(mayfly, &[]).await;
        eventually(SOON, "it is in sync", async || {
            web.ask("/v1/decide?service=web").await.status != 503
        })
        .await;
        web
    }

    async fn ask(&self, path: &str) -> Answer {
        let host = self.address.to_string();
        Request::get(&host, path).send(self.address).await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        let answer = self.ask(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }
}

/// Registers an environment, past any file.
async fn register(mayfly: &Mayfly, name: &str, extends: Option<&str>, services: Value) {
    let record = json!({"name": name, "prefix": format!("www-{name}"), "header": name, "extends": extends,
        "services": services});
    let key = format!("/mayfly/environments/{name}");
    mayfly.etcd.put(&key, &record.to_string()).await.unwrap();
}

fn web_at(version: &str) -> Value {
    json!([{"name": "web", "version": version, "routes": ["/"]}])
}

#[tokio::test]
async fn it_says_what_the_tool_says_and_what_its_description_promises() {
    let mayfly = Mayfly::start().await.unwrap();
    register(&mayfly, "prod", None, web_at("1.0.0")).await;
    register(
        &mayfly,
        "temp-1",
        Some("prod"),
        json!([{"name": "ghost", "version": "7"}]),
    )
    .await;
    let _instance = mayfly.instance("web", "1.0.0").await.unwrap();
    let web = Web::in_sync(&mayfly).await;

    eventually(
        SOON,
        "the state is what `mayfly status` says",
        async || -> Result<()> {
            let printed = mayfly
                .run("mayfly", &["status", "--format", "json"])
                .await?
                .ok()?;
            let mut state: Value = web.json("/v1/state").await;
            let since = state.as_object_mut().unwrap().remove("etcd_unreachable_since");
            ensure!(since == Some(Value::Null), "{since:?}");
            ensure!(
                state == serde_json::from_str::<Value>(&printed)?,
                "{state}\n{printed}"
            );
            Ok(())
        },
    )
    .await;
    for (query, arguments) in [
        (
            "url=http://www-temp-1.example.com/a",
            vec!["http://www-temp-1.example.com/a"],
        ),
        ("url=www-temp-9.example.com", vec!["www-temp-9.example.com"]),
        (
            "url=web.service&header=temp-1",
            vec!["web.service", "--header", "temp-1"],
        ),
        ("environment=temp-1&service=ghost", vec!["temp-1", "ghost"]),
        ("environment=temp-1&service=nobody", vec!["temp-1", "nobody"]),
        ("url=x%E2%80%AE.example.com", vec!["x\u{202e}.example.com"]),
    ] {
        // The two are asked one after the other, and a router may be behind for a moment.
        eventually(SOON, query, async || -> Result<()> {
            let mut told: Value = web.json(&format!("/v1/explain?{query}")).await;
            let text = told.as_object_mut().unwrap().remove("text");
            let printed = mayfly
                .run("mayfly", &[&["explain"], &arguments[..]].concat())
                .await?;
            ensure!(
                text == Some(Value::from(&*printed.stdout)),
                "{text:?}\n{printed:?}"
            );
            let arguments = [&["explain", "--format", "json"], &arguments[..]].concat();
            let printed = mayfly.run("mayfly", &arguments).await?;
            ensure!(
                told == serde_json::from_str::<Value>(&printed.stdout)?,
                "{told}\n{printed:?}"
            );
            Ok(())
        })
        .await;
    }

    let mut description = Description::read(&web.ask("/v1/openapi.json").await.body);
    for (path, status) in [
        ("/v1/openapi.json", 200),
        ("/v1/state", 200),
        ("/v1/state?x=1", 400),
        ("/v1/environments/prod", 200),
        ("/v1/environments/prod?wait=10s", 200),
        ("/v1/environments/temp-1", 200),
        ("/v1/environments/temp-1?wait=200ms", 504),
        ("/v1/environments/temp-2?wait=200ms", 504),
        ("/v1/environments/prod?wait=200ms&mark=none", 504),
        ("/v1/environments/prod/markdown", 200),
        ("/v1/environments/temp-2/markdown", 200),
        ("/v1/environments/temp_2/markdown", 400),
        ("/v1/environments/temp-2", 404),
        ("/v1/environments/%2e%2e?wait=x", 400),
        ("/v1/explain?url=www-prod.example.com", 200),
        ("/v1/explain?environment=temp-2&service=web", 404),
        ("/v1/explain", 400),
        ("/v1/decide?service=web&value=temp-1", 200),
        ("/v1/decide?service=web&value=temp-2", 404),
        ("/v1/decide?service=web", 400),
        ("/v1/events?x=1", 400),
        ("/v1/decisions", 400),
    ] {
        description.check(path, status, &web.ask(path).await);
    }
    let mut state = Events::open(web.address, "/v1/events").await;
    let mut table = Events::open(web.address, "/v1/decisions?service=web").await;
    description.check_part("State", &state.next().await.1);
    description.check_part("Table", &table.next().await.1);
    register(&mayfly, "temp-2", Some("prod"), web_at("2")).await;
    description.check_part("Change", &state.next_with(|data| data["gone"] == json!([])).await);
    description.check_part("TableChange", &table.next().await.1);
    description.seen("/v1/events", 200);
    description.seen("/v1/decisions", 200);
    description.all_good_answers_were_seen();

    let (same, tag) = (web.ask("/v1/state").await, "etag");
    let again =
        Request::get(&web.address.to_string(), "/v1/state").header("if-none-match", &same.headers[tag]);
    let again = again.send(web.address).await.unwrap();
    assert_eq!((again.status, again.body.as_str()), (304, ""));
}

#[tokio::test]
async fn changes_are_followed_by_those_who_look_and_those_who_decide() {
    let mayfly = Mayfly::start_with(&["--default-environment", "prod"])
        .await
        .unwrap();
    register(&mayfly, "prod", None, web_at("1")).await;
    let web = Web::in_sync(&mayfly).await;
    eventually(SOON, "the router says its settings", async || {
        web.ask("/v1/decide?service=web").await.status == 200
    })
    .await;
    let mut state = Events::open(web.address, "/v1/events").await;
    let mut table = Events::open(web.address, "/v1/decisions?service=web").await;
    let whole = state.next().await.1;
    assert_eq!(whole["environments"][0]["name"], "prod");
    let (name, first) = table.next().await;
    assert_eq!(
        (name.as_str(), &first["versions"], &first["default"]),
        ("table", &json!({"prod": "1"}), &json!("1"))
    );

    let begun = std::time::Instant::now();
    register(&mayfly, "temp-1", Some("prod"), web_at("2")).await;
    let change = state
        .next_with(|data| data["environments"].as_array().is_some_and(|all| !all.is_empty()))
        .await;
    println!("a change arrived after {:?}", begun.elapsed());
    assert_eq!(change["environments"][0]["name"], "temp-1");
    assert_eq!(
        change["environments"].as_array().unwrap().len(),
        1,
        "only what has changed: {change}"
    );
    let (name, changed) = table.next().await;
    assert_eq!(
        (name.as_str(), &changed["versions"]),
        ("change", &json!({"temp-1": "2"}))
    );
    // It changes with the one that it extends, too.
    let decided = web.json("/v1/decide?service=web&value=temp-1").await;
    assert_eq!(
        (&decided["version"], &decided["inherited_from"]),
        (&json!("2"), &Value::Null)
    );
    register(&mayfly, "temp-1", Some("prod"), json!([])).await;
    assert_eq!(table.next().await.1["versions"], json!({"temp-1": "1"}));
    let decided = web.json("/v1/decide?service=web&value=temp-1,temp-1").await;
    assert_eq!(
        (&decided["version"], &decided["inherited_from"]),
        (&json!("1"), &json!("prod"))
    );
    mayfly.etcd.delete("/mayfly/environments/temp-1").await.unwrap();
    assert_eq!(table.next().await.1["gone"], json!(["temp-1"]));
    state.next_with(|data| data["gone"] == json!(["temp-1"])).await;
}

#[tokio::test]
async fn it_says_since_when_etcd_is_gone_and_goes_on_answering() {
    let mut mayfly = Mayfly::start().await.unwrap();
    register(&mayfly, "prod", None, web_at("1")).await;
    register(&mayfly, "empty", None, json!([])).await;
    let mut web = Web::in_sync(&mayfly).await;
    let mut events = Events::open(web.address, "/v1/events").await;
    let mut table = Events::open(web.address, "/v1/decisions?service=web").await;
    assert_eq!(table.next().await.1["etcd_unreachable_since"], Value::Null);
    let wait = async |web: &Web, limit: &str| web.ask(&format!("/v1/environments/empty?wait={limit}")).await;
    assert_eq!(wait(&web, "10s").await.status, 200);
    mayfly.etcd.freeze().unwrap();
    let frozen = SystemTime::now();
    let refused = eventually(SOON, "no wait succeeds", async || {
        Some(wait(&web, "1ms").await).filter(|wait| wait.status == 504)
    });
    let reason = "not in force after 0.001s: etcd does not answer";
    let refused = refused.await.body;
    assert!(refused.contains(reason), "before the watch notices: {refused}");
    let long = Duration::from_secs(30);
    let since = async |web: &Web| web.json("/v1/state").await["etcd_unreachable_since"].clone();
    eventually(long, "it notices", async || since(&web).await.is_string()).await;
    let told = since(&web).await;
    let heard = humantime::parse_rfc3339(told.as_str().unwrap()).unwrap();
    assert!(heard <= frozen, "{told} is later than the freeze");
    let told = events
        .next_with(|data| data["rest"]["etcd_unreachable_since"].is_string())
        .await;
    assert_eq!(told["environments"], json!([]), "{told}");
    table
        .next_with(|data| data["etcd_unreachable_since"].is_string() && data["gone"] == json!([]))
        .await;
    assert_eq!(
        web.json("/v1/decide?service=web&value=prod").await["version"],
        "1"
    );
    let wait = wait(&web, "1ms").await;
    assert!(
        wait.status == 504 && wait.body.contains("etcd has not answered since"),
        "{}",
        wait.body
    );
    mayfly.etcd.thaw().unwrap();
    eventually(long, "it is back", async || since(&web).await.is_null()).await;
    table
        .next_with(|data| data["etcd_unreachable_since"].is_null())
        .await;

    // Before etcd has answered for the first time, nothing is known, and that is said.
    mayfly.etcd.kill9().await.unwrap();
    web.process.terminate(SOON).await.unwrap();
    let web = Web::start(&mayfly, &[]).await;
    for path in [
        "state",
        "events",
        "environments/prod",
        "decide?service=web&value=prod",
        "decisions?service=web",
    ] {
        let answer = web.ask(&format!("/v1/{path}")).await;
        assert!(
            answer.status == 503 && answer.body.contains("etcd has not answered yet"),
            "{path}: {}",
            answer.body
        );
    }
    assert_eq!(web.ask("/").await.status, 200);
}

#[tokio::test]
async fn there_are_500_streams_at_most_and_the_shutdown_ends_them() {
    let mayfly = Mayfly::start().await.unwrap();
    register(&mayfly, "prod", None, web_at("1")).await;
    let mut web = Web::in_sync(&mayfly).await;
    let mut streams = Vec::new();
    for _ in 0..500 {
        streams.push(Events::open(web.address, "/v1/events").await);
    }
    let refused = web.ask("/v1/decisions?service=web").await;
    assert!(
        refused.status == 503 && refused.body.contains("500 streams"),
        "{}",
        refused.body
    );
    assert_eq!(web.ask("/v1/state").await.status, 200, "the rest goes on");
    // Those that never read a word hold up nobody.
    register(&mayfly, "temp-1", None, web_at("2")).await;
    let mut last = streams.pop().unwrap();
    last.next_with(|data| data["gone"] == json!([])).await;
    drop(streams);
    eventually(SOON, "there is room again", async || {
        web.ask("/v1/decisions").await.status == 400
            && Events::try_open(web.address, "/v1/events").await.is_ok()
    })
    .await;
    let ended = web.process.terminate(SOON).await.unwrap();
    assert_eq!(ended.code(), Some(0), "{}", web.process.output());
    assert!(last.ends().await, "the stream ends");
}

#[tokio::test]
async fn whoever_has_no_token_or_comes_by_a_foreign_name_is_refused() {
    let mayfly = Mayfly::start().await.unwrap();
    register(&mayfly, "prod", None, web_at("1")).await;
    let web = Web::in_sync(&mayfly).await;
    for (host, status) in [
        ("localhost", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
    ] {
        let answer = Request::get(host, "/v1/state").send(web.address).await.unwrap();
        assert_eq!(answer.status, status, "{host}: {}", answer.body);
    }

    let authority = Authority::new(mayfly.directory(), "authority").await.unwrap();
    let made = authority
        .certify_as("web", &["DNS:ops.example.com"], &["-days", "9"])
        .await
        .unwrap();
    let (pem, token) = (
        mayfly.directory().join("web.pem"),
        mayfly.directory().join("token"),
    );
    fs::write(&pem, made.both().unwrap()).unwrap();
    fs::write(&token, "0123456789abcdef-secret\n").unwrap();
    let (pem, token) = (pem.display().to_string(), token.display().to_string());
    let arguments = [
        "--tls-certificate",
        &pem,
        "--tls-key",
        &pem,
        "--token-file",
        &token,
        "--base-path",
        "/mayfly",
    ];
    let web = Web::start(&mayfly, &[&arguments[..], &["--log", "trace"]].concat()).await;
    let client = authority.client().unwrap();
    let ask = async |path: &str, token: Option<&str>| {
        let mut request = Request::get("ops.example.com", path);
        if let Some(token) = token {
            request = request.header("authorization", &format!("Bearer {token}"));
        }
        request.send_tls(web.address, &client, "http/1.1").await.unwrap()
    };
    let right = Some("0123456789abcdef-secret");
    eventually(SOON, "it is in sync", async || {
        ask("/mayfly/v1/state", right).await.status == 200
    })
    .await;
    for (path, token, status) in [
        ("/mayfly/v1/state", None, 401),
        ("/mayfly/v1/state", Some("0123456789abcdef-secres"), 401),
        ("/mayfly/v1/events", None, 401),
        ("/mayfly/v1/openapi.json", None, 401),
        ("/mayfly/", None, 200),
        ("/mayfly/page.js", None, 200),
        ("/mayfly", None, 308),
        ("/", None, 404),
        ("/v1/state", right, 404),
        ("/mayflyv1/state", right, 404),
    ] {
        let answer = ask(path, token).await;
        assert_eq!(answer.status, status, "{path} {token:?}: {}", answer.body);
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert!(!answer.headers["content-security-policy"].contains("unsafe"));
    }
    assert!(
        !web.process.output().contains("0123456789abcdef"),
        "the token is in the log"
    );

    // Nobody is to open it to the network by mistake.
    let refused = mayfly.run("mayfly-web", &["--bind", "0.0.0.0:1"]).await.unwrap();
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("require a token with --token-file"),
        "{}",
        refused.stderr
    );
}

#[tokio::test]
async fn whatever_is_sent_the_answer_is_json_with_a_reason() {
    let mayfly = Mayfly::start().await.unwrap();
    let long = "x".repeat(700_000);
    let hostile = json!({"name": "bad", "prefix": "www-bad", "header": "bad", "services": web_at("1"),
        "description": format!("<script>alert(1)</script>\u{202e}\u{1b}[2J{long}")});
    mayfly
        .etcd
        .put("/mayfly/environments/bad", &hostile.to_string())
        .await
        .unwrap();
    mayfly
        .etcd
        .put("/mayfly/environments/%00<b>", "no record")
        .await
        .unwrap();
    let mut web = Web::in_sync(&mayfly).await;
    eventually(SOON, "all is there", async || {
        web.json("/v1/state").await["environments"]
            .as_array()
            .is_some_and(|all| !all.is_empty())
    })
    .await;
    let state = web.ask("/v1/state").await.body;
    assert!(
        state.len() > 700_000 && state.contains("\\u202e\\u001b"),
        "hidden characters are escaped"
    );
    let longest = format!("decide?service=web&value={}", "a".repeat(8_000));
    for (path, status) in [
        ("", 404),
        ("nothing", 404),
        ("state/", 404),
        ("state?%ff=%ff", 400),
        ("environments/", 400),
        ("environments/bad/more", 404),
        ("environments/%ff%00", 400),
        ("environments/bad?wait=-1", 400),
        ("environments/bad?wait=99h", 400),
        ("environments/bad?wait=1s&wait=2s", 400),
        ("explain?url=%0d%0a", 400),
        ("explain?url=ftp://x/", 400),
        ("explain?url=x&environment=bad", 400),
        ("explain?url=x&from=nowhere", 400),
        ("explain?url=x&user=a%20b%00", 400),
        ("decide?service=&value=bad", 400),
        ("decide?service=web&value=%00", 400),
        ("decide?service=web&value=bad%0d%0ax:%20y", 400),
        ("decide?service=web&value=a,b", 400),
        ("decide?service=web&value=%3Cscript%3E", 404),
        ("decide?service=../web&value=bad", 400),
        ("decisions?service=%3Cscript%3E", 400),
        (longest.as_str(), 404),
    ] {
        let answer = web.ask(&format!("/v1/{path}")).await;
        let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        assert_eq!(
            (answer.status, &problem["status"]),
            (status, &json!(status)),
            "{path}: {}",
            answer.body
        );
        assert_eq!(
            answer.headers["content-type"], "application/problem+json",
            "{path}"
        );
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty()),
            "{path}"
        );
    }
    let host = web.address.to_string();
    let put = Request::post(&host, "/v1/state", "x")
        .send(web.address)
        .await
        .unwrap();
    assert_eq!((put.status, put.headers["allow"].as_str()), (405, "GET, HEAD"));
    assert!(web.process.is_running());
    assert!(
        !web.process.output().contains("panicked"),
        "{}",
        web.process.output()
    );
}
