//! Tools have what the command line has, and messages of every kind are answered.

use super::*;
use boon::{Compiler, Draft, Schemas};
use tools::ToolCall;

use crate::args;

fn tools() -> Vec<Tool> {
    tools::of(args::command(), false)
}

fn tool(name: &str) -> Tool {
    tools().into_iter().find(|tool| tool.name == name).unwrap()
}

fn server() -> Server {
    Server::new(tools(), Vec::new())
}

/// What a server says to a message, of which only this part counts.
fn says(message: Value, place: &str) -> Value {
    let answer = server().take(message.to_string().as_bytes()).unwrap();
    assert_eq!(answer["jsonrpc"], "2.0", "{answer}");
    answer.pointer(place).cloned().unwrap_or_default()
}

#[test]
fn every_command_that_is_to_be_a_tool_is_one() {
    let names: Vec<String> = tools().into_iter().map(|tool| tool.name).collect();
    let all = "status explain wait diff lint schema keep relaunch apply delete confirm";
    assert_eq!(names.join(" "), all);
    let reading = tools::of(args::command(), true);
    let names: Vec<String> = reading.into_iter().map(|tool| tool.name).collect();
    assert_eq!(names.join(" "), "status explain wait diff lint schema");
}

#[test]
fn every_schema_is_valid_and_takes_what_the_command_line_takes() {
    for (name, good, line) in [
        (
            "status",
            json!({"environment": "a", "min_instances": 2, "format": "json"}),
            "status --min-instances=2 --format=json -- a",
        ),
        (
            "explain",
            json!({"target": "www-a.example.com", "header": "--x", "from": "10.0.0.1"}),
            "explain --header=--x --from=10.0.0.1 -- www-a.example.com",
        ),
        (
            "wait",
            json!({"environment": "a", "timeout": "1s"}),
            "wait --timeout=1s -- a",
        ),
        (
            "diff",
            json!({"a": "qa", "b": "prod", "at_most": 1}),
            "diff --at-most=1 -- qa prod",
        ),
        (
            "lint",
            json!({"services": ["-"], "stdin": "name: a"}),
            "lint --services=- --",
        ),
        ("lint", json!({"stdin": "name: a"}), "lint -- -"),
        ("lint", json!({"files": [], "stdin": "name: a"}), "lint -- -"),
        ("apply", json!({"stdin": "name: a"}), "apply --file=- --"),
        ("schema", json!({"files": "services"}), "schema -- services"),
        ("keep", json!({"name": "a", "time": "8h"}), "keep -- a 8h"),
        (
            "relaunch",
            json!({"service": "a", "version": "1"}),
            "relaunch -- a 1",
        ),
        (
            "apply",
            json!({"files": ["-"], "dry_run": true, "force": false, "stdin": "name: a"}),
            "apply --file=- --dry-run --",
        ),
        (
            "delete",
            json!({"names": ["a", "b"], "force": true}),
            "delete --force -- a b",
        ),
        (
            "confirm",
            json!({"daemon": "haproxy-updater"}),
            "confirm -- haproxy-updater",
        ),
    ] {
        let tool = tool(name);
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.set_default_draft(Draft::V2020_12);
        compiler.add_resource("tool.json", tool.schema()).unwrap();
        let schema = compiler.compile("tool.json", &mut schemas).unwrap();
        let is_valid = |value: &Value| schemas.validate(value, schema).is_ok();
        assert!(is_valid(&good), "{name}: {good}");
        let call = tool.arguments(&good).unwrap();
        assert_eq!(call.arguments.join(" "), line);
        let whole = std::iter::once("mayfly".to_owned()).chain(call.arguments);
        args::command().try_get_matches_from(whole).unwrap();
        for bad in [
            json!({"never": 1}),
            json!([]),
            json!({"format": ["table"], "names": 7, "name": 7}),
        ] {
            assert!(!is_valid(&bad) && tool.arguments(&bad).is_err(), "{name}: {bad}");
        }
    }
}

#[test]
fn what_destroys_says_so() {
    let hints = |name: &str| {
        let annotations = tool(name).to_json()["annotations"].clone();
        (
            annotations["readOnlyHint"].clone(),
            annotations["destructiveHint"].clone(),
        )
    };
    for (name, reads, destroys) in [
        ("status", true, false),
        ("keep", false, false),
        ("apply", false, true),
        ("delete", false, true),
    ] {
        assert_eq!(hints(name), (reads.into(), destroys.into()), "{name}");
    }
}

#[test]
fn bad_arguments_are_told_to_the_agent() {
    let told = |name: &str, arguments: Value| tool(name).arguments(&arguments).unwrap_err();
    assert_eq!(
        told("keep", json!({"name": "a"})),
        "the tool keep needs the argument \"time\""
    );
    let unknown = told("diff", json!({"c": "a"}));
    assert_eq!(
        unknown,
        "the tool diff has no argument \"c\"; it has a, b, at_most, format"
    );
    assert_eq!(told("diff", json!({"a": 1, "b": "b"})), "a: 1 is no text");
    for name in ["lint", "apply"] {
        let needed = format!("the tool {name} needs the argument \"stdin\"");
        assert_eq!(told(name, json!({"files": ["-"]})), needed);
    }
    assert_eq!(
        told("delete", json!({"names": "a"})),
        "names: \"a\" is no list of texts"
    );
    assert_eq!(
        told("delete", json!({"names": ["a"], "force": "yes"})),
        "force: \"yes\" is neither true nor false"
    );
    let call = tool("status").arguments(&Value::Null);
    let arguments = ["status", "--"].map(str::to_owned).to_vec();
    assert_eq!(
        call,
        Ok(ToolCall {
            arguments,
            stdin: None
        })
    );
}

