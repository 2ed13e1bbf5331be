//! `mayfly mcp`: an agent calls the commands as tools, over standard input and output.

use std::process::Stdio;
use std::time::Duration;

use mayfly_e2e::mayfly::Mayfly;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Limit for one answer: a command reads etcd, and a busy machine takes its time.
const LIMIT: Duration = Duration::from_secs(30);

/// A client of the protocol.
struct Client {
    child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    last: u64,
}

impl Client {
    fn start(mayfly: &Mayfly, arguments: &[&str]) -> Self {
        let mut command = Command::from(mayfly.command("mayfly").unwrap());
        command.arg("mcp").args(arguments).kill_on_drop(true);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stdin = child.stdin.take().unwrap();
        Self {
            child,
            stdin,
            lines,
            last: 0,
        }
    }

    async fn send(&mut self, message: Value) {
        self.stdin
            .write_all(format!("{message}\n").as_bytes())
            .await
            .unwrap();
    }

    async fn answer(&mut self) -> Value {
        let line = timeout(LIMIT, self.lines.next_line()).await.unwrap().unwrap();
        serde_json::from_str(&line.unwrap()).unwrap()
    }

    async fn request(&mut self, method: &str, params: Value) -> u64 {
        self.last += 1;
        let id = self.last;
        self.send(json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))
            .await;
        id
    }

    async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params).await;
        let answer = self.answer().await;
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// What a tool says, and whether it failed.
    async fn call(&mut self, name: &str, arguments: Value) -> (String, bool) {
        let answer = self
            .ask("tools/call", json!({"name": name, "arguments": arguments}))
            .await;
        let result = &answer["result"];
        let text = result["content"][0]["text"].as_str().map(str::to_owned);
        (
            text.unwrap_or_else(|| panic!("{answer}")),
            result["isError"].as_bool().unwrap(),
        )
    }
}

async fn bare_etcd() -> Mayfly {
    let mut mayfly = Mayfly::bare(&[]).unwrap();
    mayfly.etcd.restart().await.unwrap();
    mayfly
}

#[tokio::test]
async fn an_agent_works_with_every_tool() {
    let mayfly = bare_etcd().await;
    let mut client = Client::start(&mayfly, &[]);
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}});
    let begun = client.ask("initialize", params).await;
    assert_eq!(begun["result"]["protocolVersion"], "2025-11-25", "{begun}");
    client
        .send(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))
        .await;
    let listed = client.ask("tools/list", json!({})).await;
    let names: Vec<&str> = listed["result"]["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    let all = [
        "status", "explain", "wait", "diff", "lint", "schema", "keep", "relaunch", "apply", "delete",
        "confirm",
    ];
    assert_eq!(names, all);

    let file = "- {name: prod, prefix: www, services: [{name: web, version: 1, route: /}]}\n- {name: temp, extends: prod, expires: 1h}\n";
    let by_text = json!({"stdin": file});
    for (name, arguments, part, fails) in [
        ("lint", by_text.clone(), "ok, 2 environments", false),
        (
            "lint",
            json!({"files": ["-"], "stdin": "nam: a"}),
            "unknown field",
            false,
        ),
        (
            "apply",
            json!({"files": ["-"], "stdin": "nam: a"}),
            "nothing was registered",
            true,
        ),
        ("apply", by_text, "prod created\ntemp created", false),
        (
            "status",
            json!({"environment": "temp"}),
            "inherited from prod",
            false,
        ),
        (
            "status",
            json!({"environment": "tmp"}),
            "did you mean temp?",
            true,
        ),
        (
            "explain",
            json!({"target": "www-temp.example.com"}),
            "instances",
            false,
        ),
        (
            "diff",
            json!({"a": "temp", "b": "prod"}),
            "temp and prod route alike",
            false,
        ),
        (
            "wait",
            json!({"environment": "temp", "timeout": "10ms"}),
            "temp is not in force after 10ms",
            true,
        ),
        ("schema", json!({}), "$schema", false),
        (
            "keep",
            json!({"name": "temp", "time": "9h"}),
            "temp lives until",
            false,
        ),
        (
            "relaunch",
            json!({"service": "web", "version": "1"}),
            "launcher",
            true,
        ),
        (
            "confirm",
            json!({"daemon": "haproxy-updater"}),
            "(ended with exit code 1)",
            true,
        ),
        (
            "lint",
            json!({"files": ["/etc/passwd"]}),
            "a tool reads no file of its host",
            true,
        ),
        // Nobody is there to answer a question.
        ("delete", json!({"names": ["tem*"]}), "add --yes", true),
        (
            "delete",
            json!({"names": ["tem*"], "yes": true}),
            "matches: temp\ntemp deleted",
            false,
        ),
        (
            "keep",
            json!({"name": "temp", "time": "9h"}),
            "temp is back; it lives until",
            false,
        ),
        (
            "delete",
            json!({"names": ["temp", "never"]}),
            "there is no environment never",
            true,
        ),
        ("delete", json!({"names": ["--force"]}), "error", true),
        (
            "delete",
            json!({"name": "temp"}),
            "the tool delete has no argument \"name\"; it has names, force, yes",
            true,
        ),
    ] {
        let (text, failed) = client.call(name, arguments.clone()).await;
        assert!(text.contains(part), "{name} {arguments}: {part} in {text}");
        assert_eq!(failed, fails, "{name} {arguments}: {text}");
    }
    assert!(
        mayfly
            .etcd
            .get("/mayfly/environments/temp")
            .await
            .unwrap()
            .is_none()
    );
    let unknown = client.ask("tools/call", json!({"name": "restore"})).await;
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");

    // A call that is cancelled is not answered, and holds nothing up.
    let params = json!({"name": "wait", "arguments": {"environment": "prod", "timeout": "1h"}});
    let call = client.request("tools/call", params).await;
    let cancelled =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": call}});
    client.send(cancelled).await;
    client.ask("ping", json!({})).await;
    // The client closes standard input.
    drop(client.stdin);
    assert!(
        timeout(LIMIT, client.child.wait())
            .await
            .unwrap()
            .unwrap()
            .success()
    );
    assert_eq!(client.lines.next_line().await.unwrap(), None);
}

#[tokio::test]
async fn an_agent_that_may_only_read_changes_nothing() {
    let mayfly = bare_etcd().await;
    let mut client = Client::start(&mayfly, &["--read-only"]);
    for name in ["apply", "delete", "keep", "confirm", "relaunch"] {
        let answer = client
            .ask("tools/call", json!({"name": name, "arguments": {}}))
            .await;
        assert_eq!(answer["error"]["code"], -32602, "{name}: {answer}");
    }
    let (text, failed) = client.call("status", json!({})).await;
    assert!(
        failed && text.contains("etcd has no keys below /mayfly"),
        "{text}"
    );
}