#[test]
fn no_tool_reads_a_file_of_the_host() {
    for (name, argument, is_list) in [
        ("lint", "files", true),
        ("lint", "services", true),
        ("lint", "beside", true),
        ("lint", "services_beside", true),
        ("lint", "before", false),
        ("apply", "files", true),
    ] {
        let value = |path: &str| match is_list {
            true => json!([path]),
            false => json!(path),
        };
        let tool = tool(name);
        let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
        compiler.add_resource("tool.json", tool.schema()).unwrap();
        let schema = compiler.compile("tool.json", &mut schemas).unwrap();
        for path in [
            "/etc/shadow",
            "../a.yaml",
            "a.yaml",
            "",
            "--",
            "/dev/stdin",
            "./-",
        ] {
            let mut given = json!({"files": ["-"], "stdin": ""});
            given[argument] = value(path);
            let fault = tool.arguments(&given).unwrap_err();
            let start = format!("{argument}: {path:?}: a tool reads no file of its host");
            assert!(fault.starts_with(&start), "{name} {fault}");
            assert!(schemas.validate(&given, schema).is_err(), "{name}: {given}");
        }
        let mut given = json!({"files": ["-"], "stdin": ""});
        given[argument] = value("-");
        assert!(tool.arguments(&given).is_ok() && schemas.validate(&given, schema).is_ok());
    }
}

#[test]
fn a_message_that_is_too_long_is_refused_as_a_whole() {
    let longest = usize::try_from(LONGEST).unwrap();
    let mut input = vec![b' '; longest - 1];
    input.push(b'\n');
    input.extend(vec![b' '; 2 * longest]);
    input.extend(b"\nshort\nlast");
    let mut input = input.as_slice();
    let lines = std::iter::from_fn(|| next_line(&mut input));
    let lines: Vec<_> = lines.map(|line| line.map(|line| line.len())).collect();
    let refused = Err((-32600, "the message is longer than 8 MiB".to_owned()));
    assert_eq!(lines, [Ok(longest), refused, Ok(6), Ok(4)]);
}

#[tokio::test(start_paused = true)]
async fn after_the_end_of_the_input_calls_have_five_seconds() {
    let mut server = server();
    for (id, seconds) in [(1, 4), (2, 3600)] {
        server.calls.spawn(async move {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            (json!(id), json!("done"))
        });
    }
    // The client has asked these, and closed its end at once.
    let (_, lines) = mpsc::channel(1);
    let (begun, mut answers) = (Instant::now(), Vec::new());
    let write = |answer: &Value| {
        answers.push(answer["id"].clone());
        Ok(())
    };
    serve(server, lines, &Shutdown::new(), write).await.unwrap();
    assert_eq!((answers, begun.elapsed().as_secs()), (vec![json!(1)], 5));
}

#[test]
fn the_version_is_agreed_upon() {
    for (asked, agreed) in [
        ("2025-11-25", "2025-11-25"),
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-11-25"),
        ("2099-01-01", "2025-11-25"),
    ] {
        let message =
            json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": asked}});
        assert_eq!(says(message, "/result/protocolVersion"), agreed, "{asked}");
    }
}

#[test]
fn messages_that_are_none_are_answered_with_a_fault() {
    let fault = |message: Value| says(message, "/error/code");
    let request = |method: &str, params: Value| json!({"jsonrpc": "2.0", "id": "x", "method": method, "params": params});
    assert_eq!(fault(request("server/discover", json!({}))), -32601);
    assert_eq!(fault(request("tools/call", json!({"name": "never"}))), -32602);
    assert_eq!(
        fault(json!({"jsonrpc": "2.0", "id": null, "method": "ping"})),
        -32600
    );
    assert_eq!(fault(json!([])), -32600);
    let answer = server().take(b"{nothing").unwrap();
    assert_eq!(
        (&answer["error"]["code"], &answer["id"]),
        (&json!(-32700), &Value::Null)
    );
    for quiet in [
        json!({"jsonrpc": "2.0", "method": "notifications/initialized"}),
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}}),
        json!({"jsonrpc": "2.0", "id": 1, "result": {}}),
    ] {
        assert_eq!(server().take(quiet.to_string().as_bytes()), None, "{quiet}");
    }
    assert_eq!(server().take(b"\n"), None);
    assert_eq!(says(request("ping", json!({})), "/result"), json!({}));
}

#[test]
fn flags_of_the_program_hold_for_every_call() {
    let line = "mayfly --etcd http://a:1,http://b:2 mcp --read-only --prefix=/x --node mcp";
    let line = line.split(' ').map(OsString::from);
    let common = common_arguments(&args::command(), line);
    assert_eq!(
        common,
        [
            "--etcd=http://a:1",
            "--etcd=http://b:2",
            "--prefix=/x",
            "--node=mcp"
        ]
    );
    let line = ["mayfly", "mcp"].map(OsString::from);
    assert_eq!(common_arguments(&args::command(), line.into_iter()), [""; 0]);
}
